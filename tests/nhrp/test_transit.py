"""The transit server: what is passed on, what changes on the way, and what stops."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from dmevpn.addresses import DEFAULT_OUI, VTEP, Path, parse_ip
from dmevpn.interfaces import IStation
from dmevpn.metrics import Metrics
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.cache import Cache, Kind
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.extensions import (
    END,
    Authentication,
    Extension,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.link import MAX_PACKET
from dmevpn.nhrp.naming import Naming
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
    TrafficIndication,
    decode_payload,
)
from dmevpn.nhrp.peers import Peers
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.transit import Transit
from dmevpn.nhrp.wire import checksum
from tests.nhrp.neighbours import (
    HUB,
    SITE_A,
    SITE_B,
    TO_A,
    TO_B,
    Policy,
    Transport,
    binding,
    drops,
    outstanding,
)
from tests.vectors import VECTORS

SERVER = parse_ip("10.0.0.1")
A = parse_ip("10.0.0.10")
B = parse_ip("10.0.0.20")
#: Behind another server, at the end of a configured route.
FAR = parse_ip("10.9.0.1")
UPSTREAM = parse_ip("192.0.2.90")
SPARE = parse_ip("192.0.2.91")
FROM_UPSTREAM = Path(UPSTREAM, HUB)
ROUTES = PrefixTable([(parse_ip("10.9.0.0"), 16, UPSTREAM), (parse_ip("10.9.0.0"), 16, SPARE)])


class World:
    """A server of the default routing instance, as the vectors have it, that forwards."""

    def __init__(self, *, routes: PrefixTable[bytes] = ROUTES, secret: bytes | None = None) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.transport = Transport()
        self.cache = Cache(self.clock, self.metrics)
        peers = Peers(self.clock, self.metrics)
        self.speaker = Speaker(
            interface="gre1",
            transport=self.transport,
            clock=self.clock,
            metrics=self.metrics,
            peers=peers,
            naming=Naming(peers, oui=DEFAULT_OUI),
            authenticator=None if secret is None else CiscoAuthentication(secret),
        )
        self.speaker.start()
        link = self.speaker.link(None)
        identity = Identity(SERVER, 24, mtu=1400)
        self.server = NextHopServer(
            clock=self.clock,
            cache=self.cache,
            outstanding=outstanding(self.clock, self.metrics),
            link=link,
            policy=Policy(),
            find_mac={}.get,
            vpn=None,
            identity=identity,
            nat_detection=True,
            passes_on=(lambda protocol: True) if routes else None,
            metrics=self.metrics,
        )
        self.transit = Transit(
            identity=identity,
            cache=self.cache,
            link=link,
            routes=routes.longest,
            vpn="-",
            metrics=self.metrics,
        )
        # The speaker knows who comes last.
        self.speaker.attach(None, self.transit)
        self.speaker.attach(None, self.server)

    def register(self, protocol: bytes, path: Path) -> None:
        vtep = VTEP(path.peer, None)
        self.cache.put(binding(protocol, vtep, Kind.DYNAMIC, 600.0, path=path))

    def receive(self, packet: Packet | bytes, path: Path = TO_A) -> list[tuple[Any, Path]]:
        """What goes out for a packet, and where to."""
        self.transport.sent.clear()
        octets = packet if isinstance(packet, bytes) else packet.encode()
        self.speaker.datagrams_received(((octets, path),))
        return [(decode_payload(data)[1], way) for data, way in self.transport.sent]

    def error(self, packet: Packet | bytes, path: Path = TO_A) -> tuple[int, int, Path]:
        """Code, offset and way of the Error Indication that answers a packet."""
        ((indication, way),) = self.receive(packet, path)
        assert isinstance(indication, ErrorIndication)
        return indication.code, indication.offset, way

    def dropped(self) -> dict[str, int]:
        """What was discarded, by reason."""
        return drops(self.metrics)


def resolution(destination: bytes = FAR, **more: Any) -> ResolutionRequest:
    fields: dict[str, Any] = {
        "source_nbma": SITE_A,
        "source_protocol": A,
        "destination_protocol": destination,
        "protocol_type": 0x0800,
        "flags": 0xC000,
        "request_id": 5,
        "extensions": (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord()),
    }
    return ResolutionRequest(**fields | more)


def server_cie(protocol: bytes = SERVER, nbma: bytes = HUB) -> CIE:
    return CIE(mtu=1400, holding_time=7200, nbma=nbma, protocol=protocol)


@pytest.fixture
def world() -> World:
    return World()


def test_interface(world: World) -> None:
    """It can be attached to a speaker."""
    assert verifyObject(IStation, world.transit)


# --- the vectors ------------------------------------------------------------------------------


def test_a_request_is_passed_on() -> None:
    """F01 is V02, octet for octet: one hop less, and ourselves in the record."""
    world = World(routes=PrefixTable([(B, 32, SITE_B)]))
    world.receive(VECTORS["V02"].octets)
    assert world.transport.sent == [(VECTORS["F01"].octets, TO_B)]
    assert world.metrics.value("packets_forwarded", vpn="-") == 1


def test_a_reply_is_passed_on(world: World) -> None:
    """F02 is V32: it goes to the client that had asked."""
    world.register(A, TO_A)
    world.receive(VECTORS["V32"].octets, TO_B)
    assert world.transport.sent == [(VECTORS["F02"].octets, TO_A)]


@pytest.mark.parametrize("name", ["M18", "M19"])
def test_what_may_go_no_further(name: str) -> None:
    """A packet that has used up its hops, or has been here before, ends in an error."""
    vector = VECTORS[name]
    world = World(routes=PrefixTable([(B, 32, SITE_B)]))
    assert world.error(vector.octets) == (vector.code, vector.offset, TO_A)
    assert world.dropped() == {vector.counter: 1}


def test_unknown_compulsory_extensions_pass() -> None:
    """M15 for somebody else: unchanged but for the hop count, even if there is a record."""
    world = World(routes=PrefixTable([(B, 32, SITE_B)]))
    ((packet, _),) = world.receive(VECTORS["M15"].octets)
    before = decode_payload(VECTORS["M15"].octets)[1]
    assert packet.hop_count == before.hop_count - 1
    assert packet.extensions == before.extensions
    # Not even a loop is looked for by who stays out of the records.
    been_here = ForwardTransitRecord((server_cie(),))
    request = resolution(B, extensions=(been_here, Unknown(0x3802, True, b"x")))
    ((packet, way),) = world.receive(request)
    assert (packet.extensions, way) == (request.extensions, TO_B)


def test_an_unknown_compulsory_extension_for_us(world: World) -> None:
    """M15 for the responder: an error."""
    world.register(B, TO_B)
    assert world.error(VECTORS["M15"].octets) == (1, 44, TO_A)


# --- where to -----------------------------------------------------------------------------------


def test_the_preferred_server_and_never_back(world: World) -> None:
    """The first server of the route; the next one if the request comes from there."""
    assert world.receive(resolution())[0][1] == FROM_UPSTREAM
    assert world.receive(resolution(), FROM_UPSTREAM)[0][1] == Path(SPARE, HUB)
    only = World(routes=PrefixTable([(FAR, 16, UPSTREAM)]))
    code, _, way = only.error(resolution(), FROM_UPSTREAM)
    assert (code, way) == (ErrorCode.UNREACHABLE, FROM_UPSTREAM)


def test_a_client_is_reached_directly(world: World) -> None:
    """Also where a route points elsewhere, and at the address that it is seen at."""
    behind = Path(parse_ip("198.51.100.7"), HUB)
    world.register(FAR, behind)
    indication = TrafficIndication(
        source_nbma=SITE_A,
        source_protocol=A,
        destination_protocol=FAR,
        protocol_type=0x0800,
        contents=bytes(20),
    )
    ((packet, way),) = world.receive(indication)
    assert way == behind
    assert (packet.contents, packet.hop_count) == (indication.contents, 15)
    assert world.receive(indication, behind) == []
    assert world.dropped() == {"traffic_indication": 1}


def test_what_we_know_we_answer(world: World) -> None:
    """A registered address is not asked for elsewhere."""
    world.register(FAR, TO_B)
    ((reply, way),) = world.receive(resolution())
    assert isinstance(reply, ResolutionReply) and way == TO_A


def test_nobody_to_ask(world: World) -> None:
    """With an upstream, no route is error 6; without one, we know that there is no binding."""
    request = resolution(parse_ip("10.8.0.1"))
    assert world.error(request) == (6, request.destination_offset, TO_A)
    assert world.dropped() == {"unreachable": 1}
    ((reply, _),) = World(routes=PrefixTable()).receive(request)
    assert [cie.code for cie in reply.cies] == [12]


def test_registrations_and_purges_pass(world: World) -> None:
    """They name the server that they are for."""
    common: dict[str, Any] = {
        "source_nbma": SITE_A,
        "source_protocol": A,
        "destination_protocol": FAR,
        "protocol_type": 0x0800,
        "cies": (CIE(holding_time=600, protocol=A),),
        "extensions": (ForwardTransitRecord(),),
    }
    for request in (RegistrationRequest(**common), PurgeRequest(**common)):
        ((packet, way),) = world.receive(request)
        assert (way, packet.cies) == (FROM_UPSTREAM, request.cies)
        assert packet.extension(ForwardTransitRecord) == ForwardTransitRecord((server_cie(),))
    assert len(world.cache) == 0
    world.register(A, TO_A)
    common["extensions"] = (ReverseTransitRecord(),)
    for reply in (RegistrationReply(**common), PurgeReply(**common)):
        ((packet, way),) = world.receive(reply, FROM_UPSTREAM)
        assert way == TO_A
        assert packet.extension(ReverseTransitRecord) == ReverseTransitRecord((server_cie(),))


def test_our_own_is_not_passed_on(world: World) -> None:
    """What is for us is ours, be it welcome or not."""
    reply = resolution(source_protocol=SERVER, destination_protocol=FAR).reply()
    assert world.error(reply, FROM_UPSTREAM)[0] == ErrorCode.INVALID_REPLY


def test_replies_for_nobody_are_dropped(world: World) -> None:
    """Nobody is told: the one who answered has done nothing wrong."""
    assert world.receive(resolution(B).reply(), TO_B) == []
    assert world.receive(PurgeReply(**vars_of(resolution(B))), TO_B) == []
    assert world.dropped() == {"unsolicited_reply": 2}


def vars_of(packet: ResolutionRequest) -> dict[str, Any]:
    names = ("source_nbma", "source_protocol", "destination_protocol", "protocol_type")
    return {name: getattr(packet, name) for name in names}


def indication(**more: Any) -> ErrorIndication:
    fields: dict[str, Any] = {
        "source_nbma": UPSTREAM,
        "source_protocol": FAR,
        "destination_protocol": A,
        "protocol_type": 0x0800,
        "code": 6,
        "contents": resolution().encode(),
    }
    return ErrorIndication(**fields | more)


def test_errors_are_passed_on(world: World) -> None:
    """The client learns what became of its request; ours that come back end here."""
    world.register(A, TO_A)
    ((packet, way),) = world.receive(indication(), FROM_UPSTREAM)
    assert (way, packet.code, packet.contents) == (TO_A, 6, indication().contents)
    ours = indication(source_nbma=HUB, source_protocol=SERVER)
    assert world.receive(ours, FROM_UPSTREAM) == []
    assert world.receive(indication(destination_protocol=B), TO_A) == []
    assert world.dropped() == {"error_returned": 1, "error_unmatched": 1}


# --- errors find their way ------------------------------------------------------------------------


def test_a_client_is_told_directly(world: World) -> None:
    """An error about its request goes to it, wherever the request came from."""
    world.register(A, TO_A)
    request = resolution(extensions=(ForwardTransitRecord((server_cie(),)),))
    assert world.error(request, FROM_UPSTREAM) == (3, request.extensions_offset, TO_A)


def test_a_stranger_is_told_directly_if_others_forwarded(world: World) -> None:
    """The servers on the way know where the request goes, not where it came from."""
    request = resolution(hop_count=0, extensions=(ForwardTransitRecord((server_cie(B, SITE_B),)),))
    assert world.error(request, TO_B) == (15, 9, TO_A)
    request.extensions = (ForwardTransitRecord(),)
    assert world.error(request, TO_B) == (15, 9, TO_B), "else back to who sent it"


# --- what changes -------------------------------------------------------------------------------


@pytest.mark.parametrize("by_nbma", [False, True])
def test_loops(world: World, by_nbma: bool) -> None:
    """A server is known by its protocol address, or by its NBMA address if it gives no other."""
    ours = server_cie(b"") if by_nbma else server_cie(nbma=b"")
    request = resolution(extensions=(ForwardTransitRecord((server_cie(B, SITE_B), ours)),))
    assert world.error(request)[:2] == (3, request.extensions_offset)
    others = (server_cie(B, HUB), server_cie(b"", SITE_B))
    ((packet, _),) = world.receive(resolution(extensions=(ForwardTransitRecord(others),)))
    assert packet.extensions == (ForwardTransitRecord((*others, server_cie())),)


def test_an_answer_of_ours_comes_back(world: World) -> None:
    """A reply that names us as its responder has gone in a circle."""
    world.register(A, TO_A)
    reply = resolution(B).reply(extensions=(ResponderAddress((server_cie(),)),))
    assert world.error(reply, TO_B) == (3, reply.extensions_offset, TO_B)


def test_without_a_record_none_is_made(world: World) -> None:
    """We add to what is there."""
    for extensions in ((), (NATAddress(),)):
        ((packet, _),) = world.receive(resolution(extensions=extensions))
        assert packet.extensions == extensions


def test_all_else_stays(world: World) -> None:
    """Reserved bits, unknown flags and the order of the extensions are not ours to change."""
    extensions: tuple[Extension, ...] = (Unknown(0x3803, False, b"abc"), ReverseTransitRecord())
    request = resolution(flags=0xC7FF, extensions=extensions)
    request.cies = (CIE(prefix_length=24, unused=7, mtu=9, holding_time=3),)
    # A record whose header has the unused bit set, and not the compulsory one.
    before = bytearray(request.encode()[:-4] + b"\x40\x04\0\0" + END)
    before[10:12] = len(before).to_bytes(2, "big")
    before[12:14] = bytes(2)
    before[12:14] = checksum(bytes(before)).to_bytes(2, "big")
    world.receive(bytes(before))
    after = world.transport.sent[0][0]
    grown = server_cie().encode()
    assert after[16:-4] == bytes(before[16:-8]) + b"\x40\x04\0\x14" + grown
    assert (after[9], len(after)) == (15, len(before) + len(grown))


def test_authentication_is_made_anew_in_its_place() -> None:
    """It is between neighbours."""
    world = World(secret=b"ours")
    request = resolution(
        extensions=(ForwardTransitRecord(), Authentication(1, b"ours"), ReverseTransitRecord())
    )
    ((packet, _),) = world.receive(request)
    assert packet.extensions == (
        ForwardTransitRecord((server_cie(),)),
        Authentication(1, b"ours"),
        ReverseTransitRecord(),
    )


@pytest.mark.parametrize("recorded", [True, False])
def test_too_large(world: World, recorded: bool) -> None:
    """What would exceed the largest packet is refused, to the octet."""
    filling = MAX_PACKET - len(resolution(extensions=()).encode()) - 4
    extensions: tuple[Extension, ...] = ()
    if recorded:
        extensions = (ForwardTransitRecord(),)
        filling -= 4 + len(server_cie())
    fits = resolution(extensions=(*extensions, Unknown(0x3803, False, bytes(filling))))
    world.receive(fits)
    assert [len(data) for data, _ in world.transport.sent] == [MAX_PACKET]
    large = resolution(extensions=(*extensions, Unknown(0x3803, False, bytes(filling + 1))))
    assert world.error(large)[:2] == (8, 10)
    assert world.dropped() == {"too_large": 1}
    longest = ForwardTransitRecord((server_cie(B, SITE_B),) * 3000)
    assert world.error(resolution(extensions=(longest,)))[0] == 8
