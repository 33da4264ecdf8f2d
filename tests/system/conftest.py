"""What the system tests need, and what is told when one of them fails."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from lab.netns import namespaces
from tests.system.network import PREFIX, Network

#: Octets of each log that a failure shows.
TAIL = 4000


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("system") and os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    network = getattr(item, "funcargs", {}).get("network")
    if report.failed and isinstance(network, Network):
        for name, daemon in network.daemons.items():
            report.sections.append((f"log of {name}", daemon.log[-TAIL:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Generator[None, None, None]:
    """After all of them, no namespace of theirs remains."""
    yield
    assert not namespaces(PREFIX)
