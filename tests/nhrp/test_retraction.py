"""The next hop server: taking answers back."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP, Path
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.packet import (
    PurgeRequest,
)
from dmevpn.nhrp.records import CIE
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VTEP_A,
    VTEP_B,
    binding,
)
from tests.nhrp.serving import (
    OUTSIDE,
    World,
    told,
)


@pytest.fixture
def world() -> World:
    return World()


def test_whoever_was_answered_is_told(world: World) -> None:
    """When a MAC moves, each site that knew the old place gets a Purge Request."""
    world.learned()
    world.resolve()
    world.resolve(station=STATION_B, path=TO_B)
    world.resolve()
    assert list(world.server.answered()) == [(HOST, (VTEP_B,))]
    assert world.server.invalidate(HOST, "moved") == 2
    assert [path for _, path in world.link.sent] == [TO_A, TO_B]
    purge = world.link.sent[0][0]
    assert isinstance(purge, PurgeRequest)
    assert (purge.source_nbma, purge.source_protocol) == (HUB, HUB_MAC)
    assert (purge.destination_protocol, purge.flags) == (STATION_A, 0)
    assert purge.cies == (CIE(prefix_length=48, protocol=HOST),)
    assert {packet.request_id for packet, _ in world.link.sent} == {1000, 1001}
    assert world.server.invalidate(HOST, "moved") == 0, "nobody believes it any more"
    world.close()


def test_purges_are_repeated_until_replied(world: World) -> None:
    """At 0, 1, 3, 7, 15 and 31 s; a client that is gone is given up."""
    world.learned()
    world.resolve()
    world.resolve(station=STATION_B, path=TO_B)
    world.server.invalidate(HOST, "moved")
    reply = world.link.sent[0][0].reply()  # type: ignore[attr-defined]
    assert world.server.packet_received(reply, TO_A)
    times: list[int] = []
    world.link.take()
    for second in range(1, 70):
        world.clock.advance(1)
        times += [second] * len(world.link.take())
    assert times == [1, 3, 7, 15, 31]
    assert len(world.requests) == 0
    assert world.metrics.value("purges_unanswered", vpn="7") == 1
    world.close()


def test_not_longer_than_the_answer_lasts(world: World) -> None:
    """An answer that has run out need not be taken back."""
    world.register(STATION_B, VTEP_B, holding_time=5)
    world.switch[HOST] = VTEP_B
    world.resolve()
    world.server.invalidate(HOST, "moved")
    world.clock.pump([1] * 60)
    assert len([p for p, _ in world.link.sent if p.request_id == 1000]) == 3  # type: ignore
    world.close()


def test_answers_are_forgotten_when_they_have_run_out(world: World) -> None:
    """Whoever asked long ago gets no purge, and takes no memory."""
    world.learned()
    world.resolve()
    world.clock.advance(200)
    world.resolve(station=STATION_B, path=TO_B)
    world.clock.advance(150)
    assert len(world.server._answered) == 1
    assert world.server.invalidate(HOST, "moved") == 1
    world.register(STATION_B, VTEP_B)
    world.resolve()
    world.clock.advance(301)
    assert world.server.invalidate(HOST, "moved") == 0
    world.resolve()
    world.clock.pump([1] * 400)
    assert len(world.server._answered) == 0 and list(world.server.answered()) == []
    world.close()


def test_others_who_may_know(world: World) -> None:
    """After a restart all members are told, each once."""
    world.learned()
    world.resolve()
    also = [(STATION_A, TO_A), (STATION_B, Path(SITE_B))]
    assert world.server.invalidate(HOST, "moved", also) == 2
    packet, path = world.link.sent[1]
    assert path == Path(SITE_B)
    assert packet.source_nbma == bytes(4), "the kernel chooses our address"
    world.close()


def test_without_room_to_wait_a_purge_goes_out_once() -> None:
    """Better told once without a reply than not at all."""
    world = World(requests=0)
    world.learned()
    world.resolve()
    assert world.server.invalidate(HOST, "moved") == 1
    (purge,) = world.link.take()
    assert purge.flags == 0x8000
    world.close()


def test_a_lost_event_is_made_good_by_the_next_question(world: World) -> None:
    """If two sites would believe different answers, the first is told at once."""
    world.learned()
    world.resolve()
    world.switch[HOST] = VTEP_A
    world.register(STATION_A, VTEP_A)
    world.resolve(station=STATION_B, path=TO_B)
    purges = [path for packet, path in world.link.sent if isinstance(packet, PurgeRequest)]
    assert purges == [TO_A]
    assert list(world.server.answered()) == [(HOST, (VTEP_A,))]
    world.close()


def test_a_site_that_expires_takes_its_answers_along(world: World) -> None:
    """All shortcuts to a site that is gone are withdrawn: its station's and its hosts'."""
    world.learned()
    world.resolve()
    world.register(STATION_A, VTEP_A, holding_time=7200)
    world.clock.advance(400)
    world.resolve()
    world.resolve(STATION_B)
    world.resolve(STATION_A, STATION_B, TO_B)
    world.clock.advance(199.99)
    assert told(world) == set()
    world.cache.remove(STATION_B, "purged")
    assert told(world) == {(STATION_A, HOST), (STATION_A, STATION_B)}
    world.close()


def test_a_site_with_another_registration_stays(world: World) -> None:
    """Only the station that left is taken back."""
    world.learned()
    world.register(OTHER_HOST, VTEP_B)
    world.resolve()
    world.resolve(STATION_B)
    world.cache.remove(STATION_B, "purged")
    assert told(world) == {(STATION_A, STATION_B)}
    world.close()


def test_a_station_that_moves(world: World) -> None:
    """Answers of before are taken back, and refreshes take back nothing."""
    world.register(STATION_B, VTEP_B, unique=False)
    world.resolve(STATION_B)
    world.register(STATION_B, VTEP_B, unique=False)
    assert told(world) == set()
    world.register(STATION_B, VTEP(OUTSIDE, 200), unique=False)
    assert told(world) == {(STATION_A, STATION_B)}
    world.close()


def test_a_registration_overrules_the_switch(world: World) -> None:
    """So does what the operator configures."""
    world.learned()
    world.resolve()
    world.register(HOST, VTEP_B)
    assert told(world) == set(), "it confirms the answer"
    world.cache.remove(HOST, "purged")
    world.link.take()
    world.resolve()
    world.cache.put(binding(HOST, VTEP_A, Kind.STATIC, None))
    assert told(world) == {(STATION_A, HOST)}
    world.cache.put(binding(OTHER_HOST, None, Kind.NEGATIVE))
    world.cache.remove(OTHER_HOST, "expired")
    world.close()


def test_a_vtep_as_a_whole(world: World) -> None:
    """The owner can take back everything at a VTEP."""
    world.learned()
    world.switch[OTHER_HOST] = VTEP_B
    world.resolve()
    world.resolve(OTHER_HOST)
    assert world.server.invalidate_vtep(VTEP_A, "left") == 0
    assert world.server.invalidate_vtep(VTEP_B, "left") == 2
    assert told(world) == {(STATION_A, HOST), (STATION_A, OTHER_HOST)}
    world.close()


def test_a_vtep_with_many_stations(world: World) -> None:
    """A site that is lost costs each requester a packet per 40 stations, not one per station."""
    stations = [b"\x52\x54\x00\x00\x00%c" % number for number in range(41)]
    world.learned()
    for station in stations:
        world.switch[station] = VTEP_B
        world.resolve(station)
        world.resolve(station, STATION_B, TO_B)
    world.link.take()
    assert world.server.invalidate_vtep(VTEP_B, "left") == 82
    packets = world.link.take()
    assert sorted(len(packet.cies) for packet in packets) == [1, 1, 40, 40]
    assert max(len(packet.encode()) for packet in packets) < 1000
    world.close()


def test_too_many_answers() -> None:
    """An answer that could not be taken back is not given: code 5, counted."""
    world = World(answered_limit=1)
    world.learned()
    assert world.resolve().cies[0].code == 0
    assert world.resolve().cies[0].code == 0, "the same once more"
    reply = world.resolve(station=STATION_B, path=TO_B)
    assert reply.cies == (CIE(code=CIECode.NO_RESOURCES),)
    assert world.metrics.value("answered_full") == 1
    world.close()
