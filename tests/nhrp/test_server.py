"""The next hop server: registrations, answers, and taking answers back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from dmevpn.addresses import VTEP, Path, parse_ip, parse_mac
from dmevpn.errors import NHRPError
from dmevpn.interfaces import IStation
from dmevpn.metrics import Metrics
from dmevpn.nhrp import answered as answered_module
from dmevpn.nhrp import server as server_module
from dmevpn.nhrp.answered import Answered
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import CIECode, ErrorCode, PacketType
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
    VendorPrivate,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import (
    ErrorIndication,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
    TrafficIndication,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.registrar import MAX_CIES
from dmevpn.nhrp.room import SharedRoom
from dmevpn.nhrp.server import NextHopServer
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VTEP_A,
    VTEP_B,
    Link,
    Policy,
    binding,
    outstanding,
)

OUTSIDE = parse_ip("198.51.100.7")
IPV6_SITE = parse_ip("2001:db8::20")
REQUEST_EXTENSIONS = (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord())
TRANSIT = ForwardTransitRecord((CIE(nbma=SITE_B, protocol=STATION_B),))


class World:
    """A server with two clients that the test plays."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.requests = outstanding(self.clock, self.metrics, options.pop("requests", 100))
        self.cache = Cache(self.clock, self.metrics, options.pop("cache", 100))
        self.policy = Policy()
        #: What the switch has learned.
        self.switch: dict[bytes, VTEP] = {}
        station = options.pop("station", HUB_MAC)
        identity = options.pop("identity", Identity(station, mtu=1450))
        settings: dict[str, Any] = {"vpn": 7, "nat_detection": True, "identity": identity}
        self.server = NextHopServer(
            clock=self.clock,
            cache=self.cache,
            outstanding=self.requests,
            link=self.link,
            policy=self.policy,
            find_mac=self.switch.get,
            metrics=self.metrics,
            **settings | options,
        )

    def register(
        self,
        station: bytes = STATION_A,
        vtep: VTEP = VTEP_A,
        path: Path | None = None,
        *cies: CIE,
        unique: bool = True,
        holding_time: int = 600,
        **more: Any,
    ) -> RegistrationReply:
        request = registration(station, vtep, *cies, unique=unique, holding_time=holding_time)
        for name, value in more.items():
            setattr(request, name, value)
        assert self.server.packet_received(request, path or Path(vtep.nbma, HUB))
        reply, way = self.link.sent.pop()
        self.way = way
        assert isinstance(reply, RegistrationReply)
        return reply

    def resolve(
        self,
        protocol: bytes = HOST,
        station: bytes = STATION_A,
        path: Path = TO_A,
        **more: Any,
    ) -> ResolutionReply:
        request = resolution(protocol, station, path)
        for name, value in more.items():
            setattr(request, name, value)
        assert self.server.packet_received(request, path)
        reply, self.way = self.link.sent.pop()
        assert isinstance(reply, ResolutionReply)
        return reply

    def learned(self, protocol: bytes = HOST, vtep: VTEP = VTEP_B) -> None:
        """The switch has seen a MAC behind a registered site."""
        self.register(STATION_B, vtep)
        self.switch[protocol] = vtep

    def close(self) -> None:
        self.server.close()
        self.requests.close()
        self.cache.close()
        assert not self.clock.getDelayedCalls()


def registration(
    station: bytes = STATION_A,
    vtep: VTEP = VTEP_A,
    *cies: CIE,
    unique: bool = True,
    holding_time: int = 600,
) -> RegistrationRequest:
    return RegistrationRequest(
        source_nbma=vtep.nbma,
        source_subaddress=encode_vni(vtep.vni),
        source_protocol=station,
        destination_protocol=station,
        flags=0x8000 if unique else 0,
        request_id=16,
        cies=cies or (CIE(prefix_length=0xFF, mtu=1400, holding_time=holding_time),),
        extensions=REQUEST_EXTENSIONS,
    )


def resolution(
    protocol: bytes = HOST, station: bytes = STATION_A, path: Path = TO_A
) -> ResolutionRequest:
    return ResolutionRequest(
        source_nbma=path.peer,
        source_subaddress=encode_vni(100),
        source_protocol=station,
        destination_protocol=protocol,
        flags=0xC000,
        request_id=18,
        cies=(CIE(prefix_length=0xFF, mtu=1450),),
        extensions=(*REQUEST_EXTENSIONS, DeviceCapabilities(1, 0)),
    )


def purge(station: bytes = STATION_A, nbma: bytes = SITE_A, **more: Any) -> PurgeRequest:
    fields: dict[str, Any] = {"protocol": STATION_A, "prefix_length": 48}
    flags = more.pop("flags", 0)
    return PurgeRequest(
        source_nbma=nbma,
        source_protocol=station,
        destination_protocol=station,
        flags=flags,
        request_id=9,
        cies=(CIE(**fields | more),),
    )


@pytest.fixture
def world() -> World:
    return World()


def test_interface(world: World) -> None:
    """The server can be attached to a speaker."""
    assert verifyObject(IStation, world.server)


# --- registration -----------------------------------------------------------------------------


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


def test_registrations_for_another_server(world: World) -> None:
    """They are not ours; ours may name us, or the client itself."""
    request = registration()
    request.destination_protocol = STATION_B
    assert not world.server.packet_received(request, TO_A)
    request.destination_protocol = HUB_MAC
    assert world.server.packet_received(request, TO_A)
    world.close()


@pytest.mark.parametrize("make", [registration, resolution, purge])
def test_unknown_compulsory_extensions(world: World, make: Any) -> None:
    """What must not be ignored is refused, with its place (RFC 2332 §5.3)."""
    request = make()
    request.extensions = (*request.extensions, Unknown(0x3802, True, b"\1\2"))
    with pytest.raises(NHRPError) as raised:
        world.server.packet_received(request, TO_A)
    assert (raised.value.counter, raised.value.code) == ("unrecognized_extension", 1)
    assert raised.value.offset == len(request.encode()) - 4 - 6
    assert len(world.cache) == 0 and world.link.sent == []
    world.close()


# --- resolution -------------------------------------------------------------------------------


def test_an_answer_from_the_switch(world: World) -> None:
    """A MAC that the switch has learned is at its site, for 300 s, stable and authoritative."""
    world.learned()
    reply = world.resolve()
    assert reply.flags == 0xE000
    (cie,) = reply.cies
    assert cie == CIE(
        prefix_length=48,
        mtu=1400,
        holding_time=300,
        nbma=SITE_B,
        subaddress=encode_vni(200),
        protocol=HOST,
    )
    assert world.way == TO_A
    assert reply.extension(DeviceCapabilities) == DeviceCapabilities(1, 1)
    responder = reply.extension(ResponderAddress)
    assert responder is not None and responder.cies[0].nbma == HUB
    assert world.metrics.value("resolution_answers", code="0", vpn="7") == 1
    world.close()


def test_no_longer_than_its_site_is_registered(world: World) -> None:
    """A shortcut never outlives the registration of its site."""
    world.register(STATION_A, VTEP_B, holding_time=50)
    world.learned()
    world.clock.advance(0.5)
    assert world.resolve().cies[0].holding_time == 300
    world.clock.advance(398.5)
    assert world.resolve().cies[0].holding_time == 201
    world.clock.advance(200.5)
    assert world.resolve().cies[0].code == CIECode.NO_BINDING, "less than a second left"
    world.clock.advance(0.5)
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_an_answer_from_registrations(world: World) -> None:
    """A registered station is answered with what remains of its time."""
    world.register(STATION_B, VTEP_B, TO_B, CIE(holding_time=600, preference=7, mtu=0))
    world.clock.advance(100.5)
    cie = world.resolve(STATION_B).cies[0]
    assert (cie.code, cie.holding_time, cie.preference, cie.mtu) == (0, 499, 7, 1450)
    world.close()


def test_an_answer_from_the_configuration(world: World) -> None:
    """A static binding outweighs what the switch has seen, and lasts our default time."""
    world.learned(HOST, VTEP_B)
    world.cache.put(binding(HOST, VTEP_A, Kind.STATIC, None))
    cie = world.resolve(station=STATION_B, path=TO_B).cies[0]
    assert (cie.nbma, cie.holding_time) == (SITE_A, 100), "its own time, from now on"
    world.close()


def test_unknown(world: World) -> None:
    """What nobody has seen has no binding."""
    reply = world.resolve()
    assert reply.cies == (CIE(code=CIECode.NO_BINDING),)
    assert reply.flags == 0xC000
    assert reply.extension(DeviceCapabilities) == DeviceCapabilities(1, 0)
    assert list(world.server.answered()) == []
    world.close()


@pytest.mark.parametrize("protocol", [b"\xff" * 6, parse_mac("01:00:5e:00:00:01"), bytes(6)])
def test_groups_have_no_place(world: World, protocol: bytes) -> None:
    """Even if the switch thought so."""
    world.learned(protocol)
    assert world.resolve(protocol).cies[0].code == CIECode.NO_BINDING
    world.close()


def test_an_ip_address_is_not_looked_for_in_the_switch() -> None:
    """The switch knows MACs only."""
    world = World(station=parse_ip("10.0.0.1"))
    address = parse_ip("10.0.0.20")
    world.register(parse_ip("10.0.0.30"), VTEP(SITE_B, None))
    world.switch[address] = VTEP(SITE_B, None)
    assert world.resolve(address, parse_ip("10.0.0.10")).cies[0].code == CIECode.NO_BINDING
    world.close()


def test_a_site_that_is_not_registered_is_not_given_out(world: World) -> None:
    """Nobody would tell us when it is gone."""
    world.switch[HOST] = VTEP_B
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_another_underlay_family_cannot_be_given(world: World) -> None:
    """A site with IPv6 only is no use to one with IPv4 only: by the hub then."""
    world.learned(HOST, VTEP(IPV6_SITE, 200))
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_unique_bindings_only(world: World) -> None:
    """With U set, only a unique registration is good enough."""
    world.learned()
    assert world.resolve(flags=0x1000).cies[0].code == CIECode.NOT_UNIQUE
    reply = world.resolve(STATION_B, flags=0x1802)
    assert reply.cies[0].code == 0
    assert reply.flags == 0x1802 | 0x4000 | 0x2000
    world.close()


@pytest.mark.parametrize("extensions", [(), (DeviceCapabilities(0, 0),)])
def test_who_cannot_name_a_vpn_gets_no_shortcut(world: World, extensions: Any) -> None:
    """RFC 2735 §3.3: its frames would arrive without one."""
    world.learned()
    assert world.resolve(extensions=extensions).cies[0].code == CIECode.PROHIBITED
    world.close()


def test_in_the_default_instance_nobody_names_one() -> None:
    """There device capabilities do not matter."""
    world = World(vpn=None)
    world.learned()
    assert world.resolve(extensions=()).cies[0].code == 0
    world.close()


def test_two_cies_in_a_resolution_request(world: World) -> None:
    """A protocol error at the second (vector M29)."""
    request = resolution()
    request.cies = (CIE(), CIE())
    with pytest.raises(NHRPError) as raised:
        world.server.packet_received(request, TO_A)
    assert (raised.value.code, raised.value.offset) == (7, 60)
    world.close()


def test_answers_through_other_servers_go_straight_back(world: World) -> None:
    """So do later purges."""
    world.learned()
    world.resolve(path=TO_A, extensions=(TRANSIT, DeviceCapabilities(1, 0)), source_nbma=OUTSIDE)
    assert world.way == Path(OUTSIDE, HUB)
    world.server.invalidate(HOST, "moved")
    assert world.link.sent[0][1] == Path(OUTSIDE, HUB)
    world.close()


# --- taking answers back ----------------------------------------------------------------------


def test_whoever_was_answered_is_told(world: World) -> None:
    """When a MAC moves, each site that knew the old place gets a Purge Request."""
    world.learned()
    world.resolve()
    world.resolve(station=STATION_B, path=TO_B)
    world.resolve()
    assert list(world.server.answered()) == [(HOST, (VTEP_B,))]
    assert world.server.invalidate(HOST, "moved") == 2
    assert [path for _, path in world.link.sent] == [TO_A, TO_B]
    purge = world.link.sent[0][0]
    assert isinstance(purge, PurgeRequest)
    assert (purge.source_nbma, purge.source_protocol) == (HUB, HUB_MAC)
    assert (purge.destination_protocol, purge.flags) == (STATION_A, 0)
    assert purge.cies == (CIE(prefix_length=48, protocol=HOST),)
    assert {packet.request_id for packet, _ in world.link.sent} == {1000, 1001}
    assert world.server.invalidate(HOST, "moved") == 0, "nobody believes it any more"
    world.close()


def test_purges_are_repeated_until_replied(world: World) -> None:
    """At 0, 1, 3, 7, 15 and 31 s; a client that is gone is given up."""
    world.learned()
    world.resolve()
    world.resolve(station=STATION_B, path=TO_B)
    world.server.invalidate(HOST, "moved")
    reply = world.link.sent[0][0].reply()  # type: ignore[attr-defined]
    assert world.server.packet_received(reply, TO_A)
    times: list[int] = []
    world.link.take()
    for second in range(1, 70):
        world.clock.advance(1)
        times += [second] * len(world.link.take())
    assert times == [1, 3, 7, 15, 31]
    assert len(world.requests) == 0
    assert world.metrics.value("purges_unanswered", vpn="7") == 1
    world.close()


def test_not_longer_than_the_answer_lasts(world: World) -> None:
    """An answer that has run out need not be taken back."""
    world.register(STATION_B, VTEP_B, holding_time=5)
    world.switch[HOST] = VTEP_B
    world.resolve()
    world.server.invalidate(HOST, "moved")
    world.clock.pump([1] * 60)
    assert len([p for p, _ in world.link.sent if p.request_id == 1000]) == 3  # type: ignore
    world.close()


def test_answers_are_forgotten_when_they_have_run_out(world: World) -> None:
    """Whoever asked long ago gets no purge, and takes no memory."""
    world.learned()
    world.resolve()
    world.clock.advance(200)
    world.resolve(station=STATION_B, path=TO_B)
    world.clock.advance(150)
    assert len(world.server._answered) == 1
    assert world.server.invalidate(HOST, "moved") == 1
    world.register(STATION_B, VTEP_B)
    world.resolve()
    world.clock.advance(301)
    assert world.server.invalidate(HOST, "moved") == 0
    world.resolve()
    world.clock.pump([1] * 400)
    assert len(world.server._answered) == 0 and list(world.server.answered()) == []
    world.close()


def test_others_who_may_know(world: World) -> None:
    """After a restart all members are told, each once."""
    world.learned()
    world.resolve()
    also = [(STATION_A, TO_A), (STATION_B, Path(SITE_B))]
    assert world.server.invalidate(HOST, "moved", also) == 2
    packet, path = world.link.sent[1]
    assert path == Path(SITE_B)
    assert packet.source_nbma == bytes(4), "the kernel chooses our address"
    world.close()


def test_without_room_to_wait_a_purge_goes_out_once() -> None:
    """Better told once without a reply than not at all."""
    world = World(requests=0)
    world.learned()
    world.resolve()
    assert world.server.invalidate(HOST, "moved") == 1
    (purge,) = world.link.take()
    assert purge.flags == 0x8000
    world.close()


def test_a_lost_event_is_made_good_by_the_next_question(world: World) -> None:
    """If two sites would believe different answers, the first is told at once."""
    world.learned()
    world.resolve()
    world.switch[HOST] = VTEP_A
    world.register(STATION_A, VTEP_A)
    world.resolve(station=STATION_B, path=TO_B)
    purges = [path for packet, path in world.link.sent if isinstance(packet, PurgeRequest)]
    assert purges == [TO_A]
    assert list(world.server.answered()) == [(HOST, (VTEP_A,))]
    world.close()


def told(world: World) -> set[tuple[bytes, bytes]]:
    """Who was told to forget what."""
    packets = [packet for packet in world.link.take() if isinstance(packet, PurgeRequest)]
    return {(each.destination_protocol, cie.protocol) for each in packets for cie in each.cies}


def test_a_site_that_expires_takes_its_answers_along(world: World) -> None:
    """All shortcuts to a site that is gone are withdrawn: its station's and its hosts'."""
    world.learned()
    world.resolve()
    world.register(STATION_A, VTEP_A, holding_time=7200)
    world.clock.advance(400)
    world.resolve()
    world.resolve(STATION_B)
    world.resolve(STATION_A, STATION_B, TO_B)
    world.clock.advance(199.99)
    assert told(world) == set()
    world.cache.remove(STATION_B, "purged")
    assert told(world) == {(STATION_A, HOST), (STATION_A, STATION_B)}
    world.close()


def test_a_site_with_another_registration_stays(world: World) -> None:
    """Only the station that left is taken back."""
    world.learned()
    world.register(OTHER_HOST, VTEP_B)
    world.resolve()
    world.resolve(STATION_B)
    world.cache.remove(STATION_B, "purged")
    assert told(world) == {(STATION_A, STATION_B)}
    world.close()


def test_a_station_that_moves(world: World) -> None:
    """Answers of before are taken back, and refreshes take back nothing."""
    world.register(STATION_B, VTEP_B, unique=False)
    world.resolve(STATION_B)
    world.register(STATION_B, VTEP_B, unique=False)
    assert told(world) == set()
    world.register(STATION_B, VTEP(OUTSIDE, 200), unique=False)
    assert told(world) == {(STATION_A, STATION_B)}
    world.close()


def test_a_registration_overrules_the_switch(world: World) -> None:
    """So does what the operator configures."""
    world.learned()
    world.resolve()
    world.register(HOST, VTEP_B)
    assert told(world) == set(), "it confirms the answer"
    world.cache.remove(HOST, "purged")
    world.link.take()
    world.resolve()
    world.cache.put(binding(HOST, VTEP_A, Kind.STATIC, None))
    assert told(world) == {(STATION_A, HOST)}
    world.cache.put(binding(OTHER_HOST, None, Kind.NEGATIVE))
    world.cache.remove(OTHER_HOST, "expired")
    world.close()


def test_a_vtep_as_a_whole(world: World) -> None:
    """The owner can take back everything at a VTEP."""
    world.learned()
    world.switch[OTHER_HOST] = VTEP_B
    world.resolve()
    world.resolve(OTHER_HOST)
    assert world.server.invalidate_vtep(VTEP_A, "left") == 0
    assert world.server.invalidate_vtep(VTEP_B, "left") == 2
    assert told(world) == {(STATION_A, HOST), (STATION_A, OTHER_HOST)}
    world.close()


def test_a_vtep_with_many_stations(world: World) -> None:
    """A site that is lost costs each requester a packet per 40 stations, not one per station."""
    stations = [b"\x52\x54\x00\x00\x00%c" % number for number in range(41)]
    world.learned()
    for station in stations:
        world.switch[station] = VTEP_B
        world.resolve(station)
        world.resolve(station, STATION_B, TO_B)
    world.link.take()
    assert world.server.invalidate_vtep(VTEP_B, "left") == 82
    packets = world.link.take()
    assert sorted(len(packet.cies) for packet in packets) == [1, 1, 40, 40]
    assert max(len(packet.encode()) for packet in packets) < 1000
    world.close()


def test_too_many_answers() -> None:
    """An answer that could not be taken back is not given: code 5, counted."""
    world = World(answered_limit=1)
    world.learned()
    assert world.resolve().cies[0].code == 0
    assert world.resolve().cies[0].code == 0, "the same once more"
    reply = world.resolve(station=STATION_B, path=TO_B)
    assert reply.cies == (CIE(code=CIECode.NO_RESOURCES),)
    assert world.metrics.value("answered_full") == 1
    world.close()


def test_too_many_for_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address cannot use up all room."""
    monkeypatch.setattr(answered_module, "ANSWERED_PER_MAC", 2)
    metrics = Metrics()
    table = Answered(Clock(), metrics)
    assert table.add(HOST, (VTEP_B,), STATION_A, TO_A, 300)
    assert table.add(HOST, (VTEP_B,), STATION_B, TO_B, 300)
    assert not table.add(HOST, (VTEP_B,), OTHER_HOST, TO_B, 300)
    assert table.add(OTHER_HOST, (VTEP_B,), STATION_A, TO_A, 300)
    assert metrics.value("answered_full") == 1
    assert len(table) == 3
    table.close()


def test_room_shared_by_vpns() -> None:
    """Where the servers of all VPNs have no room left, one that has noted more than its own notes
    no more; what is taken back, has run out or was forgotten makes room."""
    clock, metrics = Clock(), Metrics()
    room = SharedRoom(metrics, "answers", own=1, shared=4)
    one, two = (Answered(clock, metrics, room=room) for _ in range(2))

    def note(table: Answered) -> list[bool]:
        stations = [bytes([2, 1, 0, 0, 0, number]) for number in range(4)]
        return [table.add(HOST, (VTEP_B,), station, TO_A, 300) for station in stations]

    assert note(one) == [True] * 3 + [False]
    assert note(two) == [True] * 2 + [False] * 2
    assert metrics.value("shared_room_full", what="answers") == metrics.value("answered_full") == 3
    assert len(one.take(HOST)) == 3
    assert room.free == 3
    assert one.add(HOST, (VTEP_B,), STATION_A, TO_A, 300)
    clock.advance(400)
    assert len(one) == len(two) == 0
    assert room.free == 4
    assert note(two) == [True] * 3 + [False]
    two.close()
    one.close()
    assert room.free == 4


# --- purges by clients ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (purge(), True),
        (purge(nbma=SITE_B), True),
        (purge(STATION_B), True),
        (purge(STATION_B, SITE_B), False),
        (purge(subaddress=encode_vni(100), nbma=SITE_A), True),
        (purge(subaddress=encode_vni(101)), False),
        (purge(protocol=STATION_B), False),
        (purge(flags=0x8000), True),
    ],
)
def test_who_may_purge_a_registration(world: World, request_: PurgeRequest, gone: bool) -> None:
    """Whoever registered it, by either address; a reply goes out whatever was removed."""
    world.register()
    assert world.server.packet_received(request_, Path(request_.source_nbma, HUB))
    assert (world.cache.lookup(STATION_A) is None) is gone
    replies = world.link.take()
    if request_.flags:
        assert replies == []
    else:
        (reply,) = replies
        assert isinstance(reply, PurgeReply)
        assert (reply.request_id, reply.cies) == (9, request_.cies)
    world.close()


def test_a_purge_of_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes several turns, in which others have theirs; who registers again meanwhile stays so,
    and another such purge meanwhile adds nothing."""
    monkeypatch.setattr(server_module, "ENDED_AT_ONCE", 10)
    monkeypatch.setattr(server_module, "MOST_DOOMED", 15)
    stations = [bytes([2, 1, 0, 0, 0, number]) for number in range(40)]
    for station in stations:
        world.register(station)
    request = purge(protocol=bytes([2, 0, 0, 0, 0, 0]))
    request.cies = (replace(request.cies[0], prefix_length=8),)
    for _ in range(3):
        assert world.server.packet_received(request, TO_A)
    assert world.cache.count(Kind.DYNAMIC) == 30
    assert world.metrics.value("drops", reason="purges_full") == 2
    world.register(stations[39])
    world.clock.advance(0)
    assert world.cache.count(Kind.DYNAMIC) == 1
    assert world.cache.lookup(stations[39]) is not None
    world.close()


def test_a_translated_client_purges_by_the_address_it_knows(world: World) -> None:
    """It does not know how it is seen from outside."""
    world.register(path=Path(OUTSIDE, HUB))
    request = purge(STATION_B)
    request.cies = (CIE(nbma=SITE_A, protocol=STATION_A),)
    world.server.packet_received(request, Path(OUTSIDE, HUB))
    assert len(world.cache) == 0
    world.close()


def test_configured_bindings_are_not_purged(world: World) -> None:
    """Only the operator removes them."""
    world.cache.put(binding(STATION_A, VTEP_A, Kind.STATIC, None))
    world.server.packet_received(purge(), TO_A)
    assert len(world.cache) == 1
    world.close()


def test_a_purge_for_somebody_else(world: World) -> None:
    """It is not ours to answer."""
    request = purge()
    request.destination_protocol = STATION_B
    assert not world.server.packet_received(request, TO_A)
    world.close()


# --- what is not a request --------------------------------------------------------------------


def test_errors_end_purges(world: World) -> None:
    """A client that cannot process our purge is not asked again."""
    world.learned()
    world.resolve()
    world.server.invalidate(HOST, "moved")
    indication = ErrorIndication(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HUB_MAC,
        code=ErrorCode.PROTOCOL_ERROR,
        contents=world.link.sent[0][0].encode(),
    )
    assert world.server.packet_received(indication, TO_A)
    assert not world.server.packet_received(indication, TO_A)
    assert len(world.requests) == 0
    world.close()


def test_anything_else_is_nothing_to_a_server(world: World) -> None:
    """Traffic Indications are for clients."""
    assert PacketType.TRAFFIC_INDICATION not in world.server.packet_types
    indication = TrafficIndication(
        source_nbma=HUB, source_protocol=HUB_MAC, destination_protocol=STATION_A
    )
    assert not world.server.packet_received(indication, TO_A)
    world.close()
