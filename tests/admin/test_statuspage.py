"""The status page over a real socket, and what it is fed with."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

import dmevpn.admin
from dmevpn.admin import live, sketch, statuspage
from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.listening import loopback
from dmevpn.admin.live import CHANGES, INTERVAL, STALL_LIMIT, Live
from dmevpn.admin.pages import TURN_ROWS
from dmevpn.admin.sketch import LINKS, SITES
from dmevpn.admin.statuspage import TABLES, StatusService, table
from dmevpn.metrics import Metrics
from tests.admin.conftest import until
from tests.admin.fakes import FakeController, binding
from tests.admin.test_exposition import member
from tests.admin.test_scraping import Reader, Scraped
from tests.schemas import validate

FILES = Path(dmevpn.admin.__file__).parent / "page"


def shortcut(number: int = 1, **fields: Any) -> dict[str, Any]:
    """A row of ``shortcut show``."""
    return {
        "vpn": 1,
        "nbma": f"10.0.{number >> 8}.{number & 255}",
        "vni": 100,
        "protocol": "52:54:00:00:00:01",
        "peer_nbma": "10.9.0.1",
        "peer_vni": 101,
        "expires_in": 300,
    } | fields


@pytest_twisted.async_yield_fixture
async def page() -> AsyncIterator[Scraped]:
    controller, metrics = FakeController(), Metrics()
    controller.tables["members"] = [member(1), member(2)]
    service: Any = StatusService(reactor, "tcp:0", controller, metrics, "hub")
    service.privilegedStartService()
    service.startService()
    assert service._port.getHost().host == "127.0.0.1", "unless the endpoint says otherwise"
    yield Scraped(service, controller, metrics, service._port.getHost().port)
    if service.running:
        await service.stopService()


def events(data: bytes) -> list[tuple[str, Any]]:
    """Server-sent events, with their data, which is as its schema says."""
    text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", data.partition(b"\r\n\r\n")[2])
    found = [
        (name.decode(), json.loads(value))
        for name, value in re.findall(rb"event: (\w+)\ndata: (.*)\n", text)
    ]
    for name, value in found:
        validate(f"page-{name}", value)
    return found


async def test_files(page: Scraped) -> None:
    """All that a browser loads is here, and it is told to load nothing else."""
    assert {path.name for path in FILES.iterdir()} == set(statuspage._FILES)
    for path in ("", *(name for name in statuspage._FILES if name != "index.html")):
        response = await page.get(f"/{path}")
        assert response.code == 200
        [policy] = [line for line in response.headers if line.startswith("content-security-policy")]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        text = response.body.decode()
        assert response.body == (FILES / (path or "index.html")).read_bytes()
        assert not re.search(r"//[a-z0-9.-]+\.[a-z]+/", text.replace("//www.w3.org/", ""))
        assert "innerHTML" not in text and "style=" not in text


async def test_only_looking(page: Scraped) -> None:
    """Nothing can be changed, and there is nothing else."""
    for method in ("POST", "PUT", "DELETE"):
        assert (await page.get("/tables/cache", method)).code == 405
    assert (await page.get("/tables/config")).code == 404
    assert (await page.get("/etc/passwd")).code == 404
    head = await page.get("/events", "HEAD")
    assert head.code == 200 and head.body == b""
    assert not page.controller.listeners


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9102", 200),
        ("localhost", 200),
        ("[::1]:9102", 200),
        ("LocalHost:1", 200),
        ("evil.example:9102", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
async def test_names(page: Scraped, host: str, code: int) -> None:
    """A foreign page that has its own name looked up as our address reads nothing."""
    reader = await page.send(f"GET /tables/vpn HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    await until(lambda: reader.lost)
    assert int(reader.data.split()[1]) == code


async def test_table(page: Scraped) -> None:
    """A listing is that of dmevpnctl, and can be searched and cut off."""
    rows = [binding(number, vpn=1 + number % 2) for number in range(1000)]
    page.controller.tables["bindings"] = rows
    answer = json.loads((await page.get("/tables/cache")).body)
    assert answer == {"table": rows, "attr": {"entriesCount": 1000, "more": False}}
    answer = json.loads((await page.get("/tables/cache?search=00:03:E7")).body)
    assert answer["table"] == [rows[999]]
    answer = json.loads((await page.get("/tables/cache?vpn=2&limit=3")).body)
    assert answer == {"table": rows[1:6:2], "attr": {"entriesCount": 3, "more": True}}
    answer = json.loads((await page.get("/tables/cache?search=nothing")).body)
    assert answer == {"table": [], "attr": {"entriesCount": 0, "more": False}}
    for name in TABLES:
        answer = json.loads((await page.get(f"/tables/{name}")).body)
        validate(f"page-{name}", answer)
        assert bool(answer["table"]) is (name in ("cache", "member"))


@pytest.mark.parametrize(
    "query", ["vpn=x", "limit=x", "limit=-1", "limit=%D9%A3", "colour=red", "mac=1", "vpn=%ff"]
)
async def test_questions_without_sense(page: Scraped, query: str) -> None:
    """A sentence, and nothing in the log."""
    response = await page.get(f"/tables/cache?{query}")
    assert response.code == 400 and response.body.endswith(b"\n")
    assert response.body.count(b"\n") == 1


def test_a_long_table_is_made_in_parts() -> None:
    """No part is made of more than TURN_ROWS rows, found or not; empty rows are turns, too."""
    looked = 0

    def rows() -> Any:
        nonlocal looked
        for number in range(100_000):
            looked += 1
            yield binding(number)
            if number == 5000:
                yield {}

    most = 0
    size = 0
    for part in table(COMMANDS["cache show"], rows(), "52:54:00:00:00:01", None):
        most, looked = max(most, looked), 0
        size = max(size, len(part))
    assert 0 < most <= TURN_ROWS
    assert size < 64_000


async def test_live(page: Scraped) -> None:
    """A page gets the state at once, then what changes; when it is closed nobody asks any more."""
    page.controller.tables["shortcuts"] = [shortcut(1), shortcut(1), shortcut(2), {}]
    reader = await page.send(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: events(reader.data))
    [(name, state)] = events(reader.data)
    assert name == "state" and state["name"] == "hub"
    assert [row["nbma"] for row in state["sites"]] == [member(1)["nbma"], member(2)["nbma"]]
    assert [row["addresses"] for row in state["links"]] == [2, 1]
    assert state["left_out"] == {"vpns": 0, "sites": 0, "links": 0}
    assert len(page.controller.listeners) == 1
    reader.transport.loseConnection()
    await until(lambda: not page.controller.listeners)


async def test_live_of_one_vpn(page: Scraped) -> None:
    """Who looks at one VPN is told of that; nonsense is refused."""
    reader = await page.send(b"GET /events?vpn=7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: events(reader.data))
    assert ("members", {"vpn": 7}) in page.controller.asked
    assert ("shortcuts", {"vpn": 7}) in page.controller.asked
    assert (await page.get("/events?vpn=x")).code == 400
    reader.transport.abortConnection()


async def test_pages_are_bounded(page: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused and counted; so are tables."""
    monkeypatch.setattr(statuspage, "PAGES", 1)
    reader = await page.send(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: events(reader.data))
    assert (await page.get("/events")).code == 503
    assert page.metrics.value("status_refused") == 1
    monkeypatch.setattr(statuspage, "TABLES_AT_ONCE", 1)
    page.controller.tables["bindings"] = [binding(number) for number in range(100_000)]
    slow = await page.send(b"GET /tables/cache HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    slow.transport.pauseProducing()
    await until(lambda: ("bindings", {}) in page.controller.asked)
    assert (await page.get("/tables/vpn")).code == 503
    assert page.metrics.value("status_refused") == 2
    slow.transport.abortConnection()
    reader.transport.abortConnection()
    while (await page.get("/tables/vpn")).code != 200:
        pass


async def test_stop(page: Scraped) -> None:
    """Open pages do not hold up the end, and leave nothing behind."""
    reader: Reader = await page.send(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: events(reader.data))
    await page.service.stopService()
    await until(lambda: reader.lost and not page.controller.listeners)


# --- what a page is told, on a clock of our own ----------------------------------------------


class Request:
    """What Live sees of a request."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False
        self.producer: Any = None
        self._finished: list[Deferred[None]] = []
        self.channel = self.transport = self

    def notifyFinish(self) -> Deferred[None]:
        self._finished.append(Deferred())
        return self._finished[-1]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def write(self, data: bytes) -> None:
        self.written += data

    def abortConnection(self) -> None:
        self.aborted = True
        for each in self._finished:
            each.callback(None)

    def take(self) -> bytes:
        """What was written since the last time."""
        written, self.written = self.written, b""
        return written


class Watched:
    """A page on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.controller = FakeController()
        self.metrics = Metrics()
        self.live = Live(self.clock, self.controller, {"name": "hub"}, self.metrics)
        self.request = self.open()

    def open(self, **match: Any) -> Request:
        """One more page."""
        request = Request()
        self.live.open(request, match)
        self.run(0.1)
        return request

    def run(self, seconds: float) -> None:
        """Let time go by in small steps."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)


def test_heartbeat() -> None:
    """When nothing is new a comment says so, that a dead connection shows."""
    watched = Watched()
    assert b"event: state\n" in watched.request.take()
    watched.run(INTERVAL)
    assert watched.request.take() == b": nothing new\n\n"
    watched.request.abortConnection()
    assert not watched.clock.getDelayedCalls() and not watched.controller.listeners


def test_changes_are_bounded() -> None:
    """Of a flood of changes the newest are told, and how many others there were."""
    watched = Watched()
    other = watched.open(vpn=2)
    for number in range(CHANGES + 50):
        watched.controller.tell({"event": "added", **binding(number)})
    watched.request.take()
    watched.run(2 * INTERVAL)
    changes = re.search(rb"event: changes\ndata: (.*)\n", watched.request.take())
    assert changes is not None
    told = json.loads(changes[1])
    assert told["lost"] == 50 and len(told["rows"]) == CHANGES
    assert told["rows"][-1]["protocol"] == binding(CHANGES + 49)["protocol"]
    assert b"changes" not in other.written


def test_a_slow_page_holds_one_state() -> None:
    """Who does not read gets the newest state when he does, and is dropped after a while."""
    watched = Watched()
    watched.request.take()
    watched.request.producer.pauseProducing()
    for number in range(10):
        watched.controller.tables["members"] = [member(number)]
        watched.run(INTERVAL)
    assert watched.request.take() == b""
    watched.request.producer.resumeProducing()
    states = re.findall(rb"event: state", watched.request.written)
    assert len(states) == 1 and member(9)["nbma"].encode() in watched.request.take()
    watched.request.producer.pauseProducing()
    watched.run(STALL_LIMIT + 2 * INTERVAL)
    assert watched.request.aborted and not len(watched.live)
    assert watched.metrics.value("status_dropped") == 1


def test_pages_share_the_work() -> None:
    """Ten pages cost no more questions than one, and a late one has the state at once."""
    watched = Watched()
    watched.controller.asked.clear()
    pages = [watched.open() for _ in range(9)]
    assert all(b"event: state" in page.written for page in pages)
    assert watched.controller.asked == []
    assert len(watched.live) == 10 and len(watched.controller.listeners) == 1


def test_a_bug_is_logged_and_tried_again(logged_failures: list[Any]) -> None:
    """A state that cannot be gathered is no reason to be silent for ever."""
    watched = Watched()
    watched.request.take()
    watched.controller.tables["shortcuts"] = [{"nonsense": 1}]
    watched.run(INTERVAL + 0.1)
    assert [event["log_failure"].type for event in logged_failures] == [KeyError]
    logged_failures.clear()
    watched.controller.tables["shortcuts"] = [shortcut()]
    watched.run(INTERVAL + 0.1)
    assert b'"links":[{' in watched.request.take()


def test_a_map_has_bounds() -> None:
    """What there is no room for is counted; the work is in steps."""
    controller = FakeController()
    controller.tables["members"] = [member(number) for number in range(SITES + 5)]
    controller.tables["shortcuts"] = [shortcut(number) for number in range(LINKS + 7)]
    work = sketch.sketch(controller, {})
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            state = end.value
            break
        steps += 1
    assert steps >= (SITES + LINKS) // sketch.STEP
    assert (len(state["sites"]), len(state["links"])) == (SITES, LINKS)
    assert state["left_out"] == {"vpns": 0, "sites": 5, "links": 7}


def test_planes_of_a_spoke() -> None:
    """A spoke tells what it has carried by hub and by shortcut."""
    controller = FakeController()
    controller.tables["vpns"] = [{"vpn": 1, "roles": ["spoke"]}]
    labels = {"plane": "shortcut", "vpn": "1"}
    sample = {"name": "dmevpn_plane_tx_bytes_total", "labels": labels, "value": 7}
    controller.tables["metrics"] = [sample, {"name": "dmevpn_other", "labels": {}, "value": 1}]
    found = {}
    for vpn in (1, 2):
        work = sketch.sketch(controller, {"vpn": vpn})
        try:
            while True:
                next(work)
        except StopIteration as end:
            found[vpn] = end.value["planes"]
    assert found == {1: {"1": {"shortcut": {"tx_bytes": 7}}}, 2: {}}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tcp:9102", "tcp:9102:interface=127.0.0.1"),
        ("tcp6:9102", r"tcp6:9102:interface=\:\:1"),
        ("tcp:9102:interface=10.0.0.1", "tcp:9102:interface=10.0.0.1"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_loopback(written: str, meant: str) -> None:
    """Who names no interface means this machine only."""
    assert loopback(written) == meant


def test_interval_is_not_too_long() -> None:
    """The page takes 30 s of silence for a sign that something is wrong."""
    script = (FILES / "page.js").read_text()
    silent = re.search(r"SILENT = (\d+)", script)
    assert silent is not None and int(silent[1]) / 1000 > live.INTERVAL * 5
