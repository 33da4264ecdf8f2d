"""Listings cross in pages of bounded size, made a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dmevpn.admin.pages import PAGE_OCTETS, PAGE_ROWS, TURN_ROWS, Page, Pages
from dmevpn.errors import CommandError


class TurnClock(Clock):
    """Advances one reactor turn at a time."""

    def turn(self) -> None:
        """Run what is due now, but nothing that this makes due."""
        due, self.calls = self.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)


def next_page(clock: TurnClock, pages: Pages) -> tuple[Page, int]:
    """The next page, and the reactor turns that it took."""
    done: list[Page] = []
    Deferred.fromCoroutine(pages.next()).addCallback(done.append)
    turns = 1
    while not done:
        clock.turn()
        turns += 1
    return done[0], turns


def numbers(amount: int, text: str = "") -> Iterator[dict[str, Any]]:
    return ({"number": number, "text": text} for number in range(amount))


def test_rows_of_a_page() -> None:
    """No page has more than PAGE_ROWS rows, and no turn makes more than TURN_ROWS."""
    clock = TurnClock()
    pages = Pages(clock, ["number"], numbers(2 * PAGE_ROWS + 1))
    counts = []
    seen = []
    while True:
        page, turns = next_page(clock, pages)
        assert turns == max(1, -(-page.row_count // TURN_ROWS))
        counts.append(page.row_count)
        seen += [row["number"] for row in json.loads(page.rows)]
        if not page.more:
            break
    assert counts == [PAGE_ROWS, PAGE_ROWS, 1]
    assert seen == list(range(2 * PAGE_ROWS + 1))


def test_empty_rows_are_turns() -> None:
    """What filters refuse does not show, and takes turns of its own."""
    clock = TurnClock()
    rows: list[dict[str, Any]] = [{}, {}, {"number": 1}, {}]
    page, turns = next_page(clock, Pages(clock, ["number"], rows))
    assert json.loads(page.rows) == [{"number": 1}] and not page.more
    assert turns == 4


def test_octets_of_a_page() -> None:
    """Long rows make short pages, and none is lost at the seam."""
    clock = TurnClock()
    pages = Pages(clock, ["number", "text"], numbers(100, "x" * 10_000))
    seen = []
    more = True
    while more:
        page, _ = next_page(clock, pages)
        assert len(page.rows) <= PAGE_OCTETS
        seen += [row["number"] for row in json.loads(page.rows)]
        more = page.more
    assert seen == list(range(100))


def test_a_row_too_long() -> None:
    """A row that no page can hold is refused instead of closing the connection."""
    failed = Deferred.fromCoroutine(Pages(Clock(), ["text"], numbers(1, "x" * PAGE_OCTETS)).next())
    failures: list[Any] = []
    failed.addErrback(failures.append)
    assert failures[0].check(CommandError)


def test_one_page_at_a_time() -> None:
    """A client that asks for two pages at once gets an error for the second."""
    clock = TurnClock()
    pages = Pages(clock, ["number"], numbers(PAGE_ROWS))
    first = Deferred.fromCoroutine(pages.next())
    second = Deferred.fromCoroutine(pages.next())
    failures: list[Any] = []
    second.addErrback(failures.append)
    assert failures[0].check(CommandError)
    while clock.getDelayedCalls():
        clock.turn()
    counts: list[int] = []
    first.addCallback(lambda page: counts.append(page.row_count))
    assert counts == [PAGE_ROWS]


def test_nothing_is_made_in_advance() -> None:
    """Memory holds one page: rows are made when a page is asked for."""
    made = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal made
        for number in range(10 * PAGE_ROWS):
            made += 1
            yield {"number": number}

    clock = TurnClock()
    pages = Pages(clock, ["number"], rows())
    assert made == 0
    next_page(clock, pages)
    assert made == PAGE_ROWS


def test_a_failing_table() -> None:
    """An error in the middle of a table reaches whoever asked."""

    def rows() -> Iterator[dict[str, Any]]:
        yield {"number": 1}
        raise CommandError("the switch is gone")

    failures: list[Any] = []
    Deferred.fromCoroutine(Pages(Clock(), ["number"], rows()).next()).addErrback(failures.append)
    with pytest.raises(CommandError, match="gone"):
        failures[0].raiseException()
