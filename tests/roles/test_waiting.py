"""A node that stops while a spoke waits for its start: what stands of it is not forgotten."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from twisted.internet.defer import fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.logger import LogLevel

from dmevpn.dataplane.memory_spoke import MemorySpokeDataplane
from dmevpn.errors import DataplaneError, StartError
from tests.dataplane.test_provision import texts_of
from tests.roles.test_node import moving_site, named_hub, refuse, world
from tests.world import World, mac

__all__ = ["world"]


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_stopped_while_a_spoke_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, leaving: bool, named: bool
) -> None:
    """What stands of a spoke that cannot start, or does not know its hub yet after its daemon was
    killed, is taken down as that of any other, or left."""
    one, new, device = moving_site(world)
    far = world.add_site("10.0.0.3", 101)
    plan = world.spoke_plan(one)
    if named:
        world.names["hub.example"] = lambda: succeed(world.hub.address)
        plan = named_hub(world, one)
    node = world._start(one.machine, replace(plan, leave_forwarding=leaving))
    world.run(1)
    world.exchange(one, mac(1), far, mac(2))
    if named:
        world.kill(one.machine)
        world.names["hub.example"] = lambda: fail(DNSLookupError("no such host"))
        node = world._start(one.machine, replace(plan, leave_forwarding=leaving))
    else:
        assert device.state is not None
        monkeypatch.setattr(MemorySpokeDataplane, "start", refuse)
        device.change(device.state._replace(local=new.nbma))
    world.run(1)
    assert node.spokes == {}
    assert world.path(one, mac(2)) == far.vtep
    node.stopService()
    world.run(1)
    assert (one.kernel.rows != {}) == leaving
    assert (one.kernel.flood != ()) == leaving
    assert one.machine.clock.getDelayedCalls() == []


def test_what_cannot_be_taken_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in a line, and the rest is stopped."""
    one, new, device = moving_site(world)
    node = world.start_site(one)
    world.run(1)
    assert device.state is not None
    monkeypatch.setattr(MemorySpokeDataplane, "start", refuse)
    device.change(device.state._replace(local=new.nbma))
    world.run(1)

    def fail_to(plan: object) -> None:
        raise DataplaneError(errno.EPERM, "removing vx1")

    node._drivers = replace(node._drivers, take_down=fail_to)
    with texts_of(LogLevel.error) as said:
        node.stopService()
        world.run(1)
    assert said == ["removing vx1: Operation not permitted"]
    assert node.speakers == {} and one.machine.clock.getDelayedCalls() == []


def test_a_start_that_fails_takes_nothing_down(world: World) -> None:
    """What an earlier run has left of a spoke that has not had its turn goes on."""
    one = world.add_site("10.0.0.2", 100)
    far = world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, mac(1), far, mac(2))
    world.kill(one.machine)
    plan = world.spoke_plan(one)
    node = world.make_node(one.machine, plan)
    node._drivers = replace(node._drivers, transport=refuse)
    with pytest.raises(StartError):
        node.privilegedStartService()
    node.stopService()
    assert world.path(one, mac(2)) == far.vtep
