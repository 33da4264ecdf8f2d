"""Seeing packets that come in by a GRE device, a sample of them. Layer: edge.

A detour that lasts has many packets, so a few of them tell of it. What is not read is dropped in
the kernel, where it costs no wake-up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.metrics import Metrics
from dmevpn.sockfilter import attach, received_packets

__all__ = ["DetourTap"]

#: Octets of a packet that are kept: what a Traffic Indication quotes, and some room.
_KEPT: Final = 128
#: Packets read at a time, and seconds until the next ones are: so at most 320 a second.
_PACKETS: Final = 16
_PAUSE: Final = 0.05
#: Octets that the kernel may queue; a kept packet takes about 800.
_BUFFER: Final = 32768

#: ``linux/if_ether.h``.
_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD


class DetourTap:
    """Hands on the packets that come in by a device.

    :param seen: called with the beginning of a packet, from its IP header on, and the link-layer
        address that it came from.
    """

    def __init__(
        self, reactor: Any, metrics: Metrics, seen: Callable[[bytes, bytes], None]
    ) -> None:
        self._reactor = reactor
        self._seen = seen
        self._taps: list[_Tap] = []
        self._read = metrics.counter("tapped_packets")

    def open(self, name: str) -> None:
        """Tap a device, in place of an earlier one.

        :raises OSError: without CAP_NET_RAW or such a device.
        """
        self.close()
        for protocol in (_IPV4, _IPV6):
            self._taps.append(_Tap(self._reactor, name, protocol, self._handle))

    def close(self) -> None:
        """Tap nothing."""
        for tap in self._taps:
            tap.close()
        self._taps.clear()

    def _handle(self, packet: bytes, sender: bytes) -> None:
        self._read.inc()
        self._seen(packet, sender)


@implementer(IReadDescriptor)
class _Tap:
    """One protocol of one device."""

    def __init__(
        self, reactor: Any, name: str, protocol: int, seen: Callable[[bytes, bytes], None]
    ) -> None:
        self._reactor = reactor
        self._seen = seen
        self._resume: Any = None
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        # No protocol yet, hence no packets before the filter is there.
        self._sock = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            attach(self._sock, received_packets(_KEPT))
            self._sock.bind((name, protocol))
        except BaseException:
            self._sock.close()
            raise
        reactor.addReader(self)

    def close(self) -> None:
        """Stop reading."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        else:
            self._reactor.removeReader(self)
        self._sock.close()

    def fileno(self) -> int:
        """The socket's descriptor, for the reactor."""
        return self._sock.fileno()

    def logPrefix(self) -> str:
        """Name in the reactor's log lines."""
        return "detours"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given us up; not for good if our device went down.

        That is an error of the socket without anything to read, which reactors that poll take for
        its end. Asking for the error takes it away.
        """
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._reactor.addReader(self)
        else:
            self._sock.close()

    def doRead(self) -> None:
        """Take a few packets, then pause."""
        for _ in range(_PACKETS):
            try:
                packet, address = self._sock.recvfrom(_KEPT)
            except BlockingIOError:
                return
            except OSError:
                return  # the device went down; it may come up again
            self._seen(packet, address[4])
        self._reactor.removeReader(self)
        self._resume = self._reactor.callLater(_PAUSE, self._continue)

    def _continue(self) -> None:
        self._resume = None
        self._reactor.addReader(self)
