"""The daemon's way with Python's collector: short searches, and nothing that stays for ever."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from dmevpn import garbage
from dmevpn.garbage import INTERVAL, LONGEST, SHORT, THRESHOLDS, GarbageCollection
from dmevpn.metrics import Metrics
from lab.daemons import ROOT

#: Objects that a large table has.
MANY = 100_000


class Circle:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def collection(clock: Clock, metrics: Metrics) -> Iterator[GarbageCollection]:
    before = gc.get_threshold(), list(gc.callbacks)
    made = GarbageCollection(clock, metrics)
    made.start()
    yield made
    made.stop()
    assert (gc.get_threshold(), gc.callbacks) == before
    assert gc.get_freeze_count() == 0 and clock.getDelayedCalls() == []


def searches(metrics: Metrics) -> int:
    """How many full searches there were."""
    [count] = [
        sample.value
        for sample in metrics.snapshot()
        if sample.name == "dmevpn_garbage_collection_seconds_count"
    ]
    return int(count)


def test_a_large_table_is_looked_at_once() -> None:
    """However many bindings there are, a search by Python itself sees only what is new.

    In an interpreter of its own: when Python searches depends on how many objects there are, those
    of other tests among them.
    """
    script = "from tests.test_garbage import fill_a_large_table; fill_a_large_table()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def fill_a_large_table() -> None:
    """The work of that interpreter."""
    metrics = Metrics()
    GarbageCollection(Clock(), metrics).start()
    assert gc.get_threshold() == THRESHOLDS
    most = 0
    aside = gc.get_freeze_count()
    table = []
    for number in range(MANY):
        table.append([number])
        if number % 1000 == 0:
            most = max(most, len(gc.get_objects()))
    # A bound by the thresholds, and not by the size of the table.
    assert most < 2 * THRESHOLDS[0] * (THRESHOLDS[1] + 2) * (THRESHOLDS[2] + 2) < 2 * MANY
    assert gc.get_freeze_count() - aside > MANY / 2
    assert searches(metrics) >= 2
    table.clear()
    assert gc.get_freeze_count() - aside < MANY / 2, "what nobody refers to is not freed"


@pytest.mark.usefixtures("collection")
def test_circles_that_were_set_aside_are_found(clock: Clock, metrics: Metrics) -> None:
    """Garbage that grew old before it became garbage goes with the next search of everything."""
    circle = Circle()
    gc.collect()
    gone = weakref.ref(circle)
    del circle
    gc.collect()
    assert gone() is not None
    clock.advance(LONGEST)
    assert gone() is None
    assert metrics.value("garbage_found_late") >= 1


def test_when_everything_is_searched(
    collection: GarbageCollection, clock: Clock, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every look while that is short; else when memory has grown, or after a day."""
    peak = 100_000
    monkeypatch.setattr(garbage, "_peak", lambda: peak)
    collection.search()

    def looks(number: int, *, took: float) -> int:
        before = searches(metrics)
        for _ in range(number):
            collection._took = took
            clock.advance(INTERVAL)
        return searches(metrics) - before

    assert looks(3, took=0.9 * SHORT) == 3
    table = [[number] for number in range(collection._aside)]
    gc.collect()
    assert looks(3, took=0.9 * SHORT) == 0, "there is twice as much to search"
    table.clear()
    assert looks(3, took=2 * SHORT) == 0
    peak = 190_000
    assert looks(3, took=2 * SHORT) == 0
    peak = 201_000
    assert looks(3, took=2 * SHORT) == 1
    assert looks(int(LONGEST / INTERVAL), took=2 * SHORT) == 1


def test_stop_without_start(clock: Clock, metrics: Metrics) -> None:
    """A daemon that never got as far as starting stops, too."""
    GarbageCollection(clock, metrics).stop()
