"""What a hub's switch lets the members of a VPN do, in its maps. Layer: edge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import Map
from dmevpn.interfaces import Sticky, VPNRules

__all__ = ["FRAMES_AT_ONCE", "RuleTable"]

#: More frames than an offload makes one of: what a budget may be overdrawn by.
FRAMES_AT_ONCE = 1024

#: Bits of a VPN's index, which come before those of a MAC.
_VPN_BITS = 32


class RuleTable:
    """The rules of every VPN, as the program reads them.

    :param sticky: the map of MACs that do not move.
    :param ageing: seconds of silence after which a MAC counts as unknown.
    """

    def __init__(self, sticky: Map, ageing: float) -> None:
        self._sticky = sticky
        self._ageing_ns = int(ageing * 1e9)
        self._fields: dict[int, tuple[int, ...]] = {}
        self._lines: dict[int, dict[bytes, bytes]] = {}
        self._horizons: dict[int, int] = {}
        self.version = 0
        """Another number after each change of the sticky lines that should be in the map."""

    def set(self, vpn: int, rules: VPNRules) -> bool:
        """Note the rules of a VPN; whether they are others than before.

        :raises DataplaneError: E2BIG if there are too many sticky lines, and then less of them
            hold than should.
        """
        fields = self._pack(rules)
        # The longest prefix first: where it holds nobody asks what a shorter one would say.
        lines = {_key(vpn, line): layout.STICKY.pack(_address(line)) for line in rules.sticky}
        changed = self._fields.get(vpn) != fields
        self.adopt(vpn, fields)
        self._set_lines(vpn, lines)
        return changed

    def _set_lines(self, vpn: int, lines: dict[bytes, bytes]) -> None:
        present = self._lines.get(vpn, {})
        if present == lines:
            return
        self.version += 1
        for key in present.keys() - lines.keys():
            self._sticky.delete(key)
            del present[key]
        for key, value in lines.items():
            if present.get(key) != value:
                self._sticky.update(key, value)
                present[key] = value
        self._lines[vpn] = present

    def forget(self, vpn: int) -> None:
        """A VPN is gone."""
        self._fields.pop(vpn, None)
        self._horizons.pop(vpn, None)
        if vpn in self._lines:
            self.version += 1
        for key in self._lines.pop(vpn, {}):
            self._sticky.delete(key)

    def fields(self, vpn: int) -> tuple[int, ...]:
        """What ``struct vpn`` has after the head of its members."""
        return self._fields[vpn]

    def adopt(self, vpn: int, fields: Iterable[int]) -> None:
        """Take up the rules of an earlier run, until others are set."""
        found = self._fields[vpn] = tuple(fields)
        _, _, _, _, gap, burst, *_ = found
        self._horizons[vpn] = max(self._horizons.get(vpn, 0), burst + FRAMES_AT_ONCE * gap)

    def horizon(self, vpn: int) -> int:
        """How many nanoseconds ahead the next flood of a member may be due; 0: there is no VPN.

        By the most generous rules that the VPN has had, whose debts are paid off as they were made.
        """
        return self._horizons.get(vpn, 0)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each sticky line."""
        for vpn, lines in list(self._lines.items()):
            for key, value in list(lines.items()):
                if key in self._lines.get(vpn, {}):
                    yield key, value

    def has_line(self, key: bytes) -> bool:
        """Whether a key of ``sticky`` is that of a line."""
        return key in self._lines.get(layout.STICKY_KEY.unpack(key)[1], {})

    def adopt_sticky(self) -> None:
        """Take up its sticky lines; those of VPNs that are gone are removed."""
        for key, value in list(self._present()):
            vpn = layout.STICKY_KEY.unpack(key)[1]
            if vpn in self._fields:
                self._lines.setdefault(vpn, {})[key] = value
            else:
                self._sticky.delete(key)

    def _present(self) -> Iterator[tuple[bytes, bytes]]:
        for count, keys, values in self._sticky.batches():
            for index in range(count):
                key = keys[index * layout.STICKY_KEY.size :][: layout.STICKY_KEY.size]
                yield key, values[index * layout.STICKY.size :][: layout.STICKY.size]

    def _pack(self, rules: VPNRules) -> tuple[int, ...]:
        gap = 1_000_000_000 // rules.flood_rate if rules.flood_rate else 0
        return (
            layout.VPN_STICKY if rules.sticky else 0,
            rules.mac_limit,
            rules.site_limit,
            self._ageing_ns,
            gap,
            gap * rules.flood_burst,
            rules.moves,
            rules.moves_seconds * 1_000_000_000,
        )


def _key(vpn: int, line: Sticky) -> bytes:
    bits = line.prefix_length
    mac = int.from_bytes(line.mac, "big") >> (48 - bits) << (48 - bits)
    return layout.STICKY_KEY.pack(_VPN_BITS + bits, vpn, mac.to_bytes(6, "big"))


def _address(line: Sticky) -> bytes:
    return layout.pack_address(line.nbma)
