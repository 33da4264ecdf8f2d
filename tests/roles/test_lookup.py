"""Host names, and what follows when their addresses change."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from dmevpn.addresses import parse_ip
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.errors import DmevpnError
from dmevpn.interfaces import GREDevice
from dmevpn.roles.lookup import REFRESH, RETRY, NameWatch, look_up, neighbour

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"


class Names:
    """A watch of two names, and what it said."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.answers: dict[str, Any] = {"a": (A,), "b": (B,)}
        self.changes: list[dict[str, tuple[bytes, ...]]] = []
        self.watch = NameWatch(["a", "b", "a"], self._resolve, self.clock, self.changes.append)

    def _resolve(self, name: str) -> Deferred[tuple[bytes, ...]]:
        answer = self.answers[name]
        if isinstance(answer, Deferred):
            return answer
        return fail(DNSLookupError(name)) if answer is None else succeed(answer)


@pytest.fixture
def names() -> Names:
    """Nothing was asked yet."""
    return Names()


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> list[str]:
    """What is logged."""
    found: list[str] = []

    def note(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    request.addfinalizer(lambda: globalLogPublisher.removeObserver(note))
    return found


def test_changes_are_followed(names: Names) -> None:
    """A new address is told, the same addresses in another order are not."""
    names.answers["b"] = (B, A)
    names.watch.start()
    assert names.changes == [{"a": (A,), "b": (B, A)}]
    names.answers["b"] = (A, B)
    names.clock.advance(REFRESH)
    assert len(names.changes) == 1
    names.answers["b"] = (A,)
    names.clock.advance(REFRESH)
    assert names.changes[1:] == [{"a": (A,), "b": (A,)}]
    names.watch.stop()
    assert names.clock.getDelayedCalls() == []


def test_a_failure_keeps_what_is_known(names: Names, lines: list[str]) -> None:
    """It is said once, and so is its end."""
    names.watch.start()
    names.answers["a"] = None
    for _ in range(5):
        names.clock.advance(REFRESH)
    assert len(names.changes) == 1
    assert [line for line in lines if "look up" in line] == [
        "cannot look up a, b: DNS lookup failed: a.; the known address stays"
    ]
    names.answers["a"] = (B,)
    names.clock.advance(REFRESH)
    assert names.changes[1:] == [{"a": (B,), "b": (B,)}]
    assert lines[-1] == "a, b: found again"
    names.watch.stop()


def test_names_that_nobody_knows_yet_are_tried_more_often(names: Names, lines: list[str]) -> None:
    """A daemon that starts before its network does need not wait for long."""
    names.answers["b"] = None
    names.watch.start()
    assert names.changes == []
    assert next(line for line in lines if "look up" in line).endswith("; trying again")
    names.answers["b"] = (B,)
    names.clock.advance(RETRY)
    assert len(names.changes) == 1
    names.watch.stop()


def test_stopping_while_asking(names: Names) -> None:
    """An answer that comes afterwards changes nothing."""
    names.answers["b"] = answer = Deferred()
    answer.addErrback(lambda failure: None)
    names.watch.start()
    names.watch.stop()
    assert names.changes == []
    assert names.clock.getDelayedCalls() == []


# --- what may be a neighbour of the kernel's ------------------------------------------------


NHS = parse_ip("1.0.0.1")


@pytest.fixture
def tunnel() -> MemoryControlDevice:
    """A GRE device with an address of its own."""
    address = (parse_ip("1.0.0.2"), 24)
    return MemoryControlDevice("gre1", GREDevice(7, "gre1", True, 1476, 1, A, b"", (address,)))


def test_neighbour(tunnel: MemoryControlDevice) -> None:
    """An address of the device's network is the neighbour's underlay address, if it knows it."""
    tunnel.neighbours[NHS] = B
    assert neighbour(NHS, tunnel) == B
    assert neighbour(parse_ip("10.0.0.9"), tunnel) == parse_ip("10.0.0.9")
    assert neighbour(parse_ip("fd00::9"), tunnel) == parse_ip("fd00::9")
    assert neighbour(NHS, None) == NHS


def test_unknown_neighbour(tunnel: MemoryControlDevice) -> None:
    """One that it does not know is no underlay address; the reason names both cures."""
    with pytest.raises(DmevpnError) as caught:
        neighbour(NHS, tunnel)
    assert str(caught.value) == (
        "1.0.0.1 is no neighbour on gre1 (`ip neigh add 1.0.0.1 lladdr NBMA dev gre1`, or"
        " `map 1.0.0.1 NBMA`)"
    )
    tunnel.change(None)
    with pytest.raises(DmevpnError, match="gre1 is gone"):
        neighbour(NHS, tunnel)


def test_names_and_addresses(tunnel: MemoryControlDevice) -> None:
    """Host names go to the resolver, addresses to the device."""
    tunnel.neighbours[NHS] = B
    asked: list[str] = []
    found: list[object] = []

    def resolve(name: str) -> Deferred[tuple[bytes, ...]]:
        asked.append(name)
        return succeed((A,))

    for name in ("hub.example", "1.0.0.1", "1.0.0.7"):
        look_up(name, tunnel, resolve).addBoth(found.append)
    assert asked == ["hub.example"]
    assert found[:2] == [(A,), (B,)]
    assert "no neighbour" in str(found[2])
