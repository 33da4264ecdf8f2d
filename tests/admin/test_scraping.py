"""Metrics over HTTP, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.logger import LogEvent

from dmevpn.admin import scraping, web
from dmevpn.admin.scraping import MetricsService
from dmevpn.errors import StartError
from dmevpn.metrics import Metrics
from tests.admin.conftest import until
from tests.admin.fakes import FakeController
from tests.admin.test_exposition import counted, member


class Scraped(NamedTuple):
    """A service that listens, and what it was made of."""

    service: MetricsService
    controller: FakeController
    metrics: Metrics
    port: int

    @property
    def connections(self) -> Any:
        """Those that are open."""
        return self.service._factory.protocols

    async def get(self, path: str = "/metrics", method: str = "GET") -> Response:
        """What a client that closes after one request is answered."""
        reader = await self.send(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        await until(lambda: reader.lost)
        head, _, body = reader.data.partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        return Response(int(status.split()[1]), [line.lower() for line in headers], body)

    async def send(self, data: bytes) -> Reader:
        """A connection that has said something and reads when it likes."""
        reader: Reader = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Reader()
        )
        reader.transport.write(data)
        return reader


class Response(NamedTuple):
    """An answer, taken apart."""

    code: int
    headers: list[str]
    body: bytes


class Reader(Protocol):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@pytest_twisted.async_yield_fixture
async def scraped() -> AsyncIterator[Scraped]:
    controller, metrics = FakeController(), Metrics()
    controller.tables["metrics"] = [counted("dmevpn_drops_total", reason="x", value=7)]
    service = MetricsService(reactor, "tcp:0:interface=127.0.0.1", controller, metrics)
    service.privilegedStartService()
    service.startService()
    port: Any = service._port
    yield Scraped(service, controller, metrics, port.getHost().port)
    if service.running:
        await service.stopService()


REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_scrape(scraped: Scraped) -> None:
    """Prometheus gets its text, and is told what it is; once more it gets the newest numbers."""
    response = await scraped.get()
    assert response.code == 200
    assert "content-type: text/plain; version=0.0.4; charset=utf-8" in response.headers
    assert b'\ndmevpn_drops_total{reason="x"} 7.0\n' in response.body
    scraped.controller.tables["metrics"] = [counted("dmevpn_drops_total", reason="x", value=8)]
    assert b'\ndmevpn_drops_total{reason="x"} 8.0\n' in (await scraped.get()).body


async def test_other_requests(scraped: Scraped) -> None:
    """There is nothing else, and nothing can be changed."""
    assert (await scraped.get("/")).code == 404
    assert (await scraped.get("/metrics", "POST")).code == 405
    head = await scraped.get("/metrics", "HEAD")
    assert head.code == 200 and head.body == b""


async def test_large(scraped: Scraped) -> None:
    """A scrape of 4,096 members arrives whole, and others get their turn meanwhile."""
    scraped.controller.tables["members"] = [member(number) for number in range(4096)]
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        call[0] = reactor.callLater(0, turn)  # type: ignore[attr-defined]

    call = [reactor.callLater(0, turn)]  # type: ignore[attr-defined]
    body = (await scraped.get()).body
    call[0].cancel()
    assert body.count(b"\ndmevpn_member_") == 6 * 4096
    assert body.count(b"# TYPE dmevpn_member_rx_bytes_total") == 1
    assert turns > 20


async def test_scrapes_are_bounded(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many at once is refused and counted; when one has gone there is room again."""
    monkeypatch.setattr(scraping, "SCRAPES", 1)
    scraped.controller.tables["members"] = [member(number) for number in range(4096)]
    slow = await scraped.send(REQUEST)
    slow.transport.pauseProducing()
    await until(lambda: scraped.controller.asked)
    assert (await scraped.get()).code == 503
    assert scraped.metrics.value("scrapes_refused") == 1
    slow.transport.abortConnection()
    scraped.controller.tables["members"] = []
    while (await scraped.get()).code != 200:
        pass


async def test_slow_reader_is_dropped(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not read cannot keep what it asked for in our memory."""
    monkeypatch.setattr(web, "ANSWER_LIMIT", 0.1)
    scraped.controller.tables["members"] = [member(number) for number in range(100_000)]
    slow = await scraped.send(REQUEST)
    slow.transport.pauseProducing()
    await until(lambda: scraped.controller.asked)
    await until(lambda: not scraped.connections)
    slow.transport.resumeProducing()
    await until(lambda: slow.lost)


async def test_connections_are_bounded(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed at once."""
    monkeypatch.setattr(web, "CONNECTIONS", 1)
    first = await scraped.send(b"")
    second = await scraped.send(b"")
    await until(lambda: second.lost)
    assert not first.lost
    assert scraped.metrics.value("web_connections_refused") == 1
    first.transport.abortConnection()


async def test_a_bug_is_no_whole_answer(scraped: Scraped, logged_failures: list[LogEvent]) -> None:
    """What breaks off is seen to be broken, and the bug is in the log."""
    scraped.controller.tables["members"] = [{}]
    reader = await scraped.send(REQUEST)
    await until(lambda: reader.lost)
    assert not reader.data.endswith(b"0\r\n\r\n")
    assert [event["log_failure"].type for event in logged_failures] == [KeyError]
    logged_failures.clear()


async def test_stop_closes_connections(scraped: Scraped) -> None:
    """A connection that Prometheus keeps does not hold up the stop."""
    reader = await scraped.send(REQUEST)
    await until(lambda: reader.data.endswith(b"0\r\n\r\n"))
    await scraped.service.stopService()
    await until(lambda: reader.lost)


@pytest.mark.parametrize(
    "description", ["tcp:x", "nonsense:1", "tcp:1:interface=192.0.2.1", "unix:/proc/x/y"]
)
def test_no_place(description: str) -> None:
    """The one line names the keyword that is to be changed."""
    service = MetricsService(reactor, description, FakeController(), Metrics())
    with pytest.raises(StartError) as refused:
        service.privilegedStartService()
    assert "\n" not in str(refused.value)
    assert "metrics" in str(refused.value) or "/proc/x" in str(refused.value)
