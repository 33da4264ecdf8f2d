"""The network in memory keeps the contract of the real one, and fails as it is told."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import Path, parse_ip
from dmevpn.interfaces import IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport.memory import MemoryNetwork, MemoryTransport
from tests.contracts.transport import HostTransportContract, Recorder

A, B, C = (parse_ip(f"192.0.2.{number}") for number in (1, 2, 3))


class MemoryContract(HostTransportContract):
    """The contract over a network in memory."""

    @pytest.fixture(autouse=True)
    def network(self) -> None:
        self.clock = Clock()
        self.memory = MemoryNetwork(self.clock, lambda: 0.0)

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        addresses = [self.near, self.near_other] if address is None else [address]
        return MemoryTransport(self.memory, metrics, addresses, key)

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return MemoryTransport(self.memory, metrics, [self.far], key)

    def pump(self, done: Callable[[], bool]) -> None:
        self.settle()
        assert done()

    def settle(self) -> None:
        self.clock.advance(1)


class TestMemoryIPv4(MemoryContract):
    """The contract with IPv4 addresses."""

    near, near_other, far, foreign = A, C, B, parse_ip("198.51.100.1")


class TestMemoryIPv6(MemoryContract):
    """The contract with IPv6 addresses."""

    near = parse_ip("2001:db8::1")
    near_other = parse_ip("2001:db8::3")
    far = parse_ip("2001:db8::2")
    foreign = parse_ip("2001:db8:1::1")


class Pair:
    """Two started transports on one network."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, random.Random(seed).random)
        self.metrics = Metrics()
        self.a = MemoryTransport(self.network, self.metrics, [A])
        self.b = MemoryTransport(self.network, self.metrics, [B])
        self.at_a, self.at_b = Recorder(), Recorder()
        self.a.start(self.at_a)
        self.b.start(self.at_b)

    def send(self, count: int = 1) -> None:
        """Send numbered datagrams from A to B."""
        for number in range(count):
            self.a.send(str(number).encode(), Path(B))


def test_delay() -> None:
    """A datagram arrives after the network's delay, not before."""
    pair = Pair()
    pair.network.delay = 0.25
    pair.send()
    pair.clock.advance(0.2)
    assert pair.at_b.payloads == []
    pair.clock.advance(0.05)
    assert pair.at_b.payloads == [b"0"]


def test_delay_variation_reorders() -> None:
    """Datagrams with different delays overtake each other, and none is lost."""
    pair = Pair()
    pair.network.delay_variation = 0.5
    pair.send(20)
    pair.clock.pump([0.01] * 60)
    assert pair.at_b.payloads != sorted(pair.at_b.payloads, key=int)
    assert sorted(pair.at_b.payloads, key=int) == [str(number).encode() for number in range(20)]


def test_loss_and_duplication() -> None:
    """The shares of lost and doubled datagrams are about what was asked for."""
    pair = Pair()
    pair.network.loss = 0.3
    pair.network.duplication = 0.5
    pair.send(1000)
    pair.clock.advance(1)
    copies = [transmission.copies for transmission in pair.network.transmissions]
    assert 230 < copies.count(0) < 370
    assert 280 < copies.count(2) < 420
    assert len(pair.at_b.received) == sum(copies)


def test_certain_loss() -> None:
    """A loss of 1 loses everything."""
    pair = Pair()
    pair.network.loss = 1.0
    pair.send(50)
    pair.clock.advance(1)
    assert pair.at_b.received == []


def test_same_seed_same_run() -> None:
    """A run can be repeated exactly."""
    runs = []
    for _ in range(2):
        pair = Pair(seed=7)
        pair.network.loss = pair.network.duplication = 0.3
        pair.network.delay_variation = 0.1
        pair.send(50)
        pair.clock.pump([0.01] * 20)
        runs.append(pair.at_b.received)
    assert runs[0] == runs[1]


def test_separation() -> None:
    """Two separated addresses hear nothing of each other until the network is healed."""
    pair = Pair()
    pair.network.separate(B, A)
    pair.send()
    pair.b.send(b"back", Path(A))
    pair.clock.advance(1)
    assert pair.at_a.received == pair.at_b.received == []
    pair.network.heal()
    pair.send()
    pair.clock.advance(1)
    assert pair.at_b.payloads == [b"0"]


def test_isolation() -> None:
    """An isolated address neither sends nor receives; others go on."""
    pair = Pair()
    third, at_third = MemoryTransport(pair.network, pair.metrics, [C]), Recorder()
    third.start(at_third)
    pair.network.isolate(A)
    pair.send()
    pair.b.send(b"x", Path(A))
    pair.b.send(b"y", Path(C))
    pair.clock.advance(1)
    assert pair.at_a.received == pair.at_b.received == []
    assert at_third.payloads == [b"y"]


def test_transmissions_are_recorded() -> None:
    """A test can look at every packet, also at one that nobody received."""
    pair = Pair()
    pair.clock.advance(5)
    pair.a.send(b"hello", Path(C))
    (transmission,) = pair.network.transmissions
    assert (transmission.time, transmission.source, transmission.destination) == (5, A, C)
    assert transmission.payload() == b"hello"


def test_source_of_the_peers_family() -> None:
    """A host with both families answers each peer in its own."""
    pair = Pair()
    six, other = parse_ip("2001:db8::1"), parse_ip("2001:db8::2")
    both = MemoryTransport(pair.network, pair.metrics, [C, six])
    both.start(Recorder())
    both.send(b"x", Path(A))
    both.send(b"y", Path(other))
    assert [sent.source for sent in pair.network.transmissions] == [C, six]


def test_no_address_of_the_family() -> None:
    """A peer of a family that we have no address of cannot be reached."""
    pair = Pair()
    pair.a.send(b"x", Path(parse_ip("2001:db8::2")))
    assert pair.network.transmissions == []
    assert pair.metrics.value("datagrams_lost", error="EAFNOSUPPORT") == 1


def test_shared_address() -> None:
    """Two transports at one address both get every packet, as raw sockets do."""
    pair = Pair()
    second, at_second = MemoryTransport(pair.network, pair.metrics, [B]), Recorder()
    second.start(at_second)
    pair.send()
    pair.clock.advance(1)
    assert pair.at_b.payloads == at_second.payloads == [b"0"]
    second.stop()
    pair.send()
    pair.clock.advance(1)
    assert len(pair.at_b.payloads) == 2
    assert len(at_second.payloads) == 1


def test_further_keys() -> None:
    """Packets with one of them are taken, and answered with it; our own have the first key."""
    clock, metrics = Clock(), Metrics()
    network = MemoryNetwork(clock, lambda: 0.0)
    hub = MemoryTransport(network, metrics, [A], None, [7, 8])
    peers = {key: MemoryTransport(network, metrics, [B], key) for key in (None, 7, 9)}
    at_hub = Recorder()
    at_peers = {key: Recorder() for key in peers}
    hub.start(at_hub)
    for key, peer in peers.items():
        peer.start(at_peers[key])
        peer.send(b"question", Path(A))
    clock.advance(1)
    assert [path.key for _, path in at_hub.received] == [None, 7]
    for data, path in at_hub.received:
        hub.send(data, path)
    hub.send(b"without a question", Path(B))
    clock.advance(1)
    assert [[data for data, _ in each.received] for each in at_peers.values()] == [
        [b"question", b"without a question"],
        [b"question"],
        [],
    ]
