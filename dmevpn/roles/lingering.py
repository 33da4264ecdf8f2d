"""Sites that have left a hub since it is drained, and that it still gives frames. Layer: role."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dmevpn.addresses import VTEP, Path
from dmevpn.roles.recollection import Departed

__all__ = ["Lingering"]


class Lingering:
    """Who has left one VPN of a hub.

    :ivar open: whether who leaves now is kept: the hub is drained, or was until a moment ago.
    :param call: tells a station that it may come back.
    :param remove: takes a member out of the switch.
    """

    def __init__(self, call: Callable[[bytes, Path], None], remove: Callable[[VTEP], None]) -> None:
        self.open = False
        self._call = call
        self._remove = remove
        #: Each with whether the switch has it as a member.
        self._sites: dict[VTEP, tuple[Departed, bool]] = {}

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, vtep: VTEP) -> bool:
        return vtep in self._sites

    def __iter__(self) -> Iterator[Departed]:
        """For a successor; sites may come and go meanwhile."""
        for departed, _ in list(self._sites.values()):
            yield departed

    def add(self, departed: Departed, *, member: bool = True) -> None:
        """A site has left.

        :param member: whether the switch has it as a member still.
        """
        self.open = True
        self._sites[departed.vtep] = departed, member

    def back(self, vtep: VTEP) -> None:
        """Whoever is at a VTEP has registered."""
        self._sites.pop(vtep, None)

    def call_back(self) -> Iterator[None]:
        """Tell all that they may come back, one at each step; until they do, they linger."""
        for departed in self:
            if departed.vtep in self._sites:
                self._call(departed.station, departed.path)
                yield

    def let_go(self, vtep: VTEP) -> None:
        """Give one of them no more frames."""
        departed, member = self._sites.get(vtep, (None, False))
        if departed is not None and member:
            self._sites[vtep] = departed, False
            self._remove(vtep)

    def end(self) -> None:
        """Let all go that have not come back."""
        for vtep in self._sites:
            self.let_go(vtep)
        self._sites.clear()
        self.open = False
