"""Forwarding entries as rtnetlink neighbour messages. Layer: edge.

The hot path of the spoke: fixed layouts, no intermediate objects but one named tuple per entry.
Sources: Linux ``uapi/linux/neighbour.h``, ``drivers/net/vxlan/vxlan_core.c`` (``vxlan_fdb_info``,
``vxlan_fdb_miss``), ``net/bridge/br_fdb.c`` (``fdb_fill_info``), ``net/core/rtnetlink.c``.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dmevpn.dataplane.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
)
from dmevpn.sockfilter import ACCEPT, DROP, Instruction

__all__ = [
    "BROADCAST",
    "ZERO_MAC",
    "Entry",
    "bridge_add",
    "bridge_delete",
    "bridge_get",
    "bridge_move",
    "change_filter",
    "dump_request",
    "edit_filter",
    "flood_append",
    "is_about_addresses",
    "parse_entries",
    "parse_miss",
    "self_delete",
    "self_get",
    "self_set",
]

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30

RTNLGRP_NEIGH = 3

NTF_SELF = 0x02
NTF_MASTER = 0x04
NTF_EXT_LEARNED = 0x10

NUD_REACHABLE = 0x02
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
#: A static entry: valid for the vxlan device and for the bridge alike. vxlan refuses NOARP alone;
#: PERMANENT would make a bridge entry an address of the bridge itself.
STATIC = NUD_NOARP | NUD_REACHABLE

_NDA_DST = 1
_NDA_LLADDR = 2
_NDA_CACHEINFO = 3
_NDA_VLAN = 5
_NDA_PORT = 6
_NDA_VNI = 7
_NDA_MASTER = 9

#: The default entry of a vxlan device: where frames without an entry go.
ZERO_MAC = bytes(6)
BROADCAST = b"\xff" * 6

#: USER_HZ: the ages in NDA_CACHEINFO count hundredths of a second on every architecture we know.
_TICKS_PER_SECOND = 100

# struct ndmsg (family, ifindex, state, flags, type), then NDA_LLADDR with its padding.
_NDM = struct.Struct("=BxxxiHBB")
_NDM_MAC = struct.Struct("=BxxxiHBBHH6s2x")
_ATTRIBUTE = struct.Struct("=HH")
_PORT = struct.Struct("=HHHxx")
_NUMBER = struct.Struct("=HHI")
_CACHEINFO = struct.Struct("=IIII")
_HALF = struct.Struct("=H")
# struct nlmsghdr and the ndmsg behind it.
_HEADER = struct.Struct("=IHHIIBxxxiHBB")


#: Octets that an attribute has at least, with its header; one that is cut short ends the reading.
_SHORTEST = {_NDA_CACHEINFO: 20, _NDA_VLAN: 6, _NDA_PORT: 6, _NDA_VNI: 8, _NDA_MASTER: 8}


class Entry(NamedTuple):
    """One forwarding entry in a notification or a dump."""

    type: int
    """``RTM_NEWNEIGH`` or ``RTM_DELNEIGH``."""
    ifindex: int
    """The device, or for a bridge entry the bridge's port."""
    state: int
    flags: int
    mac: bytes
    nbma: bytes
    """Underlay destination; empty for bridge entries."""
    vni: int | None
    """None where it is the device's own."""
    port: int | None
    """None where it is the device's own."""
    master: int | None
    """Index of the bridge, for bridge entries."""
    vlan: int | None
    used_ago: float
    """Seconds since a frame was last sent by it."""

    @property
    def ours(self) -> bool:
        """Whether it carries our mark."""
        return bool(self.flags & NTF_EXT_LEARNED)

    @property
    def lasting(self) -> bool:
        """Whether it never ages: somebody has made it."""
        return bool(self.state & (NUD_NOARP | NUD_PERMANENT))

    @property
    def static(self) -> bool:
        """Whether it is a bridge entry that does not age and is no address of the bridge itself."""
        return self.state == NUD_NOARP


def _body(ifindex: int, state: int, flags: int, mac: bytes) -> bytes:
    return _NDM_MAC.pack(socket.AF_BRIDGE, ifindex, state, flags, 0, 4 + len(mac), _NDA_LLADDR, mac)


def _destination(nbma: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(nbma), _NDA_DST) + nbma


def self_set(
    ifindex: int,
    mac: bytes,
    nbma: bytes,
    *,
    vni: int | None = None,
    port: int | None = None,
    nlm_flags: int = NLM_F_CREATE | NLM_F_REPLACE,
) -> Message:
    """Point a MAC of a vxlan device at an underlay address.

    :param vni: on the wire; None: the device's own.
    :param port: UDP port on the wire; None: the device's own.
    :param nlm_flags: how it may change what is there.
    """
    body = _body(ifindex, STATIC, NTF_SELF | NTF_EXT_LEARNED, mac) + _destination(nbma)
    if port is not None:
        body += _PORT.pack(6, _NDA_PORT, socket.htons(port))
    if vni is not None:
        body += _NUMBER.pack(8, _NDA_VNI, vni)
    return Message(RTM_NEWNEIGH, nlm_flags, body)


def flood_append(ifindex: int, mac: bytes, nbma: bytes) -> Message:
    """Add a destination to a MAC that may have several: all zeros (the default) or broadcast."""
    return self_set(ifindex, mac, nbma, nlm_flags=NLM_F_CREATE | NLM_F_APPEND)


def self_delete(ifindex: int, mac: bytes, nbma: bytes = b"") -> Message:
    """Remove a MAC of a vxlan device, or only one of its destinations."""
    body = _body(ifindex, 0, NTF_SELF, mac)
    return Message(RTM_DELNEIGH, 0, body + _destination(nbma) if nbma else body)


def bridge_add(ifindex: int, mac: bytes) -> Message:
    """Put a MAC behind a bridge port, unless the bridge knows it already (``EEXIST``).

    Not marked EXT_LEARNED: with that flag the kernel ignores EXCL and cuts off a station that
    was learnt at another port.
    """
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, _body(ifindex, STATIC, NTF_MASTER, mac))


def bridge_move(ifindex: int, mac: bytes) -> Message:
    """Put a MAC that the bridge knows behind another port, between two frames.

    The kernel exchanges one pointer. It has no condition on the port that the MAC is behind, so a
    station that was learnt elsewhere in the meantime is moved as well; ``ENOENT`` if the bridge
    does not know the MAC.
    """
    return Message(RTM_NEWNEIGH, NLM_F_REPLACE, _body(ifindex, STATIC, NTF_MASTER, mac))


def bridge_delete(ifindex: int, mac: bytes, vlan: int | None = None) -> Message:
    """Remove a MAC from behind a bridge port; ``ENOENT`` if it is not, or no longer, there."""
    body = _body(ifindex, 0, NTF_MASTER, mac)
    if vlan:
        body += _PORT.pack(6, _NDA_VLAN, vlan)
    return Message(RTM_DELNEIGH, 0, body)


def self_get(ifindex: int, mac: bytes) -> Message:
    """Ask for a MAC of a vxlan device."""
    return Message(RTM_GETNEIGH, 0, _body(ifindex, 0, NTF_SELF, mac))


def bridge_get(ifindex: int, mac: bytes, vlan: int | None = None) -> Message:
    """Ask the bridge of a port for a MAC, whichever port it is behind."""
    body = _body(ifindex, 0, NTF_MASTER, mac)
    if vlan:
        body += _PORT.pack(6, _NDA_VLAN, vlan)
    return Message(RTM_GETNEIGH, 0, body)


def dump_request(ifindex: int) -> Message:
    """Ask for all entries of one device, in its own table and in its bridge's.

    The kernel honours the index only on a socket with NETLINK_GET_STRICT_CHK.
    """
    return Message(RTM_GETNEIGH, 0, _NDM.pack(socket.AF_BRIDGE, ifindex, 0, 0, 0))


def parse_entries(data: bytes) -> Iterator[Entry]:
    """The forwarding entries among the messages of one datagram; others are passed over."""
    header, attribute, length_of_data = _HEADER.unpack_from, _ATTRIBUTE.unpack_from, len(data)
    offset = 0
    while offset + 28 <= length_of_data:
        length, type_, _, _, _, family, ifindex, state, flags, _ = header(data, offset)
        end = offset + length
        if length < 28 or end > length_of_data:
            return
        if family == socket.AF_BRIDGE and type_ in (RTM_NEWNEIGH, RTM_DELNEIGH):
            mac = nbma = b""
            vni = port = master = vlan = None
            used = 0
            at = offset + 28
            while at + 4 <= end:
                size, kind = attribute(data, at)
                if size < _SHORTEST.get(kind, 4) or at + size > end:
                    break
                if kind == _NDA_LLADDR:
                    mac = data[at + 4 : at + size]
                elif kind == _NDA_DST:
                    nbma = data[at + 4 : at + size]
                elif kind == _NDA_CACHEINFO:
                    used = _CACHEINFO.unpack_from(data, at + 4)[1]
                elif kind == _NDA_VNI:
                    vni = _NUMBER.unpack_from(data, at)[2]
                elif kind == _NDA_PORT:
                    port = socket.ntohs(_HALF.unpack_from(data, at + 4)[0])
                elif kind == _NDA_MASTER:
                    master = _NUMBER.unpack_from(data, at)[2]
                elif kind == _NDA_VLAN:
                    vlan = _HALF.unpack_from(data, at + 4)[0]
                at += (size + 3) & ~3
            if len(mac) == 6:
                yield Entry(
                    type_,
                    ifindex,
                    state,
                    flags,
                    mac,
                    nbma,
                    vni,
                    port,
                    master,
                    vlan,
                    used / _TICKS_PER_SECOND,
                )
        offset += (length + 3) & ~3


def is_about_addresses(data: bytes) -> bool:
    """Whether a datagram says that this machine has other addresses; each comes alone."""
    return len(data) >= 28 and _HEADER.unpack_from(data)[1] in (RTM_NEWADDR, RTM_DELADDR)


def parse_miss(data: bytes) -> bytes | None:
    """The MAC that a vxlan device has no entry for, if the datagram is such a report.

    It is an RTM_GETNEIGH of family AF_INET with a link-layer address and no destination; the
    solicitations of ``app_solicit`` and ``l3miss`` have it the other way round.
    """
    if len(data) < 28:
        return None
    length, type_, _, _, _, _, _, _, _, _ = _HEADER.unpack_from(data)
    if type_ != RTM_GETNEIGH:
        return None
    mac = None
    at, end = 28, min(length, len(data))
    while at + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _NDA_DST or size < 4:
            return None
        if kind == _NDA_LLADDR and size == 10 and at + size <= end:
            mac = data[at + 4 : at + 10]
        at += (size + 3) & ~3
    return mac


# --- which notifications reach us ---------------------------------------------------------------

_LOAD_OCTET = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K


def _wire(value: int, size: int) -> int:
    """A number of the host's byte order as a load, which assumes network order, sees it."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder), "big")


def change_filter(ifindexes: Iterable[int]) -> list[Instruction]:
    """Keep what may undo our entries: removals from our devices, MACs that moved, changes of links
    and of this machine's addresses.

    A static bridge entry of ours that moved to a local port is reported with that port's index,
    so static bridge entries of every port but ours pass. What we write ourselves does not, and
    neither does what bridges learn.
    """
    ours = sorted(set(ifindexes))
    load_type = Instruction(_LOAD_HALF, 0, 0, 4)
    load_index = Instruction(_LOAD_WORD, 0, 0, 20)
    program = [load_type]
    for type_ in (RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR):
        program += [Instruction(_JUMP_EQUAL, 0, 1, _wire(type_, 2)), ACCEPT]
    removed = [load_index]
    for ifindex in ours:
        removed += [Instruction(_JUMP_EQUAL, 0, 1, _wire(ifindex, 4)), ACCEPT]
    removed.append(DROP)
    program.append(Instruction(_JUMP_EQUAL, 0, len(removed), _wire(RTM_DELNEIGH, 2)))
    program += removed
    program += [Instruction(_JUMP_EQUAL, 1, 0, _wire(RTM_NEWNEIGH, 2)), DROP]
    program += [
        Instruction(_LOAD_OCTET, 0, 0, 16),
        Instruction(_JUMP_EQUAL, 1, 0, socket.AF_BRIDGE),
        DROP,
        Instruction(_LOAD_HALF, 0, 0, 24),
        Instruction(_JUMP_EQUAL, 1, 0, _wire(NUD_NOARP, 2)),
        DROP,
        load_index,
    ]
    for ifindex in ours:
        program += [Instruction(_JUMP_EQUAL, 0, 1, _wire(ifindex, 4)), DROP]
    program.append(ACCEPT)
    return program


def edit_filter(ifindexes: Iterable[int]) -> list[Instruction]:
    """Keep what is written about our devices, in their own tables and in a bridge's."""
    ours = sorted(set(ifindexes))
    program = [
        Instruction(_LOAD_HALF, 0, 0, 4),
        Instruction(_JUMP_EQUAL, 1, 0, _wire(RTM_NEWNEIGH, 2)),
        DROP,
        Instruction(_LOAD_OCTET, 0, 0, 16),
        Instruction(_JUMP_EQUAL, 1, 0, socket.AF_BRIDGE),
        DROP,
        Instruction(_LOAD_WORD, 0, 0, 20),
    ]
    for ifindex in ours:
        program += [Instruction(_JUMP_EQUAL, 0, 1, _wire(ifindex, 4)), ACCEPT]
    return [*program, DROP]
