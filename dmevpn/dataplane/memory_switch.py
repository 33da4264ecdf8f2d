"""A hub's switch in memory: what would be the kernel's part of it. Layer: edge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NamedTuple, Self

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, is_station_mac
from dmevpn.interfaces import HeldMAC, Registration, Sticky, VPNRules

__all__ = ["HELD_RATE", "HOLD", "MAX_EVENTS", "MemorySwitch"]

#: Events that wait for the daemon; the kernel's ring buffer has room for about as many.
MAX_EVENTS = 16384
#: Seconds that a MAC is held which flips; each further hold takes twice as long, six times.
HOLD: Final = 10.0
_MAX_HOLDS: Final = 6
#: A MAC has settled where it stays for so many seconds.
_SETTLED: Final = 1.0
#: A held MAC has fallen silent that was not seen for so many seconds.
_SILENT: Final = 2.0
#: The same where hubs may have changed places.
_LONG_SILENT: Final = 4.0
#: Frames a second that a member may have flooded in the name of held MACs, or while a loop leads
#: through its site; as many at once.
HELD_RATE: Final = 100
#: Seconds for which a site counts as part of a loop after a probe has come back from it.
_LOOPING: Final = 4.5

_LINK_LOCAL = b"\x01\x80\xc2\x00\x00"
#: What a loop probe begins with, behind its addresses.
_PROBE = b"\x88\xb6probe"
#: Other switches that may pass one on.
_PROBE_HOPS: Final = 3

Event = tuple[Any, ...]

_secrets = count(1)


@dataclass(slots=True)
class Member:
    """Who is admitted, and what it has sent and received."""

    vpn: int
    local: bytes
    registration: Registration
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    flooded: int = 0
    dropped: int = 0
    limited: int = 0
    flood_due: float = 0.0
    held_due: float = 0.0
    loop_until: float = 0.0


@dataclass(slots=True)
class MAC:
    """Where a MAC is, and how it came there."""

    vtep: VTEP
    seen: float
    home: VTEP
    arrived: float
    mark: float = 0.0
    """When ``moves`` began to count; the end of the hold, if it is held."""
    moves: int = 0
    is_held: bool = False
    holds: int = 0
    other: VTEP | None = None

    def held_for(self, now: float) -> float:
        """Seconds for which it is held still; 0: it is not."""
        return max(self.mark - now, 0.0) if self.is_held else 0.0


@dataclass(slots=True)
class MemorySwitch:
    """Members, MACs and forwarding of one hub device.

    :param clock: what MACs age by.
    :param transmit: called with our underlay address, a member, and a frame for it.
    """

    clock: IReactorTime
    transmit: Callable[[bytes, VTEP, bytes], None]
    ageing: float = 300.0
    vpns: dict[int, dict[bytes, MAC]] = field(default_factory=dict)
    rules: dict[int, VPNRules] = field(default_factory=dict)
    members: dict[VTEP, Member] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    attached: bool = False
    on_event: Callable[[], None] | None = None
    """Called when the first event waits."""
    events: deque[Event] = field(default_factory=deque)
    secret: bytes = field(default_factory=lambda: next(_secrets).to_bytes(8, "big"))
    """By which it knows its own loop probes."""

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
        elif destination[:5] == _LINK_LOCAL and destination[5] < 0x10:
            self._drop(member, "link_local")
        elif frame[12:].startswith(_PROBE):
            self._pass_probe(member, sender, frame)
        else:
            before = self.find(member.vpn, source)
            fault = self._learn(member.vpn, source, sender)
            if fault:
                self._drop(member, fault)
                return
            # A hub that it was behind until now has to see it, wherever else it goes.
            left_hub = (
                before not in (None, sender)
                and before in self.members
                and self.members[before].registration.hub
                and not member.registration.hub
            )
            self._forward(member, sender, frame, flood=left_hub)

    def _pass_probe(self, member: Member, sender: VTEP, frame: bytes) -> None:
        """Ours end here; those of others go on a few times, and nothing is learned from them."""
        probe = _Probe.decode(frame)
        if probe.secret == self.secret:
            if not member.registration.hub:
                member.loop_until = self.clock.seconds() + _LOOPING
            self._emit(("loop_seen", member.vpn, probe.vtep, sender))
        elif 0 < probe.hops <= _PROBE_HOPS:
            frame = frame[:12] + probe._replace(hops=probe.hops - 1).encode()
            self._forward(member, sender, frame, flood=True)
            return
        self._drop(member, "loop_probe")

    def _forward(self, member: Member, sender: VTEP, frame: bytes, *, flood: bool) -> None:
        from_hub = member.registration.hub
        receiver = None if flood else self.find(member.vpn, frame[:6])
        if receiver == sender:
            self._drop(member, "reflected")
        elif receiver is not None and from_hub and self.members[receiver].registration.hub:
            self._drop(member, "split_horizon")
        elif receiver is not None:
            self._send(receiver, frame)
        elif self._may_flood(member, sender, frame[6:12]):
            for vtep, other in list(self.members.items()):
                if vtep == sender or other.vpn != member.vpn:
                    continue
                _, _, _, hub, apart = other.registration
                if not from_hub or not (hub or apart is None or sender.nbma in apart):
                    self._send(vtep, frame)

    def _may_flood(self, member: Member, sender: VTEP, source: bytes) -> bool:
        member.flooded += 1
        now = self.clock.seconds()
        entry = self.vpns[member.vpn].get(source)
        looping = now < member.loop_until
        if looping or (entry is not None and entry.held_for(now)):
            due = max(member.held_due, now)
            if due - now > 1.0:
                self._drop(member, "loop_flood" if looping else "held_flood")
                return False
            member.held_due = due + 1 / HELD_RATE
        rules = self.rules[member.vpn]
        if rules.flood_rate and not member.registration.hub:
            due = max(member.flood_due, now)
            if due - now > rules.flood_burst / rules.flood_rate:
                member.limited += 1
                self._drop(member, "flood_rate")
                self._emit(("flood_limited", member.vpn, sender))
                return False
            member.flood_due = due + 1 / rules.flood_rate
        return True

    def find(self, vpn: int, mac: bytes) -> VTEP | None:
        """The member that a MAC was last seen at, unless it has been silent for too long."""
        entry = self.vpns.get(vpn, {}).get(mac)
        if entry is None or self.clock.seconds() - entry.seen > self.ageing:
            return None
        return entry.vtep

    def held(self) -> Iterator[HeldMAC]:
        """The MACs that are held now."""
        now = self.clock.seconds()
        for vpn, macs in self.vpns.items():
            for mac, entry in list(macs.items()):
                if seconds := entry.held_for(now):
                    other = entry.other if entry.other in self.members else None
                    yield HeldMAC(vpn, mac, entry.vtep, other, seconds)

    def probe(self, vtep: VTEP) -> None:
        """Send a loop probe to a member."""
        frame = b"\xff" * 6 + b"\x02" + bytes(4) + b"\xfe"
        frame += _Probe(self.secret, _PROBE_HOPS, vtep).encode()
        self.transmit(self.members[vtep].local, vtep, frame)

    # --- learning -------------------------------------------------------------------------

    def _learn(self, vpn: int, mac: bytes, sender: VTEP) -> str:
        """Note where a MAC sends from; why its frame is to be dropped, if it is."""
        now = self.clock.seconds()
        entry = self.vpns[vpn].get(mac)
        if entry is None:
            return self._learn_new(vpn, mac, sender)
        if entry.vtep != sender:
            return self._move(vpn, mac, entry, sender)
        silent = now - entry.seen > self.ageing
        entry.seen = now
        if silent:
            self._emit(("mac_learned", vpn, mac, sender))
        return ""

    def _learn_new(self, vpn: int, mac: bytes, sender: VTEP) -> str:
        line = self._sticky(vpn, mac)
        # What another hub lets pass is for that hub to decide, unless a site here has the MAC.
        is_hub = self.members[sender].registration.hub
        if line is not None and line.nbma and line.nbma != sender.nbma and not is_hub:
            self._emit(("move_refused", vpn, mac, None, sender))
            return "sticky_mac"
        macs, rules = self.vpns[vpn], self.rules[vpn]
        at_site = sum(entry.vtep == sender for entry in macs.values())
        is_full = at_site >= rules.site_limit and not is_hub
        if is_full or len(macs) >= rules.mac_limit:
            self._count("not_learned")
            site = sender if is_full else None
            self._emit(("limit_reached", vpn, site))
            return ""
        now = self.clock.seconds()
        macs[mac] = MAC(sender, now, sender, now)
        self._emit(("mac_learned", vpn, mac, sender))
        return ""

    def _move(self, vpn: int, mac: bytes, entry: MAC, sender: VTEP) -> str:
        now = self.clock.seconds()
        line = self._sticky(vpn, mac)
        known = now - entry.seen <= self.ageing
        previous = entry.vtep
        fixed = line is not None and line.nbma and not self.members[sender].registration.hub
        if line is not None and (line.nbma != sender.nbma if fixed else known):
            self._emit(("move_refused", vpn, mac, previous, sender))
            return "sticky_mac"
        changed = known and self._may_change_hubs(entry, sender)
        if known and entry.held_for(now):
            if not self._hold_follows(entry, sender, changed):
                return "duplicate_mac"
            if entry.other == sender:
                entry.other = previous
        elif (
            known
            and not (changed and now - entry.arrived >= _SETTLED)
            and self._flips(self.rules[vpn], entry)
        ):
            self._hold(vpn, mac, entry, sender)
            return "" if entry.vtep == sender else "duplicate_mac"
        if not known or now - entry.arrived >= _SETTLED:
            entry.home = previous if known else sender
        if not known:
            entry.moves = 0
        entry.vtep, entry.arrived, entry.seen = sender, now, now
        self._emit(("mac_moved", vpn, mac, previous, sender))
        return ""

    def _sticky(self, vpn: int, mac: bytes) -> Sticky | None:
        number = int.from_bytes(mac, "big")
        return max(
            (
                line
                for line in self.rules[vpn].sticky
                if (number ^ int.from_bytes(line.mac, "big")) >> (48 - line.prefix_length) == 0
            ),
            key=lambda line: line.prefix_length,
            default=None,
        )

    def _may_change_hubs(self, entry: MAC, sender: VTEP) -> bool:
        """Whether a site that is registered with a hub and with us may have changed from one to the
        other: its MACs go behind the hub, or come from there."""
        if entry.vtep not in self.members:
            return False
        ends = {vtep: self.members[vtep].registration for vtep in (entry.vtep, sender)}
        hubs = [vtep for vtep, registration in ends.items() if registration.hub]
        if len(hubs) != 1:
            return False
        (apart,) = (registration.apart for registration in ends.values() if not registration.hub)
        return apart is None or hubs[0].nbma in apart

    def _hold_follows(self, entry: MAC, sender: VTEP, changed: bool) -> bool:
        """Whether a held MAC has gone to where it sends from now. It may be held at the wrong place
        where frames may come by other hubs: then a longer silence there tells.

        :param changed: whether its site may have changed its hub.
        """
        silence = self.clock.seconds() - entry.seen
        if changed and entry.other != sender:
            return silence > _SILENT
        if entry.vtep not in self.members or silence <= _LONG_SILENT:
            return False
        ends = [self.members[vtep].registration for vtep in (entry.vtep, sender)]
        return any(registration.hub or registration.apart for registration in ends)

    def _flips(self, rules: VPNRules, entry: MAC) -> bool:
        """Whether it has moved too often; counts this move."""
        now = self.clock.seconds()
        if not rules.moves:
            return False
        if entry.is_held:
            if now - entry.mark > HOLD * 2 ** min(entry.holds, _MAX_HOLDS):
                entry.holds = 0
        elif entry.moves and now - entry.mark <= rules.moves_seconds:
            if entry.moves >= rules.moves:
                return True
            entry.moves += 1
            return False
        else:
            entry.holds = 0
        entry.mark, entry.moves, entry.is_held = now, 1, False
        return False

    def _hold(self, vpn: int, mac: bytes, entry: MAC, sender: VTEP) -> None:
        now = self.clock.seconds()
        at = entry.vtep
        entry.other = sender
        if now - entry.arrived < _SETTLED and entry.home in self.members:
            entry.other = at if sender == entry.home else sender
            entry.vtep = entry.home
        holds = min(entry.holds, _MAX_HOLDS)
        seconds = HOLD * 2**holds
        entry.mark, entry.is_held, entry.holds = now + seconds, True, holds + 1
        self._emit(("mac_held", vpn, mac, entry.vtep, entry.other, seconds))

    # --- the rest -------------------------------------------------------------------------

    def _send(self, vtep: VTEP, frame: bytes) -> None:
        member = self.members[vtep]
        member.tx_packets += 1
        member.tx_bytes += len(frame)
        self.transmit(member.local, vtep, frame)

    def _drop(self, member: Member, reason: str) -> None:
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


class _Probe(NamedTuple):
    """What a loop probe has behind its addresses."""

    secret: bytes
    hops: int
    vtep: VTEP
    """Whom it was sent to."""

    def encode(self) -> bytes:
        octets = self.vtep.nbma + (self.vtep.vni or 0).to_bytes(3, "big")
        head = _PROBE + self.secret + bytes([self.hops, len(octets)])
        return (head + octets).ljust(48, b"\0")

    @classmethod
    def decode(cls, frame: bytes) -> Self:
        rest = frame[12 + len(_PROBE) :]
        octets = rest[10 : 10 + rest[9]]
        return cls(rest[:8], rest[8], VTEP(octets[:-3], int.from_bytes(octets[-3:], "big")))
