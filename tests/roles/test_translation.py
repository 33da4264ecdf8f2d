"""Stations behind an address translation, and what the others learn of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.extensions import NATAddress
from dmevpn.nhrp.packet import decode_payload
from dmevpn.nhrp.registration import State
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from tests.layer3 import Layer3World
from tests.schemas import CheckedController
from tests.translation import translate
from tests.world import Machine, Site, World, mac

A, B = mac(1), mac(2)
OUTSIDE = parse_ip("198.51.100.7")


def spoke(site: Site) -> Any:
    assert site.machine.node is not None
    (only,) = site.machine.node.spokes.values()
    return only


def controller(machine: Machine) -> Controller:
    assert machine.node is not None
    return CheckedController(machine.node, ConfigFile("x.conf"), Deferred)


def test_a_site_is_where_it_is_seen() -> None:
    """Members and shortcuts of others name the translated address."""
    world = World()
    world.start_hub()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"))
    world.add_site("192.168.1.2", 100)
    other = world.add_site("10.0.0.3", 200)
    world.run(1)
    seen = VTEP(OUTSIDE, 100)
    assert set(world.switch.members) == {seen, other.vtep}
    world.switch.receive(seen, b"\xff" * 6 + A)
    world.speak(other, B, A)
    world.run(0.5)
    assert world.path(other, A) == seen
    (row,) = [
        row
        for row in controller(world.hub).bindings({})
        if row["nbma"] == "198.51.100.7" and row["type"] == "dynamic"
    ]
    assert row["flags"] == ["unique", "nat"]


def test_two_sites_with_different_vnis() -> None:
    """They are told apart, though they have one address."""
    world = World()
    world.start_hub()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"), parse_ip("192.168.1.3"))
    one = world.add_site("192.168.1.2", 100)
    world.run(1)
    two = world.add_site("192.168.1.3", 101)
    world.run(1)
    assert set(world.switch.members) == {VTEP(OUTSIDE, 100), VTEP(OUTSIDE, 101)}
    assert {spoke(each).registrations[0].state for each in (one, two)} == {State.REGISTERED}


def test_two_sites_with_one_vni() -> None:
    """The second is refused, knows it, and the first is not disturbed."""
    world = World()
    world.start_hub()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"), parse_ip("192.168.1.3"))
    one = world.add_site("192.168.1.2", 100)
    world.run(1)
    two = world.add_site("192.168.1.3", 100)
    world.run(1)
    assert set(world.switch.members) == {VTEP(OUTSIDE, 100)}
    client = spoke(two).registrations[0]
    assert client.state is State.REFUSED
    assert client.last_error == "refused with code 4, prohibited"
    assert spoke(one).registrations[0].state is State.REGISTERED
    assert world.hub.metrics.value("drops", reason="nat_conflict") == 1


@pytest.mark.parametrize("vpn", [None, 7])
def test_a_client_learns_how_it_is_seen(vpn: int | None) -> None:
    """With the NAT Address extension it is told."""
    world = Layer3World()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"))
    prefix = "" if vpn is None else f"vpn-id {vpn} "
    hub = world.add("10.0.0.1", f"{prefix}protocol-address 1.0.0.1/24")
    inside = world.add(
        "192.168.1.2",
        f"nat-extension yes {prefix}protocol-address 1.0.0.2/24 map 1.0.0.1 10.0.0.1 register",
    )
    world.run(1)
    found = hub.known("1.0.0.2", vpn)
    assert found is not None
    assert (found.vtep, found.nat, found.claimed) == (VTEP(OUTSIDE, None), True, inside.address)
    assert inside.station(vpn=vpn).registrations[0].seen_as == OUTSIDE


def sent(world: World, packet_type: PacketType, to: str) -> Any:
    """The last packet of a type that went to an address."""
    packets = [
        decode_payload(each.payload())[1]
        for each in world.network.transmissions
        if each.destination == parse_ip(to)
    ]
    return [each for each in packets if each.packet_type is packet_type][-1]


@pytest.mark.parametrize(("peer", "asked"), [("frr", True), ("cisco", True), ("", False)])
def test_who_gets_the_extension(peer: str, asked: bool) -> None:
    """Daemons that expect it, with requests of both kinds; those of ours do not need it."""
    world = Layer3World()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"))
    world.add("10.0.0.1", "protocol-address 1.0.0.1/24")
    inside = world.add(
        "192.168.1.2", f"protocol-address 1.0.0.2/24 map 1.0.0.1 10.0.0.1 register {peer}"
    )
    world.run(1)
    request = sent(world, PacketType.REGISTRATION_REQUEST, "10.0.0.1")
    said = request.extension(NATAddress)
    assert (said is not None, request.flags & 2 != 0) == (asked, asked)
    if said is not None:
        assert [(each.nbma, each.protocol) for each in said.cies] == [
            (parse_ip("10.0.0.1"), parse_ip("1.0.0.1"))
        ]
    inside.station().resolution.resolve(parse_ip("1.0.0.9"))
    world.run(0.1)
    request = sent(world, PacketType.RESOLUTION_REQUEST, "10.0.0.1")
    said = request.extension(NATAddress)
    assert (said is not None, request.flags & 2 != 0) == (asked, asked)
    if said is not None:
        assert [(each.nbma, each.protocol) for each in said.cies] == [
            (OUTSIDE, parse_ip("1.0.0.2"))
        ]


def test_a_target_behind_a_translation() -> None:
    """An answer that names the claimed address, and the translated one in the extension: the
    latter is where packets go."""
    world = Layer3World()
    translate(world.network, OUTSIDE, parse_ip("192.168.1.2"))
    world.add("10.0.0.1", "protocol-address 1.0.0.1/24")
    one = world.add("10.0.0.2", "protocol-address 1.0.0.2/24 map 1.0.0.1 10.0.0.1 register frr")
    inside = world.add("192.168.1.2", "protocol-address 1.0.0.3/24 map 1.0.0.1 10.0.0.1 register")
    world.run(1)
    one.station().resolution.resolve(parse_ip("1.0.0.3"))
    world.run(0.1)
    found = one.known("1.0.0.3")
    assert found is not None and found.kind is Kind.CACHED
    assert found.vtep == VTEP(OUTSIDE, None)
    inside.station().resolution.resolve(parse_ip("1.0.0.2"))
    world.run(0.1)
    found = inside.known("1.0.0.2")
    assert found is not None and found.vtep == VTEP(parse_ip("10.0.0.2"), None)
