"""What the file says (Config) and what should run (Plan), as frozen values. Layer: core.

Nothing here has behaviour or refers to a running object, so two plans compare by value.
Addresses are octets (see :mod:`dmevpn.addresses`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.interfaces import VPNRules

__all__ = [
    "DEFAULT_HOLDING_TIME",
    "DEFAULT_KEEPALIVE_MULTIPLIER",
    "DEFAULT_LOOP_PROBE",
    "DEFAULT_REQUEST_RATE",
    "DEFAULT_VXLAN_PORT",
    "HOLDING_TIME_MAX",
    "HOLDING_TIME_MIN",
    "MAIN_TABLE",
    "AdmissionPlan",
    "AuthenticationPlan",
    "Config",
    "ConfigWarning",
    "HubPlan",
    "InterfaceConfig",
    "KeepalivePlan",
    "KeyPlan",
    "Layer3Plan",
    "MACLimitPlan",
    "MapPlan",
    "NHSPlan",
    "PeerPlan",
    "PermitPlan",
    "Plan",
    "ProtocolPermitPlan",
    "RoutePlan",
    "SpeakerPlan",
    "SpokePlan",
    "Statement",
    "StickyPlan",
    "SwitchPlan",
    "TargetPlan",
    "TrunkPlan",
]

#: Seconds that a registration is asked to last (RFC 2332 names none; every daemon uses it).
DEFAULT_HOLDING_TIME = 7200
#: Keepalives in a row that a server leaves unanswered until it counts as silent; as of BFD.
DEFAULT_KEEPALIVE_MULTIPLIER = 3
#: Packets a second that one peer may send: a tenth of what a hub can answer, and enough for a site
#: of 1,000 VPNs (a burst of two seconds' worth) that starts or asks for its neighbours.
DEFAULT_REQUEST_RATE = 1000
#: What can be asked for: below, a request that is lost cannot be sent again in time; above, a CIE
#: has no room for it (RFC 2332 §5.2.0.1).
HOLDING_TIME_MIN, HOLDING_TIME_MAX = 30, 65535
#: Seconds in which a hub sends every site one loop probe.
DEFAULT_LOOP_PROBE = 30
#: IANA's VXLAN port (RFC 7348 §8), used on devices that we make.
DEFAULT_VXLAN_PORT = 4789
#: The kernel's main routing table (RT_TABLE_MAIN in ``linux/rtnetlink.h``).
MAIN_TABLE = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One keyword with its checked arguments, and where it stands in the file."""

    keyword: str
    line: int
    arguments: tuple[object, ...] = field(repr=False)
    """As the keyword's row in the grammar converts them; None for an absent optional one. Not
    shown by ``repr``: one may be a secret."""
    words: tuple[str, ...]
    """The words as written, keyword and options included; a secret reads ``***``."""
    options: tuple[Statement, ...] = ()
    """The words that followed the arguments (``register``, ...), as statements of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceConfig:
    """The statements under one ``interface NAME``; blocks of the same name are one."""

    name: str
    line: int
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A file, statement by statement."""

    path: str
    top: tuple[Statement, ...]
    interfaces: tuple[InterfaceConfig, ...]


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """Something in a file that is accepted, but does not do what it seems to."""

    path: str
    line: int
    word: str
    message: str

    def __str__(self) -> str:
        near = f" near '{self.word}'" if self.word else ""
        return f"{self.path}:{self.line}: warning: {self.message}{near}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPlan:
    """What the file says about a peer that is not one of ours."""

    address: bytes
    """Its underlay address."""
    daemon: str = "rfc"
    """As :attr:`NHSPlan.peer`."""
    vpn: VPNID | None = None
    """The VPN of packets that name none; None: that of everybody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """A key of the keyed hash (RFC 2332 §5.3.4)."""

    spi: int
    """Its index, 2 to 65535."""
    algorithm: str
    """``hmac-sha-256`` or ``hmac-md5``."""
    secret: bytes = field(repr=False)
    signs: bool = True
    """Whether it may make the hash of what we send, or only checks that of what comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationPlan:
    """How the packets of a control interface prove where they come from.

    What is sent is signed with the last key that may sign, else with the cleartext secret; with
    neither it carries nothing.
    """

    secret: bytes | None = field(default=None, repr=False)
    """Cisco's cleartext; accepted, too, while there are keys."""
    keys: tuple[KeyPlan, ...] = ()
    """All of them are accepted."""
    replay_protection: bool = True
    """Whether packets signed with a key also prove that they are new, and have to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepalivePlan:
    """A ``keepalive``: how a spoke watches its servers."""

    interval: int
    """Milliseconds from one keepalive to the next."""
    multiplier: int = DEFAULT_KEEPALIVE_MULTIPLIER
    """Keepalives in a row without an answer after which a server counts as silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerPlan:
    """One control interface: where NHRP is spoken."""

    interface: str
    transport: str = "auto"
    """``auto``, ``raw`` or ``device``."""
    nbma_address: bytes | None = None
    gre_key: int | None = None
    authentication: AuthenticationPlan = AuthenticationPlan()
    holding_time: int = DEFAULT_HOLDING_TIME
    keepalive: KeepalivePlan | None = None
    """How servers are asked whether they are there; None: not at all."""
    nat_detection: bool = True
    """Store the outer source address of a registration as its VTEP (protocol: NAT)."""
    nat_extension: bool | None = None
    """Send the NAT Address extension with registrations; None: to daemons that expect it."""
    multi_binding: bool = False
    """Keep the registrations of one address at several VTEPs beside each other."""
    vpn_errors: bool = True
    """Answer packets of unknown VPNs with an Error Indication instead of silence."""
    request_rate: int = DEFAULT_REQUEST_RATE
    """Packets a second that one peer may send; 0: no limit."""
    peers: tuple[PeerPlan, ...] = ()
    """By address; NHSs of spokes say in their own plan what they are."""
    vpn_of_key: tuple[tuple[int, VPNID], ...] = ()
    """GRE keys beside ``gre_key``, each with the VPN of its packets that name none."""
    plain_vpn: VPNID | None = None
    """The VPN of all other packets that name none; None: the default routing instance."""
    plain: bool = True
    """Whether packets that name no VPN, and that no peer or key implies one for, are taken."""
    legacy_detection: bool = True
    """Whether a VNI in the wrong byte order tells the original daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NHSPlan:
    """A next hop server of a spoke's VPN."""

    host: str
    """As written: an address or a host name."""
    address: bytes | None
    """Its underlay address, or None: ``host`` must be looked up, as a host name or, if it is an
    address, in the neighbour table of the kernel device of the control interface."""
    register: bool = False
    """Whether we register with it (else frames only flood to it)."""
    flood: bool = False
    """Whether frames without a shortcut may go to it (named by ``default-vni``)."""
    unique: bool = True
    """Whether nobody else may take over the address that we register."""
    peer: str = "rfc"
    """``rfc``, ``legacy``, ``legacy-big-endian``, ``opennhrp``, ``frr`` or ``cisco``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPlan:
    """A ``map`` or ``dynamic-map``: where an IPv4 or IPv6 station, or the way to a network, is."""

    protocol: bytes
    """Protocol address of the station; of a ``dynamic-map`` the network's."""
    prefix_length: int
    """Bits of the network that is reached by way of the station."""
    host: str
    """Its underlay address or host name, as written."""
    address: bytes | None
    """Its underlay address, or None: ``host`` must be looked up."""
    dynamic: bool = False
    """Whether every address of ``host`` is a server of the network."""
    register: bool = False
    """Whether we register with it."""
    unique: bool = True
    """Whether nobody else may take over the address that we register."""
    peer: str = "rfc"
    """``rfc``, ``legacy``, ``opennhrp``, ``frr`` or ``cisco``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """A ``shortcut-target``: a network behind us that others may be told the way to."""

    protocol: bytes
    prefix_length: int
    holding_time: int
    """Seconds that an answer about it lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolPermitPlan:
    """A ``permit-protocol``: who may register some IPv4 or IPv6 addresses."""

    protocol: bytes
    prefix_length: int
    """Bits of the network that they, or the networks that are registered, are in."""
    nbma: tuple[bytes, int] | None
    """Underlay network that registrations come from and are about, with its prefix length; None:
    all addresses."""
    spi: int | None = None
    """Index of the key that has to authenticate the registration; None: any, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer3Plan:
    """IPv4 and IPv6 protocol addresses of one VPN on a control interface: client and server."""

    interface: str
    """The control interface."""
    vpn: VPNID | None = None
    """None is the default routing instance: packets that name no VPN."""
    addresses: tuple[tuple[bytes, int], ...] = ()
    """Our protocol addresses with their prefix lengths, one of a family at most. Those of the
    kernel's GRE device count, too, in the default routing instance."""
    maps: tuple[MapPlan, ...] = ()
    targets: tuple[TargetPlan, ...] = ()
    permits: tuple[ProtocolPermitPlan, ...] = ()
    """Who may register what; if there is none, everybody may register everything."""
    shortcut: bool = False
    """Whether a Traffic Indication makes us ask for the way."""
    redirect: bool = False
    """Whether we send Traffic Indications about packets that go out where they came in."""
    route_table: int = MAIN_TABLE
    """Routing table of shortcut routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokePlan:
    """A spoke's data interface: one VPN at one site."""

    interface: str
    controller: str
    vpn: VPNID
    vni: int
    servers: tuple[NHSPlan, ...]
    """In order of preference."""
    station: bytes | None = None
    """The station MAC as configured; None: derived from machine, VPN and VTEP."""
    bridge: str | None = None
    """The bridge of ``provision``; None: the device was made by hand."""
    port: int = DEFAULT_VXLAN_PORT
    """UDP port on the wire of provisioned devices; one made by hand has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """A ``map`` of MACs: the server that a hub passes requests on to which it cannot answer."""

    protocol: bytes
    prefix_length: int
    """Bits of the MAC that count; 0 is all MACs."""
    nhs: bytes
    """Underlay address of the server."""
    vpns: tuple[int, int] | None = None
    """The VPN indices that it is for, both ends included; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitPlan:
    """A ``permit``: who may register with a hub in some VPNs."""

    vpns: tuple[int, int]
    """VPN indices, both ends included."""
    nbma: tuple[bytes, int] | None
    """Underlay network that registrations come from and are about, with its prefix length; None:
    all addresses."""
    vnis: tuple[int, int] | None = None
    """VNIs of the VTEPs, both ends included; None: all."""
    spi: int | None = None
    """Index of the key that has to authenticate the registration; None: any, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPlan:
    """Who may register with a hub, and who may ask it."""

    permits: tuple[PermitPlan, ...] = ()
    """Who may register; if there is none, everybody may."""
    members_only: bool = False
    """Whether nobody is answered but registered stations and the servers of ``routes``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkPlan:
    """An ``other-hub``: another hub of the same VPNs, which this one exchanges frames with."""

    address: bytes
    """Its underlay address."""
    vpns: tuple[int, int] | None = None
    """The VPN indices that it is for, both ends included; None: all."""
    vni: int | None = None
    """VNI of the first of them between the hubs, the others' follow; None: the VPN's index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MACLimitPlan:
    """A ``mac-limit``: how many MACs some VPNs may have."""

    vpns: tuple[int, int]
    """VPN indices, both ends included."""
    macs: int
    per_site: int | None = None
    """MACs of one site; None: half of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StickyPlan:
    """A ``sticky``: MACs of some VPNs that stay with their sites."""

    vpns: tuple[int, int]
    """VPN indices, both ends included."""
    mac: bytes
    prefix_length: int
    """Bits of the MAC that count; 0 is all MACs."""
    nbma: bytes = b""
    """Underlay address of the site that they belong to; empty: the first that has each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchPlan:
    """What a hub's switch lets sites do."""

    mac_limits: tuple[MACLimitPlan, ...] = ()
    """Of several for a VPN the last one holds."""
    flood_rate: int = VPNRules().flood_rate
    """Frames a second that one site may have flooded; 0: any number."""
    flood_burst: int = VPNRules().flood_burst
    moves: int = VPNRules().moves
    """Moves of a MAC that are followed; one more, and it is held. 0: any number."""
    moves_seconds: int = VPNRules().moves_seconds
    """Seconds in which they count."""
    sticky: tuple[StickyPlan, ...] = ()
    loop_probe: int = DEFAULT_LOOP_PROBE
    """Seconds in which every site is probed once; 0: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlan:
    """A hub's data interface: one switch for many VPNs."""

    interface: str
    controller: str
    vpns: tuple[tuple[int, int], ...]
    """Ranges of VPN indices, both ends included, sorted, disjoint; (1, 2**32 - 1) is ``any``."""
    provision: bool = False
    port: int = DEFAULT_VXLAN_PORT
    routes: tuple[RoutePlan, ...] = ()
    """Servers to ask about MACs that nobody here knows; of one prefix the preferred one first."""
    admission: AdmissionPlan = AdmissionPlan()
    trunks: tuple[TrunkPlan, ...] = ()
    """The other hubs of these VPNs; none is named twice for the same one."""
    switch: SwitchPlan = SwitchPlan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that should run."""

    oui: bytes = DEFAULT_OUI
    speakers: tuple[SpeakerPlan, ...] = ()
    spokes: tuple[SpokePlan, ...] = ()
    hubs: tuple[HubPlan, ...] = ()
    layer3: tuple[Layer3Plan, ...] = ()
    admin: tuple[str, ...] = ()
    """Twisted server endpoint descriptions."""
    admin_allow: tuple[tuple[str, str, str], ...] = ()
    """What operators may do (``full``, ``read-only``), what they are (``user``, ``group``,
    ``certificate``) and their name."""
    metrics: str | None = None
    """The same, where metrics are served; None: nowhere."""
    opennhrp_script: str | None = None
    """Path of a program that is run on events."""
    opennhrp_socket: str | None = None
    """Path of a UNIX socket that speaks as OpenNHRP's does."""
    status: str | None = None
    """The same, where the status page is."""
    state_dir: str | None = None
    leave_forwarding: bool = False
    """Whether an ordinary stop leaves devices, entries and registrations to a successor."""
    log_format: str = "text"
    """``text`` or ``json``."""
