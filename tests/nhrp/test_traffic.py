"""Traffic Indications: what is read from them, and how many are sent."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import Path, parse_ip, parse_mac
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import ProtocolType
from dmevpn.nhrp.packet import TrafficIndication, decode
from dmevpn.nhrp.traffic import PAIRS, Redirector, data_addresses, is_host, target
from tests.nhrp.neighbours import Link
from tests.vectors import VECTORS

A, B = parse_ip("10.0.0.10"), parse_ip("10.0.0.20")
A6, B6 = parse_ip("2001:db8::a"), parse_ip("2001:db8::b")
HUB = parse_ip("10.0.0.1")
TO_A = Path(parse_ip("192.0.2.10"), parse_ip("192.0.2.1"))


def packet(source: bytes, destination: bytes, octets: int = 100) -> bytes:
    """The beginning of a data packet."""
    if len(source) == 4:
        return (b"\x45" + bytes(11) + source + destination).ljust(octets, b"x")
    return (b"\x60" + bytes(7) + source + destination).ljust(octets, b"x")


@pytest.mark.parametrize("vector", ["V13", "V14"])
def test_the_target_of_the_vectors(vector: str) -> None:
    """The destination of the data packet is what is to be asked for."""
    indication = decode(VECTORS[vector].octets)
    assert isinstance(indication, TrafficIndication)
    assert target(indication) == B


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (packet(A, B), B),
        (packet(A, B)[:20], B),
        (packet(A, B)[:19], None),
        (packet(A6, B6), None),
        (packet(A, parse_ip("239.1.1.1")), None),
        (b"", None),
    ],
)
def test_targets(contents: bytes, found: bytes | None) -> None:
    """What is cut short, of another protocol or not one host asks for nothing."""
    indication = TrafficIndication(
        source_nbma=TO_A.local,
        source_protocol=HUB,
        destination_protocol=A,
        protocol_type=ProtocolType.IPV4,
        contents=contents,
    )
    assert target(indication) == found
    indication.code = 1
    assert target(indication) is None


def test_addresses_of_every_kind() -> None:
    """IPv6 and Ethernet have theirs elsewhere."""
    assert data_addresses(packet(A6, B6), 16) == (A6, B6)
    assert data_addresses(packet(A6, B6)[:39], 16) is None
    one, two = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
    assert data_addresses(two + one + b"\x08\x00", 6) == (one, two)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.1", True),
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("2001:db8::1", True),
        ("::1", False),
        ("fe80::1", False),
        ("ff02::1", False),
    ],
)
def test_hosts(address: str, host: bool) -> None:
    """Only what one host has is worth a question."""
    assert is_host(parse_ip(address)) is host


def test_at_most_four_each_five_seconds_apart() -> None:
    """After four the pair is left alone until it was not seen for six minutes."""
    clock, metrics = Clock(), Metrics()
    redirector = Redirector(clock, Link(), metrics)
    times = []
    for _ in range(600):
        if redirector.due(A, B):
            times.append(clock.seconds())
        clock.advance(1)
    assert times == [0, 5, 10, 15]
    assert redirector.due(B, A), "the other direction is another pair"
    clock.advance(358)
    assert redirector.due(B, A) and not redirector.due(A, B)
    clock.advance(359)
    assert not redirector.due(A, B)
    clock.advance(360)
    assert redirector.due(A, B)
    assert metrics.value("traffic_indications_suppressed") == 596 + 2


def test_pairs_are_bounded() -> None:
    """A sender of ever new addresses makes us forget the oldest pair, not grow."""
    metrics = Metrics()
    redirector = Redirector(Clock(), Link(), metrics)
    assert redirector.due(A, B)
    for number in range(PAIRS):
        redirector.due(number.to_bytes(4, "big"), B)
    assert len(redirector._pairs) == PAIRS
    assert metrics.value("traffic_pairs_forgotten") == 1
    assert redirector.due(A, B)


@pytest.mark.parametrize(("source", "destination"), [(A, B), (A6, B6)])
def test_the_indication(source: bytes, destination: bytes) -> None:
    """It goes to the client, names the packet's source, and has its first 68 octets."""
    link = Link()
    redirector = Redirector(Clock(), link, Metrics())
    station = HUB if len(source) == 4 else parse_ip("2001:db8::1")
    redirector.tell(packet(source, destination), source, station, TO_A)
    ((sent, path),) = link.sent
    assert path == TO_A
    read = decode(sent.encode())
    assert isinstance(read, TrafficIndication)
    assert (read.source_nbma, read.source_protocol) == (TO_A.local, station)
    assert read.destination_protocol == source
    assert read.contents == packet(source, destination)[:68]
    assert target(read) == destination
