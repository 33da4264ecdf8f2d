"""Serves metrics to Prometheus: text over HTTP, at ``/metrics``. Layer: admin."""

from __future__ import annotations

from typing import Any

from twisted.web.http import NOT_ALLOWED, SERVICE_UNAVAILABLE
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from dmevpn.admin.exposition import exposition
from dmevpn.admin.web import Answer, WebService
from dmevpn.interfaces import IController
from dmevpn.metrics import Counter, Metrics

__all__ = ["SCRAPES", "MetricsService"]

#: Scrapes at once, since each holds the counters of all members.
SCRAPES = 4

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Metrics(Resource):
    """What ``/metrics`` is."""

    isLeaf = True

    def __init__(self, reactor: Any, controller: IController, refused: Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._controller = controller
        self._refused = refused
        self._scrapes: set[Answer] = set()

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
        scrape = Answer(self._reactor, request, exposition(self._controller))
        self._scrapes.add(scrape)
        scrape.finished.addCallback(lambda _: self._scrapes.discard(scrape))
        request.registerProducer(scrape, False)
        return NOT_DONE_YET


class MetricsService(WebService):
    """Serves scrapes on one endpoint.

    :param reactor: listens and keeps time.
    :param description: a Twisted server endpoint, such as ``tcp:9101:interface=127.0.0.1``.
    :param metrics: where refused scrapes are counted.
    """

    def __init__(
        self, reactor: Any, description: str, controller: IController, metrics: Metrics
    ) -> None:
        root: Any = notFound()
        refused = metrics.counter("scrapes_refused")
        root.putChild(b"metrics", _Metrics(reactor, controller, refused))
        super().__init__(reactor, description, "metrics", root, metrics)
