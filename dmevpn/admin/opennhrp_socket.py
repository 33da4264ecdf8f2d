"""The UNIX socket that ``opennhrpctl`` and its like talk to. Layer: admin.

Whoever connects sends one command in a line, and reads the answer until the connection ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IHalfCloseableProtocol, IListeningPort, IPullProducer
from twisted.internet.protocol import Protocol, ServerFactory
from zope.interface import implementer

from dmevpn.admin.listening import listen, stop_listening
from dmevpn.admin.opennhrp import answer
from dmevpn.interfaces import IPeerTable
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["COMMAND_MAX", "MAX_CLIENTS", "OpenNHRPService"]

#: Clients at once: scripts and monitoring; each is gone as soon as it has its answer.
MAX_CLIENTS: Final = 16
#: Octets of a command with the end of its line; OpenNHRP has room for as many.
COMMAND_MAX: Final = 511
#: Seconds for sending a command, as OpenNHRP has it.
COMMAND_LIMIT: Final = 10
#: Seconds for reading an answer, which may be long.
ANSWER_LIMIT: Final = 120

#: Pieces of an answer that are made at once.
_BATCH: Final = 100


@implementer(IHalfCloseableProtocol, IPullProducer)
class _Client(Protocol):
    """One command and its answer."""

    log = Logger()
    factory: _Factory
    transport: Any

    def __init__(self) -> None:
        self._command = b""
        self._pieces: Iterator[str] | None = None
        self._limit: Any = None
        self._turn: Any = None

    def connectionMade(self) -> None:
        """Wait for the command, but not for long."""
        self.factory.clients.add(self)
        self._limit_to(COMMAND_LIMIT)

    def dataReceived(self, data: bytes) -> None:
        """Begin the answer when the line is there; what follows it is not heeded."""
        if self._pieces is not None:
            return
        self._command += data
        line, end, _ = self._command.partition(b"\n")
        if len(line) >= COMMAND_MAX:
            self.transport.loseConnection()
        elif end:
            self._limit_to(ANSWER_LIMIT)
            self._pieces = answer(self.factory.table, line.decode("utf-8", "replace"))
            self.transport.registerProducer(self, False)

    def readConnectionLost(self) -> None:
        """The client has said all it wants; it may still read."""
        if self._pieces is None:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """It does not read any more."""
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """Over, one way or the other."""
        for call in (self._limit, self._turn):
            if call is not None and call.active():
                call.cancel()
        self.factory.client_lost(self)

    def resumeProducing(self) -> None:
        """Write the next pieces."""
        assert self._pieces is not None
        try:
            pieces = list(islice(self._pieces, _BATCH))
        except Exception:
            self.log.failure("a command could not be carried out")
            pieces = []
        if not pieces:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif text := "".join(pieces):
            self.transport.write(text.encode())
        else:
            # Nothing to write, so nobody would ask for more.
            self._turn = self.factory.reactor.callLater(0, self.resumeProducing)

    def stopProducing(self) -> None:
        """The reader is gone."""

    def abort(self) -> None:
        """End it at once."""
        self.transport.abortConnection()

    def _limit_to(self, seconds: int) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.factory.reactor.callLater(seconds, self.abort)


class _Factory(ServerFactory):
    """A bounded number of clients."""

    noisy = False
    log = Logger()

    def __init__(self, reactor: Any, table: IPeerTable, metrics: Metrics) -> None:
        self.reactor = reactor
        self.table = table
        self.clients: set[_Client] = set()
        self._refused = metrics.counter("admin_clients_refused")
        self._all_lost: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Any:
        """Take a client, or close its connection at once."""
        if len(self.clients) >= MAX_CLIENTS:
            self._refused.inc()
            return None
        client = _Client()
        client.factory = self
        return client

    def close_all(self) -> Deferred[None]:
        """End every connection; fires when all are gone."""
        done: Deferred[None] = Deferred()
        self._all_lost = done
        for client in list(self.clients):
            client.abort()
        self._look()
        return done

    def client_lost(self, client: _Client) -> None:
        """A connection is gone; called by the client."""
        self.clients.discard(client)
        self._look()

    def _look(self) -> None:
        if self._all_lost is not None and not self.clients:
            done, self._all_lost = self._all_lost, None
            done.callback(None)


class OpenNHRPService(Service):
    """Serves ``opennhrpctl`` and its like.

    :param path: of the socket, which its owner alone may use.
    """

    def __init__(self, reactor: Any, path: str, table: IPeerTable, metrics: Metrics) -> None:
        quoted = "".join(f"\\{c}" if c in "\\:=" else c for c in path)
        self._description = f"unix:{quoted}:mode=600:lockfile=1"
        self._reactor = reactor
        self._factory = _Factory(reactor, table, metrics)
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises StartError: naming the socket, what is wrong, and the cure.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._port = listen(self._reactor, self._description, self._factory, "opennhrp-socket")

    def stopService(self) -> Any:
        """Remove the socket and its lock, disconnect every client; a Deferred."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            return None
        return DeferredList(
            [stop_listening(port, self._description), self._factory.close_all()],
            consumeErrors=True,
        )
