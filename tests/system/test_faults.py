"""Faults that only a kernel has: `doctor` and `explain` name each one right, and then nothing.

The others are staged in tests/roles/test_faults.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.wait import eventually
from tests.system.network import Network, Site, arrive, reaches, wait_for_shortcut

pytestmark = pytest.mark.system

NOBODY = "02:00:00:01:00:99"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1)
        network.add_site(2, {1: 100})
        network.add_site(3, {1: 101})
        network.await_members()
        assert reaches(network.sites[0].vm, network.sites[1].vm)
        yield network


def findings(site: Site, check: str) -> list[dict[str, Any]]:
    done = site.daemon.ctl.run("doctor", json=True)
    assert done.returncode in (0, 1), done.stderr
    return [row for row in json.loads(done.stdout)["table"] if row["check"] == check]


def explained(site: Site, mac: str) -> list[dict[str, Any]]:
    return site.daemon.ctl.rows("explain", mac)


def problems(site: Site, mac: str) -> list[str]:
    return [row["text"] for row in explained(site, mac) if row["about"] == "problem"]


def test_a_sound_network(network: Network) -> None:
    """Nothing is found, with exit status 0, and a shortcut is told as the kernel has it."""
    one, two = network.sites
    wait_for_shortcut(one, two)
    for daemon in network.daemons.values():
        done = daemon.ctl.run("doctor")
        assert (done.returncode, done.stdout) == (0, "nothing found wrong\n"), done.stdout
    rows = explained(one, two.vm.mac)
    told = {row["about"]: row["text"] for row in rows}
    place = f"{two.address} vni 101"
    assert told["verdict"] == (
        f"frames go straight to {place}: a shortcut, as hub {network.hub_address} has answered"
    )
    assert told["bridge"] == "behind port vx1-s (ours)"
    assert told["shortcut plane"] == f"vx1-s sends to {place} (ours)"
    assert told["hub"] == f"says it is at {place}"
    assert "problem" not in told
    home = explained(one, one.vm.mac)
    assert home[0]["text"].startswith("frames stay at this site: the station is behind bridge port")
    text = one.daemon.ctl.text("explain", two.vm.mac)
    assert max(map(len, text.splitlines())) <= 100
    assert network.hub.ctl.rows("explain", two.vm.mac)[0]["text"] == (
        f"frames go to {place}: the switch has seen it there"
    )


def test_mtu_too_small(network: Network) -> None:
    """An underlay that shrinks is named, with the exit status 1: devices of ours follow it, and a
    bridge that somebody keeps larger is told what fits."""
    one = network.sites[0]
    one.machine.namespace.ip("link", "set", "ul0", "mtu", "1400")
    try:
        eventually("the finding", lambda: findings(one, "device"))
        assert one.daemon.ctl.run("doctor").returncode == 1
        found = " ".join(row["finding"] for row in findings(one, "device"))
        assert "vx1 has MTU 1550, the underlay leaves 1350" in found
        one.machine.namespace.ip("link", "set", "br1", "mtu", "1500")
        [large] = findings(one, "mtu")
        assert large["finding"] == "the bridge takes frames of MTU 1500, its planes only 1350"
        one.machine.namespace.ip(*large["cure"].split()[1:])
        assert findings(one, "mtu") == []
    finally:
        one.machine.namespace.ip("link", "set", "ul0", "mtu", "1600")


def test_entry_by_hand(network: Network) -> None:
    """An entry that somebody made is named by both, and gone when the cure was followed."""
    one = network.sites[0]
    entry = (NOBODY, "dev", "vx1-s", "dst", "10.0.0.66", "self")
    one.machine.namespace.bridge("fdb", "add", *entry)
    try:
        [found] = findings(one, "entries")
        assert found["subject"] == NOBODY
        assert found["finding"].endswith(f"on vx1-s sends frames for {NOBODY} to 10.0.0.66")
        [problem] = problems(one, NOBODY)
        assert "made by hand on vx1-s takes its frames to 10.0.0.66" in problem
        assert found["cure"] in problem
    finally:
        one.machine.namespace.bridge(*found["cure"].split()[1:])
    assert findings(one, "entries") == []
    assert problems(one, NOBODY) == []


def test_blocked_udp_port(network: Network) -> None:
    """A site from which NHRP passes and VXLAN does not finds out that the hub sees no frames."""
    machine = network.lab.add_machine("site4", 4)
    # A host's rule, as good as a firewall's: packets to the port find no route.
    rule = ("pref", "100", "ipproto", "udp", "dport", "4789", "blackhole")
    machine.namespace.ip("rule", "add", *rule)
    site = network.add_site(4, {1: 102})
    network.await_members()
    arrive(site.vm)

    def named() -> bool:
        return [row["subject"] for row in findings(site, "port")] == ["vx1"]

    eventually("the finding", named)
    machine.namespace.ip("rule", "del", *rule)

    def mended() -> bool:
        arrive(site.vm)
        return not findings(site, "port")

    eventually("no finding", mended)


def test_forwarding_entries_flushed(network: Network) -> None:
    """Whoever flushes the kernel's table is told of, and the shortcut is back."""
    one, two = network.sites[:2]
    assert reaches(one.vm, two.vm)
    wait_for_shortcut(one, two)
    for row in one.machine.namespace.fdb("vx1-s"):
        if row["mac"] == two.vm.mac and "dst" in row:
            one.machine.namespace.bridge("fdb", "del", row["mac"], "dev", "vx1-s", "self")
    eventually("the finding", lambda: findings(one, "entries"))
    [found] = findings(one, "entries")
    assert (found["subject"], found["finding"].split()[0]) == ("vx1", "repaired")
    wait_for_shortcut(one, two)
    assert problems(one, two.vm.mac) == []


def test_a_device_that_is_down(network: Network) -> None:
    """A plane that somebody has set down is named, and the cure is the command that helps."""
    one = network.sites[0]
    one.machine.namespace.ip("link", "set", "vx1-s", "down")
    cures = {row["finding"]: row["cure"] for row in findings(one, "device")}
    one.machine.namespace.ip(*cures["vx1-s is down"].split()[1:])
    assert "vx1-s is down" not in {row["finding"] for row in findings(one, "device")}
