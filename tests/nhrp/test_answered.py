"""Whom the server told what: no more than there is room for."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.metrics import Metrics
from dmevpn.nhrp import answered as answered_module
from dmevpn.nhrp.answered import Answered
from dmevpn.nhrp.room import SharedRoom
from tests.nhrp.neighbours import (
    HOST,
    OTHER_HOST,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VTEP_B,
)


def test_too_many_for_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address cannot use up all room."""
    monkeypatch.setattr(answered_module, "ANSWERED_PER_MAC", 2)
    metrics = Metrics()
    table = Answered(Clock(), metrics)
    assert table.add(HOST, (VTEP_B,), STATION_A, TO_A, 300)
    assert table.add(HOST, (VTEP_B,), STATION_B, TO_B, 300)
    assert not table.add(HOST, (VTEP_B,), OTHER_HOST, TO_B, 300)
    assert table.add(OTHER_HOST, (VTEP_B,), STATION_A, TO_A, 300)
    assert metrics.value("answered_full") == 1
    assert len(table) == 3
    table.close()


def test_room_shared_by_vpns() -> None:
    """Where the servers of all VPNs have no room left, one that has noted more than its own notes
    no more; what is taken back, has run out or was forgotten makes room."""
    clock, metrics = Clock(), Metrics()
    room = SharedRoom(metrics, "answers", own=1, shared=4)
    one, two = (Answered(clock, metrics, room=room) for _ in range(2))

    def note(table: Answered) -> list[bool]:
        stations = [bytes([2, 1, 0, 0, 0, number]) for number in range(4)]
        return [table.add(HOST, (VTEP_B,), station, TO_A, 300) for station in stations]

    assert note(one) == [True] * 3 + [False]
    assert note(two) == [True] * 2 + [False] * 2
    assert metrics.value("shared_room_full", what="answers") == metrics.value("answered_full") == 3
    assert len(one.take(HOST)) == 3
    assert room.free == 3
    assert one.add(HOST, (VTEP_B,), STATION_A, TO_A, 300)
    clock.advance(400)
    assert len(one) == len(two) == 0
    assert room.free == 4
    assert note(two) == [True] * 3 + [False]
    two.close()
    one.close()
    assert room.free == 4
