"""Neighbours, routes, questions and detours of a real kernel.

This kernel need not have GRE devices: the device is one end of a veth pair, whose link-layer
addresses are MACs in place of underlay addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.logger import LogLevel

from dmevpn import removal
from dmevpn.addresses import parse_ip, parse_mac, parse_prefix
from dmevpn.config.model import Layer3Plan, Plan, SpeakerPlan
from dmevpn.dataplane.gre_device import KernelGREDevice
from dmevpn.dataplane.links import Link
from dmevpn.dataplane.netlink import Message, NetlinkRequests
from dmevpn.dataplane.tunnel import KernelTunnel
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import GREDevice
from dmevpn.metrics import Metrics
from lab.netns import Namespace
from tests.contracts.layer3_dataplane import (
    ADDRESSES,
    ELSEWHERE,
    EventLog,
    Layer3Contract,
    Layer3Kernel,
)
from tests.dataplane.test_provision import texts_of
from tests.dataplane.turns import Turns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

DEVICE_MAC = "02:00:00:00:01:02"


def as_gre(link: Link, addresses: list[tuple[bytes, int]]) -> GREDevice:
    """A veth device, taken for a GRE device with many peers."""
    return GREDevice(
        ifindex=link.ifindex,
        name=link.name,
        up=link.up,
        mtu=link.mtu,
        key=None,
        local=b"",
        remote=b"",
        addresses=tuple(addresses),
    )


class RealKernel(Layer3Kernel):
    """A namespace with the device gre1, whose packets come out at wire."""

    def __init__(self) -> None:
        self.namespace = Namespace(f"dme-{os.getpid()}-l3")
        self.namespace.create()
        self.reactor = Turns()
        self.metrics = Metrics()
        self.make_device()
        self.namespace.ip("link", "add", "other", "type", "veth", "peer", "name", "far")
        self.namespace.ip("link", "set", "other", "up")
        self.namespace.ip("link", "set", "far", "up")
        for network in ELSEWHERE:
            self.namespace.ip("route", "add", network, "dev", "other")
        self.start()

    def make_device(self) -> None:
        """One that asks for no neighbours, as the kernel makes GRE devices."""
        link = ("link", "add", "gre1", "address", DEVICE_MAC, "type", "veth")
        self.namespace.ip(*link, "peer", "name", "wire")
        self.namespace.set_option("ipv6/conf/gre1/addr_gen_mode", 1)
        self.namespace.ip("link", "set", "gre1", "arp", "off")
        for address in ADDRESSES:
            nodad = ("nodad",) if ":" in address else ()
            self.namespace.ip("address", "add", address, "dev", "gre1", *nodad)
        self.namespace.ip("link", "set", "wire", "up")
        self.namespace.ip("link", "set", "gre1", "up")

    def start(self) -> None:
        self.log = EventLog()
        with self.namespace.entered():
            self.device = KernelGREDevice(self.reactor, self.metrics, "gre1", as_gre)
            self.device.start()
            self.tunnel = KernelTunnel(
                self.reactor, self.metrics, self.device, table=254, redirect=True
            )
            self.dataplane = self.tunnel
            self.tunnel.start(self.log)

    def end(self, *, kill: bool) -> None:
        """Stop the daemon's part."""
        if kill:
            # A process that dies leaves its entries, but no sockets.
            self.tunnel._remove_ours = self.tunnel._restore = lambda ifindex: None  # type: ignore[method-assign]
        self.tunnel.stop()
        self.device.stop()

    def link(self, number: int) -> bytes:
        return bytes((2, 0, 0, 0, 0, number))

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        return self.reactor.until(what, check)

    def neighbours(self) -> dict[bytes, bytes]:
        found = self.namespace.ip_json("neigh", "show", "dev", "gre1")
        return {
            parse_ip(each["dst"]): parse_mac(each["lladdr"])
            for each in found
            if "lladdr" in each and not each["dst"].startswith("fe80")
        }

    def routes(self) -> dict[tuple[bytes, int], bytes]:
        found = [
            each
            for family in ("-4", "-6")
            for each in self.namespace.ip_json(family, "route", "show", "dev", "gre1")
            if each.get("protocol") != "kernel"
        ]
        return {
            parse_prefix(each["dst"]): parse_ip(each.get("gateway", each["dst"])) for each in found
        }

    def add_route(self, network: str, next_hop: str) -> None:
        self.namespace.ip("route", "add", network, "via", next_hop, "dev", "gre1")

    def send(self, protocol: str) -> None:
        family = socket.AF_INET6 if ":" in protocol else socket.AF_INET
        with self.namespace.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (protocol, 9))

    def make_again(self) -> None:
        self.namespace.ip("link", "delete", "gre1")
        self.reactor.settle()
        self.make_device()

    def restart(self, *, kill: bool) -> None:
        self.end(kill=kill)
        self.start()


class TestKernelTunnel(Layer3Contract):
    """All of it, on a real kernel."""

    @pytest.fixture
    def kernel(self) -> Iterator[RealKernel]:
        kernel = RealKernel()
        try:
            yield kernel
        finally:
            kernel.end(kill=False)
            kernel.namespace.remove()

    @pytest.mark.parametrize("killed", [False, True])
    def test_the_device_is_left_as_it_was_found(self, kernel: RealKernel, killed: bool) -> None:
        """While we run the kernel asks us for neighbours; afterwards it is as it was, even if a
        run before could not put it back."""
        if killed:
            kernel.restart(kill=True)

        def settings() -> list[object]:
            options = ("app_solicit", "ucast_solicit", "mcast_solicit")
            command = ("sysctl", "-n")
            values = [
                kernel.namespace.run(*command, f"net.{family}.neigh.gre1.{each}").stdout.strip()
                for family in ("ipv4", "ipv6")
                for each in options
            ]
            (link,) = kernel.namespace.ip_json("link", "show", "gre1")
            return ["NOARP" in link["flags"], *values]

        assert settings() == [False, "3", "0", "0", "3", "0", "0"]
        kernel.end(kill=False)
        assert settings() == [True, "0", "3", "3", "0", "3", "3"]
        kernel.start()

    def test_a_stop_that_the_kernel_refuses(
        self, kernel: RealKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is said, and nothing of ours is left in the daemon; a start is refused in one line."""

        def refuse(self: NetlinkRequests, message: Message) -> Iterator[bytes]:
            raise DataplaneError(errno.ENOMEM, "reading from the kernel")

        with monkeypatch.context() as patch, texts_of(LogLevel.error) as said:
            patch.setattr(NetlinkRequests, "dump", refuse)
            kernel.tunnel.stop()
            with kernel.namespace.entered(), pytest.raises(StartError, match="memory"):
                kernel.tunnel.start(kernel.log)
        assert said == ["gre1: reading from the kernel: Cannot allocate memory"] * 2
        assert len(kernel.reactor.getReaders()) == 1, "the device's"

    def test_taken_down_without_a_daemon(
        self, kernel: RealKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``--remove`` takes out what a killed daemon has left; if the kernel refuses, it says so.
        A device that is gone has taken all of it along."""
        next_hop = parse_ip("10.255.255.9")
        kernel.tunnel.set_neighbour(next_hop, kernel.link(9))
        kernel.tunnel.set_route(parse_ip("198.51.100.0"), 24, next_hop)
        kernel.until("route", kernel.routes)
        kernel.end(kill=True)
        plan = Plan(
            speakers=(SpeakerPlan(interface="gre1", transport="device"),),
            layer3=(Layer3Plan(interface="gre1"),),
        )

        def device(*_: object) -> KernelGREDevice:
            return KernelGREDevice(kernel.reactor, kernel.metrics, "gre1", as_gre)

        def refuse(self: NetlinkRequests, message: Message) -> Iterator[bytes]:
            raise DataplaneError(errno.ENOMEM, "reading from the kernel")

        monkeypatch.setattr(removal, "control_device", device)
        with kernel.namespace.entered():
            with monkeypatch.context() as patch:
                patch.setattr(KernelTunnel, "_prepare", refuse)
                (problem,) = removal.remove(kernel.reactor, plan)
            assert problem.startswith("interface gre1: reading from the kernel")
            assert removal.remove(kernel.reactor, plan) == []
            assert kernel.routes() == {} and kernel.neighbours() == {}
            assert kernel.reactor.getReaders() == []
            kernel.namespace.ip("link", "delete", "gre1")
            assert removal.remove(kernel.reactor, plan) == []
        kernel.make_device()
        kernel.start()

    def test_our_mark(self, kernel: RealKernel) -> None:
        """An operator sees whose entries they are; others' neighbours stay."""
        near = parse_ip("10.255.255.3")
        # A device that asks for neighbours already: the kernel forgets all of them otherwise.
        kernel.end(kill=False)
        kernel.namespace.ip("link", "set", "gre1", "arp", "on")
        kernel.start()
        kernel.namespace.ip(
            *("neigh", "add", "10.255.255.9", "lladdr", "02:00:00:00:00:99", "dev", "gre1")
        )
        kernel.dataplane.set_neighbour(near, kernel.link(3))
        kernel.dataplane.set_route(*parse_prefix("192.168.3.0/24"), near)
        kernel.until("route", kernel.routes)
        (route,) = kernel.namespace.ip_json("-N", "route", "show", "192.168.3.0/24")
        assert route["protocol"] == "143"
        kernel.end(kill=False)
        assert list(kernel.neighbours()) == [parse_ip("10.255.255.9")]
        kernel.start()

    def test_a_next_hop_in_use_is_asked_for_again(self, kernel: RealKernel) -> None:
        """The kernel wants those that carry packets to be confirmed."""
        near = parse_ip("10.255.255.3")
        kernel.dataplane.set_neighbour(near, kernel.link(3))
        kernel.until("neighbour", kernel.neighbours)
        kernel.namespace.ip(
            *("neigh", "change", "10.255.255.3", "lladdr", "02:00:00:00:00:03"),
            *("dev", "gre1", "nud", "probe"),
        )
        kernel.until("question", lambda: near in kernel.log.missed)

    @pytest.mark.parametrize(
        ("source", "destination", "detour"),
        [
            ("10.255.255.3", "10.255.255.4", True),
            ("10.255.255.3", "10.255.255.2", False),
            ("10.255.255.3", "192.0.2.7", False),
            ("2001:db8:255::3", "2001:db8:255::4", True),
            ("2001:db8:255::3", "2001:db8:255::2", False),
        ],
    )
    def test_detours(self, kernel: RealKernel, source: str, destination: str, detour: bool) -> None:
        """A packet that came in by the device and goes out by it is reported with its sender."""
        packet = ip_packet(source, destination)
        frame = parse_mac(DEVICE_MAC) + kernel.link(3) + ethertype(packet) + packet
        marker = ip_packet("10.255.255.3", "10.255.255.5")
        with kernel.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("wire", 0))
            sock.send(frame)
            sock.send(parse_mac(DEVICE_MAC) + kernel.link(3) + ethertype(marker) + marker)
        kernel.until("marker", lambda: (marker, kernel.link(3)) in kernel.log.detours)
        kernel.reactor.settle()
        assert ((packet, kernel.link(3)) in kernel.log.detours) is detour

    def test_a_device_that_goes_down_and_up_again(self, kernel: RealKernel) -> None:
        """Its next hops and routes come back, and detours are seen as before."""
        near, network = parse_ip("10.255.255.3"), parse_prefix("192.168.3.0/24")
        kernel.dataplane.set_neighbour(near, kernel.link(3))
        kernel.dataplane.set_route(*network, near)
        kernel.until("entries", lambda: kernel.neighbours() and kernel.routes())
        kernel.namespace.ip("link", "set", "gre1", "down")
        kernel.until("loss", lambda: not kernel.routes())
        kernel.reactor.settle()
        kernel.namespace.ip("link", "set", "gre1", "up")
        kernel.until("neighbours", lambda: kernel.neighbours().get(near) == kernel.link(3))
        kernel.until("routes", lambda: kernel.routes() == {network: near})
        packet = ip_packet("10.255.255.3", "10.255.255.4")
        with kernel.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("wire", 0))
            sock.send(parse_mac(DEVICE_MAC) + kernel.link(3) + ethertype(packet) + packet)
        kernel.until("detour", lambda: (packet, kernel.link(3)) in kernel.log.detours)

    def test_what_is_sent_is_no_detour(self, kernel: RealKernel) -> None:
        """Nor is a flood read whole."""
        kernel.dataplane.set_neighbour(parse_ip("10.255.255.3"), kernel.link(3))
        kernel.until("neighbour", kernel.neighbours)
        kernel.send("10.255.255.3")
        packet = ip_packet("10.255.255.3", "10.255.255.4")
        with kernel.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("wire", 0))
            for _ in range(500):
                sock.send(parse_mac(DEVICE_MAC) + kernel.link(3) + ethertype(packet) + packet)
        kernel.until("detour", lambda: kernel.log.detours)
        kernel.reactor.settle(0.2)
        assert len(kernel.log.detours) < 200
        assert {each for each, _ in kernel.log.detours} == {packet}


def ip_packet(source: str, destination: str) -> bytes:
    """The beginning of a packet, with a checksum that nobody looks at."""
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, 0, 59, 64) + parse_ip(source) + parse_ip(destination)
    addresses = parse_ip(source) + parse_ip(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 253, 0) + addresses


def ethertype(packet: bytes) -> bytes:
    """That of an IP packet."""
    return b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
