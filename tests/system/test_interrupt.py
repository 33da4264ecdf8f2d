"""Ending a laboratory by signals."""

from __future__ import annotations

import os
import signal

import pytest

from lab.interrupt import interruptible


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_only_the_first_signal_ends_it(first: signal.Signals) -> None:
    """`timeout` sends two: what removes the laboratory is not interrupted by the second, whatever
    the first was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    removed = False
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), first)
            pytest.fail("nothing was interrupted")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            removed = True
    assert removed
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def test_who_insists_interrupts_the_removal() -> None:
    """A second interrupt at the terminal is heeded."""
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
