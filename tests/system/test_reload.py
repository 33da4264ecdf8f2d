"""A VPN does not notice what a reload does to its neighbours, at a spoke and at the hub."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Daemon
from lab.traffic import BROADCAST, Flow, ping
from lab.wait import eventually
from tests.system.network import Network, Site, wait_for_shortcut

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1, 2)
        network.add_site(2, {1: 100, 2: 200})
        network.add_site(3, {1: 101, 2: 201})
        network.await_members()
        yield network


def test_what_a_reload_would_do(network: Network) -> None:
    """`config diff` says it beforehand and does nothing; `config check` finds the mistakes."""
    one, _ = network.sites
    daemon = one.daemon
    assert daemon.ctl.text("config", "diff") == "nothing would change\n"
    daemon.configure(
        network.spoke_config({1: 100, 2: 222}).replace("nhrp", "nhrp holding-time 600", 1)
    )
    rows = daemon.ctl.rows("config", "diff")
    assert [(row["change"], row["interface"], row["vpns"], row["keywords"]) for row in rows] == [
        ("change", "nhrp", None, ["holding-time"]),
        ("restart", "vx2", "2", ["default-vni"]),
    ]
    other = daemon.config_path.with_name("other.conf")
    other.write_text("interface nhrp\n    no-such-word\n")
    for command in ("diff", "check"):
        done = daemon.ctl.run("config", command, str(other))
        assert done.returncode == 1
        assert f"{other}:2: unknown word near 'no-such-word'" in done.stdout + done.stderr
    assert {row["vni"] for row in daemon.ctl.rows("interface", "show") if row["vni"]} == {100, 200}


def test_device_of_others(network: Network) -> None:
    """A reload that needs a device of somebody else's says what is wrong with it, and leaves
    everything as it was."""
    one, _ = network.sites
    daemon, namespace = one.daemon, one.machine.namespace
    namespace.ip("link", "add", "vx3", "type", "vxlan", "id", "300", "dstport", "8472")

    def devices() -> list[tuple[object, ...]]:
        fields = ("ifindex", "ifname", "mtu", "master", "flags")
        return [tuple(map(row.get, fields)) for row in namespace.ip_json("link", "show")]

    present = devices()
    try:
        daemon.configure(network.spoke_config({1: 100, 2: 200, 3: 300}))
        done = daemon.ctl.run("config", "reload")
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert "vx3: a device of that name exists and is not ours: local is" in said
        assert "dstport is 8472, not 4789" in said
        assert devices() == present
        assert [row["vpn"] for row in daemon.ctl.rows("vpn", "show")] == [1, 2]
    finally:
        namespace.ip("link", "del", "vx3")
        daemon.configure(network.spoke_config({1: 100, 2: 200}))
    assert daemon.ctl.text("config", "diff") == "nothing would change\n"


def reload(daemon: Daemon, config: str) -> None:
    """Have a daemon read another configuration, by the signal, and wait until it has."""
    before = daemon.log.count("reloaded")
    daemon.configure(config)
    daemon.signal(signal.SIGHUP)
    eventually("reload", lambda: daemon.log.count("reloaded") > before)


def flows(one: Site, two: Site) -> list[Flow]:
    """Frames of VPN 1 each way by the shortcuts, and broadcasts, which go by the hub."""
    pairs = [(one, two, two.vm.mac), (two, one, one.vm.mac), (one, two, BROADCAST)]
    return [
        Flow(
            sender.vm.namespace,
            [receiver.vm.namespace],
            source=sender.vm.mac,
            destination=destination,
            rate=1000,
            count=100_000,
        ).start()
        for sender, receiver, destination in pairs
    ]


def test_neighbours_change_under_traffic(network: Network) -> None:
    """VPN 1 loses no frame, no shortcut and no registration while VPN 2 and 3 come, change and
    go, hub and site get another holding time, and a file with a mistake is refused."""
    one, two = network.sites
    for site, other in ((one, two), (two, one)):
        assert other.vm.address is not None
        assert ping(site.vm.namespace, other.vm.address, count=5, interval=0.05).lost == 0
        wait_for_shortcut(site, other)
    hub = network.hub
    served = "\n".join(f"    vpn-id {vpn}" for vpn in (1, 2))
    at_hub = hub.config_path.read_text().split("\n\n", 1)[1]
    other_vni = network.spoke_config({1: 100, 2: 222})
    short = other_vni.replace("interface nhrp", "interface nhrp holding-time 600")

    def members(vpn: int) -> list[int]:
        return [row["vni"] for row in hub.ctl.rows("member", "show") if row["vpn"] == vpn]

    steps: list[tuple[str, Callable[[], object], Callable[[], bool]]] = [
        (
            "VPN 2 in another VNI",
            lambda: reload(one.daemon, other_vni),
            lambda: 222 in members(2),
        ),
        (
            "another holding time",
            lambda: reload(one.daemon, short),
            lambda: any(
                row["expires_in"] <= 600
                for row in hub.ctl.rows("member", "show", "vpn", "1")
                if row["nbma"] == one.address
            ),
        ),
        (
            "VPN 3 at the hub",
            lambda: reload(hub, at_hub.replace(served, served + "\n    vpn-id 3")),
            lambda: {row["vpn"] for row in hub.ctl.rows("vpn", "show")} == {1, 2, 3},
        ),
        (
            "VPN 3 at a site",
            lambda: reload(one.daemon, network.spoke_config({1: 100, 2: 222, 3: 300})),
            lambda: members(3) == [300],
        ),
        (
            "no VPN 2",
            lambda: reload(hub, at_hub.replace(served, "    vpn-id 1\n    vpn-id 3")),
            lambda: not members(2),
        ),
    ]
    running = flows(one, two)
    try:
        for what, step, done in steps:
            step()
            eventually(what, done)
        one.daemon.configure(short + "    no-such-word\n")
        refused = one.daemon.ctl.run("config", "reload")
        assert refused.returncode == 1
        line = one.daemon.config_path.read_text().count("\n")
        assert f"{one.daemon.config_path}:{line}: " in refused.stdout
        assert "near 'no-such-word'" in refused.stdout
        sent = [flow.sent for flow in running]
        eventually(
            "more frames", lambda: all(f.sent > n + 500 for f, n in zip(running, sent, strict=True))
        )
    finally:
        for flow in running:
            flow.stop()
        reports = [report for flow in running for report in flow.finish()]
    for report in reports:
        assert not report.lost, report
        assert not report.duplicated, report
        assert not report.reordered, report
    # Registering, and registered: the new holding time was asked for by what stood.
    changes = one.daemon.log.count("vpn 1: registration with")
    assert changes == two.daemon.log.count("vpn 1: registration with") == 2
