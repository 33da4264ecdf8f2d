"""Keys are looked at when their round is over, on one timer."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.nhrp.deadlines import BATCH
from dmevpn.nhrp.rounds import ROUND, Rounds


def test_each_key_when_its_round_is_over() -> None:
    """Not before its moment, and within a round of it, whatever the order they were put in."""
    clock = Clock()
    due: list[tuple[float, bytes]] = []
    rounds = Rounds(clock, lambda key: due.append((clock.seconds(), key)))
    for when in (70.0, 10.0, 29.9, 30.0):
        rounds.put(b"%.1f" % when, Rounds.number(when))
        assert len(clock.getDelayedCalls()) == 1
    clock.pump([1] * 100)
    assert sorted(due) == [(30, b"10.0"), (30, b"29.9"), (60, b"30.0"), (90, b"70.0")]
    assert not clock.getDelayedCalls()


def test_again_in_a_later_round() -> None:
    """Who is asked about a key may put it into another round."""
    clock = Clock()
    asked: list[float] = []

    def on_due(key: bytes) -> None:
        asked.append(clock.seconds())
        if len(asked) < 3:
            rounds.put(key, Rounds.number(clock.seconds()) + 1)

    rounds = Rounds(clock, on_due)
    rounds.put(b"k", 0)
    clock.pump([ROUND / 2] * 20)
    assert asked == [ROUND, 3 * ROUND, 5 * ROUND]
    assert not clock.getDelayedCalls()


def test_taken_out() -> None:
    """What was taken out of its round is not asked about; nothing is when all is closed."""
    clock = Clock()
    due: list[bytes] = []
    rounds = Rounds(clock, due.append)
    for key in (b"a", b"b"):
        rounds.put(key, 1)
    rounds.take(b"a", 1)
    rounds.put(b"c", 0)
    rounds.take(b"c", 0)
    clock.pump([1] * 100)
    assert due == [b"b"]
    rounds.put(b"d", 9)
    rounds.close()
    assert not clock.getDelayedCalls()


def test_many_at_once_let_others_in_between() -> None:
    """A turn looks at BATCH keys."""
    clock = Clock()
    order: list[str] = []
    rounds = Rounds(clock, lambda key: order.append("due"))
    for number in range(BATCH + 10):
        rounds.put(b"%d" % number, 0)
    clock.callLater(ROUND, order.append, "other")
    clock.advance(ROUND)
    assert order.index("other") == BATCH
    assert len(order) == BATCH + 11


def test_a_fault_keeps_no_other_key_from_its_turn() -> None:
    """When the owner raises, the rest is looked at later."""
    clock = Clock()
    due: list[bytes] = []

    def on_due(key: bytes) -> None:
        due.append(key)
        if len(due) == 1:
            raise RuntimeError

    rounds = Rounds(clock, on_due)
    for key in (b"a", b"b"):
        rounds.put(key, 0)
    with pytest.raises(RuntimeError):
        clock.advance(ROUND)
    clock.advance(0)
    assert sorted(due) == [b"a", b"b"]
