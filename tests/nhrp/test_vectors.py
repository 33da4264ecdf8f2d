"""The protocol vectors: each is read as it is written there, and written as it is read."""

from __future__ import annotations

import pytest

from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.extensions import Authentication, CIEExtension, DeviceCapabilities
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    RequestOrReply,
    TrafficIndication,
    decode_payload,
)
from dmevpn.nhrp.records import CIE
from tests.vectors import NHRP, VECTORS, Vector

WELLFORMED = [vector for vector in NHRP if vector.wellformed]
MALFORMED = [vector for vector in NHRP if not vector.wellformed]

#: Vectors with octets that mean nothing, which we do not send: how many remain, and why.
NOT_CANONICAL = {
    "V25": (40, "octets after ar$pktsz are no part of the packet"),
    "V26": (116, "octets after End mean nothing"),
    "V31": (48, "End has no value"),
    "P03": (100, "PAD is sent as zero"),
    "P04": (76, "the plain form is sent without an LLC/SNAP header"),
}


@pytest.mark.parametrize("vector", WELLFORMED, ids=str)
def test_written_as_read(vector: Vector) -> None:
    """A packet that is passed on unchanged leaves octet for octet as it came."""
    encapsulation, packet = decode_payload(vector.octets)
    octets = packet.encode(encapsulation.form, encapsulation.vpn_id)
    if vector.id in NOT_CANONICAL:
        assert len(octets) == NOT_CANONICAL[vector.id][0]
        assert octets != vector.octets
        assert decode_payload(octets)[1] == packet
    else:
        assert octets == vector.octets


@pytest.mark.parametrize("vector", MALFORMED, ids=str)
def test_refused(vector: Vector) -> None:
    """A malformed packet is counted under its name, and its Error Indication is the right one."""
    with pytest.raises(MalformedPacket) as caught:
        decode_payload(vector.octets)
    error = caught.value
    assert (error.counter, error.code, error.offset) == (
        vector.counter,
        vector.code,
        vector.offset,
    )
    if error.code is not None:
        # Who is to be told is known, and what about.
        assert isinstance(error.packet, Packet)
        assert error.packet.source_nbma == bytes([192, 0, 2, 10])
        assert error.packet.raw == vector.octets


def cie_fields(cie: CIE) -> list[tuple[str, object]]:
    """A CIE as the vectors tell it."""
    addresses = [
        ("NBMA address", cie.nbma),
        ("NBMA subaddress", cie.subaddress),
        ("protocol address", cie.protocol),
    ]
    return [
        ("code", cie.code),
        ("prefix length", cie.prefix_length),
        ("unused", cie.unused),
        ("MTU", cie.mtu),
        ("holding time", cie.holding_time),
        ("Cli Addr T/L", len(cie.nbma)),
        ("Cli SAddr T/L", len(cie.subaddress)),
        ("Cli Proto Len", len(cie.protocol)),
        ("preference", cie.preference),
        *[(name, octets) for name, octets in addresses if octets],
    ]


def header_fields(packet: Packet) -> dict[str, object]:
    """Fixed header, mandatory part and contents as the vectors tell them."""
    fields: dict[str, object] = {
        "ar$pro.type": packet.protocol_type,
        "ar$pro.snap": packet.snap,
        "ar$hopcnt": packet.hop_count,
        "ar$pktsz": None,
        "ar$op.type": packet.packet_type,
        "ar$shtl": len(packet.source_nbma),
        "ar$sstl": len(packet.source_subaddress),
        "Src Proto Len": len(packet.source_protocol),
        "Dst Proto Len": len(packet.destination_protocol),
        "source NBMA address": packet.source_nbma,
        "source NBMA subaddress": packet.source_subaddress,
        "source protocol address": packet.source_protocol,
        "destination protocol address": packet.destination_protocol,
    }
    if isinstance(packet, RequestOrReply):
        fields.update({"flags": packet.flags, "request id": packet.request_id})
    elif isinstance(packet, ErrorIndication):
        fields.update({"error code": packet.code, "error offset": packet.offset})
        fields.update({"unused": packet.unused, "contents": packet.contents})
    elif isinstance(packet, TrafficIndication):
        fields.update({"traffic code": packet.code, "unused": packet.unused[0]})
        fields.update({"unused 2": packet.unused[1], "contents": packet.contents})
    return fields


@pytest.mark.parametrize("vector", [each for each in WELLFORMED if each.fields], ids=str)
def test_read(vector: Vector) -> None:
    """Every field is found where the vector has it."""
    _, packet = decode_payload(vector.octets)
    expected = header_fields(packet)
    for field in vector.fields:
        value = expected.get(field.name) if field.group in ("fixed", "mandatory") else None
        if value is not None:
            assert same(field.octets, value), field

    cies = list(packet.cies) if isinstance(packet, RequestOrReply) else []
    for extension in packet.extensions:
        if isinstance(extension, CIEExtension):
            cies += extension.cies
    told = [field for field in vector.fields if "CIE" in field.group]
    found = [each for cie in cies for each in cie_fields(cie)]
    assert [name for name, _ in found] == [field.name for field in told]
    for (name, value), field in zip(found, told, strict=True):
        assert same(field.octets, value), name

    types = [field.octets for field in vector.fields if field.name == "extension type"]
    headers = [extension[:2] for extension in packet.extensions]
    assert headers == types[:-1]


def same(octets: bytes, value: object) -> bool:
    """Whether octets are these octets, or spell this number."""
    return (octets if isinstance(value, bytes) else int.from_bytes(octets, "big")) == value


def test_every_packet_type_has_a_vector() -> None:
    """No type is left to chance."""
    types = {decode_payload(vector.octets)[1].packet_type for vector in WELLFORMED}
    assert types == set(PacketType)


def test_values_of_extensions() -> None:
    """Secrets, indices and capabilities are those of the vectors."""
    authentication = decode_payload(VECTORS["V05"].octets)[1].extension(Authentication)
    assert authentication is not None
    assert (authentication.spi, authentication.data) == (1, b"dmevpn42")
    keyed = decode_payload(VECTORS["V23"].octets)[1].extension(Authentication)
    assert keyed is not None
    digest = bytes.fromhex("1d427341000bb9f085d1367583cfd571")
    assert (keyed.spi, keyed.data) == (256, bytes([10, 0, 0, 10]) + digest)
    capabilities = decode_payload(VECTORS["V21"].octets)[1].extension(DeviceCapabilities)
    assert capabilities is not None
    assert (capabilities.source, capabilities.target) == (1, 1)
