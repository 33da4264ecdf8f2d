"""Where the log goes, how much of it is kept, and what its lines are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, LogPublisher
from twisted.python.failure import Failure

from dmevpn import logfile
from dmevpn.log import Logger
from dmevpn.logfile import json_line, make_observer
from dmevpn.metrics import Metrics
from lab.wait import eventually


class Reactor(MemoryReactorClock):
    """Does at once what a signal asks for."""

    def callFromThread(self, callable: Any, *args: Any, **kw: Any) -> None:
        callable(*args, **kw)


def observer(path: str, form: str = "text", metrics: Metrics | None = None, **options: Any) -> Any:
    """The observer for these options of twistd."""
    options = {"logfile": path, "nodaemon": True, "syslog": False} | options
    return make_observer(options, form, Reactor(), metrics or Metrics())


@pytest.fixture
def logger() -> Iterator[Callable[[Any], Logger]]:
    """Makes a logger of an observer, whose file is closed in the end."""
    observers: list[Any] = []

    def make(observer: Any) -> Logger:
        observers.append(observer)
        return Logger(namespace="dmevpn.test", observer=LogPublisher(observer))

    yield make
    for observer in observers:
        if observer._outFile is not sys.stdout:
            observer._outFile.close()


@pytest.fixture(autouse=True)
def _signal() -> Any:
    previous = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, previous)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: Any) -> None:
    """However much is logged, a fixed number of files of a fixed size is left, for few to read."""
    monkeypatch.setattr(logfile, "FILE_OCTETS", 200)
    monkeypatch.setattr(logfile, "OLD_FILES", 2)
    metrics = Metrics()
    log = logger(observer(str(tmp_path / "x.log"), metrics=metrics))
    for number in range(100):
        log.info("line {number}", number=number)
    rotated = metrics.value("log_files_rotated")
    assert rotated > 10
    assert metrics.value("log_files_removed") == rotated - 2
    files = {path.name: path for path in tmp_path.iterdir()}
    assert set(files) == {"x.log", "x.log.1", "x.log.2"}
    assert all(path.stat().st_size < 300 for path in files.values())
    assert files["x.log"].stat().st_mode & 0o777 == 0o640
    log.info("the last")
    assert files["x.log"].read_text().splitlines()[-1].endswith("the last")


def test_rotation_by_signal(tmp_path: Path, logger: Any) -> None:
    """SIGUSR1 begins a new file."""
    log = logger(observer(str(tmp_path / "x.log")))
    log.info("before")
    os.kill(os.getpid(), signal.SIGUSR1)
    log.info("after")
    assert "before" in (tmp_path / "x.log.1").read_text()
    assert "before" not in (tmp_path / "x.log").read_text()


def test_no_place(tmp_path: Path) -> None:
    """A directory that is not there ends the start with one line."""
    with pytest.raises(SystemExit, match=r"^dmevpn: cannot log to \S+: No such file or directory$"):
        observer(str(tmp_path / "absent" / "x.log"))


def test_twistd_keeps_what_it_does_well() -> None:
    """Text to standard output, syslog, and twistd's own refusals stay twistd's."""
    assert observer("") is None
    assert observer("-") is None
    assert observer("x", "json", syslog=True) is None
    assert observer("-", nodaemon=False) is None


def test_standard_output(capsys: pytest.CaptureFixture[str], logger: Any) -> None:
    """JSON goes to standard output too, and so into the journal."""
    logger(observer("", "json")).warn("well {name}", name="then")
    line = json.loads(capsys.readouterr().out)
    assert line["level"] == "warn" and line["message"] == "well then"


def test_json_line() -> None:
    """A line has the sentence and its parts, as plain values, whatever the parts are."""
    event = {
        "log_time": 1.5,
        "log_level": LogLevel.error,
        "log_namespace": "dmevpn.x",
        "log_format": "{mac}\n{vpn}",
        "mac": "02:00:00:00:00:01",
        "vpn": 7,
        "age": float("inf"),
        "share": 0.5,
        "octets": b"\xff",
        "nobody": None,
        "name": "\udcff",
    }
    text = json_line(event)
    assert text.endswith("\n") and text.count("\n") == 1 and text.isascii()
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:01.500000+00:00",
        "level": "error",
        "logger": "dmevpn.x",
        "message": "02:00:00:00:00:01\n7",
        "fields": {
            "mac": "02:00:00:00:00:01",
            "vpn": 7,
            "age": "inf",
            "share": 0.5,
            "octets": "b'\\xff'",
            "nobody": None,
            "name": "\udcff",
        },
    }


def test_json_failure() -> None:
    """A bug comes with its traceback."""
    event = {"log_time": 0.0, "log_format": "a bug", "log_failure": Failure(ValueError("ours"))}
    line = json.loads(json_line(event))
    assert "ValueError: ours" in line["traceback"] and line["level"] == "info"


def test_daemon(tmp_path: Path) -> None:
    """twistd with ``--logfile`` and ``log-format json`` logs objects, from its first line on."""
    (tmp_path / "x.conf").write_text(
        f"log-format json admin unix:{tmp_path}/x.sock state-dir {tmp_path}"
    )
    log = tmp_path / "x.log"
    twistd = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", f"--logfile={log}"]
    daemon = subprocess.Popen([*twistd, "dmevpn", "--config", str(tmp_path / "x.conf")])
    try:
        eventually("admin socket", (tmp_path / "x.sock").exists, timeout=30)
        daemon.send_signal(signal.SIGUSR1)
        eventually("rotated log", (tmp_path / "x.log.1").exists)
    finally:
        daemon.terminate()
        daemon.wait(10)
    lines = [json.loads(line) for line in (tmp_path / "x.log.1").read_text().splitlines()]
    assert any("starting up" in line["message"] for line in lines)
    assert any("nothing to do" in line["message"] for line in lines)
