"""JSON schemas of all that dmevpn prints as JSON, made from the command table (docs/schema).

The dialect is that of JSON Schema 2020-12; ``unit`` beside it says what a number counts.
"""

from __future__ import annotations

import json
from typing import Any

from dmevpn.admin.columns import Column, column_schema
from dmevpn.admin.commands import COMMANDS, Command
from dmevpn.admin.statuspage import TABLES
from dmevpn.errors import DmevpnError

__all__ = ["DIRECTORY", "documents", "schemas"]

DIRECTORY = "docs/schema"

Schema = dict[str, Any]

_COUNT = {"type": "integer", "minimum": 0}


def documents() -> dict[str, str]:
    """Every file of docs/schema with its contents."""
    return {
        f"{DIRECTORY}/{name}.json": json.dumps(schema, indent=2) + "\n"
        for name, schema in schemas().items()
    }


def schemas() -> dict[str, Schema]:
    """Every schema by its name.

    :raises DmevpnError: if a column has no type, naming its command.
    """
    made: dict[str, Schema] = {}
    for command in COMMANDS.values():
        name = command.name.replace(" ", "-")
        if not command.streams:
            made[name] = _whole(name, f"dmevpnctl --json {command.name}", _listing(command))
        if command.streams:
            made[name] = _whole(name, f"one line of dmevpnctl --json {command.name}", row(command))
        elif command.follow is not None:
            title = f"one line of dmevpnctl --json --follow {command.name}"
            made[f"{name}-line"] = _whole(f"{name}-line", title, row(command))
    made["error"] = _whole("error", "what dmevpnctl --json prints on standard error", _error())
    for table in TABLES:
        command = COMMANDS[f"{table} show"]
        title = f"/tables/{table} of the status page: {command.summary}"
        made[f"page-{table}"] = _whole(f"page-{table}", title, _listing(command, more=True))
    title = "data of the event `state` at /events of the status page"
    made["page-state"] = _whole("page-state", title, _state())
    title = "data of the event `changes` at /events of the status page"
    made["page-changes"] = _whole("page-changes", title, _changes())
    return made


def row(command: Command) -> Schema:
    """One row of a command."""
    return {
        "description": command.summary,
        **_object({column.name: _column(command, column) for column in command.columns}),
    }


def _column(command: Command, column: Column) -> Schema:
    try:
        return column_schema(column)
    except DmevpnError as error:
        raise DmevpnError(f"`{command.name}`: {error}") from None


def _whole(name: str, title: str, schema: Schema) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:dmevpn:{name}",
        "title": title,
        **schema,
    }


def _object(properties: Schema) -> Schema:
    """An object with exactly these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, **({} if most is None else {"maxItems": most})}


def _listing(command: Command, *, more: bool = False) -> Schema:
    attr: Schema = {"entriesCount": {**_COUNT, "description": "rows in the table"}}
    if more:
        attr["more"] = {"type": "boolean", "description": "whether there are more than the limit"}
    return _object({"attr": _object(attr), "table": _array(row(command))})


def _error() -> Schema:
    return _object(
        {
            "error": {"type": "string", "description": "what is wrong, in one line"},
            "status": {
                "enum": [1, 2, 3],
                "description": "exit status; 1: refused or nothing to do, 2: wrong usage,"
                " 3: no daemon",
            },
        }
    )


# --- server-sent events ---------------------------------------------------------------------------


def _state() -> Schema:
    from dmevpn.admin.sketch import LINKS, SITES, VPNS

    shortcut = row(COMMANDS["shortcut show"])["properties"]
    ends = {name: shortcut[name] for name in ("vpn", "nbma", "vni", "peer_nbma", "peer_vni")}
    link = _object({**ends, "addresses": {**_COUNT, "description": "that are reached like this"}})
    counters = {
        "type": "object",
        "description": "what a plane has carried; octets and packets",
        "additionalProperties": {"type": "number"},
    }
    planes = {
        "type": "object",
        "description": "of a spoke: by VPN index and plane (hub, shortcut, both)",
        "additionalProperties": {"type": "object", "additionalProperties": counters},
    }
    return _object(
        {
            "name": {"type": "string", "description": "of the daemon's configuration file"},
            "version": {"type": "string", "description": "of dmevpn"},
            "time": {
                "type": "number",
                "unit": "seconds",
                "description": "on the daemon's clock; rates are made of differences",
            },
            "vpns": _array(row(COMMANDS["vpn show"]), VPNS),
            "here": _array(row(COMMANDS["interface show"]), SITES),
            "registrations": _array(row(COMMANDS["registration show"]), SITES),
            "sites": _array(row(COMMANDS["member show"]), SITES),
            "links": _array(link, LINKS),
            "planes": planes,
            "left_out": {
                "description": "how many there was no room for",
                **_object({name: _COUNT for name in ("vpns", "sites", "links")}),
            },
        }
    )


def _changes() -> Schema:
    from dmevpn.admin.live import CHANGES

    return _object(
        {
            "rows": _array(row(COMMANDS["cache watch"]), CHANGES),
            "lost": {**_COUNT, "description": "changes before them that there was no room for"},
        }
    )
