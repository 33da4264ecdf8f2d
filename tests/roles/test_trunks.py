"""Several hubs of one VPN: frames, answers and moves between the sites of different ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import KeepalivePlan, TrunkPlan
from dmevpn.dataplane.memory_hub import MemorySwitch
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import State
from dmevpn.roles import hub_vpn
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.spoke import SpokeRole
from tests.roles.test_faults import controller, doctor, explain
from tests.roles.test_hostile import Peer
from tests.world import BROADCAST, Machine, Site, World, mac

FIRST, SECOND, THIRD = "10.0.0.1", "10.0.1.1", "10.0.2.1"
A, B, C = mac(1), mac(2), mac(3)


def vpn_of(machine: Machine) -> HubVPN:
    """VPN 1 at a hub."""
    assert machine.node is not None
    (role,) = machine.node.hubs.values()
    return role.vpns[1]


def spoke_of(site: Site) -> SpokeRole:
    """The spoke of a site."""
    assert site.machine.node is not None
    (spoke,) = site.machine.node.spokes.values()
    return spoke


class Mesh:
    """Two hubs or three with trunks to each other; a site at each, and one at the first two."""

    def __init__(
        self,
        *addresses: str,
        keepalive: KeepalivePlan | None = None,
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.addresses = addresses or (FIRST, SECOND)
        self.world = world = World(jitter=jitter)
        world.speaker = replace(world.speaker, keepalive=keepalive)
        world.hub_plan = replace(world.hub_plan, speakers=(world.speaker,))
        self.hubs = [self.start(each) for each in self.addresses]
        self.sites = [
            world.add_site(f"10.0.{number}.10", 100 + number, hub=hub)
            for number, hub in enumerate(self.hubs)
        ]
        self.both = world.add_site("10.0.9.10", 109, hubs=tuple(self.hubs[:2]))
        self.all = [*self.sites, self.both]
        world.run(3)

    def start(self, address: str) -> Machine:
        """Start a hub, again perhaps."""
        others = tuple(each for each in self.addresses if each != address)
        return self.world.add_hub(address, trunks=others)

    def switch(self, number: int) -> MemorySwitch:
        return self.world.switches[self.hubs[number].address]

    def heard(self, site: Site, source: bytes, destination: bytes = BROADCAST) -> dict[str, int]:
        """How often a frame arrived where, by the numbers of the sites ("b" is at two hubs)."""
        for each in self.all:
            each.received.clear()
        self.world.speak(site, source, destination)
        self.world.run(0.1)
        names = [*map(str, range(len(self.sites))), "b"]
        frame = destination + source
        counts = {
            name: each.received.count(frame) for name, each in zip(names, self.all, strict=True)
        }
        return {name: count for name, count in counts.items() if count}


@pytest.fixture(params=[(FIRST, SECOND), (FIRST, SECOND, THIRD)], ids=["two", "three"])
def mesh(request: pytest.FixtureRequest) -> Mesh:
    return Mesh(*request.param)


def everybody_but(mesh: Mesh, name: str) -> dict[str, int]:
    return {each: 1 for each in [*map(str, range(len(mesh.sites))), "b"] if each != name}


def test_hubs_are_members_of_each_other(mesh: Mesh) -> None:
    """Each is registered with all others, in the VNI that is the VPN's index, as a hub."""
    for number, hub in enumerate(mesh.hubs):
        trunks = {VTEP(each.address, 1) for each in mesh.hubs if each is not hub}
        members = mesh.switch(number).members
        assert {vtep for vtep, each in members.items() if each.registration.hub} == trunks
        clients = vpn_of(hub).trunks.registrations
        assert {client.state for client in clients} == {State.REGISTERED}


def test_a_broadcast_reaches_every_site_once(mesh: Mesh) -> None:
    """Wherever it comes from, and never where it came from."""
    for number, site in enumerate(mesh.sites):
        assert mesh.heard(site, mac(number)) == everybody_but(mesh, str(number))
    assert mesh.heard(mesh.both, mac(9)) == everybody_but(mesh, "b")


def test_a_site_of_two_hubs_may_flood_to_either(mesh: Mesh) -> None:
    """Which hub carries its flooding makes no difference to who hears what, how often."""
    site = mesh.both
    spoke = spoke_of(site)
    for hub in (mesh.hubs[1], mesh.hubs[0], mesh.hubs[1]):
        spoke.dataplane.set_flood([hub.address])
        assert mesh.heard(site, mac(9)) == everybody_but(mesh, "b")
        assert mesh.heard(mesh.sites[0], mac(1)) == everybody_but(mesh, "0")
        assert mesh.heard(mesh.sites[1], mac(2)) == everybody_but(mesh, "1")


def test_resolution_across(mesh: Mesh) -> None:
    """A MAC behind another hub: that hub answers, and the sites talk directly."""
    last = mesh.sites[-1]
    mesh.world.exchange(mesh.sites[0], A, last, B)
    mesh.world.run(1)
    assert mesh.world.path(mesh.sites[0], B) == last.vtep
    assert mesh.world.path(last, A) == mesh.sites[0].vtep
    assert mesh.heard(mesh.sites[0], A, B) == {str(len(mesh.sites) - 1): 1}
    first, other = vpn_of(mesh.hubs[0]), vpn_of(mesh.hubs[-1])
    assert dict(other.server.answered()) == {B: (last.vtep,)}
    assert dict(first.server.answered()) == {A: (mesh.sites[0].vtep,)}


def test_an_unknown_mac_is_nobodys(mesh: Mesh) -> None:
    """It is answered with no binding, not passed round; the frame is flooded, and its answer
    teaches all hubs."""
    assert mesh.heard(mesh.sites[0], A, C) == everybody_but(mesh, "0")
    mesh.world.run(0.5)
    hub = mesh.hubs[0].metrics
    assert hub.value("resolution_answers", code="12", vpn="1") == 1
    assert hub.value("packets_forwarded", vpn="1") == 0
    assert mesh.heard(mesh.sites[1], C, A) == {"0": 1}
    assert mesh.heard(mesh.sites[0], A, C) == {"1": 1}


def test_known_unicast_takes_one_way(mesh: Mesh) -> None:
    """Before there are shortcuts, frames for a known MAC go to its site only, by one hub or two."""
    for number, site in enumerate(mesh.all):
        mesh.heard(site, mac(10 + number))
    for name, site in enumerate(mesh.all):
        for other in range(len(mesh.all)):
            if other != name:
                expected = "b" if other == len(mesh.sites) else str(other)
                assert mesh.heard(site, mac(10 + name), mac(10 + other)) == {expected: 1}


def test_a_move_between_sites_of_different_hubs(mesh: Mesh) -> None:
    """Whoever knew the old place hears of it, though the first frame is for one station alone."""
    one, two = mesh.sites[0], mesh.sites[1]
    mesh.world.exchange(mesh.both, A, one, B)
    mesh.world.exchange(two, C, one, B)
    mesh.world.run(1)
    assert mesh.world.path(mesh.both, B) == mesh.world.path(two, B) == one.vtep
    one.stations.discard(B)
    one.kernel.rows.clear()
    mesh.heard(two, B, A)
    mesh.world.run(1)
    assert mesh.world.path(mesh.both, B) != one.vtep
    mesh.world.exchange(mesh.both, A, two, B)
    mesh.world.run(1)
    assert mesh.world.path(mesh.both, B) == two.vtep
    assert mesh.switch(0).find(1, B) == VTEP(mesh.hubs[1].address, 1)


def test_what_is_in_use_behind_another_hub_is_kept(mesh: Mesh) -> None:
    """Frames that take a shortcut pass no hub: the hub that has passed the question on remembers
    the MAC for as long as the answer may be in use, and the shortcut is renewed."""
    last = mesh.sites[-1]
    mesh.world.exchange(mesh.sites[0], A, last, B)
    for _ in range(130):
        mesh.world.speak(mesh.sites[0], A, B)
        mesh.world.speak(last, B, A)
        mesh.world.run(5, step=0.5)
        assert mesh.world.path(mesh.sites[0], B) == last.vtep


def test_what_is_kept_for_other_hubs_is_bounded(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many MACs questions are passed on all the same; it is counted."""
    monkeypatch.setattr(hub_vpn, "PASSED_MACS", 2)
    last = mesh.sites[-1]
    for number in range(10, 14):
        mesh.world.speak(last, mac(number))
        mesh.world.exchange(mesh.sites[0], A, last, mac(number))
        assert mesh.world.path(mesh.sites[0], mac(number)) == last.vtep
    assert set(vpn_of(mesh.hubs[0]).in_use()) == {A, mac(10), mac(11)}
    assert mesh.hubs[0].metrics.value("passed_on_full", vpn="1") == 2
    mesh.world.run(900, step=1)
    assert vpn_of(mesh.hubs[0]).in_use() == []


def test_a_hub_dies_and_comes_back(mesh: Mesh) -> None:
    """Sites that have another hub go on; nothing is heard twice at any time after that."""
    world = mesh.world
    world.lose_power(mesh.hubs[0])
    world.network.isolate(mesh.hubs[0].address)
    world.run(45, step=0.2)
    # Its site and its hubs have noticed by now, or at the latest when they renew.
    spoke = spoke_of(mesh.both)
    spoke.registrations[0].renew()
    world.run(15, step=0.2)
    assert not any(each.nbma == mesh.hubs[0].address for each in mesh.switch(1).members)
    rest = {name: 1 for name in everybody_but(mesh, "0") if name != "1"}
    assert mesh.heard(mesh.sites[1], B) == rest
    assert mesh.heard(mesh.both, C) == {name: 1 for name in everybody_but(mesh, "0") if name != "b"}
    world.network.heal()
    mesh.hubs[0] = mesh.start(mesh.addresses[0])
    # It has lost its power: the site that has no other hub knows that when it renews.
    spoke_of(mesh.sites[0]).registrations[0].renew()
    world.run(140, step=0.2)
    assert mesh.heard(mesh.sites[1], B) == everybody_but(mesh, "1")
    assert mesh.heard(mesh.both, C) == everybody_but(mesh, "b")
    assert mesh.heard(mesh.sites[0], A) == everybody_but(mesh, "0")


def test_nothing_comes_back_from_a_hub_that_comes_later(mesh: Mesh) -> None:
    """A site floods to the hub that it prefers once the other one knows that it is there, and so
    never hears itself by that one."""
    world = mesh.world
    world.lose_power(mesh.hubs[0])
    site = world.add_site("10.0.9.20", 120, hubs=tuple(mesh.hubs[:2]))
    world.run(10, step=0.2)
    mesh.hubs[0] = mesh.start(mesh.addresses[0])
    spoke_of(site).registrations[0].renew()
    # The other hub hears of it later.
    world.network.separate(site.machine.address, mesh.hubs[1].address)
    world.clock.callLater(2.5, world.network.heal)
    returned = 0
    for _ in range(500):
        world.speak(site, mac(9))
        world.run(0.05)
        returned += site.kernel.flood == (mesh.hubs[0].address,)
    assert BROADCAST + mac(9) not in site.received
    assert 400 < returned < 460


def test_a_killed_hub_goes_on_and_adopts_its_trunks(mesh: Mesh) -> None:
    """Who is a hub, and who has what from where, stands in the switch."""
    world = mesh.world
    world.kill(mesh.hubs[0])
    assert mesh.heard(mesh.both, C) == everybody_but(mesh, "b")
    before = {vtep: each.registration for vtep, each in mesh.switch(0).members.items()}
    mesh.hubs[0] = mesh.start(mesh.addresses[0])
    assert mesh.heard(mesh.sites[1], B) == everybody_but(mesh, "1")
    world.run(2)
    after = {vtep: each.registration for vtep, each in mesh.switch(0).members.items()}
    assert {v: (r.hub, r.apart) for v, r in after.items()} == {
        v: (r.hub, r.apart) for v, r in before.items()
    }
    assert mesh.heard(mesh.both, C) == everybody_but(mesh, "b")


def test_a_moved_mac_after_a_restart(mesh: Mesh) -> None:
    """A hub that has forgotten whom it answered has the others' sites told, too."""
    one, two = mesh.sites[0], mesh.sites[1]
    other = mesh.world.add_site("10.0.1.20", 120, hub=mesh.hubs[1])
    mesh.world.run(2)
    mesh.world.exchange(one, A, two, B)
    mesh.world.run(1)
    assert mesh.world.path(one, B) == two.vtep
    mesh.world.kill(mesh.hubs[1])
    mesh.hubs[1] = mesh.start(mesh.addresses[1])
    mesh.world.run(2)
    mesh.world.speak(other, B, mac(77))
    mesh.world.run(1)
    assert mesh.world.path(one, B) != two.vtep


def test_a_silent_hub_is_left_within_a_second() -> None:
    """With keepalives: what it was thought to deliver goes to its sites by their other hub."""
    mesh = Mesh(FIRST, SECOND, keepalive=KeepalivePlan(interval=450))
    site = mesh.both
    spoke_of(site).dataplane.set_flood([mesh.hubs[1].address])
    mesh.heard(site, B)
    assert mesh.heard(mesh.sites[0], A, B) == {"b": 1}
    mesh.world.lose_power(mesh.hubs[1])
    assert mesh.heard(mesh.sites[0], A, B) == {}
    mesh.world.run(0.9)
    assert mesh.heard(mesh.sites[0], A, B) == {"b": 1}


def test_hubs_that_cannot_reach_each_other(mesh: Mesh) -> None:
    """A site of both still hears and reaches the sites of both."""
    if len(mesh.hubs) > 2:
        return
    first, second = (each.address for each in mesh.hubs)
    mesh.world.network.separate(first, second)
    mesh.world.run(70, step=0.2)
    assert not any(each.registration.hub for each in mesh.switch(0).members.values())
    assert mesh.heard(mesh.sites[0], A) == {"b": 1}
    assert mesh.heard(mesh.sites[1], B) == {"b": 1}
    mesh.world.network.heal()
    mesh.world.run(70, step=0.2)
    assert mesh.heard(mesh.sites[0], A) == everybody_but(mesh, "0")


def test_a_hub_with_trunks_is_drained(mesh: Mesh) -> None:
    """The site with two hubs leaves, that with one stays and the other hubs do; at each moment what
    a site floods arrives everywhere, and soon not more than once."""
    node = mesh.hubs[0].node
    assert node is not None
    (hub,) = node.hubs.values()
    assert hub.drain.registered == 2
    hub.drain.begin()
    for tenth in range(80):
        for name, site, source in (("0", mesh.sites[0], A), ("1", mesh.sites[1], B)):
            heard = mesh.heard(site, source)
            expected = everybody_but(mesh, name)
            assert heard.keys() == expected.keys()
            assert tenth < 40 or heard == expected
    assert (hub.drain.state, hub.drain.registered) == ("draining", 1)
    assert mesh.heard(mesh.both, C) == everybody_but(mesh, "b")
    hub.drain.end()
    mesh.world.run(10)
    assert hub.drain.registered == 2
    assert mesh.heard(mesh.both, C) == everybody_but(mesh, "b")
    assert mesh.heard(mesh.sites[0], A) == everybody_but(mesh, "0")


# --- hubs that disagree -----------------------------------------------------------------------


class Pair:
    """Two hubs that say what they like of each other, and a site at each."""

    def __init__(
        self,
        first: tuple[TrunkPlan, ...],
        second: tuple[TrunkPlan, ...],
        vpns: tuple[tuple[int, int], ...] = ((1, 1),),
    ) -> None:
        self.world = world = World(vpns=vpns)
        (plan,) = world.hub_plan.hubs
        self.hubs = []
        for address, trunks in ((FIRST, first), (SECOND, second)):
            world.hub_plan = replace(world.hub_plan, hubs=(replace(plan, trunks=trunks),))
            self.hubs.append(world.add_hub(address, keep_trunks=True))
        self.one, self.two = [
            world.add_site(f"10.0.{number}.10", 100, hub=hub)
            for number, hub in enumerate(self.hubs)
        ]
        world.run(15)

    def reload(self, number: int, *trunks: TrunkPlan) -> None:
        """Give a hub other trunks while it runs."""
        node = self.hubs[number].node
        assert node is not None
        (plan,) = node.plan.hubs
        node.apply(replace(node.plan, hubs=(replace(plan, trunks=trunks),)))
        self.world.run(15)

    def heard(self) -> tuple[int, int]:
        """How often a broadcast of each site arrived at the other one; never where it came from."""
        counts = []
        for sender, other in ((self.one, self.two), (self.two, self.one)):
            sender.received.clear()
            other.received.clear()
            self.world.speak(sender, A)
            self.world.run(0.1)
            assert sender.received == []
            counts.append(len(other.received))
        return counts[0], counts[1]

    def findings(self, number: int) -> list[str]:
        """What `doctor` says at a hub."""
        return [row["finding"] for row in doctor(self.world, self.hubs[number])]


TO_FIRST, TO_SECOND = (TrunkPlan(address=parse_ip(each)) for each in (FIRST, SECOND))


def test_hubs_that_agree() -> None:
    """In a VNI of their own, for the VPNs that both say."""
    pair = Pair(
        (replace(TO_SECOND, vpns=(1, 5), vni=4001),), (replace(TO_FIRST, vpns=(0, 1), vni=4000),)
    )
    assert pair.heard() == (1, 1)
    first = pair.world.switches[pair.hubs[0].address]
    assert VTEP(parse_ip(SECOND), 4001) in first.members
    assert pair.findings(0) == []


def test_a_trunk_of_one_side() -> None:
    """It carries nothing, and who has it is told."""
    pair = Pair((TO_SECOND,), ())
    assert pair.heard() == (0, 0)
    found = pair.findings(0)
    assert f"hub {SECOND} has us in vpn 1, but has not registered here" in found


def test_hubs_with_different_vnis() -> None:
    """Neither believes the other, nothing loops, and both say so."""
    pair = Pair((replace(TO_SECOND, vpns=(1, 1), vni=7),), (TO_FIRST,))
    assert pair.heard() == (0, 0)
    for number, other in ((0, SECOND), (1, FIRST)):
        assert pair.hubs[number].metrics.value("drops", reason="trunk_mismatch") >= 1
        assert any(
            f"not registered with hub {other}: refused" in each for each in pair.findings(number)
        )


def test_a_hub_that_names_itself() -> None:
    """It has no trunk to itself, whatever the file says."""
    pair = Pair((TO_FIRST, TO_SECOND), (TO_FIRST,))
    assert pair.heard() == (1, 1)
    assert [each.nhs for each in vpn_of(pair.hubs[0]).trunks.registrations] == [parse_ip(SECOND)]


def test_reloads_while_there_is_no_way_to_a_hub() -> None:
    """One look for a way is to come, however often others are named; none after the stop."""
    pair = Pair((TO_FIRST, TO_SECOND), (TO_FIRST,))
    for trunks in ((TO_FIRST,), (TO_FIRST, TO_SECOND)) * 2:
        pair.reload(0, *trunks)
    assert pair.heard() == (1, 1)
    node = pair.hubs[0].node
    assert node is not None
    node.stopService()
    pair.world.run(2.5)
    assert pair.hubs[0].clock.getDelayedCalls() == []


def test_nobody_poses_as_a_hub() -> None:
    """A trunk's VTEP is registered by its hub alone; its VNI means nothing anywhere else."""
    pair = Pair((TO_SECOND,), (TO_FIRST,))
    pair.world.hub = pair.hubs[0]
    members = pair.world.switches[pair.hubs[0].address].members
    before = members[VTEP(parse_ip(SECOND), 1)].registration
    intruder = Peer(pair.world)
    intruder.register(CIE(nbma=parse_ip(SECOND), holding_time=600), station=mac(66), vni=1)
    intruder.register(CIE(nbma=parse_ip(SECOND), holding_time=600), station=mac(67), vni=9)
    intruder.register(CIE(holding_time=600), station=mac(68), vni=1)
    pair.world.run(1)
    assert members[VTEP(parse_ip(SECOND), 1)].registration.station == before.station
    assert VTEP(parse_ip(SECOND), 9) not in members
    assert not members[VTEP(intruder.address, 1)].registration.hub
    assert pair.hubs[0].metrics.value("drops", reason="trunk_mismatch") == 2
    assert pair.heard() == (1, 1)


def test_trunks_come_and_go_by_reload() -> None:
    """Frames flow once both name each other, and no more when one does not; sites stay."""
    pair = Pair((), ())
    assert pair.heard() == (0, 0)
    pair.reload(0, TO_SECOND)
    assert pair.heard() == (0, 0)
    pair.reload(1, TO_FIRST)
    assert pair.heard() == (1, 1)
    pair.reload(0)
    assert pair.heard() == (0, 0)
    assert pair.findings(1) != []
    pair.reload(0, TO_SECOND)
    assert pair.heard() == (1, 1)
    (client,) = spoke_of(pair.one).registrations
    assert client.state is State.REGISTERED and client.last_error is None


def test_vpns_on_demand() -> None:
    """Of a wide range a hub serves the VPNs that sites of its own are in: a trunk keeps none."""
    pair = Pair((TO_SECOND,), (TO_FIRST,), ((1, 5000),))
    world = pair.world
    roles = [hub.node.hubs["vx0"] for hub in pair.hubs]  # type: ignore[union-attr]
    assert [set(role.vpns) for role in roles] == [{1}, {1}]
    assert pair.heard() == (1, 1)
    three = world.add_site("10.0.0.30", 300, vpn=3, hub=pair.hubs[0])
    world.run(120, step=0.2)
    assert [set(role.vpns) for role in roles] == [{1, 3}, {1}]
    four = world.add_site("10.0.1.40", 400, vpn=3, hub=pair.hubs[1])
    world.run(5)
    world.speak(three, A)
    world.run(0.1)
    assert four.received == [BROADCAST + A]
    assert four.machine.node is not None
    four.machine.node.stopService()
    world.run(100, step=0.2)
    assert [set(role.vpns) for role in roles] == [{1, 3}, {1}]


# --- what operators see -----------------------------------------------------------------------


def test_what_operators_see() -> None:
    """`registration show` has a hub's registrations with other hubs, `explain` names the hub that a
    MAC is behind, `doctor` the one that is gone."""
    mesh = Mesh(FIRST, SECOND)
    mesh.heard(mesh.sites[1], B)
    first = mesh.hubs[0]
    rows = list(controller(first).registrations({}))
    assert [(row["vpn"], row["nhs"], row["state"]) for row in rows] == [(1, SECOND, "registered")]
    assert explain(mesh.world, first, B)[0]["text"].startswith(f"it is behind hub {SECOND}")
    assert doctor(mesh.world, first) == []
    mesh.world.network.isolate(mesh.hubs[1].address)
    mesh.world.run(40, step=0.2)
    (finding,) = doctor(mesh.world, first)
    assert finding["finding"] == f"vpn 1 is not registered with hub {SECOND}: no answer"


# --- trunks that are missing ----------------------------------------------------------------------


def lacking(world: World, hub: Machine) -> list[str]:
    """What `doctor` says of trunks that a hub lacks."""
    found = [row["finding"] for row in doctor(world, hub)]
    return [each for each in found if "there is no trunk to it" in each]


@pytest.mark.parametrize("who", ["hub", "site"])
def test_a_mesh_that_lacks_a_trunk(who: str) -> None:
    """Two of three hubs do not name each other: the third says so to both, or a site of both
    does."""
    world = World()
    second = (SECOND,) if who == "hub" else ("10.0.3.1",)
    hubs = [
        world.add_hub(FIRST, trunks=second),
        world.add_hub(SECOND, trunks=(FIRST, THIRD) if who == "hub" else ("10.0.3.1",)),
        world.add_hub(THIRD, trunks=second),
    ]
    if who == "site":
        world.add_site("10.0.9.10", 109, hubs=(hubs[0], hubs[2]))
    world.run(5)
    speaker = SECOND if who == "hub" else "10.0.9.10"
    (found,) = lacking(world, hubs[0])
    assert found.startswith(f"it is a hub of vpn 1, as {who} {speaker} says, and there is no trunk")
    assert len(lacking(world, hubs[2])) == (who == "hub"), "it floods what is left to it"
    assert lacking(world, hubs[1]) == []
    # Mended while they run.
    for hub, other in ((hubs[0], THIRD), (hubs[2], FIRST)):
        assert hub.node is not None
        (plan,) = hub.node.plan.hubs
        trunks = (*plan.trunks, TrunkPlan(address=parse_ip(other)))
        hub.node.apply(replace(hub.node.plan, hubs=(replace(plan, trunks=trunks),)))
    world.run(5)
    assert [lacking(world, hub) for hub in hubs] == [[], [], []]


def test_hubs_of_a_site_need_no_trunk() -> None:
    """Where no hub has one, nothing is missing."""
    world = World()
    hubs = [world.add_hub(FIRST), world.add_hub(SECOND)]
    world.add_site("10.0.9.10", 109, hubs=tuple(hubs))
    world.run(5)
    assert [lacking(world, hub) for hub in hubs] == [[], []]


def test_a_loop_of_sites_that_flood_by_different_hubs() -> None:
    """A cable between them: the hub by which the one floods sees its frames come from there alone,
    as the other hub holds the station that flips. What goes round is bounded all the same."""
    mesh = Mesh()
    world, (first, second) = mesh.world, mesh.hubs
    one = world.add_site("10.0.7.10", 107, hubs=(first, second))
    two = world.add_site("10.0.8.10", 108, hubs=(second, first))
    world.run(3)
    for site, station in ((one, A), (two, B), (mesh.both, C)):
        world.speak(site, station)
    world.run(2)
    world.connect(one, two)
    rates = []
    for _ in range(30):
        before = world.looped
        for _ in range(10):
            for site, station in ((one, A), (two, B), (mesh.both, C)):
                world.speak(site, station)
            world.run(0.1, step=0.01)
        rates.append(world.looped - before)
    # A hundred a second of each of the two, in either direction.
    assert max(rates[3:]) < 500, rates
    print("frames that went round in each second:", rates)
