"""What Prometheus reads: right, bounded, and made without holding the reactor up."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmevpn.admin import exposition as module
from dmevpn.admin.exposition import exposition
from dmevpn.admin.metric_table import METRICS
from tests.admin.fakes import FakeController, Row

ROOT = Path(__file__).resolve().parent.parent.parent


def member(number: int, **fields: object) -> Row:
    """A row of ``member show``."""
    return {
        "vpn": 1 + number % 3,
        "nbma": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
        "vni": 100,
        "protocol": "02:00:00:00:00:01",
        "expires_in": 7000,
        "rx_packets": number,
        "rx_bytes": number * 100,
        "tx_packets": 2,
        "tx_bytes": 3,
        "flooded": 4,
        "dropped": 5,
    } | fields


def counted(name: str, kind: str = "counter", value: float = 1, **labels: str) -> Row:
    """A row of ``metrics show``."""
    return {"name": name, "labels": labels, "kind": kind, "value": value}


@pytest.fixture
def controller() -> FakeController:
    """With some of everything."""
    fake = FakeController()
    fake.tables = {
        "vpns": [
            {"vpn": 1, "roles": ["hub"], "members": 2, "macs": 7, "shortcuts": 0, "pending": 0},
            {"vpn": 2, "roles": ["spoke"], "members": 0, "macs": 0, "shortcuts": 5, "pending": 1},
            {"vpn": None, "roles": ["x"], "members": 1, "macs": 0, "shortcuts": 0, "pending": 0},
        ],
        "members": [member(3), member(4)],
        "registrations": [
            {"vpn": 2, "nhs": "10.0.0.1", "state": "registered"},
            {"vpn": 2, "nhs": "10.0.0.9", "state": "down"},
        ],
        "metrics": [
            counted("dmevpn_drops_total", reason='odd "reason"\n'),
            counted("dmevpn_drops_total", reason="too_large", value=7),
            *(
                counted("dmevpn_resolution_seconds_bucket", "histogram", count, le=bound)
                for bound, count in (("0.1", 2), ("+Inf", 3))
            ),
            counted("dmevpn_resolution_seconds_count", "histogram", 3),
            counted("dmevpn_resolution_seconds_sum", "histogram", 4.5),
            counted("dmevpn_fdb_entries", "gauge", 9, vpn="2", state="hold"),
        ],
    }
    return fake


def read(controller: FakeController) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples as Prometheus takes them: by name, and by the values of their labels."""
    text = b"".join(exposition(controller)).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    names = []
    for family in text_string_to_metric_families(text):
        names.append(family.name)
        assert family.documentation, family.name
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    assert len(names) == len(set(names)), "a metric is told in two places"
    return found


def test_everything(controller: FakeController) -> None:
    """All tables come out, with their kinds, labels and values."""
    found = read(controller)
    assert found["dmevpn_drops_total"] == {('odd "reason"\n',): 1, ("too_large",): 7}
    assert found["dmevpn_resolution_seconds_bucket"] == {("0.1",): 2, ("+Inf",): 3}
    assert found["dmevpn_resolution_seconds_sum"] == {(): 4.5}
    assert found["dmevpn_fdb_entries"] == {("hold", "2"): 9}
    assert found["dmevpn_vpn_macs"] == {("-",): 0, ("1",): 7, ("2",): 0}
    assert found["dmevpn_vpn_shortcuts"] == {("-",): 0, ("1",): 0, ("2",): 5}
    assert found["dmevpn_registration_up"] == {("10.0.0.1", "2"): 1, ("10.0.0.9", "2"): 0}
    assert found["dmevpn_member_rx_bytes_total"] == {
        ("10.0.0.3", "100", "1"): 300,
        ("10.0.0.4", "100", "2"): 400,
    }
    assert found["dmevpn_member_flooded_packets_total"][("10.0.0.3", "100", "1")] == 4
    assert found["dmevpn_process_resident_memory_bytes"][()] > 0
    assert all(name.startswith("dmevpn_") for name in found)


def test_kinds(controller: FakeController) -> None:
    """Prometheus is told what each is."""
    text = b"".join(exposition(controller)).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert kinds["dmevpn_drops_total"] == kinds["dmevpn_member_rx_bytes_total"] == "counter"
    assert kinds["dmevpn_resolution_seconds"] == "histogram"
    assert kinds["dmevpn_vpn_macs"] == kinds["dmevpn_build_info"] == "gauge"


def test_stations_of_a_member(controller: FakeController) -> None:
    """A member with several stations is counted once, and one without counters not at all."""
    again = member(3, protocol="02:00:00:00:00:02")
    controller.tables["members"] = [member(3), again, member(4, rx_packets=None)]
    assert read(controller)["dmevpn_member_rx_packets_total"] == {("10.0.0.3", "100", "1"): 3}


def test_members_are_bounded(controller: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members too many are counted together, in their VPN."""
    monkeypatch.setattr(module, "MEMBERS", 10)
    controller.tables["members"] = [member(number) for number in range(16)]
    found = read(controller)["dmevpn_member_rx_packets_total"]
    assert len(found) == 13
    assert found["other", "other", "1"] == 12 + 15
    assert sum(found.values()) == sum(range(16))


def test_no_part_takes_long(controller: FakeController) -> None:
    """4,096 members with 24,576 series: the reactor gets its turn within 50 ms, always."""
    controller.tables["members"] = (member(number) for number in range(4096))
    longest, octets, parts = 0.0, 0, exposition(controller)
    gc.freeze()  # what the tests before have left is not to be collected on our time
    try:
        while True:
            start = time.process_time()
            part = next(parts, None)
            longest = max(longest, time.process_time() - start)
            if part is None:
                break
            octets += len(part)
            assert len(part) < 64 * 1024
    finally:
        gc.unfreeze()
    assert longest < 0.05
    assert octets > 1_000_000


def test_a_change_while_it_is_read(controller: FakeController) -> None:
    """Rows are asked for when their turn has come, so what is gone by then is not told."""

    def rows() -> Iterator[Row]:
        yield from controller.rows_now

    controller.rows_now = [member(3)]  # type: ignore[attr-defined]
    controller.tables["members"] = rows()
    parts = exposition(controller)
    next(parts)
    controller.rows_now = []  # type: ignore[attr-defined]
    assert b"member_rx" not in b"".join(parts)


# --- the table ---

#: How a metric is named in the source, by its first argument.
_NAMED = re.compile(
    r"\b(_?counter|share|gauge|histogram|_count_error)\(\s*(?:metrics,\s*)?\"([a-z_]+)\""
)


def metrics_of_the_source() -> set[str]:
    """Every metric that some module counts."""
    found = {"dmevpn_drops_total"}
    for path in (ROOT / "dmevpn").rglob("*.py"):
        for function, name in _NAMED.findall(path.read_text()):
            total = "" if function in ("gauge", "histogram") else "_total"
            found.add(f"dmevpn_{name}{total}")
    return found


def test_every_metric_is_explained() -> None:
    """Whoever counts something new says in dmevpn/admin/metric_table.py what it is."""
    assert metrics_of_the_source() - set(METRICS) == set()


def test_no_row_without_a_metric(controller: FakeController) -> None:
    """What the table explains is told by somebody."""
    planes = {name for name in METRICS if name.startswith("dmevpn_plane_")}
    text = b"".join(exposition(controller)).decode()
    told = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    extra = {"dmevpn_switch_drops_total"}
    assert set(METRICS) - metrics_of_the_source() - told - planes - extra == set()
