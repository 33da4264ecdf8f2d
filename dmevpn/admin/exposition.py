"""What Prometheus reads, made a few samples at a time. Layer: admin.

The official client writes the text; but it would write all of it at once, and a hub of four
thousand members has twenty-five thousand samples. So it is given a part of a metric at a time.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any, NamedTuple

from prometheus_client import Metric, ProcessCollector, generate_latest

from dmevpn import __version__
from dmevpn.admin.metric_table import METRICS
from dmevpn.interfaces import IController
from twisted import __version__ as twisted_version

__all__ = ["MEMBERS", "PART", "exposition"]

#: Samples or rows of one part: at most some five milliseconds of work.
PART = 200
#: Members with series of their own. Those beyond are counted together in each VPN, as ``other``.
MEMBERS = 4096
#: What each suffix of a sample is a part of.
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
_TRAFFIC = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "flooded", "dropped")
_SIZES = ("members", "macs", "shortcuts", "pending")
#: Our own CPU time, memory and descriptors, as the client reads them from /proc.
_process = ProcessCollector(namespace="dmevpn", registry=None)

Row = dict[str, Any]


class _Only(NamedTuple):
    """A registry of one metric."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        """That."""
        yield self.metric


class _Series(NamedTuple):
    """One number."""

    name: str
    kind: str
    labels: dict[str, str]
    value: float

    @property
    def family(self) -> str:
        """The name of the metric that it is a sample of, without suffix."""
        for suffix in _SUFFIXES.get(self.kind, ()):
            if self.name.endswith(suffix):
                return self.name.removesuffix(suffix)
        return self.name


def exposition(controller: IController) -> Iterator[bytes]:
    """The whole text, in parts; an empty one is only a chance to do something else.

    Between two parts anything may change: members come and go, a reload may end a role.
    """
    yield from _encode(_build())
    yield from _encode(_counted(controller.metrics()))
    vpns: list[Row] = []
    for row in controller.vpns({}):
        if row:
            vpns.append(row)
        else:
            yield b""
    yield from _encode(_sizes(vpns))
    yield from _encode(_registrations(controller.registrations({})))
    members: dict[tuple[str, str, str], list[int]] = {}
    # One with several stations has several rows, one after the other, of the same counters.
    rows = (next(same) for _, same in groupby(controller.members({}), key=_member))
    while part := list(islice(rows, PART)):
        _add_up(members, part)
        yield b""
    yield from _encode(_traffic(members))
    for metric in _process.collect():
        yield generate_latest(_Only(metric))


def _encode(series: Iterable[_Series]) -> Iterator[bytes]:
    """Write metrics whose samples stand together."""
    for (name, kind), samples in groupby(series, key=lambda each: (each.family, each.kind)):
        head = True
        while part := list(islice(samples, PART)):
            metric = Metric(name, METRICS.get(_shown(name, kind), ""), kind)
            for each in part:
                metric.add_sample(each.name, each.labels, each.value)
            text = generate_latest(_Only(metric))
            # The two lines that name a metric must not come again.
            yield text if head else text.split(b"\n", 2)[2]
            head = False


def _shown(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def _build() -> Iterator[_Series]:
    labels = {
        "version": __version__,
        "python": platform.python_version(),
        "twisted": twisted_version,
    }
    yield _Series("dmevpn_build_info", "gauge", labels, 1)


def _vpn(row: Row) -> str:
    """The label of a VPN; ``-`` for packets that name none."""
    return "-" if row["vpn"] is None else str(row["vpn"])


def _counted(rows: Iterator[Row]) -> Iterator[_Series]:
    for row in rows:
        yield _Series(row["name"], row["kind"], row["labels"], row["value"])


def _sizes(rows: list[Row]) -> Iterator[_Series]:
    for column in _SIZES:
        for row in rows:
            yield _Series(f"dmevpn_vpn_{column}", "gauge", {"vpn": _vpn(row)}, row[column])


def _registrations(rows: Iterator[Row]) -> Iterator[_Series]:
    for row in rows:
        labels = {"nhs": str(row["nhs"]), "vpn": _vpn(row)}
        up = row["state"] == "registered"
        yield _Series("dmevpn_registration_up", "gauge", labels, up)


def _member(row: Row) -> tuple[str, str, str]:
    """Labels of a member: VPN, underlay address, VNI."""
    return _vpn(row), str(row["nbma"]), str(row["vni"])


def _add_up(members: dict[tuple[str, str, str], list[int]], rows: list[Row]) -> None:
    """Note the counters of members."""
    for row in rows:
        if row["rx_packets"] is None:
            continue
        key, counters = _member(row), [row[column] for column in _TRAFFIC]
        if len(members) < MEMBERS:
            members[key] = counters
        else:
            others = members.setdefault((key[0], "other", "other"), [0] * len(_TRAFFIC))
            others[:] = [sum(pair) for pair in zip(others, counters, strict=True)]


def _traffic(members: dict[tuple[str, str, str], list[int]]) -> Iterator[_Series]:
    for index, column in enumerate(_TRAFFIC):
        unit = column if "_" in column else f"{column}_packets"
        for (vpn, nbma, vni), counters in members.items():
            labels = {"nbma": nbma, "vni": vni, "vpn": vpn}
            yield _Series(f"dmevpn_member_{unit}_total", "counter", labels, counters[index])
