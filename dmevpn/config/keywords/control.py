"""Keywords of control interfaces. Layer: core."""

from __future__ import annotations

from dmevpn.config import arguments as a
from dmevpn.config.keyword import Argument, Keyword, Option, Reload
from dmevpn.config.keywords.shared import (
    CONTROL,
    HOLDING_TIME,
    PEER_OPTIONS,
    PERMIT_SPI,
    TARGET_HOLDING_TIME,
    VNI,
    YES_NO,
)
from dmevpn.config.model import (
    DEFAULT_HOLDING_TIME,
    DEFAULT_KEEPALIVE_MULTIPLIER,
    DEFAULT_REQUEST_RATE,
    HOLDING_TIME_MAX,
    HOLDING_TIME_MIN,
    MAIN_TABLE,
)

__all__ = ["CONTROL_KEYWORDS"]

_PREFIX = Argument(name="PROTO[/P]", convert=a.prefix, example="10.255.255.1/24")

#: In the order of the documentation.
CONTROL_KEYWORDS = (
    Keyword(
        name="transport",
        help="How NHRP is carried: `raw` is a GRE socket of our own and needs no device; `device`"
        " is the kernel GRE device of this name, with its key, addresses and MTU; `auto` (default)"
        " is `device` if there is such a device at the start, else `raw`; without a data interface"
        " that names this one, and without a `protocol-address`, it is `device`.",
        contexts=CONTROL,
        arguments=(Argument(name="auto|raw|device", convert=a.transport, example="raw"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="nbma-address",
        help="Our underlay address. Default: a spoke uses the vxlan device's own, else the"
        " kernel's choice towards the hub; a hub answers from the address that was asked.",
        contexts=CONTROL,
        arguments=(Argument(name="ADDR", convert=a.ip_address, example="10.0.0.2"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="protocol-address",
        help="Our IPv4 or IPv6 protocol address and its network, one of each family: makes us a"
        " client and a server for addresses of that family. After a `vpn-id` it is of that VPN,"
        " else of packets that name none. A kernel GRE device has addresses of its own.",
        contexts=CONTROL,
        arguments=(Argument(name="ADDR/P", convert=a.ip_prefix, example="1.0.0.2/24"),),
        repeatable=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="gre-key",
        help="The GRE key (RFC 2890), the same at all sites. Default: packets carry none.",
        contexts=CONTROL,
        arguments=(Argument(name="N", convert=a.number(0, 2**32 - 1), example="1000"),),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="cisco-authentication",
        help="Plaintext secret that every packet carries and must carry, the same at all sites."
        " Other implementations take 8 octets at most. It guards against mistakes, not against"
        " attackers.",
        contexts=CONTROL,
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
        contexts=CONTROL,
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
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="holding-time",
        help="Seconds that a registration of ours is to last; renewed after a third. Less than"
        f" {HOLDING_TIME_MIN} is taken for that, more than {HOLDING_TIME_MAX} for that. Default:"
        f" {DEFAULT_HOLDING_TIME}. After `shortcut-target` or `shortcut-vnid` it belongs to that.",
        contexts=CONTROL,
        arguments=(HOLDING_TIME,),
        inherited=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="keepalive",
        help="Ask every hub that has us registered for a sign of life each MILLISECONDS, once for"
        " all VPNs. What is unanswered is repeated after a sixth of that, then in half of a sixth,"
        " and after MULTIPLIER sixths without any answer the hub is left for the next: after 0.9 s"
        f" with 600. Default multiplier: {DEFAULT_KEEPALIVE_MULTIPLIER}. Without this only"
        " registrations tell, which takes seconds. See [servers.md](servers.md).",
        contexts=CONTROL,
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
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="vpn-errors",
        help="Answer packets of VPNs that we do not serve, of another VPN than their path is for,"
        " and for unknown addresses of a VPN with an error; `no` is silence, which tells strangers"
        " nothing. Default: yes.",
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="request-rate",
        help="Packets a second that one peer (underlay address) may send us, two seconds' worth at"
        " once; five times as many are taken from all together who are neither registered nor named"
        f" in the file. What is more is dropped. 0: no limit. Default: {DEFAULT_REQUEST_RATE}.",
        contexts=CONTROL,
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
        contexts=CONTROL,
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
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="nat-extension",
        help="As a client: send Cisco's NAT Address extension with registrations, by which a server"
        " tells us the address that it sees us at. Default: to servers that are said to be"
        " `opennhrp`, `frr` or `cisco`.",
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="multi-binding",
        help="As a server: keep registrations of one address at several VTEPs beside each other,"
        " and name all of them in answers, best preference first. Default: no, the latest replaces"
        " the others. An address that is registered as unique has one VTEP in any case.",
        contexts=CONTROL,
        arguments=(YES_NO,),
        reload=Reload.SPEAKER,
    ),
    Keyword(
        name="map",
        help="The underlay address (or host name) of a protocol address; with /P, of the way to"
        " its network. With `register`, of a server that we register with. A `map-vni` of this"
        " interface may name its NHS by PROTO. `map MAC/P NBMA` is for a hub: the server that it"
        " passes requests on to about MACs with that prefix which nobody here knows;"
        " `00:00:00:00:00:00/0` is all MACs, and a `vpn-id` before it says in which VPNs.",
        contexts=CONTROL,
        arguments=(
            _PREFIX,
            Argument(name="NBMA|HOST", convert=a.host, example="10.0.0.1"),
        ),
        options=PEER_OPTIONS,
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
        contexts=CONTROL,
        arguments=(
            VNI,
            Argument(name="NHS", convert=a.host, example="10.0.0.1"),
            Argument(
                name="MAC",
                convert=a.station_mac,
                example="2e:cd:9a:5c:ae:c7",
                wanted=a.looks_like_mac,
            ),
        ),
        options=PEER_OPTIONS,
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
        contexts=CONTROL,
        arguments=(
            Argument(name="PROTO[/P]", convert=a.ip_network, example="10.255.255.0/24"),
            Argument(name="NBMA[/P]|any", convert=a.nbma_network, example="192.0.2.0/24"),
        ),
        options=(PERMIT_SPI,),
        repeatable=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="dynamic-map",
        help="Every address of the host name is a next hop server of the network, and we register"
        " with each.",
        contexts=CONTROL,
        arguments=(
            Argument(name="NET/P", convert=a.network, example="10.255.255.0/24"),
            Argument(name="HOST", convert=a.host, example="hub.example.org"),
        ),
        options=PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="shortcut-target",
        help="A network behind us: who asks for an address in it is told of the whole network, and"
        " to come to us.",
        contexts=CONTROL,
        arguments=(_PREFIX,),
        options=(TARGET_HOLDING_TIME,),
        repeatable=True,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="shortcut",
        help="Ask for the direct way when a Traffic Indication says that a packet took a detour.",
        contexts=CONTROL,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="redirect",
        help="Tell registered stations by Traffic Indications that their packets go out by the"
        " kernel GRE device that they came in by.",
        contexts=CONTROL,
        inherited=True,
        reload=Reload.LAYER_3,
    ),
    Keyword(
        name="non-caching",
        help="Keep no answer that only passes through us. We never do; the word is for files of"
        " OpenNHRP.",
        contexts=CONTROL,
        inherited=True,
    ),
    Keyword(
        name="route-table",
        help=f"Routing table that shortcut routes go to. Default: {MAIN_TABLE}, the main one.",
        contexts=CONTROL,
        arguments=(Argument(name="ID", convert=a.number(1, 2**32 - 1), example="254"),),
        inherited=True,
        reload=Reload.LAYER_3,
    ),
)
