"""With `leave-forwarding yes` a stop costs no frame; taking everything down is another command."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator

import pytest

from lab.daemons import Daemon, daemon_environment, twistd_command
from lab.topology import pins
from lab.traffic import Flow, ping
from lab.wait import eventually
from tests.system.network import Network, Site, wait_for_shortcut

pytestmark = pytest.mark.system

#: Frames a second by each way.
RATE = 1000


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(options="leave-forwarding yes\n") as network:
        network.add_hub(1)
        for number, vni in ((2, 100), (3, 101)):
            network.add_site(number, {1: vni})
        network.await_members()
        yield network


def left(daemon: Daemon) -> set[str]:
    """What is there of a daemon's making: devices, the qdisc, what is pinned."""
    devices = daemon.namespace.devices() & {"vx0", "vx1", "vx1-s", "br1"}
    if "clsact" in daemon.namespace.run("tc", "qdisc", "show").stdout:
        devices.add("clsact")
    return devices | {pin.name for switch in pins(daemon.namespace) for pin in switch.iterdir()}


def flow(source: Site, target: Site, destination: str) -> Flow:
    """Frames from one site's machine to another's, for longer than any restart takes."""
    sender, receiver = source.vm.namespace, target.vm.namespace
    return Flow(
        sender,
        [receiver],
        source=source.vm.mac,
        destination=destination,
        rate=RATE,
        count=60 * RATE,
    ).start()


@pytest.mark.parametrize("who", ["spoke", "hub"])
def test_stopped_and_started_under_traffic(network: Network, who: str) -> None:
    """SIGTERM and a start cost no frame by the shortcut, and none by the hub; who was registered
    stays so, and nobody is told of a stop."""
    one, two = network.sites
    assert two.vm.address is not None
    assert ping(one.vm.namespace, two.vm.address).lost == 0
    wait_for_shortcut(one, two)
    wait_for_shortcut(two, one)
    daemon = network.hub if who == "hub" else one.daemon
    asked = one.daemon.log.count(": registering")
    devices = left(daemon)
    # Broadcasts always go by the hub.
    flows = [flow(one, two, two.vm.mac), flow(one, two, "ff:ff:ff:ff:ff:ff")]
    eventually("frames", lambda: all(each.sent > RATE // 4 for each in flows))
    daemon.stop()
    assert left(daemon) == devices != set()
    state = daemon.state_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    # Whom the hub has told about the other station; where the spoke is registered.
    known = two.vm.mac if who == "hub" else "0a000001"
    assert known.replace(":", "") in state.read_text()
    without = [each.sent for each in flows]
    eventually("frames without a daemon", lambda: flows[0].sent > without[0] + RATE)
    daemon.start()
    eventually(
        "registration",
        lambda: (
            {row["state"] for row in one.daemon.ctl.rows("registration", "show")} == {"registered"}
        ),
    )
    after = flows[0].sent
    eventually("frames with its successor", lambda: flows[0].sent > after + RATE)
    for name, each in zip(("shortcut", "hub"), flows, strict=True):
        each.stop()
        (report,) = each.finish()
        print(f"\n{who} stopped and started, by the {name}: {report}")
        assert report.untouched, report
    # A hub that comes back has its members; a spoke says once that it is there.
    assert one.daemon.log.count(": registering") == asked + (who == "spoke")
    assert network.metric(one.daemon, "dmevpn_fdb_repairs_total") == 0


def test_everything_taken_down(network: Network) -> None:
    """One command does it while the daemon runs, another one when it has ended, and only then."""
    one, two = network.sites
    for daemon in (one.daemon, network.hub):
        assert "a daemon is running" in remove(daemon).stderr
        # Nor if its admin socket does not show it.
        config = daemon.config_path.read_text()
        daemon.config_path.write_text(config.replace(".sock:mode", ".other:mode"))
        assert "a daemon is running" in remove(daemon).stderr
        daemon.stop()
        assert left(daemon) != set()
        done = remove(daemon)
        assert (done.returncode, done.stderr) == (0, "")
        assert left(daemon) == set()
    assert left(two.daemon) != set()
    answer = two.daemon.ctl.run("shutdown")
    assert (answer.returncode, answer.stdout) == (0, "shutting down\n")
    eventually("end of the daemon", lambda: not two.daemon.running)
    assert left(two.daemon) == set()


def remove(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """What takes down all that a daemon has left."""
    command = daemon.namespace.command(*twistd_command(daemon.config_path, "--remove"))
    return subprocess.run(
        command, env=daemon_environment(), capture_output=True, text=True, check=False
    )
