"""Host names of hubs, by the reactor's resolver."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import DNSLookupError
from twisted.internet.testing import MemoryReactor

from dmevpn.metrics import Counter
from dmevpn.transport.hostname import LIMIT, resolve_host

IPV4, OTHER_IPV4 = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "01")


class Resolver:
    """Answers at once with the addresses it is given."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, addressTypes: Any = None
    ) -> None:
        receiver.resolutionBegan(self)
        for host in self.hosts:
            address = type("Address", (), {"host": host, "v6": ":" in host})
            if addressTypes is None or (":" in host) == ("6" in addressTypes[0].__name__):
                receiver.addressResolved(address)
        receiver.resolutionComplete()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (None, (IPV6, IPV4, OTHER_IPV4)),
        (4, (IPV4, OTHER_IPV4)),
        (16, (IPV6,)),
    ],
)
def test_those_of_the_family(family: int | None, expected: tuple[bytes, ...]) -> None:
    """A hub with addresses of both families is reached by the one that the spoke uses."""
    reactor: Any = MemoryReactor()
    reactor.nameResolver = Resolver("2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.1")
    found: list[tuple[bytes, ...]] = []
    resolve_host(reactor, "hub.example", family).addCallback(found.append)
    assert found == [expected]


def test_more_than_are_used() -> None:
    """A name that somebody gave thousands of addresses costs no more than some."""
    reactor: Any = MemoryReactor()
    reactor.nameResolver = Resolver(*[f"192.0.2.{n}" for n in range(1, 100)])
    found: list[tuple[bytes, ...]] = []
    ignored = Counter()
    resolve_host(reactor, "hub.example", ignored=ignored).addCallback(found.append)
    assert [len(each) for each in found] == [LIMIT]
    assert ignored.value == 99 - LIMIT


def test_nothing_found() -> None:
    """The failure names the host."""
    reactor: Any = MemoryReactor()
    reactor.nameResolver = Resolver("192.0.2.1")
    failures: list[Any] = []
    resolve_host(reactor, "hub.example", 16).addErrback(failures.append)
    failures[0].trap(DNSLookupError)
    assert "hub.example" in failures[0].getErrorMessage()


def test_given_up() -> None:
    """An answer that comes after the look-up was cancelled is ignored."""
    reactor: Any = MemoryReactor()
    late: list[Any] = []
    reactor.nameResolver = Resolver("192.0.2.1")
    reactor.nameResolver.resolveHostName = lambda receiver, name, addressTypes=None: late.append(
        receiver
    )
    waiting = resolve_host(reactor, "hub.example")
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    late[0].resolutionComplete()
