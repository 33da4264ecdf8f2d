"""Work for operators that would be too long for one turn of the reactor. Layer: role.

It is done step by step, some ten milliseconds a turn, while packets and timers get theirs. So a
table may change under it: each step looks at what is there when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import CooperativeTask, Cooperator

__all__ = ["STEP", "Turns", "unhurried"]

T = TypeVar("T")

#: Entries of a table that are looked at in one step, which takes a millisecond at most.
STEP: Final = 100


def unhurried(entries: Iterable[T]) -> Iterator[T | None]:
    """The entries of a table, and None whenever others should get their turn."""
    for number, each in enumerate(entries, 1):
        yield each
        if number % STEP == 0:
            yield None


class Turns:
    """Gives all such work its turns."""

    def __init__(self, clock: IReactorTime) -> None:
        self._cooperator = Cooperator(scheduler=lambda call: clock.callLater(0, call))

    def run(self, steps: Iterator[None]) -> CooperativeTask[Iterator[None]]:
        """Have something done, a step at a time."""
        return self._cooperator.cooperate(steps)

    def gather(self, work: Iterable[T | None]) -> Deferred[list[T]]:
        """What some work yields but None, which only ends a step; fails as the work does."""
        found: list[T] = []

        def steps() -> Iterator[None]:
            for each in work:
                if each is not None:
                    found.append(each)
                else:
                    yield

        return self.run(steps()).whenDone().addCallback(lambda _: found)
