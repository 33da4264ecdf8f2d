"""The seams of dmevpn: what each layer asks of its neighbours. Layer: base.

Methods of zope interfaces have no ``self``. Listener interfaces have a mixin that ignores every
event, for those who want only some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zope.interface import Attribute, Interface, implementer

if TYPE_CHECKING:
    from dmevpn.addresses import VPNID, VTEP, Path

__all__ = [
    "CHECKS",
    "Claim",
    "FDBEntry",
    "Finding",
    "GREDevice",
    "HeldMAC",
    "HubListener",
    "IAuthenticator",
    "ICacheListener",
    "IControlDevice",
    "IControlDeviceListener",
    "IController",
    "IDatagramReceiver",
    "IDatagramTransport",
    "IHubDataplane",
    "IHubListener",
    "ILayer3Dataplane",
    "ILayer3Listener",
    "ILink",
    "IPacketFilter",
    "IPeerTable",
    "IRegistrationPolicy",
    "IRequestIDStore",
    "IScripts",
    "ISpokeDataplane",
    "ISpokeListener",
    "IStateStore",
    "IStation",
    "InterfaceEntry",
    "Layer3Listener",
    "LearnedMAC",
    "MemberCounters",
    "PacketLimits",
    "PeerEntry",
    "Placement",
    "PlaneCounters",
    "Registration",
    "SpokeListener",
    "Sticky",
    "VPNRules",
]


# --- wire -----------------------------------------------------------------------------------


class IDatagramReceiver(Interface):
    """Who takes datagrams from a transport."""

    def datagrams_received(datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """GRE payloads of protocol type 0x2001 arrived, in this order; never raises."""

    def flooded(peer: bytes, dropped: int) -> None:
        """Packets of a peer were dropped in the last second since it sends too many; an empty
        address stands for strangers together."""

    def resumed() -> None:
        """The transport carries again after it did not for a while: in both directions anything
        may have been lost, and our address may be another. Called once per interruption."""


class IDatagramTransport(Interface):
    """Carries GRE payloads (NHRP with its VPN headers) to and from peers."""

    def start(receiver: IDatagramReceiver) -> None:
        """Open what is needed and deliver from now on.

        :raises StartError: without the privilege, or if an address is not ours.
        """

    def send(data: bytes, path: Path) -> None:
        """Send one payload to ``path.peer`` from ``path.local`` (empty: the kernel's choice).

        Losing it is no error, as on any datagram network; it is counted.
        """

    def know(peer: bytes) -> None:
        """Give an underlay address a budget of its own: strangers share one."""

    def forget(peer: bytes) -> None:
        """It is a stranger again."""

    def set_rate(rate: int) -> None:
        """Take no more packets a second from one peer than this; 0: no limit."""

    def stop() -> Any:
        """Close; returns a Deferred that fires when nothing is delivered any more."""


class PacketLimits(NamedTuple):
    """How many packets may come, as nanoseconds (GCRA)."""

    gap: int
    """Between two packets of one source; 0: there are no limits."""
    burst: int
    """How much of that may be due at once."""
    strangers_gap: int
    """The same of all sources together that are not known."""
    strangers_burst: int


class IPacketFilter(Interface):
    """Keeps to limits before packets are queued: in the kernel."""

    def open(limits: PacketLimits) -> None:
        """Get ready.

        :raises StartError: with the reason why there is none.
        """

    def attach(sock: Any, *, ipv4: bool) -> None:
        """Filter what a raw GRE socket receives from now on: NHRP only, within the limits."""

    def set_limits(limits: PacketLimits) -> None:
        """Keep to other limits."""

    def know(peer: bytes) -> None:
        """Give an underlay address a budget of its own."""

    def forget(peer: bytes) -> None:
        """Take it back; it counts as a stranger."""

    def drops() -> list[int]:
        """Packets dropped so far: above a known peer's budget, above a stranger's, above that of
        strangers together."""

    def offenders() -> dict[bytes, int]:
        """Packets dropped so far, of those who exceed a budget of their own."""

    def close() -> None:
        """Give everything back."""


class GREDevice(NamedTuple):
    """A kernel GRE device as it is at one moment."""

    ifindex: int
    name: str
    up: bool
    """Administratively up."""
    mtu: int
    """Largest protocol packet that it takes, in octets."""
    key: int | None
    """GRE key that packets must carry to reach it; None: none."""
    local: bytes
    """NBMA address that it sends from and hears; empty: any of the host's."""
    remote: bytes
    """NBMA address of its only peer; empty for a multipoint device."""
    addresses: tuple[tuple[bytes, int], ...] = ()
    """Our protocol addresses on it with their prefix lengths, IPv4 and IPv6, sorted; link-local
    ones too."""


class IControlDevice(Interface):
    """The kernel GRE device of a control interface, found by its name and followed from then on:
    through changes, and when it is removed and made again."""

    name = Attribute("Its name.")
    state = Attribute("The GREDevice as last read; None while there is none. Valid after start.")

    def start() -> None:
        """Read the device, and follow it.

        :raises StartError: if there is no such device, or it cannot carry NHRP.
        """

    def neighbour(protocol: bytes) -> bytes | None:
        """The underlay address that the kernel's neighbour table has for a protocol address on the
        device; None if it has none.

        :raises DataplaneError: if the kernel does not say.
        """

    def subscribe(listener: IControlDeviceListener) -> None:
        """Tell a listener of every change from now on."""

    def unsubscribe(listener: IControlDeviceListener) -> None:
        """Tell it no more; harmless if it was never told."""

    def stop() -> None:
        """Follow it no more; harmless if it was not."""


class IControlDeviceListener(Interface):
    """Who wants to know how a control device changes."""

    def device_changed(old: GREDevice | None, new: GREDevice | None) -> None:
        """The device differs from before; None: it was not, or is not, there."""


# --- protocol -------------------------------------------------------------------------------


class ILink(Interface):
    """What a station sees of its speaker: a way to send into one VPN."""

    def send(packet: Any, path: Path) -> None:
        """Encapsulate, authenticate and send a packet to ``path.peer``."""

    def names_vpn(path: Path) -> bool:
        """Whether packets to ``path.peer`` name the VPN."""

    def form(path: Path) -> Any:
        """The Form in which packets go to ``path.peer``; plain if it cannot name the VPN."""

    def largest(path: Path) -> int:
        """Octets of the largest NHRP packet that goes to ``path.peer``."""


class IStation(Interface):
    """An NHC or NHS attached to a speaker for one VPN.

    Servers are asked first, then clients, and last who wants to see all types: it forwards what
    is for none of them.
    """

    packet_types = Attribute("The PacketType values that it wants to see.")
    station = Attribute("Its own protocol address, the source of Error Indications.")

    def packet_received(packet: Any, path: Path) -> bool:
        """A packet of the station's VPN arrived; True if it concerned this station.

        :raises NHRPError: to have the packet counted and an Error Indication sent.
        """

    def transport_resumed() -> None:
        """Packets pass again after an interruption (:meth:`IDatagramReceiver.resumed`): renew
        what peers may have forgotten."""


class IAuthenticator(Interface):
    """Makes and checks the Authentication extension of one control interface."""

    def sign(packet: Any, form: Any, vpn_id: VPNID | None, path: Path, station: bytes) -> bytes:
        """The GRE payload of a packet, with its Authentication extension made anew.

        :param form: how it names its VPN.
        :param station: our own protocol address in the VPN; empty if we have none of that type.
        """

    def verify(packet: Any, encapsulation: Any, path: Path) -> None:
        """Accept a packet that arrived, or raise.

        :param encapsulation: what stood before it.
        :raises AuthenticationFailure: if the extension is absent or wrong.
        :raises Handshake: if it is for nobody else, or its sender has to prove first that it is
            new.
        """


class ICacheListener(Interface):
    """Learns what changes in the bindings of one VPN."""

    def binding_added(binding: Any) -> None:
        """A protocol address has its first binding."""

    def binding_changed(old: Any, new: Any) -> None:
        """A binding was replaced or refreshed; both name the same protocol address."""

    def binding_removed(binding: Any, reason: str) -> None:
        """A binding is gone: ``expired``, ``purged``, ``flushed`` or ``stopped``."""


class Claim(NamedTuple):
    """What somebody wants to be registered."""

    vpn: int
    """Index of the VPN; 0: the default routing instance."""
    station: bytes
    """Protocol address."""
    vtep: VTEP
    """Where it is said to be."""
    sender: bytes
    """The underlay address that the request came from."""
    spi: int
    """Of the key that authenticated it; 0: none did."""
    bits: int | None = None
    """Prefix length, if it is a network that is registered, at the address of one."""


class IRegistrationPolicy(Interface):
    """Decides who may register what."""

    def decide(claim: Claim) -> int:
        """The CIE code (RFC 2332 §5.2.0.1) of the answer: 0 accepts.

        Before it is called, nothing about this VTEP has changed; an exception of it reaches who
        has handed the request to the server.
        """


class IRequestIDStore(Interface):
    """Reserves request identifiers that no earlier run of the daemon has used.

    RFC 2332 §5.2.3 wants them to rise across restarts.
    """

    def reserve(count: int) -> int:
        """The first of ``count`` consecutive identifiers (modulo 2**32); may wait for the disk."""

    def reserve_ahead(count: int) -> int:
        """The same at once, for later: meanwhile they are made sure of."""


class IStateStore(Interface):
    """Keeps what a daemon knows for its successor: plain values, as JSON has them."""

    boot = Attribute("What tells this run of the machine from others; empty if unknown.")

    def load() -> Any:
        """What an earlier run has saved, a dict; None if there is nothing of use. May wait for the
        disk."""

    def forget() -> bool:
        """Have nothing saved; whether that could be."""

    def save(state: Any) -> None:
        """Save some time soon, without waiting; of what is handed in meanwhile, the last."""

    def save_now(state: Any) -> None:
        """Save, and wait for it."""


class IScripts(Interface):
    """Runs the operator's script on events."""

    def start() -> None:
        """Make sure that it can be run.

        :raises StartError: if it cannot.
        """

    def run(
        subject: str,
        event: str,
        environment: Mapping[str, str],
        done: Callable[[bool], None] | None = None,
    ) -> Callable[[], None]:
        """Run it some time soon.

        :param subject: what the event is about; runs about one subject keep their order.
        :param event: its only argument.
        :param environment: all that it is told about the event.
        :param done: called later with whether it ended well, and in time.
        :return: ends or forgets the run; ``done`` is not called then.
        """

    def stop() -> Any:
        """Take no more runs, and end those that are left; a Deferred."""


# --- spoke data plane -------------------------------------------------------------------------


class FDBEntry(NamedTuple):
    """One entry of ours in a spoke's forwarding database."""

    mac: bytes
    vtep: VTEP | None
    """None for a hold entry: frames go by the hub, misses are silent."""
    state: str
    """``hold``, ``shortcut`` or ``flood``."""
    used_ago: float | None
    """Seconds since a frame was last sent by it; None if unknown."""


#: What may be found wrong.
CHECKS = (
    "device",
    "mtu",
    "port",
    "kernel",
    "hub",
    "secret",
    "vni",
    "allowed",
    "entries",
    "mac",
    "clock",
    "room",
    "loop",
    "flood",
)


class Finding(NamedTuple):
    """Something that is wrong, or soon will be."""

    check: str
    """One of :data:`CHECKS`."""
    subject: str
    """The interface, address or VPN that it is about."""
    problem: str
    cure: str


class Placement(NamedTuple):
    """What one of the kernel's tables says of a MAC."""

    table: str
    """``bridge``, ``hub plane``, ``shortcut plane``, or ``device`` where there is one for both."""
    interface: str
    """The bridge's port that the MAC is behind, or the vxlan device that has the entry."""
    vtep: VTEP | None
    """Where the device sends frames for it; None in a bridge, and for a hold that drops them."""
    origin: str
    """``ours``, ``by hand`` or ``learned``."""


class PlaneCounters(NamedTuple):
    """Frames that one vxlan device of a spoke has carried since it was made."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


class ISpokeDataplane(Interface):
    """The vxlan and bridge forwarding of one VPN at one site.

    Declarative: ``hold``, ``install``, ``withdraw`` and ``set_flood`` state what should be true.
    The driver makes it so, in batches once a reactor turn, and repairs it after lost events.
    Only entries that carry our mark (``extern_learn``) are ever changed or removed.
    """

    local_vtep = Attribute("Our own VTEP; valid after start.")
    mtu = Attribute("MTU of the vxlan device in octets; valid after start.")
    interface = Attribute("Name of the device that operators know this VPN by.")

    def start(listener: ISpokeListener) -> None:
        """Make or check the devices, adopt our entries found there, and report misses.

        :raises StartError: if a device is missing, not ours, or the kernel refuses.
        """

    def hold(mac: bytes) -> None:
        """Silence misses for a MAC while its frames go by the hub."""

    def install(mac: bytes, vtep: VTEP) -> None:
        """Send frames for a MAC straight to a VTEP; replaces hold or shortcut in place."""

    def withdraw(mac: bytes) -> None:
        """Forget a MAC: its next frame goes by the hub and misses afresh."""

    def set_flood(vteps: Iterable[bytes]) -> None:
        """Send frames without an entry to these underlay addresses (at most one today)."""

    def entries() -> Iterator[FDBEntry]:
        """What we have installed, with its age as last read by idle_times."""

    def adopted() -> list[tuple[bytes, VTEP | None]]:
        """Shortcuts (and holds, VTEP None) of an earlier run that start found in the kernel."""

    def idle_times() -> Any:
        """Deferred of a dict: MAC of each shortcut to seconds since it last carried a frame."""

    def traffic() -> dict[str, PlaneCounters]:
        """What went by the ``hub`` and by the ``shortcut`` plane; by ``both`` if they are one.

        Planes whose device is missing are left out.
        """

    def placements(mac: bytes) -> list[Placement]:
        """What the kernel's tables say of a MAC now, the bridge's first."""

    def local_macs() -> Iterator[bytes | None]:
        """A few MACs that the bridge has learned at ports of this site; empty without a bridge.

        To be read over many reactor turns; None among them: others should get theirs.
        """

    def examine() -> Any:
        """Deferred of the Findings about devices and tables, read now."""

    def stop() -> Any:
        """Withdraw every entry of ours, remove every device of ours; returns a Deferred."""

    def hand_over() -> None:
        """Stop, and leave entries and devices to a successor, which adopts them."""


class ISpokeListener(Interface):
    """What a spoke data plane reports."""

    def fdb_missed(mac: bytes) -> None:
        """A frame for a MAC without an entry was seen (de-duplicated per MAC and turn)."""

    def mac_local(mac: bytes) -> None:
        """A MAC that was remote has shown up at a local port of the bridge."""

    def device_up() -> None:
        """The devices are there and up."""

    def device_down() -> None:
        """A device went down or away."""

    def mtu_changed(mtu: int) -> None:
        """The devices have another MTU."""

    def address_changed() -> None:
        """Our underlay address is this machine's no more, and there is another towards the hub."""

    def install_failed(mac: bytes, error: Exception) -> None:
        """The kernel refused a shortcut; the MAC stays with the hub."""

    def entries_repaired(count: int) -> None:
        """Somebody changed entries of ours; they are put right now."""

    def devices_repaired(faults: str) -> None:
        """Somebody changed devices of ours, in the way that ``faults`` says; they are put right."""


# --- hub data plane ---------------------------------------------------------------------------


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


# --- layer 3 data plane -----------------------------------------------------------------------


class ILayer3Dataplane(Interface):
    """The kernel's IPv4 and IPv6 forwarding over the GRE device of a control interface.

    Declarative like ISpokeDataplane. Where there is no such device, nothing is forwarded: the
    methods have no effect, and what NHRP knows serves others.
    """

    mtu = Attribute("MTU of the device in octets; 0: not known. Valid after start.")
    underlay_octets = Attribute("4 or 16: of the underlay addresses that it takes; None: either.")

    def start(listener: ILayer3Listener) -> None:
        """Prepare the device, remove what an earlier run left, and report misses.

        :raises StartError: if the kernel refuses.
        """

    def addresses() -> tuple[tuple[bytes, int], ...]:
        """Our protocol addresses on the device with their prefix lengths, without link-local
        ones; empty without a device."""

    def local_address(peer: bytes) -> bytes:
        """Our underlay address towards a peer; empty if there is no way to it."""

    def set_neighbour(protocol: bytes, nbma: bytes) -> None:
        """Send packets for a next hop to an underlay address; again confirms that it is there."""

    def remove_neighbour(protocol: bytes) -> None:
        """Forget a next hop."""

    def set_route(protocol: bytes, prefix_length: int, next_hop: bytes) -> None:
        """Send packets for a network by a next hop; replaces only a route of ours."""

    def remove_route(protocol: bytes, prefix_length: int) -> None:
        """Forget a route of ours."""

    def next_hop(protocol: bytes) -> bytes | None:
        """The next hop on the device by which the kernel would send packets for an address; the
        address itself if it is on the device's network, None if it goes elsewhere."""

    def idle_times() -> dict[bytes, float]:
        """Seconds since each next hop was last known to carry a packet."""

    def stop() -> Any:
        """Remove every neighbour and route of ours, restore the device's settings; returns a
        Deferred."""

    def hand_over() -> None:
        """Stop, and leave all that as it is until a successor starts."""


class ILayer3Listener(Interface):
    """What a layer 3 data plane reports."""

    def neighbour_missed(protocol: bytes) -> None:
        """The kernel has packets for a next hop and wants to know, or to have confirmed, where
        it is."""

    def detour_seen(packet: bytes, sender: bytes) -> None:
        """A packet goes out by the device by which it came in.

        :param packet: its beginning, from the IP header on.
        :param sender: underlay address that it came from; empty if unknown.
        """

    def addresses_changed() -> None:
        """The device has other addresses, another underlay address, or is there again."""


# --- operator ---------------------------------------------------------------------------------


class IController(Interface):
    """What admin commands see of the node. Rows are dicts of plain values.

    ``match`` is a dict of filters, each optional: ``vpn`` (int), ``mac`` (bytes),
    ``nbma`` (bytes), ``vni`` (int), ``type`` (str), ``interface`` (str).

    An iterator of rows may be read over many reactor turns, and left unfinished: it must stand
    changes of the tables underneath. An empty row is none: some milliseconds of work have found
    nothing to show, and others should get their turn.
    """

    def vpns(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``vpn show``."""

    def bindings(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``cache show``."""

    def members(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``member show``."""

    def shortcuts(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``shortcut show``."""

    def registrations(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``registration show``."""

    def fdb(match: dict[str, Any]) -> Any:
        """Deferred of the rows of ``fdb show`` (it reads the kernel's ages first)."""

    def interfaces(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``interface show``."""

    def purge(match: dict[str, Any]) -> Any:
        """Withdraw bindings as if their source had purged them: those that are there now, and
        pass the filters when their turn comes. Deferred of how many."""

    def flush(match: dict[str, Any]) -> Any:
        """Forget bindings that can be asked for again (cached, negative, learned), in the same way;
        Deferred of how many."""

    def resolve(match: dict[str, Any]) -> Any:
        """Ask the NHS for ``mac`` in ``vpn`` now; Deferred of the row of ``cache show``.

        :raises CommandError: if there is no spoke role for the VPN, or the answer is no.
        """

    def renew(match: dict[str, Any]) -> int:
        """Send Registration Requests now; how many."""

    def hubs(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``hub show``, of ``interface`` or all."""

    def drain(match: dict[str, Any]) -> Any:
        """Begin to drain hubs; Deferred of the rows of ``hub drain``, once they are drained or
        ``wait`` (int) seconds are over.

        :raises CommandError: if there is no hub of that interface.
        """

    def undrain(match: dict[str, Any]) -> list[dict[str, Any]]:
        """Have drained hubs serve again: rows of ``hub undrain``.

        :raises CommandError: if there is no hub of that interface.
        """

    def config_show() -> str:
        """The text of the running configuration file, secrets masked."""

    def config_check(path: str | None) -> dict[str, Any]:
        """Check a file (None: our own): ``{"ok": bool, "messages": [str, ...]}``."""

    def config_diff(path: str | None) -> Iterator[dict[str, Any]]:
        """Rows of ``config diff``: what a reload with a file (None: our own) would do.

        :raises CommandError: if the file has errors, with the first of them.
        """

    def shutdown() -> None:
        """End the daemon and take down everything of it, a moment after this returns."""

    def reload() -> Any:
        """Deferred of ``{"ok": bool, "messages": [str, ...]}`` after reading the file again."""

    def metrics() -> Iterator[dict[str, Any]]:
        """Rows of ``metrics show``: ``name``, ``labels`` (dict), ``kind``, ``value``."""

    def explain(match: dict[str, Any]) -> Any:
        """Deferred of the rows of ``explain`` for ``mac``, in ``vpn`` or all that are here.

        :raises CommandError: if no VPN of that index is here.
        """

    def doctor() -> Any:
        """Deferred of the rows of ``doctor``."""

    def events(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``events``, in order of time."""

    def follow(listener: Any) -> Any:
        """Call ``listener(row: dict)`` for every event that the journal has, in order and over
        some reactor turns, and then for each that it gets; returns a cancel()."""

    def subscribe(listener: Any) -> Any:
        """Call ``listener(event: dict)`` for every change in any cache; returns a cancel().

        An event is a row of ``cache show`` with ``event``: ``added``, ``changed``, or the reason
        why the binding went.
        """


# --- listeners that ignore everything -----------------------------------------------------------


@implementer(ISpokeListener)
class SpokeListener:
    """Ignores every event of a spoke data plane."""

    def fdb_missed(self, mac: bytes) -> None: ...
    def mac_local(self, mac: bytes) -> None: ...
    def mtu_changed(self, mtu: int) -> None: ...
    def address_changed(self) -> None: ...
    def device_up(self) -> None: ...
    def device_down(self) -> None: ...
    def install_failed(self, mac: bytes, error: Exception) -> None: ...
    def entries_repaired(self, count: int) -> None: ...
    def devices_repaired(self, faults: str) -> None: ...


@implementer(ILayer3Listener)
class Layer3Listener:
    """Ignores every event of a layer 3 data plane."""

    def neighbour_missed(self, protocol: bytes) -> None: ...
    def detour_seen(self, packet: bytes, sender: bytes) -> None: ...
    def addresses_changed(self) -> None: ...


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


class PeerEntry(NamedTuple):
    """What is known of an IPv4 or IPv6 address or network, as OpenNHRP would show it."""

    interface: str
    """Control interface."""
    vpn: int | None
    kind: str
    """OpenNHRP's word: ``static``, ``dynamic-map``, ``dynamic-nhs``, ``local``, ``dynamic``,
    ``cached``, ``shortcut-route``, ``negative`` or ``incomplete``."""
    protocol: bytes
    bits: int
    """Prefix length."""
    nbma: bytes = b""
    next_hop: bytes = b""
    """Of a ``shortcut-route``: protocol address of who leads there."""
    hostname: str = ""
    claimed: bytes = b""
    """Underlay address that it says it has, behind an address translation."""
    flags: tuple[str, ...] = ()
    """``unique``, ``up``, ``lower-up``."""
    expires_in: int | None = None
    """Whole seconds; None: never."""


class InterfaceEntry(NamedTuple):
    """A control interface, as OpenNHRP would show it."""

    name: str
    ifindex: int
    """The kernel's index of its GRE device; 0 without one."""
    protocols: tuple[tuple[bytes, int], ...]
    """Our protocol addresses that packets without a VPN are for, with their prefix lengths."""
    flags: tuple[str, ...]
    """``shortcut``, ``redirect``, ``configured``."""
    holding_time: int
    route_table: int
    gre_key: int
    """0 without one."""
    mtu: int
    """0: not known."""
    nbma: bytes
    """Our underlay address; empty: any."""
    seen_as: bytes
    """The same as a server sees it, behind an address translation; else empty."""


class IPeerTable(Interface):
    """What operators who know OpenNHRP see of IPv4 and IPv6, and may do.

    ``match`` tells whether an entry is meant.
    """

    def entries() -> Iterator[PeerEntry]:
        """All there are; may be read over many reactor turns, and left unfinished."""

    def flush(match: Callable[[PeerEntry], bool]) -> Iterator[bool]:
        """Forget what is not configured, entry by entry as the iterator is read; whether each was
        forgotten."""

    def purge(match: Callable[[PeerEntry], bool], reason: str) -> Iterator[bool]:
        """The same, and begin anew with what is configured.

        :param reason: what the operator's script is told.
        """

    def interfaces() -> Iterator[InterfaceEntry]:
        """The control interfaces."""

    def forget_redirects(protocol: bytes, bits: int) -> int:
        """Let detours to an address or network be told again; of all if it is empty. How many
        pairs were forgotten."""

    def name_server(nbma: bytes, protocol: bytes) -> int:
        """Say which protocol address the server of a ``dynamic-map`` has; how many were meant."""
