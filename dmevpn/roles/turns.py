"""Work that would be too long for one turn of the reactor. Layer: role.

It is done step by step, some ten milliseconds a turn, while packets and timers get theirs. So a
table may change under it: each step looks at what is there when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import CooperativeTask, Cooperator, SchedulerError
from twisted.python.failure import Failure

from dmevpn.log import Logger

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

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._cooperator = Cooperator(scheduler=lambda call: clock.callLater(0, call))

    def run(self, steps: Iterator[None]) -> CooperativeTask[Iterator[None]]:
        """Have something done, a step at a time; the log hears of a fault that ends it."""
        task = self._cooperator.cooperate(steps)
        task.whenDone().addErrback(self._failed)
        return task

    def stop(self) -> None:
        """Do nothing any more."""
        self._cooperator.stop()

    def _failed(self, failure: Failure) -> None:
        if not isinstance(failure.value, SchedulerError):  # somebody has stopped it
            self.log.failure("work was left half done", failure)

    def gather(self, work: Iterable[T | None]) -> Deferred[list[T]]:
        """What some work yields but None, which only ends a step; fails as the work does."""
        found: list[T] = []

        def steps() -> Iterator[None]:
            for each in work:
                if each is not None:
                    found.append(each)
                else:
                    yield

        task = self._cooperator.cooperate(steps())
        return task.whenDone().addCallback(lambda _: found)
