"""Serves metrics to Prometheus: text over HTTP, at ``/metrics``. Layer: admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IListeningPort, IPullProducer
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import NOT_ALLOWED, SERVICE_UNAVAILABLE
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from dmevpn.admin.exposition import exposition
from dmevpn.admin.listening import listen, stop_listening
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.metrics import Counter, Metrics

__all__ = ["CONNECTIONS", "SCRAPES", "MetricsService"]

#: Connections at once: a few servers that scrape, and whoever looks by hand.
CONNECTIONS = 32
#: Scrapes at once, since each holds the counters of all members.
SCRAPES = 4
#: Seconds that a scrape may take, which is Prometheus' own longest by default.
SCRAPE_LIMIT = 60
#: Seconds that a connection may be silent.
IDLE_LIMIT = 120

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@implementer(IPullProducer)
class _Scrape:
    """One answer, made as fast as its reader takes it and in no hurry."""

    log = Logger()

    def __init__(self, reactor: Any, request: Any, parts: Iterator[bytes]) -> None:
        self._request = request
        self._parts = parts
        self._limit = reactor.callLater(SCRAPE_LIMIT, self._abort)
        self.finished = request.notifyFinish().addBoth(self._ended)

    def resumeProducing(self) -> None:
        """Write the next part."""
        try:
            part = next(self._parts)
        except StopIteration:
            self._request.unregisterProducer()
            self._request.finish()
        except Exception:
            self.log.failure("metrics could not be told")
            self._abort()
        else:
            self._request.write(part)

    def stopProducing(self) -> None:
        """The reader is gone."""

    def _abort(self) -> None:
        # What was sent is no whole answer, and must not look like one.
        self._request.channel.transport.abortConnection()

    def _ended(self, _: object) -> None:
        if self._limit.active():
            self._limit.cancel()


class _Metrics(Resource):
    """What ``/metrics`` is."""

    isLeaf = True

    def __init__(self, reactor: Any, controller: IController, refused: Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._controller = controller
        self._refused = refused
        self._scrapes: set[_Scrape] = set()

    def render(self, request: Any) -> int | bytes:
        """Begin a scrape."""
        request.setHeader("content-type", _CONTENT_TYPE)
        if request.method == b"HEAD":
            return b""
        if request.method != b"GET":
            request.setHeader("allow", "GET, HEAD")
            request.setResponseCode(NOT_ALLOWED)
            return b"metrics can only be read\n"
        if len(self._scrapes) >= SCRAPES:
            self._refused.inc()
            request.setResponseCode(SERVICE_UNAVAILABLE)
            return b"too many scrapes at once\n"
        scrape = _Scrape(self._reactor, request, exposition(self._controller))
        self._scrapes.add(scrape)
        scrape.finished.addCallback(lambda _: self._scrapes.discard(scrape))
        request.registerProducer(scrape, False)
        return NOT_DONE_YET


class _Site(Site):
    """A site that does not log every request."""

    noisy = False

    def log(self, request: Any) -> None:
        """Say nothing."""


class _Connections(WrappingFactory[ProtocolWrapper]):
    """Not more of them than :data:`CONNECTIONS`."""

    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        """None closes the connection at once."""
        return None if len(self.protocols) >= CONNECTIONS else super().buildProtocol(addr)


class MetricsService(Service):
    """Serves scrapes on one endpoint.

    :param reactor: listens and keeps time.
    :param description: a Twisted server endpoint, such as ``tcp:9101:interface=127.0.0.1``.
    :param metrics: where refused scrapes are counted.
    """

    def __init__(
        self, reactor: Any, description: str, controller: IController, metrics: Metrics
    ) -> None:
        self._reactor = reactor
        self._description = description
        root: Any = notFound()
        refused = metrics.counter("scrapes_refused")
        root.putChild(b"metrics", _Metrics(reactor, controller, refused))
        site = _Site(root, timeout=IDLE_LIMIT, reactor=reactor)  # type: ignore[no-untyped-call]
        self._factory = _Connections(site)  # type: ignore[no-untyped-call]
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises StartError: naming the endpoint, what is wrong, and the cure.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._port = listen(self._reactor, self._description, self._factory, keyword="metrics")

    def stopService(self) -> Any:
        """Close, whoever is reading; a Deferred."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            return None
        for protocol in list(self._factory.protocols):
            protocol.abortConnection()
        return stop_listening(port, self._description)
