"""What every test is watched for: calls and readers left in the reactor, failures in the log.

pytest-twisted runs tests on the real reactor, but unlike trial it overlooks what they leave there.

At the end of a run of the whole suite, every test that docs/conformance.md names must have passed.
"""

from __future__ import annotations

import gc
import unittest
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import reactor, task
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from dmevpn.metrics import Metrics
from tests.conformance import DOCUMENT, names, unshown

# How long an example takes tells of the machine's other work, not of ours.
hypothesis.settings.register_profile(
    "dmevpn", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("dmevpn")

#: Turns that a closing connection may need after its test to leave the reactor.
TURNS = 20

_failures: list[LogEvent] = []

#: What became of each test, by its node path without parameters.
_outcomes: dict[str, set[str]] = {}
#: What the document claims and the run has not shown.
_unshown: list[str] = []


@provider(ILogObserver)
def _observe(event: LogEvent) -> None:
    if "log_failure" in event:
        _failures.append(event)


def pytest_configure() -> None:
    globalLogPublisher.addObserver(_observe)


def pytest_unconfigure() -> None:
    globalLogPublisher.removeObserver(_observe)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        _outcomes.setdefault(report.nodeid.split("[")[0], set()).add(report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or any(
        config.getoption(option, False) for option in ("keyword", "markexpr", "deselect", "lf")
    )
    worker = hasattr(config, "workerinput")  # only the run as a whole has seen every test
    if worker or chosen or config.option.collectonly or session.shouldstop or session.shouldfail:
        return
    _unshown.extend(unshown(names(DOCUMENT.read_text()), _outcomes))
    if _unshown and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unshown:
        terminalreporter.section("docs/conformance.md claims what this run has not shown")
        for line in _unshown:
            terminalreporter.line(line)


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
def clock() -> task.Clock:
    """The time, which stands still unless a test advances it."""
    return task.Clock()


@pytest.fixture
def metrics() -> Metrics:
    """Counters that begin at zero."""
    return Metrics()


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
