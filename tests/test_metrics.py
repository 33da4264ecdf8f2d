"""Counters, gauges and histograms: what a reader of a snapshot finds."""

from __future__ import annotations

from dmevpn.metrics import MAX_SERIES, Counters, Metrics


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A snapshot by name and labels."""
    return {(sample.name, sample.labels): sample.value for sample in metrics.snapshot()}


def test_histogram() -> None:
    """Buckets are cumulative, and a value that equals a bound is within it."""
    metrics = Metrics()
    histogram = metrics.histogram("x_seconds", (0.1, 1.0))
    assert metrics.histogram("x_seconds", (0.1, 1.0)) is histogram
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert values(metrics) == {
        ("dmevpn_x_seconds_bucket", (("le", "0.1"),)): 2,
        ("dmevpn_x_seconds_bucket", (("le", "1.0"),)): 3,
        ("dmevpn_x_seconds_bucket", (("le", "+Inf"),)): 4,
        ("dmevpn_x_seconds_count", ()): 4,
        ("dmevpn_x_seconds_sum", ()): 7.65,
    }
    assert {sample.kind for sample in metrics.snapshot()} == {"histogram"}


def test_series_are_bounded() -> None:
    """Peers cannot make a metric grow without end: what is too many is counted together."""
    metrics = Metrics()
    for number in range(MAX_SERIES + 5):
        metrics.counter("x", peer=str(number)).inc()
    assert len(values(metrics)) == MAX_SERIES + 1
    assert metrics.value("x", peer="other") == 5


def test_counters_are_made_when_first_needed() -> None:
    """What never happens has no row, and what happens again is counted with the first time."""
    metrics = Metrics()
    counters = Counters[int](lambda code: metrics.counter("x", code=str(code)))
    assert not values(metrics)
    for code in (4, 12, 4):
        counters[code].inc()
    assert values(metrics) == {
        ("dmevpn_x_total", (("code", "4"),)): 2,
        ("dmevpn_x_total", (("code", "12"),)): 1,
    }


def test_a_gauge_that_goes_while_it_is_read() -> None:
    """A slow reader is not told of an owner that is gone."""
    metrics = Metrics()
    metrics.gauge("a", lambda: 1)
    metrics.gauge("b", lambda: 1 / 0)
    samples = metrics.snapshot()
    assert next(samples).name == "dmevpn_a"
    metrics.remove_gauge("b")
    assert list(samples) == []
