"""Whether the maps of a hub's switch say what its daemon wrote into them. Layer: edge.

Nobody tells us when somebody else writes a map (``bpftool map update``), so they are read: once a
second, a piece in each turn of the reactor. As long as nothing has changed, a checksum says so and
nothing is compared. The MACs are the switch's own to write, and are left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Final

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import Map
from dmevpn.dataplane.hub_members import MemberTable

__all__ = ["COMPARED", "PIECE", "Audit"]

#: Entries read in one turn of the reactor: 1 to 3 ms.
PIECE: Final = 1024
#: Entries compared in one, each of which is made anew: some 3 ms.
COMPARED: Final = 128

#: Keys and values that should be in a map, one after the other.
_Rows = Iterator[tuple[bytes, bytes]]


class Audit:
    """Compares VPNs, members, their admission and their counters with what should be.

    :param maps: of the switch, by name.
    :param table: what should be in them.
    """

    def __init__(self, maps: Mapping[str, Map], table: MemberTable) -> None:
        self._table = table
        self._right: dict[str, tuple[int, int]] = {}
        """Of each map that was found right: the table's version then, and a checksum."""
        self._checks: tuple[tuple[Map, Callable[[], _Rows]], ...] = (
            (maps["vpns"], table.vpn_rows),
            (maps["members"], table.member_rows),
            (maps["senders"], table.sender_rows),
        )
        self._states = maps["states"]

    def run(self) -> Iterator[int]:
        """Go through all maps once, and put right what differs.

        :returns: at each step, after which others should have their turn, how many entries it has
            put right.
        :raises DataplaneError: if the kernel refuses.
        """
        for table, rows in self._checks:
            version, checksum = self._table.version, 0
            for _, keys, values in table.batches(PIECE):
                checksum = zlib.crc32(values, zlib.crc32(keys, checksum))
                yield 0
            if self._right.get(table.name) == (version, checksum):
                continue
            if not (yield from self._compare(table, rows)) and version == self._table.version:
                self._right[table.name] = version, checksum
        yield from self._recount()

    def _compare(self, table: Map, rows: Callable[[], _Rows]) -> Generator[int, None, int]:
        """Write what is missing or wrong in a map, and keep out whom nobody has admitted."""
        size, width = table.shape.key_size, table.value_size
        found: dict[bytes, bytes] = {}
        for count, keys, values in table.batches(2 * COMPARED):
            for index in range(count):
                key = keys[index * size : (index + 1) * size]
                found[key] = values[index * width : (index + 1) * width]
            yield 0
        repaired = 0
        # What is added meanwhile was written a moment ago, what changes is looked up once more.
        wanted = rows()
        while some := list(islice(wanted, COMPARED)):
            differing = [row for row in some if found.pop(row[0], None) != row[1]]
            count = sum(self._put_right(table, *row) for row in differing)
            repaired += count
            yield count
        if table.name == "senders":
            left = iter(found)
            while keys_left := list(islice(left, PIECE)):
                strangers = [key for key in keys_left if not self._table.admits(key)]
                count = sum(table.delete(key) for key in strangers)
                repaired += count
                yield count
        return repaired

    @staticmethod
    def _put_right(table: Map, key: bytes, value: bytes) -> bool:
        if table.lookup(key) == value:
            return False  # of ours, written while the map was being read
        table.update(key, value)
        return True

    def _recount(self) -> Iterator[int]:
        """Give members whose counters are gone new ones: without them they have no frames."""
        size = self._states.shape.key_size
        counted: set[bytes] = set()
        for count, keys, _ in self._states.batches(PIECE):
            counted.update(keys[index * size : (index + 1) * size] for index in range(count))
            yield 0
        numbers = iter(list(self._table.by_number))
        while some := list(islice(numbers, PIECE)):
            missing = [
                key
                for number, key in zip(some, map(layout.NUMBER.pack, some), strict=True)
                if key not in counted
                and number in self._table.by_number
                and not self._states.find(key)
            ]
            for key in missing:
                self._states.update(key, bytes(layout.STATE.size))
            yield len(missing)
