"""The next hop server for IPv4 and IPv6 addresses: prefixes, several bindings, translation."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from dmevpn.addresses import VTEP, Path, parse_ip, parse_prefix
from dmevpn.metrics import Metrics
from dmevpn.nhrp import purge as purge_module
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.extensions import ForwardTransitRecord, NATAddress, ResponderAddress
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import PurgeRequest, RegistrationRequest, ResolutionRequest
from dmevpn.nhrp.prefixes import key_of
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.requests import protocol_type_of
from dmevpn.nhrp.server import NextHopServer
from tests.nhrp.neighbours import (
    HUB,
    SITE_A,
    SITE_B,
    TO_A,
    TO_B,
    Link,
    Policy,
    outstanding,
)
from tests.nhrp.speaking import SECRET
from tests.nhrp.speaking import World as Speaking
from tests.vectors import VECTORS

SERVER = parse_ip("10.0.0.1")
A = parse_ip("10.0.0.10")
B = parse_ip("10.0.0.20")
C = parse_ip("10.0.0.30")
SITE_C = parse_ip("192.0.2.30")
TO_C = Path(SITE_C, HUB)
OUTSIDE = parse_ip("198.51.100.7")
FAMILIES = {
    4: (SERVER, 24),
    16: (parse_ip("2001:db8:a::1"), 64),
}


class World:
    """A server with clients that the test plays."""

    def __init__(self, octets: int = 4, **options: Any) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.cache = Cache(self.clock, self.metrics)
        self.server = NextHopServer(
            clock=self.clock,
            cache=self.cache,
            outstanding=outstanding(self.clock, self.metrics),
            link=self.link,
            policy=Policy(),
            find_mac=lambda mac: None,
            identity=Identity(*FAMILIES[octets], mtu=1400),
            metrics=self.metrics,
            **{"vpn": None, "nat_detection": True} | options,
        )

    def register(
        self, *cies: CIE, station: bytes = A, path: Path = TO_A, **more: Any
    ) -> list[tuple[int, int]]:
        """Code and holding time for each CIE."""
        fields: dict[str, Any] = {
            "source_nbma": path.peer,
            "source_protocol": station,
            "destination_protocol": station,
            "protocol_type": protocol_type_of(station),
            "cies": cies or (CIE(holding_time=600),),
        }
        assert self.server.packet_received(RegistrationRequest(**fields | more), path)
        self.reply, self.way = self.link.sent.pop()
        return [(cie.code, cie.holding_time) for cie in self.reply.cies]  # type: ignore

    def network(self, text: str, station: bytes = A, path: Path = TO_A, **more: Any) -> int:
        """Register a network; the code."""
        protocol, length = parse_prefix(text)
        cie = CIE(prefix_length=length, holding_time=600, protocol=protocol, **more)
        return self.register(cie, station=station, path=path)[0][0]

    def resolve(
        self, text: str, station: bytes = C, path: Path = TO_C, prefix: int = 0, **more: Any
    ) -> list[CIE]:
        """The answer about an address."""
        fields: dict[str, Any] = {
            "source_nbma": path.peer,
            "source_protocol": station,
            "destination_protocol": parse_ip(text),
            "protocol_type": protocol_type_of(station),
            "flags": 0xC000,
            "cies": (CIE(prefix_length=prefix),),
        }
        assert self.server.packet_received(ResolutionRequest(**fields | more), path)
        self.reply, self.way = self.link.sent.pop()
        return list(self.reply.cies)  # type: ignore[attr-defined]

    def answer(self, text: str, **more: Any) -> tuple[int, int, bytes]:
        """Code, prefix length and NBMA address of the answer about an address."""
        (cie,) = self.resolve(text, **more)
        return cie.code, cie.prefix_length, cie.nbma

    def purge(self, *cies: CIE, station: bytes = A, path: Path = TO_A) -> None:
        request = PurgeRequest(
            source_nbma=path.peer,
            source_protocol=station,
            destination_protocol=SERVER,
            protocol_type=protocol_type_of(station),
            flags=0x8000,
            cies=cies,
        )
        assert self.server.packet_received(request, path)

    def told(self) -> set[tuple[bytes, bytes, int]]:
        """Who was told to forget what."""
        packets = [each for each in self.link.take() if isinstance(each, PurgeRequest)]
        return {
            (each.destination_protocol, cie.protocol, cie.prefix_length)
            for each in packets
            for cie in each.cies
        }


def cie(text: str, **more: Any) -> CIE:
    protocol, length = parse_prefix(text)
    return CIE(prefix_length=length, protocol=protocol, **more)


@pytest.fixture
def world() -> World:
    return World()


# --- registration -----------------------------------------------------------------------------


@pytest.mark.parametrize("octets", FAMILIES)
def test_a_client_learns_its_server(octets: int) -> None:
    """FRR's `nhs dynamic` names itself, and takes for its server whom the reply names."""
    world = World(octets)
    server, _ = FAMILIES[octets]
    station = server[:-1] + b"\x10"
    for asked in (station, server):
        assert world.register(station=station, destination_protocol=asked) == [(0, 600)]
        assert world.reply.destination_protocol == server


@pytest.mark.parametrize("octets", [4, 16])
def test_an_address(octets: int) -> None:
    """It is registered without a VNI, and answered."""
    world = World(octets)
    address, _ = FAMILIES[octets]
    station = address[:-1] + b"\x10"
    assert world.register(station=station) == [(0, 600)]
    request = ResolutionRequest(
        source_nbma=SITE_C,
        source_protocol=address[:-1] + b"\x30",
        destination_protocol=station,
        flags=0xC000,
    )
    world.server.packet_received(request, TO_C)
    (found,) = world.link.take()[-1].cies
    assert (found.nbma, found.protocol, found.prefix_length) == (SITE_A, station, 8 * octets)
    assert not world.server.packet_received(registration_of_a_mac(), TO_A), "not of our type"


def registration_of_a_mac() -> RegistrationRequest:
    mac = bytes.fromhex("02000000000a")
    return RegistrationRequest(
        source_nbma=SITE_A, source_protocol=mac, destination_protocol=mac, cies=(CIE(),)
    )


@pytest.mark.parametrize(
    ("destination", "ours"),
    [(SERVER, True), (parse_ip("10.0.0.255"), True), (A, True), (B, False)],
)
def test_who_is_asked(world: World, destination: bytes, ours: bool) -> None:
    """A client that does not know us asks the broadcast address, or itself."""
    request = RegistrationRequest(
        source_nbma=SITE_A,
        source_protocol=A,
        destination_protocol=destination,
        protocol_type=0x0800,
        hop_count=0,
        cies=(CIE(),),
    )
    assert world.server.packet_received(request, TO_A) is ours


@pytest.mark.parametrize(
    ("address", "length"), [("10.0.0.1", 31), ("10.0.0.1", 32), ("2001:db8::1", 64)]
)
def test_networks_without_broadcast(address: str, length: int) -> None:
    """Two stations have none, nor has IPv6."""
    identity = Identity(parse_ip(address), length, mtu=1400)
    assert identity.is_asked(parse_ip(address))
    assert not identity.is_asked(parse_ip("10.0.0.0")) and not identity.is_asked(b"\xff" * 4)


def test_several_addresses_of_ours() -> None:
    """All of them are ours, each with its network; the first one is what we call ourselves."""
    more = [(parse_ip("10.1.0.1"), 16)]
    identity = Identity(SERVER, 24, more, mtu=1400)
    assert identity.station == SERVER and identity.cie(HUB).protocol == SERVER
    for asked in ("10.0.0.1", "10.0.0.255", "10.1.0.1", "10.1.255.255"):
        assert identity.is_asked(parse_ip(asked))
    assert not identity.is_asked(parse_ip("10.1.0.255"))


def test_networks(world: World) -> None:
    """A registration may be about a prefix; what lies behind it does not count."""
    assert world.network("10.1.2.3/16") == 0
    found = world.cache.lookup(key_of(parse_ip("10.1.0.0"), 16))
    assert found is not None
    assert (found.protocol, found.bits, found.next_hop) == (parse_ip("10.1.0.0"), 16, A)
    assert world.network("10.1.0.0/16", B, TO_B) == 0, "the latest holds"
    assert len(world.cache) == 1


@pytest.mark.parametrize("prefix", [0, 32, 33, 0xFF])
def test_unique_means_one_address(world: World, prefix: int) -> None:
    """Every way to say "this address" is taken, a network is refused."""
    assert world.register(CIE(prefix_length=prefix), flags=0x8000)[0][0] == 0
    assert world.register(CIE(prefix_length=24), flags=0x8000)[0][0] == CIECode.PROHIBITED


def test_what_is_ours_or_configured_stays(world: World) -> None:
    """Nobody registers our address, or what the operator has placed."""
    static = Binding(B, VTEP(SITE_B, None), Kind.STATIC, 7200, None)
    world.cache.put(static)
    assert world.register(station=SERVER)[0][0] == CIECode.PROHIBITED
    assert world.register(station=B)[0][0] == CIECode.PROHIBITED
    assert list(world.cache.bindings()) == [static]


# --- resolution -------------------------------------------------------------------------------


def test_the_longest_prefix_answers(world: World) -> None:
    """As in a routing table; what is not covered has no binding."""
    world.network("10.0.0.0/8", A, TO_A)
    world.network("10.1.0.0/16", B, TO_B)
    world.register(station=C, path=TO_C)
    assert world.answer("10.1.2.3") == (0, 16, SITE_B)
    assert world.answer("10.128.0.1") == (0, 9, SITE_A), "as wide as may be"
    assert world.answer("10.2.0.1") == (0, 15, SITE_A)
    assert world.answer("10.0.0.30")[1:] == (32, SITE_C)
    assert world.answer("11.0.0.1")[0] == CIECode.NO_BINDING


def test_nothing_else_lies_in_the_prefix_of_an_answer(world: World) -> None:
    """Neighbours that live elsewhere make the answer narrower."""
    world.network("10.1.0.0/16")
    world.register(station=parse_ip("10.1.0.7"), path=TO_B)
    assert world.answer("10.1.0.6") == (0, 32, SITE_A)
    assert world.answer("10.1.0.4") == (0, 31, SITE_A)
    assert world.answer("10.1.0.8") == (0, 29, SITE_A)
    assert world.answer("10.1.128.1") == (0, 17, SITE_A)


def test_the_answer_about_a_prefix(world: World) -> None:
    """It names the station that leads there, and is not stable for each of the addresses."""
    world.network("10.1.0.0/16", A, mtu=1300, preference=3)
    (found,) = world.resolve("10.1.2.3")
    assert found == CIE(0, 16, 0, 1300, 600, SITE_A, b"", A, 3)
    assert self_flags(world) == 0xC000, "D is not set"
    world.register(station=B, path=TO_B)
    world.resolve("10.0.0.20")
    assert self_flags(world) == 0xE000


def self_flags(world: World) -> int:
    return world.reply.flags  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("asked", "answered"), [(0, 16), (0xFF, 16), (32, 16), (24, 24), (8, 16)])
def test_how_wide_an_answer_may_be(world: World, asked: int, answered: int) -> None:
    """A request may ask for a narrower prefix than there is."""
    world.network("10.1.0.0/16")
    assert world.answer("10.1.2.3", prefix=asked)[1] == answered


def test_no_answer_about_half_the_world(world: World) -> None:
    """Clients do not take one."""
    world.network("0.0.0.0/1")
    assert world.answer("10.1.2.3")[1] == 8


def test_a_unique_answer_is_about_one_address(world: World) -> None:
    """A network is not unique."""
    world.network("10.1.0.0/16")
    world.register(station=B, path=TO_B, flags=0x8000)
    assert world.answer("10.1.2.3", flags=0x1000)[0] == CIECode.NOT_UNIQUE
    assert world.answer("10.0.0.20", flags=0x1000) == (0, 32, SITE_B)


@pytest.mark.parametrize("path", [TO_C, Path(SITE_C, parse_ip("192.0.2.9"))])
def test_we_are_the_target_or_its_gateway(world: World, path: Path) -> None:
    """The answer is the NBMA address of ours that was asked."""
    network, length = parse_prefix("192.168.2.0/24")
    world.cache.put(Binding(SERVER, None, Kind.LOCAL, 7200, None))
    world.cache.put(
        Binding(network, None, Kind.LOCAL, 600, None, prefix_length=length, next_hop=SERVER)
    )
    (found,) = world.resolve("192.168.2.9", path=path)
    assert found == CIE(0, 24, 0, 1400, 600, path.local, b"", SERVER)
    (found,) = world.resolve("10.0.0.1", path=path)
    assert found == CIE(0, 32, 0, 1400, 7200, path.local, b"", SERVER)


def test_a_static_prefix(world: World) -> None:
    """The operator may place networks, too."""
    network, length = parse_prefix("10.1.0.0/16")
    world.cache.put(
        Binding(network, VTEP(SITE_B, None), Kind.STATIC, 300, None, prefix_length=length)
    )
    (found,) = world.resolve("10.1.2.3")
    assert (found.nbma, found.holding_time, found.prefix_length) == (SITE_B, 300, 16)


def test_answers_of_others_are_not_ours_to_give(world: World) -> None:
    """What a client in the same daemon has cached is not answered."""
    world.cache.put(Binding(B, VTEP(SITE_B, None), Kind.CACHED, 300, 300.0))
    assert world.answer("10.0.0.20")[0] == CIECode.NO_BINDING


# --- taking answers back ----------------------------------------------------------------------


def test_a_network_that_goes(world: World) -> None:
    """All answers about it are taken back, as the prefixes that they were."""
    world.network("10.1.0.0/16")
    world.network("10.2.0.0/16", B, TO_B)
    world.resolve("10.1.2.3")
    world.resolve("10.1.3.4", B, TO_B)
    world.resolve("10.2.0.1")
    world.purge(cie("10.1.0.0/16"))
    assert world.told() == {(C, parse_ip("10.1.0.0"), 16), (B, parse_ip("10.1.0.0"), 16)}


def test_a_network_that_moves(world: World) -> None:
    """Answers of before are wrong."""
    world.network("10.1.0.0/16")
    world.resolve("10.1.2.3", prefix=24)
    world.network("10.1.0.0/16", B, TO_B)
    assert world.told() == {(C, parse_ip("10.1.2.0"), 24)}


def test_a_station_within_a_network(world: World) -> None:
    """Once it registers elsewhere, the answer about the network is no longer wholly true."""
    world.network("10.1.0.0/16")
    world.resolve("10.1.2.3")
    world.resolve("10.2.0.1")
    world.register(station=parse_ip("10.1.9.9"), path=TO_B)
    assert world.told() == {(C, parse_ip("10.1.0.0"), 16)}
    world.register(station=parse_ip("10.1.9.9"), path=TO_B)
    assert world.told() == set(), "a renewal changes nothing"


def test_a_network_within_a_network(world: World) -> None:
    """Answers from the wider one about what is in the narrower one now are taken back."""
    world.network("10.0.0.0/8")
    world.network("10.1.4.0/24", B, TO_B)
    world.resolve("10.1.2.3", prefix=24)
    world.resolve("10.9.0.1", prefix=24)
    world.resolve("10.1.4.1")
    world.network("10.1.0.0/16", C, TO_C)
    assert world.told() == {(C, parse_ip("10.1.2.0"), 24)}


# --- purges by clients ------------------------------------------------------------------------


def test_a_purge_of_a_set(world: World) -> None:
    """Everything that the client has in it is gone, and nothing of anybody else."""
    for last in (10, 11, 12):
        world.register(station=parse_ip(f"10.0.0.{last}"))
    world.register(station=parse_ip("10.9.0.1"))
    world.network("10.0.0.128/25")
    world.register(station=B, path=TO_B)
    world.purge(cie("10.0.0.0/24"))
    left = {each.protocol for each in world.cache.bindings()}
    assert left == {B, parse_ip("10.9.0.1")}
    world.purge(cie("10.9.0.0/24", nbma=SITE_B), cie("10.9.0.0/24", subaddress=encode_vni(5)))
    assert len(world.cache) == 2, "narrowed to another place"
    world.purge(cie("10.9.0.0/24", nbma=SITE_A))
    assert len(world.cache) == 1


def test_a_station_that_has_moved_purges_its_old_binding(world: World) -> None:
    """It is known by its protocol address."""
    world.register(station=A, path=TO_A)
    world.purge(cie("10.0.0.0/24"), path=TO_B)
    assert len(world.cache) == 0


def test_a_set_narrower_than_the_binding(world: World) -> None:
    """A network does not lie in a part of it."""
    world.network("10.1.0.0/16")
    world.purge(cie("10.1.2.0/24"), cie("10.1.2.3"))
    assert len(world.cache) == 1


def test_a_purge_costs_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers very many addresses cannot keep us busy with sets."""
    monkeypatch.setattr(purge_module, "_COMPARISONS", 10)
    world = World()
    for last in range(100, 120):
        world.register(station=parse_ip(f"10.0.0.{last}"))
    world.purge(cie("10.9.0.0/24"), cie("10.0.0.0/24"))
    assert len(world.cache) == 20
    world.purge(cie("10.0.0.0/24"))
    assert len(world.cache) == 10
    left = str(ip_address(next(world.cache.bindings()).protocol))
    world.purge(cie(left), cie(left))
    assert len(world.cache) == 9


# --- several bindings of one address ----------------------------------------------------------


def multi() -> World:
    world = World(multi_binding=True)
    world.register(CIE(holding_time=600, preference=1), station=B, path=TO_A)
    world.register(CIE(holding_time=300, preference=9), station=B, path=TO_B)
    return world


def test_several_bindings_are_named_best_first() -> None:
    """With multi-binding all of them are the answer; without, the latest."""
    world = multi()
    found = world.resolve("10.0.0.20")
    assert [(each.nbma, each.preference, each.holding_time) for each in found] == [
        (SITE_B, 9, 300),
        (SITE_A, 1, 600),
    ]
    assert len(world.cache) == 2
    single = World()
    single.register(station=B, path=TO_A)
    single.register(station=B, path=TO_B)
    assert single.answer("10.0.0.20") == (0, 32, SITE_B)


def test_one_of_several_goes() -> None:
    """Whoever knows it is told, and the others stay."""
    world = multi()
    world.resolve("10.0.0.20")
    world.purge(cie("10.0.0.20", nbma=SITE_A), station=B, path=TO_A)
    assert world.told() == {(C, B, 32)}
    assert world.answer("10.0.0.20") == (0, 32, SITE_B)
    world.clock.advance(300)
    assert world.answer("10.0.0.20")[0] == CIECode.NO_BINDING


def test_one_more_is_no_reason_to_take_back_anything() -> None:
    """What was said before is still true; who asks again learns more."""
    world = multi()
    world.resolve("10.0.0.20")
    world.register(station=B, path=TO_C)
    assert world.told() == set()
    assert len(world.resolve("10.0.0.20")) == 3
    assert world.told() == set()
    world.purge(cie("10.0.0.20", nbma=SITE_C), station=B, path=TO_C)
    assert world.told() == {(C, B, 32)}


def test_a_unique_binding_has_no_other_beside_it() -> None:
    """It replaces those that are there, and protects itself."""
    world = multi()
    assert world.register(station=B, path=TO_C, flags=0x8000) == [(0, 600)]
    code, _ = world.register(station=B, path=TO_A)[0]
    assert code == CIECode.ALREADY_REGISTERED
    assert world.answer("10.0.0.20") == (0, 32, SITE_C)


def test_those_of_another_underlay_family_are_left_out() -> None:
    """A requester can use addresses of its own family only."""
    world = multi()
    outside = parse_ip("2001:db8:ffff::20")
    request = RegistrationRequest(
        source_nbma=outside,
        source_protocol=B,
        destination_protocol=B,
        protocol_type=0x0800,
        cies=(CIE(holding_time=60, preference=20),),
    )
    world.server.packet_received(request, Path(outside, parse_ip("2001:db8:ffff::1")))
    assert [each.nbma for each in world.resolve("10.0.0.20")] == [SITE_B, SITE_A]
    assert world.told() == set()


# --- address translation ------------------------------------------------------------------------


def test_vectors_v05_and_v06() -> None:
    """A client behind a translation is told by which address it is seen, octet for octet."""
    world = Speaking(secret=SECRET)
    cache = world.serve(None, SERVER, mtu=1400)
    (reply,) = world.receive(VECTORS["V05"].octets, Path(OUTSIDE, HUB))
    assert reply == VECTORS["V06"].octets
    found = cache.lookup(A)
    assert found is not None
    assert (found.vtep, found.claimed, found.nat) == (VTEP(OUTSIDE, None), SITE_A, True)


ASKING = (NATAddress((CIE(prefix_length=32, mtu=1400, nbma=HUB, protocol=SERVER),)),)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (TO_A, {}),
        (Path(OUTSIDE, HUB), {"flags": 0}),
        (
            Path(OUTSIDE, HUB),
            {"extensions": (ForwardTransitRecord((CIE(nbma=SITE_B, protocol=B),)), *ASKING)},
        ),
    ],
)
def test_nothing_is_added(world: World, path: Path, more: Any) -> None:
    """Not without translation, not unasked, and not if other servers stand in between."""
    fields: dict[str, Any] = {"flags": 2, "source_nbma": SITE_A, "extensions": ASKING}
    world.register(path=path, **fields | more)
    assert world.reply.extension(NATAddress) == ASKING[0]


def test_an_answer_names_the_translated_address(world: World) -> None:
    """In the CIE, and once more in the extension for those who look there."""
    world.register(path=Path(OUTSIDE, HUB), source_nbma=SITE_A)
    world.register(station=B, path=TO_B)
    mine = NATAddress((CIE(prefix_length=32, nbma=OUTSIDE, protocol=C),))
    more: dict[str, Any] = {"flags": 0xC002, "extensions": (ResponderAddress(), mine)}
    (found,) = world.resolve("10.0.0.10", **more)
    assert found.nbma == OUTSIDE
    said = world.reply.extension(NATAddress)
    assert said is not None
    (seen,) = said.cies
    assert (seen.nbma, seen.protocol, seen.holding_time) == (OUTSIDE, A, 0)
    for text in ("10.0.0.20", "10.0.0.99"):
        world.resolve(text, **more)
        assert world.reply.extension(NATAddress) == NATAddress(), "never the requester's own"


def test_behind_other_servers_a_requester_is_where_it_is_seen(world: World) -> None:
    """As it says itself, or as it is registered with us."""
    record = ForwardTransitRecord((CIE(nbma=SITE_B, protocol=B),))
    seen = NATAddress((CIE(prefix_length=32, nbma=OUTSIDE, protocol=C),))
    world.resolve("10.0.0.99", path=TO_C, extensions=(record, seen), flags=0xC002)
    assert world.way == Path(OUTSIDE, HUB)
    registered = Path(parse_ip("198.51.100.9"), HUB)
    world.register(station=C, path=registered, source_nbma=SITE_C)
    world.resolve("10.0.0.99", path=TO_C, extensions=(record, seen), flags=0xC002)
    assert world.way == registered


def test_two_stations_behind_one_address(world: World) -> None:
    """Without VNIs they cannot be told apart: the second is refused, and the log names both."""
    behind = Path(OUTSIDE, HUB)
    assert world.register(station=A, path=behind, source_nbma=SITE_A)[0][0] == 0
    with capturedLogs() as logs:
        assert world.register(station=B, path=behind, source_nbma=SITE_B) == [(4, 0)]
    event = next(each for each in logs if "give each site" in each["log_format"])
    assert (event["station"], event["claimed"]) == ("10.0.0.20", "192.0.2.20")
    assert (event["other"], event["other_claimed"]) == ("10.0.0.10", "192.0.2.10")
    assert world.metrics.value("drops", reason="nat_conflict") == 1
    assert world.register(station=C, path=behind, source_nbma=SITE_A)[0][0] == 0, "the same site"
    assert world.register(station=A, path=behind, source_nbma=SITE_C)[0][0] == 0, "a renewal"
    assert world.register(station=B, path=behind, source_nbma=OUTSIDE)[0][0] == 4, "the box itself"
    world.clock.advance(600)
    assert world.register(station=B, path=behind, source_nbma=SITE_B)[0][0] == 0


def test_vnis_tell_stations_apart(world: World) -> None:
    """Each with its own VNI, two sites behind one address are two places."""
    behind = Path(OUTSIDE, HUB)
    for station, nbma, vni in ((A, SITE_A, 100), (B, SITE_B, 200)):
        more: dict[str, Any] = {"source_nbma": nbma, "source_subaddress": encode_vni(vni)}
        assert world.register(station=station, path=behind, **more)[0][0] == 0
    assert [each.subaddress for each in world.resolve("10.0.0.10")] == [encode_vni(100)]
    assert [each.subaddress for each in world.resolve("10.0.0.20")] == [encode_vni(200)]
