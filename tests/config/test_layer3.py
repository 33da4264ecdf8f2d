"""The IPv4 and IPv6 side of a control interface: what its lines amount to."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VPNID, parse_ip
from dmevpn.config.model import Layer3Plan, MapPlan, SpeakerPlan, TargetPlan
from tests.config.files import HUB, SPOKE, checked, errors, plan, warnings

OUI = b"\x02\0\0"
HUB_NBMA = parse_ip("10.0.0.1")


def test_a_spoke_of_opennhrp():
    """Every word of an OpenNHRP spoke has its effect, on an interface that nobody names."""
    text = """interface gre1
    transport raw
    protocol-address 10.255.255.2/24
    map 10.255.255.1/24 10.0.0.1 register no-unique
    map 10.255.255.9 nine.example
    dynamic-map 10.254.0.0/16 hubs.example
    shortcut-target 192.168.2.1/24 holding-time 600
    shortcut
    redirect
    non-caching
    route-table 9
    """
    assert checked(text).messages == []
    assert plan(text).speakers == (SpeakerPlan(interface="gre1", transport="raw"),)
    assert plan(text).layer3 == (
        Layer3Plan(
            interface="gre1",
            addresses=((parse_ip("10.255.255.2"), 24),),
            maps=(
                MapPlan(
                    protocol=parse_ip("10.255.255.1"),
                    prefix_length=24,
                    host="10.0.0.1",
                    address=HUB_NBMA,
                    register=True,
                    unique=False,
                ),
                MapPlan(
                    protocol=parse_ip("10.255.255.9"),
                    prefix_length=32,
                    host="nine.example",
                    address=None,
                ),
                MapPlan(
                    protocol=parse_ip("10.254.0.0"),
                    prefix_length=16,
                    host="hubs.example",
                    address=None,
                    dynamic=True,
                    register=True,
                ),
            ),
            targets=(
                TargetPlan(protocol=parse_ip("192.168.2.0"), prefix_length=24, holding_time=600),
            ),
            shortcut=True,
            redirect=True,
            route_table=9,
        ),
    )


def test_both_families():
    """An interface has an IPv4 and an IPv6 address."""
    text = "interface n protocol-address 1.0.0.1/24 protocol-address 2001:db8::1/64"
    assert [len(address) for address, _ in plan(text).layer3[0].addresses] == [4, 16]
    assert errors(text + " protocol-address 1.0.0.2/24") == [
        "1: the IPv4 protocol address of this interface is 1.0.0.1 already near '1.0.0.2/24'"
    ]


def test_vpns():
    """Lines after a vpn-id are of that VPN, those before any of packets that name none."""
    text = """interface n
    map 1.0.0.1 10.0.0.1
    protocol-address 1.0.0.2/24
    vpn-id 7 protocol-address 1.7.0.2/24 map 1.7.0.1/24 10.0.0.7 register
    vpn-id 8 protocol-address 1.7.0.2/24 shortcut-target 192.168.0.0/16
    vpn-id 7 shortcut-target 192.168.0.0/16
    """
    assert checked(text).messages == []
    default, seven, eight = plan(text).layer3
    assert (default.vpn, seven.vpn, eight.vpn) == (None, VPNID(OUI, 7), VPNID(OUI, 8))
    assert [each.address for each in default.maps] == [HUB_NBMA]
    assert [each.address for each in seven.maps] == [parse_ip("10.0.0.7")]
    assert eight.maps == () and len(eight.targets) == len(seven.targets) == 1
    assert errors(text.replace("vpn-id 8", "vpn-id 8-9")) == [
        "5: a protocol-address has one VPN: a range is for a hub's data interface near '8-9'",
        "5: a shortcut-target has one VPN: a range is for a hub's data interface near '8-9'",
    ]


def test_beside_layer_2():
    """The control interface of a data interface may have protocol addresses, too."""
    assert plan(SPOKE).layer3 == plan(HUB).layer3 == ()
    text = HUB + "interface nhrp protocol-address 1.0.0.1/24"
    assert checked(text).messages == []
    assert len(plan(text).speakers) == len(plan(text).layer3) == len(plan(text).hubs) == 1


@pytest.mark.parametrize(
    "line",
    ["dynamic-map 1.0.0.0/8 hub", "shortcut-target 1.0.0.0/8", "shortcut", "redirect"],
)
def test_without_an_address(line):
    """A line that waits for an address says so."""
    raw = f"{HUB}interface nhrp transport raw"
    text = f"{raw} {line}"
    assert plan(text) == plan(raw)
    keyword = line.split()[0]
    assert warnings(text) == [
        f"7: warning: {keyword} has no effect: with transport raw it needs a protocol-address"
        f" near '{keyword}'"
    ]


def test_families_without_an_address():
    """So does one of the other family."""
    text = (
        "interface n transport raw protocol-address 1.0.0.1/24\nmap 2001:db8::1 10.0.0.1 register\n"
    )
    text += "shortcut-target 2001:db8::/32\n"
    assert plan(text).layer3[0].maps == plan(text).layer3[0].targets == ()
    assert warnings(text) == [
        "2: warning: map has no effect: no map-vni of this interface names its address near"
        " '2001:db8::1'",
        "3: warning: shortcut-target has no effect: this interface has no address of its family"
        " near '2001:db8::/32'",
    ]
