"""Requests that were held up on their way, and the one that has overtaken them."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import Path
from dmevpn.nhrp.multihoming import other_servers
from dmevpn.nhrp.order import LATE, MOST_RECENT, Order
from tests.nhrp.neighbours import HUB, SITE_B, STATION_A, STATION_B, TO_A
from tests.nhrp.serving import World, purge, registration

OTHER = Path(SITE_B, HUB)


@pytest.fixture
def order() -> Order:
    return Order(Clock())


def test_a_number_behind_the_latest(order: Order) -> None:
    """The same request again is the latest still, and others' numbers do not matter."""
    for number, late in ((5, False), (5, False), (4, True), (6, False), (5, True), (6, False)):
        assert order.is_late(b"a", number) is late
    assert not order.is_late(b"b", 1)


def test_numbers_begin_anew(order: Order) -> None:
    """After the last number comes the first; what is far behind is of another run."""
    assert not order.is_late(b"a", 0xFFFFFFFF)
    assert not order.is_late(b"a", 2)
    assert order.is_late(b"a", 0xFFFFFFFF)
    assert not order.is_late(b"a", 2 + (1 << 31))
    assert not order.is_late(b"a", 7)


def test_nobody_is_late_for_long() -> None:
    """A client whose numbers are lower from now on is heard after ten seconds."""
    clock = Clock()
    order = Order(clock)
    order.is_late(b"a", 9)
    clock.advance(LATE - 0.1)
    assert order.is_late(b"a", 8)
    clock.advance(0.1)
    assert not order.is_late(b"a", 8)
    assert order.is_late(b"a", 7)


def test_clients_are_forgotten() -> None:
    """However many there are, so many are remembered, and those of long ago are not."""
    clock = Clock()
    order = Order(clock)
    for number in range(MOST_RECENT + 1000):
        assert not order.is_late(b"%d" % number, 1)
    assert len(order) == MOST_RECENT
    assert order.is_late(b"%d" % (MOST_RECENT + 999), 0)
    assert not order.is_late(b"0", 0)
    clock.advance(LATE)
    for number in range(MOST_RECENT):
        order.is_late(b"new %d" % number, 1)
    assert len(order) == MOST_RECENT


# --- at a server ------------------------------------------------------------------------------


def test_an_older_registration_changes_nothing() -> None:
    """It says that the station has no other server, which was so before."""
    world = World()
    other = other_servers((SITE_B,), leave=False)
    world.register(request_id=8, extensions=(*registration().extensions, other))
    before = world.cache.lookup(STATION_A)
    assert before is not None and before.apart == {SITE_B}
    late = registration()
    late.request_id = 7
    assert world.server.packet_received(late, TO_A)
    assert world.cache.lookup(STATION_A) is before
    assert world.link.take() == []
    assert world.metrics.value("drops", reason="overtaken") == 1
    world.close()


def test_an_older_purge_ends_nothing() -> None:
    """A station that has left and come back stays, and what it had sent before stays unheeded."""
    world = World()
    world.register(request_id=20)
    left = purge()
    left.request_id = 21
    assert world.server.packet_received(left, TO_A)
    assert world.cache.lookup(STATION_A) is None
    late = registration()
    late.request_id = 20
    assert world.server.packet_received(late, TO_A)
    assert world.cache.lookup(STATION_A) is None
    world.register(request_id=22)
    assert world.server.packet_received(left, TO_A)
    assert world.cache.lookup(STATION_A) is not None
    assert world.metrics.value("drops", reason="overtaken") == 2
    world.close()


def test_what_others_say_is_not_in_that_order() -> None:
    """Neither what comes from elsewhere counts, nor purges of what is not one's own."""
    world = World()
    world.register(request_id=5)
    world.server.packet_received(purge(STATION_A, protocol=STATION_B), TO_A)
    forged = purge(nbma=SITE_B)
    forged.request_id = 100
    world.policy.code = 4
    world.server.packet_received(forged, OTHER)
    world.policy.code = 0
    assert world.cache.lookup(STATION_A) is not None
    world.register(request_id=6)
    assert world.metrics.value("drops", reason="overtaken") == 0
    world.close()
