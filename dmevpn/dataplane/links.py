"""Network devices as they are. Layer: edge.

They are read after every event that concerns them, hence by our own codec: a device by its name
takes 75 µs, against 2.3 ms by pyroute2 (``link("get")``; ``get_links`` 2.8 ms), which makes and
changes them (:mod:`dmevpn.dataplane.link_changes`). Sources: Linux ``uapi/linux/if_link.h``,
``net/core/rtnetlink.c``, ``drivers/net/vxlan/vxlan_core.c``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dmevpn.dataplane.netlink import Message, NetlinkRequests, attribute, parse_attributes
from dmevpn.errors import DataplaneError

__all__ = [
    "GRE_DEVICE_TYPES",
    "IFNAME_MAX",
    "GREParameters",
    "Link",
    "LinkTable",
    "PortSettings",
    "VXLANParameters",
    "parse_links",
    "parse_ports",
]

#: Longest device name: IFNAMSIZ less its final NUL.
IFNAME_MAX = 15

#: What ``struct ifinfomsg`` calls a device whose packets are GRE payloads (``linux/if_arp.h``):
#: ARPHRD_IPGRE and ARPHRD_IP6GRE. Devices that carry Ethernet frames in GRE have another type.
GRE_DEVICE_TYPES = frozenset({778, 823})

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9

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
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5

_PORT_LEARNING = 8
_PORT_FLOOD = 9
_PORT_MULTICAST_ROUTER = 25
_PORT_MULTICAST_FLOOD = 27
_PORT_BROADCAST_FLOOD = 30
_PORT_ISOLATED = 33
#: MDB_RTR_TYPE_PERM in linux/if_bridge.h: all groups are forwarded there, whoever asked for them.
_ROUTER_PERMANENT = 2

_VXLAN_ID = 1
_VXLAN_GROUP = 2
_VXLAN_LOCAL = 4
_VXLAN_LEARNING = 7
_VXLAN_L2MISS = 13
_VXLAN_PORT = 15
_VXLAN_GROUP6 = 16
_VXLAN_LOCAL6 = 17
_VXLAN_COLLECT_METADATA = 25
#: Further options that change what becomes of frames, by the words of ``ip link``.
_VXLAN_EXTRAS = {
    9: "maxaddress",
    11: "proxy",
    12: "rsc",
    14: "l3miss",
    23: "gbp",
    27: "gpe",
    30: "vnifilter",
}

# linux/if_tunnel.h
_GRE_IFLAGS = 2
_GRE_IKEY = 4
_GRE_LOCAL = 6
_GRE_REMOTE = 7
_GRE_COLLECT_METADATA = 18
_GRE_KEY = 0x2000

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
    extras: frozenset[str] = frozenset()
    """Options that none of ours has and that change what becomes of frames, by ``ip``'s words."""


class PortSettings(NamedTuple):
    """How a bridge treats one of its ports."""

    learning: bool
    isolated: bool
    """It exchanges no frames with other isolated ports."""
    flood: bool
    """Frames of unknown unicast MACs go out of it."""
    group_flood: bool
    """Broadcast and multicast frames go out of it."""
    all_groups: bool
    """Multicast goes out of it even if the bridge snoops and nobody there has asked for it."""


class GREParameters(NamedTuple):
    """How a GRE device wraps its packets; all of it may change during its life."""

    key: int | None
    """Key of the packets that it takes; None: they have none."""
    local: bytes
    """Underlay source address; empty: the kernel's choice."""
    remote: bytes
    """The only peer, or the group that stands for all; empty: whom the link-layer address says."""
    external: bool
    """Takes its parameters from routes and filters, packet by packet."""


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
    type: int = 0
    """ARPHRD_ value: what its frames are."""
    gre: GREParameters | None = None
    """Of kind ``gre`` and ``ip6gre``."""
    port: PortSettings | None = None
    """Of a port of a bridge."""


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
        # Some are flags: there, without a value, or not there.
        extras=frozenset(
            name
            for type_, name in _VXLAN_EXTRAS.items()
            if type_ in found and (any(found[type_]) or not found[type_])
        ),
    )


def _parse_gre(data: bytes) -> GREParameters:
    found = parse_attributes(data)
    flags = int.from_bytes(found.get(_GRE_IFLAGS, b""), "big")

    def address(type_: int) -> bytes:
        value = found.get(type_, b"")
        return value if any(value) else b""

    return GREParameters(
        key=int.from_bytes(found.get(_GRE_IKEY, b""), "big") if flags & _GRE_KEY else None,
        local=address(_GRE_LOCAL),
        remote=address(_GRE_REMOTE),
        # A flag: it is there, without a value, or it is not.
        external=_GRE_COLLECT_METADATA in found,
    )


def _parse_port(data: bytes) -> PortSettings:
    found = parse_attributes(data)

    def on(type_: int) -> bool:
        return any(found.get(type_, b"\x01"))

    # A kernel without snooping has no such setting, and nothing that it would have to overrule.
    router = found.get(_PORT_MULTICAST_ROUTER, bytes([_ROUTER_PERMANENT]))[0]
    return PortSettings(
        learning=on(_PORT_LEARNING),
        isolated=on(_PORT_ISOLATED),
        flood=on(_PORT_FLOOD),
        group_flood=on(_PORT_MULTICAST_FLOOD) and on(_PORT_BROADCAST_FLOOD),
        all_groups=router == _ROUTER_PERMANENT,
    )


def parse_ports(data: bytes) -> Iterator[int]:
    """Indices of the bridge ports whose settings the messages of one datagram are about."""
    offset = 0
    while offset + 32 <= len(data):
        length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < 32:
            return
        family, _, index, _, _ = _INFO.unpack_from(data, offset + 16)
        if type_ == _RTM_NEWLINK and family == socket.AF_BRIDGE:
            yield index
        offset += (length + 3) & ~3


def parse_links(data: bytes) -> Iterator[tuple[bool, Link]]:
    """The devices among the messages of one datagram; False with one that is gone."""
    offset = 0
    while offset + 32 <= len(data):
        length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < 32:
            return
        family, device_type, index, flags, _ = _INFO.unpack_from(data, offset + 16)
        # Family AF_BRIDGE: a port's settings, whose removal is not that of the device.
        if type_ in (_RTM_NEWLINK, _RTM_DELLINK) and family == socket.AF_UNSPEC:
            found = parse_attributes(data[offset : offset + length], 32)
            info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
            kind = _text(info.get(_IFLA_INFO_KIND))
            details = info.get(_IFLA_INFO_DATA, b"")
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
                    vxlan=_parse_vxlan(details) if kind == "vxlan" else None,
                    type=device_type,
                    gre=_parse_gre(details) if kind in ("gre", "ip6gre") else None,
                    port=_parse_port(info.get(_IFLA_INFO_SLAVE_DATA, b""))
                    if _text(info.get(_IFLA_INFO_SLAVE_KIND)) == "bridge"
                    else None,
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
        for index, own, _ in self._addresses(family, 0):
            if own == address:
                found = index
        return self.numbered(found) if found else None

    def addresses(self, index: int) -> list[tuple[bytes, int]]:
        """The IPv4 and IPv6 addresses of a device with their prefix lengths, sorted.

        A device that is gone has none.
        """
        try:
            return sorted(
                {
                    (own, bits)
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for number, own, bits in self._addresses(family, index)
                    if number == index
                }
            )
        except DataplaneError as error:
            if error.errno != errno.ENODEV:
                raise
            return []

    def _addresses(self, family: int, index: int) -> Iterator[tuple[int, bytes, int]]:
        """Addresses of ours of one family, each with the index of its device and its prefix length.

        :param index: of the device to ask for; 0: all.
        """
        body = _ADDRESS.pack(family, 0, 0, 0, index)
        for data in self._requests.dump(Message(_RTM_GETADDR, 0, body)):
            offset = 0
            while offset + 24 <= len(data):
                length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
                if length < 24:
                    break
                if type_ == _RTM_NEWADDR:
                    _, bits, _, _, device = _ADDRESS.unpack_from(data, offset + 16)
                    attributes = parse_attributes(data[offset : offset + length], 24)
                    # IPv4 point-to-point: IFA_LOCAL is ours and IFA_ADDRESS the peer's.
                    own = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
                    if own is not None:
                        yield device, own, bits
                offset += (length + 3) & ~3

    def _read(self, index: int, attributes: bytes) -> Link | None:
        body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes
        data = self._requests.get(Message(_RTM_GETLINK, 0, body))
        if data is None:
            return None
        return next((link for _, link in parse_links(data)), None)
