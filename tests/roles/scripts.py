"""An operator's script that does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.interfaces import IScripts

__all__ = ["Run", "Script"]


@dataclass(eq=False)
class Run:
    """A run of the script."""

    event: str
    environment: dict[str, str]
    done: Callable[[bool], None] | None
    cancelled: bool = False

    @property
    def about(self) -> str:
        """The event and whom it is about."""
        return f"{self.event} {self.environment.get('NHRP_DESTADDR', '')}".strip()


@implementer(IScripts)
class Script:
    """Ends well a moment after it was run, unless it is told otherwise.

    :ivar runs: since the last look. :ivar seen: what the last look found.
    :ivar refuses: what it does not end well on, as :attr:`Run.about` has it.
    :ivar hangs: what it does not end on.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.runs: list[Run] = []
        self.seen: list[Run] = []
        self.refuses: set[str] = set()
        self.hangs: set[str] = set()
        self.stopped = False

    def start(self) -> None:
        """It is there."""

    def run(
        self,
        subject: str,
        event: str,
        environment: Mapping[str, str],
        done: Callable[[bool], None] | None = None,
    ) -> Callable[[], None]:
        """Note it, and end in 0.1 s."""
        assert not self.stopped
        run = Run(event, dict(environment), done)
        self.runs.append(run)
        if run.about not in self.hangs:
            self._clock.callLater(0.1, self._end, run)

        def cancel() -> None:
            run.cancelled = True

        return cancel

    def _end(self, run: Run) -> None:
        if run.done is not None and not run.cancelled:
            run.done(run.about not in self.refuses)

    def stop(self) -> Deferred[None]:
        """Take no more."""
        self.stopped = True
        return succeed(None)

    def heard(self) -> list[str]:
        """What it was run for since the last look."""
        self.seen, self.runs = self.runs, []
        return [run.about for run in self.seen]
