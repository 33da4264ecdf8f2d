"""Which operator may do what: by the kernel's word on a UNIX socket, by certificate over TLS."""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from dmevpn.admin import pb as admin
from dmevpn.admin.access import Access, Grant, Level
from dmevpn.admin.client import NoDaemon, run
from dmevpn.admin.pb import AdminService
from dmevpn.errors import CommandError, StartError
from tests.admin.certificates import Authority
from tests.admin.conftest import until
from tests.admin.fakes import FakeController

Serve = Callable[..., AdminService]

NOBODY = pwd.getpwnam("nobody")
NOGROUP = grp.getgrgid(NOBODY.pw_gid).gr_name

#: Twisted hands certificates to pyOpenSSL in a form that it will not take for ever.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")

root_only = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which root may")


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts services, which end with the test."""
    services: list[AdminService] = []

    def start(description: str, *grants: Grant) -> AdminService:
        service = AdminService(reactor, description, FakeController(), access=grants)
        services.append(service)
        service.privilegedStartService()
        service.startService()
        return service

    yield start
    for service in services:
        if service.running:
            await service.stopService()


# --- UNIX sockets ---------------------------------------------------------------------------------


def level_of(grants: tuple[Grant, ...], uid: int, gid: int, groups: tuple[int, ...]) -> Level:
    """What a process of that user may do who connects."""
    # A name in the abstract space needs no directory that everybody may enter.
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0dmevpn-access-{os.getpid()}")
        listening.listen()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups(groups)
                os.setgid(gid)
                os.setuid(uid)
                client = socket.socket(socket.AF_UNIX)
                client.connect(listening.getsockname())
                client.recv(1)
            finally:
                os._exit(0)
        listening.settimeout(10)
        served, _ = listening.accept()
        with served:
            level = Access(grants).of_transport(Handle(served))
        os.waitpid(child, 0)
        return level


class Handle:
    """A transport that is a socket."""

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle

    def getHandle(self) -> socket.socket:
        return self._handle


ADM = grp.getgrnam("adm").gr_gid


@root_only
@pytest.mark.parametrize(
    ("grants", "groups", "level"),
    [
        ((), (), Level.FULL),
        ((Grant("full", "user", "nobody"),), (), Level.FULL),
        ((Grant("read-only", "user", "nobody"),), (), Level.READ),
        ((Grant("read-only", "group", NOGROUP),), (), Level.READ),
        ((Grant("full", "group", "adm"),), (ADM,), Level.FULL),
        ((Grant("read-only", "user", "nobody"), Grant("full", "group", "adm")), (ADM,), Level.FULL),
        ((Grant("full", "group", "adm"),), (), Level.NONE),
        ((Grant("full", "user", "daemon"),), (), Level.NONE),
    ],
)
def test_another_user(grants, groups, level) -> None:
    """May what is said of him or of one of his groups; nothing if others are named."""
    assert level_of(grants, NOBODY.pw_uid, NOBODY.pw_gid, groups) is level


def test_root() -> None:
    """The daemon's own user, and root, may everything whoever is named."""
    grants = (Grant("read-only", "user", "nobody"),)
    assert level_of(grants, os.getuid(), os.getgid(), ()) is Level.FULL


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("level", list(Level))
async def test_what_a_level_allows(serve, tmp_path, monkeypatch, level) -> None:
    """A look, a change, and a file read with the daemon's rights, which is more than a look."""
    monkeypatch.setattr(Access, "of_transport", lambda self, transport: level)
    service = serve(f"unix:{tmp_path}/a.sock")
    endpoint = f"unix:{tmp_path}/a.sock"
    if level is Level.NONE:
        assert "closed the connection" in await failure(endpoint)
        assert service.clients_refused.value == 1
        return
    await run(reactor, endpoint, "version", {})
    if level is Level.READ:
        assert "not allowed" in await failure(endpoint, "config reload")
        assert "not allowed" in await failure(endpoint, "config check", file="/etc/shadow")
    else:
        await run(reactor, endpoint, "config reload", {})


def test_who_does_not_exist() -> None:
    """A name that is wrong is no grant for somebody else: the daemon does not start."""
    for kind in ("user", "group"):
        with pytest.raises(StartError, match=f"there is no such {kind}"):
            Access([Grant("full", kind, "nobody-of-that-name")])


def test_what_proves_nothing() -> None:
    """On a TCP socket nobody can be known; once anybody is named, nobody is let in."""

    with socket.socket() as listening:
        assert Access().of_transport(Handle(listening)) is Level.FULL
        for kind, name in (("user", "root"), ("certificate", "a.example")):
            assert Access([Grant("full", kind, name)]).of_transport(Handle(listening)) is Level.NONE


# --- TLS ------------------------------------------------------------------------------------------

OPERATOR = Grant("full", "certificate", "operator.example")


def at(service: AdminService, host: str = "localhost") -> str:
    """The beginning of a client's endpoint."""
    return f"tls:{host}:{service._port.getHost().port}"


async def failure(endpoint: str, name: str = "version", **arguments: str) -> str:
    """Why a command is not carried out."""
    with pytest.raises((NoDaemon, CommandError)) as caught:
        await run(reactor, endpoint, name, arguments)
    return str(caught.value)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """Who signs the certificates of both sides."""
    return Authority(tmp_path)


def listen(ca: Authority, *names: str) -> str:
    """A daemon's endpoint, whose certificate has these names."""
    return f"tls:0:interface=127.0.0.1:{ca.issue('server', *names, server=True)}"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_both_sides_know_each_other(serve, ca, host) -> None:
    """By a DNS name or an address."""
    service = serve(listen(ca, "localhost", "127.0.0.1"), OPERATOR)
    client = ca.issue("client", "operator.example", server=False)
    result = await run(reactor, f"{at(service, host)}:{client}", "version", {})
    assert result.row_count == 1


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_may_look(serve, ca) -> None:
    """Looks, and changes nothing."""
    service = serve(
        listen(ca, "localhost"), OPERATOR, Grant("read-only", "certificate", "m.example")
    )
    client = f"{at(service)}:{ca.issue('client', 'm.example', server=False)}"
    await run(reactor, client, "version", {})
    assert "not allowed" in await failure(client, "config reload")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("names", "common_name"),
    [
        (("other.example",), "operator.example"),
        ((), "operator.example"),
        ((), "localhost"),
    ],
)
async def test_a_client_that_is_not_named(serve, ca, names, common_name) -> None:
    """Another name, and no subjectAltName at all: the common name counts for nothing."""
    service = serve(listen(ca, "localhost"), OPERATOR)
    client = ca.issue("client", *names, common_name=common_name, server=False)
    assert "closed the connection" in await failure(f"{at(service)}:{client}")
    assert service.clients_refused.value == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("names", [("other.example",), ()])
async def test_a_daemon_with_another_name(serve, ca, names) -> None:
    """It has a certificate of our authority, but not of whom we wanted: Twisted alone would take
    the one without subjectAltName. No traceback says so."""
    service = serve(listen(ca, *names), OPERATOR)
    client = ca.issue("client", "operator.example", server=False)
    said = await failure(f"{at(service)}:{client}")
    assert "localhost" in said
    assert not service._factory.brokers or await gone(service)


async def gone(service: AdminService) -> bool:
    """Whether the connections of clients end."""
    await until(lambda: not service._factory.brokers)
    return True


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("which", ["authority", "usage", "expired"])
@pytest.mark.parametrize("side", ["server", "client"])
async def test_certificates_that_are_worth_nothing(serve, ca, tmp_path, which, side) -> None:
    """Signed by somebody else, for the other side, or of before: refused by either side."""
    rogue = Authority(tmp_path, "rogue") if which == "authority" else ca
    life = datetime.timedelta(days=-1 if which == "expired" else 1)
    words = {}
    for each, name in (("server", "localhost"), ("client", "operator.example")):
        bad = each == side
        words[each] = (rogue if bad else ca).issue(
            each,
            name,
            server=(each == "server") is not (bad and which == "usage"),
            life=life if bad else datetime.timedelta(days=1),
        )
        words[each] = words[each].rpartition(":")[0] + f":ca={ca.path}"
    service = serve(f"tls:0:interface=127.0.0.1:{words['server']}", OPERATOR)
    await failure(f"{at(service)}:{words['client']}")
    await gone(service)


@pytest_twisted.ensureDeferred
async def test_who_shows_nothing_takes_no_place(serve, ca, monkeypatch) -> None:
    """A connection without a handshake ends soon, so that others find room."""
    monkeypatch.setattr(admin, "HANDSHAKE_TIMEOUT", 0.2)
    service = serve(listen(ca, "localhost"), OPERATOR)
    with socket.create_connection(("127.0.0.1", service._port.getHost().port)):
        await until(lambda: service._factory.brokers)
        await gone(service)


def test_a_key_that_everybody_can_read(ca, tmp_path) -> None:
    """Is none; the daemon says how to mend it."""
    description = listen(ca, "localhost")
    (tmp_path / "server.key").chmod(0o644)
    with pytest.raises(StartError, match=r"everybody may use .*chmod o="):
        AdminService(reactor, description, FakeController()).privilegedStartService()


@pytest.mark.parametrize(
    "description",
    ["tls:1", "tls:x:key=a:certificate=b:ca=c", "tls:1:key=/no/such:certificate=b:ca=c"],
)
def test_mistakes(description) -> None:
    """One line says what is wrong."""
    with pytest.raises(StartError, match="no endpoint"):
        AdminService(reactor, description, FakeController()).privilegedStartService()
