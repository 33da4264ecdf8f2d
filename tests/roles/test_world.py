"""Hubs and spokes together, on one clock: what a user of the whole would notice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmevpn.addresses import VTEP, Path, parse_ip
from dmevpn.config.model import AuthenticationPlan
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import ProtocolType, PurgeFlag
from dmevpn.nhrp.packet import (
    PurgeRequest,
    RegistrationRequest,
    ResolutionRequest,
    TrafficIndication,
    decode_payload,
)
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import State
from tests.torture import HOLDING_TIME, TorturedWorld
from tests.world import World, mac

A, B, C = mac(1), mac(2), mac(3)


@pytest.fixture
def world() -> World:
    """A hub that serves VPN 1, nobody registered yet."""
    world = World()
    world.start_hub()
    return world


def test_registration_makes_a_member(world: World) -> None:
    """A site that registers gets the frames that are flooded in its VPN."""
    one = world.add_site("10.0.0.2", 100)
    two = world.add_site("10.0.0.3", 101)
    world.run(1)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    world.speak(one, A)
    assert [frame[6:12] for frame in two.received] == [A]
    assert one.received == []


def test_two_stations_end_up_on_a_shortcut(world: World) -> None:
    """The first frames go by the hub, later ones straight to the other site, in its VNI."""
    one = world.add_site("10.0.0.2", 100)
    two = world.add_site("10.0.0.3", 101)
    world.run(1)
    assert world.path(one, B) == world.hub.address
    world.exchange(one, A, two, B)
    assert world.path(one, B) == two.vtep == VTEP(parse_ip("10.0.0.3"), 101)
    assert world.path(two, A) == one.vtep
    before = world.switch.members[one.vtep].rx_packets
    world.speak(one, A, B)
    assert world.switch.members[one.vtep].rx_packets == before
    assert two.received[-1] == B + A


def test_a_traffic_indication_makes_a_spoke_ask(world: World) -> None:
    """Whoever says that a frame took a detour gets a question asked, and nothing else."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.speak(two, B)
    world.run(0.5)
    assert world.path(one, B) == world.hub.address
    assert one.machine.node is not None
    spoke = one.machine.node.spokes["vx1"]
    indication = TrafficIndication(
        source_nbma=world.hub.address,
        source_protocol=mac(0x77),
        destination_protocol=A,
        protocol_type=ProtocolType.MAC,
        contents=B + A + b"\x08\x00",
    )
    assert spoke.packet_received(indication, Path(world.hub.address))
    world.run(0.5)
    assert world.path(one, B) == two.vtep
    indication.contents = b"\xff" * 6 + A
    assert spoke.packet_received(indication, Path(world.hub.address))
    assert spoke.cache.lookup(b"\xff" * 6) is None


def test_an_idle_shortcut_is_withdrawn(world: World) -> None:
    """Nobody speaks for a whole holding time: the entry is gone."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    world.run(510, step=1)
    assert one.kernel.rows == {} and two.kernel.rows == {}
    world.speak(one, A, B)
    assert two.received[-1] == B + A, "and the next frame is not lost"


def test_a_busy_shortcut_is_renewed(world: World) -> None:
    """Traffic that goes on does not fall back to the hub when the holding time is over."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    for _ in range(90):
        world.speak(one, A, B)
        world.run(10, step=1)
        assert world.path(one, B) == two.vtep


def test_a_move_is_followed_at_once(world: World) -> None:
    """A station that moves and says so is reached at its new place within a second."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    three = world.add_site("10.0.0.4", 100)
    world.run(1)
    world.exchange(three, C, one, A)
    assert world.path(three, A) == one.vtep
    one.kernel.local.discard(A)
    world.speak(two, A)
    world.run(0.5)
    world.speak(three, C, A)
    world.run(0.5)
    world.speak(three, C, A)
    assert world.path(three, A) == two.vtep
    assert two.received[-1] == A + C


def test_a_move_whose_event_was_lost_is_followed(world: World) -> None:
    """An overrun of the event channel delays a purge, it does not lose it."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    three = world.add_site("10.0.0.4", 100)
    world.run(1)
    world.exchange(three, C, one, A)
    world.speak(two, A)
    world.switch.lose_events()
    world.run(1)
    assert world.path(three, A) == world.hub.address


def test_a_site_that_stops_is_left_at_once(world: World) -> None:
    """A spoke that is stopped in order leaves the flood list and everybody's shortcuts."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    assert two.machine.node is not None
    two.machine.node.stopService()
    world.run(0.5)
    assert set(world.switch.members) == {one.vtep}
    assert world.path(one, B) == world.hub.address
    assert two.kernel.rows == {}


def test_a_site_that_dies_is_left_when_its_registration_ends() -> None:
    """Without a word from it, its holding time decides."""
    world = World(holding_time=60)
    world.start_hub()
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    world.kill(two.machine)
    world.run(62, step=0.5)
    assert set(world.switch.members) == {one.vtep}
    assert world.path(one, B) == world.hub.address


def test_a_killed_hub_goes_on_and_is_succeeded(world: World) -> None:
    """Frames flow while no hub daemon runs; the next one knows the members and whom to purge."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    three = world.add_site("10.0.0.4", 100)
    world.run(1)
    world.exchange(three, C, one, A)
    world.kill(world.hub)
    world.speak(one, A)
    assert two.received[-1][6:12] == A
    world.speak(three, C, A)
    assert one.received[-1] == A + C
    world.run(5)
    world.start_hub()
    world.run(0.5)
    assert set(world.switch.members) == {one.vtep, two.vtep, three.vtep}
    world.speak(two, A)
    world.run(0.5)
    assert world.path(three, A) == world.hub.address, "told, though the dead one had answered"


def test_a_site_that_leaves_soon_after_a_restart_of_the_hub(world: World) -> None:
    """Its shortcuts are withdrawn everywhere, though whom the dead hub had answered is lost."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    world.kill(world.hub)
    world.run(1)
    world.start_hub()
    world.run(1)
    assert world.path(one, B) == two.vtep
    assert two.machine.node is not None
    two.machine.node.stopService()
    world.run(0.5)
    assert world.path(one, B) == world.hub.address


def test_a_restarted_spoke_adopts_its_shortcuts(world: World) -> None:
    """Shortcuts stay while the daemon is away, and are asked for again, not torn down."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    world.kill(one.machine)
    assert world.path(one, B) == two.vtep
    node = world.start_site(one)
    world.run(1)
    assert world.path(one, B) == two.vtep
    for _ in range(30):
        world.speak(one, A, B)
        world.run(1)
        assert world.path(one, B) == two.vtep
    binding = node.spokes["vx1"].cache.lookup(B)
    assert binding is not None and binding.holding_time > 60, "the hub has confirmed it"


def test_a_site_without_registration_is_refused(world: World) -> None:
    """Frames of an address and VNI that nobody registered are dropped and teach nothing."""
    one = world.add_site("10.0.0.2", 100)
    stranger = world.add_site("10.0.0.9", 100, register=False)
    world.run(1)
    world.speak(stranger, A)
    world.run(0.5)
    assert one.received == []
    assert world.switch.counters["unregistered"] == 1
    assert world.switch.find(1, A) is None
    assert world.hub.metrics.value("senders_refused", interface="vx0") == 1


def test_a_vpn_that_is_not_served_is_refused(world: World) -> None:
    """The site hears why (error 17), and nothing changes at the hub."""
    other = world.add_site("10.0.0.2", 100, vpn=2)
    world.run(1)
    assert other.machine.node is not None
    client = other.machine.node.spokes["vx2"].registrations[0]
    assert client.state is State.REFUSED
    assert "vpn unsupported" in str(client.last_error)
    assert world.switch.members == {}
    assert world.hub.metrics.value("drops", reason="vpn_unsupported") == 1


def test_vpns_on_demand() -> None:
    """A hub of a wide range makes a VPN when the first site registers in it."""
    world = World(vpns=((1, 2**32 - 1),))
    hub = world.start_hub()
    assert hub.hubs["vx0"].vpns == {}
    one = world.add_site("10.0.0.2", 100, vpn=7)
    two = world.add_site("10.0.0.3", 100, vpn=8)
    world.run(1)
    assert set(hub.hubs["vx0"].vpns) == {7, 8}
    world.speak(one, A)
    assert two.received == [], "the same VNI in another VPN"


def test_a_vtep_belongs_to_one_vpn() -> None:
    """A site that registers an address and VNI of another VPN is told no (code 4)."""
    world = World(vpns=((1, 2),))
    world.start_hub()
    one = world.add_site("10.0.0.2", 100, vpn=1)
    world.run(1)
    world.kill(one.machine)
    node = world.start_site(one, vpn=2)
    world.run(1)
    assert node.spokes["vx2"].registrations[0].state is State.REFUSED
    assert world.switch.members[one.vtep].vpn == 1
    assert world.hub.metrics.value("drops", reason="vtep_conflict") >= 1


def test_a_wrong_secret_keeps_out() -> None:
    """A spoke with another secret is not registered, and its own node says why."""
    world = World(authentication=AuthenticationPlan(secret=b"right"))
    world.start_hub()
    world.speaker = replace(world.speaker, authentication=AuthenticationPlan(secret=b"wrong"))
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    assert world.switch.members == {}
    assert one.machine.node is not None
    assert one.machine.node.spokes["vx1"].registrations[0].state is not State.REGISTERED


def test_an_unknown_mac_is_held_then_asked_for_again(world: World) -> None:
    """What the hub does not know is not asked for with every frame, nor never again."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    assert one.machine.node is not None
    cache = one.machine.node.spokes["vx1"].cache
    world.speak(one, A, B)
    world.run(0.2)
    binding = cache.lookup(B)
    assert binding is not None and binding.kind is Kind.NEGATIVE
    asked = one.machine.metrics.value("resolutions_asked")
    for _ in range(20):
        world.speak(one, A, B)
    assert one.machine.metrics.value("resolutions_asked") == asked
    world.run(11)
    world.speak(one, A, B)
    world.run(0.1)
    assert one.machine.metrics.value("resolutions_asked") == asked + 1


def test_a_station_that_comes_home_is_local(world: World) -> None:
    """A station that moves to our own site is no longer looked for elsewhere."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    world.speak(one, B)
    world.run(0.2)
    assert B not in one.kernel.rows
    assert one.machine.node is not None
    assert one.machine.node.spokes["vx1"].cache.lookup(B) is None


@pytest.mark.parametrize("loss", [0.3])
def test_a_lossy_underlay_delays_but_does_not_prevent(loss: float) -> None:
    """Requests are repeated until they are answered."""
    chances = iter(range(10**6))
    world = World(jitter=lambda: (next(chances) * 0.37) % 1.0)
    world.network.loss = loss
    world.start_hub()
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(30, step=0.1)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    for _ in range(30):
        world.exchange(one, A, two, B)
        world.run(1)
    assert world.path(one, B) == two.vtep


def test_everything_stops_without_a_trace(world: World) -> None:
    """After an orderly stop no timer, member or entry is left."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    for machine in world.machines.values():
        assert machine.node is not None
        machine.node.stopService()
    world.run(3)
    assert world.clock.getDelayedCalls() == []
    assert one.kernel.rows == {} and two.kernel.rows == {}
    assert world.switch.members == {} and not world.switch.attached


def test_a_hub_that_is_restarted_in_order_has_its_members_again_soon(world: World) -> None:
    """An orderly stop ends memberships; the sites hear of it and do not wait for a renewal."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    assert world.hub.node is not None and one.machine.node is not None
    world.hub.node.stopService()
    world.run(0.1)
    assert one.machine.node.spokes["vx1"].registrations[0].state is State.REGISTERING
    assert world.path(one, B) == two.vtep, "what was resolved goes on"
    world.run(2)
    world.start_hub()
    world.run(6)
    assert set(world.switch.members) == {one.vtep, two.vtep}


def test_a_stranger_does_not_end_a_registration(world: World) -> None:
    """Only the server that has our binding can take it back."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    assert one.machine.node is not None and two.machine.node is not None
    spoke = one.machine.node.spokes["vx1"]
    packet = PurgeRequest(
        source_nbma=two.vtep.nbma,
        source_protocol=mac(0x99),
        destination_protocol=spoke.station,
        protocol_type=ProtocolType.MAC,
        flags=PurgeFlag.N,
        request_id=1,
        cies=(CIE(prefix_length=48, protocol=spoke.station),),
    )
    two.machine.node.speakers["nhrp"].link(spoke.plan.vpn).send(packet, Path(one.vtep.nbma))
    world.run(0.1)
    assert spoke.registrations[0].state is State.REGISTERED


def test_a_hub_that_lost_its_power_has_its_members_again(world: World) -> None:
    """It knows nobody, and nobody's registration ends soon: whoever asks for what it has
    forgotten registers anew, and a site that only uses shortcuts does with their renewal."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(100, step=1)
    world.exchange(one, A, two, B)
    world.lose_power(world.hub)
    world.run(5)
    world.start_hub()
    world.speak(one, A, C)
    world.run(1)
    assert set(world.switch.members) == {one.vtep}
    for _ in range(210):
        world.speak(two, B, A)
        world.run(1, step=1)
    assert set(world.switch.members) == {one.vtep, two.vtep}


def test_asking_for_what_nobody_knows_is_no_flood_of_registrations(world: World) -> None:
    """A registration that was confirmed a minute ago is not doubted."""
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    world.network.transmissions.clear()
    for number in range(100):
        world.speak(one, A, mac(10 + number))
        world.run(1, step=0.5)
    sent = [decode_payload(each.payload())[1] for each in world.network.transmissions]
    asked = [packet for packet in sent if isinstance(packet, ResolutionRequest)]
    assert len(asked) >= 100
    assert len([packet for packet in sent if isinstance(packet, RegistrationRequest)]) == 1


def test_a_silent_hub_is_left_for_another() -> None:
    """What flooded to the first hub floods to the second, and back when the first answers."""
    world = TorturedWorld(seed=1)
    first, second = world.hubs
    site = world.places[0]
    assert site.kernel.flood == (first.address,)
    world.lose_power(first)
    world.run(HOLDING_TIME / 2)
    assert site.machine.node is not None
    (role,) = site.machine.node.spokes.values()
    assert role.registrations[0].state is State.DOWN and role.registrations[0].usable
    assert site.kernel.flood == (second.address,)
    world.restart(first)
    world.run(HOLDING_TIME / 2)
    assert site.kernel.flood == (first.address,)
