"""What our web servers have in common: everything bounded, nothing hurried. Layer: admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IListeningPort, IPullProducer
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.server import Site
from zope.interface import implementer

from dmevpn.admin.listening import listen, stop_listening
from dmevpn.log import Logger
from dmevpn.metrics import Counter, Metrics

__all__ = ["ANSWER_LIMIT", "CONNECTIONS", "Answer", "QuietSite", "WebService"]

#: Connections at once of one service: a few who look, and whoever looks in passing.
CONNECTIONS = 32
#: Seconds that an answer may take, which is Prometheus' own longest by default.
ANSWER_LIMIT = 60
#: Seconds that a connection may be silent.
IDLE_LIMIT = 120


@implementer(IPullProducer)
class Answer:
    """One answer, made as fast as its reader takes it and in no hurry.

    :param parts: of the body; an empty one is only a chance to do something else.
    """

    log = Logger()

    def __init__(self, reactor: Any, request: Any, parts: Iterator[bytes]) -> None:
        self._request = request
        self._parts = parts
        self._limit = reactor.callLater(ANSWER_LIMIT, self._abort)
        self.finished = request.notifyFinish().addBoth(self._ended)

    def resumeProducing(self) -> None:
        """Write the next part."""
        try:
            part = next(self._parts)
        except StopIteration:
            self._request.unregisterProducer()
            self._request.finish()
        except Exception:
            self.log.failure("{path} could not be told", path=self._request.path)
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


class QuietSite(Site):
    """A site that does not log every request."""

    noisy = False

    def log(self, request: Any) -> None:
        """Say nothing."""


class _Connections(WrappingFactory[ProtocolWrapper]):
    """Not more of them than :data:`CONNECTIONS`."""

    noisy = False
    refused: Counter

    def buildProtocol(self, addr: Any) -> Any:
        """None closes the connection at once."""
        if len(self.protocols) >= CONNECTIONS:
            self.refused.inc()
            return None
        return super().buildProtocol(addr)


class WebService(Service):
    """Serves a site on one endpoint.

    :param reactor: listens and keeps time.
    :param description: a Twisted server endpoint, such as ``tcp:9101:interface=127.0.0.1``.
    :param keyword: of the configuration, which error messages name.
    :param root: the resource at the top.
    :param metrics: where connections are counted that find no room.
    :param make_site: the class of site that it is served by.
    """

    def __init__(
        self,
        reactor: Any,
        description: str,
        keyword: str,
        root: Any,
        metrics: Metrics,
        make_site: type[QuietSite] = QuietSite,
    ) -> None:
        self._reactor = reactor
        self._description = description
        self._keyword = keyword
        site = make_site(root, timeout=IDLE_LIMIT, reactor=reactor)
        self._factory = _Connections(site)  # type: ignore[no-untyped-call]
        self._factory.refused = metrics.counter("web_connections_refused")
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises StartError: naming the endpoint, what is wrong, and the cure.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._port = listen(self._reactor, self._description, self._factory, keyword=self._keyword)

    def stopService(self) -> Any:
        """Close, whoever is reading; a Deferred."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            return None
        for protocol in list(self._factory.protocols):
            protocol.abortConnection()
        return stop_listening(port, self._description)
