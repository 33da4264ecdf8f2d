"""Work that must not come all at once, in so many steps a second. Layer: role.

What happens to one hub happens to all VPNs that a site has there, and to all sites. A control
interface has one pace for all of its VPNs, which take turns: so what a site asks its hubs for of
its own accord does not grow with what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["RATE", "Pace"]

#: Steps a second: a request each, so that 200 sites make the requests of what a hub answers.
RATE: Final = 50
#: Steps at once: few enough for one turn of the reactor, and few wake-ups.
_AT_ONCE: Final = 5


class Pace:
    """Gives each work its steps, in turn."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: Whoever is first has waited longest.
        self._work: dict[Callable[[], bool], None] = {}
        self._call: IDelayedCall | None = None

    def add(self, step: Callable[[], bool]) -> None:
        """Have something done, beginning soon.

        :param step: called for each step; returns whether there is another one.
        """
        self._work[step] = None
        self._arm()

    def remove(self, step: Callable[[], bool]) -> None:
        """Call it no more, if it is called at all."""
        self._work.pop(step, None)
        if not self._work and self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        if self._work and self._call is None:
            self._call = self._clock.callLater(_AT_ONCE / RATE, self._run)

    def _run(self) -> None:
        self._call = None
        try:
            for _ in range(_AT_ONCE):
                step = next(iter(self._work), None)
                if step is None:
                    break
                del self._work[step]
                if step():
                    self._work[step] = None
        finally:
            # Also when a step failed: the others are not to suffer for it.
            self._arm()
