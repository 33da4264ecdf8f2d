"""Addresses and identifiers as values: MAC, IPv4, IPv6, VPN-ID, VNI, VTEP, path. Layer: base.

Inside dmevpn every address is the ``bytes`` that stand on the wire: six octets are a MAC, four
an IPv4 and sixteen an IPv6 address. Text exists at the edges only (configuration, admin, log),
and the functions here are the one way across.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = [
    "DEFAULT_OUI",
    "MAC_LENGTH",
    "VNI_MAX",
    "VPNID",
    "VTEP",
    "Path",
    "format_address",
    "is_station_mac",
    "parse_ip",
    "parse_mac",
    "parse_oui",
    "parse_prefix",
    "parse_protocol_address",
    "parse_vni",
]

#: Octets of a MAC; no other protocol address has as many.
MAC_LENGTH = 6

#: Largest VXLAN network identifier: 24 bits (RFC 7348 §5). Zero is never used.
VNI_MAX = 0xFFFFFF

#: OUI of our VPN identifiers: locally administered, so nobody's registered one (RFC 2685 §4).
DEFAULT_OUI = b"\x02\x00\x00"

_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}", re.IGNORECASE)
_OUI = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}\1[0-9a-f]{2}", re.IGNORECASE)


class VPNID(NamedTuple):
    """A virtual private network's identifier (RFC 2685): who assigned it, and its number."""

    oui: bytes
    """Three octets: the authority that assigned the index."""
    index: int  # type: ignore[assignment]
    """1 to 4294967295; unique under the OUI."""

    def __str__(self) -> str:
        return f"{self.oui.hex('-')}:{self.index}"


class VTEP(NamedTuple):
    """Where frames of a VPN are sent at a site: underlay address and that site's own VNI."""

    nbma: bytes
    """Underlay address, four or sixteen octets."""
    vni: int | None
    """1 to VNI_MAX; None where the overlay is not VXLAN."""

    def __str__(self) -> str:
        address = format_address(self.nbma)
        return address if self.vni is None else f"{address} vni {self.vni}"


class Path(NamedTuple):
    """Where a datagram came from, or where it goes."""

    peer: bytes
    """The peer's underlay address (outer source on receipt, outer destination on sending)."""
    local: bytes = b""
    """Our underlay address; empty: the kernel chooses."""
    key: int | None = None
    """GRE key (RFC 2890), or None for packets without one."""

    def __str__(self) -> str:
        return format_address(self.peer)


def format_address(octets: bytes) -> str:
    """Write a MAC, IPv4 or IPv6 address, told apart by its length, as text.

    An empty address is ``-``; any other length, which only a peer's mistake yields, is plain
    hexadecimal, so that a log line never fails.
    """
    if len(octets) == 6:
        return octets.hex(":")
    if len(octets) in (4, 16):
        return str(ipaddress.ip_address(octets))
    return octets.hex() or "-"


def parse_ip(text: str) -> bytes:
    """Read an IPv4 or IPv6 address.

    :raises ValueError: if it is neither.
    """
    return ipaddress.ip_address(text).packed


def parse_mac(text: str) -> bytes:
    """Read a MAC address, six pairs of hexadecimal digits between colons or hyphens.

    :raises ValueError: if it is none.
    """
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text!r} is not a MAC address")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_protocol_address(text: str) -> bytes:
    """Read what NHRP may resolve: a MAC, IPv4 or IPv6 address.

    :raises ValueError: if it is none of them.
    """
    try:
        return parse_mac(text)
    except ValueError:
        pass
    try:
        return parse_ip(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a MAC, IPv4 or IPv6 address") from None


def parse_prefix(text: str) -> tuple[bytes, int]:
    """Read ``ADDRESS[/BITS]``; without BITS the whole address is meant.

    :raises ValueError: if the address is none or BITS exceed its width.
    """
    address, slash, bits = text.partition("/")
    octets = parse_protocol_address(address)
    width = 8 * len(octets)
    if not slash:
        return octets, width
    if not (bits.isascii() and bits.isdigit()) or int(bits) > width:
        raise ValueError(f"{text!r}: the prefix length must be 0 to {width}")
    return octets, int(bits)


def parse_oui(text: str) -> bytes:
    """Read an organisation's identifier, three pairs of hexadecimal digits (02-00-00).

    :raises ValueError: if it is none.
    """
    if not _OUI.fullmatch(text):
        raise ValueError(f"{text!r} is not an OUI such as 02-00-00")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_vni(text: str) -> int:
    """Read a VXLAN network identifier, 1 to 16777215.

    :raises ValueError: outside that range.
    """
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= VNI_MAX:
        raise ValueError(f"{text!r} is not a VNI from 1 to {VNI_MAX}")
    return int(text)


def is_station_mac(mac: bytes) -> bool:
    """Whether a MAC can name one station: six octets, not a group address, not all zeros."""
    return len(mac) == 6 and not mac[0] & 1 and any(mac)
