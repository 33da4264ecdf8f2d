"""Many deadlines share one timer, and refreshes cost nothing."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.nhrp.deadlines import BATCH, Deadlines


def test_each_key_once_at_its_time() -> None:
    """Keys come up in the order of their deadlines, whatever the order they were set in."""
    clock = Clock()
    due: list[tuple[float, bytes]] = []
    deadlines = Deadlines(clock, lambda key: due.append((clock.seconds(), key)))
    for when in (3, 1, 2):
        deadlines.set(b"%d" % when, when)
    assert len(clock.getDelayedCalls()) == 1
    for _ in range(5):
        clock.advance(1)
    assert due == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert not clock.getDelayedCalls()
    assert not len(deadlines)


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


def test_a_discarded_key_is_silent() -> None:
    """What was removed does not expire."""
    clock = Clock()
    deadlines = Deadlines(clock, lambda key: pytest.fail(repr(key)))
    deadlines.set(b"k", 1)
    deadlines.discard(b"k")
    deadlines.discard(b"k")
    clock.advance(2)
    deadlines.set(b"k", 5)
    deadlines.close()
    clock.advance(9)
    assert not clock.getDelayedCalls()


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


def test_many_at_once_are_spread_over_turns() -> None:
    """When thousands of bindings expire together, other work gets its turn in between."""
    clock = Clock()
    order: list[str] = []
    deadlines = Deadlines(clock, lambda key: order.append("due"))
    for number in range(BATCH + 10):
        deadlines.set(b"%d" % number, 1)
    clock.callLater(1, order.append, "other")
    clock.advance(1)
    assert order.index("other") == BATCH
    assert len(order) == BATCH + 11


def test_a_failing_owner_costs_only_its_own_key() -> None:
    """A fault with one binding does not keep the others from expiring."""
    clock = Clock()
    due: list[bytes] = []

    def on_due(key: bytes) -> None:
        if key == b"bad":
            raise RuntimeError
        due.append(key)

    deadlines = Deadlines(clock, on_due)
    deadlines.set(b"bad", 1)
    deadlines.set(b"good", 1)
    with pytest.raises(RuntimeError):
        clock.advance(1)
    clock.advance(0)
    assert due == [b"good"]
