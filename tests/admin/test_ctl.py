"""dmevpnctl: what is typed, what is printed, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from dmevpn import __version__
from dmevpn.admin import client
from dmevpn.admin.commands import read_words
from dmevpn.admin.ctl import Options, find_endpoint, main, perform, read_options
from dmevpn.admin.parameters import UsageError
from dmevpn.errors import CommandError
from tests.admin.conftest import Served, until
from tests.admin.fakes import binding

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "dmevpn.admin.ctl"]


class Ran:
    """What a process left behind."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.error = done.stderr


async def ctl(served: Served, *arguments: str, **options: Any) -> Ran:
    """Run the real program against the daemon."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, "--endpoint", served.endpoint, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            **options,
        )

    done: Deferred[subprocess.CompletedProcess[str]] = deferToThread(run)
    return Ran(await done)


# --- words and options --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("cache show", Options(("cache", "show"))),
        ("--json cache show", Options(("cache", "show"), json=True)),
        ("cache show --json", Options(("cache", "show"), json=True)),
        ("--name hub version", Options(("version",), name="hub")),
        ("--endpoint=tcp:h:1 version", Options(("version",), endpoint="tcp:h:1")),
        ("cache -h", Options(("cache",), help=True)),
        ("", Options(())),
    ],
)
def test_options(line: str, options: Options) -> None:
    """Options may stand before or behind the command."""
    assert read_options(line.split()) == options


@pytest.mark.parametrize(
    ("line", "lesson"),
    [
        ("--jsno cache show", "did you mean '--json'?"),
        ("version --name", "--name wants a value"),
        ("--json=yes version", "--json takes no value"),
        ("--name a --endpoint unix:b version", "exclude each other"),
    ],
)
def test_wrong_options(line: str, lesson: str) -> None:
    """A wrong option is named, with the right one if that is near."""
    with pytest.raises(UsageError, match=lesson.replace("?", r"\?")):
        read_options(line.split())


def listening(directory: Path, *names: str) -> None:
    for name in names:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(directory / f"{name}.sock"))


def test_the_only_daemon(tmp_path: Path) -> None:
    """With one daemon there is nothing to say; locks and other files do not count."""
    listening(tmp_path, "hub")
    (tmp_path / "hub.sock.lock").symlink_to("1")
    (tmp_path / "file.sock").write_text("")
    assert find_endpoint(Options(()), str(tmp_path)) == f"unix:{tmp_path}/hub.sock"


def test_several_daemons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With several, they are listed and the status is that of wrong usage."""
    listening(tmp_path, "spoke", "hub")
    assert main(["version"], str(tmp_path)) == 2
    assert capsys.readouterr().err == (
        "dmevpnctl: several daemons: say which with --name: hub spoke\n"
    )
    assert find_endpoint(Options((), name="hub"), str(tmp_path)) == f"unix:{tmp_path}/hub.sock"


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a daemon the status is 3, and the line says where it was looked for."""
    for directory in (tmp_path, tmp_path / "absent"):
        assert main(["version"], str(directory)) == 3
        assert f"no socket in {directory}; is one running?" in capsys.readouterr().err


def test_odd_names(tmp_path: Path) -> None:
    """A colon in a name does not end the endpoint; a path is no name."""
    assert find_endpoint(Options((), name="a:b"), "/run") == r"unix:/run/a\:b.sock"
    with pytest.raises(UsageError, match="see --endpoint"):
        find_endpoint(Options((), name="../hub"), "/run")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("--help", "usage: dmevpnctl [OPTION ...] COMMAND"),
        ("cache --help", "usage: dmevpnctl cache COMMAND"),
        ("cache resolve --help", "usage: dmevpnctl cache resolve M [vpn N]"),
        ("cache show vpn 1 --help", "usage: dmevpnctl cache show [vpn N]"),
        ("member --help", "usage: dmevpnctl member show [vpn N]"),
        ("--version", f"dmevpnctl {__version__}"),
    ],
)
def test_help_needs_no_daemon(line: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help is there on any machine, for all and for each command."""
    assert main(line.split(), "/nonexistent") == 0
    assert capsys.readouterr().out.startswith(first)


@pytest.mark.parametrize("line", ["", "cach --help", "cache shwo", "cache show vpn 0"])
def test_wrong_usage_needs_no_daemon(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one line on standard error and status 2, before any daemon is asked."""
    assert main(line.split(), "/nonexistent") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dmevpnctl: ")
    assert captured.err.count("\n") == 1


def test_help_is_fast() -> None:
    """Help does not load Twisted: a mistyped command costs a blink."""
    script = (
        "import sys; from dmevpn.admin import ctl; ctl.main(['cache', '--help']);"
        "assert not [name for name in sys.modules if name.startswith('twisted')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True)


# --- the program --------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_json(served: Served) -> None:
    """--json prints one object and nothing else."""
    served.controller.tables["bindings"] = [binding(1), binding(2, type="static", expires_in=None)]
    ran = await ctl(served, "--json", "cache", "show", "type", "static")
    assert (ran.status, ran.error) == (0, "")
    assert json.loads(ran.out) == {
        "attr": {"entriesCount": 1},
        "table": [binding(2, type="static", expires_in=None)],
    }


@pytest_twisted.ensureDeferred
async def test_text(served: Served) -> None:
    """Text is a table with headings; an empty one is a sentence and no failure."""
    assert (await ctl(served, "cache", "show")).out == "no bindings\n"
    served.controller.tables["bindings"] = [binding(1)]
    ran = await ctl(served, "cache", "show")
    assert (ran.status, ran.error) == (0, "")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["vpn", "protocol", "type", "nbma", "vni", "expires_in", "flags", "interface"],
        ["1", "52:54:00:00:00:01", "cached", "192.0.2.7", "101", "1h", "58m", "used,up", "vx1"],
    ]


@pytest_twisted.ensureDeferred
async def test_refusal(served: Served) -> None:
    """A refusal is one line on standard error and status 1."""
    served.controller.removed = 0
    ran = await ctl(served, "cache", "purge", "vpn", "7")
    assert (ran.status, ran.out, ran.error) == (1, "", "dmevpnctl: no binding to purge\n")


@pytest_twisted.ensureDeferred
async def test_configuration_with_errors(served: Served, tmp_path: Path) -> None:
    """config check prints what is wrong, takes paths from where we are, and ends with 1."""
    served.controller.report = {"ok": False, "messages": ["hub.conf:3: what is this near 'x'"]}
    ran = await ctl(served, "config", "check", "hub.conf", cwd=tmp_path)
    assert ran.status == 1
    assert ran.out == "hub.conf:3: what is this near 'x'\n"
    assert ran.error == "dmevpnctl: the file has errors\n"
    assert served.controller.asked == [("config_check", {"path": f"{tmp_path}/hub.conf"})]


@pytest_twisted.ensureDeferred
async def test_broken_pipe(served: Served) -> None:
    """`dmevpnctl cache show | head -1` prints one line and no complaint."""
    served.controller.tables["bindings"] = [binding(number) for number in range(5000)]
    command = shlex.join([*PROGRAM, "--endpoint", served.endpoint, "cache", "show"]) + " | head -1"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
        )

    done: Deferred[subprocess.CompletedProcess[str]] = deferToThread(run)
    ran = await done
    assert ran.stdout.count("\n") == 1
    assert ran.stderr == ""


@pytest_twisted.ensureDeferred
async def test_interrupt(served: Served) -> None:
    """Ctrl-C ends a watch at once and in silence, and everything before it was printed."""
    process = subprocess.Popen(
        [*PROGRAM, "--endpoint", served.endpoint, "--json", "cache", "watch", "vpn", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    await until(lambda: served.controller.listeners)
    served.controller.tell({"event": "added", **binding(1)})
    assert process.stdout is not None
    line: Deferred[str] = deferToThread(process.stdout.readline)
    assert json.loads(await line) == {"event": "added", **binding(1)}
    process.send_signal(signal.SIGINT)
    done: Deferred[tuple[str, str]] = deferToThread(process.communicate)
    assert await done == ("", "")
    assert process.returncode == -signal.SIGINT
    await until(lambda: not served.controller.listeners)


@pytest_twisted.ensureDeferred
async def test_watch_until_the_daemon_stops(served: Served) -> None:
    """A watch ends with its daemon, and says so."""
    out = io.StringIO()
    command, arguments = read_words(["cache", "watch"])
    watching = Deferred.fromCoroutine(
        perform(reactor, served.endpoint, command, arguments, json=False, out=out)
    )
    await until(lambda: served.controller.listeners)
    served.controller.tell({"event": "expired", **binding(1, vni=None)})
    await until(out.getvalue)
    await served.service.stopService()
    with pytest.raises(CommandError, match="the daemon stops"):
        await watching
    assert out.getvalue().startswith("expired  vpn 1 protocol 52:54:00:00:00:01 type cached")


@pytest_twisted.ensureDeferred
async def test_following(served: Served) -> None:
    """`events --follow` begins with what the journal has and goes on, filtered, a row a line."""
    served.controller.tables["events"] = [{"serial": 1, "event": "moved"}, {"event": "learned"}]
    out = io.StringIO()
    command, arguments = read_words(["events", "event", "moved"])
    watching = Deferred.fromCoroutine(
        perform(reactor, served.endpoint, command, arguments, json=True, follow=True, out=out)
    )
    await until(lambda: served.controller.listeners)
    served.controller.tell({"serial": 3, "event": "moved"})
    await until(lambda: out.getvalue().count("\n") == 2)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["serial"], row["event"]) for row in rows] == [(1, "moved"), (3, "moved")]
    await served.service.stopService()
    with pytest.raises(CommandError, match="the daemon stops"):
        await watching


@pytest_twisted.ensureDeferred
async def test_doctor(served: Served) -> None:
    """Nothing found is status 0; findings are told with their cures, and status 1."""
    ran = await ctl(served, "doctor")
    assert (ran.status, ran.out, ran.error) == (0, "nothing found wrong\n", "")
    served.controller.tables["doctor"] = [
        {"check": "hub", "subject": "192.0.2.1", "finding": "no answer", "cure": "start it"}
    ]
    ran = await ctl(served, "doctor")
    assert (ran.status, ran.error) == (1, "dmevpnctl: 1 finding\n")
    assert ran.out == "hub      192.0.2.1: no answer\n    cure: start it\n"


@pytest_twisted.ensureDeferred
async def test_explain(served: Served) -> None:
    """The verdict stands first, and the rest is indented below it."""
    told = {"vpn": 1, "nbma": "192.0.2.7", "vni": 101, "since": 75, "by": "192.0.2.1"}
    served.controller.tables["explain"] = [
        {"about": "verdict", "text": "frames go straight to 192.0.2.7", **told},
        {"about": "event", "text": "moved", **told, "by": None},
    ]
    ran = await ctl(served, "explain", "52:54:00:00:00:01")
    assert (ran.status, ran.error) == (0, "")
    assert ran.out.splitlines() == [
        "vpn 1            frames go straight to 192.0.2.7, since 1m 15s, says 192.0.2.1",
        "  event          moved, 1m 15s ago",
    ]
    assert (await ctl(served, "explain")).status == 2


def test_not_everything_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A table does not change by itself."""
    assert main(["cache", "show", "--follow"]) == 2
    assert capsys.readouterr().err == "dmevpnctl: `cache show` cannot be followed, only: events\n"


# --- daemons that do not answer -----------------------------------------------------------


class ReactorOnClock:
    """The real reactor, whose timed calls wait for a test to advance a clock."""

    def __init__(self) -> None:
        self.clock = Clock()

    def callLater(self, *arguments: Any) -> Any:
        return self.clock.callLater(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Stranger(Protocol):
    """Something else that listens."""

    def __init__(self, greeting: bytes, close: bool) -> None:
        self.greeting = greeting
        self.close = close

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.greeting)
        if self.close:
            self.transport.loseConnection()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("greeting", "close", "said"),
    [
        (b"", True, "closed the connection"),
        (b"", False, "no answer from"),
        (b"220 mail.example ESMTP\r\n", True, "closed the connection"),
        (b"\xff" * 100, False, "closed the connection"),
    ],
    ids=["hangs up", "silent", "mail server", "garbage"],
)
async def test_strangers(tmp_path: Path, greeting: bytes, close: bool, said: str) -> None:
    """Whatever listens there instead of a daemon, dmevpnctl ends, and with one line."""
    path = tmp_path / "s.sock"
    factory = Factory.forProtocol(lambda: Stranger(greeting, close))  # type: ignore[arg-type]
    port = await serverFromString(reactor, f"unix:{path}").listen(factory)
    clocked = ReactorOnClock()
    outcome: list[Any] = []
    asking = Deferred.fromCoroutine(client.run(clocked, f"unix:{path}", "version", {}))
    asking.addErrback(lambda failure: outcome.append(failure.value))
    await until(lambda: outcome or close or len(clocked.clock.getDelayedCalls()) == 1)
    if not close and not greeting:
        clocked.clock.advance(client.CONNECT_TIMEOUT)
        clocked.clock.advance(client.ANSWER_TIMEOUT)
    await until(lambda: outcome)
    assert isinstance(outcome[0], client.NoDaemon)
    assert said in str(outcome[0])
    assert clocked.clock.getDelayedCalls() == []
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_stuck_daemon(served: Served) -> None:
    """A daemon that never finishes a command costs its client no more than a while."""
    served.controller.resolution = Deferred()
    clocked = ReactorOnClock()
    asking = Deferred.fromCoroutine(
        client.run(clocked, served.endpoint, "cache resolve", {"mac": "52:54:00:00:00:01"})
    )
    await until(lambda: served.controller.asked)
    clocked.clock.advance(client.ANSWER_TIMEOUT)
    with pytest.raises(client.NoDaemon, match="may be stopped or overloaded"):
        await asking


@pytest_twisted.ensureDeferred
async def test_left_behind_socket(tmp_path: Path) -> None:
    """A socket that nobody listens on any more is no daemon."""
    listening(tmp_path, "hub")
    with pytest.raises(client.NoDaemon, match="connection refused; is it running"):
        await client.run(reactor, f"unix:{tmp_path}/hub.sock", "version", {})


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("endpoint", ["/run/dmevpn/hub.sock", "gopher:x", "tcp:h:port"])
async def test_no_client_endpoint(endpoint: str) -> None:
    """An endpoint that Twisted does not understand is wrong usage, with one that it does."""
    with pytest.raises(UsageError, match="write for example unix:/run/dmevpn/NAME"):
        await client.run(reactor, endpoint, "version", {})
