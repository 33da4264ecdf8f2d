"""The next hop server: registrations."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP, Path, parse_ip, parse_mac
from dmevpn.errors import NHRPError
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    ForwardTransitRecord,
    ResponderAddress,
    Unknown,
    VendorPrivate,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.registrar import MAX_CIES
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    VTEP_A,
    VTEP_B,
    binding,
)
from tests.nhrp.serving import (
    OUTSIDE,
    TRANSIT,
    World,
    registration,
)


@pytest.fixture
def world() -> World:
    return World()


def test_a_registration_is_kept_for_its_time(world: World) -> None:
    """The client's MAC is at its VTEP until the holding time is over."""
    reply = world.register()
    assert reply.flags == 0x8000 and reply.request_id == 16
    assert reply.cies == (CIE(prefix_length=0xFF, mtu=1400, holding_time=600),)
    assert world.way == TO_A
    assert world.cache.lookup(STATION_A) == Binding(
        STATION_A, VTEP_A, Kind.DYNAMIC, 600, 600.0, mtu=1400, unique=True, path=TO_A, spi=0
    )
    assert world.policy.asked == [(7, STATION_A, VTEP_A)]
    assert world.metrics.value("registration_answers", code="0", vpn="7") == 1
    world.clock.advance(600)
    assert len(world.cache) == 0
    world.close()


def test_the_reply_says_who_answers(world: World) -> None:
    """The Responder Address names the address that was asked; all else comes back in order."""
    request_extensions = (
        VendorPrivate(b"\0\0\x0c", b"x"),
        ForwardTransitRecord(),
        Unknown(0x3803, False, b"abc"),
        Authentication(1, b"secret"),
        ResponderAddress(),
        DeviceCapabilities(0, 0),
    )
    reply = world.register(extensions=request_extensions)
    responder = reply.extension(ResponderAddress)
    assert responder is not None
    assert responder.cies == (CIE(mtu=1450, holding_time=7200, nbma=HUB, protocol=HUB_MAC),)
    others = [each for each in reply.extensions if each is not responder]
    assert others == [each for each in request_extensions if type(each) is not ResponderAddress]
    assert [type(each) for each in reply.extensions] == [type(each) for each in request_extensions]
    world.close()


def test_the_reply_says_what_we_are_now() -> None:
    """MTU and holding time of the server may change, and its next reply has the new ones."""
    identity = Identity(HUB_MAC, mtu=1450)
    world = World(identity=identity)
    for identity.mtu, identity.holding_time in ((1450, 7200), (1400, 7200), (1400, 600)):
        responder = world.register(holding_time=60).extension(ResponderAddress)
        assert responder is not None
        (cie,) = responder.cies
        assert (cie.mtu, cie.holding_time) == (identity.mtu, identity.holding_time)
    world.close()


def test_many_addresses_of_ours_are_no_burden(world: World) -> None:
    """A server with a whole prefix of addresses remembers only some of them."""
    for last in range(300):
        world.register(path=Path(SITE_A, parse_ip(f"10.9.{last // 256}.{last % 256}")))
    assert len(world.server._replies._filled) <= 256
    world.close()


def test_three_stations_at_once(world: World) -> None:
    """One answer for each CIE, in order; refused ones have no holding time."""
    group = parse_mac("01:00:5e:00:00:01")
    cies = [
        CIE(holding_time=60, protocol=STATION_A, code=4),
        CIE(holding_time=60, protocol=group),
        CIE(holding_time=0, protocol=STATION_B, nbma=SITE_B),
        CIE(holding_time=9, protocol=HOST, nbma=SITE_B, subaddress=encode_vni(200), preference=3),
    ]
    reply = world.register(STATION_A, VTEP_A, TO_A, *cies, unique=False)
    assert [(cie.code, cie.holding_time, cie.protocol) for cie in reply.cies] == [
        (0, 60, STATION_A),
        (4, 0, group),
        (0, 7200, STATION_B),
        (0, 9, HOST),
    ]
    vteps = {each.protocol: each.vtep for each in world.cache.bindings()}
    assert vteps == {STATION_A: VTEP_A, STATION_B: VTEP(SITE_B, 100), HOST: VTEP_B}
    world.close()


@pytest.mark.parametrize("prefix", [0, 48, 0xFF, 128])
def test_exact_prefixes(world: World, prefix: int) -> None:
    """Every way to say "this address" is taken."""
    assert world.register(STATION_A, VTEP_A, TO_A, CIE(prefix_length=prefix)).cies[0].code == 0
    world.close()


@pytest.mark.parametrize(
    ("station", "cie"),
    [
        (parse_mac("01:00:00:00:00:0a"), CIE()),
        (bytes(6), CIE()),
        (STATION_A, CIE(prefix_length=24)),
        (HUB_MAC, CIE()),
        (STATION_A, CIE(nbma=parse_ip("224.0.0.1"))),
        (STATION_A, CIE(nbma=parse_ip("0.0.0.0"))),
        (STATION_A, CIE(nbma=parse_ip("ff02::1"))),
        (STATION_A, CIE(nbma=bytes(16))),
        (STATION_A, CIE(subaddress=b"\0\0\1")),
        (STATION_A, CIE(subaddress=b"\1\0\0\1")),
    ],
)
def test_what_cannot_be_registered(world: World, station: bytes, cie: CIE) -> None:
    """Groups, prefixes of MACs, our own MAC, impossible VTEPs: code 4, and nothing is stored."""
    reply = world.register(station, VTEP_A, TO_A, cie)
    assert reply.cies[0].code == CIECode.PROHIBITED
    assert len(world.cache) == 0
    assert world.policy.asked == []
    world.close()


def test_a_mac_needs_a_vni(world: World) -> None:
    """Without a VNI no frame can be sent to it."""
    for subaddress in (b"", bytes(4)):
        reply = world.register(source_subaddress=subaddress)
        assert reply.cies[0].code == CIECode.PROHIBITED
    assert world.metrics.value("drops", reason="bad_vni") == 2
    world.close()


def test_an_ip_address_needs_none() -> None:
    """Overlays other than VXLAN register addresses without."""
    world = World(station=parse_ip("10.0.0.1"))
    station = parse_ip("10.0.0.10")
    reply = world.register(station, VTEP(SITE_A, None))
    assert reply.cies[0].code == 0
    world.close()


def test_the_policy_decides(world: World) -> None:
    """What the policy refuses is refused with its code, and counted."""
    world.policy.code = CIECode.NO_RESOURCES
    assert world.register().cies[0].code == CIECode.NO_RESOURCES
    assert len(world.cache) == 0
    assert world.metrics.value("registration_answers", code="5", vpn="7") == 1
    world.close()


def test_configured_bindings_stay(world: World) -> None:
    """Nobody registers an address that the operator has placed."""
    world.cache.put(binding(STATION_A, VTEP_B, Kind.STATIC, None))
    assert world.register().cies[0].code == CIECode.PROHIBITED
    world.close()


def test_a_full_table() -> None:
    """When there is no room: code 5; who is registered can renew."""
    world = World(cache=1)
    assert world.register().cies[0].code == 0
    assert world.register(STATION_B, VTEP_B).cies[0].code == CIECode.NO_RESOURCES
    assert world.register().cies[0].code == 0
    world.close()


@pytest.mark.parametrize("again", [True, False])
def test_a_unique_binding_is_protected(world: World, again: bool) -> None:
    """A second site with the same MAC is refused (code 14); the first renews as it likes."""
    world.register(STATION_A, VTEP_A)
    reply = world.register(STATION_A, VTEP_B, unique=again)
    assert reply.cies[0].code == CIECode.ALREADY_REGISTERED
    assert reply.cies[0].holding_time == 0
    assert world.register(STATION_A, VTEP_A).cies[0].code == 0
    world.clock.advance(599.5)
    assert world.register(STATION_A, VTEP_B).cies[0].code == 0, "the first has run out"
    world.close()


def test_another_binding_moves(world: World) -> None:
    """Without U, whoever registers last has the address."""
    world.register(STATION_A, VTEP_A, unique=False)
    assert world.register(STATION_A, VTEP_B, unique=False).cies[0].code == 0
    found = world.cache.lookup(STATION_A)
    assert found is not None and found.vtep == VTEP_B
    world.close()


def test_a_retransmission_is_answered_again(world: World) -> None:
    """The reply may have been lost."""
    assert world.register() == world.register()
    assert len(world.cache) == 1
    world.close()


def test_translated_clients_are_where_their_packets_come_from(world: World) -> None:
    """Behind address translation the outer source is the VTEP; the claimed one is kept."""
    reply = world.register(path=Path(OUTSIDE, HUB))
    assert reply.cies[0].code == 0 and world.way == Path(OUTSIDE, HUB)
    found = world.cache.lookup(STATION_A)
    assert found is not None
    assert (found.vtep, found.nat, found.claimed) == (VTEP(OUTSIDE, 100), True, SITE_A)
    world.close()


def test_translation_is_not_assumed() -> None:
    """Not with the option off, not for another VTEP, not behind another server."""
    world = World(nat_detection=False)
    world.register(path=Path(OUTSIDE, HUB))
    found = world.cache.lookup(STATION_A)
    assert found is not None and found.vtep == VTEP_A and not found.nat
    world.close()
    world = World()
    world.register(STATION_A, VTEP_A, Path(OUTSIDE, HUB), CIE(nbma=SITE_B))
    found = world.cache.lookup(STATION_A)
    assert found is not None and found.vtep == VTEP(SITE_B, 100) and not found.nat
    world.register(STATION_B, VTEP_B, Path(OUTSIDE, HUB), extensions=(TRANSIT,))
    found = world.cache.lookup(STATION_B)
    assert found is not None and found.vtep == VTEP_B and not found.nat
    assert world.way == Path(SITE_B, HUB), "the reply goes straight to the client"
    world.close()


@pytest.mark.parametrize(
    ("count", "unique", "offset"), [(0, True, 48), (2, True, 60), (MAX_CIES + 1, False, 816)]
)
def test_the_wrong_number_of_cies(world: World, count: int, unique: bool, offset: int) -> None:
    """None at all, two unique ones, or endless many: a protocol error at the place."""
    request = registration(unique=unique)
    request.cies = (CIE(),) * count
    with pytest.raises(NHRPError) as raised:
        world.server.packet_received(request, TO_A)
    error = raised.value
    assert (error.counter, error.code, error.offset) == ("bad_cie", 7, offset)
    assert world.link.sent == []
    world.close()
