"""Peers that break the rules, by malice or by mistake: what they can cost whole nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from twisted.internet import task
from zope.interface import implementer

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, Path, parse_ip
from dmevpn.config.model import AdmissionPlan, PermitPlan, Plan
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import IDatagramReceiver
from dmevpn.metrics import Metrics
from dmevpn.nhrp import complaints
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import EXACT_PREFIX, CIECode, PurgeFlag
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.packet import (
    Packet,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.room import SharedRoom
from dmevpn.roles import amnesia, hub, owners, shared, turned_away
from dmevpn.roles.hub import HubRole
from dmevpn.roles.spoke import SpokeRole
from dmevpn.transport.memory import MemoryTransport
from tests.world import Machine, Site, World, mac

A, B, C = mac(1), mac(2), mac(3)


@implementer(IDatagramReceiver)
class Peer:
    """Somebody in the underlay who sends what he likes, in VPN 1 unless told otherwise."""

    def __init__(self, world: World, address: str = "10.0.0.66") -> None:
        self.world = world
        self.address = parse_ip(address)
        self.received: list[Packet] = []
        self._transport = MemoryTransport(world.network, Metrics(), [self.address])
        self._transport.start(self)

    def datagrams_received(self, datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """Keep what comes back."""
        self.received += [decode_payload(data)[1] for data, _ in datagrams]

    def flooded(self, peer: bytes, dropped: int) -> None:
        """Nobody is limited here."""

    def resumed(self) -> None:
        """A hostile station has nothing to renew."""

    def send(self, packet: Packet, to: bytes, *, vpn: int = 1) -> None:
        """Send a packet."""
        data = packet.encode(Form.RFC, VPNID(DEFAULT_OUI, vpn))
        self._transport.send(data, Path(to, self.address))

    def register(self, *cies: CIE, station: bytes = C, vni: int = 100, vpn: int = 1) -> None:
        """Register with the hub."""
        request = RegistrationRequest(
            source_nbma=self.address,
            source_subaddress=encode_vni(vni),
            source_protocol=station,
            destination_protocol=station,
            request_id=1,
            cies=cies,
        )
        self.send(request, self.world.hub.address, vpn=vpn)


@pytest.fixture
def world() -> World:
    """A hub that serves VPN 1, nobody registered yet."""
    world = World()
    world.start_hub()
    return world


def spoke(site: Site) -> SpokeRole:
    """The role of a site that serves one VPN."""
    assert site.machine.node is not None
    (role,) = site.machine.node.spokes.values()
    return role


def switch_of(world: World) -> HubRole:
    """The role of the world's hub."""
    assert world.hub.node is not None
    return world.hub.node.hubs["vx0"]


def faults(machine: Machine) -> int:
    """How many packets have met a fault of ours, with a traceback in the log."""
    return machine.metrics.value("drops", reason="internal_error")


def asking(world: World, site: Site) -> ResolutionRequest:
    """Let a site ask for B while nobody answers; its request."""
    world.kill(world.hub)
    world.speak(site, A, B)
    world.run(0.05)
    sent = [each for each in world.network.transmissions if each.source == site.vtep.nbma]
    request = decode_payload(sent[-1].payload())[1]
    assert isinstance(request, ResolutionRequest)
    return request


def test_an_answer_about_another_address_is_no_answer(world: World) -> None:
    """A reply that names another address than was asked for leaves nothing in a limbo."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    request = asking(world, one)
    peer = Peer(world)
    cie = CIE(0, 48, 0, 1400, 300, peer.address, encode_vni(5), C)
    peer.send(replace(request.reply((cie,)), destination_protocol=C), one.vtep.nbma)
    world.run(0.5)
    assert faults(one.machine) == 0
    assert world.path(one, C) == world.hub.address
    binding = spoke(one).cache.lookup(B)
    assert binding is not None and binding.kind is Kind.NEGATIVE


def test_a_purge_makes_a_spoke_ask_once(world: World) -> None:
    """One packet that names an address seventy times is not answered by seventy requests."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    asking(world, one)
    peer = Peer(world)
    purge = PurgeRequest(
        source_nbma=peer.address,
        source_protocol=C,
        destination_protocol=C,
        flags=PurgeFlag.N,
        cies=(CIE(prefix_length=EXACT_PREFIX, protocol=B),) * 70,
    )
    before = len(world.network.transmissions)
    peer.send(purge, one.vtep.nbma)
    world.run(0.5)
    assert len(world.network.transmissions) - before == 2, "the purge, and one request"


def test_an_answer_that_runs_out_while_it_is_renewed(world: World) -> None:
    """Who asks in that moment waits for the same reply, and gets it."""
    world = World(holding_time=30)
    world.start_hub()
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    role = spoke(one)
    binding = role.cache.lookup(B)
    assert binding is not None and binding.expires is not None
    world.network.isolate(world.hub.address)
    while binding.expires - world.clock.seconds() >= 1:
        world.speak(one, A, B)
        world.run(0.25)
    assert role.cache.lookup(B) is None
    outcomes: list[object] = []
    role.resolution.resolve(B, outcomes.append)
    world.network.heal()
    world.run(12)
    assert faults(one.machine) == 0
    assert len(outcomes) == 1


def test_a_shortcut_that_the_kernel_refuses_is_not_asked_for_with_every_frame(
    world: World,
) -> None:
    """The station stays with the hub for a while."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    asked = one.machine.metrics.value("resolutions_asked")
    spoke(one).install_failed(B, DataplaneError(28, "no space left on device"))
    for _ in range(20):
        world.speak(one, A, B)
        world.run(0.2)
    assert world.path(one, B) == world.hub.address
    assert one.machine.metrics.value("resolutions_asked") == asked
    world.run(180, step=1)
    world.exchange(one, A, two, B)
    assert world.path(one, B) == two.vtep, "later it is tried again"


def test_thousands_of_stations_at_one_vtep_expire_in_no_time(world: World) -> None:
    """What one registration costs when it ends does not grow with their number."""
    peer = Peer(world)
    for first in range(0, 6000, 40):
        stations = [b"\x02\x01" + number.to_bytes(4, "big") for number in range(first, first + 40)]
        peer.register(*[CIE(holding_time=30, protocol=station) for station in stations])
        world.run(0.01, step=0.01)
    assert len(switch_of(world).vpns[1].cache) == 6000
    began = time.process_time()
    world.run(32, step=0.5)
    assert world.switch.members == {}
    assert time.process_time() - began < 2, "it took 9 s when each looked at all others"


def test_vpns_made_on_demand_do_not_stay_for_ever() -> None:
    """Who registers once in every VPN of a range does not keep others out until a restart."""
    world = World(vpns=((1, 2**32 - 1),))
    world.start_hub()
    one = world.add_site("10.0.0.2", 1000, vpn=77)
    peer = Peer(world)
    for number in range(1, 50):
        peer.register(CIE(holding_time=30), vni=number, vpn=number)
        peer.register(vni=number, vpn=number + 1000)
    world.run(1)
    assert len(switch_of(world).vpns) == 99
    world.run(90, step=1)
    assert set(switch_of(world).vpns) == {77} == set(world.switch.vpns)
    assert set(world.switch.members) == {one.vtep}


def test_a_station_that_flaps_after_a_restart_is_purged_at_everybody_once(world: World) -> None:
    """A hub that cannot know who was told does not send to all members again and again."""
    sites = [world.add_site(f"10.0.1.{number}", 100) for number in range(1, 20)]
    world.run(1)
    world.speak(sites[0], A)
    world.run(0.1)
    world.kill(world.hub)
    world.states[world.hub.address].forget()
    world.start_hub()
    world.run(1)
    for turn in range(50):
        world.speak(sites[turn % 2], A)
        world.run(0.05)
    world.run(3)
    assert world.hub.metrics.value("macs_moved", interface="vx0") == 5
    assert world.hub.metrics.value("macs_held", interface="vx0") == 1
    assert world.hub.metrics.value("purges_sent", vpn="1") == len(sites)


def test_what_a_restart_may_cost_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many stations only those are told who are known to have asked; it is counted."""
    monkeypatch.setattr(amnesia, "AMNESIA_MACS", 2)
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    for station in (A, B, C):
        world.speak(one, station)
    world.kill(world.hub)
    world.states[world.hub.address].forget()
    world.start_hub()
    world.run(1)
    for station in (A, B, C):
        world.speak(two, station)
        world.run(0.1)
    assert world.hub.metrics.value("purges_sent", vpn="1") == 2 * 2
    assert world.hub.metrics.value("amnesia_full", vpn="1") == 1


def test_a_second_station_at_a_vtep_does_not_shorten_its_membership(world: World) -> None:
    """Whatever is registered beside it, a site survives a restart of the hub."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    Peer(world).register(CIE(holding_time=30, nbma=one.vtep.nbma))
    world.run(1)
    world.kill(world.hub)
    world.run(60, step=1)
    world.start_hub()
    world.run(1)
    assert set(world.switch.members) == {one.vtep}
    Peer(world).register(CIE(holding_time=65535, nbma=one.vtep.nbma), station=B)
    world.run(1)
    switch_of(world).vpns[1].cache.remove(B, "purged")
    world.kill(world.hub)
    world.run(1)
    world.start_hub()
    assert set(world.switch.members) == {one.vtep}
    assert set(switch_of(world).vpns[1].cache._bindings) == {spoke(one).station}


def test_events_that_are_lost_all_the_time_do_not_stop_the_comparison(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer at the end of a long list gets its turn."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    vpn = switch_of(world).vpns[1]
    path = Path(one.vtep.nbma, world.hub.address)
    others = [b"\x02\x02" + number.to_bytes(4, "big") for number in range(300)]
    for other in (*others, B):
        vpn.server._answered.add(other, (two.vtep,), A, path, 300)
    world.speak(one, B)
    world.switch.events.clear()
    losses = iter(range(60))
    now = lost_at = 0.0
    left: list[int] = []
    lookup = vpn._seen_at
    # The time that the work takes is made up, so that turns are as long on any machine.
    monkeypatch.setattr(task, "time", SimpleNamespace(time=lambda: now))

    def slow(mac: bytes) -> VTEP | None:
        nonlocal now, lost_at
        now += 0.0002
        if now - lost_at > 0.005 and next(losses, None) is not None:
            lost_at = now
            world.clock.callLater(0, switch_of(world).events_lost)
        if mac == B:
            left.append(len(list(losses)))
        return lookup(mac)

    vpn._seen_at = slow  # type: ignore[method-assign]
    switch_of(world).events_lost()
    world.run(0.1)
    assert vpn.server._answered.told(B) == ()
    assert left[0] > 0, "it did not wait for the losses to end"


def test_a_comparison_that_meets_a_fault(world: World, logged_failures: list[object]) -> None:
    """The log says so, and the next one is made."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    vpn = switch_of(world).vpns[1]
    vpn.server._answered.add(B, (two.vtep,), A, Path(one.vtep.nbma, world.hub.address), 300)
    lookup = vpn._seen_at

    def fail(mac: bytes) -> VTEP | None:
        raise RuntimeError("our mistake")

    vpn._seen_at = fail  # type: ignore[method-assign]
    switch_of(world).events_lost()
    world.run(0.1)
    assert len(logged_failures) == 1
    logged_failures.clear()
    vpn._seen_at = lookup  # type: ignore[method-assign]
    world.speak(one, B)
    world.switch.events.clear()
    switch_of(world).events_lost()
    world.run(0.1)
    assert vpn.server._answered.told(B) == ()


def test_members_of_a_vpn_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One site too many is told that there is no room; those that are there stay."""
    monkeypatch.setattr(owners, "MAX_MEMBERS_PER_VPN", 2)
    peer = Peer(world)
    for vni in (100, 101, 102, 100):
        peer.register(CIE(holding_time=600), station=mac(vni), vni=vni)
    world.run(1)
    assert codes(peer) == [0, 0, CIECode.NO_RESOURCES, 0]
    assert world.hub.metrics.value("drops", reason="members_full") == 1
    assert len(switch_of(world).vpns[1].members) == 2


def test_registrations_at_one_address_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site cannot fill the hub with stations that it makes up, be it in one VPN or in many; its
    own renewals, and other sites, are not concerned, and what has ended makes room."""
    monkeypatch.setattr(owners, "MAX_REGISTRATIONS_PER_ADDRESS", 5)
    peer, other = Peer(world), Peer(world, "10.0.0.67")
    for number in range(7):
        peer.register(CIE(holding_time=60), station=mac(number), vni=100 + number % 2)
    peer.register(CIE(holding_time=600), station=mac(4))
    other.register(CIE(holding_time=600), station=mac(9), vni=100)
    world.run(1)
    assert codes(peer) == [0] * 5 + [CIECode.NO_RESOURCES] * 2 + [0]
    assert codes(other) == [0]
    assert world.hub.metrics.value("drops", reason="registrations_full") == 2
    world.run(70)
    peer.register(CIE(holding_time=600), station=mac(6))
    world.run(1)
    assert codes(peer)[-1] == 0


def test_vpns_on_demand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A station that registers in ever new VPNs of a wide range ends at what a hub can hold."""
    monkeypatch.setattr(hub, "MAX_VPNS", 2)
    world = World(vpns=((1, 1_000_000),))
    world.start_hub()
    peer = Peer(world)
    for vpn in (7, 8, 9, 7):
        peer.register(CIE(holding_time=600), vni=100 + vpn, vpn=vpn)
    world.run(1)
    assert sorted(switch_of(world).vpns) == [7, 8]
    assert world.hub.metrics.value("drops", reason="vpns_full") == 1


def test_vpns_share_the_room_of_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who registers all he can think of in many VPNs ends at what they have together, and takes
    nobody's first registrations in another VPN."""
    monkeypatch.setattr(shared, "SharedRoom", partial(SharedRoom, own=2, shared=8))
    world = World(vpns=((1, 1000),))
    world.start_hub()
    peer, other = Peer(world), Peer(world, "10.0.0.67")
    for number in range(6):
        for vpn in range(7, 13):
            peer.register(CIE(holding_time=600), station=mac(number), vni=100 + vpn, vpn=vpn)
    world.run(1)
    taken = [len(switch_of(world).vpns[vpn].cache) for vpn in range(7, 13)]
    assert sorted(taken) == [3, 3, 3, 3, 3, 4]
    refused = 36 - sum(taken)
    assert codes(peer).count(CIECode.NO_RESOURCES) == refused
    assert world.hub.metrics.value("shared_room_full", what="bindings") == refused
    other.register(CIE(holding_time=600), station=mac(9), vni=500, vpn=500)
    world.run(1)
    assert codes(other) == [0]


def test_who_was_turned_away_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers in VPNs that are not served is remembered for a while: the last few. They
    are called three times when it is served, and not for ever."""
    monkeypatch.setattr(turned_away, "LIMIT", 2)
    world = World()
    hub = world.start_hub()
    peer = Peer(world)
    for vpn in (7, 8, 9):
        peer.register(CIE(holding_time=600), vni=100 + vpn, vpn=vpn)
    world.run(1)
    assert world.hub.metrics.value("turned_away_forgotten") == 1
    peer.received.clear()
    hub.apply(replace(hub.plan, hubs=(replace(hub.plan.hubs[0], vpns=((7, 9),)),)))
    world.run(200)
    assert [type(each) for each in peer.received] == [PurgeRequest] * 6
    world.run(700)
    assert len(peer.received) == 6


def test_nobody_is_asked_about_who_is_forgotten() -> None:
    """Of a wide range a VPN would be made for somebody who is not called any more."""
    clock = task.Clock()
    asked: list[VPNID] = []
    away = turned_away.TurnedAway(
        clock, Metrics(), DEFAULT_OUI, lambda vpn_id, sender: asked.append(vpn_id)
    )
    away.note(VPNID(DEFAULT_OUI, 7), A, Path(parse_ip("10.0.0.2")))
    list(away.call())
    assert len(asked) == 1
    clock.advance(700)
    list(away.call())
    assert len(asked) == 1 and len(away) == 0


def test_vpns_share_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who joins in many VPNs gets no more lines than who joins often in one."""
    monkeypatch.setattr(complaints, "PEERS", 3)
    world = World(vpns=((1, 10),))
    world.start_hub()
    peer = Peer(world)
    for vpn in range(1, 11):
        peer.register(CIE(holding_time=600), vni=100 + vpn, vpn=vpn)
    world.run(1)
    assert codes(peer) == [0] * 10
    assert world.hub.metrics.value("complaints_full") == 10 - 3


def codes(peer: Peer) -> list[int]:
    """How its registrations were answered."""
    return [each.cies[0].code for each in peer.received if isinstance(each, RegistrationReply)]


def test_members_and_servers_are_no_strangers() -> None:
    """Whoever is registered, permitted by its address, or a server of ours has a budget of its own;
    who has left is a stranger."""
    world = World()
    permits = tuple(
        PermitPlan(vpns=(1, 1), nbma=(parse_ip(network), bits))
        for network, bits in (("10.0.0.0", 24), ("192.0.2.9", 32))
    )
    world.hub_plan = replace(
        world.hub_plan,
        hubs=tuple(
            replace(each, admission=AdmissionPlan(permits=permits)) for each in world.hub_plan.hubs
        ),
    )
    world.start_hub()
    assert world.hub.node is not None
    limits = world.hub.node.speakers["nhrp"]._transport.limits
    assert limits.knows(parse_ip("192.0.2.9"))
    one, peer = world.add_site("10.0.0.2", 100), Peer(world)
    assert not limits.knows(one.vtep.nbma)
    world.run(1)
    peer.register(CIE(prefix_length=EXACT_PREFIX, mtu=1400, holding_time=60))
    world.run(1)
    assert limits.knows(one.vtep.nbma) and limits.knows(peer.address)
    assert one.machine.node is not None
    site = one.machine.node.speakers["nhrp"]
    assert site._transport.limits.knows(world.hub.address)
    world.run(70)
    assert not limits.knows(peer.address), "its registration has ended"
    stopping = one.machine.node.apply(Plan())
    world.run(3)
    assert stopping.called
    assert not limits.knows(one.vtep.nbma)
    assert not site._transport.limits.knows(world.hub.address)
    stopping = world.hub.node.apply(Plan())
    world.run(3)
    assert not limits.knows(parse_ip("192.0.2.9"))
