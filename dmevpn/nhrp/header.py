"""The part that is the same in every NHRP packet (RFC 2332 §5.1, §5.2.0). Layer: core.

Twenty octets of fixed header, eight octets of the mandatory part, and the four addresses whose
lengths they state.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.constants import NBMA_LENGTHS, PROTOCOL_LENGTHS, ProtocolType

__all__ = [
    "ADDRESSES",
    "CHECKSUM",
    "EXTENSIONS_OFFSET",
    "FIXED",
    "HOP_COUNT",
    "LONGEST_NBMA",
    "PACKET_SIZE",
    "PACKET_TYPE",
    "PROTOCOL_TYPE",
    "REQUEST_ID",
    "TYPE_BITS",
    "address_length",
    "decode_addresses",
    "ethertype",
    "protocol_length",
]

#: ar$afn, ar$pro.type, ar$pro.snap, ar$hopcnt, ar$pktsz, ar$chksum, ar$extoff, ar$op.version,
#: ar$op.type, ar$shtl, ar$sstl; lengths of source and destination protocol address, flags,
#: request ID (or, in indications, code and offset).
FIXED = Struct("!HH5sBHHHBBBBBBHL")

#: Offset of ar$pro.type.
PROTOCOL_TYPE: Final = 2
#: Offset of ar$hopcnt.
HOP_COUNT: Final = 9
#: Offset of ar$pktsz.
PACKET_SIZE: Final = 10
#: Offset of ar$chksum.
CHECKSUM: Final = 12
#: Offset of ar$extoff.
EXTENSIONS_OFFSET: Final = 14
#: Offset of ar$op.type.
PACKET_TYPE: Final = 17
#: Offset of the request ID.
REQUEST_ID: Final = 24
#: Offset of the first address.
ADDRESSES: Final = 28

#: Octets of an NBMA address or subaddress: what six bits can state.
LONGEST_NBMA: Final = 0x3F

#: The other two bits of a type/length octet: reserved, and E.164.
TYPE_BITS: Final = 0xC0
_E164: Final = 0x40


def address_length(type_length: int) -> int | None:
    """The length that a type/length octet states; None for a type of address we do not know.

    The bit for E.164 means nothing while there is no address.
    """
    if not type_length & TYPE_BITS:
        return type_length
    return 0 if type_length == _E164 else None


def decode_addresses(fields: tuple[Any, ...], raw: bytes) -> tuple[bytes, bytes, bytes, bytes, int]:
    """Source NBMA address, subaddress and protocol address, destination protocol address, end.

    :param fields: what FIXED unpacks.
    :param raw: the packet from ar$afn on.
    :raises MalformedPacket: ``bad_address``.
    """
    nbma_length = fields[9]
    subaddress_length = fields[10]
    if subaddress_length & TYPE_BITS:
        subaddress_length = address_length(subaddress_length)
    if NBMA_LENGTHS.get(fields[0]) != nbma_length or subaddress_length is None:
        raise MalformedPacket("bad_address")
    subaddress_at = ADDRESSES + nbma_length
    source_at = subaddress_at + subaddress_length
    destination_at = source_at + fields[11]
    end = destination_at + fields[12]
    if end > len(raw):
        raise MalformedPacket("bad_address")
    return (
        raw[ADDRESSES:subaddress_at],
        raw[subaddress_at:source_at],
        raw[source_at:destination_at],
        raw[destination_at:end],
        end,
    )


def ethertype(protocol_type: int, snap: bytes) -> int:
    """What ar$pro.type means: itself, or the Ethertype in ar$pro.snap."""
    if protocol_type == ProtocolType.SNAP and snap[:3] == b"\0\0\0":
        return int.from_bytes(snap[3:], "big")
    return protocol_type


def protocol_length(protocol_type: int, snap: bytes) -> int | None:
    """Octets of a protocol address; None if we do not know the type."""
    length = PROTOCOL_LENGTHS.get(protocol_type)
    if length is None:
        length = PROTOCOL_LENGTHS.get(ethertype(protocol_type, snap))
    return length
