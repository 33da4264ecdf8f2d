"""Packets: both ways, their places, and octets that are none."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from struct import pack_into

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.constants import PacketType, ProtocolType, RegistrationFlag
from dmevpn.nhrp.encapsulation import LEGACY_LENGTH, Form, decapsulate
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    ForwardTransitRecord,
    ResponderAddress,
    VendorPrivate,
)
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    Request,
    ResolutionRequest,
    TrafficIndication,
    decode,
    decode_embedded,
    decode_payload,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.wire import checksum
from tests.strategies import encapsulations, packets
from tests.vectors import NHRP, VECTORS, Vector

VPN_ID = VPNID(DEFAULT_OUI, 7)

REQUEST = RegistrationRequest(
    source_nbma=bytes([192, 0, 2, 10]),
    source_subaddress=encode_vni(100),
    source_protocol=bytes.fromhex("02000000000a"),
    destination_protocol=bytes.fromhex("020000000001"),
    flags=RegistrationFlag.U,
    request_id=77,
    cies=(CIE(prefix_length=255, mtu=1450, holding_time=7200), CIE(nbma=bytes(4))),
    extensions=(ResponderAddress(), ForwardTransitRecord(), Authentication(1, b"secret")),
)


def sealed(payload: bytes) -> bytes:
    """A payload with its checksum put right, so that a decoder looks at the rest of it."""
    try:
        _form, _, start = decapsulate(payload, DEFAULT_OUI)
    except MalformedPacket:
        return payload
    counted = start if start == LEGACY_LENGTH else 0
    if len(payload) < start + 28:
        return payload
    octets = bytearray(payload)
    end = start - counted + int.from_bytes(octets[start + 10 : start + 12], "big")
    pack_into("!H", octets, start + 12, 0)
    total = checksum(bytes(octets[start - counted : end]))
    pack_into("!H", octets, start + 12, total)
    return bytes(octets)


def read(payload: bytes, reasons: Container[str] | None = None) -> Packet | None:
    """The packet, or None for octets that are refused; anything else fails the test.

    :param reasons: that there may be for a refusal.
    """
    try:
        encapsulation, packet = decode_payload(payload)
    except MalformedPacket as error:
        assert reasons is None or error.counter in reasons
        if error.code is not None:
            # An Error Indication can be made of it.
            assert error.packet.raw in payload
            assert error.packet.header_end <= len(error.packet.raw)
            assert error.offset <= len(error.packet.raw)
        return None
    # Whatever could be read can be sent, and is read as the same thing.
    again = packet.encode(encapsulation.form, encapsulation.vpn_id)
    assert decode_payload(again)[1] == packet
    return packet


@given(packets(), encapsulations())
def test_round_trip(packet: Packet, encapsulation: tuple[Form, VPNID | None]) -> None:
    """Any packet arrives as it was sent, in any form, and fresh from the wire is sent the same."""
    form, vpn_id = encapsulation
    payload = packet.encode(form, vpn_id)
    found, received = decode_payload(payload, vpn_id.oui if vpn_id else DEFAULT_OUI)
    assert (found.form, found.vpn_id) == (form, vpn_id)
    assert received == packet
    assert received.packet_type == packet.packet_type
    assert received.raw == payload[found.offset :]
    assert received.encode(form, vpn_id) == payload


@given(packets(), st.binary(min_size=1, max_size=40))
def test_octets_behind_the_packet(packet: Packet, tail: bytes) -> None:
    """What follows ar$pktsz is not part of the packet."""
    payload = packet.encode()
    received = decode(payload + tail)
    assert received == packet
    assert received.raw == payload


@given(packets())
def test_places(packet: Packet) -> None:
    """Error Indications can point at every part of a packet."""
    octets = packet.encode()
    assert octets[packet.destination_offset : packet.header_end] == packet.destination_protocol
    for extension in packet.extensions:
        at = packet.extension_offset(extension)
        assert octets.startswith(extension, at)
    if packet.extensions or packet.bare_end:
        assert octets[14:16] == packet.extensions_offset.to_bytes(2, "big")
    if isinstance(packet, Request):
        for index, cie in enumerate(packet.cies):
            at = packet.cie_offset(index)
            assert octets[at : at + len(cie)] == cie.encode()
        assert packet.cie_offset(len(packet.cies)) == packet.extensions_offset


@given(packets(), st.data())
def test_embedded(packet: Packet, data: st.DataObject) -> None:
    """An Error Indication about a packet of ours is understood however short it was cut."""
    octets = packet.encode()
    cut = data.draw(st.integers(packet.header_end, len(octets)))
    found = decode_embedded(octets[:cut])
    assert (found.packet_type, found.protocol_type) == (packet.packet_type, packet.protocol_type)
    assert (found.source_nbma, found.source_protocol) == (
        packet.source_nbma,
        packet.source_protocol,
    )
    assert found.destination_protocol == packet.destination_protocol
    if isinstance(packet, Request):
        assert isinstance(found, Request)
        assert found.request_id == packet.request_id
    with pytest.raises(MalformedPacket):
        decode_embedded(octets[: data.draw(st.integers(0, packet.header_end - 1))])


@pytest.mark.parametrize("vector", [each for each in NHRP if each.wellformed], ids=str)
def test_cut(vector: Vector) -> None:
    """A packet that was cut is never taken for a whole one."""
    encapsulation, packet = decode_payload(vector.octets)
    for end in range(encapsulation.offset + len(packet.raw)):
        assert read(vector.octets[:end]) is None


@pytest.mark.parametrize("offset", [1, 31, 32, 32 + 43, 0xFFFF])
def test_extensions_offset_of_the_legacy_form(offset: int) -> None:
    """An offset into the headers is as wrong as one beyond the packet."""
    octets = bytearray(VECTORS["L02"].octets)
    octets[32 + 14 : 32 + 16] = offset.to_bytes(2, "big")
    with pytest.raises(MalformedPacket) as caught:
        decode_payload(sealed(bytes(octets)))
    error = caught.value
    assert (error.counter, error.code, error.offset) == ("bad_extension_offset", 7, 14)


@given(st.binary(max_size=200))
@example(b"")
def test_any_octets(octets: bytes) -> None:
    """No octets that anybody sends make it fail in another way than MalformedPacket."""
    read(octets)
    for front in (
        "00018100000000000010006400000000010304000606800000000001",
        "0002080000000000001000800000006401011000040400000000000100000000000000000000000000000001",
        "00010800000000000010006400000000010704000404000000070002",
    ):
        fixed = bytearray.fromhex(front) + octets
        fixed[10:12] = len(fixed).to_bytes(2, "big")
        read(sealed(bytes(fixed)))
        if len(fixed) > 48:
            fixed[14:16] = (48).to_bytes(2, "big")
            read(sealed(bytes(fixed)))


@given(st.binary(max_size=80))
def test_any_embedded_octets(octets: bytes) -> None:
    """The same holds for what an Error Indication contains."""
    for front in (b"", bytes.fromhex("0001810000000000001000640000000001030400")):
        try:
            packet = decode_embedded(front + octets)
        except MalformedPacket:
            continue
        assert packet.header_end <= len(front + octets)


# --- replies ----------------------------------------------------------------------------------


def test_reply_is_like_its_request() -> None:
    """A reply finds the way back to its request, and says what it did not change again."""
    request = decode(replace(REQUEST, protocol_type=ProtocolType.BRIDGED, hop_count=3).encode())
    assert isinstance(request, RegistrationRequest)
    reply = request.reply()
    assert type(reply) is RegistrationReply
    assert reply.encode() == reply_octets(request)
    assert reply.hop_count == 16
    assert reply.raw == b""


def reply_octets(request: RegistrationRequest) -> bytes:
    """The octets of a request with another type and hop count."""
    octets = bytearray(request.raw)
    octets[17] = PacketType.REGISTRATION_REPLY
    octets[9] = 16
    return sealed(bytes(octets))


def test_reply_says_what_it_is_told() -> None:
    """Codes, flags and extensions of the answer take the place of the request's."""
    reply = REQUEST.reply(
        (CIE(code=14),), flags=0, extensions=(DeviceCapabilities(1, 1),), hop_count=255
    )
    assert reply.cies == (CIE(code=14),)
    assert reply.extensions == (DeviceCapabilities(1, 1),)
    assert (reply.flags, reply.hop_count, reply.request_id) == (0, 255, 77)


@pytest.mark.parametrize(("request_name", "reply_name"), [("V08", "V09")])
def test_reply_vectors(request_name: str, reply_name: str) -> None:
    """A Purge Reply is its request with another type."""
    request = decode(VECTORS[request_name].octets)
    assert isinstance(request, PurgeRequest)
    assert request.reply().encode() == VECTORS[reply_name].octets


def test_reply_without_extensions() -> None:
    """Who sends no extensions part gets none, and who sends a bare End gets that."""
    for name in ("V01", "V30", "V31"):
        request = decode(VECTORS[name].octets)
        assert isinstance(request, Request)
        received = decode(request.reply().encode())
        assert received.bare_end is request.bare_end


# --- single fields ----------------------------------------------------------------------------


def test_first_extension_of_a_class() -> None:
    """Of several extensions of a class the first is found, and none if there is none."""
    first, second = VendorPrivate(b"\0\0\1", b"1"), VendorPrivate(b"\0\0\2", b"2")
    packet = replace(REQUEST, extensions=(first, second))
    assert packet.extension(VendorPrivate) is first
    assert packet.extension(Authentication) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("V01", ProtocolType.IPV4),
        ("V16", ProtocolType.IPV6),
        ("V18", ProtocolType.MAC),
        ("V27", ProtocolType.IPV4),
        ("V28", ProtocolType.IPV4),
        ("V29", ProtocolType.BRIDGED),
    ],
)
def test_ethertype(name: str, expected: int) -> None:
    """The long form of the protocol type means the same as the short one."""
    assert decode(VECTORS[name].octets).ethertype == expected


def test_left_padded_checksum() -> None:
    """Odd packets of older daemons are read where the peer is known as one, nowhere else."""
    octets = VECTORS["M26"].octets
    with pytest.raises(MalformedPacket):
        decode(octets)
    packet = decode(octets, left_padded=True)
    assert isinstance(packet, TrafficIndication)
    assert decode(packet.encode()) == packet
    with pytest.raises(MalformedPacket):
        decode(VECTORS["M04"].octets, left_padded=True)


@pytest.mark.parametrize(
    ("bare_end", "size"), [(False, 40), (True, 44)], ids=["no extensions part", "bare End"]
)
def test_bare_end(bare_end: bool, size: int) -> None:
    """A packet without extensions may have an extensions part or none."""
    packet = ResolutionRequest(
        source_nbma=bytes(4),
        source_protocol=bytes(4),
        destination_protocol=bytes(4),
        protocol_type=ProtocolType.IPV4,
        bare_end=bare_end,
    )
    octets = packet.encode()
    assert len(octets) == size
    assert decode(octets) == packet


@pytest.mark.parametrize(
    "fault",
    [
        {"source_nbma": b""},
        {"source_nbma": bytes(6)},
        {"source_subaddress": bytes(64)},
        {"source_protocol": bytes(256)},
        {"snap": b""},
        {"hop_count": 256},
        {"hop_count": -1},
        {"protocol_type": 0x10000},
        {"flags": 0x10000},
        {"request_id": 1 << 32},
        {"cies": (CIE(code=256),)},
        {"cies": (CIE(protocol=bytes(255)),) * 250},
    ],
    ids=str,
)
def test_what_does_not_fit_is_not_sent(fault: dict[str, object]) -> None:
    """A field out of range is our mistake, and never goes out as another packet."""
    with pytest.raises(ValueError):
        replace(REQUEST, **fault).encode()  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"offset": -1}, {"offset": 0x10000}, {"code": 0x10000}])
def test_error_fields_that_do_not_fit(fields: dict[str, int]) -> None:
    """The code and the offset of an Error Indication never run into each other."""
    indication = ErrorIndication(
        source_nbma=bytes(4), source_protocol=bytes(6), destination_protocol=bytes(6)
    )
    with pytest.raises(ValueError):
        replace(indication, **fields).encode()  # type: ignore[arg-type]


def test_no_vpn_to_name() -> None:
    """A packet in a form that names a VPN needs one."""
    with pytest.raises(ValueError, match="names a VPN"):
        REQUEST.encode(Form.RFC)


def test_received_octets_do_not_make_a_difference() -> None:
    """A packet that was received equals one that was made, and does not print its octets."""
    received = decode_payload(REQUEST.encode(Form.RFC, VPN_ID))[1]
    assert received == REQUEST
    assert received.raw == REQUEST.encode()
    assert "raw" not in repr(received)
