"""A hub's kernel switch with sites round it, in two network namespaces.

Sites are UDP sockets that speak VXLAN (RFC 7348 §5), all behind one veth, so that nothing but the
switch stands between a frame and its arrival. The thread stays on one CPU: frames are then dealt
with in the order in which they are sent, and a marker that has arrived proves that all before it
have.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import struct
from collections.abc import Iterator
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from dmevpn.addresses import VTEP, format_address
from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.hub_ebpf import EBPFSwitch
from dmevpn.dataplane.hub_macs import SWEEP_DELAY
from dmevpn.interfaces import Registration, VPNRules
from dmevpn.metrics import Metrics
from lab.netns import Namespace
from lab.wait import eventually
from tests.contracts.hub_dataplane import (
    BROADCAST,
    HUB_IPV4,
    HUB_IPV6,
    Delivery,
    Recorder,
    SwitchWorld,
    frame,
    ipv4,
    ipv6,
    mac,
)

__all__ = ["CONTROL", "DEVICE", "PIN_ROOT", "HubLab", "KernelWorld", "pinned_to_one_cpu"]

DEVICE = "vx0"
PORT = 4789
#: Of this process, so that two runs of the tests do not meet.
PIN_ROOT = f"/sys/fs/bpf/dmf-{os.getpid()}"
#: The VPN of the markers, and its two sites.
CONTROL = 0xFFFFFF01
_FROM, _TO = VTEP(ipv4(18), 4001), VTEP(ipv4(19), 4002)
_TO_MAC = mac(0x01000001)
_SITES = range(1, 21)

_VXLAN = struct.Struct(">B3x3sx")


@contextlib.contextmanager
def pinned_to_one_cpu() -> Iterator[None]:
    """Keep the calling thread on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class HubLab:
    """The namespaces, the device and the sites' sockets; lasts for a module of tests."""

    def __init__(self) -> None:
        self.hub = Namespace(f"dmf-{os.getpid()}-hub")
        self.sites = Namespace(f"dmf-{os.getpid()}-sites")
        self._sockets: dict[bytes, socket.socket] = {}

    def up(self) -> None:
        """Make it all."""
        self.hub.create()
        self.sites.create()
        self.hub.ip(
            *("link", "add", "ul0", "mtu", "1600", "type", "veth"),
            *("peer", "name", "ul0", "mtu", "1600", "netns", self.sites.name),
        )
        for namespace in (self.hub, self.sites):
            namespace.ip("link", "set", "ul0", "up")
        self._address(self.hub, 254)
        for number in _SITES:
            self._address(self.sites, number)
        for number in _SITES:
            for address in (ipv4(number), ipv6(number)):
                self._sockets[address] = self._socket(address)
        self.add_device()

    @staticmethod
    def _address(namespace: Namespace, number: int) -> None:
        namespace.ip("addr", "add", f"{format_address(ipv4(number))}/24", "dev", "ul0")
        namespace.ip("addr", "add", f"{format_address(ipv6(number))}/64", "dev", "ul0", "nodad")

    def _socket(self, address: bytes) -> socket.socket:
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        sock = self.sites.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((format_address(address), PORT))
        sock.setblocking(False)
        return sock

    def add_device(self) -> None:
        """Make the hub's device as an operator does by hand."""
        self.hub.ip(*("link", "add", DEVICE, "type", "vxlan", "external", "dstport", str(PORT)))
        self.hub.ip("link", "set", DEVICE, "up")

    def down(self) -> None:
        """Remove it all."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self.hub.remove()
        self.sites.remove()
        shutil.rmtree(PIN_ROOT, ignore_errors=True)

    def send(self, vtep: VTEP, octets: bytes) -> None:
        """Send a frame from a site."""
        hub = HUB_IPV4 if len(vtep.nbma) == 4 else HUB_IPV6
        assert vtep.vni is not None
        header = _VXLAN.pack(0x08, vtep.vni.to_bytes(3, "big"))
        self._sockets[vtep.nbma].sendto(header + octets, (format_address(hub), PORT))

    def receive(self) -> Iterator[Delivery]:
        """What waits at the sites."""
        for address, sock in self._sockets.items():
            while True:
                try:
                    data, peer = sock.recvfrom(65535)
                except BlockingIOError:
                    break
                _, vni = _VXLAN.unpack_from(data)
                local = socket.inet_pton(sock.family, peer[0])
                yield Delivery(local, VTEP(address, int.from_bytes(vni, "big")), data[8:])

    def filters(self) -> str:
        """The tc filters on the ingress of the device."""
        return self.hub.run("tc", "filter", "show", "dev", DEVICE, "ingress").stdout

    def qdiscs(self) -> str:
        """The qdiscs of the device."""
        return self.hub.run("tc", "qdisc", "show", "dev", DEVICE).stdout


class KernelWorld(SwitchWorld):
    """An EBPFSwitch on the device of a laboratory."""

    dataplane: EBPFSwitch
    probe_secret = slice(22, 30)
    reactor_type: type[MemoryReactorClock] = MemoryReactorClock

    def __init__(self, lab: HubLab, **options: Any) -> None:
        self.lab = lab
        self.reactor = self.reactor_type()
        self.metrics = Metrics()
        self.listener = Recorder(ignored=[CONTROL])
        self._options: dict[str, Any] = {"pin_root": PIN_ROOT, **options}
        self._token = 0
        self.restart()

    def make(self) -> EBPFSwitch:
        """A switch that is not started."""
        return EBPFSwitch(self.reactor, self.metrics, DEVICE, **self._options)

    def send(self, vtep: VTEP, frame: bytes) -> None:
        self.lab.send(vtep, frame)

    def deliveries(self) -> list[Delivery]:
        self._token += 1
        token = b"marker %d" % self._token
        # Known unicast: the limits on floods do not hold it up.
        self.lab.send(_FROM, frame(_TO_MAC, mac(0x01000000), token))
        arrived: list[Delivery] = []
        marker: list[Delivery] = []

        def marked() -> bool:
            for delivery in self.lab.receive():
                control = delivery.vtep in (_FROM, _TO)
                (marker if control else arrived).append(delivery)
            return any(token in delivery.frame for delivery in marker)

        eventually("marker", marked, interval=0.001)
        marked()
        self.read_events()
        return arrived

    def read_events(self) -> None:
        """Do what the reactor does when the ring buffer is readable."""
        for reader in list(self.reactor.getReaders()):
            while select.select([reader], [], [], 0)[0]:
                reader.doRead()

    def settle(self) -> None:
        self.reactor.advance(SWEEP_DELAY)

    def pass_time(self, seconds: float) -> None:
        self.reactor.advance(seconds)
        self.rewind(seconds)
        # Once more, so that what is due after the next read is done as well.
        self.reactor.advance(0)

    def rewind(self, seconds: float) -> None:
        """Make every MAC look as if it had been silent for so much longer, and what lies ahead of
        members as if it were nearer."""
        table = self.dataplane._maps["macs"]
        for count, keys, values in table.batches():
            for index in range(count):
                size = layout.MAC_KEY.size
                key = keys[index * size : (index + 1) * size]
                if layout.MAC_KEY.unpack(key)[0] == CONTROL:
                    continue
                seen, number, home, mark, arrived, moves, holds = layout.MAC_ENTRY.unpack_from(
                    values, index * layout.MAC_ENTRY.size
                )
                past = int(seconds * 1e9)
                arrived = (arrived - (past >> 20)) & 0xFFFFFFFF
                entry = (seen - past, number, home, mark - past, arrived, moves, holds)
                table.update(key, layout.MAC_ENTRY.pack(*entry))
        held = self.dataplane._maps["held"]
        for _, keys, values in list(held.batches()):
            for key_fields, (until, *rest) in zip(
                layout.MAC_KEY.iter_unpack(keys), layout.HELD.iter_unpack(values), strict=True
            ):
                shifted = layout.HELD.pack(until - int(seconds * 1e9), *rest)
                held.update(layout.MAC_KEY.pack(*key_fields), shifted)
        states = self.dataplane._maps["states"]
        for _, keys, values in list(states.batches()):
            for (number,), state in zip(
                layout.NUMBER.iter_unpack(keys), layout.STATE.iter_unpack(values), strict=True
            ):
                ahead, rest = state[: layout.STATE_COUNTERS], state[layout.STATE_COUNTERS :]
                nearer = (max(due - int(seconds * 1e9), 0) for due in ahead)
                states.update(layout.NUMBER.pack(number), layout.STATE.pack(*nearer, *rest))
        self.dataplane._macs.changed()

    def lose_events(self) -> None:
        # A ring buffer of a mebibyte holds 18,724 events; a member may report 16,384 at once.
        self.dataplane.add_vpn(1, VPNRules(moves=0))
        for _ in range(10_000):
            for vtep in (VTEP(ipv4(1), 100), VTEP(ipv4(2), 101)):
                self.lab.send(vtep, frame(BROADCAST, mac(1)))
        self.deliveries()
        self.reactor.advance(1)

    def probe(self, vpn: int, vtep: VTEP) -> Delivery:
        # The daemon's own namespace.
        with self.lab.hub.entered():
            self.dataplane.probe(vpn, vtep)
        (delivery,) = self.deliveries()
        return delivery

    def kill(self) -> None:
        """Let go of every descriptor, as the kernel does for a process that dies."""
        switch = self.dataplane
        self.reactor.removeReader(switch._ring)
        switch._attachment.close()
        switch._close()
        for call in self.reactor.getDelayedCalls():
            call.cancel()
        switch._pins.close()
        switch._running = False

    def restart(self) -> None:
        self.dataplane = self.make()
        with self.lab.hub.entered():
            self.dataplane.start(self.listener)
            # The first look at the device.
            self.reactor.advance(0)
        self.join(CONTROL, _FROM, _TO)
        self.lab.send(_TO, frame(BROADCAST, _TO_MAC))

    def seconds(self) -> float:
        seconds: float = self.reactor.seconds()
        return seconds

    def count(self, name: str) -> float:
        """The value of a counter of the device."""
        return self.metrics.counter(name, interface=DEVICE).value

    def adopted(self) -> list[tuple[int, VTEP, bytes, Registration]]:
        return [member for member in self.dataplane.adopted() if member[0] != CONTROL]
