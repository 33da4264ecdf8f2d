"""Whether JSON is as docs/schema says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from twisted.internet.defer import Deferred

from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.pages import encode_row
from dmevpn.admin.render import WIDTH, text_lines
from dmevpn.roles.controller import Controller

__all__ = ["DIRECTORY", "CheckedController", "checked", "validate", "validate_output"]

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "schema"

Row = dict[str, Any]


@cache
def validator(name: str) -> Draft202012Validator:
    """What checks documents by a schema; formats of addresses count, too."""
    schema = json.loads((DIRECTORY / f"{name}.json").read_text())
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def validate(name: str, document: Any) -> None:
    """Check a document.

    :raises AssertionError: saying which part of it differs from the schema, and how.
    """
    error = best_match(validator(name).iter_errors(document))
    if error is not None:
        raise AssertionError(f"{name}{error.json_path}: {error.message}")


def validate_output(words: Iterable[str], status: int, out: str, err: str) -> None:
    """Check what ``dmevpnctl --json`` has printed for a command."""
    words = list(words)
    command = COMMANDS.get(words[0]) or COMMANDS[" ".join(words[:2])]
    name = command.name.replace(" ", "-")
    if out:
        validate(name, json.loads(out))
    if status:
        [line] = err.splitlines()
        error = json.loads(line)
        validate("error", error)
        assert error["status"] == status
    else:
        assert not err and out


def checked(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of a command, each of which is as an operator may expect it, as JSON and as text."""
    columns = [column.name for column in COMMANDS[name].columns]
    for row in rows:
        if row:
            assert set(row) <= set(columns), f"{name}: {set(row) - set(columns)}"
            shown = json.loads(encode_row(columns, row))
            validate(name.replace(" ", "-"), {"attr": {"entriesCount": 1}, "table": [shown]})
            page = json.dumps([shown]).encode()
            text = text_lines(COMMANDS[name], [page], filtered=False)
            assert all(len(line) <= WIDTH + 1 for line in text), shown
        yield row


class CheckedController(Controller):
    """Has every row checked that it hands out."""

    def subscribe(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        def tell(row: Row) -> None:
            validate("cache-watch", row)
            listener(row)

        return super().subscribe(tell)


def _wrap(method: str, name: str) -> None:
    """Have the rows of one method checked, be they there at once or later."""

    def wrapped(self: CheckedController, *arguments: Any) -> Any:
        found = getattr(Controller, method)(self, *arguments)
        if isinstance(found, Deferred):
            # A listing stays a listing, one row stays one.
            return found.addCallback(
                lambda rows: (
                    next(checked(name, [rows]))
                    if isinstance(rows, dict)
                    else type(rows)(checked(name, rows))
                    if isinstance(rows, list)
                    else checked(name, rows)
                )
            )
        return checked(name, found)

    setattr(CheckedController, method, wrapped)


for _method, _name in {
    "vpns": "vpn show",
    "bindings": "cache show",
    "members": "member show",
    "shortcuts": "shortcut show",
    "registrations": "registration show",
    "fdb": "fdb show",
    "interfaces": "interface show",
    "resolve": "cache resolve",
    "config_diff": "config diff",
    "metrics": "metrics show",
    "explain": "explain",
    "doctor": "doctor",
    "events": "events",
}.items():
    _wrap(_method, _name)
