"""Many keys that are looked at some time after their moment. Layer: core.

Where it does not matter when exactly, this takes less than :mod:`dmevpn.nhrp.deadlines`: time is
cut into rounds, and each key waits in the set of one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.nhrp.deadlines import BATCH

__all__ = ["ROUND", "Rounds"]

#: Seconds of a round.
ROUND: Final = 30.0


class Rounds:
    """Calls its owner for each key at the end of the round that it was put into.

    Who puts a key somewhere remembers the number of the round.

    :param on_due: called with a key whose round is over, which is in no round any more.
    """

    def __init__(self, clock: IReactorTime, on_due: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._keys: dict[int, set[bytes]] = {}
        self._call: IDelayedCall | None = None
        #: The round at whose end the call comes.
        self._next = 0

    @staticmethod
    def number(when: float) -> int:
        """The round that a moment on the clock falls into."""
        return int(when // ROUND)

    def put(self, key: bytes, number: int) -> None:
        """Have the owner called for a key when a round is over."""
        keys = self._keys.get(number)
        if keys is not None:
            keys.add(key)
            return
        self._keys[number] = {key}
        if self._call is None or number < self._next:
            self._arm()

    def take(self, key: bytes, number: int) -> None:
        """Take a key out of the round that it is in."""
        keys = self._keys[number]
        keys.remove(key)
        if not keys:
            del self._keys[number]

    def close(self) -> None:
        """Forget everything, cancel the timer."""
        self._keys.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        """Look at some keys; when there are more, datagrams and other timers get their turn in
        between."""
        self._call = None
        number = self._next
        try:
            for _ in range(BATCH):
                keys = self._keys.get(number)
                if keys is None:
                    break
                key = keys.pop()
                if not keys:
                    del self._keys[number]
                self._on_due(key)
        finally:
            # Also when on_due failed: the other keys are not to suffer for it.
            self._arm()

    def _arm(self) -> None:
        if not self._keys:
            return
        self._next = min(self._keys)
        delay = max(0.0, (self._next + 1) * ROUND - self._clock.seconds())
        if self._call is None:
            self._call = self._clock.callLater(delay, self._run)
        else:
            self._call.reset(delay)
