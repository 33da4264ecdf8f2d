"""Sites with different MTUs are told of it by the answers and registrations that they get."""

from __future__ import annotations

import pytest

from dmevpn.dataplane.memory_spoke import MemorySpokeDataplane
from dmevpn.metrics import Metrics
from tests.dataplane.test_provision import texts_of
from tests.world import Site, World, mac


def told(metrics: Metrics) -> float:
    """Mismatches that a node has counted."""
    return metrics.counter("mtu_mismatches", vpn="1").value


@pytest.fixture
def world() -> World:
    """A hub."""
    world = World()
    world.start_hub()
    return world


def meet(world: World, site: Site, mtu: int) -> tuple[Site, list[str]]:
    """Let a site with an MTU of its own join, and another station reach it; what was warned of."""
    with texts_of() as warnings:
        far = world.add_site("10.0.0.3", 101, start=False)
        far.mtu = mtu
        world.start_site(far)
        world.run(1)
        world.exchange(site, mac(1), far, mac(2))
    assert world.path(site, mac(2)) == far.vtep
    return far, [text for text in warnings if "MTU" in text]


def test_sites_agree(world: World) -> None:
    """Nobody complains."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    _, warnings = meet(world, one, 1450)
    assert warnings == []
    assert told(one.machine.metrics) == told(world.hub.metrics) == 0


def test_sites_disagree(world: World) -> None:
    """The hub says it when the site joins, the other site when it gets its shortcut; once."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    far, warnings = meet(world, one, 1400)
    assert told(world.hub.metrics) == 1
    assert told(one.machine.metrics) == 1
    assert any("vx1 here 1450" in text and f"{far.vtep} has MTU 1400" in text for text in warnings)
    assert any("vx0 here 1450" in text and f"{far.vtep} has MTU 1400" in text for text in warnings)
    assert one.machine.node is not None
    with texts_of() as again:
        one.machine.node.spokes["vx1"].cache.remove(mac(2), "flushed")
        world.exchange(one, mac(1), far, mac(2))
    assert [text for text in again if "MTU" in text] == []
    assert told(one.machine.metrics) == 2


def test_mtu_changes_are_told() -> None:
    """A spoke whose devices get another MTU says so to its hub at once, and in what it asks."""
    world = World()
    world.start_hub()
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    (dataplane,) = one.machine.dataplanes
    assert isinstance(dataplane, MemorySpokeDataplane)
    dataplane.set_mtu(1300)
    world.run(1)
    assert world.hub.node is not None
    hub = world.hub.node.hubs["vx0"]
    (binding,) = hub.vpns[1].cache.registrations_of(one.vtep)
    assert binding.mtu == 1300
    hub.mtu_changed(1200)
    assert hub.vpns[1].identity.mtu == 1200
