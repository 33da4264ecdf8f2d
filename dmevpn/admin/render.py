"""Rows as text for people and as JSON for scripts. Layer: admin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dmevpn.addresses import parse_protocol_address
from dmevpn.admin.commands import Column, Command

__all__ = ["WIDTH", "duration", "json_document", "json_lines", "text_event", "text_lines"]

#: Columns of text that output keeps within.
WIDTH = 100

_GAP = "  "
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


def _cell(kind: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if kind == "seconds":
        return duration(value)
    if kind == "list":
        return ",".join(map(str, value))
    if kind == "labels":
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _sort_key(kind: str, value: Any) -> tuple[int, Any]:
    """Orders numbers by size and addresses by their octets; what is absent comes first."""
    if value is None:
        return 0, 0
    if kind == "address":
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
            yield _sentence(command, row) + "\n"
    else:
        yield from _table(command.columns, rows)


def text_event(command: Command, page: bytes) -> Iterator[str]:
    """Rows that come one by one: a line of words for each, without what is absent."""
    for row in json.loads(page):
        words = []
        for column in command.columns:
            cell = _cell(column.kind, row[column.name])
            if column is command.columns[0]:
                words.append(f"{cell:<8}")
            elif cell != "-":
                words.append(f"{column.name} {cell}")
        yield " ".join(words) + "\n"


def _sentence(command: Command, row: Mapping[str, Any]) -> str:
    cells = {column.name: _cell(column.kind, row[column.name]) for column in command.columns}
    return command.text.format(**cells)


def _table(columns: Sequence[Column], rows: list[Row]) -> Iterator[str]:
    order = columns[:_SORT_COLUMNS]
    rows.sort(key=lambda row: [_sort_key(column.kind, row[column.name]) for column in order])
    cells = [[_cell(column.kind, row[column.name]) for column in columns] for row in rows]
    rows.clear()
    headings = [column.name for column in columns]
    widths = [len(heading) for heading in headings]
    for line in cells:
        widths = [max(width, len(cell)) for width, cell in zip(widths, line, strict=True)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) > WIDTH:
        headings = [heading.replace("_", " ") for heading in headings]
        widths = _shrink(columns, widths)
    kinds = [column.kind for column in columns]
    yield from _wrapped(headings, widths, kinds)
    for line in cells:
        yield from _wrapped(line, widths, kinds)


def _shrink(columns: Sequence[Column], widths: Sequence[int]) -> list[int]:
    """Widths that fit, at the cost of free text before addresses, the widest first."""
    widths = list(widths)
    room = WIDTH - len(_GAP) * (len(widths) - 1)
    elastic = [
        index
        for index, column in enumerate(columns)
        if column.kind in ("text", "list", "labels") and widths[index] > _ELASTIC_WIDTH
    ]
    while sum(widths) > room:
        candidates = [index for index in elastic if widths[index] > _ELASTIC_WIDTH]
        widest = max(candidates or range(len(widths)), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _wrapped(cells: Sequence[str], widths: Sequence[int], kinds: Sequence[str]) -> Iterator[str]:
    """A row as one line, or as several where a cell is wider than its column."""
    if all(len(cell) <= width for cell, width in zip(cells, widths, strict=True)):
        yield _line(cells, widths, kinds)
        return
    from textwrap import wrap

    parts = [wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, parts))):
        line = [part[number] if number < len(part) else "" for part in parts]
        yield _line(line, widths, kinds)


def _line(cells: Sequence[str], widths: Sequence[int], kinds: Sequence[str]) -> str:
    padded = [
        cell.rjust(width) if kind in ("number", "seconds") else cell.ljust(width)
        for cell, width, kind in zip(cells, widths, kinds, strict=True)
    ]
    return _GAP.join(padded).rstrip() + "\n"
