"""What the next daemon of a hub's switch must know, and no other map says. Layer: edge."""

from __future__ import annotations

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import Map

__all__ = ["Keepsake"]

_ZERO = layout.NUMBER.pack(0)


class Keepsake:
    """A copy of ``struct keepsake``, and the way to change it.

    :param table: the map of its only element.
    """

    def __init__(self, table: Map) -> None:
        self._table = table
        kept = table.lookup(_ZERO) or bytes(layout.KEEPSAKE.size)
        next_member, made_clsact = layout.KEEPSAKE.unpack(kept)
        self.next_member: int = next_member or 1
        """The first member number that was not reserved."""
        self.made_clsact = bool(made_clsact)
        """Whether a run of ours made the clsact qdisc of the device."""

    def reserve(self, next_member: int) -> None:
        """Have a successor begin with this member number."""
        self.next_member = next_member
        self._table.update(_ZERO, self.pack())

    def attached(self, *, made_clsact: bool) -> None:
        """The switch is on its device."""
        self.made_clsact = made_clsact
        self._table.update(_ZERO, self.pack())

    def pack(self) -> bytes:
        """``struct keepsake``."""
        return layout.KEEPSAKE.pack(self.next_member, self.made_clsact)
