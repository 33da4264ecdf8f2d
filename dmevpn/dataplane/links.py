"""Network devices as they are. Layer: edge.

They are read after every event that concerns them, hence by our own codec: a device by its name
takes 75 µs, against 2.3 ms by pyroute2 (``link("get")``; ``get_links`` 2.8 ms), which makes and
changes them (:mod:`dmevpn.dataplane.link_changes`). Sources: Linux ``uapi/linux/if_link.h``,
``net/core/rtnetlink.c``, ``drivers/net/vxlan/vxlan_core.c``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dmevpn.dataplane.netlink import Message, NetlinkRequests, attribute, parse_attributes

__all__ = [
    "IFNAME_MAX",
    "Link",
    "LinkTable",
    "VXLANParameters",
    "parse_links",
]

#: Longest device name: IFNAMSIZ less its final NUL.
IFNAME_MAX = 15

RTNLGRP_LINK = 1

_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_RTM_GETLINK = 18
_RTM_GETADDR = 22
_RTM_NEWADDR = 20

_IFF_UP = 1

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_IFALIAS = 20
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2

_VXLAN_ID = 1
_VXLAN_GROUP = 2
_VXLAN_LOCAL = 4
_VXLAN_LEARNING = 7
_VXLAN_L2MISS = 13
_VXLAN_PORT = 15
_VXLAN_GROUP6 = 16
_VXLAN_LOCAL6 = 17
_VXLAN_COLLECT_METADATA = 25

_IFA_ADDRESS = 1
_IFA_LOCAL = 2

# struct ifinfomsg: family, type, index, flags, change.
_INFO = struct.Struct("=BxHiII")
# struct ifaddrmsg: family, prefix length, flags, scope, index.
_ADDRESS = struct.Struct("=BBBBi")
_HEADER = struct.Struct("=IHHII")


class VXLANParameters(NamedTuple):
    """What a vxlan device was made with; all of it but ``remote`` is fixed for its life."""

    vni: int
    """0 for an external device."""
    local: bytes
    """Underlay source address; empty: the kernel's choice."""
    remote: bytes
    """Default destination; empty: none."""
    port: int
    learning: bool
    l2miss: bool
    external: bool


class Link(NamedTuple):
    """One network device."""

    ifindex: int
    name: str
    up: bool
    """Administratively up."""
    mtu: int
    master: int
    """Index of the bridge that it is a port of, or 0."""
    kind: str
    """``vxlan``, ``bridge``, …; empty for hardware."""
    alias: str
    address: bytes
    vxlan: VXLANParameters | None


def _u32(data: bytes | None) -> int:
    return int(struct.unpack_from("=I", data)[0]) if data and len(data) >= 4 else 0


def _text(data: bytes | None) -> str:
    return data.rstrip(b"\0").decode(errors="replace") if data else ""


def _parse_vxlan(data: bytes) -> VXLANParameters:
    found = parse_attributes(data)
    port = found.get(_VXLAN_PORT, b"\0\0")

    def address(ipv4: int, ipv6: int) -> bytes:
        value = found.get(ipv4) or found.get(ipv6) or b""
        return value if any(value) else b""

    return VXLANParameters(
        vni=_u32(found.get(_VXLAN_ID)),
        local=address(_VXLAN_LOCAL, _VXLAN_LOCAL6),
        remote=address(_VXLAN_GROUP, _VXLAN_GROUP6),
        port=int.from_bytes(port[:2], "big"),
        learning=any(found.get(_VXLAN_LEARNING, b"")),
        l2miss=any(found.get(_VXLAN_L2MISS, b"")),
        external=any(found.get(_VXLAN_COLLECT_METADATA, b"")),
    )


def parse_links(data: bytes) -> Iterator[tuple[bool, Link]]:
    """The devices among the messages of one datagram; False with one that is gone."""
    offset = 0
    while offset + 32 <= len(data):
        length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < 32:
            return
        family, _, index, flags, _ = _INFO.unpack_from(data, offset + 16)
        # Family AF_BRIDGE: a port's settings, whose removal is not that of the device.
        if type_ in (_RTM_NEWLINK, _RTM_DELLINK) and family == socket.AF_UNSPEC:
            found = parse_attributes(data[offset : offset + length], 32)
            info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
            kind = _text(info.get(_IFLA_INFO_KIND))
            yield (
                type_ == _RTM_NEWLINK,
                Link(
                    ifindex=index,
                    name=_text(found.get(_IFLA_IFNAME)),
                    up=bool(flags & _IFF_UP),
                    mtu=_u32(found.get(_IFLA_MTU)),
                    master=_u32(found.get(_IFLA_MASTER)),
                    kind=kind,
                    alias=_text(found.get(_IFLA_IFALIAS)),
                    address=found.get(_IFLA_ADDRESS, b""),
                    vxlan=_parse_vxlan(info.get(_IFLA_INFO_DATA, b"")) if kind == "vxlan" else None,
                ),
            )
        offset += (length + 3) & ~3


class LinkTable:
    """The kernel's table of devices, read when asked."""

    def __init__(self, requests: NetlinkRequests) -> None:
        self._requests = requests

    def named(self, name: str) -> Link | None:
        """The device of that name, or None.

        :raises DataplaneError: if the kernel does not say.
        """
        if len(name.encode()) > IFNAME_MAX:
            return None
        return self._read(0, attribute(_IFLA_IFNAME, name.encode() + b"\0"))

    def numbered(self, index: int) -> Link | None:
        """The device of that index, or None."""
        return self._read(index, b"")

    def ports(self, bridge: int) -> list[Link]:
        """The ports of a bridge, by its index."""
        body = _INFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        body += attribute(_IFLA_MASTER, struct.pack("=I", bridge))
        return [
            link
            for data in self._requests.dump(Message(_RTM_GETLINK, 0, body))
            for _, link in parse_links(data)
            if link.master == bridge
        ]

    def all(self) -> list[Link]:
        """Every device of the namespace."""
        body = _INFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [
            link
            for data in self._requests.dump(Message(_RTM_GETLINK, 0, body))
            for _, link in parse_links(data)
        ]

    def owner(self, address: bytes) -> Link | None:
        """The device that has an IPv4 or IPv6 address of ours."""
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        found = 0
        body = _ADDRESS.pack(family, 0, 0, 0, 0)
        for data in self._requests.dump(Message(_RTM_GETADDR, 0, body)):
            offset = 0
            while offset + 24 <= len(data):
                length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
                if length < 24:
                    break
                if type_ == _RTM_NEWADDR:
                    attributes = parse_attributes(data[offset : offset + length], 24)
                    # IPv4 point-to-point: IFA_LOCAL is ours and IFA_ADDRESS the peer's.
                    if attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS)) == address:
                        found = _ADDRESS.unpack_from(data, offset + 16)[4]
                offset += (length + 3) & ~3
        return self.numbered(found) if found else None

    def _read(self, index: int, attributes: bytes) -> Link | None:
        body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes
        data = self._requests.get(Message(_RTM_GETLINK, 0, body))
        if data is None:
            return None
        return next((link for _, link in parse_links(data)), None)
