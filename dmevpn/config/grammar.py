"""The keyword table: everything that a configuration file may say. Layer: core.

One row per keyword. The parser reads arguments by it, ``resolve`` finds misplaced and idle
keywords by it, and ``docs/configuration.md`` is made from it. The keywords of OpenNHRP and of the
original dmevpn keep their names and order of arguments, so that their files parse.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.config import arguments as a
from dmevpn.config.model import (
    DEFAULT_HOLDING_TIME,
    DEFAULT_KEEPALIVE_MULTIPLIER,
    DEFAULT_LOOP_PROBE,
    DEFAULT_REQUEST_RATE,
    DEFAULT_VXLAN_PORT,
    HOLDING_TIME_MAX,
    HOLDING_TIME_MIN,
    MAIN_TABLE,
)
from dmevpn.interfaces import VPNRules

__all__ = [
    "KEYWORDS",
    "OPTIONS",
    "PEERS",
    "RESERVED",
    "Argument",
    "Context",
    "Keyword",
    "Option",
    "Reload",
    "nearest",
]


class Context(Enum):
    """Where a keyword belongs; the value is how users are told."""

    TOP = "the file as a whole"
    CONTROL = "a control interface"
    SPOKE = "a spoke's data interface"
    HUB = "a hub's data interface"


class Reload(Enum):
    """What a change of the keyword does to a running daemon on reload."""

    NOTHING = "nothing"
    ROLE = "restarts the VPNs of the data interface"
    LAYER_3 = "restarts IPv4 and IPv6 of the control interface"
    MAP = "takes effect at once; IPv4 and IPv6 of the control interface are restarted"
    SERVER = "takes effect at once; another VNI or station MAC restarts the VPN"
    VPN = "takes effect at once at a hub; restarts the VPN of a spoke"
    SPEAKER = "restarts the control interface and its VPNs"
    DAEMON = "takes effect when the daemon is started again"
    AT_ONCE = "takes effect at once; nothing is restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One word after a keyword."""

    name: str
    """As the documentation writes it."""
    convert: a.Convert
    example: str
    wanted: Callable[[str], bool] | None = None
    """For an optional argument: whether a word that follows is meant for it."""
    free: bool = False
    """Whether any word on the keyword's line is taken, even one that is a keyword."""
    secret: bool = False
    """Whether the word must never be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A word that may follow the arguments."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    no_effect: str = ""
    """Why it has no effect in this release; empty if it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """A row of the table."""

    name: str
    help: str
    contexts: frozenset[Context]
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    repeatable: bool = False
    inherited: bool = False
    """Whether OpenNHRP or the original dmevpn has it: misplaced, it draws a warning, no error."""
    no_effect: str = ""
    """Why it has no effect in this release; empty if it has."""
    reload: Reload = Reload.NOTHING

    @property
    def usage(self) -> str:
        """How it is written, in one line."""
        words = [self.name]
        words += [f"[{g.name}]" if g.wanted else g.name for g in self.arguments]
        for option in self.options:
            words.append(f"[{' '.join([option.name, *(g.name for g in option.arguments)])}]")
        return " ".join(words)


_TOP = frozenset({Context.TOP})
_CONTROL = frozenset({Context.CONTROL})
_SPOKE = frozenset({Context.SPOKE})
_HUB = frozenset({Context.HUB})
_DATA = _SPOKE | _HUB
_ANY = _CONTROL | _DATA

_NOT_YET = "not part of this release"
#: What a hub's switch does unless it is told otherwise.
_RULES = VPNRules()

_PEERS = (
    Option(
        name="legacy",
        help="The peer is the original dmevpn: a C daemon with VPN headers of its own.",
    ),
    Option(name="legacy-big-endian", help="The same, on a big-endian host."),
    Option(name="opennhrp", help="The peer is OpenNHRP."),
    Option(name="frr", help="The peer is FRR's nhrpd."),
    Option(name="cisco", help="The peer is a Cisco router."),
)
#: What a peer can be said to be, besides ours.
PEERS = tuple(option.name for option in _PEERS)

_REGISTER = Option(name="register", help="Register with this server.")
_NO_UNIQUE = Option(
    name="no-unique",
    help="Register so that another station may take the address over.",
)
_PEER_OPTIONS = (_REGISTER, _NO_UNIQUE, *_PEERS)

_PERMIT_SPI = Option(
    name="spi",
    help="The key that must have signed the registration.",
    arguments=(Argument(name="SPI", convert=a.signed_with, example="256"),),
)
_HOLDING_TIME = Argument(
    name="S", convert=a.number(0, 2**32 - 1, "a number of seconds"), example="7200"
)
_TARGET_HOLDING_TIME = Option(
    name="holding-time",
    help="Seconds that an answer about this target is to last.",
    arguments=(_HOLDING_TIME,),
)
_VNI = Argument(name="VNI", convert=a.vni, example="100")
_YES_NO = Argument(name="yes|no", convert=a.yes_or_no, example="yes")
_ENDPOINT = Argument(
    name="ENDPOINT", convert=a.endpoint, example="unix:/run/dmevpn/hub.sock:mode=600", free=True
)
_PREFIX = Argument(name="PROTO[/P]", convert=a.prefix, example="10.255.255.1/24")

_ROWS = (
    # --- the file as a whole ---
    Keyword(
        name="interface",
        help="Opens the block of an interface: what follows is about it, up to the next"
        " `interface`. A name that comes again goes on with its block.",
        contexts=_TOP,
        arguments=(Argument(name="NAME", convert=a.device_name, example="nhrp", free=True),),
        repeatable=True,
        inherited=True,
    ),
    Keyword(
        name="admin",
        help="Where `dmevpnctl` finds the daemon: a Twisted server endpoint, or"
        " `tls:PORT:interface=ADDR:key=FILE:certificate=FILE:ca=FILE`. Default:"
        " `unix:/run/dmevpn/NAME.sock:mode=600:lockfile=1`, NAME being that of the file.",
        contexts=_TOP,
        arguments=(_ENDPOINT,),
        repeatable=True,
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="admin-allow",
        help="What operators may do: `full` is everything, `read-only` is to look. On UNIX sockets"
        " a user or a group of the machine; root and the daemon's own user may do everything."
        " Without such a line the mode of the socket decides. Over TLS the DNS name or address in"
        " a certificate. See [security.md](security.md).",
        contexts=_TOP,
        arguments=(
            Argument(
                name="full|read-only",
                convert=a.one_of("full", "read-only"),
                example="read-only",
            ),
            Argument(
                name="user|group|certificate",
                convert=a.one_of("user", "group", "certificate"),
                example="group",
            ),
            Argument(name="NAME", convert=a.text, example="adm", free=True),
        ),
        repeatable=True,
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="metrics",
        help="Serve metrics as Prometheus text over HTTP, at `/metrics` of a Twisted server"
        " endpoint. Anybody who reaches it may read them. Off by default.",
        contexts=_TOP,
        arguments=(
            Argument(
                name="ENDPOINT",
                convert=a.endpoint,
                example="tcp:9101:interface=127.0.0.1",
                free=True,
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="status",
        help="Serve a status page for browsers at a Twisted server endpoint: a live map and tables,"
        " to be looked at only. Anybody who reaches it may. `tcp:9102` listens on the loopback"
        " interface unless `interface=` says another. Off by default.",
        contexts=_TOP,
        arguments=(Argument(name="ENDPOINT", convert=a.endpoint, example="tcp:9102", free=True),),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="log-format",
        help="The form of the log's lines: `text`, or `json` with an object in each. Where the log"
        " goes is twistd's option `--logfile`. Default: text.",
        contexts=_TOP,
        arguments=(Argument(name="text|json", convert=a.log_format, example="json"),),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="opennhrp-script",
        help="A program that is run when interfaces, peers, servers and routes of IPv4 and IPv6"
        " come and go, with the words and the environment that OpenNHRP gives its script. See"
        " [from-opennhrp.md](from-opennhrp.md).",
        contexts=_TOP,
        arguments=(
            Argument(
                name="PATH",
                convert=a.absolute_path,
                example="/etc/opennhrp/opennhrp-script",
                free=True,
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="opennhrp-socket",
        help="Where `opennhrpctl` and its like find the daemon: a UNIX socket that speaks as"
        " OpenNHRP's does, for its owner only. Off by default.",
        contexts=_TOP,
        arguments=(
            Argument(
                name="PATH", convert=a.absolute_path, example="/run/opennhrp.socket", free=True
            ),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="state-dir",
        help="Where state that must survive a restart is kept. Default: `/var/lib/dmevpn/NAME`."
        " The option `--state-dir` wins over it.",
        contexts=_TOP,
        arguments=(
            Argument(name="PATH", convert=a.text, example="/var/lib/dmevpn/hub", free=True),
        ),
        reload=Reload.DAEMON,
    ),
    Keyword(
        name="leave-forwarding",
        help="`yes`: a stop of the daemon leaves devices, entries, switch and registrations as they"
        " are, so that frames are forwarded while there is none, and its successor goes on with"
        " them; `dmevpnctl shutdown`, or `twistd dmevpn --config FILE --remove` when the daemon has"
        " ended, takes them down. `no`: a stop leaves nothing. Default: no.",
        contexts=_TOP,
        arguments=(_YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="vpn-oui",
        help=f"The OUI of VPN identifiers (RFC 2685), the same at all sites. Default:"
        f" {DEFAULT_OUI.hex('-')}.",
        contexts=_TOP,
        arguments=(Argument(name="XX-XX-XX", convert=a.oui, example="02-00-00"),),
        reload=Reload.SPEAKER,
    ),
    # --- control interfaces ---
    Keyword(
        name="transport",
        help="How NHRP is carried: `raw` is a GRE socket of our own and needs no device; `device`"
        " is the kernel GRE device of this name, with its key, addresses and MTU; `auto` (default)"
        " is `device` if there is such a device at the start, else `raw`; without a data interface"
        " that names this one, and without a `protocol-address`, it is `device`.",
        contexts=_CONTROL,
        arguments=(Argument(name="auto|raw|device", convert=a.transport, example="raw"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="nbma-address",
        help="Our underlay address. Default: a spoke uses the vxlan device's own, else the"
        " kernel's choice towards the hub; a hub answers from the address that was asked.",
        contexts=_CONTROL,
        arguments=(Argument(name="ADDR", convert=a.ip_address, example="10.0.0.2"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="protocol-address",
        help="Our IPv4 or IPv6 protocol address and its network, one of each family: makes us a"
        " client and a server for addresses of that family. After a `vpn-id` it is of that VPN,"
        " else of packets that name none. A kernel GRE device has addresses of its own.",
        contexts=_CONTROL,
        arguments=(Argument(name="ADDR/P", convert=a.ip_prefix, example="1.0.0.2/24"),),
        repeatable=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="gre-key",
        help="The GRE key (RFC 2890), the same at all sites. Default: packets carry none.",
        contexts=_CONTROL,
        arguments=(Argument(name="N", convert=a.number(0, 2**32 - 1), example="1000"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="cisco-authentication",
        help="Plaintext secret that every packet carries and must carry, the same at all sites."
        " Other implementations take 8 octets at most. It guards against mistakes, not against"
        " attackers.",
        contexts=_CONTROL,
        arguments=(
            Argument(name="SECRET", convert=a.secret, example="secret", free=True, secret=True),
        ),
        inherited=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="authentication-key",
        help="A key for the keyed hash of RFC 2332: packets that carry its hash are accepted. What"
        " we send is signed with the last one that is not `accept-only`. KEY is one word of"
        f" {a.KEY_MIN} to {a.KEY_MAX} octets, or the content of a file that nobody else may read."
        " See [authentication.md](authentication.md).",
        contexts=_CONTROL,
        arguments=(
            Argument(name="SPI", convert=a.spi, example="256"),
            Argument(name="|".join(a.ALGORITHMS), convert=a.algorithm, example=a.ALGORITHMS[0]),
            Argument(
                name="KEY|file:PATH",
                convert=a.key,
                example="file:/etc/dmevpn/key-256",
                free=True,
                secret=True,
            ),
        ),
        options=(Option(name="accept-only", help="Sign nothing with it yet, or no longer."),),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="replay-protection",
        help="Packets signed with a key also prove that they are new, and must. `no` for neighbours"
        " that only know RFC 2332. Default: yes.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="holding-time",
        help="Seconds that a registration of ours is to last; renewed after a third. Less than"
        f" {HOLDING_TIME_MIN} is taken for that, more than {HOLDING_TIME_MAX} for that. Default:"
        f" {DEFAULT_HOLDING_TIME}. After `shortcut-target` or `shortcut-vnid` it belongs to that.",
        contexts=_CONTROL,
        arguments=(_HOLDING_TIME,),
        inherited=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="keepalive",
        help="Ask every hub that has us registered for a sign of life each MILLISECONDS, once for"
        " all VPNs. What is unanswered is repeated after a sixth of that, and after MULTIPLIER"
        " keepalives without an answer the hub is left for the next: after 0.9 s with 600. Default"
        f" multiplier: {DEFAULT_KEEPALIVE_MULTIPLIER}. Without this only registrations tell,"
        " which takes seconds. See [servers.md](servers.md).",
        contexts=_CONTROL,
        arguments=(
            Argument(
                name="MILLISECONDS",
                convert=a.number(100, 60000, "a number of milliseconds"),
                example="600",
            ),
            Argument(
                name="MULTIPLIER",
                convert=a.number(2, 50, "a multiplier"),
                example="3",
                wanted=str.isdigit,
            ),
        ),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="nat-detection",
        help="Take the address a registration came from, not the one it claims, as the place to"
        " send frames to. Default: yes.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="vpn-errors",
        help="Answer packets of VPNs that we do not serve, of another VPN than their path is for,"
        " and for unknown addresses of a VPN with an error; `no` is silence, which tells strangers"
        " nothing. Default: yes.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="request-rate",
        help="Packets a second that one peer (underlay address) may send us, two seconds' worth at"
        " once; five times as many are taken from all together who are neither registered nor named"
        f" in the file. What is more is dropped. 0: no limit. Default: {DEFAULT_REQUEST_RATE}.",
        contexts=_CONTROL,
        arguments=(
            Argument(
                name="N",
                convert=a.number(0, 1_000_000, "a number of packets a second"),
                example="1000",
            ),
        ),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="implied-vpn",
        help="The VPN of packets that name none: of the peer at ADDR (`of-peer`), of those with GRE"
        " key K (`of-key`, with `transport raw`), or of all others. What we send there names none"
        " either. `none`: drop such packets. Default: they are in no VPN.",
        contexts=_CONTROL,
        arguments=(Argument(name="N|none", convert=a.vpn_or_none, example="7"),),
        options=(
            Option(
                name="of-peer",
                help="The peer that is meant.",
                arguments=(Argument(name="ADDR", convert=a.ip_address, example="192.0.2.10"),),
            ),
            Option(
                name="of-key",
                help="The GRE key that is meant, beside that of `gre-key`.",
                arguments=(Argument(name="K", convert=a.number(0, 2**32 - 1), example="1007"),),
            ),
        ),
        repeatable=True,
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="legacy-detection",
        help="Take a registration without VPN header, whose VNI makes sense in little-endian order"
        " only, for one of the original dmevpn. Default: yes.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="nat-extension",
        help="As a client: send Cisco's NAT Address extension with registrations, by which a server"
        " tells us the address that it sees us at. Default: to servers that are said to be"
        " `opennhrp`, `frr` or `cisco`.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="multi-binding",
        help="As a server: keep registrations of one address at several VTEPs beside each other,"
        " and name all of them in answers, best preference first. Default: no, the latest replaces"
        " the others. An address that is registered as unique has one VTEP in any case.",
        contexts=_CONTROL,
        arguments=(_YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="map",
        help="The underlay address (or host name) of a protocol address; with /P, of the way to"
        " its network. With `register`, of a server that we register with. A `map-vni` of this"
        " interface may name its NHS by PROTO. `map MAC/P NBMA` is for a hub: the server that it"
        " passes requests on to about MACs with that prefix which nobody here knows;"
        " `00:00:00:00:00:00/0` is all MACs, and a `vpn-id` before it says in which VPNs.",
        contexts=_CONTROL,
        arguments=(
            _PREFIX,
            Argument(name="NBMA|HOST", convert=a.host, example="10.0.0.1"),
        ),
        options=_PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.MAP,
    ),
    Keyword(
        name="map-vni",
        help="With `register`: register the VTEP of the spoke's data interface with this VPN and"
        " VNI at an NHS, given by underlay address, host name, or a protocol address that `map`"
        " knows or that is a neighbour on our kernel GRE device (`ip neigh`). MAC is our"
        " station MAC; by default it is derived from machine, VPN and VTEP.",
        contexts=_CONTROL,
        arguments=(
            _VNI,
            Argument(name="NHS", convert=a.host, example="10.0.0.1"),
            Argument(
                name="MAC",
                convert=a.station_mac,
                example="2e:cd:9a:5c:ae:c7",
                wanted=a.looks_like_mac,
            ),
        ),
        options=_PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.SERVER,
    ),
    Keyword(
        name="permit-protocol",
        help="Who may register IPv4 and IPv6 addresses of this network, and networks in it:"
        " stations whose underlay address, and the one that they send from, is in NBMA (or `any`);"
        " with `spi` only if signed with this `authentication-key` (1 is the cleartext secret)."
        " Without any line everybody may; with one, nobody else in its VPN, which is that of the"
        " `vpn-id` before it, as of `protocol-address`. MACs have `permit`. See"
        " [security.md](security.md).",
        contexts=_CONTROL,
        arguments=(
            Argument(name="PROTO[/P]", convert=a.ip_network, example="10.255.255.0/24"),
            Argument(name="NBMA[/P]|any", convert=a.nbma_network, example="192.0.2.0/24"),
        ),
        options=(_PERMIT_SPI,),
        repeatable=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="dynamic-map",
        help="Every address of the host name is a next hop server of the network, and we register"
        " with each.",
        contexts=_CONTROL,
        arguments=(
            Argument(name="NET/P", convert=a.network, example="10.255.255.0/24"),
            Argument(name="HOST", convert=a.host, example="hub.example.org"),
        ),
        options=_PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="shortcut-target",
        help="A network behind us: who asks for an address in it is told of the whole network, and"
        " to come to us.",
        contexts=_CONTROL,
        arguments=(_PREFIX,),
        options=(_TARGET_HOLDING_TIME,),
        repeatable=True,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="shortcut",
        help="Ask for the direct way when a Traffic Indication says that a packet took a detour.",
        contexts=_CONTROL,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="redirect",
        help="Tell registered stations by Traffic Indications that their packets go out by the"
        " kernel GRE device that they came in by.",
        contexts=_CONTROL,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="non-caching",
        help="Keep no answer that only passes through us. We never do; the word is for files of"
        " OpenNHRP.",
        contexts=_CONTROL,
        inherited=True,
    ),
    Keyword(
        name="route-table",
        help=f"Routing table that shortcut routes go to. Default: {MAIN_TABLE}, the main one.",
        contexts=_CONTROL,
        arguments=(Argument(name="ID", convert=a.number(1, 2**32 - 1), example="254"),),
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    # --- data interfaces ---
    Keyword(
        name="vpn-id",
        help="Data interface of a spoke: its VPN. Of a hub: the VPNs it serves, `N`, `N-M` or"
        " `any`. Control interface: the VPN of the lines after it, up to the next `vpn-id`; of"
        " `map-vni` lines a single one is that of all.",
        contexts=_ANY,
        arguments=(Argument(name="N|N-M|any", convert=a.vpn_range, example="1"),),
        repeatable=True,
        inherited=True,
        reload=Reload.VPN,
    ),
    Keyword(
        name="controller",
        help="Makes this a data interface: a vxlan device whose NHRP is spoken on control"
        " interface IFNAME, declared before or after.",
        contexts=_DATA,
        arguments=(Argument(name="IFNAME", convert=a.device_name, example="nhrp", free=True),),
        inherited=True,
        reload=Reload.ROLE,
    ),
    Keyword(
        name="default-vni",
        help="Makes this a spoke's: frames without a shortcut go to the hub at this underlay"
        " address (or host name) with our VNI. With `register` we also register with the NHS there,"
        " and no `map-vni` is needed. Further hubs, in order of preference, have the same VNI.",
        contexts=_SPOKE,
        arguments=(_VNI, Argument(name="NBMA|HOST", convert=a.host, example="10.0.0.1")),
        options=_PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.SERVER,
    ),
    Keyword(
        name="l2learnonly",
        help="Makes this a hub's: the switch that learns which MAC is behind which spoke.",
        contexts=_HUB,
        inherited=True,
        reload=Reload.ROLE,
    ),
    Keyword(
        name="provision",
        help="The daemon makes, owns and removes the devices. Spoke: BRIDGE if absent, and in it"
        " the vxlan devices NAME and NAME-s. Hub: the vxlan device NAME, and BRIDGE is left out."
        " Devices that are there and right are used, and stay.",
        contexts=_DATA,
        arguments=(
            Argument(name="BRIDGE", convert=a.device_name, example="br1", wanted=lambda word: True),
        ),
        reload=Reload.ROLE,
    ),
    Keyword(
        name="vxlan-port",
        help="UDP port on the wire when provisioned, the same at all sites of a hub. A spoke also"
        f" takes the port below. Default: {DEFAULT_VXLAN_PORT}.",
        contexts=_DATA,
        arguments=(Argument(name="N", convert=a.number(1, 65535, "a port"), example="4789"),),
        reload=Reload.ROLE,
    ),
    Keyword(
        name="permit",
        help="Who may register in these VPNs: sites whose underlay address, both the one that they"
        " send from and that of the VTEP, is in a network (or `any`). With `vni` only with one of"
        " these VNIs, with `spi` only if signed with this `authentication-key` (1 is the cleartext"
        " secret). Without any `permit` everybody may; with one, nobody else. A registration that"
        " is no longer permitted ends at once. See [security.md](security.md).",
        contexts=_HUB,
        arguments=(
            Argument(name="N|N-M|any", convert=a.vpn_range, example="1"),
            Argument(name="NBMA[/P]|any", convert=a.nbma_network, example="10.0.0.0/24"),
        ),
        options=(
            Option(
                name="vni",
                help="The VNIs that sites may have.",
                arguments=(Argument(name="N|N-M", convert=a.vni_range, example="100-199"),),
            ),
            _PERMIT_SPI,
        ),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="members-only",
        help="Answer Resolution Requests of registered stations only, when they come from where"
        " the station is registered, and those that a server passes on which a `map MAC/P` of the"
        " control interface names. Default: yes if there is a `permit`, else no.",
        contexts=_HUB,
        arguments=(_YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="other-hub",
        help="Another hub of the same VPNs: the two register with each other, send each other what"
        " their sites flood, and ask each other about MACs. Every hub of a VPN names all others."
        " NBMA is the address that its packets come from, see `nbma-address`. `vpn` says for which"
        " VPNs (all of this interface), `vni` in which VNI, the same at both hubs (the VPN's"
        " index); of several VPNs it is the first one's, and the others' follow. See"
        " [servers.md](servers.md).",
        contexts=_HUB,
        arguments=(Argument(name="NBMA", convert=a.ip_address, example="10.0.0.2"),),
        options=(
            Option(
                name="vpn",
                help="The VPNs in which it is a hub.",
                arguments=(Argument(name="N|N-M", convert=a.vpn_range, example="1"),),
            ),
            Option(
                name="vni",
                help="The VNI of the first VPN between the hubs.",
                arguments=(_VNI,),
            ),
        ),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="mac-limit",
        help="How many MACs the switch learns in these VPNs, and how many of them at one site"
        " (default: half of them), so that no site uses up the room of the others. What is beyond"
        f" is flooded. Of several lines for a VPN the last one holds. Default: {_RULES.mac_limit}"
        f" and {_RULES.site_limit}.",
        contexts=_HUB,
        arguments=(
            Argument(name="N|N-M|any", convert=a.vpn_range, example="1"),
            Argument(name="MACS", convert=a.number(1, 2**20), example="2000"),
            Argument(
                name="PER-SITE", convert=a.number(1, 2**20), example="500", wanted=str.isdigit
            ),
        ),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="flood-rate",
        help="Frames a second that one site may have sent to all others of its VPN: broadcast,"
        " multicast, unknown destinations; and how many at once (default: twice as many). The rest"
        " is dropped. 0: any number. Default:"
        f" {_RULES.flood_rate} and {_RULES.flood_burst}.",
        contexts=_HUB,
        arguments=(
            Argument(name="FRAMES", convert=a.number(0, 10**6), example="1000"),
            Argument(name="BURST", convert=a.number(0, 10**7), example="3000", wanted=str.isdigit),
        ),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="duplicate-mac",
        help="A MAC that changes between sites more often than MOVES times in SECONDS is held where"
        " it had settled last: 10 seconds at first, then twice as long each time, up to 640. Frames"
        " with it from elsewhere are dropped meanwhile. 0: never. Default:"
        f" {_RULES.moves} in {_RULES.moves_seconds} s, as RFC 7432 has it.",
        contexts=_HUB,
        arguments=(
            Argument(name="MOVES", convert=a.number(0, 1000), example="10"),
            Argument(
                name="SECONDS",
                convert=a.number(1, 86400, "a number of seconds"),
                example="60",
                wanted=str.isdigit,
            ),
        ),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="sticky",
        help="MACs that do not move, in these VPNs: one, those with a prefix, or `any`. Each is of"
        " the site at NBMA; without it, of the first site that it is seen at, until it has been"
        " silent for 300 s or the site leaves. Frames with it from elsewhere are dropped. The"
        " longest prefix holds.",
        contexts=_HUB,
        arguments=(
            Argument(name="N|N-M|any", convert=a.vpn_range, example="1"),
            Argument(name="MAC[/P]|any", convert=a.mac_network, example="52:54:00:00:00:00/24"),
            Argument(
                name="NBMA",
                convert=a.ip_address,
                example="10.0.0.2",
                wanted=a.looks_like_address,
            ),
        ),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="loop-probe",
        help="Seconds in which every site is sent one small broadcast. If it comes back from"
        " another site, or the same one, they are connected behind the hub's back, and both are"
        f" named. `no` sends none. Default: {DEFAULT_LOOP_PROBE}.",
        contexts=_HUB,
        arguments=(Argument(name="SECONDS|no", convert=a.seconds_or_no, example="10"),),
        reload=Reload.AT_ONCE,
    ),
    # --- of OpenNHRP and the original dmevpn, without effect here ---
    Keyword(
        name="shortcut-vnid",
        help="A VNI that the original dmevpn answers resolution requests with.",
        contexts=_ANY,
        arguments=(_VNI,),
        options=(_TARGET_HOLDING_TIME,),
        repeatable=True,
        inherited=True,
        no_effect="the VNI of default-vni is the answer",
    ),
    Keyword(
        name="shortcut-destination",
        help="Answer for the addresses of this interface.",
        contexts=_ANY,
        inherited=True,
        no_effect="name the interface's networks with shortcut-target",
    ),
    Keyword(
        name="multicast",
        help="Where layer-3 multicast is copied to; frames are flooded by the hub.",
        contexts=_ANY,
        arguments=(Argument(name="dynamic|nhs|ADDR", convert=a.multicast, example="dynamic"),),
        repeatable=True,
        inherited=True,
        no_effect="packets to groups are not copied in this release",
    ),
)

#: Every keyword by name, in the order of the documentation.
KEYWORDS = {row.name: row for row in _ROWS}
#: Every option by name, with the keywords it may follow.
OPTIONS = {
    option.name: tuple(row.name for row in _ROWS if option.name in [o.name for o in row.options])
    for row in _ROWS
    for option in row.options
}
#: Words that are never taken for an argument (but see :attr:`Argument.free`).
RESERVED = frozenset(KEYWORDS) | frozenset(OPTIONS)

#: Longest word that is compared with every keyword; comparing is quadratic.
_COMPARED = 32


def nearest(word: str) -> str | None:
    """The keyword or option that a mistyped word was probably meant to be."""
    if len(word) > _COMPARED:
        return None
    lower = word.lower()
    close = difflib.get_close_matches(lower, sorted(RESERVED), 1, 0.75)
    return close[0] if close else None
