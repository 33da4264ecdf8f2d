"""IPv4 and IPv6 hubs and spokes together, on one clock: what a user of the whole would notice."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.nhrp.cache import Kind
from tests.layer3 import Layer3Machine, Layer3World

HUB = "10.0.0.1"


@pytest.fixture
def world() -> Layer3World:
    """Nobody is there yet."""
    return Layer3World()


def hub(world: Layer3World, more: str = "") -> Layer3Machine:
    """A hub with addresses of both families."""
    return world.add(
        HUB,
        f"transport raw protocol-address 10.255.255.1/24 protocol-address 2001:db8::1/64 {more}",
    )


def spoke(world: Layer3World, number: int, more: str = "") -> Layer3Machine:
    """A spoke of that hub."""
    return world.add(
        f"10.0.0.{number}",
        f"""transport raw
        protocol-address 10.255.255.{number}/24 protocol-address 2001:db8::{number}/64
        map 10.255.255.1/24 {HUB} register
        map 2001:db8::1/64 {HUB} register
        {more}""",
    )


def ask(world: Layer3World, machine: Layer3Machine, protocol: str) -> None:
    """Have a machine ask for an address, and wait for the answer."""
    octets = parse_ip(protocol)
    machine.station(len(octets)).resolution.resolve(octets)
    world.run(0.2)


@pytest.mark.parametrize("network", ["10.255.255.", "2001:db8::"])
def test_registration_and_resolution(world: Layer3World, network: str) -> None:
    """Each station is known to the hub by both families, and one asks for the other."""
    centre, two, three = hub(world), spoke(world, 2), spoke(world, 3)
    world.run(1)
    found = centre.known(f"{network}2")
    assert found is not None and (found.kind, found.unique) == (Kind.DYNAMIC, True)
    assert found.vtep == VTEP(two.address, None)
    ask(world, two, f"{network}3")
    answer = two.known(f"{network}3")
    assert answer is not None and answer.kind is Kind.CACHED
    assert answer.vtep == VTEP(three.address, None)


def test_stop(world: Layer3World) -> None:
    """A spoke that stops is forgotten at once, by the hub and by those who had asked."""
    centre, two, three = hub(world), spoke(world, 2), spoke(world, 3)
    world.run(1)
    ask(world, two, "10.255.255.3")
    assert three.node is not None
    three.node.stopService()
    world.run(1)
    assert centre.known("10.255.255.3") is None
    assert two.known("10.255.255.3") is None
    assert three.clock.getDelayedCalls() == []


def test_renewal(world: Layer3World) -> None:
    """Registrations are renewed for as long as the spoke lives."""
    centre = hub(world)
    spoke(world, 2, "holding-time 30")
    world.run(200, step=0.5)
    assert centre.known("10.255.255.2") is not None
    world.kill(world.hosts["10.0.0.2"])
    world.run(31, step=0.5)
    assert centre.known("10.255.255.2") is None
