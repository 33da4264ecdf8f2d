"""A datagram socket as the reactor's reader, for every transport with sockets. Layer: edge."""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.addresses import Path
from dmevpn.errors import MalformedPacket
from dmevpn.metrics import Metrics
from dmevpn.transport.coalescing import PAUSE, Coalescing
from dmevpn.transport.fairness import FairQueue
from dmevpn.transport.limits import PeerLimits

__all__ = [
    "DATAGRAMS_PER_WAKEUP",
    "DATAGRAMS_SORTED",
    "HELPING",
    "LARGE",
    "LARGEST",
    "STRANGERS_PER_WAKEUP",
    "TURN",
    "DatagramReader",
    "error_name",
]

#: Datagrams delivered before the reactor's other descriptors and timers get their turn again.
DATAGRAMS_PER_WAKEUP = 64
#: Those of strangers among them when more wait: a first registration takes several times as long as
#: a renewal, and a registered peer that has just come waits until they are done.
STRANGERS_PER_WAKEUP = 16
#: Datagrams handed on in a row where one source has many of them: it may be one that makes us much
#: work with each. And octets of one that is handed on alone, since it may ask for much at once.
HELPING = 16
LARGE = 512
#: Seconds after which what has been read and not handed on yet waits for the next turn.
TURN = 0.01
#: Datagrams read in addition when more wait than that, to give each source its turn: to read one
#: takes a tenth of the time that it takes to answer it.
DATAGRAMS_SORTED = 512
#: Datagrams of one source, or of strangers, among DATAGRAMS_PER_WAKEUP that make us sort them.
MANY = DATAGRAMS_PER_WAKEUP // 2
#: Packets that wait for the end of a wake-up to be sent; when there are more they are sent at once.
MOST_GATHERED = 128
#: Octets the kernel may queue for us. A small packet occupies about 800 of them, so this is
#: 10,000 packets: what all spokes of a hub send at once after an outage, and a second's work.
RECEIVE_BUFFER = 8 << 20
#: Octets the kernel may hold that we have sent: a purge goes to all who asked in one turn.
SEND_BUFFER = 2 << 20
#: The largest IP packet; the kernel has put fragments together before we see them.
LARGEST = 65535

# asm-generic/socket.h, where CPython has no name for them.
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # index in the array of 32-bit numbers that SO_MEMINFO returns

#: A datagram as a transport reads it: its octets, the underlay address that it came from, and
#: perhaps that of ours that it came to.
T = TypeVar("T", tuple[bytes, bytes], tuple[bytes, bytes, bytes])


def error_name(error: OSError) -> str:
    """The symbolic name of an error number, for metrics."""
    return errno.errorcode.get(error.errno or 0, "unknown")


@implementer(IReadDescriptor)
class DatagramReader(Generic[T]):
    """One socket with the reactor's callbacks; what a datagram is, a subclass knows.

    :param sock: non-blocking; closed by us from now on, also if this fails.
    :param reactor: provides IReactorTime.
    :param limits: of peers.
    """

    buffer = memoryview(bytearray(LARGEST))
    """Shared by all sockets: a datagram is copied out of it before the next one is read."""

    def __init__(
        self, sock: socket.socket, metrics: Metrics, reactor: Any, limits: PeerLimits
    ) -> None:
        self.sock = sock
        self.closed = False
        self._gathering = False
        self._gathered: list[tuple[bytes, Path]] = []
        self._metrics = metrics
        self._reactor = reactor
        self._limits = limits
        self._waiting: FairQueue[T] = FairQueue()
        self._no_room = metrics.dropped("queue_full")
        self._call: Any = None
        self._coalescing = Coalescing()
        try:
            self._set_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER)
        except BaseException:
            sock.close()
            raise

    def _set_buffer(self, force: int, plain: int, size: int) -> None:
        """Set a buffer's size; without CAP_NET_ADMIN the kernel caps it at the system's limit."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            self.sock.setsockopt(socket.SOL_SOCKET, plain, size)

    def receive(self) -> T:
        """Read one datagram.

        :raises OSError: as ``recv``.
        :raises MalformedPacket: if it is to be dropped.
        """
        raise NotImplementedError

    def deliver(self, datagrams: Sequence[T]) -> None:
        """Hand on what :meth:`receive` returned; never raises, and may close us."""
        raise NotImplementedError

    def overruns(self) -> int:
        """Datagrams that the kernel has thrown away since our receive buffer was full."""
        if self.closed:
            return 0
        numbers = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        return int(struct.unpack_from("=I", numbers, 4 * _MEMINFO_DROPS)[0])

    def waiting(self) -> int:
        """Octets that have been read and wait for their turn."""
        return self._waiting.octets

    def close(self) -> None:
        """Close the socket; nothing is delivered from now on, not even in the running doRead."""
        self.closed = True
        self._send_gathered()
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.sock.close()

    # --- IReadDescriptor ------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self.sock.fileno()

    def logPrefix(self) -> str:
        """How the reactor names us in its log."""
        return "gre"

    def doRead(self) -> None:
        """Read a bounded number of datagrams, hand them on, and send what that made to be sent.

        One kind of work after the other for all of them: a request takes half the CPU time so,
        since code and data of each kind stay in the processor's caches.

        When there are more, and one source has many of them, they are sorted by source, so that one
        that floods delays nobody else.
        """
        datagrams: list[T] = []
        more = True
        if not self._waiting:
            datagrams, more = self._read(DATAGRAMS_PER_WAKEUP)
        mixed = not self._waiting and (len(datagrams) <= HELPING or self._are_mixed(datagrams))
        if more and not mixed:
            self._sort(datagrams)
            self._sort(self._read(DATAGRAMS_SORTED)[0])
            strangers = STRANGERS_PER_WAKEUP if self._limits.limits.gap else None
            datagrams = self._waiting.take(DATAGRAMS_PER_WAKEUP, strangers)
        self._gathering = True
        try:
            count = self._hand_on(datagrams, DATAGRAMS_PER_WAKEUP if mixed else HELPING)
        finally:
            self._gathering = False
            self._send_gathered()
        if not self.closed:
            self._go_on_later(count, more or bool(self._waiting))

    def _hand_on(self, datagrams: list[T], helping: int) -> int:
        """Deliver datagrams, so many at once, and keep what is left when the time is over; how many
        were delivered."""
        end = self._reactor.seconds() + TURN
        at = 0
        while at < len(datagrams):
            if at and self._reactor.seconds() >= end:
                for datagram in reversed(datagrams[at:]):
                    octets, peer = len(datagram[0]), datagram[1]
                    known = self._limits.knows(peer)
                    self._waiting.give_back(peer, datagram, octets, known=known)
                break
            following = at + 1
            while (
                following < min(at + helping, len(datagrams))
                and len(datagrams[following - 1][0]) <= LARGE
            ):
                following += 1
            self.deliver(datagrams[at:following])
            at = following
            if self.closed:
                break
        return at

    def _read(self, limit: int) -> tuple[list[T], bool]:
        """Up to a number of datagrams, and whether there may be more."""
        datagrams: list[T] = []
        limits = None if self._limits.in_kernel else self._limits
        for _ in range(limit):
            try:
                datagram = self.receive()
            except BlockingIOError:
                return datagrams, False
            except MalformedPacket as error:
                self._metrics.dropped(error.counter).inc()
                continue
            except OSError as error:
                # An ICMP error about something sent, a device that went down, or a shortage of
                # memory: it concerns the past, and what is queued behind it is to be read.
                self.count_error(error)
                continue
            if limits is None or limits.admits(datagram[1]):
                datagrams.append(datagram)
        return datagrams, True

    def _are_mixed(self, datagrams: list[T]) -> bool:
        """Whether no source has many of them, nor strangers together: as they came is as good an
        order as any, and putting them into another takes time that all have to wait."""
        sources = Counter([datagram[1] for datagram in datagrams])
        knows = self._limits.knows
        strangers = [count for peer, count in sources.items() if not knows(peer)]
        return max(*sources.values(), sum(strangers), 0) <= MANY

    def _sort(self, datagrams: list[T]) -> None:
        for datagram in datagrams:
            octets, peer = len(datagram[0]), datagram[1]
            if not self._waiting.put(peer, datagram, octets, known=self._limits.knows(peer)):
                self._no_room.inc()

    def _go_on_later(self, count: int, more: bool) -> None:
        """See to it that we are called again.

        :param count: datagrams that were handed on.
        :param more: whether there may be more.
        """
        paused = self._coalescing.pausing
        pausing = self._coalescing.read(count, self._reactor.seconds())
        if pausing and not paused:
            self._reactor.removeReader(self)
        elif paused and not pausing:
            self._reactor.addReader(self)
        if self._call is None and (pausing or self._waiting):
            # Perhaps nothing more comes: the socket alone would not wake us for what waits.
            self._call = self._reactor.callLater(PAUSE if pausing and not more else 0, self._go_on)

    def _go_on(self) -> None:
        self._call = None
        self.doRead()

    # --- sending --------------------------------------------------------------------------

    def send(self, packet: bytes, path: Path) -> None:
        """Send one packet: at once, or with the others after what has been read is handed on."""
        if not self._gathering:
            self.transmit(packet, path)
            return
        self._gathered.append((packet, path))
        if len(self._gathered) >= MOST_GATHERED:
            self._send_gathered()

    def transmit(self, packet: bytes, path: Path) -> None:
        """Send one packet now; what the kernel refuses is counted."""
        raise NotImplementedError

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for packet, path in gathered:
            self.transmit(packet, path)

    def count_error(self, error: OSError) -> None:
        """Count an error that the socket reported instead of a datagram."""
        self._metrics.counter("receive_errors", error=error_name(error)).inc()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor is about to end, or has given us up."""
        self.close()
