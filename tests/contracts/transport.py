"""What every IDatagramTransport does, run over each provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from twisted.logger import LogEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path
from dmevpn.interfaces import IDatagramReceiver, IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport.gre import MAX_PAYLOAD

__all__ = ["DatagramTransportContract", "HostTransportContract", "Recorder"]


@implementer(IDatagramReceiver)
class Recorder:
    """Keeps what it receives, and then does what a test asks of it."""

    def __init__(self, then: Callable[[bytes], None] = lambda data: None) -> None:
        self.received: list[tuple[bytes, Path]] = []
        self.resumptions = 0
        self.floods: list[tuple[bytes, int]] = []
        self._then = then

    def datagrams_received(self, datagrams: Sequence[tuple[bytes, Path]]) -> None:
        for data, path in datagrams:
            self.received.append((data, path))
            self._then(data)

    def flooded(self, peer: bytes, dropped: int) -> None:
        self.floods.append((peer, dropped))

    def resumed(self) -> None:
        self.resumptions += 1

    @property
    def payloads(self) -> list[bytes]:
        """The payloads without their paths."""
        return [data for data, _ in self.received]


class DatagramTransportContract:
    """Two hosts, ``near`` and ``far``, with one transport at each.

    Subclasses say how transports are made and how the network is given time to carry. Payloads
    have 8 octets at least: the kernel's GRE drops what is shorter (Linux ``net/ipv4/gre_demux.c``),
    and no NHRP packet is.
    """

    near: bytes
    near_other = b""
    """A second address of the near host, if it has one."""
    far: bytes

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        """A transport at the host with two addresses, bound to one of them if it is given."""
        raise NotImplementedError

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        """A transport at the host with one address."""
        raise NotImplementedError

    def pump(self, done: Callable[[], bool]) -> None:
        """Let the network carry until ``done()``; fail if that takes too long."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let the network carry whatever is under way."""
        raise NotImplementedError

    @pytest.fixture
    def metrics(self) -> Metrics:
        """One for all transports of a test."""
        return Metrics()

    def test_interface(self, metrics: Metrics) -> None:
        """The transport provides what a speaker asks for."""
        assert verifyObject(IDatagramTransport, self.make_near(metrics))

    def test_order_and_content(self, metrics: Metrics) -> None:
        """More datagrams than one wake-up reads arrive unchanged and in order."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder()
        near.start(Recorder())
        far.start(recorder)
        sent = [bytes([number % 256]) * (number % 50 + 8) for number in range(200)]
        for data in sent:
            near.send(data, Path(self.far))
        self.pump(lambda: len(recorder.received) == len(sent))
        assert recorder.payloads == sent
        assert metrics.value("datagrams_sent") == metrics.value("datagrams_received") == 200
        near.stop()
        far.stop()

    def test_source_is_chosen(self, metrics: Metrics) -> None:
        """Without a local address in the path the datagram still has a source of ours."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder()
        near.start(Recorder())
        far.start(recorder)
        near.send(b"datagram", Path(self.far))
        self.pump(lambda: bool(recorder.received))
        assert recorder.received[0][1].peer in (self.near, self.near_other)
        near.stop()
        far.stop()

    def test_oversize(self, metrics: Metrics) -> None:
        """The largest payload arrives whole; a larger one is not sent, but counted."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder()
        near.start(Recorder())
        far.start(recorder)
        near.send(bytes(MAX_PAYLOAD + 1), Path(self.far))
        near.send(bytes(MAX_PAYLOAD), Path(self.far))
        self.pump(lambda: bool(recorder.received))
        assert recorder.payloads == [bytes(MAX_PAYLOAD)]
        assert metrics.value("drops", reason="too_large") == 1
        near.stop()
        far.stop()

    def test_receiver_that_raises(self, metrics: Metrics, logged_failures: list[LogEvent]) -> None:
        """A mistake of ours in one datagram ends in the log; the next one is delivered."""

        def fail(data: bytes) -> None:
            if data == b"the poison":
                raise RuntimeError("our mistake")

        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder(fail)
        near.start(Recorder())
        far.start(recorder)
        near.send(b"the poison", Path(self.far))
        self.pump(lambda: len(recorder.received) == 1)
        near.send(b"some food", Path(self.far))
        self.pump(lambda: len(recorder.received) == 2)
        assert recorder.payloads == [b"the poison", b"some food"]
        assert [str(event["log_failure"].value) for event in logged_failures] == ["our mistake"]
        logged_failures.clear()
        near.stop()
        far.stop()

    def test_answers(self, metrics: Metrics) -> None:
        """What a receiver sends while something is delivered goes out, however much it is."""
        many = 150
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder()
        near.start(recorder)

        def answer(data: bytes) -> None:
            for number in range(many):
                far.send(b"answer %03d" % number, Path(self.near, self.far))

        far.start(Recorder(answer))
        near.send(b"a question", Path(self.far))
        self.settle()
        self.pump(lambda: len(recorder.received) == many)
        assert recorder.payloads == [b"answer %03d" % number for number in range(many)]
        near.stop()
        far.stop()

    def test_stop(self, metrics: Metrics) -> None:
        """After stop nothing is delivered, sending is a counted loss, and stop fires at once."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder()
        near.start(Recorder())
        far.start(recorder)
        near.send(b"under way", Path(self.far))
        stopped: list[None] = []
        far.stop().addCallback(stopped.append)
        assert stopped == [None]
        self.settle()
        assert recorder.received == []
        before = metrics.value("datagrams_sent")
        far.send(b"datagram", Path(self.near))
        assert metrics.value("datagrams_sent") == before
        near.stop()

    def test_stop_while_delivering(self, metrics: Metrics) -> None:
        """A receiver may stop the transport; what comes later is not delivered."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        recorder = Recorder(lambda data: far.stop())
        near.start(Recorder())
        far.start(recorder)
        near.send(b"the first", Path(self.far))
        self.pump(lambda: bool(recorder.received))
        near.send(b"the second", Path(self.far))
        self.settle()
        assert recorder.payloads == [b"the first"]
        near.stop()

    def test_stop_twice_and_start_again(self, metrics: Metrics) -> None:
        """Stopping what does not run is harmless, and a stopped transport can be started again."""
        near, far = self.make_near(metrics), self.make_far(metrics)
        far.stop()
        recorder = Recorder()
        near.start(Recorder())
        far.start(recorder)
        far.stop()
        far.stop()
        far.start(recorder)
        near.send(b"datagram", Path(self.far))
        self.pump(lambda: bool(recorder.received))
        assert recorder.payloads == [b"datagram"]
        near.stop()
        far.stop()


class HostTransportContract(DatagramTransportContract):
    """What a transport does besides that is not tied to one peer: the near host has two addresses,
    and transports with other keys beside."""

    foreign: bytes
    """An address that nobody has."""
    sees_foreign_keys = True
    """Whether packets with another key get as far as the transport."""

    def heard(self) -> tuple[bytes, ...]:
        """The addresses at which a transport of the near host hears that is bound to none."""
        return self.near, self.near_other

    def test_answer_takes_the_same_path(self, metrics: Metrics) -> None:
        """An answer to the received path comes from the address that was asked."""
        for asked in self.heard():
            near, far = self.make_near(metrics), self.make_far(metrics)
            asking, answering = Recorder(), Recorder()
            near.start(answering)
            far.start(asking)
            far.send(b"question", Path(asked))
            self.pump(lambda: bool(answering.received))  # noqa: B023 -- called at once
            ((_, path),) = answering.received
            assert path == Path(self.far, asked, None)
            near.send(b"the answer", path)
            self.pump(lambda: bool(asking.received))  # noqa: B023 -- called at once
            assert asking.received == [(b"the answer", Path(asked, self.far, None))]
            near.stop()
            far.stop()

    def test_bound_address(self, metrics: Metrics) -> None:
        """A bound transport sends from its address and hears nothing sent to another."""
        near, far = self.make_near(metrics, self.near_other), self.make_far(metrics, self.far)
        answering, recorder = Recorder(), Recorder()
        near.start(answering)
        far.start(recorder)
        far.send(b"to another", Path(self.near))
        far.send(b"to this one", Path(self.near_other))
        self.pump(lambda: bool(answering.received))
        assert answering.received == [(b"to this one", Path(self.far, self.near_other))]
        near.send(b"datagram", Path(self.far))
        self.pump(lambda: bool(recorder.received))
        assert recorder.received[0][1] == Path(self.near_other, self.far)
        near.stop()
        far.stop()

    def test_foreign_source(self, metrics: Metrics) -> None:
        """A source address that is not ours (any more) loses the datagram, counted."""
        near = self.make_near(metrics)
        near.start(Recorder())
        near.send(b"datagram", Path(self.far, self.foreign))
        assert metrics.value("datagrams_sent") == 0
        lost = [s.value for s in metrics.snapshot() if s.name == "dmevpn_datagrams_lost_total"]
        assert lost == [1]
        near.stop()

    @pytest.mark.parametrize("key", [0, 1000, 0xFFFFFFFF])
    def test_key(self, metrics: Metrics, key: int) -> None:
        """Only packets with our GRE key are ours; others are counted."""
        near, far = self.make_near(metrics, key=key), self.make_far(metrics, key=key)
        stranger, plain = self.make_near(metrics, key=77), self.make_near(metrics)
        recorder = Recorder()
        for transport in (near, stranger, plain):
            transport.start(Recorder())
        far.start(recorder)
        plain.send(b"without a key", Path(self.far))
        stranger.send(b"another key", Path(self.far))
        near.send(b"a key of ours", Path(self.far))
        self.pump(lambda: bool(recorder.received))
        assert [(data, path.key) for data, path in recorder.received] == [(b"a key of ours", key)]
        if self.sees_foreign_keys:
            assert metrics.value("drops", reason="gre_key_mismatch") >= 2
        for transport in (near, stranger, plain, far):
            transport.stop()
