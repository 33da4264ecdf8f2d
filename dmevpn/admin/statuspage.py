"""The status page: a live map and tables in a browser, to be looked at only. Layer: admin.

``/`` is the page, ``/events`` feeds it, and ``/tables/NAME`` is the listing of ``dmevpnctl NAME
show`` as JSON, of any length.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.http import BAD_REQUEST, FORBIDDEN, NOT_ALLOWED, SERVICE_UNAVAILABLE
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from dmevpn import __version__
from dmevpn.admin.command import Command, Context, Row
from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.listening import loopback
from dmevpn.admin.live import PAGES, Live
from dmevpn.admin.pages import TURN_ROWS, encode_row
from dmevpn.admin.parameters import UsageError
from dmevpn.admin.web import Answer, QuietSite, WebService
from dmevpn.errors import DmevpnError
from dmevpn.interfaces import IController
from dmevpn.log import Logger
from dmevpn.metrics import Counter, Metrics

__all__ = ["TABLES", "TABLES_AT_ONCE", "StatusService", "table"]

#: The tables of the page: all that can be shown without asking anybody else.
TABLES = ("vpn", "member", "cache", "shortcut", "registration", "fdb", "interface")
#: Tables made at once; each holds what it iterates over.
TABLES_AT_ONCE = 8

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Nothing from elsewhere, nothing written into the page, and no page around ours.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def table(command: Command, rows: Iterable[Row], search: str, limit: int | None) -> Iterator[bytes]:
    """A listing as ``dmevpnctl --json`` prints it, in parts; ``attr`` comes last, and says whether
    there is ``more`` than the limit.

    :param search: text that some value of a row must contain, in lower case.
    :param limit: rows at most; None: no limit.
    """
    columns = [column.name for column in command.columns]
    yield b'{"table": ['
    part: list[bytes] = []
    count = 0
    more = False
    for looked, row in enumerate(rows, 1):
        if row and search in " ".join(map(str, row.values())).lower():
            if count == limit:
                more = True
                break
            part.append((b", " if count else b"") + encode_row(columns, row))
            count += 1
        if not row or looked % TURN_ROWS == 0:
            yield b"".join(part)
            part.clear()
    end = f'], "attr": {{"entriesCount": {count}, "more": {str(more).lower()}}}}}\n'
    yield b"".join(part) + end.encode()


class _Refuses(Resource):
    """What pages and tables have in common: a mistake is answered by a sentence."""

    isLeaf = True

    def render_HEAD(self, request: Any) -> bytes:
        """Headers are all the same; nothing is begun for them."""
        return b""

    @staticmethod
    def refuse(request: Any, code: int, reason: str) -> bytes:
        """The answer to what cannot be answered."""
        request.setResponseCode(code)
        request.setHeader("content-type", "text/plain; charset=utf-8")
        return f"{reason}\n".encode()

    @staticmethod
    def arguments(request: Any) -> dict[str, str]:
        """The query, each name once."""
        return {
            name.decode("utf-8", "replace"): values[0].decode("utf-8", "replace")
            for name, values in request.args.items()
        }


class _File(_Refuses):
    """What is the same for everybody and always."""

    def __init__(self, content: bytes, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._content = content
        self._kind = kind

    def render_GET(self, request: Any) -> bytes:
        """All of it."""
        request.setHeader("content-type", self._kind)
        return self._content


class _Events(_Refuses):
    """Server-sent events; ``?vpn=N`` tells of one VPN only."""

    def __init__(self, live: Live, refused: Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = live
        self._refused = refused

    def render_GET(self, request: Any) -> int | bytes:
        """Begin to tell."""
        try:
            match = COMMANDS["vpn show"].check(self.arguments(request))
        except UsageError as error:
            return self.refuse(request, BAD_REQUEST, str(error))
        if len(self._live) >= PAGES:
            self._refused.inc()
            return self.refuse(request, SERVICE_UNAVAILABLE, f"{PAGES} pages are open already")
        request.setHeader("content-type", "text/event-stream")
        request.write(b"retry: 3000\n\n")
        self._live.open(request, match)
        return NOT_DONE_YET


class _Table(_Refuses):
    """One listing; the query has filters of the command, ``search`` and ``limit``."""

    log = Logger()

    def __init__(self, service: StatusService, command: Command) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._service = service
        self._command = command

    def render_GET(self, request: Any) -> int | bytes:
        """Begin a listing."""
        arguments = self.arguments(request)
        search = arguments.pop("search", "").strip().lower()
        limit = arguments.pop("limit", None)
        try:
            if limit is not None and not re.fullmatch("[0-9]{1,9}", limit):
                raise UsageError("limit: a number is expected")
            match = self._command.check(arguments)
        except UsageError as error:
            return self.refuse(request, BAD_REQUEST, str(error))
        if not self._service.has_room():
            return self.refuse(request, SERVICE_UNAVAILABLE, "too many tables at once")
        request.setHeader("content-type", "application/json")
        self._service.answering.add(request)
        request.notifyFinish().addBoth(lambda _: self._service.answering.discard(request))
        rows = None if limit is None else int(limit)
        Deferred.fromCoroutine(self._answer(request, match, search, rows)).addErrback(
            lambda failure: self.log.failure("a table could not be told", failure)
        )
        return NOT_DONE_YET

    async def _answer(self, request: Any, match: Row, search: str, limit: int | None) -> None:
        try:
            answer = self._command.function(self._service.context, match)
            if inspect.isawaitable(answer):
                answer = await answer
        except DmevpnError as error:
            if request in self._service.answering:
                request.write(self.refuse(request, BAD_REQUEST, str(error)))
                request.finish()
            return
        if request in self._service.answering:
            parts = table(self._command, answer.rows, search, limit)
            request.registerProducer(Answer(self._service.reactor, request, parts), False)


class _StatusSite(QuietSite):
    """Answers whoever asks for us by an address, and only asks.

    A page from elsewhere could have its own name looked up as our address, and then read us with
    its visitor's eyes. It cannot do that by an address.
    """

    def getResourceFor(self, request: Any) -> Any:
        """The resource, or what is wrong with the question."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return _Refusal(NOT_ALLOWED, "this page can only be looked at")
        if not _is_address(request.getHeader("host")):
            reason = (
                "ask for this page by an address or as localhost; a proxy has to send such a Host"
            )
            return _Refusal(FORBIDDEN, reason)
        return super().getResourceFor(request)  # type: ignore[no-untyped-call]


class _Refusal(_Refuses):
    """The same answer to everything."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._code = code
        self._reason = reason

    def render(self, request: Any) -> bytes:
        """That."""
        return self.refuse(request, self._code, self._reason)


def _is_address(host: str | None) -> bool:
    """Whether a Host header names localhost or an address; browsers always send one."""
    if host is None:
        return True
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() == "localhost":
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class StatusService(WebService):
    """Serves the status page on one endpoint.

    :param reactor: listens and keeps time.
    :param description: a Twisted server endpoint, on the loopback interface if it does not say.
    :param metrics: where refused and dropped pages are counted.
    :param name: what the page calls this daemon.
    """

    def __init__(
        self, reactor: Any, description: str, controller: IController, metrics: Metrics, name: str
    ) -> None:
        self.reactor = reactor
        self.context = Context(controller, None)
        #: Requests for tables that are being answered.
        self.answering: set[Any] = set()
        self._refused = metrics.counter("status_refused")
        live = Live(reactor, controller, {"name": name, "version": __version__}, metrics)
        root: Any = notFound()
        for file, kind in _FILES.items():
            content = files("dmevpn.admin").joinpath("page", file).read_bytes()
            path = b"" if file == "index.html" else file.encode()
            root.putChild(path, _File(content, kind))
        root.putChild(b"events", _Events(live, self._refused))
        tables: Any = notFound()
        for each in TABLES:
            tables.putChild(each.encode(), _Table(self, COMMANDS[f"{each} show"]))
        root.putChild(b"tables", tables)
        super().__init__(reactor, loopback(description), "status", root, metrics, _StatusSite)

    def has_room(self) -> bool:
        """Whether one more table may be made; counts those that may not."""
        if len(self.answering) < TABLES_AT_ONCE:
            return True
        self._refused.inc()
        return False
