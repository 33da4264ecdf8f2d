"""What every test is watched for: calls and readers left in the reactor, failures in the log.

pytest-twisted runs tests on the real reactor, but unlike trial it overlooks what they leave there.
"""

from __future__ import annotations

import gc
import unittest
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, task
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

#: Turns that a closing connection may need after its test to leave the reactor.
TURNS = 20

_failures: list[LogEvent] = []


@provider(ILogObserver)
def _observe(event: LogEvent) -> None:
    if "log_failure" in event:
        _failures.append(event)


def pytest_configure() -> None:
    globalLogPublisher.addObserver(_observe)


def pytest_unconfigure() -> None:
    globalLogPublisher.removeObserver(_observe)


def _in_reactor() -> set[Any]:
    real: Any = reactor
    readers: set[Any] = set(real.getReaders()) - real._internalReaders
    return readers | set(real.getWriters()) | set(real.getDelayedCalls())


def _fail_on_logged_failures() -> None:
    texts = [event["log_failure"].getTraceback() for event in _failures]
    _failures.clear()
    if texts:
        pytest.fail("a failure was logged:\n" + "\n".join(texts), pytrace=False)


@pytest.fixture
def logged_failures() -> list[LogEvent]:
    """For a test that expects failures in the log: they are here, and it clears the list."""
    return _failures


@pytest.fixture(autouse=True)
def _clean_reactor(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _in_reactor()
    yield
    for _ in range(TURNS):
        left = _in_reactor() - before
        if not left:
            break
        pytest_twisted.blockon(task.deferLater(reactor, 0.01))
    if left:
        pytest.fail(f"left in the reactor: {sorted(map(str, left))}", pytrace=False)
    if isinstance(request.instance, unittest.TestCase):
        _failures.clear()  # trial's own test cases look at their failures themselves
    else:
        _fail_on_logged_failures()


@pytest.fixture(autouse=True, scope="module")
def _no_unhandled_errors() -> Iterator[None]:
    # An error in a Deferred that nobody took is logged when the Deferred is collected. Most are at
    # once; those in a reference cycle wait for this, which is too slow to do after every test.
    yield
    gc.collect()
    _fail_on_logged_failures()
