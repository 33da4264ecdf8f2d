"""What changed lately is kept, in order, and not without bound."""

from __future__ import annotations

from twisted.internet.task import Clock

from dmevpn.journal import EVENTS, ROOM, STATIONS, Event, Journal
from dmevpn.metrics import Metrics

MAC = b"\x02\0\0\0\0\1"


def test_order_and_time() -> None:
    """Events of both sorts come in the order in which they happened."""
    clock = Clock()
    journal = Journal(clock.seconds, Metrics())
    for event in ("learned", "registered", "moved"):
        journal.note(event, 1, MAC)
        clock.advance(1)
    assert [(each.serial, each.at, each.event) for each in journal] == [
        (1, 0, "learned"),
        (2, 1, "registered"),
        (3, 2, "moved"),
    ]


def test_bound() -> None:
    """A flood of new MACs forgets the oldest of its kind, is counted, and leaves the rest."""
    metrics = Metrics()
    journal = Journal(Clock().seconds, metrics)
    journal.note("unreachable", nbma=b"\x0a\0\0\1")
    for _ in range(ROOM + 5):
        journal.note("learned", 1, MAC)
    kept = list(journal)
    assert len(kept) == ROOM + 1
    assert (kept[0].event, kept[1].serial) == ("unreachable", 7)
    assert metrics.value("journal_forgotten") == 5
    # Nor does anybody push it out who makes up sites.
    for number in range(ROOM + 5):
        journal.note("registered" if number % 2 else "refused", 1, MAC)
    kept = list(journal)
    assert len(kept) == 2 * ROOM + 1
    assert kept[0].event == "unreachable"
    assert metrics.value("journal_forgotten") == 10


def test_listening() -> None:
    """Who listens hears of what comes, until he does not want to any more."""
    journal = Journal(Clock().seconds, Metrics())
    heard: list[Event] = []
    journal.note("device-up")
    cancel = journal.subscribe(heard.append)
    journal.note("device-down")
    cancel()
    journal.note("device-up")
    assert [each.event for each in heard] == ["device-down"]


def test_reading_while_it_grows() -> None:
    """A reader that takes many turns gets what there was when it began."""
    journal = Journal(Clock().seconds, Metrics())
    journal.note("device-down")
    journal.note("device-up")
    reading = iter(journal)
    assert next(reading).event == "device-down"
    journal.note("device-down")
    assert [each.event for each in reading] == ["device-up"]


def test_names() -> None:
    """Names of events are words of one line of output."""
    assert set(STATIONS) < set(EVENTS)
    assert max(map(len, EVENTS)) <= 13
