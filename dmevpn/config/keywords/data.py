"""Keywords of data interfaces. Layer: core."""

from __future__ import annotations

from dmevpn.config import arguments as a
from dmevpn.config.keyword import Argument, Keyword, Option, Reload
from dmevpn.config.keywords.shared import (
    ANY,
    DATA,
    HUB,
    PEER_OPTIONS,
    PERMIT_SPI,
    SPOKE,
    VNI,
    YES_NO,
)
from dmevpn.config.model import DEFAULT_LOOP_PROBE, DEFAULT_VXLAN_PORT
from dmevpn.interfaces import VPNRules

__all__ = ["DATA_KEYWORDS"]

#: What a hub's switch does unless it is told otherwise.
_RULES = VPNRules()

#: In the order of the documentation.
DATA_KEYWORDS = (
    Keyword(
        name="vpn-id",
        help="Data interface of a spoke: its VPN. Of a hub: the VPNs it serves, `N`, `N-M` or"
        " `any`. Control interface: the VPN of the lines after it, up to the next `vpn-id`; of"
        " `map-vni` lines a single one is that of all.",
        contexts=ANY,
        arguments=(Argument(name="N|N-M|any", convert=a.vpn_range, example="1"),),
        repeatable=True,
        inherited=True,
        reload=Reload.VPN,
    ),
    Keyword(
        name="controller",
        help="Makes this a data interface: a vxlan device whose NHRP is spoken on control"
        " interface IFNAME, declared before or after.",
        contexts=DATA,
        arguments=(Argument(name="IFNAME", convert=a.device_name, example="nhrp", free=True),),
        inherited=True,
        reload=Reload.ROLE,
    ),
    Keyword(
        name="default-vni",
        help="Makes this a spoke's: frames without a shortcut go to the hub at this underlay"
        " address (or host name) with our VNI. With `register` we also register with the NHS there,"
        " and no `map-vni` is needed. Further hubs, in order of preference, have the same VNI.",
        contexts=SPOKE,
        arguments=(VNI, Argument(name="NBMA|HOST", convert=a.host, example="10.0.0.1")),
        options=PEER_OPTIONS,
        repeatable=True,
        inherited=True,
        reload=Reload.SERVER,
    ),
    Keyword(
        name="l2learnonly",
        help="Makes this a hub's: the switch that learns which MAC is behind which spoke.",
        contexts=HUB,
        inherited=True,
        reload=Reload.ROLE,
    ),
    Keyword(
        name="provision",
        help="The daemon makes, owns and removes the devices. Spoke: BRIDGE if absent, and in it"
        " the vxlan devices NAME and NAME-s. Hub: the vxlan device NAME, and BRIDGE is left out."
        " Devices that are there and right are used, and stay.",
        contexts=DATA,
        arguments=(
            Argument(name="BRIDGE", convert=a.device_name, example="br1", wanted=lambda word: True),
        ),
        reload=Reload.ROLE,
    ),
    Keyword(
        name="vxlan-port",
        help="UDP port on the wire when provisioned, the same at all sites of a hub. A spoke also"
        f" takes the port below. Default: {DEFAULT_VXLAN_PORT}.",
        contexts=DATA,
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
        contexts=HUB,
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
            PERMIT_SPI,
        ),
        repeatable=True,
        reload=Reload.AT_ONCE,
    ),
    Keyword(
        name="members-only",
        help="Answer Resolution Requests of registered stations only, when they come from where"
        " the station is registered, and those that a server passes on which a `map MAC/P` of the"
        " control interface names. Default: yes if there is a `permit`, else no.",
        contexts=HUB,
        arguments=(YES_NO,),
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
        contexts=HUB,
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
                arguments=(VNI,),
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
        contexts=HUB,
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
        " is dropped, and so are those of a site whose copies, in all its VPNs, exceed ten times as"
        " many. 0: any number. Default:"
        f" {_RULES.flood_rate} and {_RULES.flood_burst}.",
        contexts=HUB,
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
        contexts=HUB,
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
        contexts=HUB,
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
        " another site, or the same one, they are connected behind the hub's back: both are"
        f" named, and what they flood is limited. `no` sends none. Default: {DEFAULT_LOOP_PROBE}.",
        contexts=HUB,
        arguments=(Argument(name="SECONDS|no", convert=a.seconds_or_no, example="10"),),
        reload=Reload.AT_ONCE,
    ),
)
