"""What people and scripts get to see."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.pages import encode_row
from dmevpn.admin.render import (
    WIDTH,
    amount,
    duration,
    json_document,
    json_lines,
    text_event,
    text_lines,
)
from tests.admin.fakes import binding

Row = dict[str, Any]


def page(name: str, *rows: Row) -> bytes:
    columns = [column.name for column in COMMANDS[name].columns]
    return b"[" + b", ".join(encode_row(columns, row) for row in rows) + b"]"


def text(name: str, *rows: Row, filtered: bool = False) -> str:
    return "".join(text_lines(COMMANDS[name], [page(name, *rows)], filtered=filtered))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (250, "4m 10s"),
        (7200, "2h"),
        (7130, "1h 58m"),
        (3605, "1h"),
        (86400 * 3 + 7201, "3d 2h"),
    ],
)
def test_durations_are_humane(seconds: int, said: str) -> None:
    """Times to come are read at a glance."""
    assert duration(seconds) == said


def test_json_is_one_object() -> None:
    """A script gets one object: the number of rows, then the rows, over all pages."""
    pages = [page("cache show", binding(1), binding(2)), page("cache show", binding(3)), b"[]"]
    document = "".join(json_document(pages, 3))
    assert document.startswith('{"attr": {"entriesCount": 3}, "table": [{"vpn": 1, "protocol": ')
    assert json.loads(document)["table"] == [binding(1), binding(2), binding(3)]


def test_json_of_nothing() -> None:
    """An empty table is an object, too."""
    assert "".join(json_document([b"[]"], 0)) == '{"attr": {"entriesCount": 0}, "table": []}\n'


def test_json_has_every_field() -> None:
    """Absent values are null, unknown ones do not get through, the order is fixed."""
    row = json.loads(page("cache show", {"unheard_of": 1, "type": "static", "vpn": None}))[0]
    assert list(row) == list(binding())
    assert row["type"] == "static"
    assert set(row.values()) == {None, "static"}


def test_watch_prints_an_object_a_line() -> None:
    """A script can read cache watch line by line."""
    both = page("cache watch", {"event": "added", **binding(1)}, {"event": "expired", **binding(2)})
    lines = list(json_lines(both))
    assert [json.loads(line)["event"] for line in lines] == ["added", "expired"]
    assert all(line.endswith("}\n") for line in lines)


def test_watch_for_people() -> None:
    """A change is a line of words that leaves out what is absent."""
    event = {"event": "expired", **binding(1, vni=None, flags=[])}
    assert "".join(text_event(COMMANDS["cache watch"], page("cache watch", event))) == (
        "expired  vpn 1 protocol 52:54:00:00:00:01 type cached nbma 192.0.2.7 expires_in 1h 58m"
        " interface vx1\n"
    )


def test_table() -> None:
    """Headings, one line a row, sorted by number and not by digit."""
    shown = text(
        "member show",
        {"vpn": 10, "nbma": "192.0.2.9", "vni": 1, "rx_packets": 5},
        {"vpn": 2, "nbma": "192.0.2.10", "vni": 1, "rx_packets": 1234, "expires_in": 60},
        {"vpn": 2, "nbma": "192.0.2.9", "vni": 1, "rx_packets": 0},
        {"vpn": 2, "nbma": "2001:db8::1", "vni": 1},
        {"vpn": None, "nbma": "192.0.2.9", "vni": 1},
    ).splitlines()
    headings = " ".join(shown[:2]).split()
    assert headings[:4] == ["vpn", "nbma", "vni", "protocol"]
    assert [line.split()[:2] for line in shown[2:]] == [
        ["-", "192.0.2.9"],
        ["2", "192.0.2.9"],
        ["2", "192.0.2.10"],
        ["2", "2001:db8::1"],
        ["10", "192.0.2.9"],
    ]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (999_999, "1000k"),
        (12_345_678, "12.3M"),
        (2**64 - 1, "18.4E"),
    ],
)
def test_counts_are_humane(number: int, said: str) -> None:
    """Counters of years fit into a column."""
    assert amount(number) == said


def test_busy_members_fit() -> None:
    """A member's line is one line, however much traffic it had."""
    row: Row = {"vpn": 1000, "nbma": "192.0.2.200", "vni": 100_000, "expires_in": 7130}
    row["protocol"] = "52:54:00:00:00:01"
    for column in COMMANDS["member show"].columns[5:]:
        row[column.name] = 2**50
    shown = text("member show", row).splitlines()
    assert len(shown) == 3
    assert max(map(len, shown)) <= WIDTH


def test_table_fits() -> None:
    """Long addresses and long errors are wrapped, and nothing of them is lost."""
    nhs = "2001:db8:1111:2222:3333:4444:5555:6666"
    reason = "the hub says that another station has registered this address as its own " * 2
    shown = text(
        "registration show",
        {
            "vpn": 4294967295,
            "nhs": nhs,
            "state": "registering",
            "expires_in": 7130,
            "last_error": reason,
        },
    )
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert nhs in shown
    assert sum(shown.count(word) for word in {"another", "station"}) == 4
    wide = binding(1, vpn=4294967295, nbma=nhs, vni=16777215, flags=["unique", "used", "up", "nat"])
    shown = text("cache show", {**wide, "type": "incomplete", "interface": "fifteen-letters"})
    assert max(map(len, shown.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("name", "filtered", "said"),
    [
        ("cache show", False, "no bindings\n"),
        ("cache show", True, "no bindings match\n"),
        ("member show", False, "no members\n"),
        ("config check", True, "no errors and no warnings\n"),
    ],
)
def test_nothing_is_said_in_one_line(name: str, filtered: bool, said: str) -> None:
    """An empty table does not look like a failure."""
    assert text(name, filtered=filtered) == said


def test_every_listing_has_words_for_nothing() -> None:
    """No listing is ever silent."""
    for command in COMMANDS.values():
        assert command.nothing or command.text or command.streams or command.required


def test_sentences() -> None:
    """What makes no table is a line in plain words."""
    assert text("cache purge", {"purged": 3}) == "3 purged\n"
    assert text("config show", {"line": 1, "text": "    map {x}"}) == "    map {x}\n"


def test_labels_and_numbers() -> None:
    """Labels are pairs; a whole number has no decimals."""
    row = {
        "name": "dmevpn_drops_total",
        "labels": {"reason": "loop"},
        "kind": "counter",
        "value": 4.0,
    }
    assert text("metrics show", row).splitlines()[1].split() == [
        "dmevpn_drops_total",
        "reason=loop",
        "counter",
        "4",
    ]


EVENT = {
    "serial": 7,
    "time": 1_700_000_000,
    "event": "resolved",
    "vpn": 1,
    "protocol": "52:54:00:00:00:01",
    "nbma": "192.0.2.7",
    "vni": 101,
    "interface": "vx1",
    "detail": "told by 192.0.2.1",
}


def test_events_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events come in their order, a line each, dated, without what is absent."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    bare = dict.fromkeys(EVENT) | {"serial": 8, "time": 1_700_000_001, "event": "clock-stepped"}
    assert text("events", EVENT, bare).splitlines() == [
        "2023-11-14 22:13:20 resolved      vpn 1 52:54:00:00:00:01 at 192.0.2.7 VNI 101"
        " (told by 192.0.2.1)",
        "2023-11-14 22:13:21 clock-stepped",
    ]
    assert "".join(text_event(COMMANDS["events"], page("events", bare))) == (
        "2023-11-14 22:13:21 clock-stepped\n"
    )
