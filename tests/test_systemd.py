"""What the service manager hears, in its own words (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

import pytest
from twisted.internet.task import Clock

from dmevpn.systemd import STATUS_LIMIT, Watchdog, notify_systemd, reloading


class Manager:
    """A service manager that only listens; ``@`` begins the name of an abstract socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        """What was said since it was last asked."""
        said = []
        while True:
            try:
                said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a service manager would listen."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    return path


def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a manager that is gone nor the lack of one harms anybody."""
    notify_systemd("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify_systemd("READY=1")


def test_notification(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager is told, by whichever kind of address it names."""
    with Manager(address) as manager:
        notify_systemd("READY=1")
        assert manager.heard() == ["READY=1"]
    abstract = f"@dmevpn-test-{tmp_path.name}"
    monkeypatch.setenv("NOTIFY_SOCKET", abstract)
    with Manager(abstract) as manager:
        notify_systemd("STOPPING=1")
        assert manager.heard() == ["STOPPING=1"]


def test_status_is_one_short_line(address: str) -> None:
    """A text cannot pass for another word of the protocol, nor fail as strange octets."""
    with Manager(address) as manager:
        notify_systemd("READY=1", "one\nSTOPPING=1 \udcff" + "x" * 1000)
        [said] = manager.heard()
    assert said.startswith("READY=1\nSTATUS=one STOPPING=1 ?xx")
    assert said.count("\n") == 1 and len(said) <= STATUS_LIMIT + 20


def test_reload_is_told_by_time(address: str) -> None:
    """The manager knows this reload from the one before by the monotonic clock."""
    with Manager(address) as manager:
        reloading(12.5)
        assert manager.heard() == ["RELOADING=1\nMONOTONIC_USEC=12500000"]


def test_watchdog(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reactor that turns says so twice in an interval; a stopped daemon is silent."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    clock = Clock()
    watchdog = Watchdog(clock)
    with Manager(address) as manager:
        watchdog.start()
        clock.pump([5.0] * 12)
        assert manager.heard() == ["WATCHDOG=1"] * 5
        watchdog.stop()
        watchdog.stop()
        clock.advance(60)
        assert manager.heard() == [] and not clock.getDelayedCalls()


@pytest.mark.parametrize(
    ("microseconds", "process"), [("", ""), ("0", ""), ("x", ""), ("-5", ""), ("1000000", "1")]
)
def test_unwatched(
    address: str, monkeypatch: pytest.MonkeyPatch, microseconds: str, process: str
) -> None:
    """Without a watchdog, or with one for another process, nothing is sent."""
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", process)
    clock = Clock()
    with Manager(address) as manager:
        Watchdog(clock).start()
        assert manager.heard() == [] and not clock.getDelayedCalls()
