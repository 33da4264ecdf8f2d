"""A network in memory, for whole nodes on one clock. Layer: edge.

It carries the same GRE packets as the real transport, and loses, delays, duplicates or holds
them back as it is told. The same clock and the same ``jitter`` give the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import Path
from dmevpn.interfaces import IDatagramReceiver, IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport import gre
from dmevpn.transport.endpoint import GREEndpoint
from dmevpn.transport.limits import PeerLimits

__all__ = ["MemoryNetwork", "MemoryTransport", "Transmission"]


class Transmission(NamedTuple):
    """A packet that was sent, whatever became of it."""

    time: float
    """Seconds of the clock."""
    source: bytes
    destination: bytes
    packet: bytes
    """From the GRE header on."""
    copies: int
    """How many are delivered: 0 if it was lost, 2 if it was duplicated."""

    def payload(self, key: int | None = None) -> bytes:
        """What is behind the GRE header.

        :param key: the GRE key that the packet must have.
        """
        return gre.decode(self.packet, {key})[0]


class MemoryNetwork:
    """Carries packets between the transports that are started on it.

    The attributes may be changed at any time and concern the packets sent from then on.

    :param jitter: numbers from [0, 1), uniformly; asked only where chance has a say.
    :ivar delay: seconds from sending to delivery.
    :ivar delay_variation: at most so many seconds more, by chance: packets overtake each other.
    :ivar loss: the share of packets that are lost, 0 to 1.
    :ivar duplication: the share of packets that are delivered twice.
    :ivar transmissions: what was sent so far, oldest first; clear it as you like.
    """

    def __init__(
        self, clock: IReactorTime, jitter: Callable[[], float], *, delay: float = 0.001
    ) -> None:
        self.delay = delay
        self.delay_variation = 0.0
        self.loss = 0.0
        self.duplication = 0.0
        self.transmissions: list[Transmission] = []
        self.clock = clock
        self._jitter = jitter
        self._attached: dict[bytes, list[MemoryTransport]] = {}
        self._separated: set[tuple[bytes, bytes]] = set()
        self._dead: set[bytes] = set()

    def separate(self, one: bytes, other: bytes) -> None:
        """Lose everything between two addresses, both ways."""
        self.deafen(one, other)
        self.deafen(other, one)

    def deafen(self, receiver: bytes, source: bytes) -> None:
        """Lose everything that an address gets from another one."""
        self._separated.add((source, receiver))

    def isolate(self, address: bytes) -> None:
        """Lose everything from and to an address."""
        self._dead.add(address)

    def heal(self) -> None:
        """End all separations and isolations."""
        self._separated.clear()
        self._dead.clear()

    def attach(self, transport: MemoryTransport) -> None:
        """Deliver to a transport what is sent to its addresses; each one gets its copy."""
        for address in transport.addresses:
            self._attached.setdefault(address, []).append(transport)

    def detach(self, transport: MemoryTransport) -> None:
        """Deliver no more to a transport, not even what is under way."""
        for address in transport.addresses:
            attached = self._attached.get(address, [])
            if transport in attached:
                attached.remove(transport)
            if not attached:
                self._attached.pop(address, None)

    def transmit(self, source: bytes, destination: bytes, packet: bytes) -> None:
        """Carry a GRE packet, or lose it."""
        copies = 1
        if not self.connected(source, destination) or self._happens(self.loss):
            copies = 0
        elif self._happens(self.duplication):
            copies = 2
        self.transmissions.append(
            Transmission(self.clock.seconds(), source, destination, packet, copies)
        )
        for _ in range(copies):
            delay = self.delay
            if self.delay_variation:
                delay += self.delay_variation * self._jitter()
            self.clock.callLater(delay, self._deliver, source, destination, packet)

    def connected(self, source: bytes, destination: bytes) -> bool:
        """Whether what is sent may arrive."""
        return (
            (source, destination) not in self._separated
            and source not in self._dead
            and destination not in self._dead
        )

    def _happens(self, share: float) -> bool:
        return share > 0 and self._jitter() < share

    def _deliver(self, source: bytes, destination: bytes, packet: bytes) -> None:
        for transport in tuple(self._attached.get(destination, ())):
            transport.packets_received(((packet, source, destination),))


@implementer(IDatagramTransport)
class MemoryTransport(GREEndpoint):
    """The in-memory counterpart of :class:`~dmevpn.transport.rawgre.RawGREPort`.

    :param addresses: those of its host, or the one that it is bound to. Where the caller leaves
        the choice, the first of the peer's family is the source, as with a kernel whose routes
        do not differ.
    :param rate: packets a second that are taken from one peer; 0: any number.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        metrics: Metrics,
        addresses: Iterable[bytes],
        key: int | None = None,
        further_keys: Iterable[int] = (),
        rate: int = 0,
    ) -> None:
        super().__init__(metrics, key, further_keys, PeerLimits(network.clock, metrics, rate))
        self.network = network
        self.addresses = tuple(addresses)

    def start(self, receiver: IDatagramReceiver) -> None:
        """Take part in the network."""
        self._receiver = receiver
        self.network.attach(self)

    def packets_received(self, packets: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Hand on what is within the budgets of its senders."""
        super().packets_received([each for each in packets if self.limits.admits(each[1])])

    def send(self, data: bytes, path: Path) -> None:
        """Send one payload; what the kernel would refuse is counted."""
        packet = self.wrap(data, path)
        if packet is None:
            return
        family = [address for address in self.addresses if len(address) == len(path.peer)]
        if self._receiver is None or not family:
            self.packet_lost("EAFNOSUPPORT")
        elif path.local and path.local not in family:
            self.packet_lost("EINVAL")
        else:
            self.packet_sent()
            self.network.transmit(path.local or family[0], path.peer, packet)

    def stop(self) -> Deferred[None]:
        """Leave the network; harmless if it was not joined."""
        self._receiver = None
        self.network.detach(self)
        return succeed(None)
