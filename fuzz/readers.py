"""Readers of files and of the kernel's messages, as functions of octets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from dmevpn.config.grammar import KEYWORDS
from dmevpn.config.parser import mask_secrets
from dmevpn.config.resolve import check
from dmevpn.dataplane import ip_messages
from dmevpn.dataplane.links import parse_links
from dmevpn.dataplane.neighbours import (
    bridge_add,
    bridge_delete,
    flood_append,
    parse_entries,
    parse_miss,
    self_set,
)
from dmevpn.dataplane.netlink import parse_attributes
from dmevpn.errors import MalformedPacket
from dmevpn.transport.rawgre import split_ipv4
from fuzz.findings import Finding
from tests.vectors import VECTORS
from tests.world import mac

__all__ = ["Config", "Netlink"]

_EXAMPLES = Path(__file__).resolve().parent.parent / "etc"


class _Stateless:
    """A reader that keeps nothing: what shows a finding again is the input alone."""

    def __init__(self) -> None:
        self._latest = b""

    def history(self) -> bytes:
        """The latest input."""
        return self._latest

    def renew(self) -> None:
        """There is nothing to forget."""


class Config(_Stateless):
    """The reader of configuration files, up to the plan, and what masks secrets in them."""

    name: ClassVar[str] = "config"
    tokens: ClassVar[tuple[bytes, ...]] = tuple(word.encode() for word in sorted(KEYWORDS))

    def seeds(self) -> Iterator[bytes]:
        """Every example that we ship."""
        for path in sorted(_EXAMPLES.rglob("*.conf")):
            yield path.read_bytes()

    def run(self, data: bytes) -> int:
        """Read a text as a file; all its mistakes are messages."""
        self._latest = data
        text = data.decode("utf-8", "surrogateescape")
        found = check(text, "fuzz.conf", "fuzz")
        if (found.plan is None) != bool(found.errors):
            raise Finding("there is a plan although there are errors, or neither")
        for message in found.messages:
            if "\n" in message:
                raise Finding(f"a message of several lines: {message!r}")
        mask_secrets(text)
        return 1


class Netlink(_Stateless):
    """The readers of the kernel's messages: neighbours, links, attributes, raw IPv4 packets."""

    name: ClassVar[str] = "netlink"
    tokens: ClassVar[tuple[bytes, ...]] = tuple(
        each.to_bytes(2, "little") for each in (16, 17, 18, 20, 24, 25, 28, 29, 30, 64, 7, 10)
    )

    def seeds(self) -> Iterator[bytes]:
        """Messages as we write them, which are also as the kernel writes them."""
        nbma, station = bytes([10, 0, 0, 2]), mac(1)
        for message in (
            self_set(7, station, nbma, vni=100, port=4789),
            flood_append(7, bytes(6), nbma),
            bridge_add(7, station),
            bridge_delete(7, station, 12),
            ip_messages.neighbour_set(7, nbma, nbma),
            ip_messages.route_add(7, nbma, 24, nbma, 254),
            ip_messages.route_delete(7, bytes(16), 64, 254),
            ip_messages.probes_set(7, 2, ip_messages.Probes(3, 0, 0)),
        ):
            front = (16 + len(message.body)).to_bytes(4, "little")
            for kind in (message.type, 16, 20, 24, 28, 30, 64):
                yield front + kind.to_bytes(2, "little") + bytes(10) + message.body
        yield VECTORS["G04"].octets

    def run(self, data: bytes) -> int:
        """Read octets as each of them would."""
        self._latest = data
        list(parse_entries(data))
        parse_miss(data)
        list(parse_links(data))
        list(ip_messages.parse_neighbours(data))
        list(ip_messages.parse_routes(data))
        ip_messages.parse_question(data)
        ip_messages.parse_probes(data, 7)
        parse_attributes(data)
        with suppress(MalformedPacket):
            split_ipv4(memoryview(data))
        return 1
