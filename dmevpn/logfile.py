"""Where the log goes: twistd's choice of place, with a bound, as text or JSON. Layer: top."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    formatEvent,
    textFileLogObserver,
)
from twisted.python.logfile import LogFile

from dmevpn.metrics import Counter, Metrics

__all__ = ["FILE_OCTETS", "OLD_FILES", "json_line", "make_observer"]

#: Octets of a log file, after which it is rotated.
FILE_OCTETS = 10_000_000
#: Rotated files that are kept, the newest as ``.1``: with the current one at most 100 MB.
OLD_FILES = 9
#: Who owns the daemon writes, and the group reads.
FILE_MODE = 0o640

#: What Twisted's older way of logging puts into an event besides what the caller said.
_LEGACY = frozenset({"format", "isError", "message", "system", "time"})


class _CountedFile(LogFile):
    """A log file that counts its rotations."""

    rotated: Counter
    removed: Counter
    """Times that the oldest file was removed for that."""

    def rotate(self) -> None:
        """Begin a new file; Twisted says nothing where it may not."""
        before = os.fstat(self._file.fileno()).st_ino
        had_oldest = os.path.exists(f"{self.path}.{OLD_FILES}")
        super().rotate()  # type: ignore[no-untyped-call]
        if os.fstat(self._file.fileno()).st_ino != before:
            self.rotated.inc()
            self.removed.inc(had_oldest)


def make_observer(
    twistd: Mapping[str, Any], form: str, reactor: Any, metrics: Metrics
) -> ILogObserver | None:
    """The log's observer, or None where twistd's own is as good.

    :param twistd: the options of twistd.
    :param form: ``text`` or ``json``.
    :param reactor: rotates the file after SIGUSR1.
    :param metrics: counts rotations.
    """
    path = twistd["logfile"] or ("" if twistd["nodaemon"] else "twistd.log")
    if twistd.get("syslog") or (path == "-" and not twistd["nodaemon"]):
        return None
    if path in ("", "-"):
        return None if form == "text" else FileLogObserver(sys.stdout, json_line)
    file = _open(path, reactor, metrics)
    return textFileLogObserver(file) if form == "text" else FileLogObserver(file, json_line)


def _open(path: str, reactor: Any, metrics: Metrics) -> TextIO:
    try:
        file: Any = _CountedFile.fromFullPath(  # type: ignore[no-untyped-call]
            path, rotateLength=FILE_OCTETS, maxRotatedFiles=OLD_FILES, defaultMode=FILE_MODE
        )
    except OSError as error:
        # twistd has not become a daemon yet, so this is one line on the user's terminal.
        raise SystemExit(f"dmevpn: cannot log to {path}: {error.strerror}") from None
    file.rotated = metrics.counter("log_files_rotated")
    file.removed = metrics.counter("log_files_removed")
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return file  # type: ignore[no-any-return]


def json_line(event: LogEvent) -> str:
    """An event as one line: ``time``, ``level``, ``logger``, ``message``, ``fields``.

    Twisted's own JSON is made to be read back by Twisted: levels are objects with a UUID, and the
    message must be put together from its format by the reader.
    """
    level = event.get("log_level")
    line = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="microseconds"),
        "level": "info" if level is None else level.name,
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event),
        "fields": {
            name: _plain(value)
            for name, value in event.items()
            if not name.startswith("log_") and name not in _LEGACY
        },
    }
    if "log_failure" in event:
        line["traceback"] = event["log_failure"].getTraceback()
    return json.dumps(line) + "\n"


def _plain(value: object) -> object:
    """A value that JSON has, or its text."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
