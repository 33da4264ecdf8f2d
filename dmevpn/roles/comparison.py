"""Whether what a hub has answered is still true, by the table of its switch. Layer: role.

Events of the switch are hints, and some may be lost; the table is the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.turns import Turns

__all__ = ["Comparison"]


class Comparison:
    """Compares all answers with the table, in slices that leave the reactor free.

    One comparison at a time, and once more after it if more was lost meanwhile: however many events
    are lost, every answer gets its turn.

    :param vpns: the hub's, by index; it may change.
    """

    def __init__(self, turns: Turns, vpns: Mapping[int, HubVPN]) -> None:
        self._turns = turns
        self._vpns = vpns
        self._under_way = self._again = False

    def begin(self) -> None:
        """Compare; while that is going on, once more after it."""
        self._again = True
        if not self._under_way:
            self._under_way = True
            self._turns.run(self._steps())

    def _steps(self) -> Iterator[None]:
        try:
            while self._again:
                self._again = False
                for vpn in list(self._vpns.values()):
                    yield from vpn.reconcile()
        finally:
            self._under_way = False
