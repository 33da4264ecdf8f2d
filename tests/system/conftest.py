"""What the system tests need, and what is told when one of them fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator

import pytest

from lab.daemons import Control
from lab.netns import namespaces
from tests.schemas import validate_output
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


@pytest.fixture(autouse=True)
def documented_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dmevpnctl prints as JSON is as docs/schema says."""
    run = Control.run

    def checked(
        self: Control, *command: str, json: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = run(self, *command, json=json)
        if json:
            validate_output(command, done.returncode, done.stdout, done.stderr)
        return done

    monkeypatch.setattr(Control, "run", checked)
