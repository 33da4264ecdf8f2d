"""What a driver is to do soon: each thing once, however often it is asked for. Layer: edge."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Later", "PendingCalls"]

#: Has something done once: a name for it, in how many seconds, and what.
Later = Callable[[str, float, Callable[[], None]], None]


class PendingCalls:
    """Calls by name; one that is there already stays as it is."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[str, IDelayedCall] = {}

    def later(self, name: str, delay: float, function: Callable[[], None]) -> None:
        """Call a function once after so many seconds, unless that name has a call to come."""
        if name not in self._calls:
            self._calls[name] = self._clock.callLater(delay, self._call, name, function)

    def cancel(self) -> None:
        """Have none of them come; again is harmless."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def _call(self, name: str, function: Callable[[], None]) -> None:
        del self._calls[name]
        function()
