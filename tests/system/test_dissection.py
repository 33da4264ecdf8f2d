"""Our packets as an independent dissector reads them.

The plain form is compared field by field with what tshark shows. Its dissector knows no VPN
header, so the RFC form is read back by our own decoder. It also loses its place behind an NBMA
subaddress in a CIE (it does not skip it, although RFC 2332 §5.2.0.1 puts the protocol address
behind it): packets with such a CIE are compared up to there.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dmevpn.addresses import VPNID, parse_ip, parse_mac
from dmevpn.nhrp.constants import (
    EXACT_PREFIX,
    CIECode,
    ErrorCode,
    ProtocolType,
    PurgeFlag,
    RegistrationFlag,
    ResolutionFlag,
)
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.extensions import ForwardTransitRecord, ResponderAddress, ReverseTransitRecord
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeRequest,
    RegistrationRequest,
    RequestOrReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.transport import gre

HUB, SPOKE, OTHER = (parse_ip(f"192.0.2.{number}") for number in (1, 10, 20))
HUB6, SPOKE6, OTHER6 = (parse_ip(f"2001:db8::{number}") for number in (1, 10, 20))
NHS, STATION, VM = (parse_mac(f"02:00:00:00:00:{number:02x}") for number in (1, 10, 99))
VPN = VPNID(b"\x02\x00\x00", 7)

#: linux/pcap: a capture of IP packets, the first four bits telling the version.
_LINKTYPE_RAW = 101


def packets(hub: bytes, spoke: bytes, other: bytes) -> dict[str, Packet]:
    """One packet of every kind that dmevpn sends about MAC addresses."""
    record = CIE(mtu=1450, holding_time=7200, nbma=hub, protocol=NHS)
    extensions = (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord())
    answered = (ResponderAddress((record,)), *extensions[1:])
    registration = RegistrationRequest(
        source_nbma=spoke,
        source_subaddress=encode_vni(100),
        source_protocol=STATION,
        destination_protocol=NHS,
        flags=RegistrationFlag.U,
        request_id=0x01020304,
        cies=(CIE(prefix_length=EXACT_PREFIX, mtu=1450, holding_time=7200),),
        extensions=extensions,
    )
    resolution = ResolutionRequest(
        source_nbma=spoke,
        source_subaddress=encode_vni(100),
        source_protocol=STATION,
        destination_protocol=VM,
        flags=ResolutionFlag.A,
        request_id=5,
        cies=(CIE(mtu=1450, holding_time=7200),),
        extensions=extensions,
    )
    answer = CIE(
        prefix_length=48,
        mtu=1450,
        holding_time=3600,
        nbma=other,
        subaddress=encode_vni(200),
        protocol=VM,
    )
    purge = PurgeRequest(
        source_nbma=hub,
        source_protocol=NHS,
        destination_protocol=STATION,
        request_id=6,
        cies=(CIE(prefix_length=48, protocol=VM),),
    )
    purge_in_silence = PurgeRequest(
        source_nbma=spoke,
        source_subaddress=encode_vni(100),
        source_protocol=STATION,
        destination_protocol=NHS,
        flags=PurgeFlag.N,
        request_id=7,
        cies=(CIE(prefix_length=48, protocol=STATION),),
    )
    refusal = CIE(code=CIECode.NO_BINDING)
    return {
        "registration request": registration,
        "registration reply": registration.reply(extensions=answered),
        "registration refused": registration.reply(
            (CIE(code=CIECode.NO_RESOURCES, prefix_length=EXACT_PREFIX),), extensions=answered
        ),
        "resolution request": resolution,
        "resolution reply": resolution.reply((answer,), extensions=answered),
        "resolution refused": resolution.reply((refusal,), extensions=answered),
        "purge request": purge,
        "purge reply": purge.reply(),
        "purge without reply": purge_in_silence,
        "error indication": ErrorIndication(
            source_nbma=hub,
            source_protocol=NHS,
            destination_protocol=STATION,
            code=ErrorCode.VPN_UNSUPPORTED,
            offset=0,
            contents=registration.encode(),
        ),
    }


UNDERLAYS = {"IPv4": (HUB, SPOKE, OTHER), "IPv6": (HUB6, SPOKE6, OTHER6)}
PACKETS = {
    f"{name}, {underlay}": packet
    for underlay, addresses in UNDERLAYS.items()
    for name, packet in packets(*addresses).items()
}


#: Two damaged packets: they show that silence of the dissector means something.
BAD_CHECKSUM = "damaged in its last octet"
CUT_SHORT = "cut short"


def as_captured(payload: bytes, source: bytes, destination: bytes) -> bytes:
    """An IP packet with GRE and a payload, as it would be on the wire."""
    packet = gre.encode(payload, None)
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28 | 0xC0 << 20, len(packet), 47, 255) + (
            source + destination + packet
        )
    header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(packet), 0, 0, 255, 47, 0)
    header += source + destination
    total = 0xFFFF - int.from_bytes(header, "big") % 0xFFFF
    return header[:10] + total.to_bytes(2, "big") + header[12:] + packet


@pytest.fixture(scope="module")
def dissected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What tshark makes of each packet: its layers."""
    if shutil.which("tshark") is None:
        pytest.skip("needs tshark, the independent dissector")
    capture: Path = tmp_path_factory.mktemp("dissection") / "nhrp.pcap"
    payloads = {name: packet.encode() for name, packet in PACKETS.items()}
    sound = payloads["registration request, IPv4"]
    payloads[BAD_CHECKSUM] = sound[:-1] + bytes([sound[-1] ^ 1])
    payloads[CUT_SHORT] = sound[:50]
    octets = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINKTYPE_RAW)
    for name, payload in payloads.items():
        source, destination = (SPOKE6, HUB6) if name.endswith("IPv6") else (SPOKE, HUB)
        frame = as_captured(payload, source, destination)
        octets += struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame
    capture.write_bytes(octets)
    command = ["tshark", "-r", str(capture), "-T", "json", "--no-duplicate-keys"]
    command += ["-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    frames = json.loads(done.stdout)
    return {name: frame["_source"]["layers"] for name, frame in zip(payloads, frames, strict=True)}


def values(tree: Any, key: str) -> list[Any]:
    """Every value of a field anywhere in a dissection."""
    found: list[Any] = []
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                found += value if isinstance(value, list) else [value]
            found += values(value, key)
    elif isinstance(tree, list):
        for each in tree:
            found += values(each, key)
    return found


def complaints(tree: Any) -> list[Any]:
    """What the dissector finds wrong; a checksum has the status 1 if it is right."""
    wrong = [status for status in values(tree, "nhrp.hdr.chksum.status") if status != "1"]
    return wrong + values(tree, "_ws.expert.message") + values(tree, "_ws.malformed")


def numbers(tree: Any, key: str) -> list[int]:
    """Every value of a number field."""
    return [int(value, 0) for value in values(tree, key)]


def addresses(tree: Any, name: str) -> list[bytes]:
    """Every value of an address field, whichever of its names and spellings tshark uses."""
    suffixes = ("", "_bytes", "_byets", "_v4", "_v6")
    texts = [text for suffix in suffixes for text in values(tree, name + suffix)]
    return [parse_address(text) for text in texts]


def parse_address(text: str) -> bytes:
    """An address as text, or octets of any number between colons."""
    try:
        return parse_ip(text)
    except ValueError:
        return bytes.fromhex(text.replace(":", ""))


@pytest.mark.parametrize("name", PACKETS)
def test_plain_form(dissected: dict[str, dict[str, Any]], name: str) -> None:
    """An independent dissector has no complaint, and reads what we have written."""
    packet, layers = PACKETS[name], dissected[name]
    assert complaints(layers) == []
    assert numbers(layers, "gre.proto") == [gre.NHRP_PROTOCOL]
    nhrp = layers["nhrp"]
    fixed, mandatory = nhrp["NHRP Fixed Header"], nhrp["NHRP Mandatory Part"]
    assert numbers(fixed, "nhrp.hdr.op.type") == [packet.packet_type]
    assert numbers(fixed, "nhrp.hdr.pro.type") == [ProtocolType.MAC]
    assert numbers(fixed, "nhrp.hdr.hopcnt") == [16]
    assert numbers(fixed, "nhrp.hdr.pktsz") == [len(packet.encode())]
    assert addresses(mandatory, "nhrp.src.nbma.addr") == [packet.source_nbma]
    assert addresses(mandatory, "nhrp.src.nbma.saddr") == [
        octets for octets in [packet.source_subaddress] if octets
    ]
    assert addresses(mandatory, "nhrp.src.prot.addr") == [packet.source_protocol]
    assert addresses(mandatory, "nhrp.dst.prot.addr") == [packet.destination_protocol]
    if isinstance(packet, RequestOrReply):
        assert numbers(mandatory, "nhrp.reqid") == [packet.request_id]
        assert numbers(mandatory, "nhrp.flags") == [packet.flags]
        for field, wanted in (
            ("nhrp.code", [cie.code for cie in packet.cies]),
            ("nhrp.prefix", [cie.prefix_length for cie in packet.cies]),
            ("nhrp.mtu", [cie.mtu for cie in packet.cies]),
            ("nhrp.htime", [cie.holding_time for cie in packet.cies]),
        ):
            assert numbers(mandatory, field) == wanted, field
        nbma = [cie.nbma for cie in packet.cies if cie.nbma]
        assert addresses(mandatory, "nhrp.client.nbma.addr") == nbma
        subaddresses = [cie.subaddress for cie in packet.cies if cie.subaddress]
        assert addresses(mandatory, "nhrp.client.nbma.saddr") == subaddresses
        if not subaddresses:
            clients = [cie.protocol for cie in packet.cies if cie.protocol]
            assert addresses(mandatory, "nhrp.client.prot.addr") == clients
        # End is shown as an extension too.
        assert numbers(nhrp, "nhrp.ext.type") == [*(each.type for each in packet.extensions), 0]


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_error_indication(dissected: dict[str, dict[str, Any]], underlay: str) -> None:
    """The dissector finds the offending packet, whole, inside an Error Indication."""
    layers = dissected[f"error indication, {underlay}"]
    assert numbers(layers, "nhrp.err.code") == [ErrorCode.VPN_UNSUPPORTED]
    assert numbers(layers, "nhrp.err.offset") == [0]
    assert numbers(layers, "nhrp.reqid") == [0x01020304]


def test_responder_address(dissected: dict[str, dict[str, Any]]) -> None:
    """The server that answered is read from the Responder Address extension."""
    responder = dissected["registration reply, IPv4"]["nhrp"]["Responder Address Extension"]
    assert addresses(responder, "nhrp.client.nbma.addr") == [HUB]
    assert addresses(responder, "nhrp.client.prot.addr") == [NHS]
    assert numbers(responder, "nhrp.htime") == [7200]


def test_dissector_complains(dissected: dict[str, dict[str, Any]]) -> None:
    """The dissector does complain when there is reason to: about a checksum, about a length."""
    assert complaints(dissected[BAD_CHECKSUM])
    assert complaints(dissected[CUT_SHORT])


@pytest.mark.parametrize("name", PACKETS)
def test_rfc_form(name: str) -> None:
    """What we send for a VPN reads back equal, under the same VPN-ID (RFC 2735 §4.1)."""
    packet = PACKETS[name]
    data, key = gre.decode(gre.encode(packet.encode(Form.RFC, VPN), None), {None})
    assert key is None
    encapsulation, decoded = decode_payload(data)
    assert encapsulation == Encapsulation(Form.RFC, VPN, 24)
    assert decoded == packet
    assert data[encapsulation.offset :] == packet.encode()
