"""Keeps to the limits of peers in the kernel: an eBPF filter on raw GRE sockets. Layer: edge.

It has to do with control packets, not with frames; but this is where eBPF programs are loaded, and
only :mod:`dmevpn.tap` brings the two together.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path
from typing import Final

from zope.interface import implementer

from dmevpn.dataplane.ebpf import libbpf
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import IPacketFilter, PacketLimits

__all__ = ["MAX_OFFENDERS", "MAX_STRANGERS", "PeerFilter"]

#: Sources that are not known whose budgets are remembered; the longest silent makes room.
MAX_STRANGERS: Final = 16384
#: Sources of which is told how much was dropped.
MAX_OFFENDERS: Final = 256

_OBJECT = Path(__file__).parent / "peer_filter.bpf.o"
_PROGRAMS: Final = {True: "peer_filter_ipv4", False: "peer_filter_ipv6"}
#: asm-generic/socket.h; the socket module of CPython does not name it.
_SO_ATTACH_BPF: Final = 50
#: ``enum reason`` of the program.
_REASONS: Final = 3

_LIMITS: Final = struct.Struct("=4Q")
_NUMBER: Final = struct.Struct("=Q")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_ZERO: Final = bytes(4)


def _key(peer: bytes) -> bytes:
    return peer if len(peer) == 16 else _MAPPED + peer


@implementer(IPacketFilter)
class PeerFilter:
    """The filter of one control interface; nothing of it outlives the daemon."""

    def __init__(self) -> None:
        self._maps: dict[str, libbpf.Map] = {}
        self._programs: dict[str, libbpf.Program] = {}

    def open(self, limits: PacketLimits) -> None:
        """Load it.

        :raises StartError: without CAP_BPF, or where the kernel has no eBPF.
        """
        file = libbpf.Object(str(_OBJECT), "/sys/fs/bpf")  # nothing is pinned there
        try:
            self._maps, self._programs = file.load()
        except StartError as error:
            # libbpf.Object speaks of the hub's switch, which this is not.
            reason = "it takes CAP_BPF" if "not permitted" in str(error) else str(error)
            raise StartError(reason) from None
        finally:
            file.close()
        self.set_limits(limits)

    def close(self) -> None:
        """Give the descriptors back; a socket that has the filter keeps it."""
        for table in self._maps.values():
            table.close()
        for program in self._programs.values():
            program.close()
        self._maps, self._programs = {}, {}

    def attach(self, sock: socket.socket, *, ipv4: bool) -> None:
        """Filter what a raw GRE socket receives; replaces an earlier filter."""
        program = self._programs[_PROGRAMS[ipv4]]
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program.fd)

    def set_limits(self, limits: PacketLimits) -> None:
        """Keep to these from now on."""
        self._maps["limits"].update(_ZERO, _LIMITS.pack(*limits))

    def know(self, peer: bytes) -> None:
        """Give a peer a budget of its own, a full one."""
        try:
            self._maps["known"].update(_key(peer), bytes(8))
        except DataplaneError as error:
            if error.errno not in (errno.E2BIG, errno.ENOMEM):
                raise

    def forget(self, peer: bytes) -> None:
        """Take it back."""
        self._maps["known"].delete(_key(peer))

    def drops(self) -> list[int]:
        """Packets dropped so far, by reason."""
        counts = []
        table = self._maps["drops"]
        for reason in range(_REASONS):
            value = table.lookup(reason.to_bytes(4, "little")) or b""
            counts.append(sum(number for (number,) in _NUMBER.iter_unpack(value)))
        return counts

    def offenders(self) -> dict[bytes, int]:
        """Packets dropped so far of the sources that exceed their own budget."""
        found: dict[bytes, int] = {}
        for count, keys, values in self._maps["offenders"].batches(512):
            for index in range(count):
                address = keys[16 * index : 16 * index + 16]
                if address[:12] == _MAPPED:
                    address = address[12:]
                found[address] = _NUMBER.unpack_from(values, 8 * index)[0]
        return found
