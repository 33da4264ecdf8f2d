"""Rows as text for people and as JSON for scripts. Layer: admin."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dmevpn.addresses import parse_protocol_address
from dmevpn.admin.columns import ADDRESSES, Column
from dmevpn.admin.command import Command

__all__ = ["WIDTH", "amount", "duration", "json_document", "json_lines", "text_event", "text_lines"]

#: Columns of text that output keeps within.
WIDTH = 100

#: Kinds of column that are aligned to the left.
_LEFT = ("text", *ADDRESSES, "list", "labels")
#: Width to which a column of text shrinks before any column of addresses does.
_ELASTIC_WIDTH = 12
#: Columns that say which thing a row is about come first; sorting looks at no more than these.
_SORT_COLUMNS = 3
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))

Row = dict[str, Any]


# --- JSON ---------------------------------------------------------------------------------


def json_document(pages: Sequence[bytes], number: int) -> Iterator[str]:
    """One object of all rows, in pieces.

    :param pages: JSON arrays as the daemon sent them; taken over without being read.
    :param number: of the rows in all of them.
    """
    yield f'{{"attr": {{"entriesCount": {number}}}, "table": ['
    separator = ""
    for page in pages:
        rows = page[1:-1].decode()
        if rows:
            yield separator + rows
            separator = ", "
    yield "]}\n"


def json_lines(page: bytes) -> Iterator[str]:
    """One object a line."""
    for row in json.loads(page):
        yield json.dumps(row) + "\n"


# --- text ---------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds as people say them, in at most two units: 45s, 4m 10s, 1h 58m, 3d 2h."""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        amount, left = divmod(left, size)
        if parts or amount:
            parts.append(f"{amount}{unit}")
    return " ".join(part for part in parts[:2] if part[:-1] != "0") or "0s"


def amount(number: int) -> str:
    """A count in at most five or six places: 1234, 123k, 12.3M."""
    if number < 100_000:
        return str(number)
    scaled = float(number)
    units = iter("kMGTPE")
    unit = ""
    while scaled >= 1000:
        scaled /= 1000
        unit = next(units)
    return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"


def _cell(kind: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if kind == "seconds":
        return duration(value)
    if kind == "amount":
        return amount(value)
    if kind == "list":
        return ",".join(map(str, value))
    if kind == "time":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if kind == "labels":
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _sort_key(kind: str, value: Any) -> tuple[int, Any]:
    """Orders numbers by size and addresses by their octets; what is absent comes first."""
    if value is None:
        return 0, 0
    if kind in ADDRESSES:
        try:
            octets = parse_protocol_address(value)
        except ValueError:
            return 3, value
        return 1, (len(octets), octets)
    if isinstance(value, int | float):
        return 1, value
    return 2, _cell(kind, value)


def text_lines(command: Command, pages: Iterable[bytes], *, filtered: bool) -> Iterator[str]:
    """What a command returned, for people.

    :param filtered: whether there were arguments, so that nothing found means none that match.
    """
    rows: list[Row] = [row for page in pages for row in json.loads(page)]
    if not rows:
        if command.nothing:
            yield command.nothing + (" match\n" if filtered and not command.text else "\n")
    elif command.text:
        for row in rows:
            yield from _sentence(command, row)
    else:
        yield from _table(command.columns, rows)


def text_event(command: Command, page: bytes) -> Iterator[str]:
    """Rows that come one by one: a line of words for each, without what is absent."""
    for row in json.loads(page):
        if command.text:
            yield from _sentence(command, row)
            continue
        words = []
        for column in command.columns:
            cell = _cell(column.kind, row[column.name])
            if column is command.columns[0]:
                words.append(f"{cell:<8}")
            elif cell != "-":
                words.append(f"{column.name} {cell}")
        yield from _folded(" ".join(words))


def _sentence(command: Command, row: Mapping[str, Any]) -> Iterator[str]:
    cells = {column.name: _cell(column.kind, row[column.name]) for column in command.columns}
    text = command.text
    said = text.format(**cells) if isinstance(text, str) else text(cells)
    for line in said.splitlines() or [""]:
        yield from [f"{line}\n"] if command.verbatim else _folded(line)


def _folded(line: str) -> Iterator[str]:
    """A line that fits, or several: what follows is indented further."""
    if len(line) <= WIDTH:
        yield f"{line}\n"
        return
    from textwrap import wrap

    indent = len(line) - len(line.lstrip())
    here, further = " " * indent, " " * (indent + 4)
    # A word with hyphens may be the name of a device, to be copied.
    for part in wrap(
        line.strip(), WIDTH, initial_indent=here, subsequent_indent=further, break_on_hyphens=False
    ):
        yield f"{part}\n"


def _table(columns: Sequence[Column], rows: list[Row]) -> Iterator[str]:
    order = columns[:_SORT_COLUMNS]
    rows.sort(key=lambda row: [_sort_key(column.kind, row[column.name]) for column in order])
    cells = [[_cell(column.kind, row[column.name]) for column in columns] for row in rows]
    rows.clear()
    headings = [column.name for column in columns]
    needed = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths = [max(width, len(word)) for width, word in zip(needed, headings, strict=True)]
    widest_line = sum(widths) + 2 * (len(widths) - 1)
    gap = "  "
    if widest_line > WIDTH:
        headings = [heading.replace("_", " ") for heading in headings]
        gap, widths = _tighten(columns, headings, needed)
    kinds = [column.kind for column in columns]
    for line in (headings, *cells):
        for text in _wrapped(line, widths, kinds):
            yield gap.join(text).rstrip() + "\n"


def _tighten(
    columns: Sequence[Column], headings: Sequence[str], needed: Sequence[int]
) -> tuple[str, list[int]]:
    """A gap and widths that fit: headings are wrapped first, then free text, addresses last."""
    words = [max(map(len, heading.split())) for heading in headings]
    widths = [max(pair) for pair in zip(words, needed, strict=True)]
    gaps = len(widths) - 1
    if sum(widths) + 2 * gaps <= WIDTH:
        return "  ", widths
    elastic = [
        index for index, column in enumerate(columns) if column.kind in ("text", "list", "labels")
    ]
    while sum(widths) + gaps > WIDTH:
        candidates = [index for index in elastic if widths[index] > _ELASTIC_WIDTH]
        widest = max(candidates or range(len(widths)), key=widths.__getitem__)
        widths[widest] -= 1
    return " ", widths


def _wrapped(
    cells: Sequence[str], widths: Sequence[int], kinds: Sequence[str]
) -> Iterator[list[str]]:
    """A row as one line of padded cells, or as several where a cell is wider than its column."""
    lines = [cells]
    if any(len(cell) > width for cell, width in zip(cells, widths, strict=True)):
        from textwrap import wrap

        parts = [
            wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(cells, widths, strict=True)
        ]
        lines = [
            [part[number] if number < len(part) else "" for part in parts]
            for number in range(max(map(len, parts)))
        ]
    for line in lines:
        yield [
            cell.ljust(width) if kind in _LEFT else cell.rjust(width)
            for cell, width, kind in zip(line, widths, kinds, strict=True)
        ]
