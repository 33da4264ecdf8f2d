"""What the kernel tells about a forwarding database, with the time at which it told it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

from lab.netns import Namespace

__all__ = ["FDBEvent", "FDBWatch"]

RTNLGRP_NEIGH = 3
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
SO_RCVBUFFORCE = 33
NDA_DST = 1
NDA_LLADDR = 2

#: nlmsghdr and ndmsg (linux/netlink.h, linux/neighbour.h), then attributes.
HEADER = struct.Struct("=IHHIIBxxxiHBB")
ATTRIBUTE = struct.Struct("=HH")
KINDS = {28: "new", 29: "gone", 30: "miss"}


class FDBEvent(NamedTuple):
    """One message of the kernel."""

    at: float
    """``time.perf_counter()`` of its reading."""
    kind: str
    """``new`` (or changed), ``gone`` or ``miss``."""
    mac: str
    destination: str | None
    """Underlay address that the entry names."""


class FDBWatch:
    """Collects the events of one device from now on. A context manager.

    :param device: a vxlan device of the namespace.
    """

    def __init__(self, namespace: Namespace, device: str) -> None:
        self.events: list[FDBEvent] = []
        with namespace.entered():
            self._ifindex = socket.if_nametoindex(device)
            self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self._sock.bind((0, 0))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NEIGH)
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"fdb of {device}")
        self._thread.start()

    def _run(self) -> None:
        # The time of reading stands for the time of the event, so nothing may keep us from reading.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))
        while True:
            ready, _, _ = select.select([self._sock, self._wake], [], [])
            if self._wake in ready:
                return
            data = self._sock.recv(65536)
            self._read(data, time.perf_counter())

    def _read(self, data: bytes, at: float) -> None:
        offset = 0
        while offset + HEADER.size <= len(data):
            length, kind, *_, ifindex, _state, _flags, _type = HEADER.unpack_from(data, offset)
            if ifindex == self._ifindex and kind in KINDS:
                attributes = self._attributes(data[offset + HEADER.size : offset + length])
                mac = attributes.get(NDA_LLADDR, b"")
                destination = attributes.get(NDA_DST)
                if len(mac) == 6:
                    self.events.append(
                        FDBEvent(at, KINDS[kind], mac.hex(":"), _address(destination))
                    )
            offset += (length + 3) & ~3

    @staticmethod
    def _attributes(data: bytes) -> dict[int, bytes]:
        found = {}
        offset = 0
        while offset + ATTRIBUTE.size <= len(data):
            length, kind = ATTRIBUTE.unpack_from(data, offset)
            found[kind] = data[offset + ATTRIBUTE.size : offset + length]
            offset += max((length + 3) & ~3, ATTRIBUTE.size)
        return found

    def first(self, kind: str, mac: str, destination: str | None = None) -> FDBEvent | None:
        """The first event of a kind about a MAC, and about a destination if one is given."""
        for event in self.events:
            if (event.kind, event.mac) == (kind, mac) and destination in (None, event.destination):
                return event
        return None

    def close(self) -> None:
        """Watch no more; the events stay."""
        self._waker.send(b".")
        self._thread.join()
        for sock in (self._sock, self._wake, self._waker):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _address(octets: bytes | None) -> str | None:
    if octets is None:
        return None
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)
