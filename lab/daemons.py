"""dmevpn daemons in namespaces, run and asked the way a user does: twistd and dmevpnctl."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.netns import Namespace
from lab.wait import eventually

__all__ = ["ROOT", "Control", "Daemon", "Starved", "daemon_environment", "twistd_command"]

#: The checkout: the daemons run from it whether or not it is installed.
ROOT = Path(__file__).resolve().parent.parent


def daemon_environment() -> dict[str, str]:
    """The environment of a daemon: ours, with the checkout where Python looks for packages."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def twistd_command(config: Path, *options: str) -> list[str]:
    """The command line of a daemon in the foreground.

    :param options: more words for ``twistd dmevpn``, such as ``--check``.
    """
    twistd = (sys.executable, str(Path(sys.executable).with_name("twistd")))
    return [*twistd, "-n", "--pidfile=", "--umask=077", "dmevpn", "--config", str(config), *options]


class Control:
    """``dmevpnctl`` for one daemon.

    :param path: the daemon's UNIX socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def words(self, *command: str) -> list[str]:
        """The words of ``dmevpnctl ...`` as a user types them."""
        return ["dmevpnctl", "--endpoint", f"unix:{self.path}", *command]

    def run(self, *command: str, json: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command; the caller looks at its exit status."""
        options = self.words(*(["--json"] if json else []), *command)[1:]
        return subprocess.run(
            [sys.executable, "-m", "dmevpn.admin.ctl", *options],
            capture_output=True,
            text=True,
            env=daemon_environment(),
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def text(self, *command: str) -> str:
        """What a command prints for people.

        :raises AssertionError: it failed.
        """
        done = self.run(*command)
        assert done.returncode == 0, f"dmevpnctl {' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def rows(self, *command: str) -> list[dict[str, Any]]:
        """The rows that a ``show`` command prints as JSON.

        :raises AssertionError: it failed.
        """
        done = self.run(*command, json=True)
        assert done.returncode == 0, f"dmevpnctl {' '.join(command)}: {done.stderr.strip()}"
        return _table(done.stdout)

    def findings(self) -> list[dict[str, Any]]:
        """What ``doctor`` finds, which ends with 1 if it finds anything.

        :raises AssertionError: it failed.
        """
        done = self.run("doctor", json=True)
        assert done.returncode in (0, 1) and done.stdout, f"dmevpnctl doctor: {done.stderr.strip()}"
        return _table(done.stdout)


def _table(text: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(text)["table"]
    return table


class Daemon:
    """One ``twistd dmevpn``, with its admin socket, state and log in a directory of the laboratory.

    :param namespace: where it runs.
    :param directory: where its files go.
    :param name: their base name.
    :param config: the text of its configuration; ``admin`` and ``state-dir`` are added here.
    :param disk: where its log and its state go, if not into the directory.
    :param environment: what it is started with besides our own environment.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        name: str,
        config: str,
        *,
        disk: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._environment = dict(environment or {})
        self.namespace = namespace
        self.config_path = directory / f"{name}.conf"
        self.log_path = (disk or directory) / f"{name}.log"
        self.state_path = (disk or directory) / f"{name}.state"
        self.socket_path = directory / f"{name}.sock"
        self.ctl = Control(self.socket_path)
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write its configuration anew; a running daemon notices at its next reload or start."""
        # First, since behind an `interface` these words would belong to it.
        self.config_path.write_text(
            f"admin unix:{self.socket_path}:mode=600:lockfile=1\n"
            f"state-dir {self.state_path}\n\n{config}"
        )

    @property
    def pid(self) -> int:
        """Its process.

        :raises AssertionError: it has not been started.
        """
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def waited(self) -> float:
        """Seconds for which it could have gone on, and others had the processors; 0 if it does not
        run."""
        if not self.running:
            return 0.0
        # Documentation/scheduler/sched-stats.rst: on the processor, waiting for one, and how often.
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    @property
    def log(self) -> str:
        """All that it has said since it was first started."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self) -> list[str]:
        """The command line that it is started by."""
        return self.namespace.command(*twistd_command(self.config_path))

    def start(self, *, timeout: float = 60) -> None:
        """Start it and wait until it answers at its admin socket, which it opens last.

        :raises AssertionError: it ended, or is not there in time; the text has the end of its log.
        """
        assert not self.running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**daemon_environment(), **self._environment},
                cwd=self.config_path.parent,
                # An interrupt at the terminal is for the laboratory, which then stops it in order.
                start_new_session=True,
            )
        eventually(f"admin socket of {self.name}", self._answers, timeout=timeout)

    def reload(self, config: str, *, timeout: float = 30) -> None:
        """Have it read another configuration, by the signal, and wait until it says so."""
        before = self.log.count("reloaded")
        self.configure(config)
        self.signal(signal.SIGHUP)
        eventually(
            f"reload of {self.name}", lambda: self.log.count("reloaded") > before, timeout=timeout
        )

    def _answers(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"{self.name} ended with status {status}:\n{self.log[-3000:]}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(str(self.socket_path)) == 0

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self, *, timeout: float = 10, by: int | None = None) -> None:
        """End it as systemd does, and wait until it is gone.

        :param by: the number of another signal: SIGINT ends it as a user does at a terminal.
        :raises AssertionError: it takes longer than ``timeout`` seconds, and is killed.
        """
        if not self.running:
            return
        self.signal(signal.SIGTERM if by is None else by)
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not stop:\n{self.log[-3000:]}") from None

    def kill(self) -> None:
        """End it without a chance to tidy up, by SIGKILL."""
        if self.running:
            self.signal(signal.SIGKILL)
            assert self._process is not None
            self._process.wait()

    def assert_sound(self) -> None:
        """Check that its log has no traceback and no unhandled error."""
        log = self.log
        for sign in ("Traceback (most recent call last)", "Unhandled", "[critical]"):
            assert sign not in log, f"{self.name} logged an error:\n{log[-5000:]}"


class Starved:
    """How long daemons have waited for a processor since this was made, all together.

    What they do comes as much later on a busy machine, at most, which is no fault of theirs.
    """

    def __init__(self, *daemons: Daemon) -> None:
        self._before = [(daemon, daemon.waited) for daemon in daemons]

    @property
    def seconds(self) -> float:
        """So long; of a daemon that was started meanwhile, from its start on."""
        return sum(max(0.0, daemon.waited - before) for daemon, before in self._before)
