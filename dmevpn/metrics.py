"""Named counters, gauges and histograms, kept in memory. Layer: base.

Whoever counts something asks for its counter once and keeps it, so that counting is one
addition. Nothing here does I/O: readers take a :meth:`Metrics.snapshot`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from itertools import accumulate
from typing import NamedTuple, TypeVar

__all__ = ["Counter", "Counters", "Histogram", "Metrics", "Sample"]

#: Label sets kept per metric. Peers cannot make metrics grow beyond it: what comes later is
#: counted together under the label value "other".
MAX_SERIES = 1024

_K = TypeVar("_K", bound=Hashable)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to the number."""
        self.value += amount


class Counters(dict[_K, Counter]):
    """The counters of one name by what their labels tell, each made when first needed.

    To find one that is there takes one look into a table.

    :param make: makes the counter of a key.
    """

    def __init__(self, make: Callable[[_K], Counter]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> Counter:
        counter = self[key] = self._make(key)
        return counter


class Histogram:
    """How often a quantity was how large."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of each bucket, up to and with its bound; the last is for what exceeds all."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Sample(NamedTuple):
    """One number of a snapshot."""

    name: str
    """Begins with ``dmevpn_``; counters end with ``_total``, the parts of a histogram with
    ``_bucket`` (cumulative, bounded by the label ``le``), ``_sum`` and ``_count``."""
    labels: tuple[tuple[str, str], ...]
    """Sorted by label name."""
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    value: float


class Metrics:
    """All counters, gauges and histograms of a daemon."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[tuple[tuple[str, str], ...], Counter]] = {}
        self._shared: dict[str, dict[tuple[tuple[str, str], ...], Callable[[], int]]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], Callable[[], float]] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of that name and label set; made when first asked for.

        :param name: without the prefix ``dmevpn_`` and the suffix ``_total``.
        """
        series = self._counters.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        counter = series.get(key)
        if counter is None:
            if len(series) >= MAX_SERIES:
                key = tuple((label, "other") for label, _ in key)
                counter = series.get(key)
            if counter is None:
                counter = series[key] = Counter()
        return counter

    def share(self, name: str, read: Callable[[], int], **labels: str) -> None:
        """Show a number that only grows and that somebody else keeps, for the whole process.

        :param name: as of :meth:`counter`.
        """
        self._shared.setdefault(name, {})[tuple(sorted(labels.items()))] = read

    def histogram(self, name: str, bounds: tuple[float, ...]) -> Histogram:
        """The histogram of that name; made when first asked for.

        :param name: without the prefix ``dmevpn_``.
        :param bounds: upper bounds of the buckets, rising.
        """
        return self._histograms.setdefault(name, Histogram(bounds))

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Name a number that is read from its owner's table whenever a snapshot is taken."""
        self._gauges[name, tuple(sorted(labels.items()))] = read

    def remove_gauge(self, name: str, **labels: str) -> None:
        """Forget a gauge whose owner is gone."""
        self._gauges.pop((name, tuple(sorted(labels.items()))), None)

    def dropped(self, reason: str) -> Counter:
        """The counter of packets that were discarded for ``reason``."""
        return self.counter("drops", reason=reason)

    def value(self, name: str, **labels: str) -> int:
        """What a counter stands at now; 0 if nobody has counted yet."""
        counter = self._counters.get(name, {}).get(tuple(sorted(labels.items())))
        return 0 if counter is None else counter.value

    def snapshot(self) -> Iterator[Sample]:
        """Every number, in a stable order."""
        for name in sorted(self._counters):
            for labels, counter in sorted(self._counters[name].items()):
                yield Sample(f"dmevpn_{name}_total", labels, "counter", counter.value)
        for name, series in sorted(self._shared.items()):
            for labels, count in sorted(series.items(), key=lambda item: item[0]):
                yield Sample(f"dmevpn_{name}_total", labels, "counter", count())
        for name, histogram in sorted(self._histograms.items()):
            yield from _histogram_samples(f"dmevpn_{name}", histogram)
        for (name, labels), read in sorted(self._gauges.items(), key=lambda item: item[0]):
            # A reader that takes its time may find that an owner is gone.
            if self._gauges.get((name, labels)) is read:
                yield Sample(f"dmevpn_{name}", labels, "gauge", read())


def _histogram_samples(name: str, histogram: Histogram) -> Iterator[Sample]:
    counts = accumulate(histogram.counts)
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        yield Sample(f"{name}_bucket", (("le", bound),), "histogram", count)
    yield Sample(f"{name}_count", (), "histogram", sum(histogram.counts))
    yield Sample(f"{name}_sum", (), "histogram", histogram.sum)
