"""What :class:`~dmevpn.nhrp.deadlines.Deadlines` and :class:`~dmevpn.nhrp.rounds.Rounds` have in
common: the tests of both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from dmevpn.nhrp.deadlines import BATCH

__all__ = ["TimekeeperContract"]


class TimekeeperContract:
    """Calls its owner for many keys, each at or after a time, and has one timer for them.

    Subclasses say how it is made, and how a key goes in and out.
    """

    def make(self, clock: Clock, on_due: Callable[[bytes], None]) -> None:
        """Make the one under test."""
        raise NotImplementedError

    def put(self, key: bytes, when: float) -> float:
        """Put a key in; when its owner is to be called."""
        raise NotImplementedError

    def take(self, key: bytes, when: float) -> None:
        """Take out a key that was put in with a time."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget all."""
        raise NotImplementedError

    def test_each_key_once_at_its_time(self) -> None:
        """Whatever the order they were put in, and on one timer."""
        clock = Clock()
        due: list[tuple[float, bytes]] = []
        self.make(clock, lambda key: due.append((clock.seconds(), key)))
        expected = []
        for when in (70.0, 10.0, 29.0, 30.0):
            key = b"%.0f" % when
            expected.append((self.put(key, when), key))
            assert len(clock.getDelayedCalls()) == 1
        clock.pump([1] * 100)
        assert sorted(due) == sorted(expected)
        assert not clock.getDelayedCalls()

    def test_taken_out(self) -> None:
        """What was taken out is not asked about, nor is anything when all is closed."""
        clock = Clock()
        due: list[bytes] = []
        self.make(clock, due.append)
        for key, when in ((b"a", 40), (b"b", 40), (b"c", 10)):
            self.put(key, when)
        self.take(b"a", 40)
        self.take(b"c", 10)
        clock.pump([1] * 100)
        assert due == [b"b"]
        self.put(b"d", 300)
        self.close()
        assert not clock.getDelayedCalls()

    def test_many_at_once_let_others_in_between(self) -> None:
        """When thousands of bindings expire together, other work gets its turn in between."""
        clock = Clock()
        order: list[str] = []
        self.make(clock, lambda key: order.append("due"))
        (end,) = {self.put(b"%d" % number, 1) for number in range(BATCH + 10)}
        clock.callLater(end, order.append, "other")
        clock.advance(end)
        assert order.index("other") == BATCH
        assert len(order) == BATCH + 11

    def test_a_fault_keeps_no_other_key_from_its_turn(self) -> None:
        """When the owner raises, the rest is looked at later."""
        clock = Clock()
        due: list[bytes] = []

        def on_due(key: bytes) -> None:
            due.append(key)
            if len(due) == 1:
                raise RuntimeError

        self.make(clock, on_due)
        (end,) = {self.put(key, 1) for key in (b"a", b"b")}
        with pytest.raises(RuntimeError):
            clock.advance(end)
        clock.advance(0)
        assert sorted(due) == [b"a", b"b"]
