"""Daemons that are restarted: what they leave, what they say, and what their successors know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world import Machine, Site, World, mac


@pytest.fixture
def world() -> World:
    """A hub."""
    world = World()
    world.start_hub()
    return world


def leave(world: World, machine: Machine) -> None:
    """Stop a daemon whose plan says ``leave-forwarding``, or that is told so."""
    assert machine.node is not None
    world.run(0.1)
    sent = len(world.network.transmissions)
    stopped: list[object] = []
    machine.node.stopService().addCallback(stopped.append)
    world.run(0.1)
    assert stopped == [None]
    assert machine.clock.getDelayedCalls() == []
    assert len(world.network.transmissions) == sent, "nobody is told"
    machine.node = None


def with_shortcut(world: World) -> tuple[Site, Site]:
    """Two sites whose stations have found each other."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, mac(1), two, mac(2))
    assert world.path(one, mac(2)) == two.vtep
    return one, two


def test_spoke_leaves_its_forwarding(world: World) -> None:
    """With `leave-forwarding` a stopped spoke is a member still, its shortcut stands, and its
    successor says that it is there and asks once for what it found."""
    one, two = with_shortcut(world)
    node = one.machine.node
    assert node is not None
    node.apply(replace(node.plan, leave_forwarding=True))
    leave(world, one.machine)
    assert world.path(one, mac(2)) == two.vtep
    assert one.vtep in world.switch.members
    sent = len(world.network.transmissions)
    world.start_site(one)
    world.run(1)
    world.speak(one, mac(1), mac(2))
    world.run(15)
    assert world.path(one, mac(2)) == two.vtep
    assert len(world.network.transmissions) - sent == 4, "two requests, and their replies"


def test_hub_leaves_its_switch(world: World) -> None:
    """Told to leave what forwards, a hub says nothing to its members; its successor has them."""
    one, two = with_shortcut(world)
    assert world.hub.node is not None
    world.hub.node.leaving = True
    leave(world, world.hub)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    sent = len(world.network.transmissions)
    world.start_hub()
    world.run(5)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    assert len(world.network.transmissions) == sent
    world.speak(one, mac(1))
    assert two.received[-1].endswith(mac(1))


def test_taken_down_all_the_same(world: World) -> None:
    """A shutdown takes down what `leave-forwarding` would leave."""
    one, _ = with_shortcut(world)
    node = one.machine.node
    assert node is not None
    node.apply(replace(node.plan, leave_forwarding=True))
    node.leaving = False
    node.stopService()
    world.run(1)
    assert one.kernel.rows == {}
    assert one.vtep not in world.switch.members
