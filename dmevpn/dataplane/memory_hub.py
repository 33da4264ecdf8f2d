"""A hub's switch in memory: the fake that passes the real one's tests. Layer: edge.

:class:`MemorySwitch` is what would be the kernel's: it learns, floods and forwards real frames,
ages on a clock, and outlives the daemon. :class:`MemoryHubDataplane` is the daemon's side of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP
from dmevpn.dataplane.memory_switch import Member, MemorySwitch
from dmevpn.errors import StartError
from dmevpn.interfaces import (
    Finding,
    HeldMAC,
    HubListener,
    IHubDataplane,
    IHubListener,
    LearnedMAC,
    MemberCounters,
    Registration,
    VPNRules,
)

__all__ = ["MemoryHubDataplane", "MemorySwitch"]

#: MACs that are listed in one piece.
MACS_PER_PIECE = 1000

#: Events that name a second place before the last argument or as it, which may be gone.
_SECOND_PLACE = {
    "mac_moved": 2,
    "mac_held": 3,
    "move_refused": 2,
    "loop_seen": 1,
    "limit_reached": 1,
}
#: Where the member is that an event is about; the last argument, where nothing is said.
_FIRST_PLACE = {"mac_held": 2}
#: Events that are not about a member.
_OF_NO_MEMBER = ("sender_refused", "limit_reached")


@implementer(IHubDataplane)
class MemoryHubDataplane:
    """Drives a :class:`MemorySwitch` as a daemon drives the kernel's."""

    def __init__(
        self,
        clock: IReactorTime,
        switch: MemorySwitch,
        *,
        interface: str = "vx0",
        station_mac: bytes = b"\x02\x00\x00\x00\x00\xfe",
        mtu: int = 1450,
        address: bytes = b"",
        start_error: str | None = None,
    ) -> None:
        """Nothing happens before start.

        :param address: our underlay address; empty: there is no way to other hubs.
        :param start_error: text of the StartError that start is to raise.
        """
        self.interface = interface
        self.station_mac = station_mac
        self.mtu = mtu
        self._address = address
        self._clock = clock
        self._switch = switch
        self._start_error = start_error
        self._listener: IHubListener = HubListener()
        self._adopted: list[tuple[int, VTEP, bytes, Registration]] = []
        self._call: Any = None
        self._lost = 0

    def start(self, listener: IHubListener) -> None:
        """Take the switch over, or start it."""
        if self._start_error is not None:
            raise StartError(self._start_error)
        switch = self._switch
        self._adopted = [
            (member.vpn, vtep, member.local, member.registration)
            for vtep, member in switch.members.items()
        ]
        self._listener = listener
        self._lost = switch.counters.get("events_lost", 0)
        switch.attached = True
        switch.on_event = self._wake
        if switch.events:
            self._wake()

    def stop(self) -> Deferred[None]:
        """Forget everything."""
        self.kill()
        switch = self._switch
        switch.attached = False
        switch.vpns.clear()
        switch.rules.clear()
        switch.members.clear()
        switch.events.clear()
        return succeed(None)

    def hand_over(self) -> None:
        """The switch goes on."""
        self.kill()

    def kill(self) -> None:
        """Vanish as a killed daemon does: the switch goes on."""
        self._listener = HubListener()
        self._switch.on_event = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _wake(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(0, self._read)

    def _read(self) -> None:
        self._call = None
        waiting = list(self._switch.events)
        self._switch.events.clear()
        for name, *arguments in waiting:
            second = _SECOND_PLACE.get(name)
            if second is not None and arguments[second] not in self._switch.members:
                arguments[second] = None
            first = arguments[_FIRST_PLACE.get(name, -1)]
            if first in self._switch.members or name in _OF_NO_MEMBER:
                getattr(self._listener, name)(*arguments)
        lost = self._switch.counters.get("events_lost", 0)
        if lost != self._lost:
            self._lost = lost
            self._listener.events_lost()

    def local_address(self, peer: bytes) -> bytes:
        """Our underlay address towards another hub."""
        return self._address

    def add_vpn(self, vpn: int, rules: VPNRules) -> None:
        """Make room for a VPN, or give it other rules."""
        self._switch.vpns.setdefault(vpn, {})
        self._switch.rules[vpn] = rules

    def remove_vpn(self, vpn: int) -> None:
        """Forget a VPN with its members and MACs."""
        self._switch.vpns.pop(vpn, None)
        for vtep in [v for v, m in self._switch.members.items() if m.vpn == vpn]:
            del self._switch.members[vtep]

    def add_member(self, vpn: int, vtep: VTEP, local: bytes, registration: Registration) -> None:
        """Admit a VTEP, or note its renewed registration."""
        if not vtep.vni:
            raise ValueError(f"{vtep} has no VNI")
        if vpn not in self._switch.vpns:
            raise ValueError(f"VPN {vpn} was not added")
        member = self._switch.members.get(vtep)
        if member is None:
            self._switch.members[vtep] = Member(vpn, local, registration)
        elif member.vpn != vpn:
            raise ValueError(f"{vtep} is a member of VPN {member.vpn}")
        else:
            member.local, member.registration = local, registration

    def remove_member(self, vpn: int, vtep: VTEP) -> None:
        """Forget a VTEP and its MACs."""
        member = self._switch.members.get(vtep)
        if member is None or member.vpn != vpn:
            return
        del self._switch.members[vtep]
        macs = self._switch.vpns[vpn]
        for mac in [mac for mac, entry in macs.items() if entry.vtep == vtep]:
            del macs[mac]

    def adopted(self) -> list[tuple[int, VTEP, bytes, Registration]]:
        """Members that start has found."""
        return self._adopted

    def lookup(self, vpn: int, mac: bytes) -> VTEP | None:
        """Where a frame for this MAC would go now; None if it would be flooded."""
        return self._switch.find(vpn, mac)

    def entry(self, vpn: int, mac: bytes) -> LearnedMAC | None:
        """What the table has of a MAC, aged or not."""
        found = self._switch.vpns.get(vpn, {}).get(mac)
        if found is None:
            return None
        return LearnedMAC(mac, found.vtep, self._clock.seconds() - found.seen, False)

    def entries(self, vpn: int) -> Iterator[LearnedMAC]:
        """The MAC table of a VPN."""
        now = self._clock.seconds()
        for mac, entry in list(self._switch.vpns.get(vpn, {}).items()):
            yield LearnedMAC(mac, entry.vtep, now - entry.seen, False)

    def tables(self, vpn: int | None) -> Iterator[tuple[int, LearnedMAC] | None]:
        """The MAC table of a VPN or those of all, in pieces."""
        for each in sorted(self._switch.vpns) if vpn is None else (vpn,):
            for number, entry in enumerate(self.entries(each), 1):
                yield each, entry
                if number % MACS_PER_PIECE == 0:
                    yield None

    def mac_count(self, vpn: int) -> int:
        """How many MACs the table of a VPN holds."""
        return len(self._switch.vpns.get(vpn, {}))

    def forget(self, vpn: int, mac: bytes) -> None:
        """Remove one MAC."""
        self._switch.vpns.get(vpn, {}).pop(mac, None)

    def held(self) -> Iterator[HeldMAC]:
        """The MACs that are held now."""
        return self._switch.held()

    def probe(self, vpn: int, vtep: VTEP) -> None:
        """Send a loop probe into a member's site."""
        member = self._switch.members.get(vtep)
        if member is not None and member.vpn == vpn and not member.registration.hub:
            self._switch.probe(vtep)

    def age(self, max_idle: float, keep: Mapping[int, Iterable[bytes]]) -> None:
        """Remove silent MACs."""
        now = self._clock.seconds()
        for vpn, macs in self._switch.vpns.items():
            kept = set(keep.get(vpn, ()))
            for mac, entry in list(macs.items()):
                if mac in kept:
                    entry.seen = now
                elif now - entry.seen > max_idle:
                    del macs[mac]
                    self._listener.mac_aged(vpn, mac)

    def counters(self) -> dict[str, int]:
        """Frames dropped, by reason."""
        return dict(self._switch.counters)

    def examine(self) -> list[Finding]:
        """A switch in memory has no device that could be wrong."""
        return []

    def member_counters(self, vpn: int, vtep: VTEP) -> MemberCounters | None:
        """Counters of one member; None if it is none."""
        member = self._switch.members.get(vtep)
        if member is None or member.vpn != vpn:
            return None
        return MemberCounters(
            member.rx_packets,
            member.rx_bytes,
            member.tx_packets,
            member.tx_bytes,
            member.flooded,
            member.dropped,
            member.limited,
            sum(entry.vtep == vtep for entry in self._switch.vpns[vpn].values()),
        )
