"""Numbers that the fuzzed process tells its parent while it runs, and after it has died."""

from __future__ import annotations

import mmap
from pathlib import Path
from struct import Struct
from typing import NamedTuple

__all__ = ["Board", "Stats"]

_FORM = Struct("=QQQQQ")


class Stats(NamedTuple):
    """Where a run stands."""

    inputs: int = 0
    packets: int = 0
    longest_ns: int = 0
    """The longest that one input took, in nanoseconds of processor time."""
    blocks_before: int = 0
    """Memory blocks of the interpreter once everything had been used for a while."""
    blocks: int = 0
    """The same now, or when last counted."""


class Board:
    """Stats in a file that two processes have in memory."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_FORM.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _FORM.size)

    def write(self, stats: Stats) -> None:
        """Show new numbers."""
        _FORM.pack_into(self._memory, 0, *stats)

    def read(self) -> Stats:
        """The numbers as last shown."""
        return Stats(*_FORM.unpack_from(self._memory))
