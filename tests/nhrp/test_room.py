"""What VPNs share is bounded, and no VPN is left without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dmevpn.metrics import Metrics
from dmevpn.nhrp.answered import ANSWERED_LIMIT
from dmevpn.nhrp.cache import LIMIT
from dmevpn.nhrp.room import OWN, SHARED, SharedRoom

VPNS, OWNED, TOGETHER = 5, 3, 20


def test_one_vpn_may_have_what_it_may_have_alone() -> None:
    """What VPNs share bounds none that is alone."""
    room = SharedRoom(Metrics(), "x")
    for held in range(max(ANSWERED_LIMIT, LIMIT)):
        assert room.has(held)
        room.added(held)
    assert room.free == SHARED + OWN - max(ANSWERED_LIMIT, LIMIT)


def test_who_takes_all_there_is() -> None:
    """Half of it the first, half of the rest the second; the others still have their own."""
    metrics = Metrics()
    room = SharedRoom(metrics, "x", own=OWNED, shared=TOGETHER)
    got = []
    for _ in range(6):
        held = 0
        while room.has(held):
            room.added(held)
            held += 1
        got.append(held - OWNED)
    assert got == [10, 5, 3, 1, 1, 0]
    assert metrics.value("shared_room_full", what="x") == 6


@given(
    steps=st.lists(
        st.tuples(st.integers(0, VPNS - 1), st.one_of(st.none(), st.integers(1, 40))), max_size=200
    )
)
def test_shares(steps: list[tuple[int, int | None]]) -> None:
    """Whatever comes and goes: all together never hold more than what they share and their own, a
    table with less than its own gets more, and what all have given back is there again."""
    room = SharedRoom(Metrics(), "x", own=OWNED, shared=TOGETHER)
    held = [0] * VPNS
    for vpn, count in steps:
        if count is None:
            if room.has(held[vpn]):
                room.added(held[vpn])
                held[vpn] += 1
            else:
                assert held[vpn] >= OWNED
        else:
            gone = min(count, held[vpn])
            room.removed(held[vpn], gone)
            held[vpn] -= gone
        assert room.free == TOGETHER - sum(max(0, each - OWNED) for each in held) >= 0
    for each in held:
        room.removed(each, each)
    assert room.free == TOGETHER
