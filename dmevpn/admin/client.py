"""The client's side of the admin interface, which never waits for ever. Layer: admin."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionRefusedError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.spread import pb
from zope.interface import implementer

from dmevpn.admin import tls
from dmevpn.admin.broker import CarefulBroker
from dmevpn.admin.command import ANSWERED_WITHIN
from dmevpn.admin.listening import words_of
from dmevpn.admin.parameters import UsageError
from dmevpn.errors import CommandError, DmevpnError

__all__ = ["NoDaemon", "Result", "run", "watch"]

#: Seconds until a daemon that takes no connection counts as absent.
CONNECT_TIMEOUT = 5.0
#: Seconds until a daemon that does not answer counts as stuck, unless the command may take longer.
ANSWER_TIMEOUT = ANSWERED_WITHIN


class NoDaemon(DmevpnError):
    """No daemon is there, or it went away or does not answer."""


class Result(NamedTuple):
    """What a command returned, all of it."""

    pages: list[bytes]
    """JSON arrays of rows."""
    row_count: int
    refused: str
    """Why it did not do what was asked, or empty."""


@implementer(IHandshakeListener)
class ClientBroker(CarefulBroker):
    """Tells the factory when the connection ends, which PB does not do over endpoints."""

    factory: ClientFactory  # type: ignore[assignment]
    _impostor = False

    def handshakeCompleted(self) -> None:
        """The daemon has shown a certificate; nothing goes to whom it is not of."""
        if not tls.is_of(self.transport.getPeerCertificate(), self.factory.host):
            self._impostor = True
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The daemon, or we, closed."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self._impostor:
            message = f"the certificate that was shown is not of {self.factory.host}"
            reason = Failure(NoDaemon(message))  # type: ignore[no-untyped-call]
        self.factory.connection_lost(reason)


class ClientFactory(pb.PBClientFactory):
    """Fails whoever waits for the root object when the connection ends early."""

    protocol = ClientBroker
    noisy = False

    def __init__(self, host: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        #: Whose certificate the other side must have, over TLS.
        self.host = host
        #: Fires when the connection has ended, however it ended.
        self.ended: Deferred[None] = Deferred()

    def connection_lost(self, reason: Failure) -> None:
        """Called by the broker."""
        waiting, self.rootObjectRequests = self.rootObjectRequests, []
        for deferred in waiting:
            deferred.errback(reason)
        self.ended.callback(None)


class Connection:
    """A connection to a daemon, as an asynchronous context.

    :param description: a Twisted client endpoint.
    """

    def __init__(self, reactor: Any, description: str) -> None:
        self._reactor = reactor
        self._description = description
        self._factory = ClientFactory()
        self._protocol: Any = None
        self.root: Any = None

    async def __aenter__(self) -> Connection:
        try:
            endpoint = self._endpoint()
        except (ValueError, TypeError, LookupError, OSError) as error:
            raise UsageError(
                f"{self._description} is no client endpoint ({error});"
                " write for example unix:/run/dmevpn/NAME.sock"
            ) from None
        # The root object is asked for before the connection is there: afterwards would be too
        # late if it ends at once, and PB would leave us waiting.
        root = self._factory.getRootObject()  # type: ignore[no-untyped-call]
        root.addTimeout(CONNECT_TIMEOUT, self._reactor)
        connecting = endpoint.connect(self._factory).addTimeout(CONNECT_TIMEOUT, self._reactor)
        try:
            self._protocol = await connecting
            self.root = await root
        except BaseException as error:
            root.addErrback(lambda _: None)
            root.cancel()
            if self._protocol is not None:
                self._protocol.transport.abortConnection()
            explained = self._explained(error)
            if explained is error and isinstance(error, Exception):
                explained = NoDaemon(f"cannot connect to {self._description}: {error}")
            raise explained from None
        return self

    def _endpoint(self) -> Any:
        words = words_of(self._description)
        if words[0] != "tls":
            return clientFromString(self._reactor, self._description)  # type: ignore[no-untyped-call]
        description = tls.read(words, server=False)
        self._factory.host = description.host
        return tls.client_endpoint(self._reactor, description)

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.root = None
        # Nothing that we sent is unanswered but after a failure, so nothing is lost by this.
        self._protocol.transport.abortConnection()
        await self._factory.ended
        if error is not None:
            explained = self._explained(error)
            if explained is not error:
                raise explained from None

    async def call(
        self, remote: Any, method: str, *arguments: Any, patience: float = ANSWER_TIMEOUT
    ) -> Any:
        """Call a remote method; an answer comes in time, or an error.

        :param patience: seconds to wait for the answer.
        """
        return await remote.callRemote(method, *arguments).addTimeout(patience, self._reactor)

    def when_lost(self, function: Callable[[], None]) -> None:
        """Call a function when the connection ends, or now if it has."""
        self._factory.ended.addCallback(lambda _: function())

    def _explained(self, error: BaseException) -> BaseException:
        """What an error of Twisted's means to an operator."""
        where = self._description
        if isinstance(error, pb.RemoteError):
            kind = error.remoteType
            name = kind.decode() if isinstance(kind, bytes) else str(kind)
            family = UsageError if name.endswith(".WrongUsage") else CommandError
            return family(str(error))
        if isinstance(error, TimeoutError | CancelledError):
            return NoDaemon(f"no answer from {where}: the daemon may be stopped or overloaded")
        if isinstance(error, ConnectionRefusedError):
            return NoDaemon(f"no daemon at {where}: connection refused; is it running?")
        if isinstance(error, ConnectError):
            return NoDaemon(f"no daemon at {where}: {_reason(error)}")
        if isinstance(error, ConnectionClosed | pb.PBConnectionLost | pb.DeadReferenceError):
            return NoDaemon(
                f"{where} closed the connection: it stops, has too many clients, or you are"
                " not allowed"
            )
        return error


def _reason(error: ConnectError) -> str:
    if error.osError == errno.ENOENT:
        return "no such socket; is the daemon running?"
    if error.osError == errno.EACCES:
        return "permission denied; run as root"
    return str(error).rstrip(".")


async def run(
    reactor: Any,
    description: str,
    name: str,
    arguments: dict[str, str],
    *,
    patience: float = ANSWER_TIMEOUT,
) -> Result:
    """Run a command and fetch all of its rows.

    :param patience: seconds to wait for the first of them.
    :raises NoDaemon: if there is none, or not any more.
    :raises CommandError: if the daemon refuses; UsageError for its kind.
    """
    async with Connection(reactor, description) as connection:
        answer = await connection.call(connection.root, "run", name, arguments, patience=patience)
        number, page, more = answer["page"]
        pages = [page]
        while more:
            count, page, more = await connection.call(answer["listing"], "next")
            pages.append(page)
            number += count
        return Result(pages, number, answer["refused"])


class Observer(pb.Referenceable):
    """Takes events from the daemon.

    :param events: called with JSON arrays of rows; its exception ends the watch.
    """

    def __init__(self, events: Callable[[bytes], None]) -> None:
        self._events = events
        self.ended: Deferred[None] = Deferred()

    def remote_events(self, rows: bytes) -> None:
        """Some rows; the daemon sends more when this returns."""
        try:
            self._events(rows)
        except Exception:
            self._end(Failure())  # type: ignore[no-untyped-call]

    def remote_closed(self, reason: str) -> None:
        """There will be no more."""
        self._end(Failure(CommandError(reason)))  # type: ignore[no-untyped-call]

    def lost(self) -> None:
        """The connection ended."""
        self._end(Failure(pb.PBConnectionLost("lost")))  # type: ignore[no-untyped-call]

    def _end(self, failure: Failure) -> None:
        if not self.ended.called:
            self.ended.errback(failure)


async def watch(
    reactor: Any,
    description: str,
    name: str,
    arguments: dict[str, str],
    events: Callable[[bytes], None],
) -> None:
    """Pass what happens to ``events`` until something ends it; never returns.

    :param name: of the command that is followed.
    :raises NoDaemon: if there is none, or not any more.
    :raises CommandError: if the daemon refuses, or drops us for slowness.
    """
    async with Connection(reactor, description) as connection:
        observer = Observer(events)
        await connection.call(connection.root, "watch", observer, arguments, name)
        connection.when_lost(observer.lost)
        await observer.ended
