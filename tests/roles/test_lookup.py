"""Host names, and what follows when their addresses change."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from dmevpn.roles.lookup import REFRESH, RETRY, NameWatch

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"


class Names:
    """A watch of two names, and what it said."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.answers: dict[str, Any] = {"a": (A,), "b": (B,)}
        self.changes: list[dict[str, tuple[bytes, ...]]] = []
        self.watch = NameWatch(["a", "b", "a"], self._resolve, self.clock, self.changes.append)

    def _resolve(self, name: str) -> Deferred[tuple[bytes, ...]]:
        answer = self.answers[name]
        if isinstance(answer, Deferred):
            return answer
        return fail(DNSLookupError(name)) if answer is None else succeed(answer)


@pytest.fixture
def names() -> Names:
    """Nothing was asked yet."""
    return Names()


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> list[str]:
    """What is logged."""
    found: list[str] = []

    def note(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    request.addfinalizer(lambda: globalLogPublisher.removeObserver(note))
    return found


def test_changes_are_followed(names: Names) -> None:
    """A new address is told, the same addresses in another order are not."""
    names.answers["b"] = (B, A)
    names.watch.start()
    assert names.changes == [{"a": (A,), "b": (B, A)}]
    names.answers["b"] = (A, B)
    names.clock.advance(REFRESH)
    assert len(names.changes) == 1
    names.answers["b"] = (A,)
    names.clock.advance(REFRESH)
    assert names.changes[1:] == [{"a": (A,), "b": (A,)}]
    names.watch.stop()
    assert names.clock.getDelayedCalls() == []


def test_a_failure_keeps_what_is_known(names: Names, lines: list[str]) -> None:
    """It is said once, and so is its end."""
    names.watch.start()
    names.answers["a"] = None
    for _ in range(5):
        names.clock.advance(REFRESH)
    assert len(names.changes) == 1
    assert [line for line in lines if "look up" in line] == [
        "cannot look up a, b: DNS lookup failed: a.; the known address stays"
    ]
    names.answers["a"] = (B,)
    names.clock.advance(REFRESH)
    assert names.changes[1:] == [{"a": (B,), "b": (B,)}]
    assert lines[-1] == "a, b: found again"
    names.watch.stop()


def test_names_that_nobody_knows_yet_are_tried_more_often(names: Names, lines: list[str]) -> None:
    """A daemon that starts before its network does need not wait for long."""
    names.answers["b"] = None
    names.watch.start()
    assert names.changes == []
    assert next(line for line in lines if "look up" in line).endswith("; trying again")
    names.answers["b"] = (B,)
    names.clock.advance(RETRY)
    assert len(names.changes) == 1
    names.watch.stop()


def test_stopping_while_asking(names: Names) -> None:
    """An answer that comes afterwards changes nothing."""
    names.answers["b"] = answer = Deferred()
    answer.addErrback(lambda failure: None)
    names.watch.start()
    names.watch.stop()
    assert names.changes == []
    assert names.clock.getDelayedCalls() == []
