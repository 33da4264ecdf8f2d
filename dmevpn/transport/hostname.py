"""Host names to underlay addresses, by the reactor's resolver. Layer: edge."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import implementer

from dmevpn.metrics import Counter

__all__ = ["LIMIT", "resolve_host"]

#: Addresses of one name that are used; whoever answers for it could name any number.
LIMIT = 16


@implementer(IResolutionReceiver)
class _Addresses:
    """Takes the addresses that the resolver finds."""

    def __init__(self, name: str, ignored: Counter | None) -> None:
        self.done: Deferred[tuple[bytes, ...]] = Deferred()
        self._name = name
        self._ignored = ignored
        self._found: dict[bytes, None] = {}

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        pass

    def addressResolved(self, address: Any) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        octets = socket.inet_pton(family, address.host)
        if octets in self._found or len(self._found) < LIMIT:
            self._found[octets] = None
        elif self._ignored is not None:
            self._ignored.inc()

    def resolutionComplete(self) -> None:
        if self.done.called:
            return
        if self._found:
            self.done.callback(tuple(self._found))
        else:
            self.done.errback(DNSLookupError(f"{self._name}: no such host"))


def resolve_host(
    reactor: Any, name: str, family: int | None = None, *, ignored: Counter | None = None
) -> Deferred[tuple[bytes, ...]]:
    """The underlay addresses of a host name, in the order of the system's preference.

    :param reactor: provides IReactorPluggableNameResolver.
    :param family: 4 or 16, the length that the addresses must have; None: either.
    :param ignored: counts addresses that are too many.
    :raises DNSLookupError: (as a failure) if it has none.
    """
    receiver = _Addresses(name, ignored)
    types = {None: None, 4: [IPv4Address], 16: [IPv6Address]}[family]
    reactor.nameResolver.resolveHostName(receiver, name, addressTypes=types)
    return receiver.done
