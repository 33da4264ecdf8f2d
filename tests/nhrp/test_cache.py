"""The cache: who replaces whom, when a binding ends, who is told."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from dmevpn.addresses import VTEP, parse_ip, parse_prefix
from dmevpn.interfaces import ICacheListener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import MOST_BESIDE, Binding, Cache, Kind
from dmevpn.nhrp.room import SharedRoom
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


def test_registration_of_a_vtep(clock: Clock, cache: Cache) -> None:
    """The registration of a site that lives longest is found, however they came and went."""
    cache.put(binding(STATION_A, VTEP_A, Kind.DYNAMIC, 50.0))
    cache.put(binding(STATION_B, VTEP_A, Kind.DYNAMIC, 60.0))
    cache.put(binding(HOST, VTEP_A, Kind.CACHED))

    def station(vtep: VTEP = VTEP_A) -> bytes | None:
        found = cache.registration_of(vtep)
        return None if found is None else found.protocol

    assert station() == STATION_B
    cache.put(binding(STATION_B, VTEP_B, Kind.DYNAMIC, 60.0))
    assert station() == STATION_A
    clock.advance(49.5)
    assert station() is None, "less than a second left"
    assert station(VTEP_B) == STATION_B
    cache.put(binding(STATION_B, VTEP_B, Kind.STATIC, None))
    assert station(VTEP_B) is None


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


# --- prefixes ---------------------------------------------------------------------------------


def prefix(text: str, kind: Kind = Kind.DYNAMIC, **more: Any) -> Binding:
    protocol, length = parse_prefix(text)
    return binding(protocol, more.pop("vtep", VTEP_A), kind, prefix_length=length, **more)


def test_the_longest_prefix_is_found(clock: Clock, cache: Cache) -> None:
    """An address of its own wins over all prefixes, and what is about to expire is not there."""
    wide, narrow = prefix("10.0.0.0/8"), prefix("10.1.0.0/16", expires=10.0)
    own = binding(parse_ip("10.1.0.1"), kind=Kind.STATIC)
    for each in (wide, narrow, own, prefix("10.1.2.0/24", Kind.CACHED)):
        assert cache.put(each)
    assert cache.find(parse_ip("10.1.0.1")) is own
    assert cache.find(parse_ip("10.1.2.3")) is narrow, "answers of others do not count"
    assert cache.find(parse_ip("10.2.0.1")) is wide
    assert cache.find(parse_ip("11.0.0.1")) is None
    assert cache.find_around(narrow.protocol, narrow.bits) is wide
    clock.advance(9.5)
    assert cache.find(parse_ip("10.1.2.3")) is wide
    inside = cache.inside(parse_ip("10.1.0.0"), 16)
    assert {each.key for each in inside} == {own.key, narrow.key, prefix("10.1.2.0/24").key}
    cache.remove(own.key, "purged")
    assert own not in cache.inside(parse_ip("10.1.0.0"), 16)


def test_a_set_of_macs(cache: Cache) -> None:
    """A purge may name one."""
    for mac in (HOST, OTHER_HOST, STATION_A):
        cache.put(binding(mac))
    assert {each.protocol for each in cache.inside(HOST, 24)} == {HOST, OTHER_HOST}


# --- room that caches share -------------------------------------------------------------------


def test_room_shared_by_vpns(clock: Clock, metrics: Metrics) -> None:
    """Where the caches of all VPNs have no room left, one that holds more than its own adds nothing
    but in the place of a refusal; another still gets its own, and what ends makes room."""
    room = SharedRoom(metrics, "bindings", own=1, shared=4)
    one, two = (Cache(clock, metrics, room=room) for _ in range(2))
    kept = [binding(bytes([2, 0, 0, 0, 0, number]), kind=Kind.DYNAMIC) for number in range(6)]
    assert [one.put(each) for each in kept] == [True] * 3 + [False] * 3
    assert [two.put(each) for each in kept] == [True] * 2 + [False] * 4
    assert metrics.value("shared_room_full", what="bindings") == metrics.value("cache_full") == 7
    assert one.put(kept[0]), "a renewal is nothing new"
    assert room.free == 1
    one.remove(kept[0].protocol, "purged")
    assert room.free == 2
    assert two.put(binding(HOST, None, Kind.NEGATIVE))
    assert two.put(kept[3])
    assert metrics.value("cache_evictions") == 1
    assert two.lookup(HOST) is None
    two.close()
    one.close()
    assert room.free == 4


# --- several bindings of one address ----------------------------------------------------------


def at(number: int, **more: Any) -> Binding:
    return binding(HOST, VTEP(parse_ip("192.0.2.30"), number), Kind.DYNAMIC, **more)


def test_bindings_beside_each_other(clock: Clock, metrics: Metrics) -> None:
    """Each VTEP has its own, with its own time; the preferred one is named first."""
    cache, log = Cache(clock, metrics), CacheLog()
    cache.subscribe(log)
    one, two, three = at(1, expires=10.0), at(2, preference=9), at(3, expires=20.0)
    for each in (one, two, three):
        assert cache.put(each, beside=True)
    assert len(cache) == cache.count(Kind.DYNAMIC) == 3
    assert cache.lookup(HOST) is one
    assert cache.alternatives(one) == [two, one, three]
    assert log.take() == [("added", HOST, "dynamic")] * 3
    again = at(3, expires=15.0)
    cache.put(again, beside=True)
    assert len(cache) == 3 and cache.registration_of(at(3).vtep) is again  # type: ignore
    log.take()
    clock.advance(10)
    assert log.take() == [("removed", HOST, "expired")]
    assert cache.lookup(HOST) is two, "the next one has moved up"
    assert cache.alternatives(two) == [two, again]
    cache.drop(again, "purged")
    assert cache.alternatives(two) == [two] and not cache.is_registered(at(3).vtep)  # type: ignore
    cache.put(again, beside=True)
    cache.put(at(7))
    assert [each.vtep.vni for each in cache.bindings() if each.vtep] == [7], "the only one now"
    cache.remove(HOST, "purged")
    assert len(cache) == 0 and cache.inside(HOST, 48) == []
    clock.advance(100)
    assert not clock.getDelayedCalls()


def test_one_that_moved_up_expires_in_its_own_time(clock: Clock, metrics: Metrics) -> None:
    """It has changed its place, not its time."""
    cache = Cache(clock, metrics)
    cache.put(at(1, expires=10.0))
    cache.put(at(2, expires=20.0), beside=True)
    clock.advance(11)
    assert len(cache) == 1
    clock.advance(9)
    assert len(cache) == 0


def test_not_too_many_beside_each_other(clock: Clock, metrics: Metrics) -> None:
    """An answer must have room for all of them."""
    cache = Cache(clock, metrics)
    for number in range(1, MOST_BESIDE + 2):
        assert cache.put(at(number), beside=True)
    assert not cache.put(at(99), beside=True)
    assert cache.put(at(3), beside=True), "who is there may renew"
    assert metrics.value("cache_full") == 1
    assert cache.remove_if(lambda each: True, "flushed") == MOST_BESIDE + 1
    assert len(cache) == 0


def test_who_registered(cache: Cache) -> None:
    """A client is known by the address it has, and by the one it is seen at."""
    translated = binding(kind=Kind.DYNAMIC, claimed=parse_ip("10.9.9.9"))
    cache.put(translated)
    assert list(cache.registered_by(VTEP_B.nbma)) == [translated]
    assert list(cache.registered_by(parse_ip("10.9.9.9"))) == [translated]
    cache.put(binding(kind=Kind.DYNAMIC, claimed=parse_ip("10.9.9.8")))
    assert list(cache.registered_by(parse_ip("10.9.9.9"))) == []
    cache.remove(HOST, "purged")
    assert list(cache.registered_by(parse_ip("10.9.9.8"))) == []
