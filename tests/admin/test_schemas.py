"""The JSON schemas: up to date, valid, strict, and true of what commands print."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from twisted.internet import reactor

from dmevpn.admin.columns import Column, column_schema
from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.ctl import perform
from dmevpn.errors import DmevpnError
from tests.admin.conftest import Served
from tests.admin.fakes import binding
from tests.schemas import DIRECTORY, validate, validate_output
from tools.schemas import documents, row, schemas

ROOT = Path(__file__).resolve().parents[2]


def test_up_to_date() -> None:
    """Whoever changes a column runs ``make docs``."""
    there = {f"docs/schema/{path.name}": path.read_text() for path in DIRECTORY.iterdir()}
    assert there == documents(), "run: make docs"


@pytest.mark.parametrize(("name", "schema"), schemas().items(), ids=schemas())
def test_schema(name: str, schema: dict[str, Any]) -> None:
    """Each is a schema itself, has a name of its own, and says what every field means."""
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:dmevpn:{name}" and schema["title"]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_column_has_a_type(command: Any) -> None:
    """A field without one, or with values that it cannot have, is no field."""
    properties = row(command)["properties"]
    assert list(properties) == [column.name for column in command.columns]
    for column in command.columns:
        assert column.kind in ("text", "list") or not column.values
        assert column.kind in ("number", "amount") or not (column.most or column.unit)
        assert "null" not in column.meaning, "it is said by `null`"


def test_a_column_without_a_type() -> None:
    """Who adds a column is told what it lacks, and where."""
    with pytest.raises(DmevpnError, match=r"column 'colour' .* has no kind; it takes one of text"):
        column_schema(Column("colour", "of the frame"))
    wrong = COMMANDS["version"]._replace(columns=(Column("colour", "of the frame", "hue"),))
    with pytest.raises(DmevpnError, match=r"`version`: column 'colour' .* unknown kind 'hue'"):
        row(wrong)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vpn": "1"}, "not valid"),
        ({"vni": 1 << 24}, "greater than the maximum"),
        ({"vni": -1}, "less than the minimum"),
        ({"nbma": "192.0.2.300"}, "not valid"),
        ({"nbma": "52:54:00:00:00:01"}, "not valid"),
        ({"type": "cashed"}, "not one of"),
        ({"type": None}, "not one of"),
        ({"flags": ["lazy"]}, "not one of"),
        ({"expires_in": 1.5}, "not valid"),
        ({"protocol": "52-54-00-00-00-01"}, "not valid"),
        ({"colour": 1}, "Additional properties"),
    ],
)
def test_they_are_strict(change: dict[str, Any], complaint: str) -> None:
    """A schema that everything passes would show nothing."""
    listing: Any = {"attr": {"entriesCount": 1}, "table": [binding()]}
    validate("cache-show", listing)
    with pytest.raises(AssertionError, match=complaint):
        validate("cache-show", {**listing, "table": [binding() | change]})
    del listing["table"][0]["flags"]
    with pytest.raises(AssertionError, match="'flags' is a required property"):
        validate("cache-show", listing)


@pytest.mark.parametrize(
    "words",
    [
        *("version", "log level", "config show", "config check", "config reload"),
        *("cache flush", "cache purge", "cache resolve", "registration renew"),
    ],
)
async def test_output_over_the_socket(served: Served, words: str) -> None:
    """What crosses the socket and is printed, from commands whose answer the daemon makes."""
    served.controller.report = {"ok": True, "messages": ["hub.conf:1: a warning near 'x'"]}
    out = io.StringIO()
    arguments = {"mac": "52:54:00:00:00:01"} if words == "cache resolve" else {}
    await perform(reactor, served.endpoint, COMMANDS[words], arguments, json=True, out=out)
    validate_output(words.split(), 0, out.getvalue(), "")
    assert json.loads(out.getvalue())["attr"]["entriesCount"] >= 1


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("cache", "shwo"), 2),
        (("cache", "show", "vpn"), 2),
        (("--endpoint", "unix:/nowhere", "cache", "show"), 3),
        (("--name", "nobody", "cache", "show"), 3),
    ],
)
def test_errors(words: tuple[str, ...], status: int) -> None:
    """Scripts that want JSON get errors as JSON, too, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "dmevpn.admin.ctl", "--json", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (status, "")
    validate_output(("cache", "show"), status, "", done.stderr)
