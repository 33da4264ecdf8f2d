"""What operators who know OpenNHRP see and may do. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zope.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


__all__ = ["IPeerTable", "InterfaceEntry", "PeerEntry"]


class PeerEntry(NamedTuple):
    """What is known of an IPv4 or IPv6 address or network, as OpenNHRP would show it."""

    interface: str
    """Control interface."""
    vpn: int | None
    kind: str
    """OpenNHRP's word: ``static``, ``dynamic-map``, ``dynamic-nhs``, ``local``, ``dynamic``,
    ``cached``, ``shortcut-route``, ``negative`` or ``incomplete``."""
    protocol: bytes
    bits: int
    """Prefix length."""
    nbma: bytes = b""
    next_hop: bytes = b""
    """Of a ``shortcut-route``: protocol address of who leads there."""
    hostname: str = ""
    claimed: bytes = b""
    """Underlay address that it says it has, behind an address translation."""
    flags: tuple[str, ...] = ()
    """``unique``, ``up``, ``lower-up``."""
    expires_in: int | None = None
    """Whole seconds; None: never."""


class InterfaceEntry(NamedTuple):
    """A control interface, as OpenNHRP would show it."""

    name: str
    ifindex: int
    """The kernel's index of its GRE device; 0 without one."""
    protocols: tuple[tuple[bytes, int], ...]
    """Our protocol addresses that packets without a VPN are for, with their prefix lengths."""
    flags: tuple[str, ...]
    """``shortcut``, ``redirect``, ``configured``."""
    holding_time: int
    route_table: int
    gre_key: int
    """0 without one."""
    mtu: int
    """0: not known."""
    nbma: bytes
    """Our underlay address; empty: any."""
    seen_as: bytes
    """The same as a server sees it, behind an address translation; else empty."""


class IPeerTable(Interface):
    """What operators who know OpenNHRP see of IPv4 and IPv6, and may do.

    ``match`` tells whether an entry is meant.
    """

    def entries() -> Iterator[PeerEntry]:
        """All there are; may be read over many reactor turns, and left unfinished."""

    def flush(match: Callable[[PeerEntry], bool]) -> Iterator[bool]:
        """Forget what is not configured, entry by entry as the iterator is read; whether each was
        forgotten."""

    def purge(match: Callable[[PeerEntry], bool], reason: str) -> Iterator[bool]:
        """The same, and begin anew with what is configured.

        :param reason: what the operator's script is told.
        """

    def interfaces() -> Iterator[InterfaceEntry]:
        """The control interfaces."""

    def forget_redirects(protocol: bytes, bits: int) -> int:
        """Let detours to an address or network be told again; of all if it is empty. How many
        pairs were forgotten."""

    def name_server(nbma: bytes, protocol: bytes) -> int:
        """Say which protocol address the server of a ``dynamic-map`` has; how many were meant."""
