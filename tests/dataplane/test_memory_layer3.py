"""The layer 3 data plane in memory passes the contract of the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import parse_ip, parse_prefix
from dmevpn.dataplane.memory_layer3 import MemoryLayer3, MemoryTunnel
from tests.contracts.layer3_dataplane import ADDRESSES, EventLog, Layer3Contract, Layer3Kernel


class MemoryKernel(Layer3Kernel):
    """A tunnel of its own."""

    def __init__(self) -> None:
        addresses = tuple(parse_prefix(each) for each in ADDRESSES)
        self.tunnel = MemoryTunnel(Clock(), self.link(2), addresses)
        self.restart(kill=True)

    def link(self, number: int) -> bytes:
        return bytes((10, 0, 0, number))

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        answer = check()
        assert answer, f"no {what}"
        return answer

    def neighbours(self) -> dict[bytes, bytes]:
        return self.tunnel.neighbours

    def routes(self) -> dict[tuple[bytes, int], bytes]:
        return {**self.tunnel.others, **self.tunnel.routes}

    def add_route(self, network: str, next_hop: str) -> None:
        self.tunnel.others[parse_prefix(network)] = parse_ip(next_hop)

    def send(self, protocol: str) -> None:
        self.tunnel.send(parse_ip(protocol))

    def make_again(self) -> None:
        self.tunnel.make_again()

    def restart(self, *, kill: bool) -> None:
        if not kill:
            self.dataplane.stop()
        self.log = EventLog()
        self.dataplane = MemoryLayer3(self.link(2), self.tunnel)
        self.dataplane.start(self.log)


class TestMemoryLayer3(Layer3Contract):
    """All of it."""

    @pytest.fixture
    def kernel(self) -> Iterator[Layer3Kernel]:
        yield MemoryKernel()
