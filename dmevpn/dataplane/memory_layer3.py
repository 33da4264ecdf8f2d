"""A kernel's layer 3 forwarding in memory, for whole nodes on one clock. Layer: edge."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.interfaces import ILayer3Dataplane, ILayer3Listener, Layer3Listener

__all__ = ["MemoryLayer3", "MemoryTunnel"]

#: A network by its first address and prefix length.
Network = tuple[bytes, int]


def _contains(network: Network, protocol: bytes) -> bool:
    address, bits = network
    if len(address) != len(protocol):
        return False
    difference = int.from_bytes(address, "big") ^ int.from_bytes(protocol, "big")
    return not difference >> (8 * len(protocol) - bits)


class MemoryTunnel:
    """A GRE device of a kernel, with its neighbours and the routes over it. It outlives daemons.

    :param local: its underlay address.
    :param addresses: its protocol addresses with their prefix lengths.
    :ivar neighbours: next hop to underlay address.
    :ivar used: next hop to when it last carried a packet.
    :ivar routes: networks to next hops, those of the daemon.
    :ivar others: networks to next hops, those of routing protocols and operators.
    """

    def __init__(
        self, clock: IReactorTime, local: bytes, addresses: tuple[Network, ...] = ()
    ) -> None:
        self.local = local
        self.addresses = addresses
        self.mtu = 1400
        self.neighbours: dict[bytes, bytes] = {}
        self.used: dict[bytes, float] = {}
        self.routes: dict[Network, bytes] = {}
        self.others: dict[Network, bytes] = {}
        self.clock = clock
        self.driver: MemoryLayer3 | None = None
        self.listener: ILayer3Listener = Layer3Listener()

    def make_again(self) -> None:
        """The device is removed and made again, with the addresses that it had."""
        self.neighbours.clear()
        self.used.clear()
        self.routes.clear()
        self.others.clear()
        if self.driver is not None:
            self.driver.repair()
        self.listener.addresses_changed()

    def way(self, protocol: bytes) -> bytes | None:
        """The next hop for an address, as longest prefixes say; None: not over this device."""
        ways = {**self.others, **self.routes}
        connected = {each: protocol for each in self.addresses}
        found = [
            (network[1], next_hop)
            for network, next_hop in {**connected, **ways}.items()
            if _contains(network, protocol)
        ]
        return max(found, default=(0, None), key=lambda each: each[0])[1]

    def send(self, protocol: bytes) -> bytes | None:
        """Send a packet: the underlay address that it goes to; None if it is lost."""
        next_hop = self.way(protocol)
        if next_hop is None:
            return None
        nbma = self.neighbours.get(next_hop)
        if nbma is None:
            self.listener.neighbour_missed(next_hop)
            nbma = self.neighbours.get(next_hop)
        if nbma is not None:
            self.used[next_hop] = self.clock.seconds()
        return nbma


@implementer(ILayer3Dataplane)
class MemoryLayer3:
    """Drives a tunnel; without one it only knows the underlay address.

    :param local: our underlay address.
    """

    def __init__(self, local: bytes, tunnel: MemoryTunnel | None = None) -> None:
        self._local = local
        self.underlay_octets = len(local)
        self._tunnel = tunnel
        self._neighbours: dict[bytes, bytes] = {}
        self._routes: dict[Network, bytes] = {}
        self.mtu = 0 if tunnel is None else tunnel.mtu

    def start(self, listener: ILayer3Listener) -> None:
        """What an earlier run left is removed."""
        if self._tunnel is not None:
            self._tunnel.neighbours.clear()
            self._tunnel.routes.clear()
            self._tunnel.listener = listener
            self._tunnel.driver = self

    def addresses(self) -> tuple[Network, ...]:
        """Those of the device."""
        return () if self._tunnel is None else self._tunnel.addresses

    def local_address(self, peer: bytes) -> bytes:
        """There is one, of one family."""
        return self._local if len(self._local) == len(peer) else b""

    def set_neighbour(self, protocol: bytes, nbma: bytes) -> None:
        """As the kernel does."""
        self._neighbours[protocol] = nbma
        self.repair()

    def remove_neighbour(self, protocol: bytes) -> None:
        """As the kernel does."""
        self._neighbours.pop(protocol, None)
        self.repair()

    def set_route(self, protocol: bytes, prefix_length: int, next_hop: bytes) -> None:
        """A route of somebody else stays as it is."""
        self._routes[protocol, prefix_length] = next_hop
        self.repair()

    def remove_route(self, protocol: bytes, prefix_length: int) -> None:
        """As the kernel does."""
        self._routes.pop((protocol, prefix_length), None)
        self.repair()

    def repair(self) -> None:
        """Make the tunnel's entries what they should be."""
        tunnel = self._tunnel
        if tunnel is None:
            return
        tunnel.neighbours = dict(self._neighbours)
        now = tunnel.clock.seconds()
        tunnel.used = {each: tunnel.used.get(each, now) for each in self._neighbours}
        tunnel.routes = {
            network: next_hop
            for network, next_hop in self._routes.items()
            if network not in tunnel.others
        }

    def next_hop(self, protocol: bytes) -> bytes | None:
        """As the tunnel would send."""
        return None if self._tunnel is None else self._tunnel.way(protocol)

    def idle_times(self) -> dict[bytes, float]:
        """Exact."""
        if self._tunnel is None:
            return {}
        now = self._tunnel.clock.seconds()
        return {protocol: now - used for protocol, used in self._tunnel.used.items()}

    def stop(self) -> Deferred[None]:
        """Everything of ours is gone."""
        self._neighbours.clear()
        self._routes.clear()
        self.repair()
        self.hand_over()
        return succeed(None)

    def hand_over(self) -> None:
        """What is ours stays."""
        if self._tunnel is not None:
            self._tunnel.driver = None
            self._tunnel.listener = Layer3Listener()
