"""A wall clock of its own for one process, to be set and stopped; see ``wallclock.c``."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from pathlib import Path

from lab.netns import CommandFailed, run

__all__ = ["WallClock", "build_library"]

SOURCE = Path(__file__).with_name("wallclock.c")
#: Octets of a clock's file, of two words in nanoseconds: where it stands since 1970, or 0, and
#: how far it is ahead.
SIZE = 16


def build_library(directory: Path) -> Path:
    """Compile the library that is preloaded.

    :param directory: where it goes. Its path has no spaces, which end a word of LD_PRELOAD, and
        programs may be run from there.
    :raises CommandFailed: there is no compiler, or it says no.
    """
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise CommandFailed("no C compiler: tools/setup.sh chaos installs one")
    library = directory / "wallclock.so"
    warnings = ("-Wall", "-Wextra", "-Werror")
    run(compiler, "-O2", "-shared", "-fPIC", *warnings, "-o", str(library), str(SOURCE))
    return library


class WallClock:
    """The wall clock of the processes that are started with its environment; right at first.

    :param library: from :func:`build_library`.
    :param path: of its file, which is made.
    """

    def __init__(self, library: Path, path: Path) -> None:
        self._library = library
        self._path = path
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("q")

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with whose clock it is to be."""
        others = os.environ.get("LD_PRELOAD")
        preloaded = f"{self._library}:{others}" if others else str(self._library)
        return {"LD_PRELOAD": preloaded, "LAB_WALL_CLOCK": str(self._path)}

    def now(self) -> float:
        """What it shows, in seconds since 1970."""
        return self._now_ns() / 1e9

    def _now_ns(self) -> int:
        stands, ahead = self._words
        return stands or time.time_ns() + ahead

    def set(self, ahead: float) -> None:
        """Have it go, so many seconds ahead of the true time; fewer than 0: behind."""
        self._words[1] = round(ahead * 1e9)
        self._words[0] = 0

    def stop(self) -> None:
        """Have it stand still at what it shows."""
        self._words[0] = self._now_ns()
