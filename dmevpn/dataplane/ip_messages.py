"""Neighbours and routes of IPv4 and IPv6 as rtnetlink messages. Layer: edge.

Sources: Linux ``uapi/linux/neighbour.h``, ``uapi/linux/rtnetlink.h``, ``net/core/neighbour.c``,
``net/ipv4/fib_frontend.c``, ``net/ipv6/route.c``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dmevpn.addresses import format_address
from dmevpn.dataplane.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkRequests,
    attribute,
    nested,
    parse_attributes,
)

__all__ = [
    "OURS",
    "RTM_GETNEIGH",
    "Neighbour",
    "Probes",
    "Route",
    "describe",
    "has_noarp",
    "neighbour_delete",
    "neighbour_dump",
    "neighbour_get",
    "neighbour_set",
    "parse_neighbours",
    "parse_probes",
    "parse_question",
    "parse_routes",
    "probes_dump",
    "probes_set",
    "route_add",
    "route_delete",
    "route_dump",
    "route_get",
    "set_noarp",
]

#: Our mark on neighbours and routes (``ip neigh`` and ``ip route`` show it as ``proto 143``): a
#: number that neither the kernel nor iproute2 nor FRR gives to a routing daemon.
OURS = 143

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RTM_NEWNEIGH = 28
_RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
_RTM_NEWNEIGHTBL = 64
_RTM_GETNEIGHTBL = 66
_RTM_SETNEIGHTBL = 67

_NUD_REACHABLE = 0x02

_NDA_DST = 1
_NDA_LLADDR = 2
_NDA_CACHEINFO = 3
_NDA_IFINDEX = 8
_NDA_PROTOCOL = 12

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_TABLE = 15

_RTN_UNICAST = 1
_SCOPE_UNIVERSE = 0
_SCOPE_LINK = 253
_SCOPE_NOWHERE = 255
_RTNH_F_ONLINK = 4
_TABLE_UNSPEC = 0
#: The metric of IPv6 routes that is preferred to all others; 0 would be taken for 1024.
_FIRST_METRIC = 1

_NDTA_NAME = 1
_NDTA_PARMS = 6
_NDTPA_IFINDEX = 1
_NDTPA_APP_PROBES = 9
_NDTPA_UCAST_PROBES = 10
_NDTPA_MCAST_PROBES = 11

_IFF_NOARP = 0x80

#: USER_HZ: the ages in NDA_CACHEINFO count hundredths of a second on every architecture we know.
_TICKS_PER_SECOND = 100

_HEADER = struct.Struct("=IHHII")
# struct ndmsg: family, ifindex, state, flags, type.
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
# struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
_ROUTE = struct.Struct("=BBBBBBBBI")
# struct ndtmsg: family.
_TABLE = struct.Struct("=Bxxx")
# struct ifinfomsg: family, type, index, flags, change.
_INFO = struct.Struct("=BxHiII")
_CACHEINFO = struct.Struct("=IIII")
_U32 = struct.Struct("=I")

_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
_TABLES: dict[int, bytes] = {socket.AF_INET: b"arp_cache\0", socket.AF_INET6: b"ndisc_cache\0"}


class Neighbour(NamedTuple):
    """One entry of a device's neighbour table."""

    ifindex: int
    protocol: bytes
    link: bytes
    """Its link-layer address; on a GRE device that is an underlay address. Empty: unknown."""
    ours: bool
    idle: float
    """Seconds since it was last asked for or confirmed."""


class Route(NamedTuple):
    """One route over a device."""

    protocol: bytes
    prefix_length: int
    next_hop: bytes
    """Empty: the destinations are on the device's network."""
    ifindex: int
    table: int
    ours: bool
    unicast: bool


class Probes(NamedTuple):
    """How often the kernel asks for a neighbour: a daemon, the last known place, everybody."""

    daemon: int
    unicast: int
    multicast: int


def _u32(value: int) -> bytes:
    return _U32.pack(value)


def _number(data: bytes | None) -> int:
    """The number in an attribute; 0 if it is absent or cut short."""
    return int(_U32.unpack_from(data)[0]) if data is not None and len(data) >= 4 else 0


# --- neighbours -----------------------------------------------------------------------------


def neighbour_set(ifindex: int, protocol: bytes, link: bytes) -> Message:
    """Make or confirm a neighbour."""
    body = _NEIGHBOUR.pack(_FAMILIES[len(protocol)], ifindex, _NUD_REACHABLE, 0, _RTN_UNICAST)
    body += attribute(_NDA_DST, protocol) + attribute(_NDA_LLADDR, link)
    body += attribute(_NDA_PROTOCOL, bytes((OURS,)))
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def neighbour_delete(ifindex: int, protocol: bytes) -> Message:
    """Remove a neighbour."""
    body = _NEIGHBOUR.pack(_FAMILIES[len(protocol)], ifindex, 0, 0, 0)
    return Message(_RTM_DELNEIGH, 0, body + attribute(_NDA_DST, protocol))


def neighbour_get(ifindex: int, protocol: bytes) -> Message:
    """Ask for one neighbour of a device."""
    body = _NEIGHBOUR.pack(_FAMILIES[len(protocol)], ifindex, 0, 0, 0)
    return Message(RTM_GETNEIGH, 0, body + attribute(_NDA_DST, protocol))


def neighbour_dump(ifindex: int, octets: int) -> Message:
    """Ask for the neighbours of a device.

    :param octets: length of their protocol addresses.
    """
    body = _NEIGHBOUR.pack(_FAMILIES[octets], 0, 0, 0, 0)
    return Message(RTM_GETNEIGH, 0, body + attribute(_NDA_IFINDEX, _u32(ifindex)))


def parse_neighbours(data: bytes) -> Iterator[Neighbour]:
    """The neighbours in one datagram of a dump."""
    for type_, body in _messages(data):
        if type_ != _RTM_NEWNEIGH or len(body) < _NEIGHBOUR.size:
            continue
        family, ifindex, _, _, _ = _NEIGHBOUR.unpack_from(body)
        found = parse_attributes(body, _NEIGHBOUR.size)
        protocol = found.get(_NDA_DST, b"")
        if family not in _TABLES or len(protocol) not in _FAMILIES:
            continue
        ages = found.get(_NDA_CACHEINFO, b"")
        idle = float("inf")
        if len(ages) >= _CACHEINFO.size:
            confirmed, used, _, _ = _CACHEINFO.unpack_from(ages)
            idle = min(confirmed, used) / _TICKS_PER_SECOND
        yield Neighbour(
            ifindex,
            protocol,
            found.get(_NDA_LLADDR, b""),
            found.get(_NDA_PROTOCOL, b"")[:1] == bytes((OURS,)),
            idle,
        )


def parse_question(data: bytes) -> bytes | None:
    """The protocol address that the kernel asks a daemon for, if the datagram is such a question:
    an RTM_GETNEIGH with a destination."""
    for type_, body in _messages(data):
        if type_ == RTM_GETNEIGH and len(body) >= _NEIGHBOUR.size:
            protocol = parse_attributes(body, _NEIGHBOUR.size).get(_NDA_DST, b"")
            return protocol if len(protocol) in _FAMILIES else None
    return None


# --- routes ---------------------------------------------------------------------------------


def _route(ifindex: int, protocol: bytes, prefix_length: int, next_hop: bytes, table: int) -> bytes:
    direct = next_hop == protocol and prefix_length == 8 * len(protocol)
    scope = _SCOPE_LINK if direct and len(protocol) == 4 else _SCOPE_UNIVERSE
    body = _ROUTE.pack(
        _FAMILIES[len(protocol)],
        prefix_length,
        0,
        0,
        _TABLE_UNSPEC,
        OURS,
        scope,
        _RTN_UNICAST,
        0 if direct else _RTNH_F_ONLINK,
    )
    body += attribute(_RTA_DST, protocol) + attribute(_RTA_OIF, _u32(ifindex))
    body += attribute(_RTA_TABLE, _u32(table))
    if not direct:
        body += attribute(_RTA_GATEWAY, next_hop)
    if len(protocol) == 16:
        body += attribute(_RTA_PRIORITY, _u32(_FIRST_METRIC))
    return body


def route_add(
    ifindex: int, protocol: bytes, prefix_length: int, next_hop: bytes, table: int
) -> Message:
    """Add a route, unless somebody has one to the same network (``EEXIST``)."""
    body = _route(ifindex, protocol, prefix_length, next_hop, table)
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def route_delete(ifindex: int, protocol: bytes, prefix_length: int, table: int) -> Message:
    """Remove a route of ours."""
    body = _ROUTE.pack(
        _FAMILIES[len(protocol)],
        prefix_length,
        0,
        0,
        _TABLE_UNSPEC,
        OURS,
        _SCOPE_NOWHERE,
        _RTN_UNICAST,
        0,
    )
    body += attribute(_RTA_DST, protocol) + attribute(_RTA_OIF, _u32(ifindex))
    return Message(_RTM_DELROUTE, 0, body + attribute(_RTA_TABLE, _u32(table)))


def route_dump(octets: int) -> Message:
    """Ask for all routes of a family."""
    return Message(_RTM_GETROUTE, 0, _ROUTE.pack(_FAMILIES[octets], 0, 0, 0, 0, 0, 0, 0, 0))


def route_get(protocol: bytes) -> Message:
    """Ask which route a packet for an address would take."""
    body = _ROUTE.pack(_FAMILIES[len(protocol)], 8 * len(protocol), 0, 0, 0, 0, 0, 0, 0)
    return Message(_RTM_GETROUTE, 0, body + attribute(_RTA_DST, protocol))


def parse_routes(data: bytes) -> Iterator[Route]:
    """The routes in one datagram."""
    for type_, body in _messages(data):
        if type_ != _RTM_NEWROUTE or len(body) < _ROUTE.size:
            continue
        family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        if family not in _TABLES:
            continue
        found = parse_attributes(body, _ROUTE.size)
        octets = 4 if family == socket.AF_INET else 16
        yield Route(
            found.get(_RTA_DST, bytes(octets)),
            length,
            found.get(_RTA_GATEWAY, b""),
            _number(found.get(_RTA_OIF)),
            _number(found.get(_RTA_TABLE)) or table,
            protocol == OURS,
            kind == _RTN_UNICAST,
        )


# --- settings of a device -------------------------------------------------------------------


def probes_set(ifindex: int, family: int, probes: Probes) -> Message:
    """Set how often the kernel asks for a device's neighbours.

    :param family: ``AF_INET`` or ``AF_INET6``.
    """
    parameters = nested(
        _NDTA_PARMS,
        attribute(_NDTPA_IFINDEX, _u32(ifindex)),
        attribute(_NDTPA_APP_PROBES, _u32(probes.daemon)),
        attribute(_NDTPA_UCAST_PROBES, _u32(probes.unicast)),
        attribute(_NDTPA_MCAST_PROBES, _u32(probes.multicast)),
    )
    body = _TABLE.pack(family) + attribute(_NDTA_NAME, _TABLES[family]) + parameters
    return Message(_RTM_SETNEIGHTBL, 0, body)


def probes_dump(family: int) -> Message:
    """Ask for the settings of all devices."""
    return Message(_RTM_GETNEIGHTBL, 0, _TABLE.pack(family))


def parse_probes(data: bytes, ifindex: int) -> Probes | None:
    """The settings of a device, if they are in this datagram of a dump."""
    for type_, body in _messages(data):
        if type_ != _RTM_NEWNEIGHTBL:
            continue
        table = parse_attributes(body, _TABLE.size)
        found = parse_attributes(table.get(_NDTA_PARMS, b""))
        if found.get(_NDTPA_IFINDEX) == _u32(ifindex):
            return Probes(
                *(
                    _number(found.get(each))
                    for each in (_NDTPA_APP_PROBES, _NDTPA_UCAST_PROBES, _NDTPA_MCAST_PROBES)
                )
            )
    return None


def has_noarp(requests: NetlinkRequests, ifindex: int) -> bool:
    """Whether a device asks for no neighbours at all.

    :raises DataplaneError: if the kernel does not say.
    """
    data = requests.get(Message(_RTM_GETLINK, 0, _INFO.pack(0, 0, ifindex, 0, 0)))
    if data is None:
        return False
    return any(
        bool(_INFO.unpack_from(body)[3] & _IFF_NOARP)
        for type_, body in _messages(data)
        if type_ == _RTM_NEWLINK and len(body) >= _INFO.size
    )


def describe(message: Message) -> str:
    """What a message about a neighbour or a route asks for, for the log."""
    verb, layout, kind = {
        _RTM_NEWNEIGH: ("setting neighbour", _NEIGHBOUR, _NDA_DST),
        _RTM_DELNEIGH: ("removing neighbour", _NEIGHBOUR, _NDA_DST),
        _RTM_NEWROUTE: ("adding route", _ROUTE, _RTA_DST),
        _RTM_DELROUTE: ("removing route", _ROUTE, _RTA_DST),
    }.get(message.type, ("changing its settings", _INFO, 0))
    protocol = parse_attributes(message.body, layout.size).get(kind) if kind else None
    return verb if protocol is None else f"{verb} {format_address(protocol)}"


def set_noarp(ifindex: int, on: bool) -> Message:
    """Have a device ask for no neighbours at all, or for each."""
    flags = _IFF_NOARP if on else 0
    return Message(_RTM_NEWLINK, 0, _INFO.pack(0, 0, ifindex, flags, _IFF_NOARP))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield type_, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
