"""Which station or server leads to an IPv4 or IPv6 address. Layer: role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dmevpn.addresses import Path
from dmevpn.interfaces import ILayer3Dataplane
from dmevpn.nhrp.cache import Cache, Kind
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.registration import RegistrationClient

__all__ = ["Server", "Ways"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A configured station whose underlay address is known."""

    protocol: bytes
    """Its protocol address; empty: we shall learn it."""
    network: bytes
    """Any address of the network that it leads to."""
    prefix_length: int
    """Bits of that network."""
    path: Path
    """From our underlay address to its."""
    register: bool
    unique: bool
    destination: bytes
    """Where a registration is addressed to; empty: to ourselves."""
    peer: str
    """Which daemon it is, as the file says."""
    dynamic: bool = False
    """Whether it is one of the addresses of a ``dynamic-map``."""
    hostname: str = ""
    """The name that its underlay address was found by; empty: it is configured."""


class Ways:
    """The configured stations of one family, and who else leads somewhere.

    :param octets: length of the family's addresses.
    """

    def __init__(self, octets: int, dataplane: ILayer3Dataplane, cache: Cache) -> None:
        self._octets = octets
        self._dataplane = dataplane
        self._cache = cache
        self.servers: tuple[Server, ...] = ()
        self._table: PrefixTable[bytes] = PrefixTable()

    def set(self, servers: Iterable[Server]) -> None:
        """These are the configured ones, in order of preference."""
        self.servers = tuple(servers)
        self._table = PrefixTable(
            (each.network, each.prefix_length, each.path.peer)
            for each in self.servers
            if each.prefix_length < 8 * self._octets
        )

    def stations(self, registrations: Iterable[RegistrationClient]) -> dict[bytes, bytes]:
        """Underlay addresses by the protocol addresses that are configured, or that servers have
        told when we registered."""
        told = {client.nhs: client.server for client in registrations if client.usable}
        found: dict[bytes, bytes] = {}
        for server in self.servers:
            protocol = server.protocol or told.get(server.path.peer, b"")
            if len(protocol) == self._octets:
                found.setdefault(protocol, server.path.peer)
        return found

    def servers_for(self, protocol: bytes) -> list[bytes]:
        """Underlay addresses of those that lead to an address, the preferred one first: by the
        file, then by the kernel's routes."""
        found = list(self._table.longest(protocol))
        next_hop = self._dataplane.next_hop(protocol)
        if next_hop is not None and next_hop != protocol:
            binding = self._cache.lookup(next_hop)
            if binding is not None and binding.vtep is not None and binding.kind >= Kind.DYNAMIC:
                found.append(binding.vtep.nbma)
        return found

    def may_lead_to(self, protocol: bytes) -> bool:
        """Whether somebody else may know an address that we do not: a server that we register with,
        the way to some network, or a route of the kernel's."""
        whole = 8 * self._octets
        upstream = any(each.register or each.prefix_length < whole for each in self.servers)
        return upstream or bool(self.servers_for(protocol))

    def client(self, source: bytes, sender: bytes) -> Path | None:
        """The way to the registered station that a packet came from; None if there is none.

        :param sender: underlay address that it came from; empty: only its source tells.
        """
        if sender:
            return next((each.path for each in self._cache.registered_by(sender)), None)
        binding = self._cache.find(source)
        if binding is None:
            next_hop = self._dataplane.next_hop(source)
            binding = None if next_hop is None else self._cache.lookup(next_hop)
        return binding.path if binding is not None and binding.kind is Kind.DYNAMIC else None
