"""Raw GRE sockets in network namespaces: the contract, and what only a kernel can do."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path, parse_ip
from dmevpn.errors import StartError
from dmevpn.interfaces import IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport import gre
from dmevpn.transport.gre import MAX_PAYLOAD
from dmevpn.transport.rawgre import RawGREPort
from dmevpn.transport.reader import DATAGRAMS_PER_WAKEUP
from lab.netns import Namespace, run
from lab.wait import eventually
from tests.contracts.transport import HostTransportContract, Recorder
from tests.transport.cable import FAR, FAR6, NEAR, NEAR6, NEAR_OTHER, NEAR_OTHER6, Lab
from tests.transport.readers import Readers


@pytest.fixture(autouse=True)
def no_reader_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the reactor as it found it: a stopped port has no reader."""
    yield
    if "lab" in request.fixturenames:
        assert request.getfixturevalue("lab").reactor.readers == []


class RawContract(HostTransportContract):
    """The contract over real sockets."""

    @pytest.fixture(autouse=True)
    def use_lab(self, lab: Lab) -> None:
        self.lab = lab

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(self.lab.near, metrics, address, key)

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(self.lab.far, metrics, address, key)

    def pump(self, done: Callable[[], bool]) -> None:
        assert self.lab.pump(done)

    def settle(self) -> None:
        self.lab.settle()


class TestRawIPv4(RawContract):
    """The contract over IPv4."""

    near, near_other, far, foreign = NEAR, NEAR_OTHER, FAR, parse_ip("198.51.100.1")


class TestRawIPv6(RawContract):
    """The contract over IPv6."""

    near, near_other, far = NEAR6, NEAR_OTHER6, FAR6
    foreign = parse_ip("2001:db8:1::1")


def test_reader(lab: Lab, metrics: Metrics) -> None:
    """The reactor finds all that it asks of a reader; one wake-up reads a bounded number."""
    near, far, recorder = lab.port(lab.near, metrics), lab.port(lab.far, metrics, FAR), Recorder()
    far.start(recorder)
    (reader,) = lab.reactor.readers
    assert verifyObject(IReadDescriptor, reader)
    assert reader.logPrefix() == "gre"
    near.start(Recorder())
    for _ in range(DATAGRAMS_PER_WAKEUP + 1):
        near.send(b"x", Path(FAR))
    select.select([reader], [], [], 5)
    reader.doRead()
    assert len(recorder.received) == DATAGRAMS_PER_WAKEUP
    reader.doRead()
    assert len(recorder.received) == DATAGRAMS_PER_WAKEUP + 1
    near.stop()
    far.stop()


def test_connection_lost(lab: Lab, metrics: Metrics) -> None:
    """A reactor that ends closes the socket; sending then is a counted loss, not a traceback."""
    near = lab.port(lab.near, metrics, NEAR)
    near.start(Recorder())
    (reader,) = lab.reactor.readers
    reader.connectionLost(Failure(ConnectionError()))  # type: ignore[no-untyped-call]
    assert reader.fileno() == -1
    near.send(b"x", Path(FAR))
    assert metrics.value("datagrams_lost", error="EBADF") == 1
    assert [s.value for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns"] == [0]
    near.stop()


def test_outer_ipv4_header(lab: Lab, metrics: Metrics) -> None:
    """TTL 255, class CS6, fragments allowed, as routers send NHRP."""
    near, far = lab.port(lab.near, metrics), lab.raw(lab.far)
    near.start(Recorder())
    for local in (b"", NEAR_OTHER):
        near.send(b"x", Path(FAR, local))
        packet = far.recv(2048)
        assert (packet[1], packet[8], packet[9]) == (0xC0, 255, 47)
        assert packet[6] & 0x40 == 0
        assert packet[12:16] == (local or NEAR)
        assert packet[20:] == bytes.fromhex("00002001") + b"x"
    near.stop()
    far.close()


def test_outer_ipv6_header(lab: Lab, metrics: Metrics) -> None:
    """Hop limit 255 and class CS6 over IPv6 too."""
    near, far = lab.port(lab.near, metrics), lab.raw(lab.far, socket.AF_INET6)
    far.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    far.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    near.start(Recorder())
    for local in (b"", NEAR_OTHER6):
        near.send(b"x", Path(FAR6, local))
        packet, ancillary, _, source = far.recvmsg(2048, 128)
        values = {kind: struct.unpack("=i", data)[0] for _, kind, data in ancillary}
        assert values == {socket.IPV6_HOPLIMIT: 255, socket.IPV6_TCLASS: 0xC0}
        assert not local or parse_ip(source[0]) == local
        assert packet == bytes.fromhex("00002001") + b"x"
    near.stop()
    far.close()


@pytest.mark.parametrize(("peer", "local"), [(FAR, NEAR), (FAR6, NEAR6)])
def test_small_path_mtu(lab: Lab, metrics: Metrics, peer: bytes, local: bytes) -> None:
    """A packet larger than a link is fragmented and put together, not lost."""
    near, far, recorder = lab.port(lab.near, metrics), lab.port(lab.far, metrics), Recorder()
    near.start(Recorder())
    far.start(recorder)
    lab.near.ip("link", "set", "cable", "mtu", "1280")
    try:
        near.send(bytes(MAX_PAYLOAD), Path(peer, local))
        assert lab.pump(lambda: bool(recorder.received))
    finally:
        lab.near.ip("link", "set", "cable", "mtu", "1500")
    assert recorder.payloads == [bytes(MAX_PAYLOAD)]
    near.stop()
    far.stop()


def test_ipv4_options(lab: Lab, metrics: Metrics) -> None:
    """IP options before the GRE header are skipped."""
    near, far, recorder = lab.raw(lab.near), lab.port(lab.far, metrics), Recorder()
    far.start(recorder)
    near.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x00")
    near.sendto(gre.encode(b"x", None), ("192.0.2.2", 0))
    assert lab.pump(lambda: bool(recorder.received))
    assert recorder.received == [(b"x", Path(NEAR, FAR))]
    near.close()
    far.stop()


@pytest.mark.parametrize(
    ("family", "target"), [(socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")]
)
def test_foreign_gre_stays_in_the_kernel(
    lab: Lab, metrics: Metrics, family: int, target: str
) -> None:
    """Other users of GRE on the host cost us nothing; bad headers of our type are counted."""
    near, far, recorder = lab.raw(lab.near, family), lab.port(lab.far, metrics), Recorder()
    far.start(recorder)
    for packet in (b"\0\0\x08\0ipv4", b"\0\0", b"\0\x01\x20\x01pptp", b"\0\0\x20\x01nhrp"):
        near.sendto(packet, (target, 0))
    assert lab.pump(lambda: bool(recorder.received))
    assert recorder.payloads == [b"nhrp"]
    drops = {s.labels: s.value for s in metrics.snapshot() if s.name == "dmevpn_drops_total"}
    assert {k: v for k, v in drops.items() if v} == {(("reason", "gre_bad_version"),): 1}
    near.close()
    far.stop()


def test_icmp_errors_lose_nothing(lab: Lab, metrics: Metrics) -> None:
    """A peer without a daemon answers with ICMP errors; other peers do not notice."""
    far, recorder = lab.port(lab.far, metrics), Recorder()
    near = lab.raw(lab.near)
    far.start(recorder)
    near.close()  # from here on the near host answers "protocol unreachable"
    for _ in range(20):
        far.send(b"to nobody", Path(NEAR, FAR))
        far.send(b"to nobody", Path(NEAR6, FAR6))
        far.send(b"to ourselves", Path(FAR, FAR))
    assert lab.pump(lambda: len(recorder.received) >= 20)
    lab.settle()
    assert recorder.payloads == [b"to ourselves"] * 20
    assert metrics.value("datagrams_sent") == 60
    far.stop()


def test_reported_errors_are_passed_over(lab: Lab, metrics: Metrics) -> None:
    """An error that the kernel reports on reading does not hide the datagrams behind it."""
    near, far, recorder = lab.port(lab.near, metrics), lab.port(lab.far, metrics), Recorder()
    near.start(Recorder())
    far.start(recorder)
    reader = far._sockets[4]
    receive, errors = reader.receive, [errno.ECONNREFUSED, errno.EHOSTUNREACH]

    def fail_first() -> tuple[bytes, bytes, bytes]:
        if errors:
            raise OSError(errors.pop(), "reported by ICMP")
        return receive()

    reader.receive = fail_first  # type: ignore[method-assign]
    near.send(b"x", Path(FAR))
    assert lab.pump(lambda: bool(recorder.received))
    assert metrics.value("receive_errors", error="ECONNREFUSED") == 1
    assert metrics.value("receive_errors", error="EHOSTUNREACH") == 1
    near.stop()
    far.stop()


def test_no_route(lab: Lab, metrics: Metrics) -> None:
    """A destination without a route is a counted loss, not an error."""
    near = lab.port(lab.near, metrics)
    near.start(Recorder())
    near.send(b"x", Path(parse_ip("203.0.113.1")))
    near.send(b"x", Path(parse_ip("2001:db8:9::1")))
    assert metrics.value("datagrams_lost", error="ENETUNREACH") == 2
    near.stop()


def test_other_family(lab: Lab, metrics: Metrics) -> None:
    """A port bound to an IPv4 address cannot reach an IPv6 peer."""
    near = lab.port(lab.near, metrics, NEAR)
    near.start(Recorder())
    near.send(b"x", Path(FAR6))
    assert metrics.value("datagrams_lost", error="EAFNOSUPPORT") == 1
    near.stop()


def test_kernel_says_too_large(lab: Lab, metrics: Metrics) -> None:
    """A packet that the kernel finds too large is counted like one that we find too large."""
    near = lab.port(lab.near, metrics)
    near.start(Recorder())
    near.packet_lost(errno.errorcode[errno.EMSGSIZE])
    assert metrics.value("drops", reason="too_large") == 1
    near.stop()


def test_overruns_are_counted(lab: Lab, metrics: Metrics) -> None:
    """Operators see when peers send faster than the daemon reads."""
    near, far = lab.port(lab.near, metrics), lab.port(lab.far, metrics, FAR)
    near.start(Recorder())
    far.start(Recorder())
    lost = 0.0
    for _ in range(100):
        for _ in range(1000):
            near.send(bytes(MAX_PAYLOAD), Path(FAR, NEAR))
        lost = sum(s.value for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns")
        if lost:
            break
    assert lost > 0
    near.stop()
    far.stop()


def test_foreign_gre_is_no_overrun(lab: Lab, metrics: Metrics) -> None:
    """What the filter keeps out is not counted as lost."""
    near, far = lab.raw(lab.near), lab.port(lab.far, metrics)
    far.start(Recorder())
    for _ in range(10):
        near.sendto(b"\0\0\x08\0ipv4", ("192.0.2.2", 0))
    lab.settle()
    assert [s.value for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns"] == [0]
    near.close()
    far.stop()


def test_group_address_is_no_source(lab: Lab, metrics: Metrics) -> None:
    """A packet to a group is delivered, and answered from an address of our own."""
    far, recorder = lab.port(lab.far, metrics), Recorder()
    near = lab.raw(lab.near)
    far.start(recorder)
    # A host hears groups that any of its sockets has joined.
    member = lab.raw(lab.far)
    membership = socket.inet_aton("239.1.1.1") + FAR
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    near.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, NEAR)
    near.sendto(gre.encode(b"x", None), ("239.1.1.1", 0))
    assert lab.pump(lambda: bool(recorder.received))
    assert recorder.received == [(b"x", Path(NEAR, b""))]
    near.close()
    member.close()
    far.stop()


def test_link_local_peer(lab: Lab, metrics: Metrics) -> None:
    """A peer's link-local address names nobody without its link: dropped, counted."""
    far = lab.port(lab.far, metrics)
    far.start(Recorder())
    near = lab.raw(lab.near, socket.AF_INET6)
    with lab.near.entered():
        index = socket.if_nametoindex("cable")
    source = _link_local(lab.near)
    near.bind((source, 0, 0, index))
    target = (_link_local(lab.far), 0, 0, index)
    near.sendto(gre.encode(b"x", None), target)
    assert lab.pump(lambda: metrics.value("drops", reason="link_local_peer") == 1)
    near.close()
    far.stop()


def _link_local(namespace: Namespace) -> str:
    """A host's link-local address, once it may be used."""
    show = ("-6", "-o", "address", "show", "dev", "cable", "scope", "link", "-tentative")
    line = eventually(
        "link-local address", lambda: run("ip", "-n", namespace.name, *show).stdout.split()
    )
    return line[3].partition("/")[0]


def test_link_local_address(lab: Lab, metrics: Metrics) -> None:
    """A link-local nbma-address is refused with the reason."""
    with pytest.raises(StartError, match="fe80::1 is a link-local address"):
        lab.port(lab.near, metrics, parse_ip("fe80::1")).start(Recorder())


@pytest.mark.parametrize("address", ["192.0.2.99", "2001:db8::99"])
def test_address_of_another(lab: Lab, metrics: Metrics, address: str) -> None:
    """An address that is not ours is named, with the cure; nothing is left open."""
    port = lab.port(lab.near, metrics, parse_ip(address))
    with pytest.raises(StartError, match=f"{address} is not an address of this host: add it"):
        port.start(Recorder())
    assert lab.reactor.readers == []


def test_no_privilege(lab: Lab, metrics: Metrics) -> None:
    """Without CAP_NET_RAW the error says what to grant."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # privileges are dropped in a process of its own
        try:
            os.setuid(65534)
            RawGREPort(cast(IReactorFDSet, lab.reactor), metrics).start(Recorder())
        except StartError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    message = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert message.startswith("no permission to open a raw GRE socket")
    assert "CAP_NET_RAW" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errno.EAFNOSUPPORT, "the kernel has no IPv6"),
        (errno.EMFILE, "cannot open a raw GRE socket: Too many open files"),
    ],
)
def test_other_reasons(lab: Lab, metrics: Metrics, error: int, message: str) -> None:
    """Whatever keeps a socket from opening is one line that names it."""
    port = lab.port(lab.near, metrics, NEAR6)
    assert str(port._cure(OSError(error, os.strerror(error)))).startswith(message)


def test_impossible_key(metrics: Metrics) -> None:
    """A key that does not fit into 32 bits is our mistake."""
    with pytest.raises(ValueError, match="no GRE key: 4294967296"):
        RawGREPort(cast(IReactorFDSet, Readers()), metrics, key=1 << 32)


def test_two_ports_share_an_address(lab: Lab, metrics: Metrics) -> None:
    """Two control interfaces at one address are told apart by their keys."""
    one, other = Recorder(), Recorder()
    ports = [lab.port(lab.far, metrics, FAR, key) for key in (1, 2)]
    for port, recorder in zip(ports, (one, other), strict=True):
        port.start(recorder)
    senders = [lab.port(lab.near, metrics, NEAR, key) for key in (1, 2)]
    for number, sender in enumerate(senders):
        sender.start(Recorder())
        sender.send(b"%d" % number, Path(FAR))
    assert lab.pump(lambda: bool(one.received and other.received))
    assert (one.payloads, other.payloads) == ([b"0"], [b"1"])
    for port in (*ports, *senders):
        port.stop()
    assert not [s for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns"]
