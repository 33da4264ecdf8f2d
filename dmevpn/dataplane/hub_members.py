"""Who belongs to which VPN, in the maps of a hub's switch. Layer: edge.

The maps are the truth that outlives us; this keeps a copy of them, finds it again at start, and
writes each change in an order that a frame, or our own death, may interrupt anywhere:

- joining: the member (unreachable yet), its counters, its admission, and last the
  head of the VPN's chain, by which floods find it;
- leaving: its admission, then the link to it. It stays readable as *left* for GRACE, since a
  flood may be standing on it, and is deleted then.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dmevpn.addresses import VTEP
from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.layout import NOBODY, NUMBER
from dmevpn.dataplane.ebpf.libbpf import NO_EXIST, Map
from dmevpn.dataplane.hub_keepsake import Keepsake
from dmevpn.dataplane.hub_rules import RuleTable
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import MemberCounters, Registration, VPNRules

__all__ = ["GRACE", "Member", "MemberTable"]

#: Seconds that a member which left stays readable: far more than a flood to a full switch
#: takes (131,072 copies of 2 µs).
GRACE = 2.0
#: Member numbers reserved at once for this daemon, so that a crash never makes us use one twice.
_NUMBERS_RESERVED = 1024


@dataclass(slots=True, eq=False)
class Member:
    """One VTEP in a VPN; ``older`` and ``newer`` are its neighbours in the VPN's chain."""

    number: int
    vpn: int
    vtep: VTEP
    local: bytes
    expires_ns: int
    station: bytes
    unique: bool
    hub: int = 0
    """The bit of a hub; 0: it is a site."""
    apart: int = 0
    """The bits of the hubs whose floods it does not get."""
    older: Member | None = None
    newer: Member | None = None

    def pack(self, *, left: bool = False) -> bytes:
        """``struct member``."""
        flags = layout.MEMBER_IPV6 if len(self.vtep.nbma) == 16 else 0
        if self.hub:
            flags |= layout.MEMBER_HUB
        return layout.MEMBER.pack(
            layout.pack_address(self.vtep.nbma),
            self.vtep.vni,
            # An address of the other family could not be sent from.
            layout.pack_address(self.local)
            if len(self.local) == len(self.vtep.nbma)
            else bytes(16),
            self.vpn,
            flags | layout.MEMBER_LEFT if left else flags,
            NOBODY if self.older is None else self.older.number,
            self.expires_ns,
            self.station,
            self.unique,
            self.apart,
        )


class MemberTable:
    """The members of all VPNs of one switch.

    :param maps: the maps of the switch by name.
    :param keepsake: says which numbers members may have.
    :param clock_seconds: the clock of :attr:`Registration.expires`. The maps hold the kernel's
        CLOCK_MONOTONIC, which is the same for the next daemon.
    :param ageing: seconds of silence after which a MAC counts as unknown.
    """

    def __init__(
        self,
        maps: dict[str, Map],
        keepsake: Keepsake,
        clock_seconds: Callable[[], float],
        *,
        ageing: float,
    ) -> None:
        self._senders = maps["senders"]
        self._members = maps["members"]
        self._states = maps["states"]
        self._vpns = maps["vpns"]
        self._usage = maps["usage"]
        self._keepsake = keepsake
        self._hubs = maps["hubs"]
        self._clock_seconds = clock_seconds
        self.rules = RuleTable(maps["sticky"], ageing)
        """What the members of each VPN may do."""
        self.by_number: dict[int, Member] = {}
        """Every member by the number that MAC entries and events name it by."""
        self._by_vtep: dict[VTEP, Member] = {}
        self._bits: dict[bytes, int] = {}
        self._heads: dict[int, Member | None] = {}
        self._leavers: deque[tuple[float, int]] = deque()
        self._next = keepsake.next_member
        self.version = 0
        """Another number after each change of what should be in the maps."""

    def __len__(self) -> int:
        return len(self.by_number)

    # --- VPNs -----------------------------------------------------------------------------

    def add_vpn(self, vpn: int, rules: VPNRules) -> None:
        """Make room for a VPN, or give it other rules.

        :raises DataplaneError: E2BIG beyond MAX_VPNS.
        """
        changed = self.rules.set(vpn, rules)
        if vpn in self._heads:
            if changed:
                self.version += 1
                self._write_head(vpn, self._heads[vpn])
            return
        self._add(self._usage, vpn, layout.USAGE.pack(0))
        self._write_head(vpn, None)
        self._heads[vpn] = None

    def remove_vpn(self, vpn: int) -> None:
        """Forget a VPN with its members. Its MACs and their count go by sweeping."""
        if vpn not in self._heads:
            return
        chain = []
        member = self._heads.pop(vpn)
        while member is not None:
            chain.append(member)
            self._dismiss(member)
            member = member.older
        self.version += 1
        self._vpns.delete(NUMBER.pack(vpn))  # from now on no flood comes by
        self.rules.forget(vpn)
        for member in chain:
            self._retire(member)

    def vpns(self) -> Iterator[int]:
        """The VPNs there are."""
        return iter(self._heads)

    def __contains__(self, vpn: object) -> bool:
        return vpn in self._heads

    # --- members --------------------------------------------------------------------------

    def find(self, vpn: int, vtep: VTEP) -> Member | None:
        """The member of a VPN at a VTEP."""
        member = self._by_vtep.get(vtep)
        return member if member is not None and member.vpn == vpn else None

    def add(self, vpn: int, vtep: VTEP, local: bytes, registration: Registration) -> bool:
        """Admit a VTEP, or write its renewed registration; whether it is new.

        :raises ValueError: if the VPN is unknown, the VTEP has no VNI, or another VPN has it.
        :raises DataplaneError: E2BIG if the switch is full, and nothing has changed.
        """
        self.version += 1
        member = self._by_vtep.get(vtep)
        if member is not None and member.vpn == vpn:
            hub = member.hub
            self._note(member, registration)
            member.local = local
            self._members.update(NUMBER.pack(member.number), member.pack())
            if member.hub != hub:
                self._admit(member)
            return False
        if member is not None:
            raise ValueError(f"{vtep} is a member of VPN {member.vpn}")
        if vpn not in self._heads:
            raise ValueError(f"VPN {vpn} was not added")
        if not vtep.vni:
            raise ValueError(f"{vtep} has no VNI")
        member = Member(self._new_number(), vpn, vtep, local, layout.FOREVER, bytes(6), False)
        self._note(member, registration)
        if len(self.by_number) + len(self._leavers) >= layout.MAX_MEMBERS:
            self.collect(float("inf"))
        self._join(member)
        return True

    def remove(self, vpn: int, vtep: VTEP) -> bool:
        """Admit it no more and flood to it no more; whether it was a member."""
        member = self.find(vpn, vtep)
        if member is None:
            return False
        self.version += 1
        self._dismiss(member)
        older, newer = member.older, member.newer
        if older is not None:
            older.newer = newer
        if newer is None:
            self._write_head(vpn, older)
            self._heads[vpn] = older
        else:
            newer.older = older
            self._members.update(NUMBER.pack(newer.number), newer.pack())
        self._retire(member)
        return True

    def collect(self, now: float) -> float | None:
        """Delete the members that left more than GRACE before ``now``; when the next is due."""
        while self._leavers and self._leavers[0][0] <= now:
            number = NUMBER.pack(self._leavers.popleft()[1])
            self._states.delete(number)
            self._members.delete(number)
        return self._leavers[0][0] if self._leavers else None

    def counters(self, vpn: int, vtep: VTEP) -> MemberCounters | None:
        """What the switch has counted for a member."""
        member = self.find(vpn, vtep)
        if member is None or not self._states.find(NUMBER.pack(member.number)):
            return None
        counters = layout.STATE.unpack(self._states.value)[layout.STATE_COUNTERS :]
        return MemberCounters(*counters)

    def registration(self, member: Member) -> Registration:
        """A member's registration, on the daemon's clock."""
        expires = float("inf")
        if member.expires_ns != layout.FOREVER:
            left = (member.expires_ns - time.monotonic_ns()) / 1e9
            expires = self._clock_seconds() + left
        apart = None
        if member.apart != layout.ALL_HUBS:
            apart = frozenset([hub for hub, bit in self._bits.items() if bit & member.apart])
        return Registration(member.station, member.unique, expires, member.hub != 0, apart)

    # --- what should be in the maps ---------------------------------------------------------

    def vpn_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each VPN."""
        for vpn in list(self._heads):
            if vpn in self._heads:
                yield NUMBER.pack(vpn), self._head(vpn, self._heads[vpn])

    def member_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Those of each member."""
        for number, member in list(self.by_number.items()):
            if number in self.by_number:
                yield NUMBER.pack(number), member.pack()

    def sender_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Those by which each member is admitted."""
        for number, member in list(self.by_number.items()):
            if number in self.by_number:
                yield layout.pack_vtep(member.vtep), layout.SENDER.pack(*self._sender(member))

    def hub_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Those of each hub that has a bit."""
        for hub, bit in list(self._bits.items()):
            if hub in self._bits:
                yield layout.pack_address(hub), layout.HUB.pack(bit)

    def has_vpn(self, key: bytes) -> bool:
        """Whether a key of ``vpns`` is that of a VPN."""
        return NUMBER.unpack(key)[0] in self._heads

    def has_member(self, key: bytes) -> bool:
        """Whether a key of ``members`` is that of a member, or of one that has left."""
        if NUMBER.unpack(key)[0] in self.by_number:
            return True
        found = self._members.lookup(key)
        return found is not None and bool(layout.MEMBER.unpack(found)[4] & layout.MEMBER_LEFT)

    def admits(self, key: bytes) -> bool:
        """Whether a key of ``senders`` is that of a member."""
        address, vni = layout.VTEP_KEY.unpack(key)
        return VTEP(layout.unpack_address(address), vni) in self._by_vtep

    def has_hub(self, key: bytes) -> bool:
        """Whether a key of ``hubs`` is that of a hub with a bit."""
        return layout.unpack_address(key) in self._bits

    # --- start ----------------------------------------------------------------------------

    def adopt(self) -> int:
        """Take up what an earlier run has left, and finish what its end interrupted.

        :returns: how many members there are.
        """
        heads: dict[int, int] = {}
        for _, keys, values in self._vpns.batches():
            for (number,), (head, *rules) in zip(
                NUMBER.iter_unpack(keys), layout.VPN.iter_unpack(values), strict=True
            ):
                heads[number] = head
                self.rules.adopt(number, rules)
        self.rules.adopt_sticky()
        self._bits = {
            layout.unpack_address(address): bit
            for _, keys, values in self._hubs.batches()
            for (address,), (bit,) in zip(
                layout.HUB_KEY.iter_unpack(keys), layout.HUB.iter_unpack(values), strict=True
            )
        }
        older: dict[int, int] = {}
        for _, keys, values in self._members.batches():
            for (number,), fields in zip(
                NUMBER.iter_unpack(keys), layout.MEMBER.iter_unpack(values), strict=True
            ):
                address, vni, local, vpn, flags, following, expires, station, unique, apart = fields
                if flags & layout.MEMBER_LEFT or vpn not in heads:
                    self._leavers.append((self._clock_seconds() + GRACE, number))
                    continue
                older[number] = following
                vtep = VTEP(layout.unpack_address(address), vni)
                member = Member(
                    number,
                    vpn,
                    vtep,
                    layout.unpack_address(local),
                    expires,
                    station,
                    bool(unique),
                    self._bits.get(vtep.nbma, 0) if flags & layout.MEMBER_HUB else 0,
                    apart,
                )
                self.by_number[number] = self._by_vtep[vtep] = member
        loose = dict(self.by_number)
        for vpn, head in heads.items():
            self._heads[vpn] = self._adopt_chain(head, older, loose)
            self._write_head(vpn, self._heads[vpn])
            self._add(self._usage, vpn, layout.USAGE.pack(0))
        self._adopt_admissions()
        for member in loose.values():
            self._join(member)
        return len(self.by_number)

    def _adopt_chain(
        self, number: int, older: dict[int, int], loose: dict[int, Member]
    ) -> Member | None:
        """Link the members of a chain as far as it holds; they are loose no more."""
        head = previous = loose.pop(number, None)
        while previous is not None:
            following = loose.pop(older[previous.number], None)
            previous.older = following
            if following is not None:
                following.newer = previous
            elif older[previous.number] != NOBODY:
                self._members.update(NUMBER.pack(previous.number), previous.pack())
            previous = following
        return head

    def _adopt_admissions(self) -> None:
        """Make the admitted VTEPs those of the members."""
        strangers: list[bytes] = []
        right: set[int] = set()
        for _, keys, values in self._senders.batches():
            for index, fields in enumerate(layout.SENDER.iter_unpack(values)):
                member = self.by_number.get(fields[0])
                if member is None:
                    size = layout.VTEP_KEY.size
                    strangers.append(keys[index * size : (index + 1) * size])
                elif fields == self._sender(member):
                    right.add(member.number)
        for key in strangers:
            self._senders.delete(key)
        for member in self.by_number.values():
            if member.number not in right:
                self._admit(member)

    # --- one step each ------------------------------------------------------------------------

    def _note(self, member: Member, registration: Registration) -> None:
        """Take up a registration.

        :raises DataplaneError: E2BIG if there are too many hubs, and nothing has changed.
        """
        apart = registration.apart
        hub = self._bit(member.vtep.nbma) if registration.hub else 0
        bits = layout.ALL_HUBS if hub or apart is None else sum(map(self._bit, apart))
        member.hub, member.apart = hub, bits
        member.station = registration.station
        member.unique = registration.unique
        left = registration.expires - self._clock_seconds()
        # Beyond a century is for ever; it must fit 64 bits.
        member.expires_ns = (
            layout.FOREVER if left > 3.2e9 else max(time.monotonic_ns() + int(left * 1e9), 0)
        )

    def _bit(self, hub: bytes) -> int:
        """The bit that stands for a hub, one that is free if it has none yet.

        :raises DataplaneError: E2BIG if all stand for hubs that members name.
        """
        bit = self._bits.get(hub)
        if bit is None:
            if len(self._bits) >= layout.MAX_HUBS:
                self._release_bits()
            free = layout.ALL_HUBS & ~sum(self._bits.values())
            if not free:
                raise DataplaneError(errno.E2BIG, "map hubs: no bit is free")
            bit = free & -free
            self._hubs.update(layout.pack_address(hub), layout.HUB.pack(bit))
            self._bits[hub] = bit
        return bit

    def _release_bits(self) -> None:
        """Forget the hubs that no member is, and none is apart from."""
        used = 0
        for member in self.by_number.values():
            used |= member.hub | (member.apart if member.apart != layout.ALL_HUBS else 0)
        for hub in [hub for hub, bit in self._bits.items() if not bit & used]:
            del self._bits[hub]
            self._hubs.delete(layout.pack_address(hub))

    def _join(self, member: Member) -> None:
        """Write a member that no chain holds."""
        number = NUMBER.pack(member.number)
        head = self._heads[member.vpn]
        member.older, member.newer = head, None
        try:
            self._members.update(number, member.pack())
            self._add(self._states, member.number, bytes(layout.STATE.size))
            self._admit(member)
        except DataplaneError:
            self._senders.delete(layout.pack_vtep(member.vtep))
            self._states.delete(number)
            self._members.delete(number)
            raise
        self._write_head(member.vpn, member)
        if head is not None:
            head.newer = member
        self._heads[member.vpn] = member
        self.by_number[member.number] = self._by_vtep[member.vtep] = member

    @staticmethod
    def _sender(member: Member) -> tuple[int, int, int]:
        return member.number, member.vpn, member.hub

    def _admit(self, member: Member) -> None:
        value = layout.SENDER.pack(*self._sender(member))
        self._senders.update(layout.pack_vtep(member.vtep), value)

    def _dismiss(self, member: Member) -> None:
        self._senders.delete(layout.pack_vtep(member.vtep))

    def _retire(self, member: Member) -> None:
        """Mark an unlinked member as left; floods that stand on it still find the next one."""
        self._members.update(NUMBER.pack(member.number), member.pack(left=True))
        del self.by_number[member.number]
        del self._by_vtep[member.vtep]
        self._leavers.append((self._clock_seconds() + GRACE, member.number))

    def _head(self, vpn: int, head: Member | None) -> bytes:
        """``struct vpn``."""
        number = NOBODY if head is None else head.number
        return layout.VPN.pack(number, *self.rules.fields(vpn))

    def _write_head(self, vpn: int, head: Member | None) -> None:
        self._vpns.update(NUMBER.pack(vpn), self._head(vpn, head))

    @staticmethod
    def _add(table: Map, number: int, value: bytes) -> None:
        """Write a value unless there is one."""
        try:
            table.update(NUMBER.pack(number), value, NO_EXIST)
        except DataplaneError as error:
            if error.errno != errno.EEXIST:
                raise

    def _new_number(self) -> int:
        """A number that no MAC entry can still name."""
        if self._next == self._keepsake.next_member:
            self._keepsake.reserve((self._next + _NUMBERS_RESERVED) & 0xFFFFFFFF or 1)
        number = self._next
        self._next = (number + 1) & 0xFFFFFFFF or 1
        if number in self.by_number:  # after four thousand million members
            return self._new_number()
        return number
