"""A state directory has one daemon, however the last one ended, and who takes down what it left."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import reactor

from dmevpn.config.model import Plan
from dmevpn.errors import StartError
from dmevpn.removal import remove
from dmevpn.statelock import StateLock
from lab.daemons import ROOT
from tests.test_daemon import GOOD, make

#: Takes the lock of a directory, says so, and keeps it.
HOLDER = """
import sys
from dmevpn.statelock import StateLock
lock = StateLock(sys.argv[1])
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    words = (sys.executable, "-B", "-c", HOLDER, str(tmp_path))
    with subprocess.Popen(
        words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def is_free(directory: Path) -> bool:
    """Whether somebody else could have the lock now."""
    lock = StateLock(str(directory))
    try:
        lock.take()
    except StartError:
        return False
    lock.free()
    return True


def test_killed(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """Nobody else gets it while its process lives, and the next one when that was killed."""
    lock = StateLock(str(tmp_path))
    with pytest.raises(StartError, match=f"a daemon is running .* {tmp_path}: stop it first"):
        lock.take()
    holder.kill()
    holder.wait()
    lock.take()
    assert not is_free(tmp_path)
    lock.take()
    lock.free()
    lock.free()
    assert is_free(tmp_path)


def test_nothing_is_removed_under_a_daemon(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if its admin endpoint is no socket of this machine, or not the one of the file."""
    steps: list[bool] = []

    def step(*_: object) -> Iterator[object]:
        steps.append(True)
        yield lambda: None

    monkeypatch.setattr("dmevpn.removal._steps", step)
    plan = Plan(admin=("tls:4433:key=k:certificate=c:ca=a",), state_dir=str(tmp_path))
    (refusal,) = remove(reactor, plan)
    assert "a daemon is running" in refusal and steps == []
    holder.kill()
    holder.wait()
    assert remove(reactor, plan) == [] and steps == [True]
    assert is_free(tmp_path)


def test_a_daemon_holds_it(tmp_path: Path) -> None:
    """From before it has anything until it has nothing; a second one leaves all as it was."""
    file = tmp_path / "hub.conf"
    file.write_text(GOOD)
    calls: list[str] = []
    one, two = (make(file, calls, lock=StateLock(str(tmp_path))) for _ in range(2))
    one.privilegedStartService()
    with pytest.raises(StartError, match="a daemon is running"):
        two.privilegedStartService()
    assert calls == ["open", "stop"] and not two.node.hubs
    one.stopService()
    two.privilegedStartService()
    assert two.node.hubs
    two.stopService()


@pytest.mark.parametrize("where", [None, "", "missing", "file"])
def test_no_directory(tmp_path: Path, where: str | None) -> None:
    """A daemon that has none goes on without it, and so does what takes down."""
    (tmp_path / "file").touch()
    lock = StateLock(where and str(tmp_path / where))
    lock.take()
    lock.free()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason not to start."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    StateLock(str(tmp_path)).take()
