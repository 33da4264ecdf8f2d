"""The configuration of the original README, on devices made by hand as it describes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.daemons import ROOT
from lab.traffic import Flow, ping
from lab.wait import eventually
from tests.system.network import Network, arrive

pytestmark = pytest.mark.system

#: Where the kernel's own default puts a vxlan device that names no port.
PORT = "8472"
BROADCAST = "ff:ff:ff:ff:ff:ff"
STATIONS = {"10.0.0.2": "2e:cd:9a:5c:ae:c7", "10.0.0.3": "8a:86:2e:ef:9e:ff"}
#: The layout's own price: one device cannot both forward unknown frames and report them.
LOST_AT_FIRST = 3


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        hub = network.lab.add_machine("hub", 1)
        hub.namespace.ip(*("link", "add", "tunnel2", "type", "vxlan", "external", "dstport", PORT))
        hub.namespace.ip("link", "set", "tunnel2", "up")
        network.add_daemon("hub", 1, original("hub"))
        for number, vni in ((2, 100), (3, 101)):
            name = f"spoke{number - 1}"
            machine = network.lab.add_machine(name, number)
            machine.add_bridge("br-test")
            machine.namespace.ip(
                *("link", "add", "tunnel2", "type", "vxlan", "id", str(vni), "dstport", PORT),
                *("local", machine.address, "nolearning", "l2miss"),
            )
            machine.namespace.bridge(
                *("fdb", "append", BROADCAST, "dev", "tunnel2", "dst", "10.0.0.1", "self")
            )
            machine.namespace.ip("link", "set", "tunnel2", "master", "br-test", "up")
            network.add_daemon(name, number, original(name))
            vm = network.lab.add_vm(
                f"vm{number - 1}", f"02:00:00:00:00:0{number}", f"11.0.0.{8 + number}/24"
            )
            vm.plug(machine, "br-test")
        yield network


def original(name: str) -> str:
    """A file of the original README; no kernel GRE device is needed, so it says `transport raw`."""
    return (ROOT / "etc" / "original" / f"{name}.conf").read_text()


def test_registration(network: Network) -> None:
    """Both sites register with the stations that their files name."""

    def stations() -> dict[str, str]:
        rows = network.hub.ctl.rows("member", "show")
        return {row["nbma"]: row["protocol"] for row in rows}

    eventually("both stations", lambda: stations() == STATIONS)
    for name in ("spoke1", "spoke2"):
        assert network.daemons[name].ctl.rows("registration", "show")[0]["state"] == "registered"


def test_ping_by_shortcut(network: Network) -> None:
    """VM 11.0.0.10 pings 11.0.0.11: the layout loses the first frames to a MAC, and no more."""
    one, two = network.lab.vms["vm1"], network.lab.vms["vm2"]
    for vm in (one, two):
        arrive(vm)
    for source, target in ((one, two), (two, one)):
        flow = Flow(
            source.namespace,
            [target.namespace],
            source=source.mac,
            destination=target.mac,
            rate=200,
            count=200,
        )
        (report,) = flow.start().finish()
        assert len(report.lost) <= LOST_AT_FIRST, report
        assert report.lost == tuple(range(len(report.lost)))
        assert report.duplicated == report.reordered == 0
    assert ping(one.namespace, "11.0.0.11").lost == 0
    before = network.traffic()
    assert ping(one.namespace, "11.0.0.11", count=200, interval=0.005).lost == 0
    assert network.traffic() == before
    rows = network.daemons["spoke1"].ctl.rows("fdb", "show")
    found = {(row["mac"], row["nbma"], row["vni"], row["state"]) for row in rows}
    assert (two.mac, "10.0.0.3", 101, "shortcut") in found


def test_devices_made_by_hand_stay(network: Network) -> None:
    """A clean stop takes our entries and the hub's filter away, and leaves devices and the rest."""
    for daemon in network.daemons.values():
        assert "tunnel2" in daemon.namespace.devices()
        daemon.stop()
        assert "tunnel2" in daemon.namespace.devices()
    for name in ("spoke1", "spoke2"):
        rows = network.daemons[name].namespace.fdb("tunnel2")
        ours = [row for row in rows if "extern_learn" in row.get("flags", [])]
        assert ours == []
        kept = [row["dst"] for row in rows if row["mac"] == BROADCAST]
        assert kept == ["10.0.0.1"]
    filters = network.hub.namespace.run("tc", "qdisc", "show", "dev", "tunnel2").stdout
    assert "clsact" not in filters
