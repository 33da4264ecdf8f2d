"""The admin endpoint opens, or says in one line why not, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import socket
import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from dmevpn.admin.listening import unix_path
from dmevpn.admin.pb import AdminService
from dmevpn.errors import StartError
from tests.admin.conftest import Served
from tests.admin.fakes import FakeController


def service(description: str) -> AdminService:
    return AdminService(reactor, description, FakeController())


def refusal(description: str) -> str:
    """The one line with which a service on that endpoint refuses to start."""
    try:
        service(description).privilegedStartService()
    except StartError as error:
        line = str(error)
    else:
        pytest.fail("it started")
    with warnings.catch_warnings():
        # Twisted's port leaves a socket that it could not bind to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert "\n" not in line
    return line


async def starts(description: str) -> None:
    started = service(description)
    started.startService()
    await started.stopService()


@pytest.mark.parametrize(
    ("description", "path"),
    [
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:/run/a.sock:mode=600:lockfile=1", "/run/a.sock"),
        ("unix:mode=600:address=/run/a.sock", "/run/a.sock"),
        (r"unix:/run/a\:b\\.sock:mode=600", "/run/a:b\\.sock"),
        ("tcp:4789:interface=::1", None),
        ("unix:", ""),
        ("unix:mode=600", None),
    ],
)
def test_path_of_an_endpoint(description: str, path: str | None) -> None:
    """The path is found wherever Twisted's grammar allows it."""
    assert unix_path(description) == path


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("description", "mode"),
    [
        ("unix:{path}", 0o600),
        ("unix:address={path}:lockfile=0", 0o600),
        ("unix:{path}:mode=660", 0o660),
        ("unix:mode=660:address={path}", 0o660),
        ("unix:{path}:660", 0o660),
    ],
)
async def test_mode_of_a_socket(tmp_path: Path, description: str, mode: int) -> None:
    """A socket is its owner's alone, as long as its description does not say that it is not."""
    path = tmp_path / "a.sock"
    opened = service(description.format(path=path))
    opened.startService()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    await opened.stopService()


@pytest_twisted.ensureDeferred
async def test_socket_is_private_and_goes(served: Served) -> None:
    """Only the owner may use the socket, and a clean stop removes it and its lock."""
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    await served.service.stopService()
    assert os.listdir(served.path.parent) == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("missing", [["a.sock"], ["a.sock.lock"], ["a.sock", "a.sock.lock"]])
async def test_stop_after_someone_cleaned_up(served: Served, missing: list[str]) -> None:
    """A daemon stops in order even if its socket was removed by hand."""
    for name in missing:
        (served.path.parent / name).unlink()
    await served.service.stopService()
    assert os.listdir(served.path.parent) == []


@pytest_twisted.ensureDeferred
async def test_runtime_directory_is_made(tmp_path: Path) -> None:
    """A fresh machine needs no mkdir; anyone may look into the directory, whatever the umask."""
    before = os.umask(0o077)
    try:
        await starts(f"unix:{tmp_path}/run/a.sock:mode=600:lockfile=1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The line names the directory and the cure."""
    line = refusal(f"unix:{tmp_path}/no/run/a.sock:mode=600:lockfile=1")
    assert line.startswith(f"cannot make {tmp_path}/no/run: No such file or directory; make it")


@pytest.mark.parametrize("lockfile", ["", ":lockfile=1"])
def test_running_daemon_is_left_alone(served: Served, lockfile: str) -> None:
    """A second daemon of the same name does not start, and the first goes on."""
    line = refusal(f"unix:{served.path}:mode=600{lockfile}")
    assert line == f"cannot listen on {served.path}: another daemon does; stop it first"
    assert sorted(os.listdir(served.path.parent)) == ["a.sock", "a.sock.lock"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("owner", [None, 2**22 + 1, 1])
async def test_socket_of_a_killed_daemon_is_taken_over(tmp_path: Path, owner: int | None) -> None:
    """After kill -9 the daemon starts again, even if its process id is someone else's by now."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    if owner is not None:
        (tmp_path / "a.sock.lock").symlink_to(str(owner))
    await starts(f"unix:{path}:mode=600:lockfile=1")
    assert os.listdir(tmp_path) == []


def test_lock_without_socket(tmp_path: Path) -> None:
    """A lock that a living process holds is respected, and the line says what to do."""
    (tmp_path / "a.sock.lock").symlink_to("1")
    line = refusal(f"unix:{tmp_path}/a.sock:mode=600:lockfile=1")
    assert f"another daemon holds {tmp_path}/a.sock.lock; stop it, or remove" in line


def test_file_in_the_way(tmp_path: Path) -> None:
    """A file that is no socket is never removed."""
    (tmp_path / "a.sock").write_text("precious")
    assert "is in the way and no socket" in refusal(f"unix:{tmp_path}/a.sock:lockfile=1")
    assert (tmp_path / "a.sock").read_text() == "precious"


def test_path_too_long(tmp_path: Path) -> None:
    """Linux takes 107 octets; what was made for nothing is removed again."""
    name = "x" * 100
    assert "AF_UNIX path too long" in refusal(f"unix:{tmp_path}/run/{name}.sock:lockfile=1")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "description", ["/run/dmevpn/hub.sock", "unix:", "unix:a:mode=xyz", "gopher:70", "tcp:x", ""]
)
def test_no_endpoint(description: str) -> None:
    """A description that Twisted does not understand is answered with one that it does."""
    assert "unix:/run/dmevpn/NAME.sock:mode=600:lockfile=1" in refusal(description)


@pytest_twisted.ensureDeferred
async def test_any_endpoint() -> None:
    """TCP works as well, and a port in use is named."""
    first = service("tcp:0:interface=127.0.0.1")
    first.startService()
    port: Any = first._port
    line = refusal(f"tcp:{port.getHost().port}:interface=127.0.0.1")
    assert "Address already in use; name another place" in line
    await first.stopService()


def test_an_address_that_nobody_has() -> None:
    """In a network namespace whose loopback is down, that is what is wrong."""
    line = refusal("tcp:0:interface=192.0.2.1")
    assert "no device that is up has it (`ip link set lo up`?); name another place" in line


@pytest_twisted.ensureDeferred
async def test_started_twice_is_stopped_once(tmp_path: Path) -> None:
    """twistd calls both ways to start, and stopping what never started is harmless."""
    both = service(f"unix:{tmp_path}/a.sock:lockfile=1")
    assert both.stopService() is None
    both.privilegedStartService()
    both.privilegedStartService()
    both.startService()
    await both.stopService()
    both.startService()
    await both.stopService()
    assert os.listdir(tmp_path) == []
