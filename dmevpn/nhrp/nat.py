"""Addresses as they are seen from outside of an address translation. Layer: core.

No RFC has this: it is Cisco's, and FRR and OpenNHRP follow. The NAT Address extension has a CIE for
each station whose address is another outside than the station says.
"""

from __future__ import annotations

from dmevpn.nhrp.extensions import NATAddress
from dmevpn.nhrp.packet import Packet
from dmevpn.nhrp.records import CIE

__all__ = ["nat_address", "outer_address"]


def outer_address(packet: Packet, protocol: bytes) -> bytes:
    """The NBMA address by which a station is seen, as a packet says; empty if it does not."""
    extension = packet.extension(NATAddress)
    for cie in () if extension is None else extension.cies:
        if cie.protocol == protocol and cie.nbma:
            return cie.nbma
    return b""


def nat_address(nbma: bytes, protocol: bytes, mtu: int) -> NATAddress:
    """The extension about one station.

    :param nbma: the address by which it is seen; empty: the extension says nothing.
    """
    if not nbma:
        return NATAddress()
    return NATAddress(
        (CIE(prefix_length=8 * len(protocol), mtu=mtu, nbma=nbma, protocol=protocol),)
    )
