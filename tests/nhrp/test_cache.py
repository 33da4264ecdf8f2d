"""The cache: who replaces whom, when a binding ends, who is told."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from dmevpn.addresses import parse_ip
from dmevpn.interfaces import ICacheListener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Cache, Kind
from tests.nhrp.neighbours import (
    HOST,
    OTHER_HOST,
    STATION_A,
    STATION_B,
    VTEP_A,
    VTEP_B,
    CacheLog,
    binding,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def cache(clock: Clock, metrics: Metrics) -> Cache:
    return Cache(clock, metrics, limit=4)


@pytest.fixture
def log(cache: Cache) -> CacheLog:
    listener = CacheLog()
    assert verifyObject(ICacheListener, listener)
    cache.subscribe(listener)
    return listener


def test_a_binding_lives_for_its_time(clock: Clock, cache: Cache, log: CacheLog) -> None:
    """A shortcut is there until it expires, and then the listeners are told."""
    put = binding(expires=10.0)
    assert cache.put(put)
    assert cache.lookup(HOST) is put
    clock.advance(9)
    assert cache.lookup(HOST) is put
    clock.advance(0.5)
    assert cache.lookup(HOST) is None, "less than a second left"
    assert len(cache) == 1
    clock.advance(0.5)
    assert len(cache) == 0
    assert log.take() == [("added", HOST, "cached"), ("removed", HOST, "expired")]
    assert not clock.getDelayedCalls()


def test_a_configured_binding_never_expires(clock: Clock, cache: Cache) -> None:
    """Static bindings need no timer, and one that becomes static loses it."""
    cache.put(binding(expires=10.0))
    cache.put(binding(kind=Kind.STATIC, expires=None))
    clock.advance(1_000_000)
    assert cache.lookup(HOST) is not None


@pytest.mark.parametrize("old", Kind)
@pytest.mark.parametrize("new", Kind)
def test_precedence(cache: Cache, log: CacheLog, old: Kind, new: Kind) -> None:
    """A weaker binding never replaces a stronger one; an equal one refreshes it."""
    cache.put(binding(kind=old))
    log.take()
    assert cache.put(binding(kind=new, vtep=VTEP_A)) is (new >= old)
    found = cache.lookup(HOST)
    assert found is not None and found.kind is max(old, new)
    if new >= old:
        assert log.take() == [("changed", HOST, f"{old.name.lower()} to {new.name.lower()}")]
        assert cache.count(old) == (old is new)
        assert cache.count(new) == 1
    else:
        assert log.take() == []


def test_the_same_source_may_weaken_its_word(cache: Cache, log: CacheLog) -> None:
    """A server that first gave an answer and then says no is believed."""
    cache.put(binding())
    assert cache.put(binding(kind=Kind.NEGATIVE, vtep=None), overrule=True)
    assert log.take()[1:] == [("changed", HOST, "cached to negative")]


def test_what_is_as_good_as_gone_protects_nothing(clock: Clock, cache: Cache) -> None:
    """In its last second a binding gives way to a weaker one that lives."""
    cache.put(binding(kind=Kind.DYNAMIC, expires=10.0))
    clock.advance(9.5)
    assert cache.put(binding(kind=Kind.CACHED))
    clock.advance(10)
    assert cache.lookup(HOST) is not None


def test_refreshing_moves_the_end(clock: Clock, cache: Cache, log: CacheLog) -> None:
    """A renewed registration lives on."""
    for turn in range(1, 100):
        cache.put(binding(expires=turn * 5 + 10.0))
        clock.advance(5)
    assert len(cache) == 1
    clock.advance(20)
    assert len(cache) == 0
    assert [event for event, _, _ in log.take()].count("removed") == 1


def test_limit(cache: Cache, log: CacheLog, metrics: Metrics) -> None:
    """A full cache takes no more, refreshes what it has, and counts what it refused."""
    addresses = [parse_ip(f"10.0.0.{last}") for last in range(6)]
    for address in addresses[:4]:
        assert cache.put(binding(address))
    assert not cache.put(binding(addresses[4]))
    assert metrics.value("cache_full") == 1
    assert cache.put(binding(addresses[0], vtep=VTEP_A))
    assert len(cache) == 4


def test_the_oldest_refusal_gives_way(cache: Cache, log: CacheLog, metrics: Metrics) -> None:
    """In a full cache, refusals that can be asked for again make room."""
    addresses = [parse_ip(f"10.0.0.{last}") for last in range(6)]
    cache.put(binding(addresses[0]))
    for address in addresses[1:4]:
        cache.put(binding(address, vtep=None, kind=Kind.NEGATIVE))
    log.take()
    assert cache.put(binding(addresses[4]))
    assert log.take() == [
        ("removed", addresses[1], "flushed"),
        ("added", addresses[4], "cached"),
    ]
    assert metrics.value("cache_evictions") == 1
    assert cache.lookup(addresses[0]) is not None


def test_registrations_of_a_vtep(clock: Clock, cache: Cache) -> None:
    """All live registrations of a site are found, however they came and went."""
    cache.put(binding(STATION_A, VTEP_A, Kind.DYNAMIC, 50.0))
    cache.put(binding(STATION_B, VTEP_A, Kind.DYNAMIC, 60.0))
    cache.put(binding(HOST, VTEP_A, Kind.CACHED))

    def stations() -> set[bytes]:
        return {each.protocol for each in cache.registrations_of(VTEP_A)}

    assert stations() == {STATION_A, STATION_B}
    cache.put(binding(STATION_B, VTEP_B, Kind.DYNAMIC, 60.0))
    assert stations() == {STATION_A}
    clock.advance(49.5)
    assert stations() == set(), "less than a second left"
    assert [each.protocol for each in cache.registrations_of(VTEP_B)] == [STATION_B]
    cache.put(binding(STATION_B, VTEP_B, Kind.STATIC, None))
    assert cache.registrations_of(VTEP_B) == []


def test_removing(cache: Cache, log: CacheLog) -> None:
    """What is removed is gone at once, with a reason, and only once."""
    cache.put(binding())
    cache.put(binding(OTHER_HOST, kind=Kind.NEGATIVE, vtep=None))
    log.take()
    removed = cache.remove(HOST, "purged")
    assert removed is not None and removed.vtep == VTEP_B
    assert cache.remove(HOST, "purged") is None
    assert cache.remove_if(lambda each: each.kind is Kind.NEGATIVE, "flushed") == 1
    assert log.take() == [("removed", HOST, "purged"), ("removed", OTHER_HOST, "flushed")]
    assert cache.count() == 0 == cache.count(Kind.NEGATIVE)


def test_listeners_in_order_until_they_leave(cache: Cache) -> None:
    """Listeners are told in the order they came; one that left hears nothing."""
    first, second = CacheLog(), CacheLog()
    cache.subscribe(first)
    cache.subscribe(second)
    heard: list[CacheLog] = []
    for listener in (first, second):
        listener.binding_added = lambda binding, who=listener: heard.append(who)  # type: ignore
    cache.put(binding())
    assert heard == [first, second]
    cache.unsubscribe(first)
    cache.remove(HOST, "purged")
    assert not first.events and second.events


def test_going_through_while_it_changes(cache: Cache) -> None:
    """An operator's list does not fail because bindings come and go."""
    cache.put(binding())
    cache.put(binding(OTHER_HOST))
    seen = [cache.remove(each.protocol, "flushed") for each in cache.bindings()]
    assert len(seen) == 2


def test_close_leaves_nothing(clock: Clock, cache: Cache, log: CacheLog) -> None:
    """A stopped VPN has no timers and tells nobody."""
    cache.put(binding())
    log.take()
    cache.close()
    assert not clock.getDelayedCalls()
    assert len(cache) == 0 and cache.count(Kind.CACHED) == 0
    assert log.take() == []
