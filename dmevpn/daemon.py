"""One daemon: the node, its admin interface, and what the system tells it. Layer: top."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred

from dmevpn.config.diff import diff
from dmevpn.config.model import Plan
from dmevpn.errors import DmevpnError, StartError
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from dmevpn.roles.node import STOP_LIMIT, Node

__all__ = ["Daemon", "notify_systemd"]

Row = dict[str, Any]


def notify_systemd(state: str) -> None:
    """Tell the service manager (sd_notify) how we are, if it wants to know.

    :param state: such as ``READY=1``.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            Logger().warn("the service manager does not listen at {path}", path=address)


class Daemon(Service):
    """Starts the node before the admin interface and stops it after.

    :param admin: makes the service that listens on an endpoint for operators.
    """

    log = Logger()

    def __init__(
        self,
        *,
        config: ConfigFile,
        plan: Plan,
        node: Node,
        admin: Callable[[str, IController], IService],
        reactor: Any,
    ) -> None:
        self.node = node
        self._config = config
        self._reactor = reactor
        self._reloading: Deferred[Row] | None = None
        controller = Controller(node, config, self.reload)
        self._admin = [admin(endpoint, controller) for endpoint in plan.admin]

    def privilegedStartService(self) -> None:
        """Open sockets and devices; all of them or none.

        :raises StartError: in one line, what is missing and the cure.
        """
        try:
            self.node.privilegedStartService()
            for service in self._admin:
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
        for service in self._admin:
            service.startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        notify_systemd("READY=1")

    @inlineCallbacks
    def stopService(self) -> Any:
        """Operators first, so that they do not see a half-stopped node."""
        super().stopService()  # type: ignore[no-untyped-call]
        notify_systemd("STOPPING=1")
        for service in self._admin:
            yield maybeDeferred(service.stopService)
        yield self.node.stopService()

    # --- reload -------------------------------------------------------------------------

    @inlineCallbacks
    def reload(self) -> Any:
        """Read the file again and make it true; a mistake in it changes nothing.

        :returns: Deferred of ``{"ok": bool, "messages": [str, …]}``.
        """
        plan, messages = self._config.load()
        for message in messages:
            self.log.warn("{message}", message=message)
        if plan is None:
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
