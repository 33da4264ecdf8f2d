"""What a daemon writes down for its successor, as a file. Layer: top.

The first line says what the file is and has a checksum of the second, which is JSON. It is written
beside its place, made sure of on the disk and then renamed, so that there is always one that is
whole. A file that is cut short, spoilt, somebody else's, or of another version is as good as none,
and one line of the log says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from zope.interface import implementer

from dmevpn.interfaces import IStateStore
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["SIZE_LIMIT", "MemoryStateStore", "StateFile", "boot_id", "open_state"]

#: Octets of the largest file that is read: three times what is ever written.
SIZE_LIMIT: Final = 16 << 20
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
        self._pending: Any = None
        self._failing = False
        self._failed = metrics.counter("state_saves_failed")

    def load(self) -> Any:
        """What an earlier run has written; None if there is nothing of use."""
        try:
            return unpack(self._read())
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

    def save(self, state: Any) -> None:
        """Write, in a thread; of what comes meanwhile, the last."""
        if self._saving:
            self._pending = state
            return
        self._saving = True
        self._aside(partial(self._write, state), self._saved)

    def save_now(self, state: Any) -> None:
        """Write, and wait until it is on the disk."""
        self._pending = None
        self._report(self._write(state))

    def _saved(self, error: str) -> None:
        self._saving = False
        self._report(error)
        if self._pending is not None:
            state, self._pending = self._pending, None
            self.save(state)

    def _report(self, error: str) -> None:
        """Say once that nothing is saved, until it is again."""
        if error:
            self._failed.inc()
            if not self._failing:
                self.log.warn("{path}: not saved: {reason}", path=self._path, reason=error)
        elif self._failing:
            self.log.info("{path}: saved again", path=self._path)
        self._failing = bool(error)

    def _read(self) -> bytes:
        # O_NONBLOCK: whoever put a pipe in our place shall not stop the daemon.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            octets = file.read(SIZE_LIMIT + 1)
        if len(octets) > SIZE_LIMIT:
            raise ValueError("too large")
        return octets

    def _write(self, state: Any) -> str:
        """Write in any thread; why that could not be, or nothing."""
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


@implementer(IStateStore)
class MemoryStateStore:
    """The same without a disk: what was saved survives whoever saved it.

    :ivar octets: as a file would have it; None: there is none.
    """

    def __init__(self, boot: str = "first") -> None:
        self.boot = boot
        self.octets: bytes | None = None

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

    def save(self, state: Any) -> None:
        """At once."""
        self.octets = pack(state)

    save_now = save


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
