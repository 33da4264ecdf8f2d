"""What a run has shown: said as it happens, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lab.wait import eventually

__all__ = ["Report"]

T = TypeVar("T")

#: Seconds that something may take. FRR waits ten for its device before it registers.
PATIENCE = 40.0
#: Seconds between two looks: asking starts a program, and the guest has one slow processor.
INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class _Row:
    story: str
    shown: str
    figure: str


class Report:
    """Collects what each story shows.

    :ivar failures: how many stories did not come to their end.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._rows: list[_Row] = []
        self._story = ""
        self._start = time.monotonic()

    @property
    def shown(self) -> int:
        """How many statements were shown."""
        return len(self._rows) - self.failures

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def begin(self, story: str) -> None:
        """Open the next story; what is shown from now on belongs to it."""
        self._story = story
        self.say(f"-- {story}")

    def show(self, what: str, figure: object) -> None:
        """Something is as it should be.

        :param what: a statement about FRR or us.
        :param figure: the number, address or time that goes with it.
        """
        self._rows.append(_Row(self._story, what, str(figure)))
        self.say(f"   {what}: {figure}")

    def wait(self, what: str, check: Callable[[], T], *, timeout: float = PATIENCE) -> T:
        """Wait until something is as it should be, and show how long that took.

        :param check: returns something true when it is.
        :raises lab.wait.Timeout: it is not in time.
        """
        begin = time.monotonic()
        answer = eventually(what, check, timeout=timeout, interval=INTERVAL)
        self.show(what, f"after {time.monotonic() - begin:.1f} s")
        return answer

    def fail(self, reason: str) -> None:
        """The story does not come to its end."""
        self.failures += 1
        first = (reason.strip() or "no reason given").splitlines()[0]
        self._rows.append(_Row(self._story, "FAILED", first))
        self.say(f"   FAILED: {reason}")

    def say(self, text: str) -> None:
        """Tell how far it has come."""
        print(f"[{self.elapsed:5.1f} s] {text}", flush=True)

    def print_table(self) -> None:
        """Print everything once more, by story."""
        width = max((len(row.shown) for row in self._rows), default=0)
        story = ""
        for row in self._rows:
            if row.story != story:
                story = row.story
                print(f"\n{story}")
            print(f"  {row.shown:<{width}}  {row.figure}")
        sys.stdout.flush()
