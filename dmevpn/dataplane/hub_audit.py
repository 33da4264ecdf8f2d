"""Whether the maps of a hub's switch say what its daemon wrote into them. Layer: edge.

Nobody tells us when somebody else writes a map (``bpftool map update``), so they are read: once a
second, a piece in each turn of the reactor. As long as nothing has changed, a checksum says so and
nothing is compared. What the switch writes itself is looked at by
:mod:`dmevpn.dataplane.hub_counts`, but for the MACs, which are left out.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import LPM_TRIE, Map
from dmevpn.dataplane.hub_counts import PIECE, CountAudit
from dmevpn.dataplane.hub_members import MemberTable
from dmevpn.errors import DataplaneError

__all__ = ["AUDIT_PAUSE", "AUDIT_REST", "COMPARED", "REPAIR_PAUSE", "Audit", "AuditRounds", "pause"]

#: Entries compared in one turn, each of which is made anew: some 2 ms.
COMPARED: Final = 256
#: Seconds between two pieces of an audit, at least.
AUDIT_PAUSE: Final = 0.005
#: How many times as long as a piece has taken there is a pause: a thirtieth of the time of a
#: processor goes into audits. One takes 0.4 s with 4,000 members, 10 s with 100,000.
AUDIT_REST: Final = 29
#: The same while something is put right, which takes the more pieces the more members there are.
REPAIR_PAUSE: Final = 0.002
_ZERO = layout.NUMBER.pack(0)


class _Check(NamedTuple):
    """What should be in a map that only the daemon writes."""

    table: Map
    rows: Callable[[], Iterator[tuple[bytes, bytes]]]
    """Keys and values."""
    owns: Callable[[bytes], bool]
    """Whether a key may be there; what is at any other one was put there by somebody else."""
    version: Callable[[], int]
    """Another number after each change of the rows."""


class Audit:
    """Compares all that the daemon has to say to its switch with what the switch has heard.

    :param maps: of the switch, by name.
    :param table: what should be in most of them.
    :param single: what should be in those that have one element, by name.
    """

    def __init__(
        self,
        maps: Mapping[str, Map],
        table: MemberTable,
        single: Mapping[str, Callable[[], bytes]],
    ) -> None:
        self.comparing = False
        """Whether a map has been found to differ, and is being put right."""
        self._right: dict[str, tuple[int, int]] = {}
        """Of each map that was found right: the version of its rows then, and a checksum."""
        self._single = [(maps[name], wanted) for name, wanted in single.items()]

        def members() -> int:
            return table.version

        rules = table.rules
        self._checks = (
            _Check(maps["vpns"], table.vpn_rows, table.has_vpn, members),
            _Check(maps["members"], table.member_rows, table.has_member, members),
            _Check(maps["senders"], table.sender_rows, table.admits, members),
            _Check(maps["hubs"], table.hub_rows, table.has_hub, members),
            _Check(maps["sticky"], rules.rows, rules.has_line, lambda: rules.version),
        )
        self._counts = CountAudit(maps, table)

    def run(self) -> Iterator[int]:
        """Go through all maps once, and put right what differs.

        :returns: at each step, after which others should have their turn, how many entries it has
            put right.
        :raises DataplaneError: if the kernel refuses.
        """
        for check in self._checks:
            version, checksum = check.version(), 0
            for _, keys, values in check.table.batches(PIECE):
                checksum = zlib.crc32(values, zlib.crc32(keys, checksum))
                yield 0
            name = check.table.name
            if self._right.get(name) == (version, checksum):
                continue
            self.comparing = True
            try:
                repaired = yield from self._compare(check)
            finally:
                self.comparing = False
            if not repaired and version == check.version():
                self._right[name] = version, checksum
        yield sum(self._compare_single(*each) for each in self._single)
        yield from self._counts.run()

    def _compare(self, check: _Check) -> Generator[int, None, int]:
        """Take out of a map what is nobody's, and write what is missing or wrong."""
        table, version = check.table, check.version()
        size, width = table.shape.key_size, table.value_size
        found: dict[bytes, bytes] = {}
        for count, keys, values in table.batches(2 * COMPARED):
            for index in range(count):
                key = keys[index * size : (index + 1) * size]
                found[key] = values[index * width : (index + 1) * width]
            yield 0
        repaired = 0
        # First what is nobody's: in a trie it may be in the place of what is ours.
        present = iter(list(found))
        while some_keys := list(islice(present, COMPARED)):
            count = sum(table.delete(key) for key in some_keys if not check.owns(key))
            repaired += count
            yield count
        # What is added meanwhile was written a moment ago, what changes is looked up once more.
        wanted = check.rows()
        while some := list(islice(wanted, COMPARED)):
            differing = [row for row in some if found.get(row[0]) != row[1]]
            count = sum(self._put_right(check, version, *row) for row in differing)
            repaired += count
            yield count
        return repaired

    @staticmethod
    def _put_right(check: _Check, version: int, key: bytes, value: bytes) -> bool:
        """Write what differs, unless it was ours, written while the map was being read."""
        if check.table.shape.type == LPM_TRIE:
            # A lookup would find what has a shorter prefix. The next audit sees to it.
            if check.version() != version:
                return False
        elif check.table.lookup(key) == value:
            return False
        check.table.update(key, value)
        return True

    @staticmethod
    def _compare_single(table: Map, wanted: Callable[[], bytes]) -> bool:
        value = wanted()
        if table.lookup(_ZERO) == value:
            return False
        table.update(_ZERO, value)
        return True


def pause(spent: float, *, comparing: bool) -> float:
    """Seconds until the next piece of an audit.

    :param spent: CPU time of the one before, in seconds.
    :param comparing: whether something is being put right, which is not to take long.
    """
    return REPAIR_PAUSE if comparing else max(AUDIT_PAUSE, AUDIT_REST * spent)


class AuditRounds:
    """Has a switch audited, a piece in each turn of the reactor.

    :param repaired: called with how many entries a piece has put right, if any.
    :param failed: called with why an audit could not go on.
    """

    def __init__(
        self,
        clock: IReactorTime,
        audit: Audit,
        *,
        repaired: Callable[[int], None],
        failed: Callable[[DataplaneError], None],
    ) -> None:
        self._clock = clock
        self._audit = audit
        self._repaired = repaired
        self._failed = failed
        self._pieces: Iterator[int] | None = None
        self._again = False
        self._call: IDelayedCall | None = None

    def begin(self) -> None:
        """Go through all maps; while that is going on, once more after it."""
        self._again = self._pieces is not None
        if not self._again:
            self._pieces = self._audit.run()
            self._go_on()

    def stop(self) -> None:
        """Go on with none; again is harmless."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._pieces = None
        self._again = False

    def _go_on(self) -> None:
        self._call = None
        assert self._pieces is not None
        began = time.thread_time()
        try:
            repaired = next(self._pieces, None)
        except DataplaneError as error:
            self._failed(error)
            repaired = None
        if repaired is None:
            self._pieces = self._audit.run() if self._again else None
            self._again = False
            if self._pieces is None:
                return
        rest = pause(time.thread_time() - began, comparing=self._audit.comparing)
        self._call = self._clock.callLater(rest, self._go_on)
        if repaired:
            self._repaired(repaired)
