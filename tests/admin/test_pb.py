"""Clients over a real socket: commands, long listings, watches, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import LoopingCall
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure
from twisted.spread import pb

from dmevpn.admin import pb as admin
from dmevpn.admin.client import NoDaemon, Result, run, watch
from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.help import reference
from dmevpn.admin.pace import CALLS
from dmevpn.admin.pages import PAGE_OCTETS, PAGE_ROWS
from dmevpn.admin.parameters import UsageError
from dmevpn.errors import CommandError, DataplaneError
from tests.admin.conftest import Served, until
from tests.admin.fakes import binding

MAC = "52:54:00:00:00:01"


def rows(result: Result) -> list[dict[str, Any]]:
    return [row for page in result.pages for row in json.loads(page)]


async def ask(served: Served, name: str, **arguments: str) -> list[dict[str, Any]]:
    return rows(await run(reactor, served.endpoint, name, arguments))


# --- commands -----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("vpn show", "vpns"),
        ("cache show", "bindings"),
        ("member show", "members"),
        ("registration show", "registrations"),
        ("fdb show", "fdb"),
        ("interface show", "interfaces"),
        ("metrics show", "metrics"),
    ],
)
async def test_listings(served: Served, name: str, table: str) -> None:
    """Each listing shows the rows of its table, with the fields that are documented."""
    fields = [column.name for column in COMMANDS[name].columns]
    served.controller.tables[table] = [{fields[0]: 1, "unheard_of": 2}]
    assert await ask(served, name) == [dict.fromkeys(fields) | {fields[0]: 1}]


@pytest_twisted.ensureDeferred
async def test_filters_arrive_as_values(served: Served) -> None:
    """The node gets numbers and octets, whatever way an address was written."""
    await ask(served, "cache show", vpn="1", mac="52-54-00-00-00-01", nbma="2001:DB8::1")
    assert served.controller.asked == [
        (
            "bindings",
            {
                "vpn": 1,
                "mac": b"\x52\x54\0\0\0\1",
                "nbma": bytes.fromhex("20010db8000000000000000000000001"),
            },
        )
    ]


@pytest_twisted.ensureDeferred
async def test_actions(served: Served) -> None:
    """Actions tell how much they did, and are refused when there was nothing to do."""
    assert await ask(served, "cache purge", vpn="1") == [{"purged": 3}]
    assert await ask(served, "cache flush", type="negative") == [{"flushed": 3}]
    assert await ask(served, "registration renew") == [{"renewed": 3}]
    served.controller.removed = 0
    for name in ("cache purge", "cache flush", "registration renew"):
        with pytest.raises(CommandError, match=r"^no .* to"):
            await ask(served, name)


@pytest_twisted.ensureDeferred
async def test_resolve(served: Served) -> None:
    """The answer of the hub is shown as a binding; a refusal arrives as it was worded."""
    assert await ask(served, "cache resolve", mac=MAC) == [binding()]
    for refusal in (CommandError("no hub"), fail(CommandError("no hub"))):
        served.controller.resolution = refusal
        with pytest.raises(CommandError, match=r"^no hub$"):
            await ask(served, "cache resolve", mac=MAC)


@pytest_twisted.ensureDeferred
async def test_configuration(served: Served) -> None:
    """The file is shown line by line; a check or reload that fails has its messages, too."""
    shown = await ask(served, "config show")
    assert [row["text"] for row in shown] == ["interface nhrp", "    cisco-authentication ***"]
    served.controller.report = {"ok": False, "messages": ["a:1: what", "a:2: why"]}
    for name in ("config check", "config reload"):
        result = await run(reactor, served.endpoint, name, {})
        assert [row["message"] for row in rows(result)] == ["a:1: what", "a:2: why"]
        assert result.refused
    served.controller.report = {"ok": True, "messages": []}
    assert (await run(reactor, served.endpoint, "config check", {"file": "/x"})).refused == ""
    assert served.controller.asked[-1] == ("config_check", {"path": "/x"})
    assert await ask(served, "config diff", file="/y") == []
    assert served.controller.asked[-1] == ("config_diff", {"path": "/y"})


@pytest_twisted.ensureDeferred
async def test_log_level(served: Served) -> None:
    """The level is shown and set while the daemon runs."""
    levels = served.service.context.log_levels
    assert await ask(served, "log level") == [{"level": "info"}]
    assert await ask(served, "log level", level="debug") == [{"level": "debug"}]
    assert levels.logLevelForNamespace("dmevpn.nhrp.speaker") == LogLevel.debug
    served.service.context = served.service.context._replace(log_levels=None)
    with pytest.raises(CommandError, match="no level that can be changed"):
        await ask(served, "log level")


@pytest_twisted.ensureDeferred
async def test_version(served: Served) -> None:
    """The daemon says what it is and what it runs on."""
    assert (await ask(served, "version"))[0].keys() == {
        "version",
        "python",
        "twisted",
        "kernel",
        "pid",
    }


@pytest_twisted.ensureDeferred
async def test_table_is_told(served: Served) -> None:
    """Other clients can learn the commands from the daemon."""
    async with served.connect() as connection:
        told = await connection.call(connection.root, "commands")
    assert [command["name"] for command in told] == list(COMMANDS)
    assert told[0]["columns"] == ["vpn", "roles", "members", "macs", "shortcuts", "pending"]


def test_documented_limits() -> None:
    """docs/admin.md names the limits that hold."""
    for limit in (CALLS, admin.MAX_CLIENTS, admin.WATCH_QUEUE, PAGE_ROWS, PAGE_OCTETS // 1024):
        assert f" {limit:,} " in reference().replace("\n", " ")


# --- errors -------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("run", ()),
        ("run", ("cache show", {}, 3)),
        ("run", (7, {})),
        ("run", (["cache show"], {})),
        ("run", ("cache shwo", {})),
        ("run", ("cache show", "vpn 1")),
        ("run", ("cache show", {"vpn": 1})),
        ("run", ("cache show", {"colour": "red"})),
        ("run", ("cache resolve", {})),
        ("run", ("cache watch", {})),
        ("watch", ()),
        ("watch", ("me", {})),
        ("watch", (None, None)),
        ("shutdown", ()),
        ("_answer", ()),
    ],
)
async def test_malformed_calls(served: Served, method: str, arguments: tuple[Any, ...]) -> None:
    """Wrong calls are answered as wrong usage; the log stays clean, the connection usable."""
    async with served.connect() as connection:
        with pytest.raises(pb.RemoteError) as raised:
            await connection.call(connection.root, method, *arguments)
        assert raised.value.remoteType == b"dmevpn.admin.pb.WrongUsage"
        assert (await connection.call(connection.root, "run", "version"))["page"][0] == 1


@pytest_twisted.ensureDeferred
async def test_values_that_do_not_cross(served: Served) -> None:
    """An object that the daemon does not know is refused, not tried."""

    class Sneaky(pb.Copyable):
        pass

    async with served.connect() as connection:
        with pytest.raises(pb.RemoteError) as raised:
            await connection.call(connection.root, "run", Sneaky())
        assert raised.value.remoteType == b"dmevpn.admin.pb.WrongUsage"


@pytest_twisted.ensureDeferred
async def test_kernel_refuses(served: Served) -> None:
    """An error of the data plane reaches the operator in its own words."""
    served.controller.resolution = DataplaneError(1, "read the neighbours of vx1")
    with pytest.raises(CommandError, match="read the neighbours of vx1: Operation not perm"):
        await ask(served, "cache resolve", mac=MAC)


@pytest_twisted.ensureDeferred
async def test_bug(served: Served, logged_failures: list[LogEvent]) -> None:
    """A bug of ours is in the daemon's log with its traceback; the operator is sent there."""
    served.controller.resolution = ZeroDivisionError()
    with pytest.raises(CommandError, match="internal error; the daemon's log"):
        await ask(served, "cache resolve", mac=MAC)
    assert [event["log_failure"].type for event in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()
    served.controller.tables["bindings"] = [{"vpn": object()}]
    with pytest.raises(CommandError, match="internal error"):
        await ask(served, "cache show")
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "octets", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x04\x82none\x00\x80"]
)
async def test_client_of_another_protocol(served: Served, octets: bytes) -> None:
    """Garbage from a client closes its connection with a line in the log, and no more."""

    def closed() -> bool:
        try:
            return not stranger.recv(4096)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(served.path))
        stranger.setblocking(False)
        stranger.sendall(octets)
        stranger.shutdown(socket.SHUT_WR)
        await until(closed)
    assert (await ask(served, "version"))[0]["version"]


# --- long listings ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_long_listing(served: Served, record_property: Callable[[str, object], None]) -> None:
    """100,000 bindings arrive whole, in pages, while the reactor goes on with its work."""
    total = 100_000
    ahead = most_ahead = 0

    def bindings() -> Iterator[dict[str, Any]]:
        nonlocal ahead, most_ahead
        for number in range(total):
            ahead += 1
            most_ahead = max(ahead, most_ahead)
            yield binding(number)

    class Table:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return bindings()

    served.controller.tables["bindings"] = Table()  # type: ignore[assignment]
    longest, last, turns = 0.0, time.perf_counter(), 0

    def turn() -> None:
        nonlocal longest, last, turns
        now = time.perf_counter()
        longest, last, turns = max(longest, now - last), now, turns + 1

    watching = LoopingCall(turn)
    watching.start(0, now=False)
    seen = pages = 0
    async with served.connect() as connection:
        answer = await connection.call(connection.root, "run", "cache show", {})
        page = answer["page"]
        while True:
            count, octets, more = page
            assert len(octets) <= PAGE_OCTETS
            assert count == min(PAGE_ROWS, total - seen)
            assert most_ahead <= PAGE_ROWS
            seen, pages, ahead = seen + count, pages + 1, 0
            if not more:
                break
            page = await connection.call(answer["listing"], "next")
    watching.stop()
    assert seen == total
    assert turns > pages
    record_property("longest_turn_ms", round(1000 * longest, 1))  # both ends work in it


@pytest_twisted.ensureDeferred
async def test_too_many_listings(served: Served) -> None:
    """A client cannot open listings without end; letting go of one makes room."""
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS + 1)]
    async with served.connect() as connection:
        open_listings = []
        for _ in range(admin.MAX_LISTINGS):
            answer = await connection.call(connection.root, "run", "cache show", {})
            open_listings.append(answer["listing"])
        with pytest.raises(pb.RemoteError, match="listings are open already"):
            await connection.call(connection.root, "run", "cache show", {})
        assert served.metrics.value("admin_listings_refused") == 1
        del answer
        open_listings.pop()
        answer = await connection.call(connection.root, "run", "cache show", {})
        count, page, more = await connection.call(answer["listing"], "next")
        assert (count, len(json.loads(page)), more) == (1, 1, False)


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_early(served: Served) -> None:
    """A client that is interrupted while it waits leaves no trace in the log."""
    outcomes: list[Any] = [binding(), Failure(CommandError("too late"))]
    for outcome in outcomes:
        waiting: Deferred[dict[str, Any]] = Deferred()
        served.controller.resolution = waiting
        served.controller.asked.clear()
        async with served.connect() as connection:
            call = connection.root.callRemote("run", "cache resolve", {"mac": MAC})
            call.addErrback(lambda _: None)
            await until(lambda: served.controller.asked)
        await until(lambda: not served.service._factory.brokers)
        waiting.callback(outcome)


# --- watches ------------------------------------------------------------------------------


class Recorder(pb.Referenceable):
    """An observer that takes its time."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.answer: Deferred[None] | None = None

    def remote_events(self, page: bytes) -> Deferred[None] | None:
        self.events += json.loads(page)
        return self.answer

    def remote_closed(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest_twisted.ensureDeferred
async def test_watch(served: Served) -> None:
    """Changes arrive in order, those that the filters let pass, until the client leaves."""
    recorder = Recorder()
    async with served.connect() as connection:
        await connection.call(connection.root, "watch", recorder, {"vpn": "1"})
        for number in range(PAGE_ROWS + 10):
            served.controller.tell({"event": "added", **binding(number)})
            served.controller.tell({"event": "added", **binding(number, vpn=2)})
        await until(lambda: len(recorder.events) == PAGE_ROWS + 10)
        assert recorder.events == [
            {"event": "added", **binding(number)} for number in range(PAGE_ROWS + 10)
        ]
        with pytest.raises(pb.RemoteError, match="one watch for each connection"):
            await connection.call(connection.root, "watch", recorder, {})
    await until(lambda: not served.controller.listeners)


@pytest_twisted.ensureDeferred
async def test_slow_watcher_is_dropped(served: Served) -> None:
    """A client that falls too far behind is told and dropped; memory stays bounded."""
    recorder = Recorder()
    recorder.answer = Deferred()
    async with served.connect() as connection:
        await connection.call(connection.root, "watch", recorder, {})
        for number in range(1 + admin.WATCH_QUEUE):
            served.controller.tell({"event": "added", **binding(number)})
        assert len(served.controller.listeners) == 1
        served.controller.tell({"event": "added", **binding()})
        assert served.controller.listeners == []
        await until(lambda: recorder.reasons)
        assert recorder.reasons == ["dropped: more than 10000 events are waiting to be taken"]
        await until(lambda: not served.service._factory.brokers)
    assert served.metrics.value("admin_watchers_dropped") == 1
    recorder.answer.callback(None)


@pytest_twisted.ensureDeferred
async def test_burst_is_not_slowness(served: Served) -> None:
    """10,000 changes in one turn reach a client that reads."""
    recorder = Recorder()
    async with served.connect() as connection:
        await connection.call(connection.root, "watch", recorder, {})
        for number in range(admin.WATCH_QUEUE):
            served.controller.tell({"event": "expired", **binding(number)})
        await until(lambda: len(recorder.events) == admin.WATCH_QUEUE)
    assert recorder.reasons == []


@pytest_twisted.ensureDeferred
async def test_client_that_reads_nothing(served: Served) -> None:
    """A dropped client that does not even close is cut off."""
    async with served.connect() as connection:
        await connection.call(connection.root, "watch", Recorder(), {})
        connection._protocol.transport.stopReading()
        # More than the socket's buffers hold, so that closing in order would never end.
        served.controller.tell({"event": "added", **binding(flags=["x" * 250_000])})
        for number in range(1 + admin.WATCH_QUEUE):
            served.controller.tell({"event": "added", **binding(number)})
        (broker,) = served.service._factory.brokers
        assert broker.transport.dataBuffer or broker.transport._tempDataBuffer
        await until(lambda: not served.service._factory.brokers)


@pytest_twisted.ensureDeferred
async def test_observer_that_fails(served: Served) -> None:
    """A failure on the client's side ends its watch, quietly."""
    seen: list[bytes] = []

    def events(page: bytes) -> None:
        seen.append(page)
        raise BrokenPipeError

    watching = Deferred.fromCoroutine(watch(reactor, served.endpoint, "cache watch", {}, events))
    await until(lambda: served.controller.listeners)
    served.controller.tell({"event": "added", **binding()})
    with pytest.raises(BrokenPipeError):
        await watching
    await until(lambda: not served.controller.listeners)
    assert len(seen) == 1


# --- clients ------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_too_many_clients(
    served: Served,
) -> None:
    """Beyond the limit a client is closed and counted; those that are served do not notice."""
    connections = []
    for _ in range(admin.MAX_CLIENTS):
        connection = served.connect()
        connections.append(await connection.__aenter__())
        await connection.call(connection.root, "run", "version", {})
    with pytest.raises(NoDaemon, match="too many clients"):
        await run(reactor, served.endpoint, "version", {})
    assert served.metrics.value("admin_clients_refused") == 1
    for connection in connections:
        await connection.call(connection.root, "run", "version", {})
        await connection.__aexit__(None, None, None)
    await until(lambda: not served.service._factory.brokers)
    assert (await ask(served, "version"))[0]["version"]


@pytest_twisted.ensureDeferred
async def test_stop_disconnects_everyone(served: Served) -> None:
    """When the daemon stops, watching clients hear why, and nobody is left waiting."""
    served.controller.resolution = Deferred()
    watching = Deferred.fromCoroutine(
        watch(reactor, served.endpoint, "cache watch", {}, lambda _: None)
    )
    asking = Deferred.fromCoroutine(run(reactor, served.endpoint, "cache resolve", {"mac": MAC}))
    await until(lambda: served.controller.listeners and served.controller.asked)
    await served.service.stopService()
    assert served.controller.listeners == []
    with pytest.raises(CommandError, match="the daemon stops"):
        await watching
    with pytest.raises(NoDaemon, match="closed the connection"):
        await asking
    with pytest.raises(NoDaemon, match="no such socket"):
        await ask(served, "version")


@pytest_twisted.ensureDeferred
async def test_usage_of_an_older_client(served: Served) -> None:
    """The daemon's own opinion of a command counts, if the client's table differs."""
    with pytest.raises(UsageError, match="unknown command 'divine'"):
        await ask(served, "divine", mac=MAC)
