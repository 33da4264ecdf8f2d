"""The data plane of a hub: its switch. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zope.interface import Attribute, Interface, implementer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dmevpn.addresses import VTEP
    from dmevpn.interfaces.finding import Finding

__all__ = [
    "HeldMAC",
    "HubListener",
    "IHubDataplane",
    "IHubListener",
    "LearnedMAC",
    "MemberCounters",
    "Registration",
    "Sticky",
    "VPNRules",
]


class Registration(NamedTuple):
    """What the switch knows of a member's registration, and tells a restarted hub daemon."""

    station: bytes
    """MAC address that was registered."""
    unique: bool
    """Whether it was registered as unique (U bit)."""
    expires: float
    """When it runs out, on the daemon's monotonic clock (CLOCK_MONOTONIC seconds)."""
    hub: bool = False
    """Whether it is another hub of the VPN: what came from a hub never goes to it."""
    apart: frozenset[bytes] | None = frozenset()
    """Underlay addresses of hubs whose floods it does not get from us, since it is a member of
    theirs as well; None: of no hub. A hub's is None."""


class MemberCounters(NamedTuple):
    """Frames of one member, as the switch counts them."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    flooded: int
    """Received frames that were broadcast, multicast or of unknown destination."""
    dropped: int
    """Received frames that were dropped for any reason."""
    limited: int
    """Of these, those that were beyond its budget of floods."""
    macs: int
    """MACs that are at it."""


class LearnedMAC(NamedTuple):
    """One entry of the switch's table."""

    mac: bytes
    vtep: VTEP
    idle: float
    """Seconds since a frame of it was last seen by the switch."""
    static: bool


class HeldMAC(NamedTuple):
    """A MAC that flipped between two members, and is held at one of them (RFC 7432 §15.1)."""

    vpn: int
    mac: bytes
    vtep: VTEP
    other: VTEP | None
    """Where it sent from as well; None if that has left."""
    seconds: float
    """For how much longer."""


class Sticky(NamedTuple):
    """MACs that do not move from the member that has them."""

    mac: bytes
    prefix_length: int
    """Bits of it that count; 0 is all MACs. The longest prefix holds."""
    nbma: bytes = b""
    """The underlay address that they belong to; empty: of the member that is the first to have
    each."""


class VPNRules(NamedTuple):
    """What the switch lets the members of a VPN do."""

    mac_limit: int = 16384
    """MACs of the VPN: as many as a large site's switches hold, and a sixty-fourth of what all
    VPNs together may have, so that a few VPNs cannot take it all."""
    site_limit: int = 8192
    """Those at one member: half of them, so that no site alone can take it all."""
    flood_rate: int = 10_000
    """Frames a second that one site may have flooded; 0: no limit. Each costs about 2 µs of CPU
    per other member; ordinary sites flood a few dozen a second. What another hub sends is that of
    many sites, and has been under their budgets there."""
    flood_burst: int = 20_000
    """As many may come at once: ARP of a site that comes back, or a burst to a MAC just
    forgotten."""
    moves: int = 5
    """Moves of a MAC that are followed; one more, and it is held. 0: any number."""
    moves_seconds: int = 180
    """Seconds in which they count. Both are the defaults of RFC 7432 §15.1."""
    sticky: tuple[Sticky, ...] = ()


class IHubDataplane(Interface):
    """The learning switch behind one hub data interface; VPNs are named by their index.

    Declarative like ISpokeDataplane. Learning, flooding and ageing go on in the kernel while no
    daemon runs.
    """

    station_mac = Attribute("MAC address of the device; the NHS's own address. Valid after start.")
    mtu = Attribute("MTU of the vxlan device in octets; valid after start.")
    interface = Attribute("Name of the device.")

    def start(listener: IHubListener) -> None:
        """Make or check the device, load or adopt the switch, attach it, report events.

        :raises StartError: without device, privilege, libbpf, bpffs or a new enough kernel.
        """

    def local_address(peer: bytes) -> bytes:
        """Our underlay address towards another hub; empty if there is no way to it."""

    def add_vpn(vpn: int, rules: VPNRules) -> None:
        """Make room for a VPN; again for other rules.

        :raises DataplaneError: if there is none.
        """

    def remove_vpn(vpn: int) -> None:
        """Forget a VPN with its members and MACs."""

    def add_member(vpn: int, vtep: VTEP, local: bytes, registration: Registration) -> None:
        """Admit frames of a VTEP into a VPN and flood to it; again for a refresh.

        :param local: our underlay address towards it (frames are sent from it); may be empty.
        """

    def remove_member(vpn: int, vtep: VTEP) -> None:
        """Stop admitting and flooding; its MACs are forgotten too (no mac_aged for them)."""

    def adopted() -> list[tuple[int, VTEP, bytes, Registration]]:
        """Members of an earlier run, found by start: VPN, VTEP, local address, registration."""

    def lookup(vpn: int, mac: bytes) -> VTEP | None:
        """Where the switch would send a frame for this MAC now; None if it would flood it."""

    def entry(vpn: int, mac: bytes) -> LearnedMAC | None:
        """The switch's entry of a MAC, aged or not; cheap at any size of the table."""

    def entries(vpn: int) -> Iterator[LearnedMAC]:
        """The MAC table of a VPN."""

    def tables(vpn: int | None) -> Iterator[tuple[int, LearnedMAC] | None]:
        """The MAC table of a VPN, or those of all (None), to be read over many reactor turns.

        None among them: some milliseconds of work are done, and others should get their turn.
        """

    def mac_count(vpn: int) -> int:
        """How many MACs the table of a VPN holds; cheap at any size."""

    def forget(vpn: int, mac: bytes) -> None:
        """Remove one MAC; if it was held, it is no more."""

    def held() -> Iterator[HeldMAC]:
        """The MACs that are held now."""

    def probe(vpn: int, vtep: VTEP) -> None:
        """Send a loop probe into a member's site; loop_seen tells if it comes back."""

    def age(max_idle: float, keep: Mapping[int, Iterable[bytes]]) -> None:
        """Remove MACs idle for longer than max_idle seconds, each reported by mac_aged.

        :param keep: per VPN the MACs to be refreshed instead: answered ones, whose traffic
            takes shortcuts that the switch does not see.
        """

    def counters() -> dict[str, int]:
        """Frames dropped, by reason (``unregistered``, …), and other numbers of the switch."""

    def member_counters(vpn: int, vtep: VTEP) -> MemberCounters | None:
        """Counters of one member; None if it is none."""

    def examine() -> list[Finding]:
        """What is wrong with the device and the switch on it, read now."""

    def stop() -> Any:
        """Detach and unpin the switch, remove the device if it is ours; returns a Deferred."""

    def hand_over() -> None:
        """Stop, and leave the switch and its device to a successor, which adopts them."""


class IHubListener(Interface):
    """What a hub data plane reports. Events are hints; the table is the truth."""

    def mac_learned(vpn: int, mac: bytes, vtep: VTEP) -> None:
        """A frame from a new (or long silent) MAC came from a member."""

    def mac_moved(vpn: int, mac: bytes, old: VTEP | None, new: VTEP) -> None:
        """A known MAC now sends from another member; old is None if that is gone."""

    def mac_aged(vpn: int, mac: bytes) -> None:
        """A MAC was removed for silence."""

    def mac_held(vpn: int, mac: bytes, vtep: VTEP, other: VTEP | None, seconds: float) -> None:
        """A MAC that moved too often stays at a member for so many seconds.

        :param vtep: where it is held, which need not be where it was last.
        :param other: where else it sends from.
        """

    def move_refused(vpn: int, mac: bytes, owner: VTEP | None, vtep: VTEP) -> None:
        """A frame of a sticky MAC came from another member than its own (rate-limited).

        :param owner: the member that it is at; None if none has it now.
        """

    def flood_limited(vpn: int, vtep: VTEP) -> None:
        """A member had more to flood than its budget (rate-limited)."""

    def loop_seen(vpn: int, origin: VTEP | None, vtep: VTEP) -> None:
        """A probe that was sent to one member came back from another, or the same one: the two
        sites are connected behind our back (rate-limited)."""

    def limit_reached(vpn: int, vtep: VTEP | None) -> None:
        """A MAC was not learned because the VPN's table is full (rate-limited).

        :param vtep: the member whose share of it is full; None: all of it is.
        """

    def sender_refused(vtep: VTEP) -> None:
        """A frame came from an address and VNI that no member has (rate-limited)."""

    def events_lost() -> None:
        """Events may be missing: compare with entries()."""

    def mtu_changed(mtu: int) -> None:
        """The device has another MTU."""

    def entries_repaired(count: int) -> None:
        """Somebody changed members of the switch behind our back; they are put right now."""

    def devices_repaired(faults: str) -> None:
        """Somebody changed the device, or took the switch off it, in the way that ``faults`` says;
        it is put right."""


@implementer(IHubListener)
class HubListener:
    """Ignores every event of a hub data plane."""

    def mac_learned(self, vpn: int, mac: bytes, vtep: VTEP) -> None: ...
    def mac_moved(self, vpn: int, mac: bytes, old: VTEP | None, new: VTEP) -> None: ...
    def mac_aged(self, vpn: int, mac: bytes) -> None: ...
    def mac_held(
        self, vpn: int, mac: bytes, vtep: VTEP, other: VTEP | None, seconds: float
    ) -> None: ...
    def move_refused(self, vpn: int, mac: bytes, owner: VTEP | None, vtep: VTEP) -> None: ...
    def flood_limited(self, vpn: int, vtep: VTEP) -> None: ...
    def loop_seen(self, vpn: int, origin: VTEP | None, vtep: VTEP) -> None: ...
    def limit_reached(self, vpn: int, vtep: VTEP | None) -> None: ...
    def sender_refused(self, vtep: VTEP) -> None: ...
    def events_lost(self) -> None: ...
    def mtu_changed(self, mtu: int) -> None: ...
    def entries_repaired(self, count: int) -> None: ...
    def devices_repaired(self, faults: str) -> None: ...
