"""Error Indications: what they say, and that there are never too many."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import PEERS, Complaints
from dmevpn.nhrp.indication import SOURCES, ErrorReporter, describe
from dmevpn.nhrp.packet import ErrorIndication, Packet, TrafficIndication, decode_payload
from tests.nhrp.neighbours import HUB, HUB_MAC, SITE_A, STATION_A, STATION_B
from tests.vectors import VECTORS


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.reporter = ErrorReporter(self.clock, self.metrics)

    def report(
        self, packet: Packet, code: int = 7, peer: bytes = SITE_A, **more: Any
    ) -> ErrorIndication | None:
        return self.reporter.report(packet, code, 9, HUB, HUB_MAC, peer=peer, **more)

    def suppressed(self) -> int:
        return self.metrics.value("drops", reason="error_suppressed")


def received(name: str) -> Packet:
    return decode_payload(VECTORS[name].octets)[1]


@pytest.fixture
def world() -> World:
    return World()


def test_it_goes_back_to_who_asked(world: World) -> None:
    """The offending packet is in it, and its source is told."""
    request = received("V18")
    indication = world.report(request, code=6)
    assert indication is not None
    assert (indication.code, indication.offset) == (6, 9)
    assert (indication.source_nbma, indication.source_protocol) == (HUB, HUB_MAC)
    assert indication.destination_protocol == STATION_A
    assert indication.contents == VECTORS["V18"].octets
    assert indication.extensions == ()


def test_about_a_reply_its_sender_is_told(world: World) -> None:
    """That is the destination protocol address of a reply."""
    reply = received("V21")
    indication = world.report(reply)
    assert indication is not None
    assert indication.destination_protocol == reply.destination_protocol


@pytest.mark.parametrize("name", ["V11", "V13", "M28"])
def test_never_about_indications(world: World, name: str) -> None:
    """Two daemons must not answer each other's errors for ever."""
    assert world.report(received(name)) is None
    assert isinstance(received("V13"), TrafficIndication)


def test_without_an_address_of_that_type_the_source_is_empty(world: World) -> None:
    """A MAC is no source in a packet about IPv4."""
    indication = world.report(received("V01"))
    assert indication is not None
    assert indication.source_protocol == b""
    assert decode_payload(indication.encode())[1] == indication


def test_it_fits_the_smallest_datagram(world: World) -> None:
    """Long packets are cut to 548 octets of GRE payload, but never before their addresses end."""
    packet = received("V18")
    packet.raw += bytes(2000)
    for overhead in (0, 24):
        indication = world.report(packet, overhead=overhead)
        assert indication is not None
        assert len(indication.encode()) + overhead == 548
    indication = world.report(packet, overhead=2000)
    assert indication is not None
    assert len(indication.contents) == packet.header_end


def test_at_most_ten_in_a_row_to_one_peer(world: World) -> None:
    """Ten at once, then one a second; others are not affected."""
    packet = received("V18")
    answers = [world.report(packet) for _ in range(15)]
    assert [each is not None for each in answers] == [True] * 10 + [False] * 5
    assert world.suppressed() == 5
    assert world.report(packet, peer=STATION_B[:4]) is not None
    world.clock.advance(2)
    assert [world.report(packet) is not None for _ in range(3)] == [True, True, False]
    world.clock.advance(1000)
    assert sum(world.report(packet) is not None for _ in range(50)) == 10


def test_at_most_a_hundred_a_second(world: World) -> None:
    """Forged sources do not make us an amplifier."""
    packet = received("V18")
    peers = [number.to_bytes(4, "big") for number in range(1000)]
    assert sum(world.report(packet, peer=peer) is not None for peer in peers) == 100
    world.clock.advance(0.5)
    assert sum(world.report(packet, peer=peer) is not None for peer in peers) == 50


def test_the_table_of_peers_is_bounded(world: World) -> None:
    """Whoever is forgotten had earned everything back."""
    packet = received("V18")
    for number in range(SOURCES + 100):
        world.clock.advance(0.01)
        assert world.report(packet, peer=number.to_bytes(4, "big")) is not None
    assert len(world.reporter._sources) == SOURCES
    assert world.metrics.value("error_sources_forgotten") == 100


def test_codes_in_words() -> None:
    """An operator reads what is meant."""
    assert describe(17) == "error 17, vpn unsupported"
    assert describe(99) == "error 99"


def test_complaints_once_a_minute() -> None:
    """One peer's faults fill no log, and a thousand peers' do not either."""
    clock, metrics = Clock(), Metrics()
    complaints = Complaints(clock, metrics)
    assert complaints.due(SITE_A)
    assert not complaints.due(SITE_A)
    clock.advance(60)
    assert complaints.due(SITE_A)
    others = [number.to_bytes(4, "big") for number in range(2 * PEERS)]
    assert sum(complaints.due(peer) for peer in others) == PEERS - 1
    assert metrics.value("complaints_full") == PEERS + 1
    clock.advance(60)
    assert complaints.due(others[-1])
    assert len(complaints._logged) == PEERS
