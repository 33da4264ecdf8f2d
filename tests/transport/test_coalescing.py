"""Packets that come often, one by one: fetched together after pauses."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import Path
from dmevpn.metrics import Metrics
from dmevpn.transport.coalescing import OFTEN, PATIENCE, PAUSE, Coalescing
from dmevpn.transport.limits import PeerLimits
from dmevpn.transport.reader import DATAGRAMS_PER_WAKEUP, DatagramReader
from tests.transport.readers import Readers

#: Seconds after which a socket wakes us again that has fallen silent.
OVER = PATIENCE / OFTEN


class Reader(DatagramReader[tuple[bytes, bytes]]):
    """Reads one end of a pair of sockets, and notes what came together."""

    def __init__(self, sock: socket.socket, metrics: Metrics, reactor: Readers) -> None:
        limits = PeerLimits(reactor, metrics, 0)  # type: ignore[arg-type]
        super().__init__(sock, metrics, reactor, limits)
        self.turns: list[list[bytes]] = []

    def receive(self) -> tuple[bytes, bytes]:
        datagram = self.sock.recv(100)
        return datagram, datagram[:1]

    def deliver(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        self.turns.append([datagram for datagram, _ in datagrams])
        if b"close" in self.turns[-1]:
            self.close()

    def transmit(self, packet: bytes, path: Path) -> None:
        raise AssertionError("nothing is sent here")


class Wire:
    """A reader on its reactor, and the other end of its socket."""

    def __init__(self) -> None:
        self.reactor = Readers()
        self.clock = self.reactor.clock
        near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        self.reader = Reader(near, Metrics(), self.reactor)
        self.turns = self.reader.turns
        self.reactor.addReader(self.reader)

    def send(self, *datagrams: bytes) -> None:
        """Let the reactor see some datagrams, which come together."""
        for datagram in datagrams:
            self._far.send(datagram)
        self.reactor.run_ready(0)

    def send_often(self) -> None:
        """As many as it takes until there are pauses."""
        for _ in range(PATIENCE):
            self.send(b"often")
        assert not self.reactor.readers
        self.turns.clear()

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self._far.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A reader that nothing has come to."""
    wire = Wire()
    yield wire
    wire.close()


def test_what_comes_seldom_is_read_at_once(wire: Wire) -> None:
    """However long it goes on: a packet that comes 10 % less often than that waits for nothing."""
    for number in range(10 * PATIENCE):
        wire.send(b"%d" % number)
        assert wire.turns.pop() == [b"%d" % number]
        wire.clock.advance(1.1 / OFTEN)
    assert not wire.clock.getDelayedCalls()


def test_some_in_a_row_are_read_at_once(wire: Wire) -> None:
    """So is each of some questions in a row."""
    for _ in range(PATIENCE - 1):
        wire.send(b"x")
    assert wire.turns == [[b"x"]] * (PATIENCE - 1)


def test_what_comes_often_is_read_together(wire: Wire) -> None:
    """The socket wakes nobody any more; what comes in a pause is handed on at its end, at once."""
    wire.send_often()
    wire.send(b"1")
    wire.send(b"2")
    wire.clock.advance(PAUSE * 0.9)
    assert wire.turns == []
    wire.clock.advance(PAUSE * 0.1)
    assert wire.turns == [[b"1", b"2"]]
    wire.send(b"3")
    wire.clock.advance(PAUSE)
    assert wire.turns == [[b"1", b"2"], [b"3"]]


def test_silence_ends_the_pauses(wire: Wire) -> None:
    """A tenth of a second later the socket wakes us again, and no timer is left."""
    wire.send_often()
    wire.clock.pump([PAUSE] * round(OVER / PAUSE + 1))
    assert wire.reactor.readers == [wire.reader]
    assert not wire.clock.getDelayedCalls()
    wire.turns.clear()
    wire.send(b"x")
    assert wire.turns == [[b"x"]]


def test_no_pause_while_more_waits(wire: Wire) -> None:
    """Who has more than a turn's work goes on with it after the reactor's other work."""
    wire.send_often()
    wire.send(*[b"%d" % (number % 5) for number in range(2 * DATAGRAMS_PER_WAKEUP)])
    wire.clock.advance(PAUSE)
    assert sum(map(len, wire.turns)) == 2 * DATAGRAMS_PER_WAKEUP


@pytest.mark.parametrize("often", [True, False])
def test_closed_when_read(wire: Wire, often: bool) -> None:
    """A packet may end the reader, which leaves neither a timer nor a socket with the reactor."""
    if often:
        wire.send_often()
    wire.send(b"close")
    wire.clock.advance(PAUSE)
    assert wire.turns == [[b"close"]]
    assert not wire.clock.getDelayedCalls()
    wire.reactor.removeReader(wire.reader)
    wire.clock.advance(1)
    assert not wire.reactor.readers


def test_closed_in_a_pause(wire: Wire) -> None:
    """So may whoever owns it."""
    wire.send_often()
    wire.reader.close()
    assert not wire.clock.getDelayedCalls()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300))
def test_when_pauses_begin(gaps: list[int]) -> None:
    """As soon as, since some packet, PATIENCE have come beyond OFTEN a second; and not before."""
    coalescing = Coalescing()
    times: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap / 8192  # of which any sum is exact
        times.append(now)
        excess = [len(times) - index - (now - since) * OFTEN for index, since in enumerate(times)]
        assert coalescing.read(1, now) is (max(excess) >= PATIENCE)
        if coalescing.pausing:
            break
    # And they are over soon, whatever was before.
    assert not coalescing.read(0, now + OVER)
