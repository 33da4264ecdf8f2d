"""A reactor for tests of sockets: it reads only when it is asked to."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

__all__ = ["Readers"]


class Readers:
    """Knows readers, and runs them on demand."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.clock = Clock()

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        # As the reactor's: one that is not read stays so.
        if reader in self.readers:
            self.readers.remove(reader)

    def seconds(self) -> float:
        """The time of our clock, which stands still."""
        return float(self.clock.seconds())

    def callLater(self, *arguments: Any) -> Any:
        """As the reactor's; calls that are due are made by :meth:`run_ready`."""
        return self.clock.callLater(*arguments)

    def run_ready(self, seconds: float) -> bool:
        """Let every reader that has something to read do so; whether one had.

        As Twisted's reactors that poll: an error without data ends the connection.
        """
        self.clock.advance(0)
        poll = select.poll()
        readers = {reader.fileno(): reader for reader in self.readers}
        for number in readers:
            poll.register(number, select.POLLIN)
        ready = poll.poll(seconds * 1000)
        for number, event in ready:
            reader = readers[number]
            if reader not in self.readers:
                continue  # closed by one before
            if event & (select.POLLERR | select.POLLHUP) and not event & select.POLLIN:
                self.removeReader(reader)
                reader.connectionLost(Failure(ConnectionLost()))  # type: ignore[no-untyped-call]
            else:
                reader.doRead()
        return bool(ready)

    def pump(self, done: Callable[[], bool], seconds: float = 5.0) -> bool:
        """Run the readers until ``done()``; whether that came true in time."""
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            self.run_ready(0.05)
        return done()

    def settle(self) -> None:
        """Run the readers until nothing is left to read."""
        while self.run_ready(0.02):
            pass
