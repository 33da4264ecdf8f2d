"""Runs the operator's script on events, as OpenNHRP does. Layer: top.

A script may take its time, hang, or be started faster than it ends: it runs beside the reactor, a
few at once and in order for each subject, has a limit, and what waits is bounded.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.errors import StartError
from dmevpn.interfaces import IScripts
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["LIMIT", "RUNNING", "WAITING", "ScriptRunner"]

#: Seconds that a run may take, as OpenNHRP has it.
LIMIT: Final = 120.0
#: Runs at once: they are processes of a host that has other things to do.
RUNNING: Final = 8
#: Runs that wait. A peer that comes and goes all the time must not make the list grow; what finds
#: no room is as good as a script that failed.
WAITING: Final = 1024
#: Seconds that those that run or wait are given when the daemon stops.
GRACE: Final = 1.0

#: Octets of what a run says that go to the log.
_SAID: Final = 4096

#: All that a script sees besides the words about its event. The daemon's own environment may hold
#: what is nobody else's business.
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class _Run(ProcessProtocol):
    """One run of the script."""

    transport: Any

    def __init__(
        self,
        subject: str,
        event: str,
        environment: dict[str, str],
        done: Callable[[bool], None] | None,
        ended: Callable[[_Run, str], None],
    ) -> None:
        self.subject = subject
        self.event = event
        self.environment = environment
        self.done = done
        self.cancelled = self.overdue = False
        self.limit: Any = None
        self.said = b""
        self._ended = ended

    def outReceived(self, data: bytes) -> None:
        """Keep the beginning of what it says, standard error as well."""
        self.said += data[: _SAID - len(self.said)]

    errReceived = outReceived

    def kill(self, number: int) -> None:
        """Send a signal to the script and to all that it has started."""
        pid = self.transport.pid
        if pid is None:
            return
        # It leads a group of its own as soon as it is the script.
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                send(pid, number)

    def processExited(self, reason: Failure) -> None:
        """It is gone; what it has left in the background does not count."""
        if self.limit.active():
            self.limit.cancel()
        self.transport.loseConnection()
        if self.overdue:
            outcome = "timeout"
        elif self.cancelled:
            outcome = "cancelled"
        else:
            outcome = "ok" if isinstance(reason.value, ProcessDone) else "failed"
        self._ended(self, outcome)


@implementer(IScripts)
class ScriptRunner:
    """Runs one script.

    :param reactor: makes processes, and keeps time.
    :param path: of the script.
    """

    log = Logger()

    def __init__(self, reactor: Any, metrics: Metrics, path: str) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._path = path
        self._setsid = ""
        self._waiting: deque[_Run] = deque()
        self._running: dict[str, _Run] = {}
        self._stopping = False
        self._idle: Deferred[None] = Deferred()
        metrics.gauge("scripts_waiting", lambda: len(self._waiting))

    def start(self) -> None:
        """Make sure that there is a script to run.

        :raises StartError: if it cannot be run, or if anybody may change it.
        """
        try:
            mode = os.stat(self._path).st_mode
        except OSError as error:
            raise StartError(f"opennhrp-script {self._path}: {error.strerror}") from None
        if not stat.S_ISREG(mode) or not os.access(self._path, os.X_OK):
            raise StartError(
                f"opennhrp-script {self._path}: not a program; `chmod +x` it, or name another"
            )
        if mode & stat.S_IWOTH:
            raise StartError(
                f"opennhrp-script {self._path}: everybody may change it; `chmod o-w` it"
            )
        setsid = shutil.which("setsid", path=_ENVIRONMENT["PATH"])
        if setsid is None:
            raise StartError("opennhrp-script needs the program setsid: install util-linux")
        self._setsid = setsid

    def run(
        self,
        subject: str,
        event: str,
        environment: Mapping[str, str],
        done: Callable[[bool], None] | None = None,
    ) -> Callable[[], None]:
        """Run it when its turn has come."""
        run = _Run(subject, event, {**_ENVIRONMENT, **environment}, done, self._ended)
        if self._stopping:
            self._count(run, "refused")
        elif len(self._waiting) >= WAITING:
            # Nobody expects to be called back before this returns.
            self._reactor.callLater(0, self._conclude, run, "refused")
        else:
            self._waiting.append(run)
            self._next()
        return lambda: self._cancel(run)

    def stop(self) -> Deferred[None]:
        """Take no more, give those that are there a second, and kill what is left then."""
        self._stopping = True
        if not self._running:
            return succeed(None)
        late = self._reactor.callLater(GRACE, self._kill_all)
        self._idle.addCallback(lambda _: late.cancel() if late.active() else None)
        return self._idle

    # --- queue ------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what may run now: of each subject one at a time, in order."""
        passed: set[str] = set()
        for run in list(self._waiting):
            if len(self._running) >= RUNNING:
                return
            if run.subject not in self._running and run.subject not in passed:
                self._waiting.remove(run)
                self._spawn(run)
            passed.add(run.subject)

    def _spawn(self, run: _Run) -> None:
        self._running[run.subject] = run
        arguments = ["setsid", self._path, run.event]
        with open(os.devnull, "rb") as null:
            try:
                self._reactor.spawnProcess(
                    run,
                    self._setsid,
                    arguments,
                    env=run.environment,
                    path="/",
                    childFDs={0: null.fileno(), 1: "r", 2: "r"},
                )
            except OSError as error:  # no more processes, memory or files
                self.log.error("{event}: no process: {reason}", event=run.event, reason=str(error))
                self._reactor.callLater(0, self._ended, run, "failed")
                return
        run.limit = self._reactor.callLater(LIMIT, self._overdue, run)

    def _overdue(self, run: _Run) -> None:
        run.overdue = True
        run.kill(signal.SIGKILL)

    def _cancel(self, run: _Run) -> None:
        """Nobody waits for it any more. Its limit holds until it is gone."""
        run.done = None
        run.cancelled = True
        if self._running.get(run.subject) is run:
            if run.limit is not None:
                run.kill(signal.SIGTERM)
        elif run in self._waiting:
            self._waiting.remove(run)
            self._conclude(run, "cancelled")

    def _kill_all(self) -> None:
        self._waiting.clear()
        for run in self._running.values():
            if run.limit is not None:
                self._overdue(run)

    def _ended(self, run: _Run, outcome: str) -> None:
        del self._running[run.subject]
        self._conclude(run, outcome)
        self._next()
        if self._stopping and not self._running:
            self._idle.callback(None)

    def _conclude(self, run: _Run, outcome: str) -> None:
        """Count it, let the log have what it said, and tell who waits."""
        self._count(run, outcome)
        for line in run.said.decode("utf-8", "replace").splitlines():
            self.log.info("{event}: {line}", event=run.event, line=line)
        if outcome not in ("ok", "cancelled"):
            self.log.warn(
                "{event} of {subject}: {outcome}",
                event=run.event,
                subject=run.subject,
                outcome=outcome,
            )
        done, run.done = run.done, None
        if done is not None:
            done(outcome == "ok")

    def _count(self, run: _Run, outcome: str) -> None:
        self._metrics.counter("script_runs", event=run.event, outcome=outcome).inc()
