"""Two namespaces with a cable, where raw GRE sockets send to each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IReactorFDSet

from dmevpn.addresses import parse_ip
from dmevpn.metrics import Metrics
from dmevpn.transport.rawgre import RawGREPort
from lab.netns import Namespace
from tests.transport.readers import Readers

__all__ = ["FAR", "FAR6", "NEAR", "NEAR6", "NEAR_OTHER", "NEAR_OTHER6", "Lab"]

NEAR, NEAR_OTHER, FAR = (parse_ip(f"192.0.2.{number}") for number in (1, 11, 2))
NEAR6, NEAR_OTHER6, FAR6 = (parse_ip(f"2001:db8::{number}") for number in ("1", "11", "2"))


class Lab:
    """Two namespaces joined by a cable."""

    def __init__(self) -> None:
        self.near, self.far = (Namespace(f"dmd-{os.getpid()}-{name}") for name in ("near", "far"))
        self.reactor = Readers()
        self._fds = cast(IReactorFDSet, self.reactor)

    def create(self) -> None:
        """Make the namespaces, the cable and the addresses."""
        self.near.create()
        self.far.create()
        self.near.ip(
            *("link", "add", "cable", "type", "veth"),
            *("peer", "name", "cable", "netns", self.far.name),
        )
        for namespace, addresses in (
            (self.near, ("192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64", "2001:db8::11/64")),
            (self.far, ("192.0.2.2/24", "2001:db8::2/64")),
        ):
            namespace.ip("link", "set", "cable", "up")
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                namespace.ip("address", "add", address, "dev", "cable", *nodad)

    def remove(self) -> None:
        """Remove the namespaces, and with them everything in them."""
        self.near.remove()
        self.far.remove()

    def port(
        self,
        namespace: Namespace,
        metrics: Metrics,
        address: bytes | None = None,
        key: int | None = None,
    ) -> RawGREPort:
        """A port that opens its sockets in a namespace, wherever its ``start`` is called."""

        class PortInside(RawGREPort):
            def start(self, receiver: object) -> None:
                with namespace.entered():
                    super().start(receiver)  # type: ignore[arg-type]

        return PortInside(self._fds, metrics, address, key)

    def raw(self, namespace: Namespace, family: int = socket.AF_INET) -> socket.socket:
        """A bare raw socket in a namespace, to send and see whole packets."""
        sock = namespace.socket(family, socket.SOCK_RAW, 47)
        sock.settimeout(5)
        return sock

    def pump(self, done: Callable[[], bool]) -> bool:
        """Run the readers until ``done()``; whether that came true in time."""
        return self.reactor.pump(done)

    def settle(self) -> None:
        """Run the readers until nothing is left to read."""
        self.reactor.settle()
