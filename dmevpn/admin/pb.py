"""The admin service: the command table behind Perspective Broker. Layer: admin.

A client gets a root object with three remote methods: ``commands()``, ``run(name, arguments)``
and ``watch(observer, arguments)``. Only plain values and references cross. Whatever a client
sends, the daemon goes on, and no traceback is logged for a client's mistake.
"""

from __future__ import annotations

import inspect
import weakref
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IHandshakeListener, IListeningPort
from twisted.internet.protocol import connectionDone
from twisted.logger import LogLevelFilterPredicate
from twisted.spread import pb
from zope.interface import implementer

from dmevpn.admin.access import Access, Grant, Level, is_tls
from dmevpn.admin.broker import CarefulBroker
from dmevpn.admin.command import Context, Match, Row
from dmevpn.admin.commands import COMMANDS, find_command, selects
from dmevpn.admin.listening import listen, stop_listening
from dmevpn.admin.pace import ClientPace
from dmevpn.admin.pages import PAGE_OCTETS, PAGE_ROWS, Pages, encode_row
from dmevpn.admin.parameters import FILE, UsageError
from dmevpn.errors import CommandError, DmevpnError
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["AdminService", "CommandRefused", "WrongUsage"]

#: Connections served at once; each costs a descriptor and at most one watch queue.
MAX_CLIENTS = 32
#: Listings that one client may have half read; each holds the tables that it iterates over.
MAX_LISTINGS = 8
#: Events that wait for a watching client, some 200 octets each. As large as it is because one
#: command may change thousands of bindings in a single reactor turn.
WATCH_QUEUE = 10_000
#: Seconds that a connection being closed has to take what was written to it.
CLOSE_TIMEOUT = 1.0
#: Seconds that a client has to show who it is, for those that never do take the place of others.
HANDSHAKE_TIMEOUT = 5.0


class CommandRefused(pb.Error):
    """The daemon refused a command, or found nothing to do; the text says why."""


class WrongUsage(pb.Error):
    """What was asked is no command, or its arguments are wrong; the text says how to."""


class Remote(pb.Referenceable):
    """An object for clients, whose mistakes become answers and never a traceback."""

    log = Logger()

    def remoteMessageReceived(self, broker: Any, message: str, args: Any, kw: Any) -> Any:
        """Call a remote method; every error becomes a ``pb.Error``, which PB does not log."""
        outcome = Deferred.fromCoroutine(self._call(broker, message, args, kw))
        return broker.serialize(outcome)

    async def _call(self, broker: Any, message: str, args: Any, kw: Any) -> Any:
        broker.pace.begun()
        try:
            result = await self._answer(broker, message, args, kw)
        except pb.Error:
            if broker.disconnected:
                return None
            raise
        finally:
            broker.pace.ended()
        # Nobody is there any more to take a reference, and PB fails when it makes one.
        return None if broker.disconnected else result

    async def _answer(self, broker: Any, message: str, args: Any, kw: Any) -> Any:
        method = getattr(self, f"remote_{message}", None)
        if method is None:
            raise WrongUsage(f"no remote method {message!r}")
        try:
            arguments = inspect.signature(method).bind(
                *broker.unserialize(args), **broker.unserialize(kw)
            )
        except Exception as error:  # unjellying meets whatever a client makes up
            raise WrongUsage(f"{message}: malformed arguments ({error})") from None
        try:
            return await method(*arguments.args, **arguments.kwargs)
        except UsageError as error:
            raise WrongUsage(str(error)) from None
        except DmevpnError as error:
            raise CommandRefused(str(error)) from None
        except Exception:
            self.log.failure("remote method {method} failed", method=message)
            raise CommandRefused("an internal error; the daemon's log has the details") from None


class Listing(Remote):
    """The rest of a long table, page by page; let go of it to end early."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def remote_next(self) -> tuple[int, bytes, bool]:
        """The next page: its number of rows, the rows as a JSON array, whether more may come."""
        count, rows, more = await self._pages.next()
        return count, rows, more


class Watch:
    """Passes events on to one client, one batch under way at a time.

    :param dropped: called when the client is too slow, after it was told.
    """

    def __init__(self, observer: Any, columns: list[str], match: Match, dropped: Any) -> None:
        self._observer = observer
        self._columns = columns
        self._match = match
        self._dropped = dropped
        self._queue: deque[bytes] = deque()
        self._sending = False
        self.cancelled = False
        self.cancel_subscription: Any = None

    def event(self, event: Row) -> None:
        """Something changed; called by the controller."""
        if self.cancelled or not selects(self._match, event):
            return
        if len(self._queue) >= WATCH_QUEUE:
            self.cancel()
            self._close(f"dropped: more than {WATCH_QUEUE} events are waiting to be taken")
            self._dropped()
            return
        self._queue.append(encode_row(self._columns, event))
        if not self._sending:
            self._send()

    def cancel(self) -> None:
        """Hear and send no more."""
        if not self.cancelled:
            self.cancelled = True
            self._queue.clear()
            if self.cancel_subscription is not None:
                self.cancel_subscription()

    def stop(self) -> None:
        """The daemon stops: tell the client."""
        if not self.cancelled:
            self.cancel()
            self._close("the daemon stops")

    def _close(self, reason: str) -> None:
        maybeDeferred(self._observer.callRemote, "closed", reason).addErrback(lambda _: None)

    def _send(self) -> None:
        batch: list[bytes] = []
        octets = 0
        while self._queue and len(batch) < PAGE_ROWS:
            octets += len(self._queue[0]) + 2
            if batch and octets > PAGE_OCTETS:
                break
            batch.append(self._queue.popleft())
        self._sending = True
        rows = b"[" + b", ".join(batch) + b"]"
        # Not only a lost connection: an observer that fails has seen enough, too.
        maybeDeferred(self._observer.callRemote, "events", rows).addCallbacks(
            lambda _: self._sent(), lambda _: self.cancel()
        )

    def _sent(self) -> None:
        self._sending = False
        if self._queue:
            self._send()


class AdminRoot(Remote):
    """What a client sees first; one for each connection."""

    def __init__(self, service: AdminService, broker: AdminBroker) -> None:
        self._service = service
        self._broker = broker
        self._listings: weakref.WeakSet[Listing] = weakref.WeakSet()
        self.watch: Watch | None = None

    async def remote_commands(self) -> list[dict[str, Any]]:
        """The command table: name, summary, parameters and columns of each command."""
        self._broker.require(Level.READ)
        return [
            {
                "name": command.name,
                "summary": command.summary,
                "parameters": [parameter.name for parameter in command.parameters],
                "columns": [column.name for column in command.columns],
                "streams": command.streams,
            }
            for command in COMMANDS.values()
        ]

    async def remote_run(
        self, name: str, arguments: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Run a command.

        :param arguments: text by parameter name.
        :returns: ``page``, the first page as of :meth:`Listing.remote_next`; ``listing``, a
            Listing of the rest, or None; ``refused``, why the command did not do what was asked
            although it has rows to show, or "".
        """
        self._broker.require(Level.READ)
        command, match = self._check(name, arguments)
        if command.changes or FILE in command.parameters:
            self._broker.require(Level.FULL)
        if command.changes:
            self.log.info("admin: {command} {arguments}", command=name, arguments=arguments or {})
        self._require_room()
        answer = command.function(self._service.context, match)
        if inspect.isawaitable(answer):
            answer = await answer
        columns = [column.name for column in command.columns]
        pages = Pages(self._service.reactor, columns, answer.rows)
        page = await pages.next()
        listing = None
        if page.more:
            self._require_room()  # others were begun meanwhile
            listing = Listing(pages)
            self._listings.add(listing)
        return {"page": tuple(page), "listing": listing, "refused": answer.refused}

    def _require_room(self) -> None:
        if len(self._listings) >= MAX_LISTINGS:
            self._service.listings_refused.inc()
            raise CommandError(f"{MAX_LISTINGS} listings are open already; finish one first")

    async def remote_watch(
        self,
        observer: Any,
        arguments: dict[str, str] | None = None,
        name: str = "cache watch",
    ) -> None:
        """Report what happens until the connection ends.

        :param observer: its remote method ``events`` gets JSON arrays of rows of the command;
            ``closed`` gets the reason when there will be no more.
        :param arguments: filters, as of the command.
        :param name: ``cache watch``, or ``events``: what the journal has, and what comes.
        """
        self._broker.require(Level.READ)
        command, match = self._check(name, arguments)
        if command.follow is None:
            raise UsageError(f"`{name}` cannot be followed")
        if not isinstance(observer, pb.RemoteReference):
            raise UsageError("watch wants a reference to an observer")
        if self.watch is not None and not self.watch.cancelled:
            raise UsageError("one watch for each connection")
        columns = [column.name for column in command.columns]
        watch = self.watch = Watch(observer, columns, match, self._watch_dropped)
        watch.cancel_subscription = command.follow(self._service.context, watch.event)

    def _watch_dropped(self) -> None:
        self._service.watchers_dropped.inc()
        self.log.warn("an admin client that watches is too slow and was dropped")
        self._broker.close()

    @staticmethod
    def _check(name: str, arguments: dict[str, str] | None) -> tuple[Any, Match]:
        if not isinstance(name, str):
            raise UsageError("the name of a command is a string")
        command = find_command(name)
        return command, command.check({} if arguments is None else arguments)


@implementer(IHandshakeListener)
class AdminBroker(CarefulBroker):
    """A connection that is known to the service and can be closed for good.

    :ivar level: what its client may do.
    :ivar pace: how far it may go ahead of its answers; from when it speaks our protocol.
    """

    factory: AdminFactory  # type: ignore[assignment]
    root: AdminRoot
    level = Level.NONE
    pace: ClientPace | None = None
    _abort: Any = None
    _handshake: Any = None

    def connectionMade(self) -> None:
        """Count the client."""
        self.factory.brokers.add(self)
        super().connectionMade()  # type: ignore[no-untyped-call]
        if is_tls(self.transport):
            self._handshake = self.factory.service.reactor.callLater(
                HANDSHAKE_TIMEOUT, self.transport.abortConnection
            )
        else:
            self._identify()

    def handshakeCompleted(self) -> None:
        """The client has shown a certificate that one of our authorities has signed."""
        self._handshake.cancel()
        self._handshake = None
        self._identify()

    def _identify(self) -> None:
        """Learn what the client may do; if that is nothing, it goes at once."""
        self.level = self.factory.service.access.of_transport(self.transport)
        if self.level is Level.NONE:
            self.factory.service.clients_refused.inc()
            self.log.warn("admin client refused: it is not named by admin-allow")
            self.transport.abortConnection()

    def connectionReady(self) -> None:
        """The client speaks our protocol: it may call."""
        super().connectionReady()  # type: ignore[no-untyped-call]
        service = self.factory.service
        take = partial(self.carefully, super().expressionReceived)
        self.pace = ClientPace(service.reactor, self.transport, take, service.calls_delayed)

    def expressionReceived(self, expression: Any) -> None:
        """The client has sent something; it may have to wait for its turn."""
        if self.pace is not None:
            self.pace.received(expression)

    def give_up(self, reason: str) -> None:
        """End the connection, and look at nothing more of it."""
        self._end_pace()
        self.factory.service.clients_refused.inc()
        super().give_up(reason)

    def require(self, level: Level) -> None:
        """Refuse what the client may not do.

        :raises CommandError: if so.
        """
        if self.level < level:
            raise CommandError("not allowed: you may look, not change (admin-allow)")

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """End what the client had under way."""
        self._end_pace()
        self.factory.brokers.discard(self)
        if self._abort is not None:
            self._abort.cancel()
            self._abort = None
        if self._handshake is not None and self._handshake.active():
            self._handshake.cancel()
        if self.root.watch is not None:
            self.root.watch.cancel()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.factory.broker_lost()

    def close(self) -> None:
        """Flush and close, within CLOSE_TIMEOUT even if the client reads nothing."""
        if self._abort is None and not self.disconnected:
            self._abort = self.factory.service.reactor.callLater(CLOSE_TIMEOUT, self._timed_out)
            self._end_pace()
            self.transport.loseConnection()

    def _end_pace(self) -> None:
        if self.pace is not None:
            self.pace.close()

    def _timed_out(self) -> None:
        self._abort = None
        self.transport.abortConnection()


@implementer(pb.IPBRoot)
class AdminFactory(pb.PBServerFactory):
    """Accepts a bounded number of clients."""

    protocol = AdminBroker
    noisy = False
    log = Logger()

    def __init__(self, service: AdminService) -> None:
        super().__init__(self)  # type: ignore[no-untyped-call]
        self.service = service
        self.brokers: set[AdminBroker] = set()
        self._all_lost: Deferred[None] | None = None

    def rootObject(self, broker: AdminBroker) -> AdminRoot:
        """Called for each connection before it has a transport."""
        broker.root = AdminRoot(self.service, broker)
        return broker.root

    def buildProtocol(self, addr: Any) -> Any:
        """Take a client, or close its connection at once."""
        if len(self.brokers) >= MAX_CLIENTS:
            self.service.clients_refused.inc()
            self.log.warn("admin client refused: {limit} are connected", limit=MAX_CLIENTS)
            return None
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]

    def close_all(self) -> Deferred[None]:
        """Tell watching clients, close every connection; fires when all are gone."""
        done: Deferred[None] = Deferred()
        self._all_lost = done
        for broker in list(self.brokers):
            if broker.root.watch is not None:
                broker.root.watch.stop()
            broker.close()
        self.broker_lost()
        return done

    def broker_lost(self) -> None:
        """A connection is gone; called by the broker."""
        if self._all_lost is not None and not self.brokers:
            done, self._all_lost = self._all_lost, None
            done.callback(None)


class AdminService(Service):
    """Serves operators on one endpoint.

    :param reactor: listens and keeps time.
    :param description: a Twisted server endpoint, such as
        ``unix:/run/dmevpn/hub.sock:mode=600:lockfile=1``.
    :param metrics: where refused clients are counted.
    :param log_levels: the filter of the daemon's log, for ``log level``; None: it has none.
    :param access: who may do what.
    """

    def __init__(
        self,
        reactor: Any,
        description: str,
        controller: IController,
        *,
        metrics: Metrics | None = None,
        log_levels: LogLevelFilterPredicate | None = None,
        access: Iterable[Grant] = (),
    ) -> None:
        metrics = Metrics() if metrics is None else metrics
        self.reactor = reactor
        self.description = description
        self._grants = tuple(access)
        self.access = Access()
        self.context = Context(controller, log_levels)
        self.clients_refused = metrics.counter("admin_clients_refused")
        self.listings_refused = metrics.counter("admin_listings_refused")
        self.calls_delayed = metrics.counter("admin_calls_delayed")
        self.watchers_dropped = metrics.counter("admin_watchers_dropped")
        self._factory = AdminFactory(self)
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises StartError: naming the endpoint, what is wrong, and the cure.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._listen()

    def _listen(self) -> None:
        if self._port is None:
            self.access = Access(self._grants)
            self._port = listen(self.reactor, self.description, self._factory)

    def startService(self) -> None:
        """Listen, unless privilegedStartService has done it; raises the same."""
        self._listen()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Any:
        """Remove the socket and its lock, disconnect every client; a Deferred."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            return None
        return DeferredList(
            [stop_listening(port, self.description), self._factory.close_all()], consumeErrors=True
        )
