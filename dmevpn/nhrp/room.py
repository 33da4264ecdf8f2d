"""Room that the tables of all VPNs of a hub share. Layer: core.

Each table has a bound of its own, but a peer may register and ask in thousands of VPNs. So whatever
a table has beyond a few entries comes out of what they have in common, and none may have more of
that than is left: one that takes all it can get ends at half of it, two at a third each. Who has
few entries never finds the room taken.
"""

from __future__ import annotations

from typing import Final

from dmevpn.metrics import Metrics

__all__ = ["OWN", "SHARED", "SharedRoom"]

#: Entries of each table that are its own, whatever others have.
OWN: Final = 64
#: Entries beyond those, of all tables together: a table that is alone may have half of them, which
#: is more than the bound of any.
SHARED: Final = 524_288


class SharedRoom:
    """Counts what all tables of a kind hold beyond their own.

    A table asks before each entry it adds, and says so when it has added or removed some.

    :param what: what they hold, for the metric.
    :param own: entries of each table that are its own.
    :param shared: entries beyond those, of all tables together.
    """

    __slots__ = ("_free", "_full", "_own")

    def __init__(self, metrics: Metrics, what: str, own: int = OWN, shared: int = SHARED) -> None:
        self._own = own
        self._free = shared
        self._full = metrics.counter("shared_room_full", what=what)

    @property
    def free(self) -> int:
        """Entries that are left of what is shared."""
        return self._free

    def fits(self, held: int) -> bool:
        """Whether a table that holds so many entries may have another one."""
        return held - self._own < self._free or held < self._own

    def has(self, held: int) -> bool:
        """The same; refusals are counted."""
        if self.fits(held):
            return True
        self._full.inc()
        return False

    def added(self, held: int) -> None:
        """A table that held so many entries has one more."""
        if held >= self._own:
            self._free -= 1

    def removed(self, held: int, count: int = 1) -> None:
        """A table that held so many entries has ``count`` less."""
        beyond = held - self._own
        if beyond > 0:
            self._free += min(beyond, count)
