"""Peers that are not like us: each is understood, and answered in what it understands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, Path, parse_ip
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode, ErrorCode, PacketType
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.extensions import Authentication, DeviceCapabilities, Unknown
from dmevpn.nhrp.order import LATE
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.peers import DIALECTS, Peer, Peers, ours, peer_of
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.server import NextHopServer
from tests.nhrp.neighbours import (
    HOST,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    TO_A,
    TO_B,
    VPN7,
    Station,
)
from tests.nhrp.speaking import SECRET, World, octets

LITTLE, BIG = Form.LEGACY_LITTLE, Form.LEGACY_BIG
#: VNI 100 and 200 in the order of a little-endian host.
VNI_100, VNI_200 = bytes([100, 0, 0, 0]), bytes([200, 0, 0, 0])
#: What the original daemon registers for: a third of a day.
HOLDING_TIME = 7200


@pytest.fixture
def hub() -> World:
    """A hub of MACs in VPN 7 and in no VPN."""
    world = World()
    world.serve(VPN7)
    world.serve(None)
    return world


def answer(world: World, data: bytes, path: Path = TO_A) -> tuple[Encapsulation, Any]:
    """The one packet that goes out for one, and its form."""
    (out,) = world.receive(data, path)
    assert world.transport.sent[0][1] == path
    return decode_payload(out)


def configure(world: World, nbma: bytes, daemon: str, vpn_id: VPNID | None = None) -> None:
    """Say what a peer is, as the file would."""
    world.speaker.peers.claim(nbma, {nbma: peer_of(daemon, vpn_id)})


def registered(world: World, vpn_id: VPNID | None = VPN7) -> VTEP | None:
    """Where station A is known to be."""
    binding = world.caches[vpn_id, HUB_MAC].lookup(STATION_A)
    return None if binding is None else binding.vtep


def server(world: World, vpn_id: VPNID | None = VPN7) -> NextHopServer:
    """The server of a VPN."""
    (station,) = world.speaker._vpns[vpn_id].stations
    assert isinstance(station, NextHopServer)
    return station


def register(vni: int, order: str = "little", **more: Any) -> RegistrationRequest:
    """A registration of station A."""
    return RegistrationRequest(
        source_nbma=SITE_A,
        source_subaddress=vni.to_bytes(4, order),  # type: ignore[arg-type]
        source_protocol=STATION_A,
        destination_protocol=STATION_A,
        request_id=1,
        cies=(CIE(holding_time=HOLDING_TIME),),
        **more,
    )


# --- the original daemon as a client ----------------------------------------------------------


@pytest.mark.parametrize("form", [LITTLE, BIG])
def test_a_registration_in_legacy_form(hub: World, form: Form) -> None:
    """It is stored by its true VNI, and the answer is in its form and order."""
    order = "little" if form is LITTLE else "big"
    encapsulation, reply = answer(hub, register(70000, order).encode(form, VPN7))
    assert (encapsulation.form, encapsulation.vpn_id) == (form, VPN7)
    assert isinstance(reply, RegistrationReply) and reply.cies[0].code == 0
    assert reply.source_subaddress == (70000).to_bytes(4, order)  # type: ignore[arg-type]
    assert registered(hub) == VTEP(SITE_A, 70000)


def test_vnis_of_the_vectors(hub: World) -> None:
    """L01 is VNI 100, L05 is 65536 and not 256."""
    hub.receive(octets("L01"))
    assert registered(hub) == VTEP(SITE_A, 100)
    hub.caches[VPN7, HUB_MAC].remove(STATION_A, "purged")
    hub.receive(octets("L05"))
    assert registered(hub) == VTEP(SITE_A, 65536)


def test_a_resolution_in_legacy_form(hub: World) -> None:
    """The VNI of the answer is where that daemon looks for it: in the header."""
    encapsulation, reply = answer(hub, octets("L02"))
    assert encapsulation.form is LITTLE
    assert isinstance(reply, ResolutionReply)
    assert reply.source_subaddress == VNI_200
    (cie,) = reply.cies
    assert (cie.code, cie.nbma, cie.subaddress, cie.protocol) == (0, SITE_B, b"", HOST)
    assert reply.extension(DeviceCapabilities) is None


def test_an_answer_is_taken_back_in_legacy_form(hub: World) -> None:
    """Also when it is not the answer to a packet; and again in RFC form when that is over."""
    hub.receive(octets("L01"))
    hub.receive(octets("L02"))
    hub.transport.sent.clear()
    server(hub).invalidate(HOST, "moved")
    (data,) = [data for data, _ in hub.transport.sent]
    encapsulation, purge = decode_payload(data)
    assert isinstance(purge, PurgeRequest) and encapsulation.form is LITTLE
    hub.clock.advance(HOLDING_TIME)
    hub.transport.sent.clear()
    hub.speaker.link(VPN7).send(purge, TO_A)
    assert decode_payload(hub.transport.sent[0][0])[0].form is Form.RFC
    assert len(hub.speaker.peers) == 0


def test_a_station_that_becomes_one_of_ours(hub: World) -> None:
    """The form last registered with is the form that counts."""
    hub.receive(octets("L01"))
    assert len(hub.speaker.peers) == 1
    # The numbers of the other daemon begin anew.
    hub.clock.advance(LATE)
    encapsulation, _ = answer(hub, octets("P01"))
    assert encapsulation.form is Form.RFC
    assert len(hub.speaker.peers) == 0
    hub.clock.advance(2 * HOLDING_TIME)


def test_a_packet_in_another_order(hub: World) -> None:
    """Whoever registered is not mistaken because somebody sent something in his name."""
    hub.receive(octets("L01"))
    purge = PurgeRequest(
        source_nbma=SITE_A, source_protocol=STATION_A, destination_protocol=STATION_A
    )
    assert answer(hub, purge.encode(BIG, VPN7))[0].form is BIG
    peer = hub.speaker.peers.get(SITE_A)
    assert peer is not None and peer.form is LITTLE


def test_who_is_refused_leaves_nothing(hub: World) -> None:
    """Strangers cannot fill the table of peers."""
    bad = register(0)
    _, reply = answer(hub, bad.encode(LITTLE, VPN7))
    assert [cie.code for cie in reply.cies] == [CIECode.PROHIBITED]
    _, reply = answer(hub, register(5).encode(LITTLE, VPNID(DEFAULT_OUI, 9)))
    assert isinstance(reply, ErrorIndication)
    assert len(hub.speaker.peers) == 0


@pytest.mark.parametrize("name", ["L01", "L02"])
def test_errors_about_packets_in_legacy_form(name: str) -> None:
    """They go out in plain form, which is the only one that daemon reads; of even length, since
    it pads odd ones on the other side."""
    world = World()
    (data,) = world.receive(octets(name))
    encapsulation, indication = decode_payload(data)
    assert encapsulation.form is Form.PLAIN
    assert isinstance(indication, ErrorIndication)
    assert indication.code == ErrorCode.VPN_UNSUPPORTED
    assert len(data) % 2 == 0
    about = octets(name)[32:]
    assert about.startswith(indication.contents[:12]) and len(indication.contents) > 40


# --- VNIs without a mark (protocol 4.3) ---------------------------------------------------------


def test_a_vni_that_tells_its_order(hub: World) -> None:
    """L06: no VPN header, and the first octet of the VNI is not zero."""
    encapsulation, reply = answer(hub, octets("L06"))
    assert encapsulation.form is Form.PLAIN
    assert reply.source_subaddress == VNI_100
    assert registered(hub, None) == VTEP(SITE_A, 100)
    # 256 could be 65536; who has registered is known by now.
    hub.caches[None, HUB_MAC].remove(STATION_A, "purged")
    hub.clock.advance(LATE)
    answer(hub, register(256).encode())
    assert registered(hub, None) == VTEP(SITE_A, 256)


def test_a_vni_in_network_order(hub: World) -> None:
    """What has a zero first is in network order, unless the file says what the peer is."""
    answer(hub, register(256).encode())
    assert registered(hub, None) == VTEP(SITE_A, 65536)
    configure(hub, SITE_A, "legacy")
    answer(hub, register(256).encode())
    assert registered(hub, None) == VTEP(SITE_A, 256)


def test_detection_switched_off() -> None:
    """The registration is refused as one without a VNI."""
    world = World(legacy_detection=False)
    world.serve(None)
    _, reply = answer(world, octets("L06"))
    assert [cie.code for cie in reply.cies] == [CIECode.PROHIBITED]
    assert world.dropped() == {"bad_vni": 1}


# --- configured peers -----------------------------------------------------------------------------


def test_a_configured_original_daemon(hub: World) -> None:
    """It is written to in its form before it has said anything."""
    configure(hub, SITE_A, "legacy")
    configure(hub, SITE_B, "legacy-big-endian")
    request = ResolutionRequest(
        source_nbma=SITE_B,
        source_subaddress=encode_vni(100),
        source_protocol=STATION_A,
        destination_protocol=HOST,
        cies=(CIE(),),
        extensions=(DeviceCapabilities(1, 0), Unknown(0x3802, False, b"x")),
    )
    for path, form, vni in ((TO_A, LITTLE, VNI_100), (TO_B, BIG, VNI_100[::-1])):
        hub.transport.sent.clear()
        hub.speaker.link(VPN7).send(request, path)
        encapsulation, sent = decode_payload(hub.transport.sent[0][0])
        assert (encapsulation.form, encapsulation.vpn_id) == (form, VPN7)
        assert sent.source_subaddress == vni and sent.extensions == ()


def test_a_configured_peer_that_speaks_otherwise(hub: World) -> None:
    """It is answered as it asks; what we begin goes as the file says, once that is over."""
    configure(hub, SITE_A, "legacy")
    assert answer(hub, octets("P01"))[0].form is Form.RFC
    assert hub.speaker.link(VPN7).form(TO_A) is Form.RFC
    hub.clock.advance(HOLDING_TIME)
    assert hub.speaker.link(VPN7).form(TO_A) is LITTLE


@pytest.mark.parametrize("daemon", ["opennhrp", "frr", "cisco"])
def test_peers_that_know_no_vnis(daemon: str) -> None:
    """They get no subaddress, no Device Capabilities, and no VPN header."""
    world = World()
    configure(world, SITE_A, daemon)
    reply = decode_payload(octets("V21"))[1]
    world.speaker.link(None).send(reply, TO_A)
    encapsulation, sent = decode_payload(world.transport.sent[0][0])
    assert encapsulation.form is Form.PLAIN
    assert isinstance(sent, ResolutionReply)
    assert sent.source_subaddress == sent.cies[0].subaddress == b""
    assert sent.extension(DeviceCapabilities) is None
    world.speaker.link(VPN7).send(reply, TO_A)
    assert len(world.transport.sent) == 1
    assert world.dropped() == {"peer_incapable": 1}


@pytest.mark.parametrize("name", ["V17", "V16"])
def test_what_has_no_room_in_an_old_decoder(name: str) -> None:
    """An IPv6 address is not sent where it would overwrite the memory of the receiver."""
    world = World()
    configure(world, SITE_A, "opennhrp")
    world.speaker.link(None).send(decode_payload(octets(name))[1], TO_A)
    assert world.transport.sent == [] and world.dropped() == {"peer_incapable": 1}


def test_left_padded_checksums() -> None:
    """They are right for daemons that are known to make them (M26)."""
    world = World()
    station = Station(PacketType.TRAFFIC_INDICATION)
    world.speaker.attach(None, station)
    assert world.receive(octets("M26")) == [] == station.received
    assert world.dropped() == {"bad_checksum": 1}
    configure(world, SITE_A, "legacy")
    world.receive(octets("M26"))
    assert len(station.received) == 1


def test_several_answers_for_the_original_daemon() -> None:
    """There is room for one VNI: those of the best answer's remain (V22 has two)."""
    peer = Peer(DIALECTS["legacy"], LITTLE)
    reply = peer.write(decode_payload(octets("V22"))[1])
    assert isinstance(reply, ResolutionReply)
    assert reply.source_subaddress == VNI_200
    assert [(cie.nbma, cie.subaddress) for cie in reply.cies] == [(SITE_B, b"")]


@pytest.mark.parametrize("name", ["L03", "L04"])
def test_answers_of_the_original_daemon(name: str) -> None:
    """The VNI in the header is that of the answer, in the order of the mark."""
    encapsulation, packet = decode_payload(octets(name))
    reply = ours(encapsulation.form).read(packet, encapsulation.form)
    assert isinstance(reply, ResolutionReply)
    assert [(cie.nbma, cie.subaddress) for cie in reply.cies] == [(SITE_B, encode_vni(200))]
    assert ours(encapsulation.form).write(reply) == packet


# --- implied VPNs (protocol 3.3) -----------------------------------------------------------------


def test_a_vpn_implied_by_the_peer(hub: World) -> None:
    """Plain packets are in its VPN, and so are the answers; another VPN is a mismatch (P07)."""
    configure(hub, SITE_A, "rfc", VPN7)
    encapsulation, _ = answer(hub, octets("V18"))
    assert encapsulation.form is Form.PLAIN
    assert registered(hub) == VTEP(SITE_A, 100)
    # It may name the VPN; on this path we never do.
    assert answer(hub, octets("P01"))[0].form is Form.PLAIN
    encapsulation, indication = answer(hub, octets("P07"))
    assert (indication.code, indication.offset) == (ErrorCode.VPN_MISMATCH, 0)
    assert (encapsulation.form, encapsulation.vpn_id) == (Form.RFC, VPNID(DEFAULT_OUI, 8))
    assert hub.dropped() == {"vpn_mismatch": 1}


def test_a_vpn_implied_by_the_key(hub: World) -> None:
    """The same by GRE key, for whoever uses it."""
    world = World(by_key={1007: VPN7})
    world.serve(VPN7)
    world.serve(None)
    keyed, other = TO_A._replace(key=1007), TO_A._replace(key=1000)
    assert answer(world, octets("V18"), keyed)[0].form is Form.PLAIN
    assert registered(world) == VTEP(SITE_A, 100)
    _, indication = answer(world, octets("P07"), keyed)
    assert indication.code == ErrorCode.VPN_MISMATCH
    answer(world, octets("V18"), other)
    assert registered(world, None) == VTEP(SITE_A, 100)
    assert answer(world, octets("P01"), other)[0].form is Form.RFC
    world.speaker.link(None).send(decode_payload(octets("V18"))[1], keyed)
    assert world.dropped() == {"vpn_mismatch": 1, "peer_incapable": 1}


def test_the_default_instance_mapped_to_a_vpn() -> None:
    """Plain packets of anybody are in it; who names the VPN is answered by naming it."""
    world = World(plain_vpn=VPN7)
    world.serve(VPN7)
    assert answer(world, octets("V18"))[0].form is Form.PLAIN
    assert registered(world) == VTEP(SITE_A, 100)
    assert world.speaker.link(VPN7).form(TO_A) is Form.PLAIN
    assert world.speaker.link(VPN7).form(TO_B) is Form.RFC
    assert answer(world, octets("P01"))[0].form is Form.RFC
    assert world.speaker.link(VPN7).form(TO_A) is Form.RFC


def test_the_default_instance_switched_off() -> None:
    """Packets without a VPN are dropped, except where the path implies one."""
    world = World(plain=False)
    world.serve(None)
    world.serve(VPN7)
    assert world.receive(octets("V18")) == []
    assert world.dropped() == {"vpn_missing": 1}
    configure(world, SITE_A, "rfc", VPN7)
    answer(world, octets("V18"))
    assert registered(world) == VTEP(SITE_A, 100)


def test_who_need_not_say_that_it_can_name_vpns(hub: World) -> None:
    """A request without Device Capabilities is refused in RFC form (RFC 2735 §3.3) only."""
    packet = decode_payload(octets("L02"))[1]
    request = replace(packet, source_subaddress=b"", extensions=())
    assert answer(hub, request.encode(Form.RFC, VPN7))[1].cies[0].code == CIECode.PROHIBITED
    assert answer(hub, request.encode(LITTLE, VPN7))[1].cies[0].code == CIECode.SUCCESS
    configure(hub, SITE_A, "rfc", VPN7)
    assert answer(hub, request.encode())[1].cies[0].code == CIECode.SUCCESS


def test_whether_the_target_can_name_vpns(hub: World) -> None:
    """An answer says so (RFC 2735 §3.3), by the form in which the target registered."""
    capabilities = DeviceCapabilities(1, 0)
    request = decode_payload(octets("V20"))[1]
    assert request.extension(DeviceCapabilities) == capabilities
    hub.receive(octets("L01"))
    asked = replace(request, destination_protocol=STATION_A)
    expected = {"legacy": 1, "rfc": 0}
    for daemon, target in expected.items():
        if daemon == "rfc":
            configure(hub, SITE_A, daemon, VPN7)
        _, reply = answer(hub, asked.encode(Form.RFC, VPN7), TO_B)
        assert reply.cies[0].code == 0
        assert reply.extension(DeviceCapabilities) == DeviceCapabilities(1, target)


@pytest.mark.parametrize(("name", "code"), [("P05", 17), ("P07", 16), ("P02", 10)])
def test_silence(name: str, code: int) -> None:
    """`vpn-errors no` says nothing about VPNs; other errors are answered."""
    told = []
    for vpn_errors in (True, False):
        world = World(vpn_errors=vpn_errors)
        world.serve(VPN7)
        if name == "P07":
            configure(world, SITE_A, "rfc", VPN7)
        errors = [decode_payload(data)[1] for data in world.receive(octets(name))]
        told.append([error.code for error in errors if isinstance(error, ErrorIndication)])
        assert sum(world.dropped().values()) == 1
    assert told == [[code], [code] if code == 10 else []]


def test_silence_about_addresses() -> None:
    """Error 6 in a VPN is one of them; in no VPN there is nothing to tell."""
    world = World(vpn_errors=False)
    world.speaker.attach(VPN7, Station())
    world.speaker.attach(None, Station())
    assert world.receive(octets("P01")) == []
    assert isinstance(world.answer(octets("V18")), ErrorIndication)
    configure(world, SITE_A, "rfc", VPN7)
    assert world.receive(octets("V18")) == [], "its path implies the VPN"
    assert world.dropped() == {"unreachable": 3}


# --- errors by the original daemon ---------------------------------------------------------------


def test_an_error_names_its_vpn_inside(hub: World) -> None:
    """It comes in plain form with the headers of the packet that it is about."""
    station = Station(PacketType.ERROR_INDICATION)
    hub.speaker.attach(VPN7, station)
    indication = ErrorIndication(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HUB_MAC,
        code=6,
        contents=octets("L02"),
    )
    hub.receive(indication.encode())
    assert [packet for packet, _ in station.received] == [indication]


def test_indications_for_it_are_plain(hub: World) -> None:
    """Also those that are passed on to it from elsewhere."""
    configure(hub, SITE_A, "legacy")
    indication = decode_payload(octets("P06"))[1]
    hub.speaker.link(VPN7).send(indication, TO_A)
    hub.speaker.link(VPN7).send(indication, TO_B)
    forms = [decode_payload(data)[0].form for data, _ in hub.transport.sent]
    assert forms == [Form.PLAIN, Form.RFC]


# --- authentication ------------------------------------------------------------------------------


def test_strangers_leave_nothing() -> None:
    """Who does not know the secret is not remembered either."""
    world = World(secret=SECRET)
    world.serve(VPN7)
    (data,) = world.receive(octets("L01"))
    indication: Packet = decode_payload(data)[1]
    assert isinstance(indication, ErrorIndication) and indication.code == 11
    assert len(world.speaker.peers) == 0


def test_errors_carry_the_secret_that_old_daemons_want() -> None:
    """It is the one that they showed; strangers learn nothing, and others get no extensions."""
    world = World(secret=SECRET)
    world.serve(VPN7)
    request = decode_payload(octets("L02"))[1]
    secret = Authentication(1, SECRET)
    known = replace(request, extensions=(secret, Unknown(0x2000, True, b"")))
    (data,) = world.receive(known.encode(LITTLE, VPN7))
    indication = decode_payload(data)[1]
    assert isinstance(indication, ErrorIndication) and indication.code == 1
    assert indication.extensions == (secret,)
    for wrong in ((), (Authentication(1, b"guess"),)):
        stranger = replace(request, extensions=wrong)
        (data,) = world.receive(stranger.encode(LITTLE, VPN7))
        indication = decode_payload(data)[1]
        assert isinstance(indication, ErrorIndication) and indication.code == 11
        assert secret not in indication.extensions
    twice = replace(request, extensions=(Authentication(1, b"guess"),) * 2)
    (data,) = world.receive(twice.encode(LITTLE, VPN7))
    assert SECRET not in data
    (data,) = world.receive(known.encode(Form.RFC, VPN7))
    assert decode_payload(data)[1].extensions == ()


# --- the table -----------------------------------------------------------------------------------


def test_as_many_as_there_is_room_for() -> None:
    """Further ones are answered, counted, and forgotten."""
    clock, metrics = Clock(), Metrics()
    peers = Peers(clock, metrics, limit=2)
    reply = RegistrationReply(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=STATION_A,
        cies=(CIE(holding_time=60),),
    )
    addresses = [parse_ip(f"10.0.0.{number}") for number in range(1, 5)]
    for _ in range(2):
        for address in addresses:
            with peers.visit(address, ours(LITTLE)):
                assert peers.get(address) == ours(LITTLE)
                peers.answered(address, reply)
    assert [peers.get(address) is not None for address in addresses] == [True, True, False, False]
    assert metrics.value("peers_full") == 4
    clock.advance(60)
    assert len(peers) == 0 and clock.getDelayedCalls() == []


def test_claims() -> None:
    """Several parts of a configuration may speak of one peer; what is left counts."""
    peers = Peers(Clock(), Metrics())
    legacy, frr = peer_of("legacy"), peer_of("frr", VPN7)
    peers.claim("one", {SITE_A: legacy})
    peers.claim("two", {SITE_A: frr, SITE_B: frr})
    assert (peers.get(SITE_A), peers.get(SITE_B)) == (frr, frr)
    peers.claim("two", {})
    assert (peers.get(SITE_A), peers.get(SITE_B)) == (legacy, None)
    peers.claim("one", {SITE_B: legacy})
    assert (peers.get(SITE_A), peers.get(SITE_B)) == (None, legacy)


def test_renewed_in_time() -> None:
    """A later answer that holds longer keeps a peer known; a shorter one does not end it."""
    clock = Clock()
    peers = Peers(clock, Metrics())
    reply = RegistrationReply(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=STATION_A,
        cies=(CIE(holding_time=60),),
    )
    with peers.visit(SITE_A, ours(LITTLE)):
        peers.answered(SITE_A, reply)
    clock.advance(50)
    peers.answered(SITE_A, reply)
    peers.answered(SITE_A, replace(reply, cies=(CIE(holding_time=1),)))
    clock.advance(50)
    assert peers.get(SITE_A) == ours(LITTLE)
    clock.advance(10)
    assert peers.get(SITE_A) is None
    with peers.visit(SITE_A, ours(LITTLE)):
        peers.answered(SITE_A, reply)
    peers.close()
    assert clock.getDelayedCalls() == []
