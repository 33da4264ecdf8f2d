"""Text for people: at most 100 columns, with headings, sorted, and nothing of it lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dmevpn.addresses import parse_protocol_address
from dmevpn.admin.columns import ADDRESSES, Column
from dmevpn.admin.commands import COMMANDS, Command
from dmevpn.admin.help import command_help, group_help, overview
from dmevpn.admin.pages import encode_row
from dmevpn.admin.render import WIDTH, text_event, text_lines

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "man").iterdir())

#: No one of them is narrower than what an operator may ever see.
ADDRESS = "2001:db8:1111:2222:3333:4444:5555:666"
DEVICE = "fifteen-letters"
REASON = (
    "/etc/dmevpn/customers/a-customer-with-a-long-name.conf:1234: the hub says that the station"
    " fe:dc:ba:98:76:54 is registered by 2001:db8:1111:2222:3333:4444:5555:6666 VNI 16777215"
    f" already, so {'x' * 120} cannot be it near 'provision'"
)


def widest(column: Column, number: int) -> Any:
    """A value of a column, as wide as they come; the number tells one from the other."""
    if column.kind == "text":
        by_name = {
            "interface": DEVICE,
            "controller": DEVICE,
            "vpns": ",".join(["1-4294967295"] * 9),
        }
        return max(column.values, key=len) if column.values else by_name.get(column.name, REASON)
    return {
        "mac": f"fe:dc:ba:98:76:{number:02x}",
        "ip": f"{ADDRESS}{number}",
        "address": f"{ADDRESS}{number}/128",
        "number": (column.most or 0xFFFFFFFF) - number,
        "amount": 2**64 - 1,
        "seconds": 2**31 - 1,
        "time": 1_700_000_000,
        "value": 2.0**63,
        "list": list(column.values) or ["cisco-authentication", "request-rate", "holding-time"] * 3,
        "labels": {"interface": DEVICE, "nbma": f"{ADDRESS}{number}", "vni": "16777215"},
    }[column.kind]


def rows(command: Command, count: int) -> list[dict[str, Any]]:
    return [
        {column.name: widest(column, number) for column in command.columns}
        for number in range(count)
    ]


def page(command: Command, rows: list[dict[str, Any]]) -> bytes:
    columns = [column.name for column in command.columns]
    return b"[" + b", ".join(encode_row(columns, row) for row in rows) + b"]"


def squeezed(text: str) -> str:
    """Without all that folding and aligning may add."""
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_widest_values(command: Command) -> None:
    """However long addresses, numbers, names and reasons are, lines fit, but those of a file."""
    shown = list(text_lines(command, [page(command, rows(command, 3))], filtered=False))
    assert all(line.endswith("\n") for line in shown)
    if command.verbatim:
        assert shown == [f"{REASON}\n"] * 3
        return
    assert max(map(len, shown)) <= WIDTH + 1
    # In a table words stand beside each other, so that only their pieces can be told.
    if command.text and REASON in map(str, rows(command, 1)[0].values()):
        assert squeezed(REASON) in squeezed("".join(shown))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_nothing_known(command: Command) -> None:
    """Rows of which all that may be absent is absent are shown, too."""
    row = {
        column.name: None if column.null else widest(column, number)
        for number, column in enumerate(command.columns)
    }
    shown = list(text_lines(command, [page(command, [row])], filtered=False))
    assert (shown and max(map(len, shown)) <= WIDTH + 1) or command.verbatim
    assert "None" not in "".join(shown)


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS.values() if each.follow], ids=lambda each: each.name
)
def test_events_fit(command: Command) -> None:
    """What is printed as it happens, too."""
    shown = list(text_event(command, page(command, rows(command, 2))))
    assert max(map(len, shown)) <= WIDTH + 1
    assert "".join(shown).count(DEVICE) == 2 or command.name == "events"


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS.values() if not each.text], ids=lambda each: each.name
)
def test_headings_and_order(command: Command) -> None:
    """A table names its columns, all of them, and is sorted by the first that tell rows apart:
    numbers by size, addresses by their octets, words by the alphabet."""
    key = command.columns[0]
    values: list[Any] = {
        "number": [10, 9, 100, None if key.null else 1],
        "mac": ["52:54:00:00:00:0a", "00:00:00:00:00:ff", "52:54:00:00:00:09"],
        "ip": ["192.0.2.10", "2001:db8::1", "192.0.2.9", "10.0.0.1"],
        "text": list(reversed(key.values)) or ["b", "a", "c"],
    }[key.kind]
    plain = {
        column.name: (column.values or ("x",))[0] if column.kind == "text" else None
        for column in command.columns
    }
    shown = list(
        text_lines(
            command,
            [page(command, [plain | {key.name: value} for value in values])],
            filtered=False,
        )
    )
    heading = shown[0].split()
    if len(heading) == len(command.columns):
        assert heading == [column.name for column in command.columns]
    place = heading.index(key.name)
    found = [line.split()[place] for line in shown[1:]]

    def order(cell: str) -> tuple[int, Any]:
        if cell == "-":
            return 0, 0
        if key.kind == "number":
            return 1, int(cell)
        if key.kind not in ADDRESSES:
            return 1, cell
        octets = parse_protocol_address(cell)
        return len(octets), octets

    assert sorted(found) == sorted("-" if value is None else str(value) for value in values)
    assert all(order(one) <= order(other) for one, other in pairwise(found))


HELPS = {
    "overview": overview(),
    **{name: command_help(command) for name, command in COMMANDS.items()},
    **{word: group_help(word) for word in sorted({name.split()[0] for name in COMMANDS})},
}


@pytest.mark.parametrize("name", HELPS)
def test_help_fits(name: str) -> None:
    """So does all that --help tells."""
    assert max(map(len, HELPS[name].splitlines())) <= WIDTH


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "dmevpn.admin.opennhrpctl", "--help"),
        ("-m", "twisted", "dmevpn", "--help"),
    ],
    ids=lambda words: words[1],
)
def test_help_of_programs(words: tuple[str, ...]) -> None:
    """And that of the other programs."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(WIDTH)},
    )
    assert done.returncode == 0 and done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_manual_fits(path: Path) -> None:
    """Manual pages on a terminal of that width."""
    done = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", f"width={WIDTH}", path], capture_output=True, check=True
    )
    text = re.sub(rb".\x08", b"", done.stdout).decode()
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not long
