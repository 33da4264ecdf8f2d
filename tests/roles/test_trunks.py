"""Several hubs of one VPN: frames, answers and moves between the sites of different ones."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP
from dmevpn.dataplane.memory_hub import MemorySwitch
from dmevpn.nhrp.registration import State
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.spoke import SpokeRole
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

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses or (FIRST, SECOND)
        self.world = world = World()
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
