"""Turns rows into pages of JSON, a few rows per reactor turn. Layer: admin.

Perspective Broker would spend a hundred microseconds on a row that it takes apart itself, and
refuses strings over 655,360 octets; so rows cross as JSON arrays of bounded size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dmevpn.errors import CommandError

__all__ = ["PAGE_OCTETS", "PAGE_ROWS", "TURN_ROWS", "Page", "Pages", "encode_row"]

#: Most rows of a page. Bounds the time that a client needs to digest one.
PAGE_ROWS = 1000
#: Most octets of a page, well below the 640 KiB at which the connection would be closed.
PAGE_OCTETS = 256 * 1024
#: Rows made in one reactor turn: some two milliseconds in which no packet is answered.
TURN_ROWS = 200

_encode = json.JSONEncoder().encode


class Page(NamedTuple):
    """Part of a listing."""

    row_count: int
    """Number of rows."""
    rows: bytes
    """A JSON array of objects."""
    more: bool
    """Whether there may be another page; the last one can be empty."""


def encode_row(columns: Sequence[str], row: dict[str, Any]) -> bytes:
    """A row as a JSON object with exactly these fields, in this order, absent ones null."""
    return _encode({column: row.get(column) for column in columns}).encode()


class Pages:
    """The pages of one listing, made as they are asked for.

    :param reactor: gives other work its turn in between.
    :param rows: an empty one is none, and a good moment for that.
    """

    def __init__(
        self, reactor: Any, columns: Sequence[str], rows: Iterable[dict[str, Any]]
    ) -> None:
        self._reactor = reactor
        self._columns = columns
        self._rows = iter(rows)
        self._held: bytes | None = None
        self._busy = False

    async def next(self) -> Page:
        """Make the next page.

        :raises CommandError: if the one before is still being made, or a row is too large.
        """
        if self._busy:
            raise CommandError("the page before is still being made")
        self._busy = True
        try:
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Page:
        encoded: list[bytes] = []
        octets = 0
        pause = False
        while len(encoded) < PAGE_ROWS:
            if pause or (encoded and len(encoded) % TURN_ROWS == 0):
                turn: Deferred[None] = deferLater(self._reactor, 0)
                await turn
            row, self._held = self._held, None
            if row is None:
                try:
                    found = next(self._rows)
                except StopIteration:
                    return self._page(encoded, more=False)
                pause = not found
                if pause:
                    continue
                row = encode_row(self._columns, found)
            if len(row) + 2 > PAGE_OCTETS:
                raise CommandError(f"a row of the answer is longer than {PAGE_OCTETS} octets")
            octets += len(row) + 2
            if octets > PAGE_OCTETS:
                self._held = row
                break
            encoded.append(row)
        return self._page(encoded, more=True)

    @staticmethod
    def _page(encoded: list[bytes], *, more: bool) -> Page:
        return Page(len(encoded), b"[" + b", ".join(encoded) + b"]", more)
