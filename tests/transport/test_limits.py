"""How many packets a peer may send: in the daemon, in the kernel, and at the bounds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path, parse_ip
from dmevpn.dataplane.ebpf.peer_filter import MAX_OFFENDERS, MAX_STRANGERS, PeerFilter
from dmevpn.errors import StartError
from dmevpn.interfaces import IPacketFilter, PacketLimits
from dmevpn.metrics import Metrics
from dmevpn.transport import limits
from dmevpn.transport.limits import BURST_SECONDS, STRANGER_SHARE, Flood, PeerLimits
from dmevpn.transport.rawgre import RawGREPort
from dmevpn.transport.reader import HELPING, LARGE, STRANGERS_PER_WAKEUP, TURN
from tests.contracts.transport import Recorder
from tests.transport.cable import FAR, FAR6, NEAR, NEAR6, NEAR_OTHER, Lab

A, B = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
RATE = 10
BURST = RATE * BURST_SECONDS


class Limited:
    """Limits on a clock that stands still, and what they tell."""

    def __init__(self, rate: int = RATE, packet_filter: IPacketFilter | None = None) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.limits = PeerLimits(self.clock, self.metrics, rate, packet_filter)
        self.floods: list[Flood] = []
        self.limits.on_flood = self.floods.append
        self.limits.start("nhrp")

    def passed(self, peer: bytes, count: int = 1000) -> int:
        """How many of a number of packets may pass."""
        return sum(self.limits.admits(peer) for _ in range(count))

    def drops(self, reason: str) -> int:
        """How many were dropped for a reason."""
        return self.metrics.value("drops", reason=reason)


@pytest.fixture
def limited() -> Iterator[Limited]:
    limited = Limited()
    yield limited
    limited.limits.stop()
    assert not limited.clock.getDelayedCalls()


def test_a_peer(limited: Limited) -> None:
    """A known peer has a burst, and then its rate; what is more is counted and told."""
    limited.limits.know(A)
    assert limited.passed(A) == BURST
    limited.clock.advance(1)
    assert limited.passed(A) == RATE
    assert limited.drops("peer_rate") == 2000 - BURST - RATE
    assert limited.floods == [Flood(A, 1000 - BURST)]
    limited.clock.advance(3600)
    assert limited.passed(A) == BURST
    assert limited.floods[1:] == [Flood(A, 1000 - RATE)]


def test_strangers(limited: Limited) -> None:
    """One stranger has as much as a peer, all together as much as a few; peers lose nothing."""
    limited.limits.know(A)
    assert limited.passed(B) == BURST
    assert limited.drops("stranger_rate") == 1000 - BURST
    forged = sum(limited.passed(b"\x0a\x01" + n.to_bytes(2, "big"), 1) for n in range(1000))
    assert BURST + forged == STRANGER_SHARE * BURST
    assert limited.drops("strangers_rate") == 1000 - forged
    assert limited.passed(A) == BURST
    limited.clock.advance(1)
    assert limited.floods == [
        Flood(B, 1000 - BURST),
        Flood(A, 1000 - BURST),
        Flood(b"", 1000 - forged),
    ]
    limited.limits.forget(A)
    assert limited.passed(A) == RATE * 2, "a stranger with a new budget"


def test_a_start_of_all_sites() -> None:
    """With the default rate a site of 1,000 VPNs registers at once, and asks as often; ten such
    sites that nobody knows do, too."""
    limited = Limited(1000)
    assert limited.passed(A, 2000) == 2000
    assert sum(limited.passed(bytes((10, 1, 0, n)), 1000) for n in range(8)) == 8000
    limited.limits.stop()


def test_no_limit() -> None:
    """0 is no limit, and may change while all goes on."""
    limited = Limited(0)
    assert limited.passed(A, 100_000) == 100_000
    limited.limits.set_rate(RATE)
    assert limited.passed(A) == BURST
    limited.limits.set_rate(0)
    assert limited.passed(A) == 1000
    limited.limits.stop()


def test_known_peers_are_bounded(limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many stays a stranger."""
    monkeypatch.setattr(limits, "KNOWN_PEERS", 2)
    for peer in (A, B, NEAR, A):
        limited.limits.know(peer)
    assert [limited.limits.knows(peer) for peer in (A, B, NEAR)] == [True, True, False]
    assert limited.metrics.value("known_peers_full") == 1
    limited.limits.forget(A)
    limited.limits.know(NEAR)
    assert limited.limits.knows(NEAR)


def test_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of forged sources so many are remembered; who has been silent longest is forgotten."""
    monkeypatch.setattr(limits, "STRANGERS", 100)
    limited = Limited(1_000_000)
    for number in range(1000):
        limited.passed(number.to_bytes(4, "big"), 1)
    assert len(limited.limits._strangers) == 100
    assert (999).to_bytes(4, "big") in limited.limits._strangers
    limited.limits.stop()


def test_floods_that_are_told_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the daemon counts who floods, it is told of so many; all are kept to their limit."""
    monkeypatch.setattr(limits, "STRANGERS", 10)
    limited = Limited()
    for number in range(30):
        assert limited.passed(number.to_bytes(4, "big")) <= BURST
    assert len(limited.limits._blamed) == 10
    limited.limits.stop()


def test_without_the_privilege(logged: list[LogEvent]) -> None:
    """What keeps the filter out is said in one line, and the daemon keeps to the limits itself."""

    @implementer(IPacketFilter)
    class Refused(PeerFilter):
        def open(self, limits: PacketLimits) -> None:
            raise StartError("it takes CAP_BPF")

    limited = Limited(packet_filter=Refused())
    assert not limited.limits.in_kernel
    assert limited.passed(A) == BURST
    (event,) = [event for event in logged if "CAP_BPF" in str(event.get("reason"))]
    assert event["ifname"] == "nhrp"
    limited.limits.stop()


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What was logged."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


# --- over real sockets ------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["kernel", "daemon"])
def make(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Callable[[int], RawGREPort]]:
    """A port at the far host whose limits are kept by the kernel or the daemon."""
    made: list[RawGREPort] = []

    def port(rate: int) -> RawGREPort:
        metrics = Metrics()
        packet_filter = PeerFilter() if request.param else None
        own = PeerLimits(lab.reactor, metrics, rate, packet_filter)  # type: ignore[arg-type]
        port = RawGREPort(lab.reactor, metrics, limits=own)
        made.append(port)
        return port

    yield port
    for each in made:
        each.stop()


def started(
    lab: Lab, port: RawGREPort, then: Callable[[bytes], None] = lambda data: None
) -> Recorder:
    """Begin to receive at the far host."""
    recorder = Recorder(then)
    with lab.far.entered():
        port.start(recorder)
    return recorder


def send(lab: Lab, count: int, local: bytes = NEAR, *, octets: int = 9) -> None:
    """Send packets from the near host."""
    sender = RawGREPort(lab.reactor, Metrics())
    with lab.near.entered():
        sender.start(Recorder())
    for _ in range(count):
        sender.send(bytes(octets), Path(FAR6 if len(local) == 16 else FAR, local))
    sender.stop()


def test_filter_interface() -> None:
    """The filter provides what the limits ask for."""
    assert verifyObject(IPacketFilter, PeerFilter())


def test_maps_of_the_filter() -> None:
    """Its maps have room for as many as is documented."""
    if os.geteuid() != 0:
        pytest.skip("eBPF needs root")
    packet_filter = PeerFilter()
    packet_filter.open(PacketLimits(1, 1, 1, 1))
    sizes = {name: each.shape.max_entries for name, each in packet_filter._maps.items()}
    assert sizes["known"] == limits.KNOWN_PEERS
    assert sizes["strangers"] == MAX_STRANGERS
    assert sizes["offenders"] == MAX_OFFENDERS
    full = [
        packet_filter.know(number.to_bytes(4, "big")) for number in range(limits.KNOWN_PEERS + 1)
    ]
    assert len(full) == limits.KNOWN_PEERS + 1, "one too many does no harm"
    packet_filter.close()


@pytest.mark.parametrize("source", [NEAR, NEAR6], ids=["IPv4", "IPv6"])
def test_a_flood(lab: Lab, make: Callable[[int], RawGREPort], source: bytes) -> None:
    """A known peer gets its burst through, others theirs; the rest is dropped, counted and told."""
    port = make(RATE)
    recorder = started(lab, port)
    port.know(source)
    send(lab, 300, source)
    send(lab, 3, NEAR_OTHER)
    lab.settle()
    came = [path.peer for _, path in recorder.received]
    # In the kernel time goes on meanwhile.
    assert BURST <= came.count(source) <= BURST + 2 * RATE
    assert came.count(NEAR_OTHER) == 3
    lab.reactor.clock.advance(1)
    assert port.metrics.value("drops", reason="peer_rate") == 300 - came.count(source)
    assert recorder.floods == [(source, 300 - came.count(source))]
    lab.reactor.clock.advance(1)
    assert len(recorder.floods) == 1


def test_a_stranger(lab: Lab, make: Callable[[int], RawGREPort]) -> None:
    """Who is forgotten is a stranger again; limits may change at any time."""
    port = make(RATE)
    recorder = started(lab, port)
    port.know(NEAR)
    port.forget(NEAR)
    send(lab, 300)
    lab.settle()
    lab.reactor.clock.advance(1)
    assert port.metrics.value("drops", reason="stranger_rate") == 300 - len(recorder.received) > 200
    port.set_rate(0)
    recorder.received.clear()
    send(lab, 300)
    lab.settle()
    assert len(recorder.received) == 300


def test_strangers_together(lab: Lab, make: Callable[[int], RawGREPort]) -> None:
    """Forged sources share one budget, and a known peer's is not touched."""
    port = make(RATE)
    recorder = started(lab, port)
    port.know(NEAR)
    with lab.near.entered():
        forger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for number in range(500):
        header = (
            bytes.fromhex("4500000000000000ff2f0000") + bytes((10, 9)) + number.to_bytes(2, "big")
        )
        forger.sendto(header + FAR + b"\0\0\x20\x01a payload", ("192.0.2.2", 0))
    forger.close()
    send(lab, BURST)
    lab.settle()
    came = [path.peer for _, path in recorder.received]
    assert came.count(NEAR) == BURST
    strangers = len(came) - BURST
    assert STRANGER_SHARE * BURST <= strangers <= STRANGER_SHARE * (BURST + 2 * RATE)
    lab.reactor.clock.advance(1)
    assert port.metrics.value("drops", reason="strangers_rate") == 500 - strangers
    assert recorder.floods == [(b"", 500 - strangers)]


@pytest.mark.parametrize("source", [NEAR, NEAR6], ids=["IPv4", "IPv6"])
def test_a_source_is_refused_by_the_socket(
    lab: Lab, source: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the daemon keeps to the limits, it has the socket drop what one source goes on to
    send, for a second; so many sources at a time."""
    monkeypatch.setattr(limits, "REFUSED_SOURCES", 1)
    metrics = Metrics()
    own = PeerLimits(lab.reactor, metrics, RATE)  # type: ignore[arg-type]
    port = RawGREPort(lab.reactor, metrics, limits=own)
    recorder = started(lab, port)
    send(lab, 300, source)
    lab.settle()
    send(lab, 300, NEAR_OTHER)
    lab.settle()
    assert metrics.value("sources_refused") == 1
    dropped = metrics.value("drops", reason="stranger_rate")
    assert dropped == 600 - 2 * BURST
    send(lab, 300, source)
    send(lab, 1, NEAR_OTHER)
    lab.settle()
    assert metrics.value("drops", reason="stranger_rate") == dropped + 1, "the kernel's work"
    lab.reactor.clock.advance(10)
    lab.settle()
    recorder.received.clear()
    send(lab, 1, source)
    lab.settle()
    assert len(recorder.received) == 1, "it may try again"
    port.stop()


def test_what_waits_is_delivered(lab: Lab) -> None:
    """More than one wake-up delivers: the rest follows, though nothing new wakes us, each source
    in turn."""
    port = RawGREPort(lab.reactor, Metrics())
    recorder = started(lab, port)
    send(lab, 200)
    send(lab, 10, NEAR_OTHER)
    lab.reactor.run_ready(1)
    assert len(recorder.received) == 64
    assert [path.peer for _, path in recorder.received].count(NEAR_OTHER) == 10
    for _ in range(5):
        lab.reactor.clock.advance(0)
    assert len(recorder.received) == 210
    port.stop()


def test_a_source_that_makes_much_work(lab: Lab) -> None:
    """However long its packets take, another source waits for one helping of them at most, and
    for a single one of the large."""
    port = RawGREPort(lab.reactor, Metrics())

    def work(data: bytes) -> None:
        lab.reactor.clock.rightNow += 0.6 * TURN

    recorder = started(lab, port, work)
    send(lab, 60)
    lab.reactor.run_ready(1)
    assert len(recorder.received) == HELPING
    send(lab, 1, NEAR_OTHER)
    lab.reactor.clock.advance(0)
    peers = [path.peer for _, path in recorder.received]
    assert peers[HELPING:].index(NEAR_OTHER) <= 1
    for _ in range(5):
        lab.reactor.clock.advance(0)
    assert len(recorder.received) == 61
    send(lab, 3, octets=LARGE + 1)
    lab.reactor.run_ready(1)
    assert len(recorder.received) == 63, "two, since one does not use up the time"
    port.stop()


@pytest.mark.parametrize("turns", [2, 50], ids=["mixed", "one has most"])
def test_order_of_what_waits(lab: Lab, turns: int) -> None:
    """Packets of known peers are delivered as they came, unless one of these has most of them."""
    port = RawGREPort(lab.reactor, Metrics())
    recorder = started(lab, port)
    for peer in (NEAR, NEAR_OTHER):
        port.know(peer)
    for _ in range(100 // turns):
        send(lab, turns)
        send(lab, turns, NEAR_OTHER)
    lab.reactor.run_ready(1)
    first = [path.peer for _, path in recorder.received[:4]]
    as_they_came = [NEAR, NEAR, NEAR_OTHER, NEAR_OTHER]
    assert first == (as_they_came if turns == 2 else [NEAR, NEAR_OTHER] * 2)
    port.stop()


def test_strangers_wait_for_known_peers(lab: Lab) -> None:
    """While more waits than a turn delivers, few packets of strangers stand before a member's."""
    own = PeerLimits(lab.reactor, Metrics(), 1000)  # type: ignore[arg-type]
    port = RawGREPort(lab.reactor, Metrics(), limits=own)
    recorder = started(lab, port)
    port.know(NEAR_OTHER)
    send(lab, 200)
    lab.reactor.run_ready(1)
    assert len(recorder.received) == STRANGERS_PER_WAKEUP
    send(lab, 1, NEAR_OTHER)
    lab.reactor.run_ready(1)
    came = [path.peer for _, path in recorder.received]
    assert came.index(NEAR_OTHER) <= 2 * STRANGERS_PER_WAKEUP
    for _ in range(20):
        lab.reactor.clock.advance(0)
    assert len(recorder.received) == 201
    port.stop()


def test_a_port_stops_while_packets_wait(lab: Lab) -> None:
    """Nothing is delivered afterwards, and no timer is left."""
    port = RawGREPort(lab.reactor, Metrics())
    recorder = started(lab, port)
    send(lab, 200)
    lab.reactor.run_ready(1)
    port.stop()
    lab.reactor.clock.advance(1)
    assert len(recorder.received) == 64
    assert not lab.reactor.clock.getDelayedCalls()
