"""Interrupt moderation: packets that come often are fetched together. Layer: edge; pure.

To be woken for one packet costs more CPU time than to answer it. So a socket that wakes us often is
looked at now and then instead, as network cards do it (``ethtool -C``: coalescing).
"""

from __future__ import annotations

from typing import Final

__all__ = ["OFTEN", "PATIENCE", "PAUSE", "Coalescing"]

#: Seconds from one look at a socket to the next: a packet waits for half of that on average.
PAUSE: Final = 0.005
#: Times a second that a socket may wake us: what comes less often than that comes alone anyway.
OFTEN: Final = 500
#: Times more than that until there are pauses, and packets less until there are none: the questions
#: of one site in a row wait for nothing.
PATIENCE: Final = 50


class Coalescing:
    """Whether a socket is looked at now and then, or wakes us.

    :ivar pausing: which of the two.
    """

    __slots__ = ("_counted", "_level", "pausing")

    def __init__(self) -> None:
        self.pausing = False
        self._level = 0.0
        self._counted = 0.0

    def read(self, packets: int, now: float) -> bool:
        """The socket was read; whether a pause is due before it is read again.

        :param packets: how many there were.
        :param now: seconds of a clock.
        """
        level = self._level - (now - self._counted) * OFTEN
        self._counted = now
        if level <= 0:
            level = 0.0
            self.pausing = False
        # Without pauses, each of these packets would have woken us.
        level += packets if self.pausing else 1
        if level >= PATIENCE:
            level = PATIENCE
            self.pausing = True
        self._level = level
        return self.pausing
