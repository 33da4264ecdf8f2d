"""The node: start, reload and stop as one operation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, parse_ip
from dmevpn.config.model import HubPlan, NHSPlan, Plan, SpeakerPlan, SpokePlan
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.dataplane.memory_hub import MemoryHubDataplane
from dmevpn.dataplane.memory_spoke import MemorySpokeDataplane
from dmevpn.errors import StartError
from dmevpn.interfaces import GREDevice
from dmevpn.nhrp.registration import State
from dmevpn.roles.lookup import REFRESH, RETRY
from dmevpn.roles.node import Node
from dmevpn.roles.readdressing import RETRY as RETRY_READDRESSED
from dmevpn.roles.spoke import derive_station
from tests.dataplane.test_provision import texts_of
from tests.world import Site, World, mac


@pytest.fixture
def world() -> World:
    """A hub for VPNs 1 to 3."""
    world = World(vpns=((1, 3),))
    world.start_hub()
    return world


def two_vpns(world: World, one: Site, two: Site) -> Plan:
    """A plan with a spoke each for VPN 1 and VPN 2 on one machine."""
    plan = world.spoke_plan(one, vpn=1)
    return replace(plan, spokes=(*plan.spokes, *world.spoke_plan(two, vpn=2).spokes))


def test_an_unchanged_vpn_is_not_touched(world: World) -> None:
    """A reload that adds and removes a neighbour VPN leaves registrations and shortcuts alone."""
    one = world.add_site("10.0.0.2", 100, start=False)
    two = world.add_site("10.0.0.2", 200, start=False)
    far = world.add_site("10.0.0.3", 101)
    node = world.start_site(one)
    world.run(1)
    world.exchange(one, mac(1), far, mac(2))
    before = node.spokes["vx1"]
    sent = len(world.network.transmissions)
    node.apply(two_vpns(world, one, two))
    world.run(1)
    assert node.spokes["vx1"] is before
    assert world.path(one, mac(2)) == far.vtep
    assert {two.vtep, one.vtep} <= set(world.switch.members)
    node.apply(world.spoke_plan(one))
    world.run(1)
    assert node.spokes == {"vx1": before}
    assert world.path(one, mac(2)) == far.vtep
    assert two.vtep not in world.switch.members
    assert len(world.network.transmissions) - sent <= 4, "one registration, its reply, one purge"


def test_a_changed_vpn_is_restarted(world: World) -> None:
    """Another VNI takes effect by a restart of that role only."""
    one = world.add_site("10.0.0.2", 100)
    world.sites[VTEP(one.vtep.nbma, 150)] = Site(
        one.machine, VTEP(one.vtep.nbma, 150), one.kernel, one.hubs
    )
    world.run(1)
    node = one.machine.node
    assert node is not None
    plan = world.spoke_plan(one)
    node.apply(replace(plan, spokes=(replace(plan.spokes[0], vni=150),)))
    world.run(3)
    assert set(world.switch.members) == {VTEP(one.vtep.nbma, 150)}


def test_a_failed_start_is_undone(world: World) -> None:
    """What had been started before the fault is stopped again."""
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = world.spoke_plan(one)
    hub = HubPlan(interface="vx9", controller="nhrp", vpns=((9, 9),))
    node = world.make_node(one.machine, replace(plan, hubs=(hub,)))
    broken = MemoryHubDataplane(world.clock, world.switch, start_error="no such device")
    node._drivers = replace(node._drivers, hub_dataplane=lambda hub, speaker: broken)
    with pytest.raises(StartError, match="no such device"):
        node.privilegedStartService()
    node.stopService()
    world.run(3)
    assert node.speakers == {} and node.spokes == {} and node.hubs == {}
    assert one.machine.clock.getDelayedCalls() == []


def test_a_hub_that_has_a_name(world: World) -> None:
    """The spoke starts when the name is known, and asks again while it is not."""
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = world.spoke_plan(one)
    server = replace(plan.spokes[0].servers[0], host="hub.example", address=None)
    plan = replace(plan, spokes=(replace(plan.spokes[0], servers=(server,)),))
    world.names["hub.example"] = lambda: fail(DNSLookupError("no such host"))
    node = world._start(one.machine, plan)
    world.run(1)
    assert node.spokes == {}
    world.names["hub.example"] = lambda: succeed(world.hub.address)
    world.run(RETRY)
    assert one.vtep in world.switch.members


def named_hub(world: World, one: Site) -> Plan:
    """The plan of a site that knows its hub by name."""
    plan = world.spoke_plan(one)
    server = replace(plan.spokes[0].servers[0], host="hub.example", address=None)
    return replace(plan, spokes=(replace(plan.spokes[0], servers=(server,)),))


def test_a_hub_that_gets_another_address_is_followed(world: World) -> None:
    """The registration moves to the address that the name has now; the old hub forgets us."""
    one = world.add_site("10.0.0.2", 100, start=False)
    world.names["hub.example"] = lambda: succeed(world.hub.address)
    node = world._start(one.machine, named_hub(world, one))
    world.run(1)
    assert one.vtep in world.switch.members
    spoke, moved = node.spokes["vx1"], parse_ip("10.0.0.99")
    (before,) = spoke.registrations
    world.names["hub.example"] = lambda: succeed((moved, parse_ip("10.0.0.98")))
    world.run(REFRESH)
    assert [client.nhs for client in spoke.registrations] == [moved]
    assert one.vtep not in world.switch.members, "the old registration was purged"
    assert one.kernel.flood == (moved,)
    world.names["hub.example"] = lambda: succeed((parse_ip("10.0.0.98"), moved))
    world.run(2 * REFRESH, step=1)
    assert [client.nhs for client in spoke.registrations] == [moved], "an address in use stays"
    world.names["hub.example"] = lambda: succeed(world.hub.address)
    world.run(REFRESH + 2, step=1)
    assert one.vtep in world.switch.members
    assert before not in spoke.registrations


def test_a_name_that_is_not_found_is_one_line_in_the_log(world: World) -> None:
    """It says which name, and why, as an operator would."""
    one = world.add_site("10.0.0.2", 100, start=False)
    world.names["hub.example"] = lambda: fail(DNSLookupError("hub.example: no such host"))
    lines: list[str] = []

    @implementer(ILogObserver)
    def note(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    try:
        world._start(one.machine, named_hub(world, one))
        world.run(1)
    finally:
        globalLogPublisher.removeObserver(note)
    (line,) = [line for line in lines if "look up" in line]
    assert line.startswith("cannot look up hub.example: ") and "no such host" in line
    assert "Traceback" not in line and "\n" not in line


@pytest.mark.parametrize("late", [False, True])
def test_a_spoke_that_cannot_start_when_its_hub_is_found(world: World, late: bool) -> None:
    """It is tried again by itself, what is wrong is said once, and a reload does not lose it."""
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = named_hub(world, one)
    answer: Deferred[bytes] = Deferred()
    world.names["hub.example"] = lambda: answer
    node = world.make_node(one.machine, plan)
    good = node._drivers
    node._drivers = replace(good, spoke_dataplane=refuse)
    if not late:
        answer.callback(world.hub.address)
    with texts_of(LogLevel.error) as said:
        node.privilegedStartService()
        node.startService()
        if late:
            answer.callback(world.hub.address)
        assert node.spokes == {}
        node.apply(replace(plan, log_format="json"))
        world.run(5 * RETRY_READDRESSED)
        assert node.spokes == {}
    assert said == ["no such device"]
    node._drivers = good
    world.run(RETRY_READDRESSED + 1)
    assert one.vtep in world.switch.members


def caught(applying: Deferred[None], failures: list[object]) -> None:
    """Note the failure of an apply."""
    applying.addErrback(lambda failure: failures.append(failure))


def refuse(*_: object) -> MemorySpokeDataplane:
    """No device can be had."""
    raise StartError("no such device")


def test_a_fault_half_way_through_a_reload_is_made_good_by_the_next(world: World) -> None:
    """What runs is known even after an error that nobody has foreseen."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    node = one.machine.node
    assert node is not None
    plan = node.plan
    good = node._drivers

    def break_down(*_: object) -> MemorySpokeDataplane:
        raise OSError("out of luck")

    node._drivers = replace(good, spoke_dataplane=break_down)
    failures: list[object] = []
    changed = replace(plan, spokes=(replace(plan.spokes[0], vni=150),))
    caught(node.apply(changed), failures)
    assert "out of luck" in str(failures)
    node._drivers = good
    node.apply(plan)
    world.run(1)
    assert set(world.switch.members) == {one.vtep}


def test_two_reloads_at_once_follow_each_other(world: World) -> None:
    """The last one is what runs, even if stopping for the first takes its time."""
    one = world.add_site("10.0.0.2", 100)
    world.sites[VTEP(one.vtep.nbma, 150)] = Site(
        one.machine, VTEP(one.vtep.nbma, 150), one.kernel, one.hubs
    )
    world.run(1)
    node = one.machine.node
    assert node is not None
    plan = node.plan
    stop_slowly(world, node)
    node.apply(replace(plan, spokes=(replace(plan.spokes[0], vni=150),)))
    node.apply(plan)
    world.run(3)
    assert set(world.switch.members) == {one.vtep}


@pytest.mark.parametrize("slowly", [False, True])
def test_a_reload_while_or_after_stopping_starts_nothing(world: World, slowly: bool) -> None:
    """SIGHUP to a daemon that is about to end leaves no device behind."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    node = one.machine.node
    assert node is not None
    plan = node.plan
    if slowly:
        stop_slowly(world, node)
    node.stopService()
    refusals: list[object] = []
    caught(node.apply(plan), refusals)
    world.run(3)
    assert "the daemon is stopping" in str(refusals)
    assert node.spokes == {} and node.speakers == {}
    assert one.machine.clock.getDelayedCalls() == []


def test_a_stop_in_the_middle_of_a_reload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be started is not, nor what was there before: all would only be taken down."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    node = one.machine.node
    assert node is not None
    stop_slowly(world, node)
    (spoke,) = node.plan.spokes
    refusals: list[object] = []
    caught(node.apply(replace(node.plan, spokes=(replace(spoke, bridge="br9"),))), refusals)
    node.stopService()
    monkeypatch.setattr(MemorySpokeDataplane, "start", refuse)
    world.run(3)
    assert [str(each.value) for each in refusals] == ["the daemon is stopping"]  # type: ignore[attr-defined]
    assert node.spokes == {} and node.speakers == {}
    assert one.machine.clock.getDelayedCalls() == []


def stop_slowly(world: World, node: Node) -> None:
    """Let the devices of a node's spoke take half a second to go."""
    dataplane: Any = node.spokes["vx1"].dataplane
    stop = dataplane.stop

    def later() -> Deferred[None]:
        stop()
        stopped: Deferred[None] = Deferred()
        world.clock.callLater(0.5, stopped.callback, None)
        return stopped

    dataplane.stop = later


@pytest.mark.parametrize("answered", [False, True])
def test_a_look_up_is_given_up_when_stopped(world: World, answered: bool) -> None:
    """A daemon that is stopped before its hub has an address starts nothing any more."""
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = world.spoke_plan(one)
    server = replace(plan.spokes[0].servers[0], host="hub.example", address=None)
    plan = replace(plan, spokes=(replace(plan.spokes[0], servers=(server,)),))
    if answered:
        world.names["hub.example"] = lambda: fail(DNSLookupError("no such host"))
    else:
        world.names["hub.example"] = lambda: Deferred()
    node = world._start(one.machine, plan)
    node.stopService()
    world.run(RETRY + 1)
    assert node.spokes == {}
    assert one.machine.clock.getDelayedCalls() == []


def test_a_stop_ends_whatever_happens(world: World) -> None:
    """A driver that does not stop holds the daemon up for two seconds at most."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    node = one.machine.node
    assert node is not None
    node.spokes["vx1"].dataplane.stop = lambda: Deferred()
    done: list[object] = []
    node.stopService().addCallback(done.append)
    world.run(2.5)
    assert done == [None]


def raises() -> Deferred[None]:
    """A fault that nobody has foreseen."""
    raise RuntimeError("no stop")


@pytest.mark.parametrize("stop", [raises, lambda: fail(RuntimeError("no stop"))])
def test_a_stop_goes_on_after_a_fault(
    world: World, stop: Any, logged_failures: list[object]
) -> None:
    """A part that cannot be stopped is said, and keeps no other from being stopped."""
    one = world.add_site("10.0.0.2", 100, start=False)
    two = world.add_site("10.0.0.2", 200, start=False)
    node = world._start(one.machine, two_vpns(world, one, two))
    world.run(1)
    assert len(world.switch.members) == 2
    for name in ("vx1", "vx2"):
        node.spokes[name].dataplane.stop = stop
    done: list[object] = []
    node.stopService().addCallback(done.append)
    world.run(0.1)
    assert done == [None]
    assert len(logged_failures) == 2
    logged_failures.clear()
    assert world.switch.members == {}
    assert node.speakers == {}
    assert one.machine.clock.getDelayedCalls() == []


def test_two_speakers_keep_their_vpns_apart() -> None:
    """A VPN on demand is made for the control interface that its hub interface names."""
    world = World()
    plan = Plan(
        speakers=(SpeakerPlan(interface="a", gre_key=1), SpeakerPlan(interface="b", gre_key=2)),
        hubs=(HubPlan(interface="vx0", controller="b", vpns=((1, 5000),)),),
    )
    hub = world._start(world.hub, plan)
    world.speaker = SpeakerPlan(interface="nhrp", gre_key=1)
    one = world.add_site("10.0.0.2", 100)
    world.speaker = SpeakerPlan(interface="nhrp", gre_key=2)
    two = world.add_site("10.0.0.3", 100)
    world.run(1)
    assert set(world.switch.members) == {two.vtep}
    assert one.machine.node is not None
    assert one.machine.node.spokes["vx1"].registrations[0].state is State.REFUSED
    assert set(hub.hubs["vx0"].vpns) == {1}


def test_derived_stations() -> None:
    """A site keeps its station MAC over restarts; no two VPNs, VTEPs or machines share one."""
    vpn, vtep = VPNID(DEFAULT_OUI, 1), VTEP(b"\x0a\0\0\2", 100)
    station = derive_station(b"m", vpn, vtep)
    assert station == derive_station(b"m", vpn, vtep)
    others = {
        derive_station(b"n", vpn, vtep),
        derive_station(b"m", VPNID(DEFAULT_OUI, 2), vtep),
        derive_station(b"m", vpn, VTEP(b"\x0a\0\0\2", 101)),
        derive_station(b"m", vpn, VTEP(b"\x0a\0\0\3", 100)),
    }
    assert station not in others and len(others) == 4
    assert station[0] & 3 == 2, "locally administered, for one station"


def test_flooding_prefers_the_first_registered_hub() -> None:
    """Of two hubs only one carries what is not known, and a later one takes over in order."""
    world = World()
    world.start_hub()
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = world.spoke_plan(one)
    spoke: SpokePlan = plan.spokes[0]
    absent = replace(spoke.servers[0], address=b"\x0a\0\0\xfe")
    plan = replace(plan, spokes=(replace(spoke, servers=(absent, *spoke.servers)),))
    world._start(one.machine, plan)
    assert one.kernel.flood == (absent.address,), "nobody has us yet: the first of the file"
    world.run(1)
    assert one.kernel.flood == (world.hub.address,)


def test_a_spoke_beside_a_hub_that_makes_vpns_on_demand() -> None:
    """Other sites of the spoke's VPN are registered, although the VPN has a station already."""
    world = World(vpns=((1, 2**32 - 1),))
    site = world.add_site("10.0.0.1", 50, start=False)
    world.hub_plan = replace(world.hub_plan, spokes=world.spoke_plan(site, vpn=7).spokes)
    world.start_hub()
    far = world.add_site("10.0.0.3", 101, vpn=7)
    world.run(3)
    assert set(world.switch.members) == {site.vtep, far.vtep}


def test_a_hub_restarted_beside_a_spoke_hears_purges() -> None:
    """A site that stops leaves at once, in whatever order hub and spoke were started."""
    world = World(vpns=((1, 3),))
    site = world.add_site("10.0.0.1", 50, start=False)
    world.hub_plan = replace(world.hub_plan, spokes=world.spoke_plan(site).spokes)
    node = world.start_hub()
    world.run(1)
    wider = replace(world.hub_plan.hubs[0], vpns=((1, 4),))
    node.apply(replace(world.hub_plan, hubs=(wider,)))
    far = world.add_site("10.0.0.3", 101)
    world.run(3)
    assert far.vtep in world.switch.members
    assert far.machine.node is not None
    far.machine.node.stopService()
    world.run(1)
    assert far.vtep not in world.switch.members


def with_device(world: World, address: str, **state: Any) -> MemoryControlDevice:
    """Give a machine a GRE device of its own."""
    octets = parse_ip(address)
    device = GREDevice(7, "nhrp", True, 1476, 1000, octets, b"")._replace(**state)
    return world.devices.setdefault(octets, MemoryControlDevice("nhrp", device))


def test_registrations_are_renewed_when_the_transport_carries_again(world: World) -> None:
    """A hub that has forgotten us meanwhile knows us at once, not at the next renewal."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    world.kill(world.hub)
    world.switch.members.clear()
    world.start_hub()
    world.run(1)
    assert one.vtep not in world.switch.members
    assert one.machine.node is not None
    one.machine.node.speakers["nhrp"].resumed()
    world.run(1)
    assert one.vtep in world.switch.members


def test_nhs_that_the_kernel_knows(world: World) -> None:
    """A site registers with the neighbour that its GRE device has for the NHS, as soon as it has
    one, and with the next when that becomes another."""
    device = with_device(world, "10.0.0.2", key=None, addresses=((parse_ip("1.0.0.2"), 24),))
    site = world.add_site("10.0.0.2", 100, start=False)
    plan = world.spoke_plan(site)
    spoke = plan.spokes[0]
    flooded = replace(spoke.servers[0], register=False)
    neighbour = NHSPlan(host="1.0.0.1", address=None, register=True)
    spoke = replace(spoke, servers=(flooded, neighbour))
    node = world.make_node(site.machine, replace(plan, spokes=(spoke,)))
    node.privilegedStartService()
    world.run(1)
    assert node.spokes == {}
    device.neighbours[parse_ip("1.0.0.1")] = world.hub.address
    world.run(RETRY)
    assert site.vtep in world.switch.members
    role = node.spokes["vx1"]
    assert [client.nhs for client in role.registrations] == [world.hub.address]
    other = world.add_hub("10.0.0.9")
    device.neighbours[parse_ip("1.0.0.1")] = other.address
    world.run(REFRESH)
    assert [client.nhs for client in role.registrations] == [other.address]
    node.stopService()
    world.run(1)


def test_roles_work_with_the_address_and_key_of_the_device(world: World) -> None:
    """What the device says wins over the file; where it says nothing the file holds."""
    given: list[SpeakerPlan] = []
    for number, local in ((2, parse_ip("10.0.0.2")), (3, b"")):
        address = f"10.0.0.{number}"
        with_device(world, address, local=local)
        site = world.add_site(address, 100 + number, start=False)
        plan = world.spoke_plan(site)
        said = replace(plan.speakers[0], nbma_address=parse_ip("10.9.9.9"), gre_key=5)
        node = world.make_node(site.machine, replace(plan, speakers=(said,)))
        make = node._drivers.spoke_dataplane

        def record(
            spoke: SpokePlan, speaker: SpeakerPlan, make: Any = make
        ) -> MemorySpokeDataplane:
            given.append(speaker)
            dataplane: MemorySpokeDataplane = make(spoke, speaker)
            return dataplane

        node._drivers = replace(node._drivers, spoke_dataplane=record)
        node.privilegedStartService()
        node.stopService()
    assert [(plan.nbma_address, plan.gre_key) for plan in given] == [
        (parse_ip("10.0.0.2"), 1000),
        (parse_ip("10.9.9.9"), 1000),
    ]


def test_the_device_lives_as_long_as_its_speaker(world: World) -> None:
    """Nobody follows it before the start, after the stop, or when the start failed."""
    device = with_device(world, "10.0.0.2")
    site = world.add_site("10.0.0.2", 100)
    node = site.machine.node
    assert node is not None and device.started and node.devices == {"nhrp": device}
    node.stopService()
    world.run(0.1)
    assert not device.started and node.devices == {}
    refused = world.make_node(site.machine, world.spoke_plan(site))
    refused._drivers = replace(refused._drivers, transport=refuse)
    with pytest.raises(StartError):
        refused.privilegedStartService()
    assert not device.started and refused.devices == {}


def test_a_device_that_is_missing_is_a_refused_start(world: World) -> None:
    """It is named, and nothing runs."""
    device = with_device(world, "10.0.0.2")
    device.change(None)
    site = world.add_site("10.0.0.2", 100, start=False)
    node = world.make_node(site.machine, world.spoke_plan(site))
    with pytest.raises(StartError, match="interface nhrp: no such device"):
        node.privilegedStartService()
    assert node.speakers == node.devices == {}


def moving_site(world: World) -> tuple[Site, VTEP, MemoryControlDevice]:
    """A site on a GRE device whose address may become another one: its new VTEP, and the device."""
    device = with_device(world, "10.0.0.2", key=None)
    one = world.add_site("10.0.0.2", 100, start=False)
    new = VTEP(parse_ip("10.0.0.22"), 100)
    one.machine.others.append(new.nbma)
    world.sites[new] = Site(one.machine, new, one.kernel, one.hubs)
    return one, new, device


def test_spokes_follow_the_address_of_the_device(world: World) -> None:
    """Where the GRE device gets another local address, its spokes are sites there, at once; a
    device that is away for a while and comes back as it was changes nothing."""
    one, new, device = moving_site(world)
    node = world.start_site(one)
    world.run(1)
    assert set(world.switch.members) == {one.vtep}
    before, state = node.spokes["vx1"], device.state
    assert state is not None
    device.change(None)
    device.change(state)
    device.change(state._replace(mtu=1400))
    assert node.spokes["vx1"] is before
    device.change(state._replace(local=new.nbma))
    world.run(1)
    assert node.spokes["vx1"] is not before
    assert node.spokes["vx1"].dataplane.local_vtep == new
    assert set(world.switch.members) == {new}
    node.stopService()
    world.run(0.1)
    assert one.machine.clock.getDelayedCalls() == []
    assert device.listeners == []


def test_spokes_wait_for_their_address(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spoke that cannot start at its new address yet is tried again; what stands goes on."""
    one, new, device = moving_site(world)
    far = world.add_site("10.0.0.3", 101)
    node = world.start_site(one)
    world.run(1)
    world.exchange(one, mac(1), far, mac(2))
    assert device.state is not None
    with monkeypatch.context() as patch:

        def refuse(self: MemorySpokeDataplane, listener: object) -> None:
            raise StartError("no such address")

        patch.setattr(MemorySpokeDataplane, "start", refuse)
        device.change(device.state._replace(local=new.nbma))
        world.run(3)
        assert node.spokes == {}
        assert world.path(one, mac(2)) == far.vtep
        node.apply(replace(node.plan, log_format="json"))
        world.run(2)
        assert node.spokes == {}
    world.run(RETRY_READDRESSED)
    assert node.spokes["vx1"].dataplane.local_vtep == new
    assert new in world.switch.members


def test_spokes_of_a_hub_that_has_a_name_follow_their_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start again at once, without another look-up; if they cannot, they are tried again, and
    a reload meanwhile does not lose them. The name is followed as before."""
    one, new, device = moving_site(world)
    world.names["hub.example"] = lambda: succeed(world.hub.address)
    plan = named_hub(world, one)
    node = world._start(one.machine, plan)
    world.run(1)
    assert set(world.switch.members) == {one.vtep}
    world.names["hub.example"] = lambda: fail(DNSLookupError("no such host"))
    assert device.state is not None
    with monkeypatch.context() as patch:
        patch.setattr(MemorySpokeDataplane, "start", refuse)
        device.change(device.state._replace(local=new.nbma))
        world.run(1)
        assert node.spokes == {}
        node.apply(replace(plan, log_format="json"))
        world.run(RETRY_READDRESSED)
        assert node.spokes == {}
    world.run(RETRY_READDRESSED)
    assert node.spokes["vx1"].dataplane.local_vtep == new
    assert set(world.switch.members) == {new}
    moved = parse_ip("10.0.0.99")
    world.names["hub.example"] = lambda: succeed(moved)
    world.run(2 * REFRESH, step=1)
    assert [client.nhs for client in node.spokes["vx1"].registrations] == [moved]
    node.stopService()
    world.run(0.1)
    assert one.machine.clock.getDelayedCalls() == []


def test_a_hub_that_moves_while_its_spoke_cannot_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found out of its name meanwhile is what it registers with then."""
    one, new, device = moving_site(world)
    world.names["hub.example"] = lambda: succeed(world.hub.address)
    node = world._start(one.machine, named_hub(world, one))
    world.run(1)
    moved = parse_ip("10.0.0.99")
    world.names["hub.example"] = lambda: succeed(moved)
    assert device.state is not None
    with monkeypatch.context() as patch:
        patch.setattr(MemorySpokeDataplane, "start", refuse)
        device.change(device.state._replace(local=new.nbma))
        world.run(REFRESH, step=1)
        assert node.spokes == {}
    world.run(RETRY_READDRESSED + 1)
    assert [client.nhs for client in node.spokes["vx1"].registrations] == [moved]
