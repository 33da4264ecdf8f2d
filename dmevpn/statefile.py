"""What a daemon writes down for its successor, as a file. Layer: top.

The first line says what the file is and has a checksum of the second, which is JSON. It is written
beside its place, made sure of on the disk and then renamed, so that there is always one that is
whole. A file that is cut short, spoilt, somebody else's, or of another version is as good as none,
and one line of the log says so. Beside it are the two files of a journal, which only grow.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from zope.interface import implementer

from dmevpn.interfaces import IStateStore
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["PART_LIMIT", "SIZE_LIMIT", "MemoryStateStore", "StateFile", "boot_id", "open_state"]

#: Octets of the largest file that is read: three times what is ever written.
SIZE_LIMIT: Final = 16 << 20
#: Octets of a part of the journal: 60,000 answers, of which far fewer are ever kept.
PART_LIMIT: Final = 4 << 20
_MAGIC: Final = b"dmevpn-state"
_VERSION: Final = 1

#: Runs something that waits, elsewhere, and then hands its result back where everything else runs.
Aside = Callable[[Callable[[], str], Callable[[str], None]], None]


def pack(state: Any) -> bytes:
    """What the file of a state has in it."""
    body = json.dumps(state, separators=(",", ":")).encode()
    return b"%b %d %08x\n%b\n" % (_MAGIC, _VERSION, zlib.crc32(body), body)


def unpack(octets: bytes) -> Any:
    """The state in a file.

    :raises ValueError: in words, if there is none that we can use.
    """
    head, _, body = octets.partition(b"\n")
    words = head.split(b" ")
    if words[0] != _MAGIC or len(words) != 3 or not words[1].isdigit():
        raise ValueError("no state of ours")
    if int(words[1]) != _VERSION:
        raise ValueError(f"state of version {int(words[1])}, this daemon reads {_VERSION}")
    if not body.endswith(b"\n") or b"%08x" % zlib.crc32(body[:-1]) != words[2]:
        raise ValueError("spoilt or cut short")
    state = json.loads(body)
    if not isinstance(state, dict):
        raise ValueError("no state of ours")
    return state


@implementer(IStateStore)
class StateFile:
    """The state in a file of mode 0600.

    :param aside: runs the writing where it may wait.
    :param boot: what tells this run of the machine from others.
    """

    log = Logger()

    def __init__(self, path: str, metrics: Metrics, aside: Aside, boot: str) -> None:
        self.boot = boot
        self._path = path
        self._aside = aside
        self._saving = False
        self._pending: tuple[Any, Callable[[], None]] | None = None
        #: One thread writes at a time, and nothing older than what is there.
        self._writing = threading.Lock()
        self._begun = self._written = 0
        self._failing = False
        #: The part of the journal that is appended to, and its octets so far.
        self._part: int | None = None
        self._length = 0
        self._unwritten = False
        self._failed = metrics.counter("state_saves_failed")

    def load(self) -> Any:
        """What an earlier run has written; None if there is nothing of use."""
        self._remove_unfinished()
        try:
            return unpack(_read(self._path, SIZE_LIMIT))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror
        except (ValueError, RecursionError) as error:
            reason = str(error)
        self.log.warn(
            "{path}: {reason}: going on without what an earlier run knew",
            path=self._path,
            reason=reason,
        )
        return None

    def forget(self) -> bool:
        """Remove the file; whether there is none now."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def save(self, state: Any, done: Callable[[], None] = lambda: None) -> None:
        """Write, in a thread; of what comes meanwhile, the last."""
        if self._saving:
            self._pending = state, done
            return
        self._saving = True
        self._aside(partial(self._write, state, self._next()), partial(self._saved, done))

    def save_now(self, state: Any) -> bool:
        """Write, and wait until it is on the disk; what was put aside before comes to nothing."""
        self._pending = None
        error = self._write(state, self._next())
        self._report(error)
        return not error

    def _saved(self, done: Callable[[], None], error: str) -> None:
        self._saving = False
        self._report(error)
        if not error:
            done()
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.save(*pending)

    # --- the journal ------------------------------------------------------------------------

    def _part_path(self, number: int) -> str:
        return f"{self._path}.answers.{number % 2}"

    def parts(self) -> list[bytes]:
        """What is in the two files; what cannot be read is as good as empty."""
        found = list[bytes]()
        for number in range(2):
            try:
                found.append(_read(self._part_path(number), PART_LIMIT))
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                found.append(b"")
        return found

    def begin(self, number: int, octets: bytes) -> bool:
        """Make the part's file anew."""
        if self._open(number, os.O_CREAT | os.O_TRUNC) and self.append(octets):
            return True
        # Nobody would know that something is missing.
        self.forget()
        return False

    def resume(self, number: int, length: int) -> bool:
        """Cut off what is not good."""
        if not self._open(number, 0):
            return False
        assert self._part is not None
        try:
            os.ftruncate(self._part, length)
        except OSError:
            self.abandon()
            return False
        self._length = length
        return True

    def append(self, octets: bytes) -> bool:
        """Write it to the file, which is in memory first."""
        if self._part is None:
            return False
        reason = "no space is left"
        self._length += len(octets)
        try:
            if self._length > PART_LIMIT:
                reason = "there are too many"
            elif os.write(self._part, octets) == len(octets):
                self._unwritten = False
                return True
        except OSError as error:
            reason = error.strerror or str(error)
        self._complain(reason)
        self.abandon()
        return False

    def abandon(self) -> None:
        """Leave an empty file, which takes no space."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._part, 0)
        self._close_part()

    def remove_parts(self) -> None:
        """Remove the files."""
        self._close_part()
        for number in range(2):
            with contextlib.suppress(OSError):
                os.unlink(self._part_path(number))

    def _open(self, number: int, flags: int) -> bool:
        self._close_part()
        # O_NONBLOCK: whoever put a pipe in our place shall not stop the daemon.
        flags |= os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._part = os.open(self._part_path(number), flags, 0o600)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return False
        self._length = 0
        return True

    def _close_part(self) -> None:
        if self._part is not None:
            os.close(self._part)
            self._part = None

    def _complain(self, reason: str) -> None:
        """Say once that answers are not written, until they are again."""
        self._failed.inc()
        if not self._unwritten:
            self.log.warn(
                "{path}: answers are not written down: {reason}", path=self._path, reason=reason
            )
        self._unwritten = True

    # --- means --------------------------------------------------------------------------------

    def _report(self, error: str) -> None:
        """Say once that nothing is saved, until it is again."""
        if error:
            self._failed.inc()
            if not self._failing:
                self.log.warn("{path}: not saved: {reason}", path=self._path, reason=error)
        elif self._failing:
            self.log.info("{path}: saved again", path=self._path)
        self._failing = bool(error)

    def _remove_unfinished(self) -> None:
        """Remove what runs have left that were killed while they wrote."""
        for path in glob.glob(f"{glob.escape(self._path)}.new.*"):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _next(self) -> int:
        """The number of another state to be written."""
        self._begun += 1
        return self._begun

    def _write(self, state: Any, number: int) -> str:
        """Write in any thread; why that could not be, or nothing."""
        with self._writing:
            if number < self._written:
                return ""
            error = self._replace(state)
            if not error:
                self._written = number
            return error

    def _replace(self, state: Any) -> str:
        beside = f"{self._path}.new.{os.getpid()}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(beside, flags, 0o600), "wb") as file:
                file.write(pack(state))
                file.flush()
                os.fsync(file.fileno())
            os.rename(beside, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            return error.strerror or str(error)
        return ""


def _read(path: str, limit: int) -> bytes:
    """What is in a file.

    :raises ValueError: if it is too large. :raises OSError: if it cannot be read.
    """
    # O_NONBLOCK: whoever put a pipe in our place shall not stop the daemon.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise ValueError("too large")
    return octets


@implementer(IStateStore)
class MemoryStateStore:
    """The same without a disk: what was saved survives whoever saved it.

    :ivar octets: as a file would have it; None: there is none.
    :ivar journal: the parts of the journal, by their places.
    """

    def __init__(self, boot: str = "first") -> None:
        self.boot = boot
        self.octets: bytes | None = None
        self.journal: dict[int, bytes] = {}
        self._part = 0

    def load(self) -> Any:
        """What was saved last."""
        if self.octets is None:
            return None
        try:
            return unpack(self.octets)
        except ValueError:
            return None

    def forget(self) -> bool:
        """Nothing was saved."""
        self.octets = None
        return True

    def save(self, state: Any, done: Callable[[], None] = lambda: None) -> None:
        """At once."""
        self.save_now(state)
        done()

    def save_now(self, state: Any) -> bool:
        """At once."""
        self.octets = pack(state)
        return True

    def parts(self) -> list[bytes]:
        """Both of them."""
        return list(self.journal.values())

    def begin(self, number: int, octets: bytes) -> bool:
        """In the place of the one before the last."""
        self._part = number % 2
        self.journal[self._part] = octets
        return True

    def resume(self, number: int, length: int) -> bool:
        """Cut off the rest."""
        self._part = number % 2
        self.journal[self._part] = self.journal[self._part][:length]
        return True

    def append(self, octets: bytes) -> bool:
        """At once."""
        self.journal[self._part] += octets
        return True

    def abandon(self) -> None:
        """Nothing is in it."""
        self.journal[self._part] = b""

    def remove_parts(self) -> None:
        """There are none."""
        self.journal.clear()


def boot_id() -> str:
    """What tells this run of the machine from others; empty if the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def open_state(directory: str, metrics: Metrics, aside: Aside) -> IStateStore:
    """The store in a directory, which the identifiers of requests share."""
    return StateFile(os.path.join(directory, "state"), metrics, aside, boot_id())
