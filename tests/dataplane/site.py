"""One site in a network namespace: an underlay address, a bridge's worth of local stations."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dmevpn.addresses import VPNID, VTEP, format_address, parse_ip, parse_mac
from dmevpn.config.model import NHSPlan, SpokePlan
from lab.netns import Namespace, run

__all__ = ["HUB4", "HUB6", "SITE4", "SITE6", "Site", "spoke_plan"]

SITE4, HUB4 = parse_ip("10.0.0.1"), parse_ip("10.0.0.254")
SITE6, HUB6 = parse_ip("fd00::1"), parse_ip("fd00::fe")

#: The devices that no test removes.
UNDERLAY = {"ul0", "wire"}


def spoke_plan(hub: bytes = HUB4, *, bridge: str | None = "br1", port: int = 4789) -> SpokePlan:
    """VPN 1 with VNI 100 on vx1."""
    return SpokePlan(
        interface="vx1",
        controller="nhrp",
        vpn=VPNID(b"\x02\0\0", 1),
        vni=100,
        servers=(NHSPlan(host=format_address(hub), address=hub, register=True, flood=True),),
        bridge=bridge,
        port=port,
    )


class Site:
    """A namespace with an underlay that leads nowhere, as a table of entries needs no answer."""

    def __init__(self) -> None:
        self.namespace = Namespace(f"dme-{os.getpid()}-site")

    def create(self) -> None:
        """Make the namespace; ul0 has 10.0.0.1/24, fd00::1/64 and an MTU of 1550."""
        self.namespace.create()
        self.namespace.ip(
            *("link", "add", "ul0", "mtu", "1550", "type", "veth", "peer", "name", "wire")
        )
        self.readdress()

    def readdress(self) -> None:
        """Have the underlay up, with its MTU and addresses."""
        for device in UNDERLAY:
            self.namespace.ip("link", "set", device, "mtu", "1550", "up")
        self.namespace.ip("address", "add", "10.0.0.1/24", "dev", "ul0")
        self.namespace.ip("address", "add", "fd00::1/64", "dev", "ul0", "nodad")

    def remove(self) -> None:
        """Remove it with everything in it."""
        self.namespace.remove()

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Remove afterwards what a test has left but for the underlay."""
        try:
            yield
        finally:
            for device in self.namespace.devices() - UNDERLAY:
                run("ip", "-n", self.namespace.name, "link", "del", device, check=False)

    def add_station(self, bridge: str) -> None:
        """Plug a local station into a bridge: what it sends leaves by ``vm0``."""
        self.namespace.ip("link", "add", "vm0", "type", "veth", "peer", "name", "port0")
        self.namespace.ip("link", "set", "port0", "master", bridge, "up")
        self.namespace.ip("link", "set", "vm0", "up")

    def add_single(self, *options: str, family: int = 4, port: int = 8472) -> None:
        """Make vx1 by hand, as the original README does but for its default entry."""
        local = "10.0.0.1" if family == 4 else "fd00::1"
        self.namespace.ip(
            *("link", "add", "vx1", "type", "vxlan", "id", "100", "local", local),
            *("dstport", str(port), *(options or ("l2miss", "nolearning"))),
        )
        self.namespace.ip("link", "set", "vx1", "up")

    def send(self, device: str, destination: bytes, source: bytes, count: int = 1) -> None:
        """Send a frame, or many alike, out of a device of the namespace."""
        with self.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((device, 0))
            for _ in range(count):
                sock.send((destination + source + b"\x88\xb5").ljust(60, b"\0"))

    def entry(self, device: str, mac: bytes, vni: int = 100) -> VTEP | None:
        """The destination of a MAC on a vxlan device, if it has one."""
        for row in self.namespace.fdb(device):
            if row["mac"] == format_address(mac) and "dst" in row:
                return VTEP(parse_ip(row["dst"]), row.get("vni", vni))
        return None

    def destinations(self, device: str, mac: str) -> set[bytes]:
        """All destinations of a MAC that may have several."""
        rows = self.namespace.fdb(device)
        return {parse_ip(row["dst"]) for row in rows if row["mac"] == mac and "dst" in row}

    def bridge_port(self, mac: bytes) -> str | None:
        """The port that the bridge has a MAC behind."""
        rows = self.namespace._json("bridge", "-n", self.namespace.name, "-json", "fdb", "show")
        for row in rows:
            if parse_mac(row["mac"]) == mac and "master" in row:
                return str(row["ifname"])
        return None
