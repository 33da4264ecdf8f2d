"""From files to plans: roles, defaults, cross references, and what draws a warning."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VPNID
from dmevpn.config.grammar import KEYWORDS
from dmevpn.config.model import (
    AuthenticationPlan,
    HubPlan,
    Layer3Plan,
    NHSPlan,
    Plan,
    SpeakerPlan,
    SpokePlan,
)
from dmevpn.config.parser import parse
from dmevpn.config.resolve import check, resolve
from dmevpn.errors import ConfigError
from tests.config.files import HUB, SPOKE, checked, errors, plan, warnings

OUI = b"\x02\0\0"
HUB_ADDRESS = b"\x0a\0\0\x01"
SERVER = NHSPlan(host="10.0.0.1", address=HUB_ADDRESS, register=True, flood=True)

ORIGINAL_SPOKE = """interface tunnel1
    transport raw
    map 1.0.0.1 10.0.0.1
    vpn-id 1
    map-vni 100 1.0.0.1 2e:cd:9a:5c:ae:c7 register
interface tunnel2
    vpn-id 1
    default-vni 100 10.0.0.1
    controller tunnel1
interface br-test
    vpn-id 1
"""
ORIGINAL_HUB = """interface tunnel1
    transport raw
interface tunnel2
    vpn-id 1
    l2learnonly
    shortcut-destination
    controller tunnel1
interface eth1
    shortcut-destination
    l2learnonly
    controller tunnel1
"""


# --- whole files ---


def test_smallest_hub():
    """The smallest hub is a speaker and a switch for three VPNs."""
    assert checked(HUB).messages == []
    assert plan(HUB) == Plan(
        oui=OUI,
        speakers=(SpeakerPlan(interface="nhrp", transport="auto"),),
        hubs=(HubPlan(interface="vx0", controller="nhrp", vpns=((1, 3),), provision=True),),
        admin=("unix:/run/dmevpn/x.sock:mode=600:lockfile=1",),
        state_dir="/var/lib/dmevpn/x",
    )


def test_smallest_spoke_with_three_vpns():
    """Three blocks make three VPNs over one speaker, without any warning."""
    text = SPOKE + (
        "interface vx2 controller nhrp vpn-id 2 default-vni 200 10.0.0.1 register provision br2\n"
        "interface vx3 controller nhrp vpn-id 3 default-vni 300 10.0.0.1 register provision br3\n"
    )
    assert checked(text).messages == []
    assert plan(text).speakers == (SpeakerPlan(interface="nhrp", transport="auto"),)
    assert plan(text).spokes == tuple(
        SpokePlan(
            interface=f"vx{n}",
            controller="nhrp",
            vpn=VPNID(OUI, n),
            vni=100 * n,
            servers=(SERVER,),
            bridge=f"br{n}",
        )
        for n in (1, 2, 3)
    )


def test_original_spoke():
    """The original's spoke resolves; its bridge, which has no role, draws the only warning."""
    assert plan(ORIGINAL_SPOKE).spokes == (
        SpokePlan(
            interface="tunnel2",
            controller="tunnel1",
            vpn=VPNID(OUI, 1),
            vni=100,
            servers=(SERVER,),
            station=bytes.fromhex("2ecd9a5caec7"),
        ),
    )
    assert plan(ORIGINAL_SPOKE).speakers == (SpeakerPlan(interface="tunnel1", transport="raw"),)
    assert checked(ORIGINAL_SPOKE).messages == [
        "x.conf:10: warning: no `controller` names this interface: vpn-id of this interface has"
        " no effect near 'br-test'"
    ]


def test_original_hub():
    """The original's hub resolves; what has no effect here is named."""
    assert plan(ORIGINAL_HUB).hubs == (
        HubPlan(interface="tunnel2", controller="tunnel1", vpns=((1, 1),)),
    )
    assert checked(ORIGINAL_HUB).messages == [
        "x.conf:6: warning: shortcut-destination has no effect (name the interface's networks with"
        " shortcut-target) near 'shortcut-destination'",
        "x.conf:8: warning: no vpn-id: shortcut-destination, l2learnonly, controller of this"
        " interface have no effect near 'eth1'",
    ]


def test_original_spoke_without_map():
    """Word for word, the original's NHS address leads nowhere; a warning says what to write."""
    text = ORIGINAL_SPOKE.replace("    map 1.0.0.1 10.0.0.1\n", "")
    assert plan(text).spokes[0].servers == (
        NHSPlan(host="10.0.0.1", address=HUB_ADDRESS, flood=True),
        NHSPlan(host="1.0.0.1", address=b"\x01\0\0\x01", register=True),
    )
    assert warnings(text)[0] == (
        "4: warning: taken for an underlay address; if it is a protocol address, write"
        " `map 1.0.0.1 NBMA` near '1.0.0.1'"
    )


def test_every_field_of_a_speaker():
    """Every keyword of a control interface arrives."""
    text = SPOKE.replace(
        "interface nhrp\n",
        "interface nhrp nbma-address 10.0.0.2 protocol-address 1.0.0.2/24 gre-key 7"
        " cisco-authentication s3cret holding-time 600 nat-detection no vpn-errors no"
        " request-rate 50\n",
    )
    assert checked(text).messages == []
    assert plan(text).speakers == (
        SpeakerPlan(
            interface="nhrp",
            transport="auto",
            nbma_address=b"\x0a\0\0\x02",
            gre_key=7,
            authentication=AuthenticationPlan(secret=b"s3cret"),
            holding_time=600,
            nat_detection=False,
            vpn_errors=False,
            request_rate=50,
        ),
    )
    assert plan(text).layer3 == (Layer3Plan(interface="nhrp", addresses=((b"\x01\0\0\x02", 24),)),)


def test_the_device_has_its_own_key():
    """With ``transport device`` the kernel's device says what the file cannot say otherwise."""
    text = SPOKE.replace("interface nhrp\n", "interface nhrp gre-key 7 transport device\n")
    assert plan(text).speakers[0].transport == "device"
    own = "has no effect with transport device: the device has its own near"
    assert warnings(text) == [f"1: warning: gre-key {own} 'gre-key'"]


def test_top():
    """OUI, admin endpoints and state directory arrive."""
    found = plan("vpn-oui 02-aa-bb admin tcp:1 admin tcp:2 state-dir /tmp/x " + SPOKE)
    assert found.oui == b"\x02\xaa\xbb"
    assert found.spokes[0].vpn == VPNID(b"\x02\xaa\xbb", 1)
    assert found.admin == ("tcp:1", "tcp:2")
    assert found.state_dir == "/tmp/x"


def test_endpoint_of_an_odd_name():
    """A file name with colons still makes a socket of that name."""
    found = check(HUB, "x", r"a:b=c\d").plan
    assert found is not None
    assert found.admin == (r"unix:/run/dmevpn/a\:b\=c\\d.sock:mode=600:lockfile=1",)


def test_nothing_to_do():
    """A file without a VPN is correct, and says that nothing will happen."""
    assert plan("").speakers == ()
    assert warnings("") == ["0: warning: nothing to do: no data interface, no protocol-address"]


def test_resolve():
    """resolve() returns plan and warnings, or raises the first error."""
    found, warned = resolve(parse(HUB, "x.conf"), "x")
    assert (found, warned) == (plan(HUB), [])
    with pytest.raises(ConfigError, match=r"^x.conf:2: no interface of this name is declared"):
        resolve(parse("interface a\ncontroller b\ninterface c\ncontroller d", "x.conf"), "x")


def test_parse_errors_come_alone():
    """A file with unreadable lines is not checked further: the rest would mislead."""
    assert errors(HUB.replace("interface nhrp", "interfaec nhrp")) == [
        "1: unknown word; did you mean interface? near 'interfaec'",
    ]


def test_messages_by_line():
    """Errors and warnings are shown in the order of the file."""
    text = HUB + "interface vx1 redirect controller nhrq\ninterface br1\n"
    assert [message.split(":")[1] for message in checked(text).messages] == ["7", "8"]


def test_both_roles():
    """A daemon may be spoke and hub, over one control interface."""
    found = plan(SPOKE + HUB + "vxlan-port 5000")
    assert (len(found.speakers), len(found.spokes), len(found.hubs)) == (1, 1, 1)
    assert found.hubs[0].port == 5000


def test_controller_declared_later():
    """The control interface may follow."""
    control, data = SPOKE.split("interface vx1")
    assert plan("interface vx1" + data + control) == plan(SPOKE)


# --- roles ---

IDLE = [
    (
        "interface a",
        "no `controller` names this interface, and it does not say `transport device`: this"
        " interface has no effect near 'a'",
    ),
    (
        "interface a gre-key 1 transport raw gre-key 2",
        "no `controller` names this interface: gre-key, transport of this interface have no effect",
    ),
    ("interface a l2learnonly", "no vpn-id: l2learnonly of this interface has no effect"),
    (
        "interface a controller nhrp default-vni 5 hub",
        "no vpn-id: controller, default-vni of this interface have no effect",
    ),
    (
        "interface a controller nhrp vpn-id 9",
        "neither default-vni (spoke) nor l2learnonly (hub): controller, vpn-id of this interface",
    ),
]


@pytest.mark.parametrize(("text", "message"), IDLE)
def test_interfaces_without_effect(text, message):
    """An interface that does nothing draws one warning that names its keywords."""
    assert plan(HUB + text) == plan(HUB)
    (found,) = warnings(HUB + text)
    assert found.startswith(f"7: warning: {message}")


def test_speaker_for_nobody():
    """A control interface of idle data interfaces only is not opened."""
    text = HUB + "interface n2 gre-key 5\ninterface a controller n2\n"
    assert plan(text) == plan(HUB)
    assert warnings(text)[0] == (
        "7: warning: no data interface in effect names this interface: gre-key of this interface"
        " has no effect near 'n2'"
    )


ROLE_ERRORS = [
    (
        "interface a default-vni 5 hub vpn-id 9",
        "default-vni needs the control interface: write `controller IFNAME` near 'default-vni'",
    ),
    (
        "interface a l2learnonly vpn-id 9",
        "l2learnonly needs the control interface: write `controller IFNAME` near 'l2learnonly'",
    ),
    (
        "interface a controller nhrq",
        "no interface of this name is declared; did you mean nhrp? near 'nhrq'",
    ),
    (
        "interface a controller zebra",
        "no interface of this name is declared; add `interface zebra` near 'zebra'",
    ),
    (
        "interface a controller vx0",
        "a control interface is needed, but this one has a `controller` itself near 'vx0'",
    ),
    (
        "interface a controller a",
        "a control interface is needed, but this one has a `controller` itself near 'a'",
    ),
    (
        "interface a controller nhrp vpn-id 9 default-vni 5 hub l2learnonly",
        "default-vni makes a spoke and l2learnonly a hub: one interface cannot be both near 'a'",
    ),
    (
        "interface a controller nhrp vpn-id 9 l2learnonly gre-key 1",
        "gre-key belongs to a control interface; this is a hub's data interface near 'gre-key'",
    ),
    (
        "interface nhrp provision",
        "provision belongs to a spoke's data interface or a hub's data interface; this is a"
        " control interface near 'provision'",
    ),
    (
        "interface a controller nhrp vpn-id 7 vpn-id 8 default-vni 5 hub",
        "a spoke's data interface has one VPN: line 7 says which near '8'",
    ),
    (
        "interface a controller nhrp vpn-id 7-8 default-vni 5 hub",
        "a spoke's data interface has one VPN: a range is for a hub's data interface near '7-8'",
    ),
    (
        "interface a controller nhrp vpn-id 7 default-vni 5 hub default-vni 6 hub2",
        "a spoke has one VNI in a VPN: line 7 says 5 near '6'",
    ),
    (
        "interface a controller nhrp vpn-id 7 default-vni 5 hub register provision",
        "a spoke needs the bridge: write `provision BRIDGE` near 'provision'",
    ),
    (
        "interface a controller nhrp vpn-id 7 l2learnonly provision br1 vxlan-port 5000",
        "a hub has no bridge: write `provision` alone near 'br1'",
    ),
    (
        "interface a controller nhrp vpn-id 7-9 vpn-id 12 vpn-id 1-100 l2learnonly",
        "this hub serves the VPN already: vpn-id overlaps an earlier one near '1-100'",
    ),
    (
        "interface a controller nhrp vpn-id 7 vpn-id any l2learnonly",
        "this hub serves the VPN already: vpn-id overlaps an earlier one near 'any'",
    ),
]


@pytest.mark.parametrize(("text", "message"), ROLE_ERRORS)
def test_errors_of_roles(text, message):
    """What cannot work is an error that says what to write."""
    assert errors(HUB + text) == [f"7: {message}"]


def test_vpns_of_a_hub():
    """A hub's VPNs are sorted; any is all of them."""
    text = HUB.replace("1-3", "9 vpn-id 1-3 vpn-id 5")
    assert plan(text).hubs[0].vpns == ((1, 3), (5, 5), (9, 9))
    assert plan(HUB.replace("1-3", "any")).hubs[0].vpns == ((1, 2**32 - 1),)


# --- what has no effect ---

KEYWORDS_WITHOUT_EFFECT = [row for row in KEYWORDS.values() if row.no_effect]


@pytest.mark.parametrize("row", KEYWORDS_WITHOUT_EFFECT, ids=lambda row: row.name)
def test_keywords_without_effect(row):
    """A keyword that does nothing in this release says so, and changes nothing."""
    text = " ".join([row.name, *(argument.example for argument in row.arguments)])
    text = f"{HUB}interface nhrp\n{text}"
    assert plan(text) == plan(HUB)
    (message,) = warnings(text)
    assert message == f"8: warning: {row.name} has no effect ({row.no_effect}) near '{row.name}'"


def test_options_without_effect():
    """So does an option."""
    text = SPOKE.replace("register", "register no-unique")
    assert [message.partition(" (")[0] for message in warnings(text)] == []
    assert not plan(text).spokes[0].servers[0].unique


def test_inherited_keyword_in_the_wrong_place():
    """OpenNHRP allows its keywords anywhere: misplaced, they only warn."""
    text = SPOKE + "holding-time 600\ninterface nhrp default-vni 5 10.0.0.1\n"
    assert plan(text) == plan(SPOKE)
    assert warnings(text) == [
        "7: warning: holding-time belongs to a control interface; this is a spoke's data"
        " interface: no effect near 'holding-time'",
        "8: warning: default-vni belongs to a spoke's data interface; this is a control"
        " interface: no effect near 'default-vni'",
    ]


def test_repeated_keywords():
    """Of a keyword that is said twice the last one holds, and a warning says so."""
    text = SPOKE + "interface nhrp gre-key 1\nholding-time 600\ngre-key 2\n"
    assert plan(text).speakers[0].gre_key == 2
    assert warnings(text) == ["9: warning: gre-key replaces that of line 7 near 'gre-key'"]
    assert "replaces" in warnings("vpn-oui 02-00-00 vpn-oui 02-00-01 " + SPOKE)[0]


def test_port_of_a_device_made_by_hand():
    """A device made by hand keeps its own port."""
    assert warnings(HUB.replace("provision", "vxlan-port 5000")) == [
        "6: warning: vxlan-port has no effect without provision: the device has its own port"
        " near 'vxlan-port'"
    ]


def test_two_vpns_in_one_bridge():
    """Two VPNs in one bridge are one LAN: allowed, with a warning."""
    text = SPOKE + (
        "interface vx2 controller nhrp vpn-id 2 default-vni 200 10.0.0.1 register provision br1\n"
        "interface vx3 controller nhrp vpn-id 3 default-vni 300 10.0.0.1 register\n"
    )
    assert len(plan(text).spokes) == 3
    assert warnings(text) == ["7: warning: joins VPN 2 and VPN 1 into one LAN near 'br1'"]
