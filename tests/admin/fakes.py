"""A controller without a node, and rows to fill it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from dmevpn.admin.commands import selects
from dmevpn.interfaces import IController

Row = dict[str, Any]


def binding(number: int = 1, **fields: Any) -> Row:
    """A row of ``cache show``."""
    return {
        "vpn": 1,
        "protocol": bytes([0x52, 0x54, *number.to_bytes(4, "big")]).hex(":"),
        "type": "cached",
        "nbma": "192.0.2.7",
        "vni": 101,
        "expires_in": 7130,
        "flags": ["used", "up"],
        "interface": "vx1",
    } | fields


@implementer(IController)
class FakeController:
    """Answers from lists that a test fills, and remembers what was asked."""

    def __init__(self) -> None:
        self.tables: dict[str, Iterable[Row]] = {}
        self.asked: list[tuple[str, Row]] = []
        self.removed = 3
        self.report: Row = {"ok": True, "messages": []}
        self.resolution: Deferred[Row] | Exception = succeed(binding())
        self.listeners: list[Callable[[Row], None]] = []

    def _rows(self, table: str, match: Row) -> Iterator[Row]:
        self.asked.append((table, match))
        return iter(self.tables.get(table, ()))

    def vpns(self, match: Row) -> Iterator[Row]:
        return self._rows("vpns", match)

    def bindings(self, match: Row) -> Iterator[Row]:
        return (row for row in self._rows("bindings", match) if selects(match, row))

    def members(self, match: Row) -> Iterator[Row]:
        return self._rows("members", match)

    def shortcuts(self, match: Row) -> Iterator[Row]:
        return self._rows("shortcuts", match)

    def registrations(self, match: Row) -> Iterator[Row]:
        return self._rows("registrations", match)

    def fdb(self, match: Row) -> Any:
        return succeed(self._rows("fdb", match))

    def interfaces(self, match: Row) -> Iterator[Row]:
        return self._rows("interfaces", match)

    def hubs(self, match: Row) -> Iterator[Row]:
        return self._rows("hubs", match)

    def drain(self, match: Row) -> Any:
        return succeed(list(self._rows("drain", match)))

    def undrain(self, match: Row) -> list[Row]:
        return list(self._rows("undrain", match))

    def metrics(self) -> Iterator[Row]:
        return self._rows("metrics", {})

    def purge(self, match: Row) -> Any:
        self.asked.append(("purge", match))
        return succeed(self.removed)

    def flush(self, match: Row) -> Any:
        self.asked.append(("flush", match))
        return succeed(self.removed)

    def renew(self, match: Row) -> int:
        self.asked.append(("renew", match))
        return self.removed

    def resolve(self, match: Row) -> Any:
        self.asked.append(("resolve", match))
        if isinstance(self.resolution, Exception):
            raise self.resolution
        return self.resolution

    def config_show(self) -> str:
        return "interface nhrp\n    cisco-authentication ***\n"

    def config_check(self, path: str | None) -> Row:
        self.asked.append(("config_check", {"path": path}))
        return self.report

    def config_diff(self, path: str | None) -> Iterator[Row]:
        return self._rows("config_diff", {"path": path})

    def shutdown(self) -> None:
        self.asked.append(("shutdown", {}))

    def reload(self) -> Any:
        self.asked.append(("reload", {}))
        return succeed(self.report)

    def explain(self, match: Row) -> Any:
        return succeed(self._rows("explain", match))

    def doctor(self) -> Any:
        return succeed(list(self._rows("doctor", {})))

    def events(self, match: Row) -> Iterator[Row]:
        return self._rows("events", match)

    def follow(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        for row in self.tables.get("events", ()):
            listener(row)
        return self.subscribe(listener)

    def subscribe(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, event: Row) -> None:
        for listener in list(self.listeners):
            listener(event)
