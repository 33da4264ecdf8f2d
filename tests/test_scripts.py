"""The operator's script is run beside the daemon, and cannot harm it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from dmevpn.errors import StartError
from dmevpn.metrics import Metrics
from dmevpn.scripts import LIMIT, RUNNING, WAITING, ScriptRunner


class Reactor(Clock):
    """Makes real processes, and lets the test tell the time."""

    spawnProcess = staticmethod(reactor.spawnProcess)  # type: ignore[attr-defined]


class Shell:
    """A script, and where it writes."""

    def __init__(self, directory: Path, body: str, clock: Any = None) -> None:
        self.path = directory / "opennhrp-script"
        self.path.write_text(f"#!/bin/sh\ncd '{directory}'\n{body}\n")
        self.path.chmod(0o755)
        self.directory = directory
        self.metrics = Metrics()
        self.clock = clock or Reactor()
        self.runner = ScriptRunner(self.clock, self.metrics, str(self.path))
        self.runner.start()

    def run(self, subject: str = "x", event: str = "peer-up", **environment: str) -> Deferred[bool]:
        """Run it; fires with how it ended."""
        outcome: Deferred[bool] = Deferred()
        self.runner.run(subject, event, environment, outcome.callback)
        return outcome

    def wrote(self, name: str = "out") -> str:
        """What it has written to a file."""
        file = self.directory / name
        return file.read_text() if file.exists() else ""

    def runs(self, outcome: str, event: str = "peer-up") -> int:
        """How many were counted with an outcome."""
        return self.metrics.value("script_runs", event=event, outcome=outcome)


@pytest_twisted.inlineCallbacks
def test_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One argument, the words about the event, and nothing of the daemon's."""
    monkeypatch.setenv("PASSWORD", "secret")
    with open(tmp_path / "of-the-daemon", "w") as ours:
        os.set_inheritable(ours.fileno(), True)
        shell = Shell(tmp_path, 'echo "$# $1" > args; env > env; ls -l /proc/$$/fd > fds; cat')
        ended = yield shell.run(NHRP_TYPE="static", NHRP_DESTADDR="10.255.255.1")
    assert ended is True and shell.runs("ok") == 1
    assert shell.wrote("args") == "1 peer-up\n"
    said = dict(line.split("=", 1) for line in shell.wrote("env").splitlines())
    assert set(said) - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "NHRP_TYPE", "NHRP_DESTADDR"}
    assert (said["NHRP_TYPE"], said["NHRP_DESTADDR"]) == ("static", "10.255.255.1")
    assert "of-the-daemon" not in shell.wrote("fds")
    assert shell.clock.getDelayedCalls() == []


@pytest_twisted.inlineCallbacks
def test_how_it_ends(tmp_path: Path) -> Any:
    """Any other status than 0 is a refusal, and so is a signal."""
    shell = Shell(tmp_path, "case $1 in peer-up) exit 3;; peer-down) kill -9 $$;; esac")
    assert (yield shell.run()) is False
    assert (yield shell.run(event="peer-down")) is False
    assert (yield shell.run(event="nhs-up")) is True
    assert shell.runs("failed") == shell.runs("failed", "peer-down") == 1


@pytest_twisted.inlineCallbacks
def test_what_is_left_in_the_background(tmp_path: Path) -> Any:
    """The script has ended, though a child of it still has its output open."""
    shell = Shell(tmp_path, "sleep 60 & echo $! > out")
    assert (yield shell.run()) is True
    os.kill(int(shell.wrote()), signal.SIGKILL)


@pytest_twisted.inlineCallbacks
def test_order(tmp_path: Path) -> Any:
    """Of one subject, one after the other; of several, beside each other."""
    shell = Shell(
        tmp_path,
        """echo "$NHRP_N begins" >> out-$NHRP_S
        until [ -e go-$NHRP_S ]; do sleep 0.02; done
        echo "$NHRP_N ends" >> out-$NHRP_S""",
    )
    first = shell.run("a", NHRP_S="a", NHRP_N="1")
    second = shell.run("a", "peer-down", NHRP_S="a", NHRP_N="2")
    other = shell.run("b", NHRP_S="b", NHRP_N="3")
    (tmp_path / "go-b").touch()
    yield other
    assert "2" not in shell.wrote("out-a")
    (tmp_path / "go-a").touch()
    yield first
    yield second
    assert shell.wrote("out-a").splitlines() == ["1 begins", "1 ends", "2 begins", "2 ends"]


@pytest_twisted.inlineCallbacks
def test_the_limit(tmp_path: Path) -> Any:
    """A script that hangs is killed with all that it has started, and has refused."""
    shell = Shell(tmp_path, "trap '' TERM; sleep 600 & echo $! > out; wait; sleep 600")
    outcome = shell.run()
    yield until(lambda: shell.wrote() != "")
    shell.clock.advance(LIMIT - 1)
    assert not outcome.called
    shell.clock.advance(1)
    assert (yield outcome) is False
    assert shell.runs("timeout") == 1
    yield until(lambda: not alive(int(shell.wrote())))


@pytest_twisted.inlineCallbacks
def test_cancelling(tmp_path: Path) -> Any:
    """Who waits no more is not called, whether the script runs or waits for its turn."""
    shell = Shell(tmp_path, "echo $$ > out; exec sleep 600")
    called: list[bool] = []
    end = shell.runner.run("a", "peer-up", {}, called.append)
    forget = shell.runner.run("a", "peer-up", {}, called.append)
    yield until(lambda: shell.wrote() != "")
    forget()
    assert shell.runs("cancelled") == 1
    end()
    yield until(lambda: shell.runs("cancelled") == 2)
    end()
    assert called == [] and shell.clock.getDelayedCalls() == []
    assert not alive(int(shell.wrote()))


@pytest_twisted.inlineCallbacks
def test_stopping(tmp_path: Path) -> Any:
    """What runs has a second; what waits then is forgotten, and nothing new begins."""
    shell = Shell(tmp_path, '[ "$1" = nhs-down ] && exit; echo $$ > out; exec sleep 600')
    shell.run("a")
    shell.run("a", "peer-down")
    quick = shell.run("b", "nhs-down")
    yield until(lambda: shell.wrote() != "")
    stopped = shell.runner.stop()
    assert (yield quick) is True
    shell.run("c")
    assert shell.runs("refused") == 1
    assert not stopped.called
    shell.clock.advance(1)
    yield stopped
    assert not alive(int(shell.wrote()))
    assert shell.runs("ok", "peer-down") == 0 and shell.clock.getDelayedCalls() == []


@pytest_twisted.inlineCallbacks
def test_stopping_without_anything(tmp_path: Path) -> Any:
    """Nobody waits for nothing."""
    shell = Shell(tmp_path, "exit 0")
    yield shell.run()
    assert shell.runner.stop().called


class FakeProcesses(Clock):
    """Makes processes that end when they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Any] = []

    def spawnProcess(self, protocol: Any, *args: Any, **kw: Any) -> None:
        self.processes.append(protocol)
        protocol.makeConnection(type("T", (), {"pid": None, "loseConnection": lambda self: None})())

    def end(self, protocol: Any, status: int = 0) -> None:
        """Let one end."""
        self.processes.remove(protocol)
        reason = ProcessDone(0) if status == 0 else ProcessTerminated(status)
        protocol.processExited(Failure(reason))


def test_bounds(tmp_path: Path) -> None:
    """A few run, so many wait, and what finds no room has failed."""
    clock = FakeProcesses()
    shell = Shell(tmp_path, "exit 0", clock)
    outcomes = [shell.run(str(number)) for number in range(RUNNING + WAITING + 2)]
    assert len(clock.processes) == RUNNING
    assert not outcomes[-1].called, "nobody is called back before it expects it"
    clock.advance(0)
    assert [each.called for each in outcomes] == [False] * (RUNNING + WAITING) + [True, True]
    assert outcomes[-1].result is False and shell.runs("refused") == 2
    (waiting,) = [s.value for s in shell.metrics.snapshot() if s.name == "dmevpn_scripts_waiting"]
    assert waiting == WAITING
    while clock.processes:
        assert len(clock.processes) <= RUNNING
        clock.end(clock.processes[0])
    assert shell.runs("ok") == RUNNING + WAITING


def test_no_process_to_be_had(tmp_path: Path) -> None:
    """The kernel may have none: that is a refusal, and the next one is tried again."""
    clock = FakeProcesses()
    shell = Shell(tmp_path, "exit 0", clock)

    def refuse(*args: Any, **kw: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    clock.spawnProcess = refuse  # type: ignore[method-assign]
    outcome = shell.run()
    clock.advance(0)
    assert outcome.result is False
    del clock.spawnProcess
    shell.run()
    clock.end(clock.processes[0])
    assert shell.runs("ok") == 1


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o644, "not a program; `chmod +x` it, or name another"),
        (0o757, "everybody may change it; `chmod o-w` it"),
    ],
)
def test_a_script_that_cannot_be(tmp_path: Path, mode: int, message: str) -> None:
    """The daemon does not start with it, and says in one line what is wrong."""
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    with pytest.raises(StartError) as caught:
        ScriptRunner(Clock(), Metrics(), str(path)).start()
    assert str(caught.value) == f"opennhrp-script {path}: {message}"


def test_no_script(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a directory, is told as well."""
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "not a program")):
        with pytest.raises(StartError, match=message):
            ScriptRunner(Clock(), Metrics(), str(path)).start()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true: Callable[[], bool]) -> Deferred[None]:
    """Let the reactor turn until something is so."""
    done: Deferred[None] = Deferred()
    deadline = reactor.seconds() + 20  # type: ignore[attr-defined]

    def look() -> None:
        if true():
            done.callback(None)
        elif reactor.seconds() > deadline:  # type: ignore[attr-defined]
            done.errback(AssertionError("it has not become so"))
        else:
            reactor.callLater(0.01, look)  # type: ignore[attr-defined]

    look()
    return done
