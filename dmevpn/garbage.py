"""Keeps Python's search for garbage from holding the reactor up. Layer: top.

Python frees what nobody refers to at once. Only objects that refer to each other in a circle are
left to its collector, which looks for them among *all* objects, and takes 0.4 microseconds for
each: with 50,000 registrations and as many learned MACs, 470,000 objects, one such search kept a
hub's reactor from its next turn for 187 ms.

A hub's tables have no circles: each binding refers to addresses and numbers. So what has survived a
full search is set aside (``gc.freeze``), and the next one looks at what was made since. What is set
aside is still freed at once when nobody refers to it. Only a circle that is broken off later than
that, as of an operator's connection that was open for long, waits for a search of everything, which
comes when it is short, or memory has doubled, or after a day.
"""

from __future__ import annotations

import gc
import resource
from time import perf_counter
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.metrics import Metrics

__all__ = ["INTERVAL", "LONGEST", "SHORT", "THRESHOLDS", "GarbageCollection"]

#: Objects made and not freed before the youngest are searched; such searches before the next
#: generation is; and those before all that is not set aside is: some 40,000 objects, 20 ms.
THRESHOLDS: Final = (700, 10, 5)
#: Seconds between two looks at whether everything is to be searched.
INTERVAL: Final = 600.0
#: Seconds of a search of everything that nobody notices: if it is likely to take no longer, it is
#: made with every look.
SHORT: Final = 0.025
#: Seconds after which everything is searched, however long that takes.
LONGEST: Final = 86400.0
#: By how much the process may have grown since everything was searched.
_GROWTH: Final = 2.0


class GarbageCollection:
    """Sets aside what lives long, and searches everything every now and then.

    It changes the interpreter, so there is one in a process.
    """

    def __init__(self, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._seconds = metrics.histogram(
            "garbage_collection_seconds", (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
        )
        self._found = metrics.counter("garbage_found_late")
        self._before: tuple[int, int, int] = THRESHOLDS
        self._call: Any = None
        self._began = 0.0
        self._took = 0.0
        self._aside = 0
        self._searched_at = 0.0
        self._peak = 0

    def start(self) -> None:
        """Search everything once, when all is set up, and set it aside."""
        self._before = gc.get_threshold()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._collected)
        self.search()
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """Leave the interpreter as it was."""
        if self._call is None:
            return
        self._call.cancel()
        self._call = None
        gc.callbacks.remove(self._collected)
        gc.set_threshold(*self._before)
        gc.unfreeze()

    def search(self) -> int:
        """Look for garbage among all objects, also those set aside; how many were found."""
        began = perf_counter()
        gc.unfreeze()
        found = gc.collect()
        self._took = perf_counter() - began
        self._aside = gc.get_freeze_count()
        self._searched_at = self._clock.seconds()
        self._peak = _peak()
        return found

    def _look(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look)
        if (
            self._took * gc.get_freeze_count() <= SHORT * self._aside
            or _peak() > _GROWTH * self._peak
            or self._clock.seconds() - self._searched_at >= LONGEST
        ):
            self._found.inc(self.search())

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """Called by the collector itself, before and after each search."""
        if info["generation"] != 2:
            return
        if phase == "start":
            self._began = perf_counter()
            return
        gc.freeze()
        self._seconds.observe(perf_counter() - self._began)


def _peak() -> int:
    """Most memory that the process has ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
