"""The Internet checksum, as NHRP uses it (RFC 2332 §5.1, RFC 1071). Layer: core.

The ones'-complement sum of 16-bit words is the number that the octets spell, modulo 65535: 2**16
is 1 there, so every word counts once wherever it stands. Python divides long integers faster
than it can look at words one by one.
"""

from __future__ import annotations

__all__ = ["checksum", "checksum_holds", "left_padded_checksum_holds"]


def checksum(octets: bytes) -> int:
    """The checksum of octets whose checksum field is zero; an odd last octet is a high half."""
    number = int.from_bytes(octets, "big")
    if len(octets) & 1:
        number <<= 8
    return -number % 0xFFFF


def checksum_holds(octets: bytes) -> bool:
    """Whether octets, their checksum field among them, add up.

    The zero that pads an odd length need not be added: it multiplies the number by 256, which
    has no factor in common with 65535. All zeros add up too, but no NHRP packet is that.
    """
    return int.from_bytes(octets, "big") % 0xFFFF == 0


def left_padded_checksum_holds(octets: bytes) -> bool:
    """The same, by the reading of older daemons: an odd last octet is a low half.

    OpenNHRP and the original dmevpn send this. It matters for packets of odd length only.
    """
    if len(octets) & 1:
        octets = octets[:-1] + b"\0" + octets[-1:]
    return checksum_holds(octets)
