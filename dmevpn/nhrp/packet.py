"""NHRP packets: their types, and how they are read from GRE payloads (RFC 2332 §5). Layer: core."""

from __future__ import annotations

from struct import error as StructError
from typing import Any, Final

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.errors import MalformedPacket
from dmevpn.metrics import Counter
from dmevpn.nhrp.constants import PROTOCOL_LENGTHS, VERSION, ErrorCode
from dmevpn.nhrp.encapsulation import LEGACY_FORMS, Encapsulation, Form, decapsulate
from dmevpn.nhrp.extensions import Extension, decode_extensions
from dmevpn.nhrp.header import (
    ADDRESSES,
    EXTENSIONS_OFFSET,
    FIXED,
    PROTOCOL_TYPE,
    decode_addresses,
    protocol_length,
)
from dmevpn.nhrp.packet_types import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    Request,
    RequestOrReply,
    ResolutionReply,
    ResolutionRequest,
    TrafficIndication,
    seal,
)
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.wire import checksum_holds, left_padded_checksum_holds

__all__ = [
    "ErrorIndication",
    "Packet",
    "PurgeReply",
    "PurgeRequest",
    "RegistrationReply",
    "RegistrationRequest",
    "Request",
    "RequestOrReply",
    "ResolutionReply",
    "ResolutionRequest",
    "TrafficIndication",
    "decode",
    "decode_embedded",
    "decode_payload",
    "forgotten",
    "seal",
]

_NO_ENCAPSULATION = Encapsulation(Form.PLAIN, None, 0)

_CLASSES: dict[int, type[Packet]] = {
    int(cls.packet_type): cls
    for cls in (
        ResolutionRequest,
        ResolutionReply,
        RegistrationRequest,
        RegistrationReply,
        PurgeRequest,
        PurgeReply,
        ErrorIndication,
        TrafficIndication,
    )
}


#: CIEs and extensions that were read before, by the octets of both, where the extensions begin in
#: them, and the lengths of NBMA and protocol addresses. Nearly all requests have one of a few.
_tails: dict[tuple[int, int, int, bytes], tuple[tuple[CIE, ...], tuple[Extension, ...]]] = {}
#: Times that all were forgotten, since they were too many.
forgotten: Final = Counter()
#: How many of them are kept, and how long they may be, in octets.
_MOST_TAILS: Final = 512
_LONGEST_TAIL: Final = 128


def decode(
    payload: bytes, encapsulation: Encapsulation = _NO_ENCAPSULATION, *, left_padded: bool = False
) -> Packet:
    """Read a packet.

    The checks are made in a fixed order, so that a packet with several faults is always counted
    under the same one. An unreadable or untrustworthy packet raises without an error code and is
    to be dropped in silence; once the addresses are known, the exception has the packet, too.

    :param encapsulation: what :func:`~dmevpn.nhrp.encapsulation.decapsulate` found.
    :param left_padded: also accept the checksum that older daemons give packets of odd length.
    :raises MalformedPacket: and nothing else, whatever the octets.
    """
    form, _, start = encapsulation
    counted = start if form in LEGACY_FORMS else 0
    try:
        fields = FIXED.unpack_from(payload, start)
    except StructError:
        raise MalformedPacket("truncated") from None
    size = fields[4] - counted
    end = start + size
    if size < ADDRESSES or end > len(payload):
        raise MalformedPacket("truncated")
    raw = payload[start:end]
    covered = payload[:end] if counted else raw
    if not (checksum_holds(covered) or (left_padded and left_padded_checksum_holds(covered))):
        raise MalformedPacket("bad_checksum")
    packet, rest = _decode_header(fields, raw)
    extensions = fields[6] - counted
    key = len(packet.source_nbma), len(packet.source_protocol), extensions - rest, raw[rest:]
    tail = _tails.get(key)
    if tail is not None and isinstance(packet, RequestOrReply):
        packet.flags = fields[13]
        packet.request_id = fields[14]
        packet.cies, packet.extensions = tail
        packet.bare_end = True
        return packet
    try:
        if not fields[6]:
            packet.decode_rest(fields[13], fields[14], rest, size)
        elif rest <= extensions <= size:
            packet.decode_rest(fields[13], fields[14], rest, extensions)
            found = packet.extensions = decode_extensions(raw, extensions, key[0])
            packet.bare_end = not packet.extensions or isinstance(packet, RequestOrReply)
            if (
                isinstance(packet, RequestOrReply)
                and size - rest <= _LONGEST_TAIL
                and not found.unique
            ):
                if len(_tails) >= _MOST_TAILS:
                    _tails.clear()
                    forgotten.inc()
                _tails[key] = packet.cies, packet.extensions
        else:
            code = ErrorCode.PROTOCOL_ERROR
            raise MalformedPacket("bad_extension_offset", code=code, offset=EXTENSIONS_OFFSET)
    except MalformedPacket as error:
        error.packet = packet
        raise
    return packet


def decode_embedded(octets: bytes) -> Packet:
    """Read header and addresses of the packet that an Error Indication is about.

    It may be cut anywhere behind its addresses (RFC 2332 §5.2.7), so neither length nor checksum
    are looked at. The result has its request ID, but no CIEs, contents or extensions.

    :param octets: from ar$afn on.
    :raises MalformedPacket: and nothing else, if not even the addresses are there.
    """
    try:
        fields = FIXED.unpack_from(octets)
    except StructError:
        raise MalformedPacket("truncated") from None
    packet, rest = _decode_header(fields, octets)
    packet.decode_rest(fields[13], fields[14], rest, rest)
    return packet


def decode_payload(payload: bytes, oui: bytes = DEFAULT_OUI) -> tuple[Encapsulation, Packet]:
    """Read a packet with the VPN headers before it.

    :param oui: of the VPNs of legacy packets, which do not say.
    :raises MalformedPacket: and nothing else, whatever the octets.
    """
    encapsulation = decapsulate(payload, oui)
    return encapsulation, decode(payload, encapsulation)


def _decode_header(fields: tuple[Any, ...], raw: bytes) -> tuple[Packet, int]:
    """Make the packet out of its fixed fields and addresses; the offset is where they end.

    What :meth:`Packet.decode_rest` reads is not set yet.
    """
    if fields[7] != VERSION:
        raise MalformedPacket("bad_version")
    packet_class = _CLASSES.get(fields[8])
    if packet_class is None:
        raise MalformedPacket("bad_type")
    nbma, subaddress, source, destination, end = decode_addresses(fields, raw)
    packet = packet_class.__new__(packet_class)
    packet.source_nbma = nbma
    packet.source_subaddress = subaddress
    packet.source_protocol = source
    packet.destination_protocol = destination
    packet.protocol_type = protocol_type = fields[1]
    packet.snap = snap = fields[2]
    packet.hop_count = fields[3]
    packet.extensions = ()
    packet.bare_end = False
    packet.raw = raw
    packet.spi = 0
    width = PROTOCOL_LENGTHS.get(protocol_type) or protocol_length(protocol_type, snap)
    if width is None:
        packet.decode_rest(fields[13], fields[14], end, end)
        code = ErrorCode.PROTOCOL_ERROR
        raise MalformedPacket("bad_protocol_type", code=code, offset=PROTOCOL_TYPE, packet=packet)
    if len(source) != width or len(destination) != width:
        # Who reports an error may not know the one or the other address (RFC 2332 §5.2.7).
        lengths = (0, width) if packet_class is ErrorIndication else (width,)
        if len(source) not in lengths or len(destination) not in lengths:
            raise MalformedPacket("bad_address")
    return packet, end
