"""Many deadlines on one timer. Layer: core.

A reactor's timer per binding costs memory and time that grow with their number. Here is one heap
with one DelayedCall. A deadline that moves later, as with every refresh, costs nothing at all:
it is looked at when it was first due, and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["BATCH", "Deadlines"]

#: Deadlines looked at in one go: ten milliseconds, if each is the end of a membership. When many
#: fall on the same moment, datagrams and other timers get their turn in between.
BATCH: Final = 64

#: Heap entries that may be stale, beside as many as there are deadlines, before it is rebuilt.
_SLACK: Final = 64


class Deadlines:
    """Calls its owner for each key at or after a time.

    :param on_due: called with a key whose time has come. It returns the key's true deadline if
        that is later by now, and None if the key is done with.
    """

    def __init__(self, clock: IReactorTime, on_due: Callable[[bytes], float | None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[float, bytes]] = []
        self._when: dict[bytes, float] = {}
        self._call: IDelayedCall | None = None
        self._armed = 0.0

    def __len__(self) -> int:
        return len(self._when)

    def set(self, key: bytes, when: float) -> None:
        """Have the owner called for a key no later than ``when``; an earlier time stands."""
        known = self._when.get(key)
        if known is not None and known <= when:
            return
        self._when[key] = when
        heappush(self._heap, (when, key))
        self._compact()
        if self._call is None:
            self._armed = when
            self._call = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._run)
        elif when < self._armed:
            self._armed = when
            self._call.reset(max(0.0, when - self._clock.seconds()))

    def discard(self, key: bytes) -> None:
        """Forget a key."""
        if self._when.pop(key, None) is not None:
            self._compact()

    def close(self) -> None:
        """Forget everything, cancel the timer."""
        self._heap.clear()
        self._when.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _compact(self) -> None:
        """Rebuild the heap when most of it is stale, so that it cannot outgrow its owner."""
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap[:] = [(when, key) for key, when in self._when.items()]
            heapify(self._heap)

    def _run(self) -> None:
        self._call = None
        now = self._clock.seconds()
        heap = self._heap
        try:
            for _ in range(BATCH):
                if not heap or heap[0][0] > now:
                    break
                when, key = heappop(heap)
                if self._when.get(key) == when:
                    del self._when[key]
                    following = self._on_due(key)
                    if following is not None:
                        self.set(key, following)
        finally:
            # Also when on_due failed: the other keys are not to suffer for it.
            self._arm()

    def _arm(self) -> None:
        if not self._heap:
            return
        self._armed = self._heap[0][0]
        delay = max(0.0, self._armed - self._clock.seconds())
        if self._call is None:
            self._call = self._clock.callLater(delay, self._run)
        else:
            self._call.reset(delay)
