"""The wall clock, as far as it matters to a daemon that does not go by it. Layer: role.

Holding times count on the monotonic clock. The wall clock dates what operators read, and request
identifiers when there is no state to take them from, so a step of it is worth a note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.journal import Journal

__all__ = ["STEP", "WallClock"]

#: Seconds between two looks at it, and by how many it must differ from what was expected to have
#: been set: NTP slews smaller differences away.
INTERVAL: Final = 10.0
STEP: Final = 1.0


class WallClock:
    """Notices that somebody sets the wall clock, or that the machine was suspended.

    :ivar offset: seconds from the daemon's clock to the wall clock, as of the latest look.
    """

    def __init__(
        self, clock: IReactorTime, wall_clock: Callable[[], float], journal: Journal
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._journal = journal
        self._call: IDelayedCall | None = None
        self.offset = wall_clock() - clock.seconds()

    def start(self) -> None:
        """Look at it every INTERVAL seconds."""
        self.look()
        self._call = self._clock.callLater(INTERVAL, self.start)

    def stop(self) -> None:
        """Look no more; harmless if it was not started."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def look(self) -> None:
        """Compare the clocks now."""
        offset = self._wall_clock() - self._clock.seconds()
        step = offset - self.offset
        self.offset = offset
        if abs(step) >= STEP:
            self._journal.note("clock-stepped", detail=f"by {step:+.0f} s")
