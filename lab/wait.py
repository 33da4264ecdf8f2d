"""Waiting for the kernel and the daemons: poll with a deadline, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Timeout", "eventually"]

T = TypeVar("T")


class Timeout(AssertionError):
    """Something that should have become true did not; the text says what, and what was seen."""


def eventually(
    what: str, check: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.02
) -> T:
    """Ask until the answer is true, and return it.

    :param what: what is waited for, for the message.
    :param check: returns something true when it is there; the last other answer is reported.
    :param timeout: seconds until :class:`Timeout`.
    :param interval: seconds between two questions.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise Timeout(f"no {what} within {timeout:g} s; last seen: {answer!r}")
        time.sleep(interval)
