"""A hub's switch in memory: the fake that passes the real one's tests. Layer: edge.

:class:`MemorySwitch` is what would be the kernel's: it learns, floods and forwards real frames,
ages on a clock, and outlives the daemon. :class:`MemoryHubDataplane` is the daemon's side of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, is_station_mac
from dmevpn.errors import StartError
from dmevpn.interfaces import (
    Finding,
    HubListener,
    IHubDataplane,
    IHubListener,
    LearnedMAC,
    MemberCounters,
    Registration,
)

__all__ = ["MemoryHubDataplane", "MemorySwitch"]

#: Events that wait for the daemon; the kernel's ring buffer has room for about as many.
MAX_EVENTS = 16384
#: MACs that are listed in one piece.
MACS_PER_PIECE = 1000

_LINK_LOCAL = b"\x01\x80\xc2\x00\x00"

Event = tuple[Any, ...]


@dataclass(slots=True)
class _Member:
    vpn: int
    local: bytes
    registration: Registration
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    flooded: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _MAC:
    vtep: VTEP
    seen: float


@dataclass(slots=True)
class MemorySwitch:
    """Members, MACs and forwarding of one hub device.

    :param clock: what MACs age by.
    :param transmit: called with our underlay address, a member, and a frame for it.
    """

    clock: IReactorTime
    transmit: Callable[[bytes, VTEP, bytes], None]
    mac_limit: int = 16384
    ageing: float = 300.0
    vpns: dict[int, dict[bytes, _MAC]] = field(default_factory=dict)
    members: dict[VTEP, _Member] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    attached: bool = False
    on_event: Callable[[], None] | None = None
    """Called when the first event waits."""
    events: deque[Event] = field(default_factory=deque)

    def receive(self, sender: VTEP, frame: bytes) -> None:
        """A frame came out of the tunnel of a sender."""
        if not self.attached:
            return
        member = self.members.get(sender)
        if member is None:
            self._count("unregistered")
            self._emit(("sender_refused", sender))
            return
        member.rx_packets += 1
        member.rx_bytes += len(frame)
        destination, source = frame[:6], frame[6:12]
        if not is_station_mac(source):
            self._drop(member, "bad_source")
            return
        if destination[:5] == _LINK_LOCAL and destination[5] < 0x10:
            self._drop(member, "link_local")
            return
        from_hub = member.registration.hub
        left_hub = self._learn(member.vpn, source, sender) and not from_hub
        receiver = None if left_hub else self.find(member.vpn, destination)
        if receiver == sender:
            self._drop(member, "reflected")
        elif receiver is not None and from_hub and self.members[receiver].registration.hub:
            self._drop(member, "split_horizon")
        elif receiver is not None:
            self._send(receiver, frame)
        else:
            member.flooded += 1
            for vtep, other in list(self.members.items()):
                if vtep == sender or other.vpn != member.vpn:
                    continue
                _, _, _, hub, apart = other.registration
                if not from_hub or not (hub or apart is None or sender.nbma in apart):
                    self._send(vtep, frame)

    def find(self, vpn: int, mac: bytes) -> VTEP | None:
        """The member that a MAC was last seen at, unless it has been silent for too long."""
        entry = self.vpns.get(vpn, {}).get(mac)
        if entry is None or self.clock.seconds() - entry.seen > self.ageing:
            return None
        return entry.vtep

    def _learn(self, vpn: int, mac: bytes, sender: VTEP) -> bool:
        """Learn a MAC; whether it was behind a hub until now."""
        macs = self.vpns[vpn]
        now = self.clock.seconds()
        entry = macs.get(mac)
        if entry is None:
            if len(macs) >= self.mac_limit:
                self._count("not_learned")
                self._emit(("limit_reached", vpn))
                return False
            macs[mac] = _MAC(sender, now)
            self._emit(("mac_learned", vpn, mac, sender))
            return False
        silent = now - entry.seen > self.ageing
        previous, entry.vtep, entry.seen = entry.vtep, sender, now
        if previous != sender:
            self._emit(("mac_moved", vpn, mac, previous, sender))
            return self.members[previous].registration.hub
        if silent:
            self._emit(("mac_learned", vpn, mac, sender))
        return False

    def _send(self, vtep: VTEP, frame: bytes) -> None:
        member = self.members[vtep]
        member.tx_packets += 1
        member.tx_bytes += len(frame)
        self.transmit(member.local, vtep, frame)

    def _drop(self, member: _Member, reason: str) -> None:
        member.dropped += 1
        self._count(reason)

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def _emit(self, event: Event) -> None:
        if len(self.events) >= MAX_EVENTS:
            self._count("events_lost")
            return
        self.events.append(event)
        if len(self.events) == 1 and self.on_event is not None:
            self.on_event()

    def lose_events(self) -> None:
        """Lose what waits, as a ring buffer does that nobody has read in time."""
        lost = len(self.events)
        self.counters["events_lost"] = self.counters.get("events_lost", 0) + lost
        self.events.clear()
        if self.on_event is not None:
            self.on_event()


#: Events whose last argument need not be a member any more.
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
        start_error: str | None = None,
    ) -> None:
        """Nothing happens before start.

        :param start_error: text of the StartError that start is to raise.
        """
        self.interface = interface
        self.station_mac = station_mac
        self.mtu = mtu
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
        switch.members.clear()
        switch.events.clear()
        return succeed(None)

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
            if name == "mac_moved" and arguments[2] not in self._switch.members:
                arguments[2] = None
            if arguments[-1] in self._switch.members or name in _OF_NO_MEMBER:
                getattr(self._listener, name)(*arguments)
        lost = self._switch.counters.get("events_lost", 0)
        if lost != self._lost:
            self._lost = lost
            self._listener.events_lost()

    def add_vpn(self, vpn: int) -> None:
        """Make room for a VPN."""
        self._switch.vpns.setdefault(vpn, {})

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
            self._switch.members[vtep] = _Member(vpn, local, registration)
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
        )
