"""What a hub does about answers of an earlier run that it does not know. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.metrics import Counter

__all__ = ["AMNESIA", "AMNESIA_MACS", "Amnesia"]

#: Seconds after a restart during which a MAC that has moved, or whose site is lost, is purged at
#: every member: the longest time that an answer of the run before, which is forgotten, can still
#: be in use.
AMNESIA: Final = 300.0
#: MACs of one VPN that are purged like that, each of them once: what the switch's table holds.
AMNESIA_MACS: Final = 16384


class Amnesia:
    """Whether a VPN's hub may have answered what it does not know.

    :param purge: takes back what was said about MACs, with a reason, from all members.
    :param full: counts MACs that there was no room for.
    """

    def __init__(
        self, clock: IReactorTime, purge: Callable[[list[bytes], str], object], full: Counter
    ) -> None:
        self._clock = clock
        self._purge = purge
        self._full = full
        self._ends = 0.0
        #: What was purged: later answers about it are known again.
        self._told: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether answers of an earlier run, which we do not know, may be in use."""
        return self._clock.seconds() < self._ends

    def begin(self) -> None:
        """There was an earlier run, and not all that it answered is known."""
        self._ends = self._clock.seconds() + AMNESIA

    def tell_everyone(self, macs: list[bytes], reason: str) -> None:
        """Have MACs purged at all members, as far as it was not done."""
        macs = [mac for mac in macs if mac not in self._told]
        room = AMNESIA_MACS - len(self._told)
        self._full.inc(max(0, len(macs) - room))
        if macs[:room]:
            self._told.update(macs[:room])
            self._purge(macs[:room], reason)
