"""NHRP over a kernel GRE device, by AF_PACKET. Layer: edge.

The kernel adds and takes off the GRE header; we see payloads of protocol type 0x2001 as any
protocol above a link does (``packet(7)``). On a multipoint device the link-layer address is the
peer's NBMA address, which the device takes from us and tells us (Linux ``net/ipv4/ip_gre.c``,
``ipgre_header``). A point-to-point device has no link-layer addresses, but one peer.

The socket belongs to the network namespace of the thread that calls :meth:`PacketPort.start`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.addresses import Path, format_address
from dmevpn.errors import StartError
from dmevpn.interfaces import (
    GREDevice,
    IControlDevice,
    IControlDeviceListener,
    IDatagramReceiver,
    IDatagramTransport,
)
from dmevpn.metrics import Metrics
from dmevpn.transport import gre
from dmevpn.transport.endpoint import GREEndpoint
from dmevpn.transport.limits import PeerLimits
from dmevpn.transport.reader import DatagramReader, error_name

__all__ = ["PacketPort"]


class _PacketSocket(DatagramReader[tuple[bytes, bytes]]):
    """The socket; its datagrams are payload and link-layer source address.

    It lives as long as the port runs: a device that comes back with another index is bound to,
    which takes neither a descriptor nor a privilege. A device that only goes down and up again
    needs nothing, the kernel remembers.
    """

    def __init__(self, port: PacketPort) -> None:
        # No protocol yet, hence no packets of other devices.
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_PACKET, kind, 0)
        super().__init__(sock, port.metrics, port.reactor, port.limits)
        self._port = port
        self._bound = 0

    def bind(self, device: GREDevice) -> None:
        """Receive the NHRP packets of one device, and send by it; nothing happens again.

        :raises OSError: as ``bind``.
        """
        if self._bound != device.ifindex:
            self.sock.bind((device.name, gre.NHRP_PROTOCOL))
            self._bound = device.ifindex

    def receive(self) -> tuple[bytes, bytes]:
        length, address = self.sock.recvfrom_into(self.buffer)
        return bytes(self.buffer[:length]), address[4]

    def deliver(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        self._port.datagrams_received(datagrams)

    def transmit(self, packet: bytes, path: Path) -> None:
        self._port.transmit(self.sock, packet, path)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given us up; not for good if our device went down.

        That is an error of the socket without anything to read, which reactors that poll take for
        its end. Asking for the error takes it away.
        """
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.count_error(OSError(error, reason.getErrorMessage()))
            self._port.read_on(self)
        else:
            self.close()


@implementer(IDatagramTransport, IControlDeviceListener)
class PacketPort(GREEndpoint):
    """GRE payloads of protocol type 0x2001 through one kernel GRE device.

    The device decides about key, source address, TTL and fragmentation. Where it has no ``local``
    address, packets leave from the one that their route gives, and a received path does not say
    which address was asked.

    :param reactor: provides IReactorFDSet and IReactorTime.
    :param device: followed by its owner while the port runs.
    :param limits: of peers, which are kept to here and not in the kernel; None: there are none.
    """

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        device: IControlDevice,
        limits: PeerLimits | None = None,
    ) -> None:
        super().__init__(metrics, None, (), limits or PeerLimits(reactor, metrics, 0))
        self.reactor = reactor
        self._device = device
        self._socket: _PacketSocket | None = None
        self._interrupted = False
        self._warned = False
        self._resumptions = metrics.counter("transport_resumptions", interface=device.name)

    def start(self, receiver: IDatagramReceiver) -> None:
        """Open the socket on the device as it is now; one that is down is waited for.

        :raises StartError: without CAP_NET_RAW, or if the device is gone.
        """
        state = self._device.state
        if state is None:
            raise StartError(f"interface {self._device.name}: no such device")
        try:
            self._socket = _PacketSocket(self)
            self._socket.bind(state)
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            raise self._cure(error) from error
        self._receiver = receiver
        self.limits.start()
        self._interrupted = not state.up
        self._warned = False
        self.metrics.gauge("datagram_overruns", self._socket.overruns, interface=self._device.name)
        self._device.subscribe(self)
        self.reactor.addReader(self._socket)

    def send(self, data: bytes, path: Path) -> None:
        """Send one payload; what cannot go through the device is counted as lost."""
        if not self.fits(data):
            return
        if self._socket is None:
            self.packet_lost("ENODEV")
        else:
            self._socket.send(data, path)

    def transmit(self, sock: socket.socket, data: bytes, path: Path) -> None:
        """Send one payload now, through the device as it is."""
        state = self._device.state
        if state is None:
            self.packet_lost("ENODEV")
            return
        refusal = self._refusal(state, path)
        if refusal:
            self.packet_lost(refusal)
            return
        try:
            if state.remote:
                sock.send(data)
            else:
                address = (state.name, gre.NHRP_PROTOCOL, 0, 0, path.peer)
                sock.sendto(data, address)
        except OSError as error:
            self.packet_lost(error_name(error))
        else:
            self.packet_sent()

    def stop(self) -> Deferred[None]:
        """Close the socket; harmless if it is not open."""
        self._receiver = None
        self._device.unsubscribe(self)
        self.metrics.remove_gauge("datagram_overruns", interface=self._device.name)
        self.limits.stop()
        if self._socket is not None:
            self.reactor.removeReader(self._socket)
            self._socket.close()
            self._socket = None
        return succeed(None)

    def read_on(self, reader: IReadDescriptor) -> None:
        """Have the reactor read the socket again."""
        self.reactor.addReader(reader)

    def datagrams_received(self, datagrams: Iterable[tuple[bytes, bytes]]) -> None:
        """Hand payloads, each with its sender's link layer address, to the receiver; never
        raises."""
        state = self._device.state
        if state is None:
            return  # queued before the device went
        received = []
        for payload, link_address in datagrams:
            peer = state.remote or link_address
            if len(peer) in (4, 16):
                received.append((payload, Path(peer, state.local, state.key)))
            else:
                self.metrics.dropped("no_peer_address").inc()
        self.payloads_received(received)

    # --- IControlDeviceListener -----------------------------------------------------------

    def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
        """Follow the device, and say when it carries again or to other peers than before."""
        if new is None or not new.up:
            self._interrupted = True
            return
        if self._socket is None or (
            not self._interrupted and old is not None and _ends(old) == _ends(new)
        ):
            return
        try:
            self._socket.bind(new)
        except OSError as error:
            # It went away again, which we shall be told in a moment.
            self._interrupted = True
            self.log.warn("{ifname}: {reason}", ifname=new.name, reason=error.strerror)
            return
        self._interrupted = False
        self._warned = False
        self._resumptions.inc()
        if self._receiver is not None:
            self._receiver.resumed()

    def _refusal(self, state: GREDevice, path: Path) -> str:
        """Why a path does not lead through the device, as an error's name; empty: it does."""
        if state.remote and path.peer != state.remote:
            return "EHOSTUNREACH"
        if not state.remote and len(path.peer) != 4:
            return "EAFNOSUPPORT"
        if path.local and state.local and path.local != state.local:
            if not self._warned:
                self._warned = True
                self.log.warn(
                    "{ifname}: the device sends from {local}, not from {nbma} as we should: give"
                    " both the same address",
                    ifname=state.name,
                    local=format_address(state.local),
                    nbma=format_address(path.local),
                )
            return "EADDRNOTAVAIL"
        return ""

    def _cure(self, error: OSError) -> StartError:
        """What an operator can do about a socket that did not open."""
        if error.errno in (errno.EPERM, errno.EACCES):
            return StartError(
                f"interface {self._device.name}: no permission to open a packet socket: run as"
                " root or grant CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW)"
            )
        return StartError(
            f"interface {self._device.name}: cannot open a packet socket: {error.strerror}"
        )


def _ends(state: GREDevice) -> tuple[int, int | None, bytes, bytes]:
    """What decides whom the device reaches."""
    return state.ifindex, state.key, state.local, state.remote
