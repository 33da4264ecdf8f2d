"""Laboratories for packet sockets: a tunnel of two tun devices, and the kernel's GRE devices."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from collections.abc import Callable
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorFDSet

from dmevpn.addresses import format_address, parse_ip
from dmevpn.dataplane.gre_device import KernelGREDevice
from dmevpn.dataplane.links import Link
from dmevpn.interfaces import GREDevice
from dmevpn.metrics import Metrics
from dmevpn.transport.packet import PacketPort
from lab.netns import CommandFailed, Namespace
from tests.transport.readers import Readers

__all__ = ["FAR", "FAR6", "NEAR", "NEAR6", "NEAR_OTHER", "GRELab", "PortOnDevice", "Tunnel"]

NEAR, NEAR_OTHER, FAR = (parse_ip(f"192.0.2.{number}") for number in (1, 11, 2))
NEAR6, FAR6 = (parse_ip(f"2001:db8::{number}") for number in (1, 2))

_TUNSETIFF = 0x400454CA
_IFF_TUN = 1
#: What a tun device puts before a packet: flags and protocol.
_TUN_HEADER = struct.Struct("!HH")


class PortOnDevice(PacketPort):
    """A port with the device that it runs on, both in a namespace."""

    def __init__(
        self, reactor: IReactorFDSet, metrics: Metrics, device: KernelGREDevice, place: Namespace
    ) -> None:
        super().__init__(reactor, metrics, device)
        self.device = device
        self._place = place

    def start(self, receiver: object) -> None:
        with self._place.entered():
            self.device.start()
            super().start(receiver)  # type: ignore[arg-type]

    def stop(self) -> object:  # type: ignore[override]
        stopped = super().stop()
        self.device.stop()
        return stopped


class Tunnel:
    """Two namespaces with a tun device in each, and the cable between."""

    def __init__(self) -> None:
        self.reactor = Readers()
        self.ends = [Namespace(f"dmp-{os.getpid()}-{name}") for name in ("near", "far")]
        self.cables = [-1, -1]

    def create(self) -> None:
        for number, place in enumerate(self.ends):
            place.create()
            self.plug(number)

    def remove(self) -> None:
        for number, place in enumerate(self.ends):
            self.unplug(number)
            place.remove()

    def plug(self, number: int, name: str = "gre1") -> None:
        """Make one end's device."""
        with self.ends[number].entered():
            cable = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(cable, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN))
        self.cables[number] = cable
        self.ends[number].ip("link", "set", name, "up")

    def unplug(self, number: int) -> None:
        """Remove it."""
        if self.cables[number] >= 0:
            os.close(self.cables[number])
            self.cables[number] = -1

    def port(self, number: int, metrics: Metrics) -> PortOnDevice:
        """A port at one end, to the other."""
        local, remote = (NEAR, FAR) if number == 0 else (FAR, NEAR)

        def interpret(link: Link, addresses: list[tuple[bytes, int]]) -> GREDevice:
            return GREDevice(
                link.ifindex, link.name, link.up, link.mtu, None, local, remote, tuple(addresses)
            )

        fds = cast(IReactorFDSet, self.reactor)
        device = KernelGREDevice(fds, metrics, "gre1", interpret)
        return PortOnDevice(fds, metrics, device, self.ends[number])

    def inject(self, number: int, payload: bytes, protocol: int = 0x2001) -> None:
        """Have one end receive a packet."""
        os.write(self.cables[number], _TUN_HEADER.pack(0, protocol) + payload)

    def carry(self) -> None:
        """Take along what waits at both ends."""
        for here, there in (self.cables, reversed(self.cables)):
            while here >= 0 and select.select([here], [], [], 0)[0]:
                packet = os.read(here, 2048)
                # The kernel speaks of its own, too: IPv6 router solicitations.
                if there >= 0 and _TUN_HEADER.unpack_from(packet)[1] == 0x2001:
                    os.write(there, packet)

    def pump(self, done: Callable[[], bool]) -> bool:
        """Carry and read until ``done()``; whether that came true in time."""

        def carried() -> bool:
            self.carry()
            return done()

        return self.reactor.pump(carried)

    def settle(self) -> None:
        """Carry and read what is under way."""
        self.carry()
        self.reactor.settle()


class GRELab:
    """Two namespaces joined by a cable, with GRE devices made when they are asked for."""

    def __init__(self) -> None:
        self.reactor = Readers()
        self.near, self.far = (Namespace(f"dmg-{os.getpid()}-{name}") for name in ("near", "far"))
        self._names: dict[tuple[Namespace, bytes, bytes, int | None], str] = {}

    def create(self) -> None:
        self.near.create()
        self.far.create()
        try:
            self.near.ip("link", "add", "gre-probe", "type", "gre", "local", "192.0.2.1")
        except CommandFailed as error:
            pytest.skip(f"the kernel has no GRE devices: {error}")
        self.near.ip("link", "del", "gre-probe")
        self.near.ip(
            *("link", "add", "cable", "type", "veth"),
            *("peer", "name", "cable", "netns", self.far.name),
        )
        for namespace, addresses in (
            (self.near, ("192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64")),
            (self.far, ("192.0.2.2/24", "2001:db8::2/64")),
        ):
            namespace.ip("link", "set", "cable", "up")
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                namespace.ip("address", "add", address, "dev", "cable", *nodad)

    def remove(self) -> None:
        self.near.remove()
        self.far.remove()

    def device(
        self, place: Namespace, local: bytes, remote: bytes = b"", key: int | None = None
    ) -> str:
        """The name of a GRE device with these parameters."""
        wanted = place, local, remote, key
        if wanted not in self._names:
            name = self._names[wanted] = f"gre{len(self._names) + 1}"
            words = ["link", "add", name, "type", "ip6gre" if len(local or remote) == 16 else "gre"]
            for word, address in (("local", local), ("remote", remote)):
                words += [word, format_address(address)] if address else []
            words += ["key", str(key)] if key is not None else []
            place.ip(*words)
            place.ip("link", "set", name, "up")
        return self._names[wanted]

    def port(
        self,
        metrics: Metrics,
        place: Namespace,
        local: bytes,
        remote: bytes = b"",
        key: int | None = None,
    ) -> PortOnDevice:
        fds = cast(IReactorFDSet, self.reactor)
        name = self.device(place, local, remote, key)
        return PortOnDevice(fds, metrics, KernelGREDevice(fds, metrics, name), place)
