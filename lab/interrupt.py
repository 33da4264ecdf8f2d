"""A polite end of a laboratory by a signal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["interruptible"]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM an exception, as an interrupt at the terminal is, so that all is removed.

    Only the first of either: ``timeout`` and ``make`` may each send one, and a later one must not
    end the removal. Who wants that interrupts it at the terminal.
    """
    ending = False

    def end(number: int, frame: object) -> None:
        nonlocal ending
        if number == signal.SIGINT or not ending:
            ending = True
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
