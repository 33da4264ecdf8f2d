"""A site that only one of its hubs reaches."""

from __future__ import annotations

from random import Random

import pytest
from zope.interface import implementer

from dmevpn.addresses import VTEP
from dmevpn.config.model import KeepalivePlan
from dmevpn.interfaces import ICacheListener
from dmevpn.nhrp.cache import Binding
from dmevpn.nhrp.packet import PurgeRequest, decode_payload
from dmevpn.roles.absence import SIGNS
from tests.roles.test_faults import controller
from tests.roles.test_trunks import (
    FIRST,
    SECOND,
    THIRD,
    A,
    B,
    Mesh,
    everybody_but,
    spoke_of,
    vpn_of,
)
from tests.world import Machine, mac

#: Seconds until a site leaves a hub that is silent, and until that hub has heard of it by another
#: one, and the site has not answered it. All of it goes by steps of a twentieth.
LEFT, LOST = 0.9, 0.2 + sum(SIGNS) + 0.3
#: Of all the gaps that a registration which nobody answers leaves, the longest.
ASKED_FOR_AGAIN = 64 * 1.1


@implementer(ICacheListener)
class Left:
    """Counts the registrations that a hub has ended since sites were silent."""

    def __init__(self, hub: Machine) -> None:
        self.count = 0
        vpn_of(hub).cache.subscribe(self)

    def binding_added(self, binding: Binding) -> None:
        """Not counted."""

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """Not counted."""

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """Counted by its reason."""
        self.count += reason == "silent"


@pytest.fixture(params=[(FIRST, SECOND), (FIRST, SECOND, THIRD)], ids=["two", "three"])
def mesh(request: pytest.FixtureRequest) -> Mesh:
    return Mesh(*request.param)


def accuse(mesh: Mesh, *also: bytes) -> None:
    """Have the second hub tell the first one that it has lost the site that both have."""
    second = vpn_of(mesh.hubs[1])
    (hub,) = second.cache.registrations_of(VTEP(mesh.hubs[0].address, 1))
    assert hub.path is not None
    station = spoke_of(mesh.both).station
    second.server.tell([station, *also], mesh.both.vtep.nbma, hub.protocol, hub.path)


@pytest.mark.parametrize("addresses", [(FIRST, SECOND), (FIRST, SECOND, THIRD)])
@pytest.mark.parametrize("which", [0, 1])
def test_a_site_that_is_cut_off_from_one_of_its_hubs(
    addresses: tuple[str, ...], which: int
) -> None:
    """That hub is told by the other one, asks the site, and forgets it: frames for its stations go
    by the other one. When the site is back, all is as it was."""
    mesh = Mesh(*addresses, keepalive=KeepalivePlan(interval=600))
    world, site, cut = mesh.world, mesh.both, mesh.hubs[which]
    spoke_of(site).dataplane.set_flood([cut.address])
    mesh.heard(site, B)
    near = mesh.sites[which]
    assert mesh.heard(near, A, B) == {"b": 1}
    world.network.separate(site.machine.address, cut.address)
    world.unreachable.add((cut.address, site.machine.address))
    assert mesh.heard(near, A, B) == {}
    world.run(LEFT + LOST)
    assert site.vtep not in mesh.switch(which).members
    for number, sender in enumerate(mesh.sites):
        assert mesh.heard(sender, mac(20 + number), B).get("b") == 1
        assert mesh.heard(sender, mac(20 + number)) == everybody_but(mesh, str(number))
    world.run(60, step=0.2)
    assert site.vtep not in mesh.switch(which).members
    world.unreachable.clear()
    world.network.heal()
    world.run(10)
    assert site.vtep in mesh.switch(which).members
    assert mesh.heard(site, B) == everybody_but(mesh, "b")
    assert mesh.heard(near, A) == everybody_but(mesh, str(which))


@pytest.mark.parametrize("hub_is_deaf", [False, True])
def test_a_site_that_is_cut_off_in_one_direction(hub_is_deaf: bool) -> None:
    """It is left, too, whoever does not hear the other. What a site registers that does not hear
    the answers lasts until it has been asked: it asks seldom, and the hub for 0.8 s."""
    mesh = Mesh(FIRST, SECOND, keepalive=KeepalivePlan(interval=600))
    world, site, cut = mesh.world, mesh.both, mesh.hubs[0]
    ends = cut.address, site.machine.address
    world.network.deafen(*(ends if hub_is_deaf else reversed(ends)))
    world.unreachable.add(ends)
    world.run(LEFT + LOST)
    there = 0
    for _ in range(6000):
        world.run(0.05)
        there += site.vtep in mesh.switch(0).members
    requests = 0 if hub_is_deaf else 10  # of a site: after 1, 2, 4 ... 64, 64 s
    assert there * 0.05 <= requests * (sum(SIGNS) + 0.1)
    assert mesh.heard(mesh.sites[0], A) == everybody_but(mesh, "0")
    world.unreachable.clear()
    world.network.heal()
    world.run(ASKED_FOR_AGAIN, step=0.2)
    world.run(5)
    assert site.vtep in mesh.switch(0).members
    assert mesh.heard(site, B) == everybody_but(mesh, "b")
    assert mesh.heard(mesh.sites[0], A) == everybody_but(mesh, "0")


def test_a_site_that_answers_stays(mesh: Mesh) -> None:
    """Whatever another hub says of it."""
    sent = len(mesh.world.network.transmissions)
    accuse(mesh, mac(99))
    mesh.world.run(2)
    assert len(mesh.world.network.transmissions) - sent == 4, "two questions, and their answers"
    assert mesh.both.vtep in mesh.switch(0).members
    assert {VTEP(each.address, 1) for each in mesh.hubs[1:]} <= mesh.switch(0).members.keys()


def test_a_site_that_is_back_before_its_silence_is_known(mesh: Mesh) -> None:
    """It is not forgotten."""
    left = Left(mesh.hubs[0])
    mesh.world.network.separate(mesh.both.machine.address, mesh.hubs[0].address)
    accuse(mesh)
    mesh.world.run(sum(SIGNS) - 0.1)
    mesh.world.network.heal()
    spoke_of(mesh.both).registrations[0].renew()
    mesh.world.run(2)
    assert not left.count
    assert mesh.both.vtep in mesh.switch(0).members


def test_a_site_that_was_left_wrongly_comes_back(mesh: Mesh) -> None:
    """It answers in the end, believes that it is registered, and is called back."""
    left = Left(mesh.hubs[0])
    mesh.world.network.separate(mesh.both.machine.address, mesh.hubs[0].address)
    accuse(mesh)
    mesh.world.run(LOST)
    assert left.count == 1
    assert mesh.both.vtep not in mesh.switch(0).members
    mesh.world.network.heal()
    mesh.world.run(2)
    assert mesh.both.vtep in mesh.switch(0).members
    assert mesh.heard(mesh.both, B) == everybody_but(mesh, "b")
    mesh.world.run(120, step=0.2)
    assert left.count == 1


def test_a_site_that_is_back_at_once_is_not_asked(mesh: Mesh) -> None:
    """It has told the other hubs that it lost this one, and that it has it again."""
    hub = mesh.hubs[0].address
    mesh.world.network.transmissions.clear()
    spoke_of(mesh.both).registrations[0].silent()
    mesh.world.run(2)
    heard = [each for each in mesh.world.network.transmissions if each.destination == hub]
    assert heard
    packets = [decode_payload(each.payload())[1] for each in heard]
    assert not [packet for packet in packets if isinstance(packet, PurgeRequest)]


def test_where_each_third_packet_is_lost() -> None:
    """Two questions or so of 400 are without an answer, and the site is back when it has one."""
    mesh = Mesh(jitter=Random(1).random)
    network, left = mesh.world.network, Left(mesh.hubs[0])
    for _ in range(400):
        network.loss = 0.3
        accuse(mesh)
        mesh.world.run(1)
        network.loss = 0.0
        mesh.world.run(2)
        assert mesh.both.vtep in mesh.switch(0).members
    assert 0 < left.count <= 6


def test_nothing_is_left_of_it(mesh: Mesh) -> None:
    """A hub that stops while it has something to say, or asks, leaves no timer."""
    world = mesh.world
    world.network.separate(mesh.both.machine.address, mesh.hubs[0].address)
    spoke_of(mesh.both).registrations[0].silent()
    world.run(0.05)
    for hub in mesh.hubs:
        assert hub.node is not None
        hub.node.stopService()
    world.run(2.5)
    for hub in mesh.hubs:
        assert hub.clock.getDelayedCalls() == []


def test_what_an_operator_has_a_hub_forget(mesh: Mesh) -> None:
    """The other hubs forget it, too: they would send frames for it to that hub only, which sends
    nothing on to a site that is theirs as well."""
    mesh.heard(mesh.both, B)
    senders = [(site, mac(20 + number)) for number, site in enumerate(mesh.sites)]
    for site, sender in senders:
        assert mesh.heard(site, sender, B) == {"b": 1}
    flushed = controller(mesh.hubs[0]).flush({"vpn": 1, "mac": B})
    mesh.world.run(0.5)
    assert flushed.result == 1
    for site, sender in senders:
        assert mesh.heard(site, sender, B).get("b") == 1
    mesh.heard(mesh.both, B)
    for site, sender in senders:
        assert mesh.heard(site, sender, B) == {"b": 1}


@pytest.mark.parametrize("which", [0, 1])
def test_a_site_that_leaves_and_comes_back_with_silent_stations(mesh: Mesh, which: int) -> None:
    """Hubs that knew them behind another one know nothing any more, so all sites reach them."""
    world, site = mesh.world, mesh.both
    spoke_of(site).dataplane.set_flood([mesh.hubs[which].address])
    mesh.heard(site, B)
    senders = [(each, mac(20 + number)) for number, each in enumerate(mesh.sites)]
    for each, sender in senders:
        assert mesh.heard(each, sender, B) == {"b": 1}
    for client in spoke_of(site).registrations:
        client.stop()
    world.run(1)
    for client in spoke_of(site).registrations:
        client.start()
    world.run(1)
    for each, sender in senders:
        assert mesh.heard(each, sender, B).get("b") == 1


def test_a_site_that_waits_until_it_registers_again(mesh: Mesh) -> None:
    """A hub that has no sites after a restart calls them, and they come by and by. Until then each
    hears what is flooded by that hub from its other one."""
    first = vpn_of(mesh.hubs[0])
    (station,) = first.members[mesh.both.vtep]
    binding = first.cache.lookup(station)
    assert binding is not None and binding.path is not None
    first.cache.drop(binding, "lost")
    first.server.call_back(station, binding.path)
    mesh.world.run(0.3)
    assert mesh.both.vtep not in mesh.switch(0).members
    for number, site in enumerate(mesh.sites):
        assert mesh.heard(site, mac(20 + number)).get("b") == 1
    mesh.world.run(1)
    assert mesh.both.vtep in mesh.switch(0).members
    for number, site in enumerate(mesh.sites):
        assert mesh.heard(site, mac(20 + number)).get("b") == 1
