"""Clauses of RFC 2332 and RFC 2735 that no other test is about; docs/conformance.md names them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, Path, parse_ip
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import CIECode, PacketType
from dmevpn.nhrp.encapsulation import Form, decapsulate
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    ResponderAddress,
    Unknown,
    VendorPrivate,
)
from dmevpn.nhrp.packet import (
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.records import CIE, encode_vni
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_A,
    STATION_A,
    STATION_B,
    TO_A,
    VPN7,
    VPN8,
    VTEP_A,
    VTEP_B,
    binding,
)
from tests.nhrp.speaking import HUB_IP, World
from tests.vectors import NHRP, Vector
from tests.world import World as Network
from tests.world import mac

AWARE = (ResponderAddress(), DeviceCapabilities(1, 0))


@pytest.fixture
def world() -> World:
    """A hub of VPN 7."""
    world = World()
    world.serve(VPN7)
    return world


def question(protocol: bytes = HOST, **more: object) -> ResolutionRequest:
    """A request of station A."""
    request = ResolutionRequest(
        source_nbma=SITE_A,
        source_subaddress=encode_vni(100),
        source_protocol=STATION_A,
        destination_protocol=protocol,
        flags=0xC000,
        request_id=5,
        cies=(CIE(prefix_length=255),),
        extensions=AWARE,
    )
    return replace(request, **more)  # type: ignore[arg-type]


def registration(**more: object) -> RegistrationRequest:
    """Station A registers."""
    request = RegistrationRequest(
        source_nbma=SITE_A,
        source_subaddress=encode_vni(100),
        source_protocol=STATION_A,
        destination_protocol=STATION_A,
        request_id=6,
        cies=(CIE(prefix_length=255, holding_time=600),),
    )
    return replace(request, **more)  # type: ignore[arg-type]


def ask(world: World, packet: Packet, vpn_id: VPNID = VPN7) -> Packet:
    """The one answer to a packet in a VPN."""
    return world.answer(packet.encode(Form.RFC, vpn_id))


# --- RFC 2332 -----------------------------------------------------------------------------------


def test_unused_flags_are_ignored_and_not_returned(world: World) -> None:
    """A bit without a meaning changes nothing, and the answer does not have it."""
    plain, odd = ask(world, question()), ask(world, question(flags=0xC000 | 0x27FD))
    assert isinstance(plain, ResolutionReply) and isinstance(odd, ResolutionReply)
    assert odd.cies == plain.cies
    assert odd.flags == plain.flags == 0xE000
    reply = ask(world, registration(flags=0x7FFD))
    assert isinstance(reply, RegistrationReply)
    assert (reply.flags, reply.cies[0].code) == (0, CIECode.SUCCESS)


def test_a_request_says_nothing_else_in_its_cie(world: World) -> None:
    """Code, preference and addresses in the CIE of a Resolution Request are not looked at."""
    odd = CIE(7, 255, 1, 1400, 0, parse_ip("192.0.2.99"), encode_vni(9), STATION_B, 200)
    first, second = ask(world, question()), ask(world, question(cies=(odd,)))
    assert isinstance(first, ResolutionReply) and isinstance(second, ResolutionReply)
    assert first.cies == second.cies
    assert first.cies[0].nbma == VTEP_B.nbma


@pytest.mark.parametrize("flags", [0xC000, 0xC800, 0x8800, 0])
def test_the_binding_of_a_requester_is_not_cached(world: World, flags: int) -> None:
    """Not even a stable one with a holding time, which RFC 2332 would allow."""
    cache = world.caches[VPN7, HUB_MAC]
    before = [each.protocol for each in cache.bindings()]
    ask(world, question(flags=flags, cies=(CIE(prefix_length=255, holding_time=7200),)))
    assert [each.protocol for each in cache.bindings()] == before


@pytest.mark.parametrize("flags", [0xC000, 0x8000])
def test_what_is_only_cached_is_not_given(world: World, flags: int) -> None:
    """An answer that we got from somebody else is no answer of ours."""
    world.caches[VPN7, HUB_MAC].put(binding(OTHER_HOST, VTEP_B, Kind.CACHED, 500.0))
    reply = ask(world, question(OTHER_HOST, flags=flags))
    assert isinstance(reply, ResolutionReply)
    assert reply.cies == (CIE(code=CIECode.NO_BINDING),)


@pytest.mark.parametrize("vector", [each for each in NHRP if each.counter], ids=str)
def test_one_error_at_most(vector: Vector) -> None:
    """Whatever is wrong with a packet, and in however many places, it is answered once or never."""
    world = World()
    world.serve(None, HUB_MAC)
    world.serve(None, HUB_IP)
    world.serve(VPN7)
    assert len(world.receive(vector.octets)) <= 1


def test_a_purge_of_what_is_not_there_is_answered(world: World) -> None:
    """Its sender wants to know that we have nothing."""
    cie = CIE(prefix_length=48, protocol=OTHER_HOST)
    request = PurgeRequest(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HUB_MAC,
        request_id=8,
        cies=(cie,),
    )
    reply = ask(world, request)
    assert isinstance(reply, PurgeReply)
    assert (reply.request_id, reply.cies, reply.hop_count) == (8, (cie,), 16)


def test_an_unsolicited_purge_reply_is_ignored(world: World) -> None:
    """Nobody is told, nothing changes."""
    request = PurgeRequest(source_nbma=SITE_A, source_protocol=STATION_A, destination_protocol=HOST)
    assert world.receive(request.reply().encode(Form.RFC, VPN7)) == []
    assert world.dropped() == {"unsolicited_reply": 1}


def test_a_vendors_extension_in_an_answer_is_passed_over() -> None:
    """A client knows End and Vendor-Private without knowing what the vendor means."""
    network = Network()
    network.start_hub()
    one, two = network.add_site("10.0.0.2", 100), network.add_site("10.0.0.3", 101)
    network.run(1)
    network.speak(two, mac(2))
    network.run(0.1)
    network.kill(network.hub)
    network.speak(one, mac(1), mac(2))
    network.run(0.05)
    sent = [each for each in network.network.transmissions if each.source == one.vtep.nbma]
    encapsulation, request = decode_payload(sent[-1].payload())
    assert isinstance(request, ResolutionRequest)
    vendor = VendorPrivate(b"\x00\x00\x0c", b"anything")
    cie = CIE(0, 48, 0, 1400, 300, two.vtep.nbma, encode_vni(101), mac(2))
    reply = request.reply((cie,), extensions=(vendor, *request.extensions, vendor))
    assert one.machine.node is not None
    (speaker,) = one.machine.node.speakers.values()
    payload = reply.encode(encapsulation.form, encapsulation.vpn_id)
    path = Path(network.hub.address, one.vtep.nbma)
    speaker.datagrams_received(((payload, path),))
    network.run(0.1)
    assert network.path(one, mac(2)) == two.vtep


def test_a_hub_asks_for_nothing_by_itself() -> None:
    """A request is made where a frame enters, and by nobody who only carries it: no domino."""
    network = Network()
    network.start_hub()
    one, two = network.add_site("10.0.0.2", 100), network.add_site("10.0.0.3", 101)
    network.run(1)
    network.exchange(one, mac(1), two, mac(2))
    network.run(5)
    assert network.path(one, mac(2)) == two.vtep
    askers = {
        each.source
        for each in network.network.transmissions
        if decode_payload(each.payload())[1].packet_type is PacketType.RESOLUTION_REQUEST
    }
    assert askers == {one.vtep.nbma, two.vtep.nbma}


def test_what_is_ignored_comes_back_as_it_was(world: World) -> None:
    """Vendors' extensions and those that nobody knows, octet for octet and in their order."""
    extensions = (
        VendorPrivate(b"\x00\x00\x0c", b"one"),
        Unknown(0x3803, False, b"two"),
        DeviceCapabilities(1, 0),
        Unknown(9, False, b"nobody"),
        VendorPrivate(b"\x00\x00\x0c", b""),
    )
    for request in (question(), registration()):
        reply = ask(world, replace(request, extensions=extensions))
        known = [each for each in reply.extensions if type(each) is DeviceCapabilities]
        assert [each for each in reply.extensions if each not in known] == [
            each for each in extensions if type(each) is not DeviceCapabilities
        ]
        assert reply.extensions.index(known[0]) == 2


def test_an_address_in_the_long_form_is_answered_in_it(world: World) -> None:
    """A requester that compares the protocol type of a reply with its own finds it again."""
    octets = bytearray(question().encode(Form.RFC, VPN7))
    found = decode_payload(bytes(octets))[1]
    long = replace(found, protocol_type=0x0080, snap=b"\x00\x00\x00\x81\x00")
    reply = ask(world, long)
    assert (reply.protocol_type, reply.snap) == (0x0080, b"\x00\x00\x00\x81\x00")
    assert isinstance(reply, ResolutionReply)
    assert reply.cies[0].nbma == VTEP_B.nbma


# --- RFC 2735 -----------------------------------------------------------------------------------


def test_equal_addresses_of_two_vpns_do_not_meet(world: World) -> None:
    """The same MAC is at one site in one VPN and at another in the next, and unknown in a third."""
    world.serve(VPN8)
    for vpn_id, vtep in ((VPN7, VTEP_A), (VPN8, VTEP(VTEP_B.nbma, 300))):
        cache = world.caches[vpn_id, HUB_MAC]
        cache.put(binding(OTHER_HOST, vtep, Kind.DYNAMIC, 600.0))
        reply = ask(world, question(OTHER_HOST), vpn_id)
        assert isinstance(reply, ResolutionReply)
        assert (reply.cies[0].nbma, reply.cies[0].subaddress) == (vtep.nbma, encode_vni(vtep.vni))
    world.caches[VPN7, HUB_MAC].remove(OTHER_HOST, "purged")
    world.transport.sent.clear()
    reply = ask(world, question(OTHER_HOST), VPN7)
    assert isinstance(reply, ResolutionReply)
    assert reply.cies[0].code == CIECode.NO_BINDING
    assert world.caches[VPN8, HUB_MAC].lookup(OTHER_HOST) is not None


@pytest.mark.parametrize("source", [0x00000001, 0xFFFFFFFF, 0x80000001])
def test_unused_capabilities_are_ignored(world: World, source: int) -> None:
    """Only V is looked at; the requester's word comes back, ours has no other bit."""
    reply = ask(world, question(extensions=(DeviceCapabilities(source, 0xFFFFFFFE),)))
    assert isinstance(reply, ResolutionReply)
    assert reply.cies[0].code == CIECode.SUCCESS
    assert reply.extensions == (DeviceCapabilities(source, 1),)


def test_an_answer_names_its_vpn(world: World) -> None:
    """Replies and errors are in the VPN and form of what they answer."""
    for packet in (question(), registration(), question(cies=(CIE(), CIE()))):
        (data,) = world.receive(packet.encode(Form.RFC, VPN7))
        found = decapsulate(data, DEFAULT_OUI)
        assert (found.form, found.vpn_id) == (Form.RFC, VPN7)
    assert world.transport.sent[0][1] == TO_A == Path(SITE_A, HUB)
