"""Loggers with a level that can be changed at run time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, LogLevel

from dmevpn.log import LEVELS, Logger


@pytest.fixture
def events() -> list[LogEvent]:
    """What was logged."""
    return []


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    yield
    LEVELS.clearLogLevels()


def test_level(events: list[LogEvent]) -> None:
    """Debug lines are silent until asked for."""
    log = Logger(namespace="dmevpn.test", observer=events.append)
    log.debug("one")
    log.info("two {mac}", mac="x")
    assert [event["log_format"] for event in events] == ["two {mac}"]
    LEVELS.setLogLevelForNamespace("dmevpn", LogLevel.debug)
    log.debug("three")
    LEVELS.setLogLevelForNamespace("dmevpn", LogLevel.warn)
    log.info("four")
    assert [event["log_format"] for event in events] == ["two {mac}", "three"]


def test_failure(events: list[LogEvent]) -> None:
    """Our own bugs are always told, with their traceback."""
    LEVELS.setLogLevelForNamespace("dmevpn", LogLevel.error)
    log = Logger(namespace="dmevpn.test", observer=events.append)
    try:
        raise ValueError("ours")
    except ValueError:
        log.failure("a bug")
    assert events[0]["log_failure"].type is ValueError


class Owner:
    """A class with a logger."""

    log = Logger()


def test_namespace() -> None:
    """A logger of a class tells the class."""
    assert Owner.log.namespace == f"{__name__}.Owner"
