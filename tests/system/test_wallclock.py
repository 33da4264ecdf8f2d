"""The wall clock that `make chaos` sets and stops under a daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.wallclock import WallClock, build_library

pytestmark = pytest.mark.system

#: Prints, for each line that it reads, by what clocks it is how late.
SCRIPT = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.time.restype = ctypes.c_int64
class Time(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("fraction", ctypes.c_int64)]
now = Time()
COARSE = 5  # CLOCK_REALTIME_COARSE, which the time module does not name
for line in sys.stdin:
    print(time.time(), libc.time(None), time.clock_gettime(COARSE), end=" ")
    libc.gettimeofday(ctypes.byref(now), None)
    print(now.seconds + now.fraction / 1e6, end=" ")
    libc.timespec_get(ctypes.byref(now), 1)
    print(now.seconds + now.fraction / 1e9, time.monotonic(), flush=True)
"""


class Asked:
    """A process with a wall clock, and what it says."""

    def __init__(self, clock: WallClock) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **clock.environment},
        )

    def ask(self) -> tuple[list[float], float]:
        """What all ways to ask for the wall clock say, and the monotonic clock."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        *walls, monotonic = map(float, self._process.stdout.readline().split())
        assert len(walls) == 5
        return walls, monotonic

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(build_library(tmp_path), tmp_path / "clock")


@pytest.fixture
def asked(clock: WallClock) -> Iterator[Asked]:
    asked = Asked(clock)
    yield asked
    asked.close()


def test_set(clock: WallClock, asked: Asked) -> None:
    """Every way to ask follows it, forward and back; the monotonic clock does not."""
    for hours in (0, 5, -30, 0):
        clock.set(hours * 3600)
        before, monotonic_before = clock.now(), time.monotonic()
        walls, monotonic = asked.ask()
        # One counts whole seconds, and one was last told at a tick of the kernel.
        assert all(before - 1.1 <= wall <= clock.now() for wall in walls)
        assert monotonic_before <= monotonic <= time.monotonic()
        assert abs(clock.now() - time.time() - hours * 3600) < 1


def test_stopped(clock: WallClock, asked: Asked) -> None:
    """It stands where it was, while the monotonic clock goes on."""
    clock.set(7200)
    clock.stop()
    shown = clock.now()
    first, monotonic = asked.ask()
    second, later = asked.ask()
    assert first == second
    assert first[0] == pytest.approx(shown, abs=1e-6)
    assert later > monotonic
    clock.stop()
    assert clock.now() == shown


def test_no_file(tmp_path: Path) -> None:
    """A process that cannot see its clock does not start, rather than show nothing."""
    clock = WallClock(build_library(tmp_path), tmp_path / "clock")
    (tmp_path / "clock").unlink()
    done = subprocess.run(["true"], env={**os.environ, **clock.environment}, capture_output=True)
    assert done.returncode == 127
    assert b"clock" in done.stderr
