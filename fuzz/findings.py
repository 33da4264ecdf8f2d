"""What counts as a finding: whatever is not a named refusal."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from zope.interface import implementer

__all__ = ["Finding", "Log"]


class Finding(Exception):
    """The code under test did what it must never do."""


@implementer(ILogObserver)
class Log:
    """Keeps the tracebacks that the code under test logs; all else is dropped."""

    def __init__(self) -> None:
        self.tracebacks: list[str] = []

    def begin(self) -> None:
        """Take the place of Twisted's own observers, which would keep every event."""
        globalLogBeginner.beginLoggingTo([self], discardBuffer=True, redirectStandardIO=False)

    def __call__(self, event: LogEvent) -> None:
        """See an event."""
        failure = event.get("log_failure")
        if failure is not None:
            self.tracebacks.append(failure.getTraceback())
