"""Whether what a hub's switch notes of members and VPNs can be. Layer: edge.

Counters, budgets and numbers of MACs are the switch's own to write, so nobody but the switch knows
what they should be. But a member without them has no frames, a budget that is spent for longer than
any debt can last drops its floods, and a number of MACs that is wrong ends up below zero, which is
the largest there is: the table counts as full, and nothing is learned any more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from struct import Struct
from typing import Final

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.layout import NUMBER, STATE, USAGE
from dmevpn.dataplane.ebpf.libbpf import Map
from dmevpn.dataplane.hub_members import MemberTable
from dmevpn.dataplane.hub_rules import FRAMES_AT_ONCE

__all__ = ["PIECE", "CountAudit"]

#: Entries read in one turn of the reactor: 1 to 3 ms.
PIECE: Final = 1024
#: Times that MACs are counted, if others come or go meanwhile.
_COUNTS: Final = 3

#: How many nanoseconds ahead each budget of a member may be spent (``hub_switch.bpf.c``): of floods
#: in the name of held MACs, of reports, of alarms; and for how long it may count as part of a loop.
#: Each with some time for a slow machine.
_SECOND: Final = 1_000_000_000
_SPENT: Final = (
    _SECOND + FRAMES_AT_ONCE * _SECOND // 100 + _SECOND,
    16384 * _SECOND // 2000 + _SECOND,
    _SECOND + _SECOND // 10 + _SECOND,
    9 * _SECOND // 2 + _SECOND,
)
_ALARMS: Final = _SPENT[2]
_ZERO = NUMBER.pack(0)
_ARRIVAL = Struct("=Q")
#: Of ``struct member_state`` what lies ahead, and the number of MACs.
_JUDGED = Struct("=5Q56xQ")


class CountAudit:
    """Looks at the states of members, the MACs of VPNs, and the budget of strangers.

    :param maps: of the switch, by name.
    :param table: whom there should be something of.
    """

    def __init__(self, maps: Mapping[str, Map], table: MemberTable) -> None:
        self._states, self._usage = maps["states"], maps["usage"]
        self._members, self._macs = maps["members"], maps["macs"]
        self._strangers = maps["strangers"]
        self._table = table
        self._last: dict[int, tuple[int, int]] = {}
        """Of each VPN whose members have not as many MACs as it has: both numbers."""
        self._explained: dict[int, tuple[int, int]] = {}
        """The same where the MACs were counted, and that is how it is."""

    def run(self) -> Iterator[int]:
        """Go through all of it once, and put right what cannot be.

        :returns: at each step, after which others should have their turn, how many entries it has
            put right.
        :raises DataplaneError: if the kernel refuses.
        """
        yield self._free_strangers()
        members: set[int] = set()
        sums: Counter[int] = Counter()
        yield from self._judge_states(members, sums)
        wrong = yield from self._judge_usage(sums)
        if wrong:
            members.update(
                number for number, member in self._table.by_number.items() if member.vpn in wrong
            )
        if members or wrong:
            yield from self._count(members, wrong)

    def _free_strangers(self) -> int:
        """Have strangers heard of again if that was ended for good."""
        (arrival,) = _ARRIVAL.unpack(self._strangers.lookup(_ZERO) or bytes(_ARRIVAL.size))
        if arrival <= time.monotonic_ns() + _ALARMS:
            return 0
        self._strangers.update(_ZERO, _ARRIVAL.pack(0))
        return 1

    # --- members ----------------------------------------------------------------------------

    def _judge_states(self, wrong: set[int], sums: Counter[int]) -> Iterator[int]:
        """See that each member has a state, which can be.

        :param wrong: takes the numbers of members whose MACs are to be counted.
        :param sums: takes how many MACs the members of each VPN have.
        """
        by_number, rules = self._table.by_number, self._table.rules
        seen: set[int] = set()
        for _, keys, values in self._states.batches(PIECE):
            now = time.monotonic_ns()
            # Earlier than that, no budget can be spent for too long.
            soon = now + min(_SPENT)
            repaired = 0
            for (number,), (flood, held, report, alarm, looping, macs) in zip(
                NUMBER.iter_unpack(keys), _JUDGED.iter_unpack(values), strict=True
            ):
                member = by_number.get(number)
                if member is None:
                    repaired += self._forget(NUMBER.pack(number))
                    continue
                seen.add(number)
                if macs:
                    sums[member.vpn] += macs
                    if macs > layout.MAX_MACS:
                        wrong.add(number)
                if max(flood, held, report, alarm, looping) > soon:
                    spent = (rules.horizon(member.vpn) + _SECOND, *_SPENT)
                    due = zip((flood, held, report, alarm, looping), spent, strict=True)
                    if any(each > now + most for each, most in due):
                        repaired += self._free(NUMBER.pack(number))
            yield repaired
        numbers = iter(list(by_number))
        while some := list(islice(numbers, PIECE)):
            missing = [number for number in some if number not in seen and number in by_number]
            made = [number for number in missing if self._make(self._states, number, STATE.size)]
            wrong.update(made)
            yield len(made)

    def _forget(self, number: bytes) -> bool:
        """Remove the state of a member that there is not, nor was a moment ago."""
        return not self._members.find(number) and self._states.delete(number)

    def _free(self, number: bytes) -> bool:
        """Let a member's budgets begin anew."""
        state = self._states.lookup(number)
        if state is None:
            return False
        spent = layout.STATE_COUNTERS * _ARRIVAL.size
        self._states.update(number, bytes(spent) + state[spent:])
        return True

    @staticmethod
    def _make(table: Map, number: int, size: int) -> bool:
        """Give a member or a VPN zeros if it has nothing."""
        if table.find(NUMBER.pack(number)):
            return False
        table.update(NUMBER.pack(number), bytes(size))
        return True

    # --- VPNs -------------------------------------------------------------------------------

    def _judge_usage(self, sums: Counter[int]) -> Generator[int, None, set[int]]:
        """See that each VPN has a number of MACs, which can be.

        Between two frames it is that of its members together. So where both are what they were a
        second ago and differ, one of them is wrong; unless members have left whose MACs are still
        to be swept up.

        :returns: the VPNs whose MACs are to be counted.
        """
        used: dict[int, int] = {}
        for _, keys, values in self._usage.batches(PIECE):
            for (vpn,), (macs,) in zip(
                NUMBER.iter_unpack(keys), USAGE.iter_unpack(values), strict=True
            ):
                used[vpn] = macs
            yield 0
        wrong: set[int] = set()
        vpns = iter(list(self._table.vpns()))
        while some := list(islice(vpns, PIECE)):
            missing = [vpn for vpn in some if vpn not in used and vpn in self._table]
            made = [vpn for vpn in missing if self._make(self._usage, vpn, USAGE.size)]
            wrong.update(made)
            yield len(made)
        differing = {
            vpn: (sums[vpn], macs)
            for vpn, macs in used.items()
            if macs != sums[vpn] and vpn in self._table
        }
        for vpn, both in differing.items():
            settled = self._last.get(vpn) == both != self._explained.get(vpn)
            if settled or both[1] > layout.MAX_MACS:
                wrong.add(vpn)
        self._last = differing
        self._explained = {
            vpn: both for vpn, both in self._explained.items() if differing.get(vpn) == both
        }
        return wrong

    # --- MACs -------------------------------------------------------------------------------

    def _count(self, members: set[int], vpns: set[int]) -> Iterator[int]:
        """Count the MACs of members and VPNs, and write what they are."""
        for _ in range(_COUNTS):
            before = yield from self._noted(members, vpns)
            at: Counter[int] = Counter()
            of: Counter[int] = Counter()
            for _, keys, values in self._macs.batches(2 * PIECE):
                entries = zip(
                    layout.MAC_KEY.iter_unpack(keys),
                    layout.MAC_ENTRY.iter_unpack(values),
                    strict=True,
                )
                for (vpn, _), (_, number, *_) in entries:
                    if vpn in vpns:
                        of[vpn] += 1
                    if number in members:
                        at[number] += 1
                yield 0
            if before == (yield from self._noted(members, vpns)):
                break
        numbers = iter(members)
        while some := list(islice(numbers, PIECE)):
            yield sum(self._write_member(number, at[number]) for number in some)
        yield sum(self._write_vpn(vpn, of[vpn]) for vpn in vpns)
        sums: Counter[int] = Counter()
        for number in members:
            member = self._table.by_number.get(number)
            if member is not None:
                sums[member.vpn] += at[number]
        self._explained.update({vpn: (sums[vpn], of[vpn]) for vpn in vpns})

    def _noted(
        self, members: Iterable[int], vpns: Iterable[int]
    ) -> Generator[int, None, list[int | None]]:
        """How many MACs are noted of each now."""
        found: list[int | None] = []
        numbers = iter(members)
        while some := list(islice(numbers, PIECE)):
            for number in some:
                state = self._states.lookup(NUMBER.pack(number))
                found.append(None if state is None else STATE.unpack(state)[layout.STATE_MACS])
            yield 0
        for vpn in vpns:
            usage = self._usage.lookup(NUMBER.pack(vpn))
            found.append(None if usage is None else USAGE.unpack(usage)[0])
        return found

    def _write_member(self, number: int, macs: int) -> bool:
        key = NUMBER.pack(number)
        state = self._states.lookup(key)
        if state is None or number not in self._table.by_number:
            return False
        fields = list(STATE.unpack(state))
        if fields[layout.STATE_MACS] == macs:
            return False
        fields[layout.STATE_MACS] = macs
        self._states.update(key, STATE.pack(*fields))
        return True

    def _write_vpn(self, vpn: int, macs: int) -> bool:
        key = NUMBER.pack(vpn)
        if vpn not in self._table or self._usage.lookup(key) == USAGE.pack(macs):
            return False
        self._usage.update(key, USAGE.pack(macs))
        return True
