"""Many deadlines share one timer, and refreshes cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from dmevpn.nhrp.deadlines import Deadlines
from tests.nhrp.timekeeping import TimekeeperContract


class TestDeadlines(TimekeeperContract):
    """At its time."""

    def make(self, clock: Clock, on_due: Callable[[bytes], None]) -> None:
        self.deadlines = Deadlines(clock, on_due)

    def put(self, key: bytes, when: float) -> float:
        self.deadlines.set(key, when)
        return when

    def take(self, key: bytes, when: float) -> None:
        self.deadlines.discard(key)

    def close(self) -> None:
        self.deadlines.close()


def test_a_later_deadline_is_found_when_the_first_comes() -> None:
    """A binding that was refreshed many times expires once, at its latest expiry."""
    clock = Clock()
    true = {b"k": 10.0}
    asked: list[float] = []

    def on_due(key: bytes) -> float | None:
        asked.append(clock.seconds())
        return true[key] if true[key] > clock.seconds() else None

    deadlines = Deadlines(clock, on_due)
    deadlines.set(b"k", 10)
    for when in range(11, 31):
        true[b"k"] = float(when)
        deadlines.set(b"k", when)
    clock.pump([1] * 40)
    assert asked == [10, 30]


def test_an_earlier_deadline_counts() -> None:
    """A binding that is granted less time than before expires at the new time."""
    clock = Clock()
    due: list[float] = []
    deadlines = Deadlines(clock, lambda key: due.append(clock.seconds()))
    deadlines.set(b"k", 10)
    deadlines.set(b"k", 5)
    clock.pump([1] * 12)
    assert due == [5]


def test_what_is_not_there_can_be_discarded() -> None:
    """Whoever forgets a binding need not know whether it had a deadline."""
    deadlines = Deadlines(Clock(), lambda key: pytest.fail(repr(key)))
    deadlines.set(b"k", 1)
    for _ in range(2):
        deadlines.discard(b"k")
    assert not len(deadlines)
    deadlines.close()


def test_refreshing_and_removing_for_ever_takes_no_memory() -> None:
    """The heap stays in proportion to what is alive."""
    clock = Clock()
    deadlines = Deadlines(clock, lambda key: None)
    for turn in range(20_000):
        key = b"%d" % (turn % 10)
        deadlines.discard(key)
        deadlines.set(key, 1_000_000 + turn)
    assert len(deadlines) == 10
    assert len(deadlines._heap) <= 2 * 10 + 65
