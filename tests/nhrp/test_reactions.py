"""Every protocol vector, and what comes of it: through a real speaker, server or client.

A vector without a scene of its own fails here. The faulty ones change no table, whoever gets them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from zope.interface import implementer

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, Path, parse_ip
from dmevpn.interfaces import IStation
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import CIECode, PacketType
from dmevpn.nhrp.encapsulation import Form, decapsulate
from dmevpn.nhrp.extensions import ResponderAddress
from dmevpn.nhrp.indication import SOURCE_BURST, SOURCE_RATE, TOTAL_RATE, embedded
from dmevpn.nhrp.keyed import Key, KeyedAuthentication
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    RequestOrReply,
    ResolutionReply,
    decode_payload,
)
from dmevpn.nhrp.peers import peer_of
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.records import decode_vni
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.requests import Outstanding, RequestIDs
from dmevpn.nhrp.resolution import ResolutionClient
from dmevpn.nhrp.server import NextHopServer
from dmevpn.transport import gre
from dmevpn.transport.memory import MemoryNetwork, MemoryTransport
from tests.layer3 import Layer3World
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_A,
    SITE_B,
    STATION_A,
    TO_A,
    TO_B,
    VPN7,
    VTEP_B,
    IDStore,
    binding,
    no_jitter,
)
from tests.nhrp.speaking import CLIENT_IP, HUB_IP, SECRET, World, octets
from tests.vectors import VECTORS, Vector

TARGET_IP = parse_ip("10.0.0.20")
HUB_IP6, CLIENT_IP6 = parse_ip("2001:db8:a::1"), parse_ip("2001:db8:a::10")
OUTSIDE = parse_ip("198.51.100.7")
#: Where the answers of the vectors say that things are.
AT_B = VTEP(SITE_B, None)
HOLDING_TIME = 600


@implementer(IStation)
class Client:
    """A station that asks and registers, in the VPN and with the addresses of a vector.

    Its next request has the identifier that the vector answers.
    """

    packet_types = frozenset(
        {
            PacketType.RESOLUTION_REPLY,
            PacketType.REGISTRATION_REPLY,
            PacketType.PURGE_REQUEST,
            PacketType.PURGE_REPLY,
            PacketType.ERROR_INDICATION,
        }
    )

    def __init__(
        self, world: World, vpn_id: VPNID | None, station: bytes, vtep: VTEP, request_id: int = 1
    ) -> None:
        self.world = world
        self.station = station
        self.path = Path(HUB if len(vtep.nbma) == 4 else bytes(15) + b"\1", vtep.nbma)
        self.cache = Cache(world.clock, world.metrics)
        ids = RequestIDs(IDStore(request_id))
        self.outstanding = Outstanding(world.clock, no_jitter, ids, world.metrics)
        link = world.speaker.attach(vpn_id, self)
        common: Any = {
            "clock": world.clock,
            "jitter": no_jitter,
            "outstanding": self.outstanding,
            "link": link,
            "station": station,
            "mtu": 1400,
            "metrics": world.metrics,
        }
        self.resolution = ResolutionClient(
            cache=self.cache,
            vni=vtep.vni,
            servers=lambda protocol: self.path,
            on_renewal_due=lambda protocol: None,
            **common,
        )
        self.registration = RegistrationClient(
            path=self.path,
            vtep=vtep,
            holding_time=HOLDING_TIME,
            on_change=lambda client, old, new: None,
            **common,
        )

    def packet_received(self, packet: Packet, path: Path) -> bool:
        if isinstance(packet, PurgeRequest):
            return self.resolution.purge_received(packet, path)
        return self.outstanding.reply_received(packet, path)

    def receive(self, data: bytes) -> list[bytes]:
        """What it sends for a payload of its server."""
        return self.world.receive(data, self.path)

    def found(self, protocol: bytes) -> Binding | None:
        """What it knows of an address, the one under way not counted."""
        known = self.cache.lookup(protocol)
        return None if known is None or known.kind is Kind.INCOMPLETE else known


# --- scenes -------------------------------------------------------------------------------------


def hub(secret: bytes | None = None, **options: Any) -> World:
    """A server of MACs, IPv4 and IPv6 in no VPN, and of MACs in VPN 7; B is registered."""
    world = World(secret=secret, **options)
    world.serve(None, HUB_MAC)
    cache = world.serve(None, HUB_IP, mtu=1400)
    cache.put(binding(TARGET_IP, AT_B, Kind.DYNAMIC, 3601.5, path=TO_B))
    world.serve(None, HUB_IP6, mtu=1400)
    world.serve(VPN7)
    return world


def asking(vector: Vector) -> Client:
    """A client that has sent the request which the vector answers."""
    encapsulation, packet = decode_payload(vector.octets)
    if isinstance(packet, ErrorIndication):
        about = embedded(packet)
        assert about is not None
        packet = about
    assert isinstance(packet, RequestOrReply)
    station = packet.source_protocol
    # The original daemon gives the answer's VNI in the place of the requester's.
    vni = 100 if encapsulation.form in LEGACY else decode_vni(packet.source_subaddress, Form.RFC)
    world = World()
    if encapsulation.form in LEGACY:
        world.speaker.peers.claim("test", {HUB: peer_of("legacy")})
    client = Client(
        world, encapsulation.vpn_id, station, VTEP(packet.source_nbma, vni), packet.request_id
    )
    if packet.packet_type in (PacketType.REGISTRATION_REQUEST, PacketType.REGISTRATION_REPLY):
        client.registration.start()
    else:
        client.resolution.resolve(packet.destination_protocol)
    return client


LEGACY = (Form.LEGACY_LITTLE, Form.LEGACY_BIG)


def answered(
    vector: Vector, world: World | None = None, path: Path = TO_A
) -> tuple[World, RequestOrReply]:
    """The reply of a hub, in form and VPN of the request, with its addresses and extensions."""
    world = world or hub()
    (data,) = world.receive(vector.octets, path)
    asked, request = decode_payload(vector.octets)
    encapsulation, reply = decode_payload(data)
    assert (encapsulation.form, encapsulation.vpn_id) == (asked.form, asked.vpn_id)
    assert isinstance(request, RequestOrReply) and isinstance(reply, RequestOrReply)
    assert reply.packet_type == request.packet_type + 1
    for name in ("request_id", "source_nbma", "source_protocol", "destination_protocol"):
        assert getattr(reply, name) == getattr(request, name)
    assert (reply.protocol_type, reply.snap) == (request.protocol_type, request.snap)
    theirs = [each for each in reply.extensions if not isinstance(each, ResponderAddress)]
    ours = [each for each in request.extensions if not isinstance(each, ResponderAddress)]
    assert [each.type for each in theirs] == [each.type for each in ours]
    assert world.dropped() == {}
    return world, reply


def finds_target(vector: Vector) -> None:
    """A resolution of 10.0.0.20 is answered; nothing is cached from the request."""
    world, reply = answered(vector)
    (cie,) = reply.cies
    assert (cie.code, cie.nbma, cie.protocol, cie.holding_time) == (0, SITE_B, TARGET_IP, 3601)
    assert world.caches[None, HUB_IP].lookup(CLIENT_IP) is None
    _, request = decode_payload(vector.octets)
    if vector.id in ("V15", "M27"):
        # What we do not know comes back as it was.
        rest = [each for each in reply.extensions if not isinstance(each, ResponderAddress)]
        theirs = [each for each in request.extensions if not isinstance(each, ResponderAddress)]
        assert rest == theirs != []


def finds_host(vector: Vector) -> None:
    """A resolution of a MAC is answered from the switch."""
    _, reply = answered(vector)
    (cie,) = reply.cies
    assert (cie.code, cie.nbma, cie.protocol) == (0, SITE_B, HOST)
    in_header = decapsulate(vector.octets, DEFAULT_OUI).form in LEGACY
    order = "little" if in_header else "big"
    place = reply.source_subaddress if in_header else cie.subaddress
    assert int.from_bytes(place, order) == VTEP_B.vni  # type: ignore[arg-type]


def exactly(name: str) -> Callable[[Vector], None]:
    """The answer of a hub is a vector itself."""

    def check(vector: Vector) -> None:
        world = hub()
        cache = world.caches[None, HUB_IP]
        cache.put(binding(CLIENT_IP, VTEP(SITE_A, None), Kind.DYNAMIC))
        cache = world.caches[None, HUB_MAC]
        cache.put(binding(HOST, VTEP_B, Kind.DYNAMIC, 540.5, mtu=1450))
        assert world.receive(vector.octets) == [octets(name)]
        if vector.id == "V08":
            assert world.caches[None, HUB_IP].lookup(CLIENT_IP) is None

    return check


def registers(
    vpn: VPNID | None,
    server: bytes,
    station: bytes,
    vni: int | None,
    holding_time: int = 600,
    world: World | None = None,
) -> Callable[[Vector], None]:
    """A registration is accepted."""

    def check(vector: Vector) -> None:
        server_world = world or hub(SECRET if vector.id == "V05" else None)
        _, reply = answered(vector, server_world)
        assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(0, holding_time)]
        found = server_world.caches[vpn, server].lookup(station)
        assert found is not None and found.vtep == VTEP(SITE_A, vni)
        assert found.expires == holding_time and found.unique

    return check


def is_signed(vector: Vector) -> None:
    """A keyed hash that is right; with one bit of the packet changed it is not."""
    key = Key(256, "hmac-md5", b"dmevpn-test-key!")
    world = hub()
    world.speaker.authenticator = KeyedAuthentication(key)
    registers(None, HUB_IP, CLIENT_IP, None, world=world)(vector)
    packet = decode_payload(vector.octets)[1]
    assert isinstance(packet, RegistrationRequest)
    before = tables(world)
    (data,) = world.receive(replace(packet, request_id=packet.request_id + 1).encode())
    indication = decode_payload(data)[1]
    assert isinstance(indication, ErrorIndication) and indication.code == 11
    assert tables(world) == before


def is_translated(vector: Vector) -> None:
    """Registered where it is; and from behind an address translation, exactly V06 tells it."""
    registers(None, HUB_IP, CLIENT_IP, None)(vector)
    world = hub(SECRET)
    assert world.receive(vector.octets, Path(OUTSIDE, HUB)) == [octets("V06")]
    found = world.caches[None, HUB_IP].lookup(CLIENT_IP)
    assert found is not None and found.vtep == VTEP(OUTSIDE, None)
    assert found.nat and found.claimed == SITE_A


def registers_three(vector: Vector) -> None:
    """Three MACs, each with its VTEP and holding time."""
    world, reply = answered(vector)
    assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(0, 600), (0, 600), (0, 300)]
    cache = world.caches[None, HUB_MAC]
    found = [cache.lookup(cie.protocol) for cie in reply.cies]
    assert [each and each.vtep for each in found] == [
        VTEP(SITE_A, 100),
        VTEP(SITE_A, 100),
        VTEP(OUTSIDE, 70000),
    ]


def learns(target: bytes, vtep: VTEP, holding_time: int) -> Callable[[Vector], None]:
    """A positive answer is cached."""

    def check(vector: Vector) -> None:
        client = asking(vector)
        assert client.receive(vector.octets) == []
        found = client.found(target)
        assert found is not None
        assert (found.kind, found.vtep, found.expires) == (Kind.CACHED, vtep, holding_time)
        assert client.world.dropped() == {}

    return check


def learns_that_there_is_none(vector: Vector) -> None:
    """A refusal or an Error Indication is remembered for 180 s."""
    client = asking(vector)
    assert client.receive(vector.octets) == []
    found = client.found(TARGET_IP)
    assert found is not None and (found.kind, found.expires) == (Kind.NEGATIVE, 180)
    assert len(client.outstanding) == 0 and client.world.dropped() == {}


def is_registered(vector: Vector) -> None:
    """And renews after a third of the time granted, or a little earlier."""
    client = asking(vector)
    assert client.receive(vector.octets) == []
    assert client.registration.state is State.REGISTERED
    assert client.registration.renew_at is not None
    assert 180 <= client.registration.renew_at <= 200


def is_refused(vector: Vector) -> None:
    """Code 14: the old registration is purged, and it is tried once more."""
    client = asking(vector)
    (purge,) = [decode_payload(data)[1] for data in client.receive(vector.octets)]
    assert isinstance(purge, PurgeRequest)
    assert not client.registration.usable
    assert client.registration.renew_at == 2


def is_not_served(vector: Vector) -> None:
    """Error 17 about the first registration: refused, and tried again after 600 s."""
    client = asking(vector)
    assert client.receive(vector.octets) == []
    assert client.registration.state is State.REFUSED
    assert client.registration.renew_at == 600.0


def ends_a_purge(vector: Vector) -> None:
    """The reply to a purge of ours ends its repetition."""
    request = decode_payload(octets("V08"))[1]
    assert isinstance(request, PurgeRequest)
    client = Client(World(), None, CLIENT_IP, VTEP(SITE_A, None), request.request_id)
    link = client.world.speaker.link(None)
    client.outstanding.send(
        lambda request_id: replace(request, request_id=request_id), link, client.path, delays=[9.0]
    )
    assert client.receive(vector.octets) == []
    assert len(client.outstanding) == 0


def purges(gone: Iterable[bytes], stays: Iterable[bytes], *, reply: bool) -> Callable[..., None]:
    """Cached answers go, others stay."""

    def check(vector: Vector) -> None:
        _, packet = decode_payload(vector.octets)
        width = len(packet.source_protocol)
        station = CLIENT_IP if width == 4 else STATION_A
        vni = None if width == 4 else 100
        client = Client(World(), None, station, VTEP(SITE_A, vni))
        for protocol in (*gone, *stays):
            vtep = AT_B if width == 4 else VTEP_B
            client.cache.put(binding(protocol, vtep, Kind.CACHED, 99.0))
        sent = client.receive(vector.octets)
        assert [client.found(each) for each in gone] == [None for _ in gone]
        assert all(client.found(each) for each in stays)
        assert [type(decode_payload(data)[1]) for data in sent] == [PurgeReply] * reply

    return check


def is_narrowed(vector: Vector) -> None:
    """A purge for one VTEP leaves an address alone that is at another."""
    purges([HOST], [OTHER_HOST], reply=True)(vector)
    client = Client(World(), None, STATION_A, VTEP(SITE_A, 100))
    client.cache.put(binding(HOST, VTEP(SITE_B, 201), Kind.CACHED, 99.0))
    assert len(client.receive(vector.octets)) == 1
    assert client.found(HOST) is not None


def purges_nothing(vector: Vector) -> None:
    """A purge without CIEs is answered."""
    world, reply = answered(vector)
    assert isinstance(reply, PurgeReply) and reply.cies == ()
    assert world.caches[None, HUB_IP].lookup(TARGET_IP) is not None


def is_redirected(vector: Vector) -> None:
    """A detour makes a client ask for the direct way, if shortcuts are on."""
    secret = "cisco-authentication secret" if vector.id == "V14" else ""
    for shortcut in ("shortcut", ""):
        world = Layer3World()
        world.add("192.0.2.1", f"transport raw protocol-address 10.0.0.1/24 {secret}")
        client = world.add(
            "192.0.2.10",
            "transport raw protocol-address 10.0.0.10/24 map 10.0.0.1/24 192.0.2.1 register"
            f" {secret} {shortcut}",
        )
        world.run(1)
        world.network.transmit(HUB, SITE_A, gre.encode(vector.octets, None))
        world.run(0.5)
        asked = [] if client.known("10.0.0.20") is None else [TARGET_IP]
        assert asked == ([TARGET_IP] if shortcut else [])
        assert client.metrics.value("resolutions_asked") == len(asked)


def keeps_a_spare(vector: Vector) -> None:
    """The best of two next hops is used."""
    learns(HOST, VTEP_B, 540)(vector)


def is_what_we_pass_on(name: str, source: Path, way: Path) -> Callable[[Vector], None]:
    """A vector is exactly what goes on for another one at the server between A and B."""

    def check(vector: Vector) -> None:
        world = transit()
        assert world.receive(octets(name), source) == [vector.octets]
        assert world.transport.sent[0][1] == way

    return check


def passes_on(vector: Vector) -> None:
    """The server between A and B sends something on for it."""
    world = transit()
    (data,) = world.receive(vector.octets, TO_B)
    assert world.transport.sent[0][1] == TO_A
    assert data == octets("F02")


def transit() -> World:
    """A server between its client A and B, which is a server itself."""
    world = World()
    cache = world.serve(None, HUB_IP, mtu=1400, routes=PrefixTable([(TARGET_IP, 32, SITE_B)]))
    cache.put(binding(CLIENT_IP, VTEP(SITE_A, None), Kind.DYNAMIC, 600.0, path=TO_A))
    return world


# --- below NHRP ---------------------------------------------------------------------------------


def carried(key: int | None = None) -> Callable[[Vector], None]:
    """A GRE packet gets as far as the speaker, or is dropped under its name."""

    def check(vector: Vector) -> None:
        world = hub()
        metrics = Metrics()
        transport = MemoryTransport(MemoryNetwork(world.clock, no_jitter), metrics, [HUB], key)
        transport.start(world.speaker)
        packet = vector.octets
        if vector.layer == "ipv4":
            packet = packet[4 * (packet[0] & 15) :]
        transport.packets_received(((packet, SITE_A, HUB),))
        counted = {
            labels[0][1]: value
            for name, labels, _, value in metrics.snapshot()
            if name == "dmevpn_drops_total" and value
        }
        if vector.counter is None:
            assert counted == {} and len(world.transport.sent) == 1
            answer = decode_payload(world.transport.sent[0][0])[1]
            assert isinstance(answer, ResolutionReply | RegistrationReply | PurgeReply)
        else:
            assert counted == {vector.counter: 1} and world.transport.sent == []

    return check


# --- faults -------------------------------------------------------------------------------------


def tables(world: World) -> list[object]:
    """Everything that a packet might change."""
    servers = [
        station
        for vpn in world.speaker._vpns.values()
        for station in vpn.stations
        if isinstance(station, NextHopServer)
    ]
    return [
        {key: list(cache.bindings()) for key, cache in world.caches.items()},
        [sorted(server.answered()) for server in servers],
        [len(server._outstanding) for server in servers],
        dict(world.speaker.peers._known),
        world.clock.getDelayedCalls(),
    ]


def fault(make: Callable[[], World] = hub) -> Callable[[Vector], None]:
    """A faulty packet is counted under its name, gets the error it deserves, changes nothing."""

    def check(vector: Vector) -> None:
        world = make()
        before = tables(world)
        sent = world.receive(vector.octets)
        assert world.dropped() == {vector.counter: 1}
        assert tables(world) == before
        if vector.code is None:
            assert sent == []
            return
        # By hand: an error about a protocol type that we do not know is of that type, too.
        (data,) = sent
        data = data[decapsulate(data, DEFAULT_OUI).offset :]
        assert data[17] == PacketType.ERROR_INDICATION
        assert struct.unpack("!HH", data[24:28]) == (vector.code, vector.offset)

    return check


def nak(vector: Vector) -> None:
    """A registration that cannot be used is refused with code 4, and counted."""
    world = hub()
    before = tables(world)
    (data,) = world.receive(vector.octets)
    reply = decode_payload(data)[1]
    assert isinstance(reply, RegistrationReply)
    assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(CIECode.PROHIBITED, 0)]
    assert world.dropped() == {vector.counter: 1}
    assert tables(world) == before


def secretive() -> World:
    return hub(SECRET)


def bound_to_vpn_7() -> World:
    """The path of client A is configured for VPN 7."""
    world = hub()
    world.speaker.peers.claim("test", {SITE_A: peer_of("rfc", VPN7)})
    return world


def waiting() -> World:
    """A client that waits for something else than the vector."""
    world = hub()
    Client(world, None, CLIENT_IP, VTEP(SITE_A, None))
    return world


#: What any hub refuses.
FAULTS = [
    "P05",
    "P08",
    "P09",
    "L07",
    "M01",
    "M02",
    "M03",
    "M04",
    "M05",
    "M06",
    "M07",
    "M08",
    "M09",
    "M10",
    "M11",
    "M12",
    "M13",
    "M14",
    "M15",
    "M16",
    "M17",
    "M20",
    "M26",
    "M29",
    "M30",
    "M31",
    "M32",
    "M33",
    "M34",
    "M35",
]

SCENES: dict[str, Callable[[Vector], None]] = {
    **{name: fault() for name in FAULTS},
    **{name: finds_target for name in ["V01", "V02", "V15", "V25", "V27", "V28", "V31", "M27"]},
    **{name: carried() for name in ["G01", "G04", "G05", "G06", "G07", "G08", "G09"]},
    **{name: carried(1000) for name in ["G02", "G03", "G10"]},
    "V03": learns(TARGET_IP, AT_B, 3601),
    "V04": learns_that_there_is_none,
    "V05": is_translated,
    "V06": is_registered,
    "V07": is_refused,
    "V08": exactly("V09"),
    "V09": ends_a_purge,
    "V10": purges([TARGET_IP, parse_ip("10.9.8.7")], [parse_ip("10.9.9.1")], reply=False),
    "V11": learns_that_there_is_none,
    "V12": learns_that_there_is_none,
    "V13": is_redirected,
    "V14": is_redirected,
    "V16": registers(None, HUB_IP6, CLIENT_IP6, None),
    "V17": learns(parse_ip("2001:db8:a::20"), VTEP(parse_ip("2001:db8:ffff::20"), None), 60),
    "V18": registers(None, HUB_MAC, STATION_A, 100),
    "V19": registers_three,
    "V20": exactly("V21"),
    "V21": learns(HOST, VTEP_B, 540),
    "V22": keeps_a_spare,
    "V23": is_signed,
    "V24": is_narrowed,
    "V26": learns_that_there_is_none,
    "V29": finds_host,
    "V30": purges_nothing,
    "V32": passes_on,
    "F01": is_what_we_pass_on("V02", TO_A, TO_B),
    "F02": is_what_we_pass_on("V32", TO_B, TO_A),
    "P01": registers(VPN7, HUB_MAC, STATION_A, 100),
    "P02": learns(HOST, VTEP_B, 540),
    "P03": registers(VPN7, HUB_MAC, STATION_A, 100),
    "P04": registers(None, HUB_MAC, STATION_A, 100),
    "P06": is_not_served,
    "P07": fault(bound_to_vpn_7),
    "L01": registers(VPN7, HUB_MAC, STATION_A, 100, 7200),
    "L02": finds_host,
    "L03": learns(HOST, VTEP_B, 7200),
    "L04": learns(HOST, VTEP_B, 7200),
    "L05": registers(VPN7, HUB_MAC, STATION_A, 65536, 7200),
    "L06": registers(None, HUB_MAC, STATION_A, 100, 7200),
    "M18": fault(transit),
    "M19": fault(transit),
    "M21": fault(waiting),
    "M22": fault(secretive),
    "M23": fault(secretive),
    "M24": nak,
    "M25": nak,
    "M28": fault(waiting),
}


@pytest.mark.parametrize("vector", list(VECTORS.values()), ids=str)
def test_reaction(vector: Vector) -> None:
    """What the vector's own description says."""
    SCENES[vector.id](vector)


def test_a_flood_of_faults() -> None:
    """All faulty packets again and again, by one source and by many: errors stay at their rate,
    each fault is counted, and the tables stay as they are."""
    world = hub()
    faulty = [VECTORS[name] for name in FAULTS]
    before = tables(world)
    sent = sum(len(world.receive(vector.octets)) for _ in range(4) for vector in faulty)
    assert sent == SOURCE_BURST
    world.clock.advance(5)
    sent = sum(len(world.receive(vector.octets)) for vector in faulty)
    assert sent == 5 * SOURCE_RATE
    world.clock.advance(5)
    sources = [Path(parse_ip(f"198.51.{high}.{low}"), HUB) for high in (1, 2) for low in range(99)]
    sent = sum(len(world.receive(octets("M12"), path)) for _ in range(3) for path in sources)
    assert sent == TOTAL_RATE
    assert tables(world) == before
    dropped = world.dropped()
    # Their request IDs do not rise.
    counters = {vector.counter for vector in faulty}
    assert set(dropped) == {"error_suppressed", "overtaken", *counters}
    assert dropped["duplicate_extension"] == 5 + 3 * len(sources)
