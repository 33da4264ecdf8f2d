"""One daemon: the node, its admin interface, and what the system tells it. Layer: top."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import inlineCallbacks, maybeDeferred
from twisted.logger import ILogObserver

from dmevpn.config.diff import diff
from dmevpn.errors import DmevpnError, StartError
from dmevpn.garbage import GarbageCollection
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from dmevpn.roles.node import STOP_LIMIT, Node
from dmevpn.statelock import StateLock
from dmevpn.systemd import Watchdog, notify_systemd, reloading

__all__ = ["Daemon"]

#: Seconds between a `shutdown` and the end.
_LAST_WORD = 0.1

Row = dict[str, Any]


class Daemon(Service):
    """Starts the node before the admin interface and stops it after.

    :param operators: makes the services that listen for operators, of a controller.
    :param observer: where the log goes; None leaves that to twistd.
    :param garbage: how Python looks for garbage while we run; None leaves that to Python.
    :param check: called before anything is touched; raises StartError if it would be in vain.
    :param lock: held while anything of ours may be there; None keeps nobody out.
    """

    log = Logger()

    def __init__(
        self,
        *,
        config: ConfigFile,
        node: Node,
        operators: Callable[[IController], list[IService]],
        reactor: Any,
        observer: ILogObserver | None = None,
        garbage: GarbageCollection | None = None,
        check: Callable[[], None] = lambda: None,
        lock: StateLock | None = None,
    ) -> None:
        self.node = node
        self._check = check
        self._lock = StateLock(None) if lock is None else lock
        self._config = config
        self._refused = node.metrics.counter("reloads_refused")
        self._reactor = reactor
        self._observer = observer
        self._watchdog = Watchdog(reactor)
        self._garbage = garbage
        self._operators = operators(Controller(node, config, self.reload, self.shutdown))

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application; twistd looks there for the log's observer."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Open sockets and devices; all of them or none.

        :raises StartError: in one line, what is missing and the cure.
        """
        try:
            self._check()
            self._lock.take()
            self.node.privilegedStartService()
            for service in self._operators:
                service.privilegedStartService()  # type: ignore[no-untyped-call]
        except BaseException as error:
            if isinstance(error, StartError):
                self.log.error("not started: {reason}", reason=str(error))
            self._unwind()
            raise

    def _unwind(self) -> None:
        """Undo half a start. The reactor, which will never run now, gets the turns it takes."""
        stopping = self.stopService()
        deadline = self._reactor.seconds() + STOP_LIMIT
        while not stopping.called and self._reactor.seconds() < deadline:
            self._reactor.iterate(0.01)

    def startService(self) -> None:
        """Everything runs: hear SIGHUP, and tell the service manager."""
        super().startService()  # type: ignore[no-untyped-call]
        self.node.startService()
        for service in self._operators:
            service.startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        signal.signal(signal.SIGUSR2, lambda *_: self._reactor.callFromThread(self.give_way))
        self._watchdog.start()
        if self._garbage is not None:
            self._garbage.start()
        notify_systemd("READY=1", self._status())

    @inlineCallbacks
    def stopService(self) -> Any:
        """Operators first, so that they do not see a half-stopped node."""
        super().stopService()  # type: ignore[no-untyped-call]
        notify_systemd("STOPPING=1")
        self._watchdog.stop()
        if self._garbage is not None:
            self._garbage.stop()
        for service in self._operators:
            try:
                yield maybeDeferred(service.stopService)
            except Exception:
                self.log.failure("an operators' service did not close")
        yield self.node.stopService()
        self._lock.free()

    def give_way(self) -> None:
        """End the process, and leave what forwards to a successor: for an upgrade."""
        self.node.leaving = True
        self._reactor.stop()

    def shutdown(self) -> None:
        """End the process, and leave nothing, whatever ``leave-forwarding`` says.

        A moment later, so that who has asked hears that it was heard.
        """
        self.log.info("shutting down: everything is taken down")
        self.node.leaving = False
        self._reactor.callLater(_LAST_WORD, self._reactor.stop)

    # --- reload -------------------------------------------------------------------------

    @inlineCallbacks
    def reload(self) -> Any:
        """Read the file again and make it true; a mistake in it changes nothing.

        :returns: Deferred of ``{"ok": bool, "messages": [str, …]}``.
        """
        reloading(self._reactor.seconds())
        status = "the reload failed: the log says why"
        try:
            report = yield self._apply_file()
            status = self._status() if report["ok"] else "not reloaded: the log says why"
        finally:
            notify_systemd("READY=1", status)
        return report

    def _status(self) -> str:
        plan = self.node.plan
        return (
            f"{len(plan.spokes)} spoke and {len(plan.hubs)} hub interfaces of {self._config.path}"
        )

    @inlineCallbacks
    def _apply_file(self) -> Any:
        plan, messages = self._config.load()
        for message in messages:
            self.log.warn("{message}", message=message)
        if plan is None:
            self._refused.inc()
            self.log.error("{path}: not reloaded", path=self._config.path)
            return {"ok": False, "messages": messages}
        messages += [
            f"a change of `{keyword}` waits for the next start"
            for keyword in diff(self.node.plan, plan).postponed
        ]
        try:
            yield self.node.apply(plan)
        except DmevpnError as error:
            self.log.error("{reason}", reason=str(error))
            return {"ok": False, "messages": [*messages, str(error)]}
        self.log.info("{path}: reloaded", path=self._config.path)
        return {"ok": True, "messages": messages}
