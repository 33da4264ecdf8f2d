"""Request identifiers that no earlier run of the daemon has used (RFC 2332 §5.2.0.1, §5.2.3).

Layer: core. Only :class:`FileRequestIDStore` touches files; the daemon's start-up code makes it,
and gives it a thread to do so.

They are reserved in blocks. A block is handed out only when two files say that it is used, and
its successor is written meanwhile, so that no request waits for the disk. After a crash the files
name the first identifier behind all that were handed out, whatever the clock says.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

from zope.interface import implementer

from dmevpn.interfaces import IRequestIDStore
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["BLOCK", "Aside", "FileRequestIDStore", "RequestIDs", "TimeRequestIDStore", "open_store"]

#: Identifiers are 32 bits (RFC 2332 §5.2.0.1).
_MODULUS: Final = 1 << 32

#: Identifiers reserved at once: at 10,000 requests a second the disk has almost a second for the
#: next block, and half a million restarts go by before the numbers begin anew.
BLOCK: Final = 8192

#: Requests a second, on average over the daemon's life, for which clock time alone makes
#: identifiers rise over a restart.
_IDS_PER_SECOND: Final = 64

#: Ten digits, and the CRC-32 of them that shows a record cut short or not ours.
_RECORD_SIZE: Final = 20

#: Runs something that waits, elsewhere, and then hands its result back where everything else runs.
Aside = Callable[[Callable[[], str], Callable[[str], None]], None]


class RequestIDs:
    """Hands out the daemon's request identifiers one by one."""

    def __init__(self, store: IRequestIDStore) -> None:
        self._store = store
        self._next = 0
        self._left = 0
        self._ahead: int | None = None

    def prepare(self) -> None:
        """Reserve the first identifiers now; may wait for the disk, which later no request does."""
        if not self._left:
            self._refill()

    def next(self) -> int:
        """An identifier that no request of ours had before, in this run or an earlier one."""
        if not self._left:
            self._refill()
        request_id = self._next
        self._next = (request_id + 1) % _MODULUS
        self._left -= 1
        return request_id

    def _refill(self) -> None:
        self._next = self._store.reserve(BLOCK) if self._ahead is None else self._ahead
        self._left = BLOCK
        self._ahead = self._store.reserve_ahead(BLOCK)


def _later(first: int, second: int) -> int:
    """Whichever of two identifiers is ahead, in arithmetic modulo 2**32 (RFC 1982)."""
    return first if (first - second) % _MODULUS < _MODULUS // 2 else second


@implementer(IRequestIDStore)
class TimeRequestIDStore:
    """Identifiers that rise over restarts because time does.

    :param wall_clock: seconds since 1970.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._next: int | None = None

    def reserve(self, count: int) -> int:
        """The first of ``count`` identifiers."""
        if self._next is None:
            self._next = int(self._wall_clock() * _IDS_PER_SECOND) % _MODULUS
        first = self._next
        self._next = (first + count) % _MODULUS
        return first

    def reserve_ahead(self, count: int) -> int:
        """As :meth:`reserve`, which waits for nothing."""
        return self.reserve(count)


@implementer(IRequestIDStore)
class FileRequestIDStore:
    """Identifiers that rise over restarts because files remember them.

    Each of two files holds the first identifier that was not reserved. They are written one after
    the other and in place: a crash in the middle of one leaves the other, somebody else's file in
    the place of one too, and a full disk has room for what it held before. If both are lost the
    identifiers follow the time.

    :param path: of the first file; the other's ends in ``.copy``.
    :param wall_clock: seconds since 1970.
    :param aside: runs the writing where it may wait.
    """

    log = Logger()

    def __init__(
        self, path: str, wall_clock: Callable[[], float], metrics: Metrics, aside: Aside
    ) -> None:
        self._paths = path, f"{path}.copy"
        self._time = TimeRequestIDStore(wall_clock)
        self._aside = aside
        self._next: int | None = None
        self._saving = False
        self._failing = False
        self._failed = metrics.counter("request_id_saves_failed")
        self._late = metrics.counter("request_id_saves_late")

    def reserve(self, count: int) -> int:
        """The first of ``count`` identifiers; they are on the disk as used when it returns."""
        first, following = self._advance(count)
        self._report(self._save(following))
        return first

    def reserve_ahead(self, count: int) -> int:
        """The first of ``count`` identifiers, which are about to be written as used.

        A disk that has not taken the ones before by now is not waited for, but counted: a crash
        could have these used again.
        """
        first, _ = self._advance(count)
        if self._saving:
            self._late.inc()
        else:
            self._save_aside()
        return first

    def _advance(self, count: int) -> tuple[int, int]:
        """The first of ``count`` identifiers, and the one behind them."""
        first = self._read() if self._next is None else self._next
        self._next = (first + count) % _MODULUS
        return first, self._next

    def _save_aside(self) -> None:
        assert self._next is not None
        self._saving = True
        following = self._next
        self._aside(partial(self._save, following), partial(self._saved, following))

    def _saved(self, following: int, error: str) -> None:
        self._saving = False
        self._report(error)
        if self._next != following:
            self._save_aside()

    def _report(self, error: str) -> None:
        """Say once that nothing is saved, until it is again."""
        if error:
            self._failed.inc()
            if not self._failing:
                self.log.warn(
                    "{path}: request identifiers not saved: {reason}; they follow the time",
                    path=self._paths[0],
                    reason=error,
                )
        elif self._failing:
            self.log.info("{path}: request identifiers are saved again", path=self._paths[0])
        self._failing = bool(error)

    # --- the files ----------------------------------------------------------------------

    def _read(self) -> int:
        """Where to go on: behind what the files say, and not before what the time says.

        The latter is for files that somebody has put back from a backup.
        """
        found = self._time.reserve(0)
        for path in self._paths:
            try:
                record = _read_record(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.log.warn("{path}: {reason}", path=path, reason=error.strerror)
                continue
            stored = _parse(record)
            if stored is None:
                self.log.warn("{path}: no request identifier of ours", path=path)
            else:
                found = _later(stored, found)
        return found

    def _save(self, following: int) -> str:
        """Write both files, in any thread; why neither could be, or nothing."""
        errors = []
        for path in self._paths:
            try:
                _write_record(path, _record(following))
            except OSError as error:
                errors.append(error.strerror or str(error))
        return errors[0] if len(errors) == len(self._paths) else ""


def open_store(
    directory: str, wall_clock: Callable[[], float], metrics: Metrics, aside: Aside
) -> IRequestIDStore:
    """The store in a directory, which is made if need be; by the time if it cannot be."""
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
    except OSError as error:
        FileRequestIDStore.log.warn(
            "{path}: {reason}; request identifiers follow the time instead",
            path=directory,
            reason=error.strerror,
        )
        return TimeRequestIDStore(wall_clock)
    return FileRequestIDStore(os.path.join(directory, "request-ids"), wall_clock, metrics, aside)


def _record(following: int) -> bytes:
    digits = b"%010d" % following
    return b"%b %08x\n" % (digits, zlib.crc32(digits))


def _parse(record: bytes) -> int | None:
    """The identifier of a record; None if it is none of ours, or not whole."""
    digits = record[:10]
    if not digits.isdigit() or int(digits) >= _MODULUS or record != _record(int(digits)):
        return None
    return int(digits)


# O_NONBLOCK: whoever put a pipe in our place shall not stop the daemon.
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK


def _read_record(path: str) -> bytes:
    """What stands where a record should be.

    :raises OSError: if it cannot be read.
    """
    file = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        return os.read(file, _RECORD_SIZE)
    finally:
        os.close(file)


def _write_record(path: str, record: bytes) -> None:
    """Have a record on the disk.

    :raises OSError: if that cannot be; what stood there before may still stand.
    """
    new = not os.path.exists(path)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o640)
    try:
        if os.pwrite(file, record, 0) < len(record):
            raise OSError(0, "written in part only")
        os.ftruncate(file, len(record))
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
