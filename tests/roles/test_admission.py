"""Who may register with a hub and ask it, on whole nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import AdmissionPlan, AuthenticationPlan, KeyPlan, PermitPlan
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.extensions import ForwardTransitRecord
from dmevpn.nhrp.packet import PurgeRequest, ResolutionRequest
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.roles.admission import Admission
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.owners import VTEPOwners
from dmevpn.roles.trunks import TrunkTable
from tests.roles.test_hostile import Peer
from tests.world import World, mac

A, B, C = mac(1), mac(2), mac(3)
ONE, TWO = "10.0.0.2", "10.0.0.3"
KEYS = {
    spi: KeyPlan(spi=spi, algorithm="hmac-sha-256", secret=bytes([spi % 256]) * 32)
    for spi in (300, 301)
}


def permit(network: str = "10.0.0.0/24", vpns: tuple[int, int] = (1, 1), **said) -> PermitPlan:
    address, _, bits = network.partition("/")
    octets = parse_ip(address)
    return PermitPlan(vpns=vpns, nbma=(octets, int(bits or 8 * len(octets))), **said)


def world_with(*permits: PermitPlan, members_only: bool = True, **options) -> World:
    """A hub that is up."""
    world = World(**options)
    plan = AdmissionPlan(permits=permits, members_only=members_only)
    (hub,) = world.hub_plan.hubs
    world.hub_plan = replace(world.hub_plan, hubs=(replace(hub, admission=plan),))
    world.start_hub()
    return world


def reload(world: World, *permits: PermitPlan) -> None:
    """Give the running hub other permits."""
    (hub,) = world.hub_plan.hubs
    plan = AdmissionPlan(permits=permits, members_only=bool(permits))
    assert world.hub.node is not None
    world.hub.node.apply(replace(world.hub_plan, hubs=(replace(hub, admission=plan),)))


def vpn_of(world: World) -> HubVPN:
    assert world.hub.node is not None
    return world.hub.node.hubs["vx0"].vpns[1]


def members(world: World) -> set[VTEP]:
    return set(vpn_of(world).members)


def drops(world: World, reason: str) -> float:
    return world.hub.metrics.value("drops", reason=reason)


def admission_of(*permits: PermitPlan) -> IRegistrationPolicy:
    plan = AdmissionPlan(permits=permits)
    return Admission(plan, VTEPOwners(Metrics()), Clock(), Metrics(), TrunkTable(()))


# --- one line holds for all of a registration -----------------------------------------------------


@pytest.mark.parametrize(
    ("permits", "good"),
    [
        ((permit(ONE),), True),
        ((permit("10.0.0.0/24"),), True),
        ((permit("0.0.0.0/0"),), True),
        ((PermitPlan(vpns=(1, 9), nbma=None),), True),
        ((permit(ONE, vnis=(100, 199), spi=300),), True),
        ((permit(TWO), permit(ONE)), True),
        ((permit(TWO),), False),
        ((permit("10.0.1.0/24"),), False),
        ((permit("::/0"),), False),
        ((permit(ONE, vpns=(2, 9)),), False),
        ((permit(ONE, vnis=(101, 199)),), False),
        ((permit(ONE, spi=301),), False),
        # Two lines that each hold for half of it are no line that holds.
        ((permit(ONE, spi=301), permit(TWO, spi=300)), False),
        ((permit(ONE, vnis=(1, 9)), permit("0.0.0.0/0", spi=301)), False),
    ],
)
def test_what_a_line_says(permits, good):
    """Address, VPN, VNI and key have to be those of one line."""
    vtep = VTEP(parse_ip(ONE), 100)
    code = admission_of(*permits).decide(Claim(1, A, vtep, parse_ip(ONE), 300))
    assert code == (CIECode.SUCCESS if good else CIECode.PROHIBITED)


def test_nobody_registers_in_the_name_of_another():
    """Sender and VTEP have to be permitted by the same line."""
    policy = admission_of(permit(ONE), permit(TWO))
    vtep = VTEP(parse_ip(ONE), 100)
    assert policy.decide(Claim(1, A, vtep, parse_ip(ONE), 0)) == CIECode.SUCCESS
    assert policy.decide(Claim(1, A, vtep, parse_ip(TWO), 0)) == CIECode.PROHIBITED


# --- whole hubs -----------------------------------------------------------------------------------


def test_only_who_is_permitted_becomes_a_member():
    """The others are refused, counted, and get none of the frames."""
    world = world_with(permit(ONE))
    one, two = world.add_site(ONE, 100), world.add_site(TWO, 101)
    world.run(1)
    assert members(world) == {one.vtep}
    assert drops(world, "not_permitted") >= 1
    world.speak(one, A)
    assert two.received == []


def test_the_key_counts():
    """Who has the key of other sites still is not one of them."""
    authentication = AuthenticationPlan(keys=(KEYS[300],))
    both = AuthenticationPlan(keys=(KEYS[301], KEYS[300]))
    world = world_with(permit(spi=300), authentication=both)
    world.speaker = replace(world.speaker, authentication=authentication)
    good = world.add_site(ONE, 100)
    world.speaker = replace(
        world.speaker, authentication=AuthenticationPlan(keys=(KEYS[300], KEYS[301]))
    )
    world.add_site(TWO, 101)
    world.run(3)
    assert members(world) == {good.vtep}
    assert drops(world, "not_permitted") >= 1


def test_the_secret_is_a_key():
    """SPI 1 is Cisco's cleartext."""
    world = world_with(permit(spi=1), authentication=AuthenticationPlan(secret=b"secret"))
    one = world.add_site(ONE, 100)
    world.run(1)
    assert members(world) == {one.vtep}


def test_a_reload_ends_what_is_no_longer_permitted():
    """At once, and nobody else notices."""
    world = world_with(permit())
    one, two = world.add_site(ONE, 100), world.add_site(TWO, 101)
    world.run(1)
    world.exchange(one, A, two, B)
    assert world.path(one, B) == two.vtep
    registered = one.machine.metrics.value("registration_answers", code="0", vpn="1")
    reload(world, permit(ONE))
    world.run(1)
    assert members(world) == {one.vtep}
    assert world.path(one, B) == world.hub.address, "what was said about the site is taken back"
    assert one.machine.metrics.value("registration_answers", code="0", vpn="1") == registered
    reload(world)
    world.run(120, step=0.5)
    assert members(world) == {one.vtep, two.vtep}, "a refused site tries again"


def test_a_reload_that_asks_for_a_key():
    """Registrations that another key has signed end, too."""
    authentication = AuthenticationPlan(keys=(KEYS[300],))
    world = world_with(authentication=authentication, members_only=False)
    one = world.add_site(ONE, 100)
    world.run(3)
    reload(world, permit(spi=300))
    world.run(1)
    assert members(world) == {one.vtep}
    reload(world, permit(spi=301))
    world.run(1)
    assert members(world) == set()


def test_a_restarted_hub_adopts_only_what_is_permitted():
    """The file may have changed while the daemon was down."""
    world = world_with(permit(), permit("10.0.1.0/24"))
    one, two = world.add_site(ONE, 100), world.add_site("10.0.1.2", 101)
    world.run(1)
    assert members(world) == {one.vtep, two.vtep}
    world.kill(world.hub)
    (hub,) = world.hub_plan.hubs
    plan = AdmissionPlan(permits=(permit(),), members_only=True)
    world.hub_plan = replace(world.hub_plan, hubs=(replace(hub, admission=plan),))
    world.start_hub()
    assert members(world) == {one.vtep}


def test_who_may_not_register_may_not_purge():
    """A purge in the name of a site has to come from where the site may be."""
    world = world_with(permit(ONE))
    one = world.add_site(ONE, 100)
    world.run(1)
    (station,) = vpn_of(world).members[one.vtep]
    peer = Peer(world)
    purge = PurgeRequest(
        source_nbma=one.vtep.nbma,
        source_protocol=station,
        destination_protocol=station,
        cies=(CIE(prefix_length=48, protocol=station),),
    )
    peer.send(purge, world.hub.address)
    world.run(0.1)
    assert members(world) == {one.vtep}


# --- who is answered ------------------------------------------------------------------------------


def question(source: bytes, nbma: bytes, *extensions) -> ResolutionRequest:
    return ResolutionRequest(
        source_nbma=nbma,
        source_subaddress=encode_vni(100),
        source_protocol=source,
        destination_protocol=B,
        request_id=7,
        extensions=extensions,
    )


def test_strangers_are_told_nothing():
    """Nor is anything remembered about them, whoever they say they are."""
    world = world_with(permit())
    one, two = world.add_site(ONE, 100), world.add_site(TWO, 101)
    world.run(1)
    world.speak(two, B)
    (station,) = vpn_of(world).members[one.vtep]
    peer = Peer(world)
    record = ForwardTransitRecord((CIE(nbma=peer.address, protocol=C),))
    for request in (
        question(C, peer.address),
        question(station, peer.address),
        question(station, one.vtep.nbma),
        question(C, peer.address, record),
        question(station, one.vtep.nbma, record),
    ):
        peer.send(request, world.hub.address)
        world.run(0.1)
    assert [reply.cies[0].code for reply in peer.received] == [CIECode.PROHIBITED] * 5
    assert all(reply.cies[0].nbma == b"" for reply in peer.received)
    assert drops(world, "not_registered") == 5
    assert list(vpn_of(world).server.answered()) == []


def test_forged_requesters_fill_no_table():
    """Ten thousand of them leave no trace."""
    world = world_with(permit())
    two = world.add_site(TWO, 101)
    world.run(1)
    world.speak(two, B)
    peer = Peer(world)
    for number in range(10_000):
        station = b"\x02\x07" + number.to_bytes(4, "big")
        peer.send(question(station, peer.address), world.hub.address)
        if number % 20 == 0:
            world.run(0.05)
    world.run(0.1)
    assert drops(world, "not_registered") == 10_000
    assert list(vpn_of(world).server.answered()) == []


def test_members_are_answered():
    """Registered sites find each other as ever."""
    world = world_with(permit())
    one, two = world.add_site(ONE, 100), world.add_site(TWO, 101)
    world.run(1)
    world.exchange(one, A, two, B)
    assert world.path(one, B) == two.vtep
    assert world.path(two, A) == one.vtep


@pytest.mark.parametrize("mutual", [True, False])
def test_servers_ask_for_their_own_stations(mutual):
    """A hub answers those of another hub if it knows that hub."""
    world = World()
    (hub,) = world.hub_plan.hubs
    plan = AdmissionPlan(members_only=True)
    world.hub_plan = replace(world.hub_plan, hubs=(replace(hub, admission=plan),))
    first = world.add_hub("10.0.0.1", "10.0.1.1")
    second = world.add_hub("10.0.1.1", *(["10.0.0.1"] if mutual else []))
    one, two = world.add_site(ONE, 100, hub=first), world.add_site("10.0.1.2", 101, hub=second)
    world.run(1)
    world.speak(two, B)
    world.speak(one, A, B)
    world.run(0.5)
    assert world.path(one, B) == (two.vtep if mutual else world.hub.address)
    assert second.metrics.value("drops", reason="not_registered") == (0 if mutual else 1)
