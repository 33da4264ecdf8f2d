"""The next hop server: what is for it, and purges by clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path
from dmevpn.errors import NHRPError
from dmevpn.interfaces import IStation
from dmevpn.nhrp import server as server_module
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import ErrorCode, PacketType
from dmevpn.nhrp.extensions import (
    Unknown,
)
from dmevpn.nhrp.order import LATE
from dmevpn.nhrp.packet import (
    ErrorIndication,
    PurgeReply,
    PurgeRequest,
    TrafficIndication,
)
from dmevpn.nhrp.records import CIE, encode_vni
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    VTEP_A,
    binding,
)
from tests.nhrp.serving import (
    OUTSIDE,
    World,
    purge,
    registration,
    resolution,
)


@pytest.fixture
def world() -> World:
    return World()


def test_interface(world: World) -> None:
    """The server can be attached to a speaker."""
    assert verifyObject(IStation, world.server)


def test_registrations_for_another_server(world: World) -> None:
    """They are not ours; ours may name us, or the client itself."""
    request = registration()
    request.destination_protocol = STATION_B
    assert not world.server.packet_received(request, TO_A)
    request.destination_protocol = HUB_MAC
    assert world.server.packet_received(request, TO_A)
    world.close()


@pytest.mark.parametrize("make", [registration, resolution, purge])
def test_unknown_compulsory_extensions(world: World, make: Any) -> None:
    """What must not be ignored is refused, with its place (RFC 2332 §5.3)."""
    request = make()
    request.extensions = (*request.extensions, Unknown(0x3802, True, b"\1\2"))
    with pytest.raises(NHRPError) as raised:
        world.server.packet_received(request, TO_A)
    assert (raised.value.counter, raised.value.code) == ("unrecognized_extension", 1)
    assert raised.value.offset == len(request.encode()) - 4 - 6
    assert len(world.cache) == 0 and world.link.sent == []
    world.close()


# --- purges by clients ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (purge(), True),
        (purge(nbma=SITE_B), True),
        (purge(STATION_B), True),
        (purge(STATION_B, SITE_B), False),
        (purge(subaddress=encode_vni(100), nbma=SITE_A), True),
        (purge(subaddress=encode_vni(101)), False),
        (purge(protocol=STATION_B), False),
        (purge(flags=0x8000), True),
    ],
)
def test_who_may_purge_a_registration(world: World, request_: PurgeRequest, gone: bool) -> None:
    """Whoever registered it, by either address; a reply goes out whatever was removed."""
    world.register()
    world.clock.advance(LATE)
    assert world.server.packet_received(request_, Path(request_.source_nbma, HUB))
    assert (world.cache.lookup(STATION_A) is None) is gone
    replies = world.link.take()
    if request_.flags:
        assert replies == []
    else:
        (reply,) = replies
        assert isinstance(reply, PurgeReply)
        assert (reply.request_id, reply.cies) == (9, request_.cies)
    world.close()


def test_a_purge_of_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes several turns, in which others have theirs; who registers again meanwhile stays so,
    and another such purge meanwhile adds nothing."""
    monkeypatch.setattr(server_module, "ENDED_AT_ONCE", 10)
    monkeypatch.setattr(server_module, "MOST_DOOMED", 15)
    stations = [bytes([2, 1, 0, 0, 0, number]) for number in range(40)]
    for station in stations:
        world.register(station)
    request = purge(protocol=bytes([2, 0, 0, 0, 0, 0]))
    request.cies = (replace(request.cies[0], prefix_length=8),)
    for _ in range(3):
        assert world.server.packet_received(request, TO_A)
    assert world.cache.count(Kind.DYNAMIC) == 30
    assert world.metrics.value("drops", reason="purges_full") == 2
    world.register(stations[39])
    world.clock.advance(0)
    assert world.cache.count(Kind.DYNAMIC) == 1
    assert world.cache.lookup(stations[39]) is not None
    world.close()


def test_a_translated_client_purges_by_the_address_it_knows(world: World) -> None:
    """It does not know how it is seen from outside."""
    world.register(path=Path(OUTSIDE, HUB))
    request = purge(STATION_B)
    request.cies = (CIE(nbma=SITE_A, protocol=STATION_A),)
    world.server.packet_received(request, Path(OUTSIDE, HUB))
    assert len(world.cache) == 0
    world.close()


def test_configured_bindings_are_not_purged(world: World) -> None:
    """Only the operator removes them."""
    world.cache.put(binding(STATION_A, VTEP_A, Kind.STATIC, None))
    world.server.packet_received(purge(), TO_A)
    assert len(world.cache) == 1
    world.close()


def test_a_purge_for_somebody_else(world: World) -> None:
    """It is not ours to answer."""
    request = purge()
    request.destination_protocol = STATION_B
    assert not world.server.packet_received(request, TO_A)
    world.close()


# --- what is not a request --------------------------------------------------------------------


def test_errors_end_purges(world: World) -> None:
    """A client that cannot process our purge is not asked again."""
    world.learned()
    world.resolve()
    world.server.invalidate(HOST, "moved")
    indication = ErrorIndication(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HUB_MAC,
        code=ErrorCode.PROTOCOL_ERROR,
        contents=world.link.sent[0][0].encode(),
    )
    assert world.server.packet_received(indication, TO_A)
    assert not world.server.packet_received(indication, TO_A)
    assert len(world.requests) == 0
    world.close()


def test_anything_else_is_nothing_to_a_server(world: World) -> None:
    """Traffic Indications are for clients."""
    assert PacketType.TRAFFIC_INDICATION not in world.server.packet_types
    indication = TrafficIndication(
        source_nbma=HUB, source_protocol=HUB_MAC, destination_protocol=STATION_A
    )
    assert not world.server.packet_received(indication, TO_A)
    world.close()
