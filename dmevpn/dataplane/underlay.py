"""The way from this machine to a hub, and the MTU that it leaves. Layer: edge."""

from __future__ import annotations

import socket
from typing import NamedTuple

from dmevpn.addresses import format_address
from dmevpn.dataplane.links import LinkTable
from dmevpn.errors import StartError

__all__ = [
    "OVERHEAD_IPV4",
    "OVERHEAD_IPV6",
    "Underlay",
    "find_underlay",
    "overlay_mtu",
    "source_address",
]

#: Octets that VXLAN adds to a frame's payload: inner Ethernet header, VXLAN, UDP, IP (RFC 7348 §5).
OVERHEAD_IPV4 = 50
OVERHEAD_IPV6 = 70
#: What an Ethernet host must be able to receive over IPv6 (RFC 8200 §5); below it we do not go.
_MTU_MIN = 1280
#: Largest MTU of a vxlan device.
_MTU_MAX = 65535
#: Any UDP port: connecting a socket sends nothing, it only has the kernel find the route.
_DISCARD_PORT = 9

#: From linux/in.h and linux/in6.h; CPython does not name the first.
_IP_MTU = 14
_IPV6_MTU = 24


class Underlay(NamedTuple):
    """How this machine reaches the hub."""

    local: bytes
    """Our address."""
    mtu: int
    """Largest packet in octets, the underlay's IP header included."""
    ifindex: int = 0
    """Index of the device that has the address; 0: none."""
    limit: int = _MTU_MAX
    """The same by the route alone, if that allows less than the device."""

    @property
    def overlay_mtu(self) -> int:
        """What is left for a frame's payload."""
        return overlay_mtu(self.mtu, OVERHEAD_IPV4 if len(self.local) == 4 else OVERHEAD_IPV6)


def overlay_mtu(underlay: int, overhead: int) -> int:
    """MTU of a vxlan device over an underlay."""
    return min(max(underlay - overhead, _MTU_MIN), _MTU_MAX)


def find_underlay(links: LinkTable, interface: str, hub: bytes, local: bytes | None) -> Underlay:
    """Our address and MTU towards a hub, as the kernel routes it now.

    :param interface: for the error text.
    :param local: the address to use; None: the kernel's choice.
    :raises StartError: if the address is not ours, or the hub cannot be reached.
    """
    family = socket.AF_INET if len(hub) == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise StartError(
            f"interface {interface}: no {'IPv6' if len(hub) == 16 else 'IPv4'} socket:"
            f" {error.strerror}"
        ) from None
    with sock:
        if local is not None:
            if len(local) != len(hub):
                raise StartError(
                    f"interface {interface}: nbma-address {format_address(local)} and hub"
                    f" {format_address(hub)} are of different address families"
                )
            try:
                sock.bind((format_address(local), 0))
            except OSError:
                raise StartError(
                    f"interface {interface}: nbma-address {format_address(local)} is no address"
                    " of this machine"
                ) from None
        try:
            sock.connect((format_address(hub), _DISCARD_PORT))
        except OSError as error:
            raise StartError(
                f"interface {interface}: no way to hub {format_address(hub)}: {error.strerror};"
                " check the underlay's address and routes"
            ) from None
        chosen = socket.inet_pton(family, sock.getsockname()[0])
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU) if len(hub) == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
        )
        mtu = sock.getsockopt(level, option)
    # A hub on this machine is reached through the loopback; other sites are not.
    owner = links.owner(chosen)
    if owner is None:
        return Underlay(chosen, mtu)
    limit = mtu if mtu < owner.mtu else _MTU_MAX
    return Underlay(chosen, min(limit, owner.mtu), owner.ifindex, limit)


def source_address(peer: bytes) -> bytes:
    """Our address towards another, as the kernel routes it now; empty if there is no way."""
    family = socket.AF_INET if len(peer) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((format_address(peer), _DISCARD_PORT))
            return socket.inet_pton(family, sock.getsockname()[0])
    except OSError:
        return b""
