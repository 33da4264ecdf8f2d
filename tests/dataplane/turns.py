"""A reactor that turns only when it is told to, on real sockets and in real time."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

__all__ = ["Turns"]

T = TypeVar("T")


class Turns(MemoryReactorClock):  # type: ignore[misc]  # Twisted's test reactor has no types
    """Readers are asked, and the clock goes on, while a test waits for something."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def turn(self, seconds: float = 0.0) -> None:
        """Wait for a reader or the time, let readers read, and run the calls that are due."""
        due = [call.getTime() - self.seconds() for call in self.getDelayedCalls()]
        poll = select.poll()
        readers = {reader.fileno(): reader for reader in self.getReaders()}
        for number in readers:
            poll.register(number, select.POLLIN)
        for number, event in poll.poll(1000 * max(0.0, min([seconds, *due]))):
            reader = readers[number]
            if reader.fileno() < 0:
                continue  # closed by one before
            if event & select.POLLIN:
                reader.doRead()
            else:
                # As Twisted's reactors that poll: an error without data ends the connection.
                self.removeReader(reader)
                reader.connectionLost(Failure(ConnectionLost()))  # type: ignore[no-untyped-call]
        now = time.monotonic()
        self.advance(now - self._last)
        self._last = now

    def until(self, what: str, check: Callable[[], T], timeout: float = 5.0) -> T:
        """Turn until a check is true, and return its answer."""
        deadline = time.monotonic() + timeout
        while True:
            answer = check()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"no {what}; last seen: {answer!r}"
            self.turn(0.05)

    def settle(self, seconds: float = 0.05) -> None:
        """Turn for a while, for things that must not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn(0.01)

    def result(self, deferred: Any) -> Any:
        """Turn until a Deferred has its result."""
        results: list[Any] = []
        deferred.addCallback(results.append)
        self.until("result", lambda: results)
        return results[0]
