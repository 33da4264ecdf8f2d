"""Packet sockets on GRE devices: the contract, and how they follow their device.

Where the kernel has GRE devices they are used: multipoint over IPv4, point-to-point over IPv6.
Everywhere, a pair of tun devices stands for a point-to-point tunnel; the cable between them is
here, in user space.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorFDSet
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path, parse_ip
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.errors import StartError
from dmevpn.interfaces import GREDevice, IControlDeviceListener, IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.transport.packet import PacketPort
from dmevpn.transport.reader import DATAGRAMS_PER_WAKEUP
from tests.contracts.transport import (
    DatagramTransportContract,
    HostTransportContract,
    Recorder,
)
from tests.transport.devices import FAR, FAR6, NEAR, NEAR6, NEAR_OTHER, GRELab, Tunnel
from tests.transport.readers import Readers


@pytest.fixture(scope="module")
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")


@pytest.fixture(scope="module")
def tunnel(root: None) -> Iterator[Tunnel]:
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("the kernel has no tun devices")
    tunnel = Tunnel()
    try:
        tunnel.create()
        yield tunnel
    finally:
        tunnel.remove()


@pytest.fixture(autouse=True)
def no_reader_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the reactor as it found it."""
    yield
    for name in ("tunnel", "gre"):
        if name in request.fixturenames:
            assert request.getfixturevalue(name).reactor.readers == []


class TestPointToPoint(DatagramTransportContract):
    """The contract at both ends of a tunnel."""

    near, far = NEAR, FAR

    @pytest.fixture(autouse=True)
    def use_tunnel(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.tunnel.port(0, metrics)

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.tunnel.port(1, metrics)

    def pump(self, done: Callable[[], bool]) -> None:
        assert self.tunnel.pump(done)

    def settle(self) -> None:
        self.tunnel.settle()


def test_interfaces(tunnel: Tunnel, metrics: Metrics) -> None:
    """The port hears from its device."""
    assert verifyObject(IControlDeviceListener, tunnel.port(0, metrics))


def test_paths_of_a_point_to_point_device(tunnel: Tunnel, metrics: Metrics) -> None:
    """Peer and local address are the device's; other paths are counted losses."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.inject(0, b"x")
    assert tunnel.pump(lambda: bool(recorder.received))
    assert recorder.received == [(b"x", Path(FAR, NEAR, None))]
    near.send(b"x", Path(NEAR_OTHER))
    near.send(b"x", Path(FAR6))
    near.send(b"x", Path(FAR, NEAR_OTHER))
    assert metrics.value("datagrams_lost", error="EHOSTUNREACH") == 2
    assert metrics.value("datagrams_lost", error="EADDRNOTAVAIL") == 1
    assert metrics.value("datagrams_sent") == 0
    near.stop()


def test_other_protocols_stay_in_the_kernel(tunnel: Tunnel, metrics: Metrics) -> None:
    """What else the device carries costs us nothing."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.inject(0, bytes(40), 0x0800)
    tunnel.inject(0, b"nhrp")
    assert tunnel.pump(lambda: bool(recorder.received))
    tunnel.settle()
    assert recorder.payloads == [b"nhrp"]
    assert metrics.value("datagrams_received") == 1
    near.stop()


def test_one_wakeup_is_bounded(tunnel: Tunnel, metrics: Metrics) -> None:
    """A burst leaves timers and other sockets their turn."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    (reader,) = [r for r in tunnel.reactor.readers if r.logPrefix() == "gre"]
    for _ in range(DATAGRAMS_PER_WAKEUP + 1):
        tunnel.inject(0, b"x")
    reader.doRead()
    assert len(recorder.received) == DATAGRAMS_PER_WAKEUP
    reader.doRead()
    assert len(recorder.received) == DATAGRAMS_PER_WAKEUP + 1
    near.stop()


def test_down_and_up(tunnel: Tunnel, metrics: Metrics) -> None:
    """A device that is taken down is waited for; when it is up the port says so, once."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.ends[0].ip("link", "set", "gre1", "down")
    assert tunnel.pump(lambda: near.device.state is not None and not near.device.state.up)
    near.send(b"lost", Path(FAR))
    assert metrics.value("datagrams_lost", error="ENETDOWN") == 1
    assert recorder.resumptions == 0
    tunnel.ends[0].ip("link", "set", "gre1", "up")
    assert tunnel.pump(lambda: recorder.resumptions == 1)
    tunnel.inject(0, b"again")
    assert tunnel.pump(lambda: bool(recorder.received))
    tunnel.settle()
    assert recorder.resumptions == metrics.value("transport_resumptions", interface="gre1") == 1
    near.stop()


def test_removed_and_made_again(tunnel: Tunnel, metrics: Metrics) -> None:
    """A device of the same name and another index is taken for the old one."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    assert near.device.state is not None
    index = near.device.state.ifindex
    tunnel.unplug(0)
    assert tunnel.pump(lambda: near.device.state is None)
    near.send(b"lost", Path(FAR))
    assert metrics.value("datagrams_lost", error="ENODEV") == 1
    tunnel.plug(0)
    assert tunnel.pump(lambda: recorder.resumptions == 1)
    assert near.device.state is not None and near.device.state.ifindex != index
    tunnel.inject(0, b"again")
    assert tunnel.pump(lambda: bool(recorder.received))
    far, there = tunnel.port(1, metrics), Recorder()
    far.start(there)
    near.send(b"and out", Path(FAR))
    assert tunnel.pump(lambda: bool(there.received))
    near.stop()
    far.stop()


def test_replaced_between_two_looks(tunnel: Tunnel, metrics: Metrics) -> None:
    """A device that is replaced at once is bound to as well: the name alone says nothing."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.unplug(0)
    tunnel.plug(0)
    assert tunnel.pump(lambda: recorder.resumptions == 1)
    tunnel.inject(0, b"again")
    assert tunnel.pump(lambda: bool(recorder.received))
    near.stop()


def test_mtu_and_addresses_interrupt_nothing(tunnel: Tunnel, metrics: Metrics) -> None:
    """They are followed, but nobody has to register anew for them; a small MTU is heeded."""
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.ends[0].ip("link", "set", "gre1", "mtu", "600")
    tunnel.ends[0].ip("address", "add", "10.9.9.1/24", "dev", "gre1")
    address = (parse_ip("10.9.9.1"), 24)

    def followed() -> bool:
        state = near.device.state
        return state is not None and state.mtu == 600 and address in state.addresses

    try:
        assert tunnel.pump(followed)
        near.send(bytes(601), Path(FAR))
        assert metrics.value("drops", reason="too_large") == 1
        assert recorder.resumptions == 0
    finally:
        tunnel.ends[0].ip("link", "set", "gre1", "mtu", "1500")
        tunnel.ends[0].ip("address", "flush", "dev", "gre1", "scope", "global")
    near.stop()


def test_overruns_are_counted(tunnel: Tunnel, metrics: Metrics) -> None:
    """Operators see when peers send faster than the daemon reads."""
    near = tunnel.port(0, metrics)
    near.start(Recorder())

    def lost() -> float:
        return sum(s.value for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns")

    for _ in range(100_000):
        tunnel.inject(0, bytes(1400))
        if lost():
            break
    assert lost() > 0
    near.stop()
    assert not [s for s in metrics.snapshot() if s.name == "dmevpn_datagram_overruns"]


# --- starting -------------------------------------------------------------------------------


def test_down_at_the_start(tunnel: Tunnel, metrics: Metrics) -> None:
    """A device that is not up yet is no mistake."""
    tunnel.ends[0].ip("link", "set", "gre1", "down")
    near, recorder = tunnel.port(0, metrics), Recorder()
    near.start(recorder)
    tunnel.ends[0].ip("link", "set", "gre1", "up")
    assert tunnel.pump(lambda: recorder.resumptions == 1)
    near.stop()


def test_gone_at_the_start(metrics: Metrics) -> None:
    """A device that has gone meanwhile is named."""
    device = MemoryControlDevice("gre1", None)
    port = PacketPort(cast(IReactorFDSet, Readers()), metrics, device)
    with pytest.raises(StartError, match="interface gre1: no such device"):
        port.start(Recorder())


def test_no_privilege(root: None, metrics: Metrics) -> None:
    """Without CAP_NET_RAW the error says what to grant."""
    state = GREDevice(1, "lo", True, 1476, None, NEAR, b"")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # privileges are dropped in a process of its own
        try:
            os.setuid(65534)
            device = MemoryControlDevice("lo", state)
            PacketPort(cast(IReactorFDSet, Readers()), metrics, device).start(Recorder())
        except StartError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    message = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert message.startswith("interface lo: no permission to open a packet socket")
    assert "CAP_NET_RAW" in message


def test_vanished_while_it_is_bound(root: None, metrics: Metrics) -> None:
    """What the state says and the kernel has no more leaves nothing open."""
    reactor = Readers()
    device = MemoryControlDevice("dmp-none", GREDevice(9, "dmp-none", True, 1476, None, NEAR, b""))
    port = PacketPort(cast(IReactorFDSet, reactor), metrics, device)
    with pytest.raises(StartError, match="cannot open a packet socket: No such device"):
        port.start(Recorder())
    assert reactor.readers == [] and device.listeners == []


def test_vanished_again_at_its_return(tunnel: Tunnel, metrics: Metrics) -> None:
    """A device that is gone again when we turn to it is waited for further."""
    reactor = Readers()
    with tunnel.ends[0].entered():
        state = GREDevice(socket.if_nametoindex("gre1"), "gre1", True, 1476, None, NEAR, FAR)
        device = MemoryControlDevice("gre1", state)
        port = PacketPort(cast(IReactorFDSet, reactor), metrics, device)
        recorder = Recorder()
        port.start(recorder)
    device.change(state._replace(name="gre2", ifindex=state.ifindex + 100))
    assert recorder.resumptions == 0
    device.change(None)
    device.change(state)
    assert recorder.resumptions == 1
    port.stop()


# --- where the kernel has GRE ---------------------------------------------------------------


@pytest.fixture(scope="module")
def gre(root: None) -> Iterator[GRELab]:
    lab = GRELab()
    try:
        lab.create()
        yield lab
    finally:
        lab.remove()


class TestMultipoint(HostTransportContract):
    """The contract on multipoint GRE devices over IPv4."""

    near, near_other, far, foreign = NEAR, NEAR_OTHER, FAR, parse_ip("198.51.100.1")
    sees_foreign_keys = False

    @pytest.fixture(autouse=True)
    def use_lab(self, gre: GRELab) -> None:
        self.lab = gre

    def heard(self) -> tuple[bytes, ...]:
        return (self.near,)  # a device has one address

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(metrics, self.lab.near, address or self.near, key=key)

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(metrics, self.lab.far, address or self.far, key=key)

    def pump(self, done: Callable[[], bool]) -> None:
        assert self.lab.reactor.pump(done)

    def settle(self) -> None:
        self.lab.reactor.settle()


class TestPointToPointIPv6(DatagramTransportContract):
    """The contract on a point-to-point GRE device over IPv6."""

    near, far = NEAR6, FAR6

    @pytest.fixture(autouse=True)
    def use_lab(self, gre: GRELab) -> None:
        self.lab = gre

    def make_near(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(metrics, self.lab.near, self.near, self.far)

    def make_far(
        self, metrics: Metrics, address: bytes | None = None, key: int | None = None
    ) -> IDatagramTransport:
        return self.lab.port(metrics, self.lab.far, self.far, self.near)

    def pump(self, done: Callable[[], bool]) -> None:
        assert self.lab.reactor.pump(done)

    def settle(self) -> None:
        self.lab.reactor.settle()


def test_device_without_local_address(gre: GRELab, metrics: Metrics) -> None:
    """It hears at any address, does not know at which, and answers from the route's."""
    near, far = gre.port(metrics, gre.near, b"", key=5), gre.port(metrics, gre.far, FAR, key=5)
    answering, asking = Recorder(), Recorder()
    near.start(answering)
    far.start(asking)
    for asked in (NEAR, NEAR_OTHER):
        far.send(b"question", Path(asked))
    assert gre.reactor.pump(lambda: len(answering.received) == 2)
    assert answering.received == [(b"question", Path(FAR, b"", 5))] * 2
    near.send(b"the answer", answering.received[1][1])
    assert gre.reactor.pump(lambda: bool(asking.received))
    assert asking.received == [(b"the answer", Path(NEAR, FAR, 5))]
    near.stop()
    far.stop()


def test_key_and_address_change(gre: GRELab, metrics: Metrics) -> None:
    """A device that is changed in place is taken as it is, and registrations are renewed."""
    near, far = gre.port(metrics, gre.near, NEAR, key=7), gre.port(metrics, gre.far, FAR, key=8)
    here, there = Recorder(), Recorder()
    near.start(here)
    far.start(there)
    name = near.device.name
    change = ("link", "set", name, "type", "gre", "local", "192.0.2.11", "key", "8")
    gre.near.ip(*change)
    assert gre.reactor.pump(lambda: here.resumptions > 0)
    near.send(b"datagram", Path(FAR))
    assert gre.reactor.pump(lambda: bool(there.received))
    assert there.received == [(b"datagram", Path(NEAR_OTHER, FAR, 8))]
    far.send(b"datagram back", there.received[0][1])
    assert gre.reactor.pump(lambda: bool(here.received))
    assert here.received == [(b"datagram back", Path(FAR, NEAR_OTHER, 8))]
    gre.reactor.settle()
    assert here.resumptions == 1
    near.stop()
    far.stop()


def test_several_devices(gre: GRELab, metrics: Metrics) -> None:
    """Two control interfaces in one process, each with its key and its peers."""
    recorders = [Recorder(), Recorder()]
    ports = [gre.port(metrics, gre.far, FAR, key=key) for key in (11, 12)]
    senders = [gre.port(metrics, gre.near, NEAR, key=key) for key in (11, 12)]
    for port, recorder in zip(ports, recorders, strict=True):
        port.start(recorder)
    for number, sender in enumerate(senders):
        sender.start(Recorder())
        sender.send(b"by device %d" % number, Path(FAR))
    assert gre.reactor.pump(lambda: all(recorder.received for recorder in recorders))
    assert [recorder.payloads for recorder in recorders] == [[b"by device 0"], [b"by device 1"]]
    for each in (*ports, *senders):
        each.stop()
