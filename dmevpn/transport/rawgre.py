"""NHRP over GRE on raw sockets of IP protocol 47. Layer: edge.

The kernel hands a raw socket a copy of every GRE packet of the host: a filter keeps what is not
NHRP in the kernel. Nothing here knows NHRP; see RFC 2784 for the header and ``raw(7)``, ``ip(7)``
and ``ipv6(7)`` for the sockets.

A socket belongs to the network namespace of the thread that calls
:meth:`RawGREPort.start`, so that several nodes can share a process.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from socket import inet_ntop
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from dmevpn import sockfilter
from dmevpn.addresses import Path, format_address
from dmevpn.errors import MalformedPacket, StartError
from dmevpn.interfaces import IDatagramReceiver, IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport import gre
from dmevpn.transport.endpoint import GREEndpoint
from dmevpn.transport.limits import PeerLimits
from dmevpn.transport.reader import DatagramReader, error_name

__all__ = ["RawGREPort", "split_ipv4"]

#: IP protocol number of GRE.
IPPROTO_GRE = 47
#: Outer header: farthest reach, and the class of network control traffic (CS6).
_TTL = 255
_TRAFFIC_CLASS = 0xC0

# linux/in.h and linux/in6.h, where CPython has no name for them.
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
_IP_PKTINFO = 8
_IPV6_MTU_DISCOVER = 23
_IPV6_PMTUDISC_DONT = 0

_IPV4 = struct.Struct("!BxH8x4s4s")  # version and header length, total length, addresses
_IN_PKTINFO = struct.Struct("=i4s4s")  # ifindex, source address, destination address
_IN6_PKTINFO = struct.Struct("=16si")  # address, ifindex


def split_ipv4(packet: memoryview) -> tuple[bytes, bytes, bytes]:
    """What a raw IPv4 socket delivers, as payload, source and destination address.

    The kernel has checked the header; still, no length is believed.

    :raises MalformedPacket: if the header does not fit into the packet.
    """
    octets = len(packet)
    if octets < 20:
        raise MalformedPacket("gre_truncated")
    first, total, source, destination = _IPV4.unpack_from(packet)
    header = (first & 0x0F) << 2
    if not 20 <= header <= total <= octets:
        raise MalformedPacket("gre_truncated")
    return bytes(packet[header:total]), source, destination


class _Socket(DatagramReader[tuple[bytes, bytes, bytes]]):
    """One raw socket; its datagrams are GRE packet, peer's and our address.

    The families differ in a few methods.
    """

    family: socket.AddressFamily

    def __init__(self, port: RawGREPort) -> None:
        sock = socket.socket(
            self.family,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            IPPROTO_GRE,
        )
        try:
            # First of all: what arrives before the filter stands would reach us unfiltered.
            program = sockfilter.gre_protocol(
                gre.NHRP_PROTOCOL, ipv4_header=self.family == socket.AF_INET
            )
            sockfilter.attach(sock, program)
            port.limits.attach(sock)
            super().__init__(sock, port.metrics, port.reactor, port.limits)
            self.set_options()
        except BaseException:
            sock.close()
            raise
        self.bound = b""
        self._port = port

    def set_options(self) -> None:
        """Set the fields of the outer header, and have what we need delivered."""
        raise NotImplementedError

    def deliver(self, datagrams: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        self._port.packets_received(datagrams)

    def send_from(self, packet: bytes, peer: bytes, local: bytes) -> None:
        """Send one GRE packet from an address of ours, which need not be the bound one.

        :raises OSError: as ``sendmsg``.
        """
        raise NotImplementedError

    def bind(self, address: bytes) -> None:
        """Receive only what is sent to an address, and send from it."""
        self.sock.bind((socket.inet_ntop(self.family, address), 0))
        self.bound = address

    def transmit(self, packet: bytes, path: Path) -> None:
        try:
            if path.local and path.local != self.bound:
                self.send_from(packet, path.peer, path.local)
            else:
                self.sock.sendto(packet, (inet_ntop(self.family, path.peer), 0))
        except OSError as error:
            self._port.packet_lost(error_name(error))
        else:
            self._port.packet_sent()


class _IPv4Socket(_Socket):
    """Packets are delivered with their IPv4 header, from which both addresses are taken."""

    family = socket.AF_INET

    def set_options(self) -> None:
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TRAFFIC_CLASS)
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)

    def receive(self) -> tuple[bytes, bytes, bytes]:
        length = self.sock.recv_into(self.buffer)
        packet, peer, local = split_ipv4(self.buffer[:length])
        if local == self.bound:
            # As one object: whoever remembers the way to a peer has it.
            return packet, peer, self.bound
        # A group address (224.0.0.0/4) is no source to answer from.
        return packet, peer, local if local[0] < 224 else b""

    def send_from(self, packet: bytes, peer: bytes, local: bytes) -> None:
        info = _IN_PKTINFO.pack(0, local, bytes(4))
        destination = (socket.inet_ntop(socket.AF_INET, peer), 0)
        self.sock.sendmsg([packet], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, destination)


class _IPv6Socket(_Socket):
    """Packets begin with the GRE header; our own address comes as ancillary data.

    Link-local addresses are not for us: without the link they name nobody, and a
    :class:`~dmevpn.addresses.Path` has no room for it.
    """

    family = socket.AF_INET6

    def set_options(self) -> None:
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _TTL)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TRAFFIC_CLASS)
        self.sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DONT)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def receive(self) -> tuple[bytes, bytes, bytes]:
        length, ancillary, _, source = self.sock.recvmsg_into([self.buffer], 64)
        if source[3]:
            raise MalformedPacket("link_local_peer")
        local = b""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and data[0] != 0xFF:
                local = data[:16]
        return bytes(self.buffer[:length]), socket.inet_pton(socket.AF_INET6, source[0]), local

    def send_from(self, packet: bytes, peer: bytes, local: bytes) -> None:
        info = _IN6_PKTINFO.pack(local, 0)
        destination = (socket.inet_ntop(socket.AF_INET6, peer), 0)
        self.sock.sendmsg(
            [packet], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, destination
        )


@implementer(IDatagramTransport)
class RawGREPort(GREEndpoint):
    """GRE packets of protocol type 0x2001, to and from the whole host or one address of it.

    Several ports may share an address: each gets every packet, and keys tell them apart.

    :param reactor: provides IReactorFDSet and IReactorTime.
    :param nbma_address: the address to bind to; None: any of the host, IPv4 and IPv6.
    :param key: the GRE key that packets carry and must carry; None: they carry none.
    :param further_keys: keys that packets may carry as well.
    :param limits: of peers; None: there are none.
    """

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        nbma_address: bytes | None = None,
        key: int | None = None,
        further_keys: Iterable[int] = (),
        limits: PeerLimits | None = None,
    ) -> None:
        super().__init__(metrics, key, further_keys, limits or PeerLimits(reactor, metrics, 0))
        self.reactor = reactor
        self._address = nbma_address
        self._sockets: dict[int, _Socket] = {}
        self._labels = {
            "nbma": "any" if nbma_address is None else format_address(nbma_address),
            "key": "none" if key is None else str(key),
        }

    def start(self, receiver: IDatagramReceiver) -> None:
        """Open the sockets in the calling thread's network namespace and read them from now on.

        :raises StartError: without CAP_NET_RAW, or if the address is not ours.
        """
        try:
            self.limits.start()
            self._open()
        except OSError as error:
            self._close()
            raise self._cure(error) from error
        except BaseException:
            self._close()
            raise
        self._receiver = receiver
        self.metrics.gauge("datagram_overruns", self._overruns, **self._labels)
        self.metrics.gauge("datagrams_waiting_octets", self._waiting, **self._labels)
        for sock in self._sockets.values():
            self.reactor.addReader(sock)

    def send(self, data: bytes, path: Path) -> None:
        """Send one payload; what the kernel refuses is counted, as a loss or as too large."""
        packet = self.wrap(data, path)
        if packet is None:
            return
        sock = self._sockets.get(len(path.peer))
        if sock is None:
            self.packet_lost("EAFNOSUPPORT")
            return
        sock.send(packet, path)

    def stop(self) -> Deferred[None]:
        """Close the sockets; harmless if none is open."""
        self._receiver = None
        self.metrics.remove_gauge("datagram_overruns", **self._labels)
        self.metrics.remove_gauge("datagrams_waiting_octets", **self._labels)
        for sock in self._sockets.values():
            self.reactor.removeReader(sock)
        self._close()
        return succeed(None)

    def _open(self) -> None:
        address = self._address
        if address is None:
            self._sockets[4] = _IPv4Socket(self)
            try:
                self._sockets[16] = _IPv6Socket(self)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise  # a kernel without IPv6 is no mistake of anybody
            return
        if len(address) == 16 and ipaddress.IPv6Address(address).is_link_local:
            raise StartError(
                f"{format_address(address)} is a link-local address, which peers cannot answer "
                "without naming a link: use a global or unique local address"
            )
        sock = self._sockets[len(address)] = (
            _IPv4Socket(self) if len(address) == 4 else _IPv6Socket(self)
        )
        sock.bind(address)

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self.limits.stop()

    def _overruns(self) -> int:
        return sum(sock.overruns() for sock in self._sockets.values())

    def _waiting(self) -> int:
        return sum(sock.waiting() for sock in self._sockets.values())

    def _cure(self, error: OSError) -> StartError:
        """What an operator can do about a socket that did not open."""
        if error.errno in (errno.EPERM, errno.EACCES):
            return StartError(
                "no permission to open a raw GRE socket: run as root or grant CAP_NET_RAW "
                "(systemd: AmbientCapabilities=CAP_NET_RAW)"
            )
        if error.errno == errno.EADDRNOTAVAIL and self._address is not None:
            hint = (
                "; an IPv6 address can be used only after duplicate address detection"
                if len(self._address) == 16
                else ""
            )
            return StartError(
                f"{format_address(self._address)} is not an address of this host: "
                f"add it to an interface or correct nbma-address{hint}"
            )
        if error.errno == errno.EAFNOSUPPORT:
            return StartError("the kernel has no IPv6: load it or use an IPv4 nbma-address")
        return StartError(f"cannot open a raw GRE socket: {error.strerror}")
