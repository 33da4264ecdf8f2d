"""The socket and the program of those who come from OpenNHRP."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from dmevpn.addresses import parse_ip
from dmevpn.admin.opennhrp_socket import COMMAND_LIMIT, COMMAND_MAX, MAX_CLIENTS, OpenNHRPService
from dmevpn.errors import StartError
from dmevpn.interfaces import InterfaceEntry, IPeerTable, PeerEntry
from dmevpn.metrics import Metrics
from tests.admin.conftest import until

LARGE = 20_000


@implementer(IPeerTable)
class FakeTable:
    """So many peers."""

    def __init__(self) -> None:
        self.count = 1
        self.broken = False
        self.made = 0

    def entries(self) -> Iterator[PeerEntry]:
        for number in range(self.count):
            if self.broken:
                raise RuntimeError("no table")
            self.made += 1
            protocol = (0x0A000000 + number).to_bytes(4, "big")
            yield PeerEntry("gre1", None, "dynamic", protocol, 32, parse_ip("192.0.2.1"))

    def interfaces(self) -> Iterator[InterfaceEntry]:
        return iter(())

    def flush(self, match: Callable[[PeerEntry], bool]) -> Iterator[bool]:
        for entry in self.entries():
            yield match(entry)

    def purge(self, match: Callable[[PeerEntry], bool], reason: str) -> Iterator[bool]:
        return self.flush(match)

    def forget_redirects(self, protocol: bytes, bits: int) -> int:
        return 0

    def name_server(self, nbma: bytes, protocol: bytes) -> int:
        return 0


class Time(Clock):
    """Listens for real, and lets the test tell the time."""

    listenUNIX = staticmethod(reactor.listenUNIX)  # type: ignore[attr-defined]


class Served:
    """A service that listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = FakeTable()
        self.metrics = Metrics()
        self.time = Time()
        self.service = OpenNHRPService(self.time, str(path), self.table, self.metrics)

    def connect(self) -> socket.socket:
        """A client."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(str(self.path))
        return client

    def ask(self, octets: bytes) -> Any:
        """What the daemon answers, until it ends the connection; a Deferred."""
        turns = LoopingCall(self.time.advance, 0)

        def talk() -> bytes:
            with self.connect() as client:
                client.sendall(octets)
                client.shutdown(socket.SHUT_WR)
                return everything(client)

        turns.start(0.002)

        def stop(result: Any) -> Any:
            turns.stop()
            return result

        return deferToThread(talk).addBoth(stop)

    def run(self, *arguments: str) -> Any:
        """Run ``opennhrpctl``; a Deferred of the completed process."""
        command = [sys.executable, "-m", "dmevpn.admin.opennhrpctl", *arguments]
        return deferToThread(subprocess.run, command, capture_output=True, text=True, timeout=60)


def everything(client: socket.socket) -> bytes:
    """What comes until the end of the connection."""
    found = b""
    while octets := client.recv(65536):
        found += octets
    return found


async def turn() -> None:
    """Let the reactor run a moment."""
    pause: Awaitable[None] = deferLater(reactor, 0.002)
    await pause


@pytest_twisted.async_yield_fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    found = Served(tmp_path / "open:nhrp.socket")
    found.service.privilegedStartService()
    found.service.startService()
    yield found
    if found.service.running:
        await found.service.stopService()


ENTRY = (
    b"Interface: gre1\nType: dynamic\nProtocol-Address: 10.0.0.0/32\nNBMA-Address: 192.0.2.1\n\n"
)


@pytest_twisted.ensureDeferred
async def test_an_answer(served: Served) -> None:
    """A line, an answer, and the end; the socket is its owner's."""
    assert await served.ask(b"show\n") == b"Status: ok\n\n" + ENTRY
    assert await served.ask(b"purge\nflush\n") == b"Status: ok\nEntries-Affected: 1\n"
    assert await served.ask(b"\xff\n") == b"Status: error\nReason: unrecognized command\n"
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600
    await until(lambda: served.time.getDelayedCalls() == [])


@pytest_twisted.ensureDeferred
async def test_a_line_in_pieces(served: Served) -> None:
    """It is read until its end."""
    with served.connect() as client:
        for octet in b"show":
            client.send(bytes([octet]))
            await turn()
        client.send(b"\n")
        assert await deferToThread(everything, client) == b"Status: ok\n\n" + ENTRY


@pytest.mark.parametrize("octets", [b"", b"show", b"x" * 100_000, b"show " + b"x" * COMMAND_MAX])
@pytest_twisted.ensureDeferred
async def test_no_command(served: Served, octets: bytes) -> None:
    """Whoever sends no line, or too long a one, gets nothing."""

    def talk() -> bytes:
        with served.connect() as client:
            try:
                client.sendall(octets + b"\n" * (len(octets) > COMMAND_MAX))
                client.shutdown(socket.SHUT_WR)
                return everything(client)
            except (BrokenPipeError, ConnectionResetError):
                return b""

    assert await deferToThread(talk) == b""


@pytest_twisted.ensureDeferred
async def test_time(served: Served) -> None:
    """Whoever says nothing is turned out."""
    with served.connect() as client:
        await until(served.time.getDelayedCalls)
        served.time.advance(COMMAND_LIMIT)
        assert await deferToThread(everything, client) == b""


@pytest_twisted.ensureDeferred
async def test_many_clients(served: Served) -> None:
    """So many at once; one more is counted, and closed."""
    clients = [served.connect() for _ in range(MAX_CLIENTS)]
    await until(lambda: len(served.time.getDelayedCalls()) == MAX_CLIENTS)
    with served.connect() as another:
        assert await deferToThread(everything, another) == b""
    assert served.metrics.value("admin_clients_refused") == 1
    for client in clients:
        client.close()
    await until(lambda: served.time.getDelayedCalls() == [])
    assert (await served.ask(b"show\n")).startswith(b"Status: ok\n")


@pytest_twisted.ensureDeferred
async def test_a_long_answer(served: Served) -> None:
    """It is made as fast as it is read, and not at all for who has gone."""
    served.table.count = LARGE
    with served.connect() as client:
        client.sendall(b"show\n")
        await until(lambda: served.table.made)
        for _ in range(50):
            await turn()
        assert served.table.made < LARGE, "nobody reads"
        answer = await deferToThread(everything, client)
    assert answer.count(b"Interface: ") == LARGE
    served.table.made = 0
    with served.connect() as client:
        client.sendall(b"show\n")
        await until(lambda: served.table.made)
    await until(lambda: served.time.getDelayedCalls() == [])
    assert served.table.made < LARGE


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (b"show protocol 10.0.0.5\n", ENTRY.replace(b"10.0.0.0", b"10.0.0.5")),
        (b"flush protocol 10.0.0.0/24\n", b"Entries-Affected: 256\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_long_search(served: Served, command: bytes, reply: bytes) -> None:
    """Between a few entries, the reactor has its turn, though there is nothing to write."""
    served.table.count = LARGE
    with served.connect() as client:
        client.sendall(command)
        await until(lambda: len(served.time.getDelayedCalls()) > 1)
        assert served.table.made < 1000
        while served.table.made < LARGE:
            served.time.advance(0)
        await until(lambda: not serving(served))
        assert (await deferToThread(everything, client)).endswith(reply)


def serving(served: Served) -> bool:
    """Whether an answer is still being made; lets it go on."""
    served.time.advance(0)
    return bool(served.time.getDelayedCalls())


@pytest_twisted.ensureDeferred
async def test_a_mistake_of_ours(served: Served, logged_failures: list[Any]) -> None:
    """It ends that connection, is in the log, and the next one is served."""
    served.table.broken = True
    assert await served.ask(b"show\n") == b""
    assert len(logged_failures) == 1
    logged_failures.clear()
    served.table.broken = False
    assert await served.ask(b"flush\n") == b"Status: ok\nEntries-Affected: 1\n"


@pytest_twisted.ensureDeferred
async def test_the_end(served: Served) -> None:
    """A stop removes the socket and ends connections."""
    with served.connect() as client:
        await until(served.time.getDelayedCalls)
        await served.service.stopService()
        assert await deferToThread(everything, client) == b""
    assert list(served.path.parent.iterdir()) == []


def test_no_place(tmp_path: Path) -> None:
    """A socket that cannot be is told in one line, by its keyword."""
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="is in the way and no socket"):
        Served(tmp_path / "file").service.privilegedStartService()
    with pytest.raises(StartError, match=r"make it by hand"):
        Served(tmp_path / "no" / "such" / "s").service.privilegedStartService()


@pytest_twisted.ensureDeferred
async def test_the_program(served: Served) -> None:
    """Its output is the answer; its status tells how it went."""
    done = await served.run("-a", str(served.path), "show", "protocol", "10.0.0.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.encode() == b"Status: ok\n\n" + ENTRY
    done = await served.run("-a", str(served.path), "show", "interface", "x")
    assert done.returncode == 1 and "Reason: interface-not-found" in done.stdout
    done = await served.run("-a", f"{served.path}.not", "show")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"opennhrpctl: {served.path}.not: No such file or directory\n"
    done = await served.run()
    assert done.returncode == 2
