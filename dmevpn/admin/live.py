"""Keeps status pages up to date by server-sent events. Layer: admin.

Pages that look at the same VPN share a feed: the state is gathered and written as text once for
all of them, and only while somebody looks. Nothing waits for a slow page but the newest state.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from dmevpn.admin.commands import selects
from dmevpn.admin.sketch import Row, sketch
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["CHANGES", "INTERVAL", "PAGES", "STALL_LIMIT", "Feed", "Live"]

#: Pages that are kept up to date at once.
PAGES = 16
#: Seconds from one state to the next. When nothing has changed, a comment tells that we live.
INTERVAL = 2.0
#: The interval is as many times the time that gathering took, if that is more.
SHARE = 10
#: Changes of bindings that wait for the next state. Of more, the newest are told.
CHANGES = 200
#: Seconds after which a page that reads nothing is dropped.
STALL_LIMIT = 60

_dump = json.JSONEncoder(separators=(",", ":")).encode


def _event(name: str, data: Row) -> bytes:
    return f"event: {name}\ndata: {_dump(data)}\n\n".encode()


@implementer(IPushProducer)
class Page:
    """One that is open in a browser."""

    def __init__(self, request: Any, feed: Feed) -> None:
        self._request = request
        self._feed = feed
        self._waiting = b""
        self.stalled_since: float | None = None

    def write(self, state: bytes, changes: bytes) -> None:
        """Send both, or keep the state for a page that still has to take what it was sent."""
        if self.stalled_since is None:
            self._request.write(changes + state)
        elif state.startswith(b"event"):
            self._waiting = state

    def pauseProducing(self) -> None:
        """What was written is not read."""
        self.stalled_since = self._feed.seconds()

    def resumeProducing(self) -> None:
        """It was read at last."""
        self.stalled_since = None
        state, self._waiting = self._waiting, b""
        if state:
            self._request.write(state)

    def stopProducing(self) -> None:
        """The page is closed; whoever made us hears of it, too."""

    def drop(self) -> None:
        """End it; the browser comes again if it likes."""
        self._request.channel.transport.abortConnection()


class Feed:
    """Tells pages about one VPN, or about all.

    :param match: filters of the controller: ``vpn``, or nothing.
    :param common: what every state begins with.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, controller: IController, match: Row, common: Row, metrics: Metrics
    ) -> None:
        self._reactor = reactor
        self._controller = controller
        self._match = match
        self._common = common
        self._dropped = metrics.counter("status_dropped")
        self._changes: deque[Row] = deque(maxlen=CHANGES)
        self._lost = 0
        self._last: Row = {}
        self._newest = b""
        self._spent = 0.0
        self._work: Any = None
        self.pages: set[Page] = set()
        self._call: Any = reactor.callLater(0, self._step)
        self._cancel = controller.subscribe(self._changed)

    def seconds(self) -> float:
        """The reactor's time."""
        now: float = self._reactor.seconds()
        return now

    def close(self) -> None:
        """Nobody looks any more."""
        self._cancel()
        if self._call.active():
            self._call.cancel()

    def add(self, page: Page) -> None:
        """Tell a page from now on, beginning with what is known."""
        self.pages.add(page)
        page.write(self._newest, b"")

    def _changed(self, event: Row) -> None:
        if selects(self._match, event):
            if len(self._changes) == CHANGES:
                self._lost += 1
            self._changes.append(event)

    def _step(self) -> None:
        """Gather a little."""
        began = self.seconds()
        if self._work is None:
            self._spent = 0.0
            self._work = sketch(self._controller, self._match)
        pause = 0.0
        try:
            next(self._work)
            self._spent += self.seconds() - began
        except StopIteration as end:
            self._tell(end.value)
            self._work = None
            pause = max(INTERVAL, SHARE * self._spent)
        except Exception:
            self.log.failure("the state for status pages could not be gathered")
            self._work = None
            pause = INTERVAL
        self._call = self._reactor.callLater(pause, self._step)

    def _tell(self, state: Row) -> None:
        """Send what has changed, and give up pages that do not read."""
        written = b": nothing new\n\n"
        if state != self._last:
            self._last = state
            stamped = {**self._common, "time": round(self.seconds(), 3), **state}
            written = self._newest = _event("state", stamped)
        changes = b""
        if self._changes:
            changes = _event("changes", {"rows": list(self._changes), "lost": self._lost})
            self._changes.clear()
            self._lost = 0
        for page in list(self.pages):
            since = page.stalled_since
            if since is not None and self.seconds() - since > STALL_LIMIT:
                self._dropped.inc()
                page.drop()
            else:
                page.write(written, changes)


class Live:
    """All feeds, each made with its first page and closed with its last."""

    def __init__(
        self, reactor: Any, controller: IController, common: Row, metrics: Metrics
    ) -> None:
        self._reactor = reactor
        self._controller = controller
        self._common = common
        self._metrics = metrics
        self._feeds: dict[int | None, Feed] = {}

    def __len__(self) -> int:
        return sum(len(feed.pages) for feed in self._feeds.values())

    def open(self, request: Any, match: Row) -> None:
        """Keep a page up to date until its connection ends."""
        vpn = match.get("vpn")
        feed = self._feeds.get(vpn)
        if feed is None:
            feed = Feed(self._reactor, self._controller, match, self._common, self._metrics)
            self._feeds[vpn] = feed
        page = Page(request, feed)
        request.notifyFinish().addBoth(lambda _: self._closed(vpn, feed, page))
        request.registerProducer(page, True)
        feed.add(page)

    def _closed(self, vpn: int | None, feed: Feed, page: Page) -> None:
        feed.pages.discard(page)
        if not feed.pages:
            del self._feeds[vpn]
            feed.close()
