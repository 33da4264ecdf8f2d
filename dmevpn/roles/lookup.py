"""Names of peers to underlay addresses, for as long as somebody wants them. Layer: role.

A name is one of a host, or the protocol address of a neighbour that only the kernel knows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, FirstError, execute, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dmevpn.addresses import format_address, parse_ip
from dmevpn.config.model import NHSPlan
from dmevpn.errors import DmevpnError
from dmevpn.interfaces import IControlDevice
from dmevpn.log import Logger

__all__ = ["REFRESH", "RETRY", "Addresses", "NameWatch", "addressed", "look_up", "neighbour"]

#: Seconds until names are looked up again that could not be, before they have ever been.
RETRY = 10.0
#: Seconds between two look-ups of known names. The system's resolver keeps the lives of its
#: answers to itself.
REFRESH = 60.0

#: Underlay addresses by name; those of a name in the order of the system's preference.
Addresses = dict[str, tuple[bytes, ...]]


def look_up(
    name: str,
    device: IControlDevice | None,
    resolve_host: Callable[[str], Deferred[tuple[bytes, ...]]],
) -> Deferred[tuple[bytes, ...]]:
    """The underlay addresses of a server, given by host name or by an address that no ``map``
    knows.

    :param device: that of the control interface, if it has one.
    """
    try:
        protocol = parse_ip(name)
    except ValueError:
        return resolve_host(name)
    found: Deferred[tuple[bytes, ...]] = execute(lambda: (neighbour(protocol, device),))
    return found


def neighbour(protocol: bytes, device: IControlDevice | None) -> bytes:
    """The underlay address that a kernel device has for an address of its networks; any other
    address is one of the underlay already.

    :raises DmevpnError: if the device does not know it (yet).
    """
    if device is None:
        return protocol
    if device.state is None:
        raise DmevpnError(f"{device.name} is gone")
    address = ipaddress.ip_address(protocol)
    networks = (
        ipaddress.ip_network((own, bits), strict=False) for own, bits in device.state.addresses
    )
    if not any(address in network for network in networks):
        return protocol
    found: bytes | None = device.neighbour(protocol)
    if found is None:
        text = format_address(protocol)
        raise DmevpnError(
            f"{text} is no neighbour on {device.name} (`ip neigh add {text} lladdr NBMA dev"
            f" {device.name}`, or `map {text} NBMA`)"
        )
    return found


def addressed(
    servers: tuple[NHSPlan, ...], found: Addresses, before: tuple[NHSPlan, ...]
) -> tuple[NHSPlan, ...]:
    """Servers with the addresses of their names: the first of each that was used before, if it
    still is one, or else the first."""
    used = {server.address for server in before}

    def address(server: NHSPlan) -> bytes:
        return next((each for each in found[server.host] if each in used), found[server.host][0])

    return tuple(
        server if server.address is not None else replace(server, address=address(server))
        for server in servers
    )


class NameWatch:
    """Looks up several names, again and again.

    Nobody hears of a failure once the names are known: whoever has an address keeps it.

    :param resolve: a name to a Deferred of its addresses, one at least.
    :param changed: called when all names are known, and whenever their addresses differ from what
        it was called with; their order means nothing.
    """

    log = Logger()

    def __init__(
        self,
        names: Iterable[str],
        resolve: Callable[[str], Deferred[tuple[bytes, ...]]],
        clock: IReactorTime,
        changed: Callable[[Addresses], None],
    ) -> None:
        self._names = sorted(set(names))
        self._resolve = resolve
        self._clock = clock
        self._changed = changed
        self._known: dict[str, frozenset[bytes]] = {}
        self._failing = False
        self._waiting: Deferred[Any] | None = None
        self._next: Any = None
        self._stopped = False

    def start(self) -> None:
        """Ask for all names now."""
        self._next = None
        waiting = gatherResults([self._resolve(name) for name in self._names], consumeErrors=True)
        self._waiting = waiting
        waiting.addCallbacks(self._succeeded, self._failed)
        waiting.addErrback(lambda failure: self.log.failure("after a look-up", failure))

    def stop(self) -> None:
        """Ask no more; ``changed`` is not called any more."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        elif self._waiting is not None:
            self._waiting.cancel()

    def _succeeded(self, found: list[tuple[bytes, ...]]) -> None:
        if self._stopped:
            return
        if self._failing:
            self._failing = False
            self.log.info("{names}: found again", names=", ".join(self._names))
        self._next = self._clock.callLater(REFRESH, self.start)
        addresses = dict(zip(self._names, found, strict=True))
        known = {name: frozenset(each) for name, each in addresses.items()}
        if known != self._known:
            self._known = known
            self._changed(addresses)

    def _failed(self, failure: Failure) -> None:
        if self._stopped:
            return
        if isinstance(failure.value, FirstError):
            failure = failure.value.subFailure
        if not self._failing:
            self.log.warn(
                "cannot look up {names}: {reason}; {outcome}",
                names=", ".join(self._names),
                reason=failure.getErrorMessage(),
                outcome="the known address stays" if self._known else "trying again",
            )
        self._failing = True
        self._next = self._clock.callLater(REFRESH if self._known else RETRY, self.start)
