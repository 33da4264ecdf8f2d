"""A client that sends calls ahead of its answers: it waits, and costs nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.internet.task import LoopingCall

from dmevpn.admin.access import Grant
from dmevpn.admin.broker import MESSAGE_OCTETS
from dmevpn.admin.client import Connection, run
from dmevpn.admin.pace import CALLS
from dmevpn.admin.pages import PAGE_ROWS
from dmevpn.admin.pb import MAX_LISTINGS, AdminService
from tests.admin.certificates import Authority
from tests.admin.conftest import Served, until
from tests.admin.fakes import binding
from tests.admin.test_pb import MAC, Recorder

#: Many times what is worked on at once, in a few reads of a socket.
MANY = 2000


def send(connection: Connection, times: int, *call: Any) -> Deferred[list[Any]]:
    """Call a method of the root object again and again, without a look at the answers."""
    calls = [connection.root.callRemote(*call) for _ in range(times)]
    return gatherResults(calls, consumeErrors=True)


async def turns(number: int) -> None:
    """Let the reactor turn, with whatever arrives meanwhile."""
    seen = 0

    def turn() -> bool:
        nonlocal seen
        seen += 1
        return seen > number

    await until(turn)


@pytest_twisted.ensureDeferred
async def test_calls_at_once(served: Served) -> None:
    """Of what a client asks for ahead, a few are worked on; all are answered in the end."""
    served.controller.resolution = waiting = Deferred()
    async with served.connect() as connection:
        answers = send(connection, MANY, "run", "cache resolve", {"mac": MAC})
        await until(lambda: served.metrics.value("admin_calls_delayed"))
        await turns(20)
        assert len(served.controller.asked) == CALLS
        # Who waits for nothing of this does not wait for it, either.
        assert (await run(reactor, served.endpoint, "version", {})).row_count == 1
        served.controller.resolution = succeed(binding())
        waiting.callback(binding())
        assert len(await answers) == len(served.controller.asked) == MANY


@pytest_twisted.ensureDeferred
async def test_calls_of_a_turn(served: Served) -> None:
    """A few calls are begun in a turn of the reactor, even if they are answered at once."""
    most = seen = 0

    def turn() -> None:
        nonlocal most, seen
        most, seen = max(most, len(served.controller.asked) - seen), len(served.controller.asked)

    async with served.connect() as connection:
        watching = LoopingCall(turn)
        watching.start(0)
        await send(connection, MANY, "run", "cache show", {})
        watching.stop()
    assert len(served.controller.asked) == MANY
    assert 0 < most <= 2 * CALLS  # a turn of ours may be one earlier or later


@pytest_twisted.ensureDeferred
async def test_answers_that_are_not_read(served: Served) -> None:
    """Who reads no answers gets no more work done, until it reads them."""
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS - 1)]
    async with served.connect() as connection:
        await connection.call(connection.root, "run", "cache show", {})
        connection._protocol.transport.pauseProducing()
        answers = send(connection, MANY, "run", "cache show", {})
        (broker,) = served.service._factory.brokers
        await until(lambda: served.metrics.value("admin_calls_delayed"))
        await until(lambda: broker.transport.producerPaused)
        await turns(50)
        asked = len(served.controller.asked)
        assert asked < 5 * CALLS
        await turns(50)
        assert len(served.controller.asked) == asked
        assert broker.transport._tempDataLen + len(broker.transport.dataBuffer) < CALLS << 18
        served.controller.tables["bindings"] = []
        connection._protocol.transport.resumeProducing()
        assert len(await answers) == MANY


@pytest_twisted.ensureDeferred
async def test_watching_goes_on(served: Served) -> None:
    """A client that watches hears everything, whatever it has asked for besides, in its order."""
    recorder = Recorder()
    async with served.connect() as connection:
        await connection.call(connection.root, "watch", recorder, {})
        answers = send(connection, MANY, "run", "version", {})
        for number in range(MANY):
            served.controller.tell({"event": "added", **binding(number)})
        await answers
        await until(lambda: len(recorder.events) == MANY)
        assert [row["protocol"] for row in recorder.events] == [
            binding(number)["protocol"] for number in range(MANY)
        ]


#: Lists within each other, of which none ends.
ENDLESS = b"\x02\x80" * 10_000


@pytest_twisted.ensureDeferred
async def test_a_message_without_end(served: Served) -> None:
    """It is not read to the end; any number of messages with one is, wherever a read ends."""
    async with served.connect() as connection:
        await connection.call(connection.root, "run", "version", {})
        calls = [connection.root.callRemote("run", "x" * (MESSAGE_OCTETS // 16)) for _ in range(40)]
        outcomes = await DeferredList(calls, consumeErrors=True)
        assert {failure.type for _, failure in outcomes} == {b"dmevpn.admin.pb.WrongUsage"}
        assert served.service._factory.brokers
        sending = LoopingCall(connection._protocol.transport.write, ENDLESS)
        sending.start(0)
        await until(lambda: not served.service._factory.brokers)
        sending.stop()
    assert served.metrics.value("admin_clients_refused") == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("reading", [True, False])
async def test_a_client_that_leaves(served: Served, reading: bool) -> None:
    """Nothing is left of one that goes while it is far ahead, whether it takes answers or not."""
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS - 1)]
    async with served.connect() as connection:
        if not reading:
            connection._protocol.transport.pauseProducing()
        send(connection, MANY, "run", "cache show", {}).addErrback(lambda _: None)
        await until(lambda: served.metrics.value("admin_calls_delayed"))
    await until(lambda: not served.service._factory.brokers)
    asked = len(served.controller.asked)
    await turns(10)
    assert len(served.controller.asked) == asked < MANY


@pytest_twisted.ensureDeferred
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
async def test_a_client_that_leaves_by_tls(served: Served, tmp_path: Path) -> None:
    """One that says so before it has taken what it has asked for takes no place, either."""
    authority = Authority(tmp_path)
    ours = authority.issue("server", "localhost", server=True)
    theirs = authority.issue("client", "operator.example", server=False)
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS - 1)]
    service = AdminService(
        reactor,
        f"tls:0:interface=127.0.0.1:{ours}",
        served.controller,
        access=[Grant("full", "certificate", "operator.example")],
    )
    service.startService()
    port = service._port.getHost().port  # type: ignore[union-attr]
    async with Connection(reactor, f"tls:localhost:{port}:{theirs}") as connection:
        transport = connection._protocol.transport
        await connection.call(connection.root, "run", "version", {})
        (broker,) = service._factory.brokers
        transport.pauseProducing()
        while not broker.pace._unread:
            send(connection, 1, "run", "cache show", {}).addErrback(lambda _: None)
            await turns(20)
        transport.loseConnection()
        await turns(20)
        transport.resumeProducing()
        await until(lambda: not service._factory.brokers)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_listings_begun_at_once(served: Served) -> None:
    """They count, too: no more are open than may be."""
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS + 1)]
    async with served.connect() as connection:
        first = await connection.call(connection.root, "run", "cache show", {})
        calls = [connection.root.callRemote("run", "cache show", {}) for _ in range(MAX_LISTINGS)]
        outcomes = await DeferredList(calls, consumeErrors=True)
        assert [succeeded for succeeded, _ in outcomes].count(False) == 1
        assert served.metrics.value("admin_listings_refused") == 1
        assert first["listing"] is not None


@pytest_twisted.ensureDeferred
async def test_stop(served: Served) -> None:
    """A daemon that stops does not wait for who is far ahead and reads nothing."""
    served.controller.tables["bindings"] = [binding(number) for number in range(PAGE_ROWS - 1)]
    async with served.connect() as connection:
        connection._protocol.transport.pauseProducing()
        send(connection, MANY, "run", "cache show", {}).addErrback(lambda _: None)
        await until(lambda: served.metrics.value("admin_calls_delayed"))
        await served.service.stopService()
