"""A daemon's admin service on a real UNIX socket, before a controller that is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, LogLevelFilterPredicate

from dmevpn.admin.client import Connection
from dmevpn.admin.pb import AdminService
from dmevpn.metrics import Metrics
from tests.admin.fakes import FakeController


class Served(NamedTuple):
    """A service that listens, and all that it was made of."""

    service: AdminService
    controller: FakeController
    metrics: Metrics
    path: Path

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        return f"unix:{self.path}"

    def connect(self) -> Connection:
        """A client's connection, an asynchronous context."""
        return Connection(reactor, self.endpoint)


@pytest_twisted.async_yield_fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    controller = FakeController()
    metrics = Metrics()
    path = tmp_path / "a.sock"
    service = AdminService(
        reactor,
        f"unix:{path}:mode=600:lockfile=1",
        controller,
        metrics=metrics,
        log_levels=LogLevelFilterPredicate(defaultLogLevel=LogLevel.info),
    )
    service.privilegedStartService()
    service.startService()
    yield Served(service, controller, metrics, path)
    if service.running:
        await service.stopService()


async def until(condition: Callable[[], Any]) -> None:
    """Let the reactor run until a condition holds; pytest's timeout bounds it."""
    while not condition():
        pause: Awaitable[None] = deferLater(reactor, 0.001)
        await pause
