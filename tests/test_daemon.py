"""One daemon: what starts and stops with the node, reload, and word to the service manager."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from dmevpn.daemon import Daemon
from dmevpn.errors import StartError
from dmevpn.roles import configfile
from dmevpn.roles.configfile import ConfigFile
from dmevpn.statelock import StateLock
from tests.test_systemd import Manager
from tests.world import World

GOOD = "interface nhrp\ninterface vx0\n controller nhrp\n vpn-id 1\n provision\n l2learnonly\n"


class Admin(Service):
    """An admin interface that notes its life, and may refuse it."""

    def __init__(self, calls: list[str], refuses: bool = False) -> None:
        self.calls = calls
        self.refuses = refuses

    def privilegedStartService(self) -> None:
        self.calls.append("open")
        if self.refuses:
            raise StartError("no place for a socket")

    def startService(self) -> None:
        self.calls.append("start")

    def stopService(self) -> Deferred[None]:
        self.calls.append("stop")
        return succeed(None)


class Reactor(MemoryReactorClock):
    """Has turns to give before it runs."""

    def iterate(self, delay: float = 0) -> None:
        self.advance(delay)

    def callFromThread(self, callable: Any, *args: Any, **kw: Any) -> None:
        callable(*args, **kw)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration file of a hub."""
    path = tmp_path / "hub.conf"
    path.write_text(GOOD)
    return path


def make(
    file: Path,
    calls: list[str],
    *,
    endpoints: int = 1,
    refuses: bool = False,
    lock: StateLock | None = None,
) -> Daemon:
    """A daemon on a node in memory."""
    world = World()
    config = ConfigFile(str(file), state_dir="/nowhere")
    plan, _ = config.load()
    assert plan is not None
    node = world.make_node(world.hub, plan)
    admins = [Admin(calls) for _ in range(endpoints - 1)] + [Admin(calls, refuses)]
    return Daemon(
        config=config,
        node=node,
        operators=lambda controller: admins,
        reactor=Reactor(),
        lock=lock,
    )


def test_admin_closes_before_the_node(file: Path) -> None:
    """An operator never talks to a half-stopped node."""
    calls: list[str] = []
    daemon = make(file, calls)
    daemon.privilegedStartService()
    daemon.startService()
    assert calls == ["open", "start"] and daemon.node.hubs
    daemon.stopService()
    assert calls == ["open", "start", "stop"] and not daemon.node.hubs


def test_an_admin_that_does_not_close(
    file: Path, monkeypatch: pytest.MonkeyPatch, logged_failures: list[object]
) -> None:
    """The others close, and the node stops, all the same."""
    calls: list[str] = []
    daemon = make(file, calls, endpoints=2)
    daemon.privilegedStartService()
    daemon.startService()

    def fail() -> None:
        raise OSError("no more descriptors")

    monkeypatch.setattr(daemon._operators[0], "stopService", fail)
    done: list[object] = []
    daemon.stopService().addCallback(done.append)
    assert calls[-1] == "stop" and not daemon.node.hubs
    assert done == [None]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_a_refused_admin_socket_undoes_the_start(file: Path) -> None:
    """With one of two endpoints impossible, nothing of the daemon stays."""
    calls: list[str] = []
    daemon = make(file, calls, endpoints=2, refuses=True)
    with pytest.raises(StartError, match="no place"):
        daemon.privilegedStartService()
    assert calls == ["open", "open", "stop", "stop"]
    assert not daemon.node.hubs and not daemon.node.speakers


def reload(daemon: Daemon) -> dict[str, Any]:
    """The report of a reload."""
    reports: list[dict[str, Any]] = []
    daemon.reload().addCallback(reports.append)
    [report] = reports
    return report


def test_reload(file: Path) -> None:
    """The file is read again; a mistake in it changes nothing and is reported with its line."""
    daemon = make(file, [])
    daemon.privilegedStartService()
    daemon.startService()
    before = daemon.node.hubs["vx0"]
    file.write_text(GOOD + " no-such-word\n")
    report = reload(daemon)
    assert not report["ok"] and f"{file}:7: unknown word near 'no-such-word'" in report["messages"]
    assert daemon.node.hubs["vx0"] is before
    assert daemon.node.metrics.value("reloads_refused") == 1
    file.write_text(GOOD.replace("vpn-id 1", "vpn-id 1-2"))
    report = reload(daemon)
    assert report["ok"]
    assert set(daemon.node.hubs["vx0"].vpns) == {1, 2}
    daemon.stopService()


def test_reload_that_waits(file: Path) -> None:
    """Another admin socket needs a restart, and the report says so."""
    daemon = make(file, [])
    daemon.privilegedStartService()
    file.write_text(GOOD + "admin unix:/elsewhere\n")
    assert any("`admin`" in message for message in reload(daemon)["messages"])
    daemon.stopService()


def test_manager_is_told(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`systemctl reload` waits for the reload, and `systemctl status` says what came of it."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with Manager(str(tmp_path / "notify")) as manager:
        daemon = make(file, [])
        daemon.privilegedStartService()
        daemon.startService()
        status = f"STATUS=0 spoke and 1 hub interfaces of {file}"
        assert manager.heard() == [f"READY=1\n{status}"]
        daemon._reactor.advance(2.5)
        reload(daemon)
        assert manager.heard() == ["RELOADING=1\nMONOTONIC_USEC=2500000", f"READY=1\n{status}"]
        file.write_text("no-such-word")
        reload(daemon)
        assert manager.heard()[1] == "READY=1\nSTATUS=not reloaded: the log says why"
        daemon.stopService()
        assert manager.heard() == ["STOPPING=1"]


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused: half of it would be another file."""
    file = tmp_path / "large.conf"
    file.write_text("interface nhrp\n" * 10)
    monkeypatch.setattr(configfile, "MAX_SIZE", file.stat().st_size)
    assert ConfigFile(str(file)).load()[0] is not None
    monkeypatch.setattr(configfile, "MAX_SIZE", file.stat().st_size - 1)
    assert ConfigFile(str(file)).load() == (None, [f"{file}: File too large"])


def test_a_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    """A daemon that runs does not wait for who writes to it; the command line may give one."""
    pipe = tmp_path / "pipe.conf"
    os.mkfifo(pipe)
    config = ConfigFile(str(pipe))
    assert config.load() == (None, [f"{pipe}: no regular file"])
    assert config.masked() == f"# {pipe}: no regular file\n"
    writer = threading.Thread(target=pipe.write_text, args=["interface nhrp\n  holding-time 600\n"])
    writer.start()
    plan, _ = config.load(waiting=True)
    writer.join()
    assert plan is not None
