"""A reload touches what differs, changes it while it runs where that can be, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from dmevpn.addresses import parse_ip
from dmevpn.config.diff import diff
from dmevpn.config.model import HubPlan, Layer3Plan, NHSPlan, PeerPlan, Plan, RoutePlan
from dmevpn.dataplane.memory_hub import MemoryHubDataplane, MemorySwitch
from dmevpn.errors import StartError
from dmevpn.nhrp.registration import State
from dmevpn.roles.node import Node
from tests.world import Site, World, mac


@pytest.fixture
def world() -> World:
    """A hub for VPNs 1 and 2."""
    world = World(vpns=((1, 2),))
    world.start_hub()
    return world


@pytest.fixture
def pair(world: World) -> tuple[Site, Site]:
    """Two sites of VPN 1, the first with a shortcut to the second."""
    one, far = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, mac(1), far, mac(2))
    assert world.path(one, mac(2)) == far.vtep
    return one, far


def node_of(site: Site) -> Node:
    """The node that runs at a site."""
    assert site.machine.node is not None
    return site.machine.node


def apply(world: World, node: Node, plan: Plan) -> None:
    """A reload that succeeds."""
    done: list[object] = []
    node.apply(plan).addBoth(done.append)
    world.run(1)
    assert done == [None]
    assert node.plan == plan


def refused(world: World, node: Node, plan: Plan) -> str:
    """A reload that fails; why."""
    failures: list[object] = []
    node.apply(plan).addErrback(failures.append)
    world.run(1)
    (failure,) = failures
    return str(failure)


# --- live at a spoke ------------------------------------------------------------------------


def test_holding_time(world: World, pair: tuple[Site, Site]) -> None:
    """Another one is asked for at once, by the registration that stands."""
    one, far = pair
    node = node_of(one)
    spoke, (client,) = node.spokes["vx1"], node.spokes["vx1"].registrations
    speaker = replace(node.plan.speakers[0], holding_time=600)
    apply(world, node, replace(node.plan, speakers=(speaker,)))
    assert node.spokes["vx1"] is spoke and spoke.registrations == [client]
    assert client.state is State.REGISTERED
    assert client.expires is not None and 590 < client.expires - world.clock.seconds() <= 600
    assert world.path(one, mac(2)) == far.vtep
    hub = world.hub.node
    assert hub is not None
    binding = hub.hubs["vx0"].vpns[1].cache.lookup(spoke.station)
    assert binding is not None and binding.holding_time == 600


def test_holding_time_of_ipv4_addresses(world: World) -> None:
    """IPv4 and IPv6 of the control interface take it over, too."""
    layer3 = Layer3Plan(interface="nhrp", addresses=((parse_ip("1.0.0.2"), 24),))
    one = world.add_site("10.0.0.2", 100, start=False)
    plan = Plan(speakers=(world.speaker,), layer3=(layer3,))
    node = world._start(one.machine, plan)
    role = node.layer3["nhrp", None]
    speaker = replace(world.speaker, holding_time=600)
    apply(world, node, replace(plan, speakers=(speaker,)))
    assert node.layer3["nhrp", None] is role
    (station,) = role.each_station()
    own = station.cache.lookup(parse_ip("1.0.0.2"))
    assert own is not None and own.holding_time == 600


def test_servers(world: World, pair: tuple[Site, Site]) -> None:
    """A second hub is added, and the first one given up, without touching a shortcut."""
    one, far = pair
    node = node_of(one)
    spoke, (client,) = node.spokes["vx1"], node.spokes["vx1"].registrations
    other = world.add_hub("10.0.0.9")
    second = NHSPlan(host="10.0.0.9", address=other.address, register=True, flood=True)
    plan = node.plan
    with_second = replace(spoke.plan, servers=(*spoke.plan.servers, second))
    apply(world, node, replace(plan, spokes=(with_second,)))
    assert node.spokes["vx1"] is spoke
    assert spoke.registrations[0] is client
    assert [each.state for each in spoke.registrations] == 2 * [State.REGISTERED]
    apply(world, node, replace(plan, spokes=(replace(with_second, servers=(second,)),)))
    assert node.spokes["vx1"] is spoke
    assert one.kernel.flood == (other.address,)
    assert one.vtep not in world.switch.members
    assert one.vtep in world.switches[other.address].members
    assert world.path(one, mac(2)) == far.vtep


def test_server_with_a_name(world: World, pair: tuple[Site, Site]) -> None:
    """The hub of before serves until the name of the new one has an address."""
    one, far = pair
    node = node_of(one)
    spoke = node.spokes["vx1"]
    other = world.add_hub("10.0.0.9")
    found: Deferred[Any] = Deferred()
    world.names["hub.example"] = lambda: found
    named = NHSPlan(host="hub.example", address=None, register=True, flood=True)
    apply(world, node, replace(node.plan, spokes=(replace(spoke.plan, servers=(named,)),)))
    assert [each.nhs for each in spoke.registrations] == [world.hub.address]
    found.callback(other.address)
    world.run(1)
    assert node.spokes["vx1"] is spoke
    assert [each.nhs for each in spoke.registrations] == [other.address]
    world.names["hub.example"] = lambda: succeed(other.address)
    known = replace(named, host="10.0.0.1", address=world.hub.address)
    apply(world, node, replace(node.plan, spokes=(replace(spoke.plan, servers=(known,)),)))
    assert [each.nhs for each in spoke.registrations] == [world.hub.address]
    assert node._names == {}
    assert world.path(one, mac(2)) == far.vtep


def test_terms_of_a_registration(world: World, pair: tuple[Site, Site]) -> None:
    """`no-unique` is asked for at once; the hub does not lose the site meanwhile."""
    one, _ = pair
    node = node_of(one)
    spoke = node.spokes["vx1"]
    told: list[object] = []
    server = replace(spoke.plan.servers[0], unique=False)
    hub = world.hub.node
    assert hub is not None
    cache = hub.hubs["vx0"].vpns[1].cache
    stop = hub.watchers.add(lambda row: told.append(row["event"]))
    apply(world, node, replace(node.plan, spokes=(replace(spoke.plan, servers=(server,)),)))
    stop()
    binding = cache.lookup(spoke.station)
    assert binding is not None and not binding.unique
    assert told == []


def test_hub_of_another_family(world: World, pair: tuple[Site, Site]) -> None:
    """The devices of a VPN are of one address family: it restarts."""
    plan = node_of(pair[0]).plan
    server = NHSPlan(host="fd00::1", address=parse_ip("fd00::1"), register=True, flood=True)
    spokes = (replace(plan.spokes[0], servers=(server,)),)
    changes = diff(plan, replace(plan, spokes=spokes))
    assert [new for _, new in changes.spokes.restarted] == list(spokes)


# --- live at a hub --------------------------------------------------------------------------


def test_vpns_of_a_hub(world: World, pair: tuple[Site, Site]) -> None:
    """A VPN more and one less: the sites of the others send nothing, and keep what they have."""
    one, far = pair
    two = world.add_site("10.0.0.4", 200, vpn=2)
    three = world.add_site("10.0.0.5", 300, vpn=3)
    world.run(1)
    hub = world.hub.node
    assert hub is not None
    role, vpn = hub.hubs["vx0"], hub.hubs["vx0"].vpns[1]
    assert three.vtep not in world.switch.members
    apply(world, hub, replace(hub.plan, hubs=(replace(role.plan, vpns=((1, 1), (3, 3))),)))
    assert hub.hubs["vx0"] is role and role.vpns[1] is vpn
    assert set(role.vpns) == {1, 3}
    assert {one.vtep, far.vtep} <= set(world.switch.members)
    assert two.vtep not in world.switch.members
    assert node_of(two).spokes["vx2"].registrations[0].state is not State.REGISTERED
    assert world.path(one, mac(2)) == far.vtep
    world.run(1)
    assert three.vtep in world.switch.members


def test_a_vpn_that_is_given_up_takes_its_answers_along(world: World) -> None:
    """Nobody there will see its stations move, not even if it is served again at once."""
    one = world.add_site("10.0.0.4", 200, vpn=2)
    two = world.add_site("10.0.0.5", 201, vpn=2)
    world.run(1)
    world.exchange(one, mac(1), two, mac(2))
    assert world.path(one, mac(2)) == two.vtep
    hub = world.hub.node
    assert hub is not None
    plan = hub.plan
    apply(world, hub, replace(plan, hubs=(replace(plan.hubs[0], vpns=((1, 1),)),)))
    apply(world, hub, plan)
    world.run(0.1)
    assert world.path(one, mac(2)) != two.vtep
    world.run(3)
    world.exchange(one, mac(1), two, mac(2))
    assert world.path(one, mac(2)) == two.vtep


def test_who_was_turned_away_is_called(world: World) -> None:
    """A site whose VPN the hub does not serve asks again after ten minutes, and registers within
    two seconds when it is served; within half a minute, if the call is lost."""
    site = world.add_site("10.0.0.5", 300, vpn=3)
    world.run(1)
    (client,) = node_of(site).spokes["vx3"].registrations
    assert client.state is State.REFUSED and client.renew_at is not None
    assert client.renew_at - world.clock.seconds() > 590
    hub = world.hub.node
    assert hub is not None
    with_it = replace(hub.plan, hubs=(replace(hub.plan.hubs[0], vpns=((1, 3),)),))
    without = hub.plan
    for lost, seconds in ((False, 2), (True, 32)):
        site.machine.node = None
        world.start_site(site, vpn=3)
        world.run(1)
        world.network.isolate(site.machine.address) if lost else None
        apply(world, hub, with_it)
        world.network.heal()
        world.run(seconds)
        assert site.vtep in world.switch.members
        apply(world, hub, without)


def test_vpn_that_changes_hands(world: World, pair: tuple[Site, Site]) -> None:
    """One hub interface gives a VPN up, another one takes it, in one reload."""
    one, _ = pair
    hub = world.hub.node
    assert hub is not None
    plan = hub.plan
    second = HubPlan(interface="vx9", controller="nhrp", vpns=((7, 7),))
    switch = MemorySwitch(world.clock, world._from_hub)
    dataplane = MemoryHubDataplane(world.hub.clock, switch, station_mac=mac(0x99))
    hub._drivers = replace(hub._drivers, hub_dataplane=lambda hub, speaker: dataplane)
    apply(world, hub, replace(plan, hubs=(*plan.hubs, second)))
    swapped = (
        replace(plan.hubs[0], vpns=((1, 1), (7, 7))),
        replace(second, vpns=((2, 2),)),
    )
    apply(world, hub, replace(plan, hubs=swapped))
    assert set(hub.hubs["vx0"].vpns) == {1, 7}
    assert set(hub.hubs["vx9"].vpns) == {2}
    assert one.vtep in world.switch.members


def test_routes_of_a_hub(world: World, pair: tuple[Site, Site]) -> None:
    """The server to ask about unknown MACs is asked from the next question on."""
    one, _ = pair
    upper = world.add_hub("10.0.0.9")
    distant = world.add_site("10.0.0.8", 108, hub=upper)
    world.run(1)
    world.speak(distant, mac(8))
    node_of(one).spokes["vx1"].fdb_missed(mac(8))
    world.run(1)
    assert world.path(one, mac(8)) == one.hub
    hub = world.hub.node
    assert hub is not None
    role = hub.hubs["vx0"]
    route = RoutePlan(protocol=bytes(6), prefix_length=0, nhs=upper.address)
    apply(world, hub, replace(hub.plan, hubs=(replace(role.plan, routes=(route,)),)))
    assert hub.hubs["vx0"] is role
    world.run(15)
    node_of(one).spokes["vx1"].fdb_missed(mac(8))
    world.run(1)
    assert world.path(one, mac(8)) == distant.vtep
    apply(world, hub, replace(hub.plan, hubs=(replace(role.plan, routes=()),)))
    assert role.vpns[1].server.passes_on is None


def test_peers_and_errors(world: World, pair: tuple[Site, Site]) -> None:
    """What other daemons are, and how strangers are treated, is known at once."""
    one, _ = pair
    hub = world.hub.node
    assert hub is not None
    speaker = hub.speakers["nhrp"]
    peer = PeerPlan(address=parse_ip("10.0.0.77"), daemon="opennhrp")
    plan = replace(hub.plan.speakers[0], peers=(peer,), vpn_errors=False)
    apply(world, hub, replace(hub.plan, speakers=(plan,)))
    assert hub.speakers["nhrp"] is speaker
    known = speaker.peers.get(peer.address)
    assert known is not None and known.dialect.old
    assert not speaker.vpn_errors
    apply(world, hub, replace(hub.plan, speakers=(replace(plan, peers=()),)))
    assert speaker.peers.get(peer.address) is None
    assert one.vtep in world.switch.members


# --- all or nothing ---------------------------------------------------------------------------


def break_spoke(node: Node, index: int) -> Callable[[], None]:
    """Let the devices of a VPN be refused; what mends that."""
    good = node._drivers

    def make(spoke: Any, speaker: Any) -> Any:
        if spoke.vpn.index == index:
            raise StartError("no such device")
        return good.spoke_dataplane(spoke, speaker)

    def mend() -> None:
        node._drivers = good

    node._drivers = replace(good, spoke_dataplane=make)
    return mend


def test_what_cannot_start_changes_nothing(world: World, pair: tuple[Site, Site]) -> None:
    """Neither the VPN that is refused comes, nor another that would have, nor does one go."""
    one, far = pair
    node = node_of(one)
    two = world.add_site("10.0.0.2", 200, start=False)
    before, spoke = node.plan, node.spokes["vx1"]
    mend = break_spoke(node, 2)
    speaker = replace(before.speakers[0], holding_time=600)
    hub = HubPlan(interface="vx9", controller="nhrp", vpns=((9, 9),))
    world.switches[one.machine.address] = MemorySwitch(world.clock, world._from_hub)
    wanted = replace(
        before,
        speakers=(speaker,),
        hubs=(hub,),
        spokes=(*before.spokes, *world.spoke_plan(two, vpn=2).spokes),
    )
    assert "no such device" in refused(world, node, wanted)
    assert node.plan == before
    assert node.spokes == {"vx1": spoke} and node.hubs == {}
    assert spoke.registrations[0].state is State.REGISTERED
    assert world.path(one, mac(2)) == far.vtep
    mend()
    apply(world, node, wanted)
    assert {one.vtep, two.vtep} <= set(world.switch.members)


def test_what_was_restarted_is_taken_back(world: World, pair: tuple[Site, Site]) -> None:
    """A VPN that had to stop for its new form goes on in the old one."""
    one, _ = pair
    node = node_of(one)
    before = node.plan
    broken = break_spoke(node, 2)
    two = world.add_site("10.0.0.2", 200, start=False)
    moved = world.add_site("10.0.0.2", 150, start=False)
    wanted = replace(
        before,
        spokes=(
            replace(before.spokes[0], vni=150),
            *world.spoke_plan(two, vpn=2).spokes,
        ),
    )
    assert "no such device" in refused(world, node, wanted)
    world.run(2)
    assert node.plan == before
    assert one.vtep in world.switch.members and moved.vtep not in world.switch.members
    broken()


def test_what_cannot_be_had_back_is_left_out(world: World, pair: tuple[Site, Site]) -> None:
    """The others go on, and the next reload tries it again."""
    one, _ = pair
    node = node_of(one)
    before = node.plan
    mend = break_spoke(node, 1)
    wanted = replace(before, spokes=(replace(before.spokes[0], vni=150),))
    assert "no such device" in refused(world, node, wanted)
    assert node.plan == replace(before, spokes=())
    mend()
    apply(world, node, before)
    assert one.vtep in world.switch.members
