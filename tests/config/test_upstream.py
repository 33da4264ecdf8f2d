"""The servers that a hub asks about what it does not know."""

from __future__ import annotations

from dmevpn.addresses import parse_ip, parse_mac
from dmevpn.config.model import RoutePlan
from tests.config.files import HUB, SPOKE, checked, errors, plan, warnings

ALL = "00:00:00:00:00:00/0"
OTHER = parse_ip("10.0.0.9")


def test_all_macs():
    """One line makes a hub ask another one, in all its VPNs."""
    text = f"{HUB}interface nhrp map {ALL} 10.0.0.9 map {ALL} 10.0.0.8"
    assert checked(text).messages == []
    assert plan(text).hubs[0].routes == (
        RoutePlan(protocol=bytes(6), prefix_length=0, nhs=OTHER),
        RoutePlan(protocol=bytes(6), prefix_length=0, nhs=parse_ip("10.0.0.8")),
    )
    assert plan(HUB).hubs[0].routes == ()


def test_some_macs_of_some_vpns():
    """Lines after a vpn-id are about its VPNs, a prefix about the MACs of one maker."""
    text = f"{HUB}interface nhrp vpn-id 2-3 map 52:54:00:00:00:00/24 10.0.0.9"
    assert checked(text).messages == []
    assert plan(text).hubs[0].routes == (
        RoutePlan(
            protocol=parse_mac("52:54:00:00:00:00"), prefix_length=24, nhs=OTHER, vpns=(2, 3)
        ),
    )


def test_an_address_is_needed():
    """A hub does not look names up."""
    assert errors(f"{HUB}interface nhrp\nmap {ALL} hub.example.org") == [
        "8: a hub's upstream server is given by its underlay address near 'hub.example.org'"
    ]


def test_options_mean_nothing():
    """A hub asks, it does not register."""
    assert warnings(f"{HUB}interface nhrp\nmap {ALL} 10.0.0.9 register") == [
        "8: warning: register has no effect: a hub only asks this server near 'register'"
    ]


def test_without_a_hub():
    """A spoke passes nothing on."""
    text = f"{SPOKE}interface nhrp\nmap {ALL} 10.0.0.9"
    assert plan(text) == plan(SPOKE)
    assert "map has no effect" in warnings(text)[0]
