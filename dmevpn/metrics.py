"""Named counters and gauges with labels, kept in memory. Layer: base.

Whoever counts something asks for its counter once and keeps it, so that counting is one
addition. Nothing here does I/O: readers take a :meth:`Metrics.snapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Counter", "Metrics", "Sample"]

#: Label sets kept per metric. Peers cannot make metrics grow beyond it: what comes later is
#: counted together under the label value "other".
MAX_SERIES = 1024


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to the number."""
        self.value += amount


class Sample(NamedTuple):
    """One number of a snapshot."""

    name: str
    """Begins with ``dmevpn_``; counters end with ``_total``."""
    labels: tuple[tuple[str, str], ...]
    """Sorted by label name."""
    kind: str
    """``counter`` or ``gauge``."""
    value: float


class Metrics:
    """All counters and gauges of a daemon."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[tuple[tuple[str, str], ...], Counter]] = {}
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
        for (name, labels), read in sorted(self._gauges.items(), key=lambda item: item[0]):
            yield Sample(f"dmevpn_{name}", labels, "gauge", read())
