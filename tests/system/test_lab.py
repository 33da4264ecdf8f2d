"""The laboratory itself, on plain vxlan devices: what the other system tests measure with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.daemons import ROOT
from lab.netns import CommandFailed, namespaces
from lab.topology import VM, Lab
from lab.traffic import (
    BROADCAST,
    Capture,
    Flow,
    gratuitous_arp,
    ping,
    send_frame,
    write_pcap,
)
from tests.system.network import PREFIX as TESTS

pytestmark = pytest.mark.system

PREFIX = f"{TESTS}l"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two sites joined by a static tunnel, a virtual machine at each."""
    with Lab(PREFIX) as lab:
        for number in (1, 2):
            machine = lab.add_machine(f"spoke{number}", number)
            machine.add_bridge("br1")
            machine.namespace.ip(
                *("link", "add", "vx1", "type", "vxlan", "id", "7", "dstport", "4789"),
                *("local", machine.address, "remote", f"10.0.0.{3 - number}"),
            )
            machine.namespace.ip("link", "set", "vx1", "master", "br1", "up")
            vm = lab.add_vm(
                f"vm{number}",
                f"02:00:00:00:00:0{number}",
                f"192.168.7.{number}/24",
                f"fd00:7::{number}/64",
            )
            vm.plug(machine, "br1")
        yield lab


def pair(lab: Lab) -> tuple[VM, VM]:
    return lab.vms["vm1"], lab.vms["vm2"]


def test_ping_counts(lab: Lab) -> None:
    """Answered pings are counted as received, unanswered ones as lost, over IPv4 and IPv6."""
    one, two = pair(lab)
    for address in (two.address, two.address6):
        assert address is not None
        report = ping(one.namespace, address, count=10, interval=0.005)
        assert (report.sent, report.lost, report.duplicated) == (10, 0, 0)
    report = ping(one.namespace, "192.168.7.99", count=2, patience=0.1)
    assert report.lost == 2


def test_flow_arrives_whole(lab: Lab) -> None:
    """At 5,000 frames/s the laboratory itself loses, doubles and reorders nothing."""
    one, two = pair(lab)
    flow = Flow(
        one.namespace,
        [two.namespace],
        source=one.mac,
        destination=two.mac,
        rate=5000,
        count=2500,
    )
    (report,) = flow.start().finish()
    assert str(report) == "2500 sent, 0 lost, 0 duplicated, 0 reordered"
    assert report.untouched


def test_flow_counts_losses(lab: Lab) -> None:
    """Frames that meet a closed path are lost, and named by their numbers."""
    one, two = pair(lab)
    flow = Flow(
        one.namespace, [two.namespace], source=one.mac, destination=two.mac, rate=1000, count=100
    )
    site = lab.machines["spoke1"].namespace
    site.ip("link", "set", "vx1", "down")
    try:
        (report,) = flow.start().finish()
    finally:
        site.ip("link", "set", "vx1", "up")
    assert report.lost == tuple(range(100))
    assert not report.untouched


def test_capture_and_arp(lab: Lab) -> None:
    """A gratuitous ARP is seen at the other site once, and not by its own sender."""
    one, two = pair(lab)
    frame = gratuitous_arp(one.mac, "192.168.7.1")
    assert frame.startswith(bytes.fromhex("ff" * 6))
    with Capture(one.namespace) as here, Capture(two.namespace) as there:
        send_frame(one.namespace, frame)
        ping(one.namespace, "192.168.7.2", count=1)
        assert there.frames().count(frame) == 1
        assert frame not in here.frames()
    assert BROADCAST == "ff:ff:ff:ff:ff:ff"


def test_pcap_is_readable(lab: Lab) -> None:
    """A capture that is written to a file can be opened by tshark."""
    path = lab.directory / "one.pcap"
    write_pcap(path, [gratuitous_arp("02:00:00:00:00:01", "192.168.7.1")])
    text = lab.underlay.run("tshark", "-r", str(path), "-T", "fields", "-e", "arp.isgratuitous")
    assert text.stdout.strip() in {"1", "True"}


def test_nothing_is_left() -> None:
    """An interrupted run is cleaned up by the next one, and that one leaves nothing."""
    prefix = f"{PREFIX}x"
    interrupted = f"from lab.topology import Lab; Lab({prefix!r}).__enter__().add_machine('hub', 1)"
    subprocess.run([sys.executable, "-c", interrupted], check=True, cwd=ROOT)
    assert len(namespaces(prefix)) == 2
    with Lab(prefix) as lab:
        assert [namespace.name for namespace in namespaces(prefix)] == [f"{prefix}-ul"]
        with pytest.raises(CommandFailed, match="nowhere"):
            lab.underlay.ip("link", "show", "nowhere")
        with pytest.raises(CommandFailed, match="another run"):
            Lab(prefix).__enter__()
    assert not namespaces(prefix)
    assert not lab.directory.exists()
