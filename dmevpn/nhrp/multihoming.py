"""A station at several servers says so to each of them (RFC 2332 §5.3.5). Layer: core.

Servers that switch for their stations send to each other what stations flood. A station that is
registered with two of them would have each frame twice, its own ones among them, if the one did not
know that it has them from the other. So it adds to its registrations a Vendor-Private extension:

    OUI 02-00-00 | 3 | flags | octets of an address | NBMA addresses of other servers

A server that does not know it passes it over. RFC 2332 has no such thing, since none of its
servers floods.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.nhrp.extensions import VendorPrivate
from dmevpn.nhrp.packet import Packet

__all__ = ["apart", "other_servers"]

_KIND: Final = b"\x03"
#: OUI and kind in the octets of the extension, behind type and length.
_PLACE: Final = slice(4, 8)
_OURS: Final = DEFAULT_OUI + _KIND
#: Flag: what servers flood that are not named is left to the ones named, too. Of all servers of a
#: station one does not get this flag.
_LEFT: Final = 1
#: Addresses that are read; a station has a few servers.
_MOST: Final = 16
#: Extensions whose meaning is kept at hand: all stations of the same servers have the same.
_KNOWN: Final = 256


def other_servers(addresses: tuple[bytes, ...], *, leave: bool) -> VendorPrivate:
    """The extension for one server of a station.

    :param addresses: underlay addresses of its other servers, all of one family.
    :param leave: whether what still others flood comes by one of them as well.
    """
    octets = len(addresses[0])
    head = bytes([_KIND[0], _LEFT if leave else 0, octets])
    return VendorPrivate(DEFAULT_OUI, head + b"".join(addresses[:_MOST]))


def apart(packet: Packet) -> frozenset[bytes] | None:
    """The servers whose floods the station of a Registration Request has from themselves; None:
    those of all other servers come to it without us. Empty if it says nothing."""
    for extension in packet.extensions:
        if type(extension) is VendorPrivate and extension[_PLACE] == _OURS:
            return _read(bytes(extension))
    return frozenset()


@lru_cache(_KNOWN)
def _read(extension: bytes) -> frozenset[bytes] | None:
    flags, octets, addresses = extension[8:9], extension[9:10], extension[10:]
    if octets not in (b"\x04", b"\x10") or len(addresses) % octets[0]:
        return frozenset()
    if flags[0] & _LEFT:
        return None
    size = octets[0]
    end = min(len(addresses), _MOST * size)
    return frozenset([addresses[place : place + size] for place in range(0, end, size)])
