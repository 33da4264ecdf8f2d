"""Host names of hubs to underlay addresses, until they are known. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dmevpn.log import Logger

__all__ = ["NameLookup"]

#: Seconds until names are looked up again that could not be.
RETRY = 10.0


class NameLookup:
    """Looks up several names, again and again until all are known.

    :param resolve: a name to a Deferred of its address.
    :param found: called once, with name → address.
    """

    log = Logger()

    def __init__(
        self,
        names: list[str],
        resolve: Callable[[str], Deferred[bytes]],
        clock: IReactorTime,
        found: Callable[[dict[str, bytes]], None],
    ) -> None:
        self._names = names
        self._resolve = resolve
        self._clock = clock
        self._found = found
        self._waiting: Deferred[Any] | None = None
        self._retry: Any = None
        self._cancelled = False

    def start(self) -> None:
        """Ask for all names now."""
        self._retry = None
        waiting = gatherResults([self._resolve(name) for name in self._names], consumeErrors=True)
        self._waiting = waiting
        waiting.addCallbacks(self._succeeded, self._failed)
        waiting.addErrback(lambda failure: self.log.failure("after a look-up", failure))

    def cancel(self) -> None:
        """Give up; ``found`` is not called any more."""
        self._cancelled = True
        if self._retry is not None:
            self._retry.cancel()
        elif self._waiting is not None:
            self._waiting.cancel()

    def _succeeded(self, addresses: list[bytes]) -> None:
        if not self._cancelled:
            self._found(dict(zip(self._names, addresses, strict=True)))

    def _failed(self, failure: Failure) -> None:
        if self._cancelled:
            return
        if isinstance(failure.value, FirstError):
            failure = failure.value.subFailure
        self.log.warn(
            "cannot look up {names}: {reason}; trying again in {seconds} s",
            names=", ".join(self._names),
            reason=failure.getErrorMessage(),
            seconds=RETRY,
        )
        self._retry = self._clock.callLater(RETRY, self.start)
