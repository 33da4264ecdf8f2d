"""Frames through both planes: nothing is lost while a station's path changes under traffic."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dmevpn.addresses import VTEP, parse_ip, parse_mac
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.interfaces import ISpokeDataplane
from dmevpn.metrics import Metrics
from lab.topology import Lab, Machine
from lab.traffic import Flow
from tests.contracts.spoke_dataplane import Recorder
from tests.dataplane.site import spoke_plan
from tests.dataplane.turns import Turns

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

VM1, VM2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
FRAMES = 5000
RATE = 5000


class Holder(Recorder):
    """Holds what misses, as a spoke does while it asks."""

    dataplane: VXLANFDB

    def fdb_missed(self, mac: bytes) -> None:
        super().fdb_missed(mac)
        self.dataplane.hold(mac)


def add_relay(hub: Machine, spokes: list[Machine], places: dict[str, Machine], ipv6: bool) -> None:
    """Stand in for the hub's switch: a bridge that sends frames back where they came from."""

    def address(machine: Machine) -> str:
        return machine.address6 if ipv6 else machine.address

    namespace = hub.namespace
    hub.add_bridge("relay")
    namespace.ip(
        *("link", "add", "vx0", "type", "vxlan", "id", "100", "local", address(hub)),
        *("dstport", "4789", "nolearning"),
    )
    namespace.ip("link", "set", "vx0", "master", "relay", "up")
    namespace.bridge("link", "set", "dev", "vx0", "learning", "off", "hairpin", "on")
    for spoke in spokes:
        zero = "00:00:00:00:00:00"
        namespace.bridge("fdb", "append", zero, "dev", "vx0", "dst", address(spoke))
    for mac, spoke in places.items():
        namespace.bridge("fdb", "add", mac, "dev", "vx0", "dst", address(spoke))


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def ipv6(request: pytest.FixtureRequest) -> bool:
    """The underlay's address family."""
    return bool(request.param)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A hub, two spokes, and a virtual machine at each."""
    with Lab(f"dme-{os.getpid()}") as lab:
        for number, name in ((254, "hub"), (1, "spoke1"), (2, "spoke2")):
            lab.add_machine(name, number)
        yield lab


def test_nothing_is_lost(lab: Lab, ipv6: bool) -> None:
    """5,000 frames at 5,000/s by the hub, a shortcut, the hub, a shortcut: all, in order, once."""
    hub, spoke1, spoke2 = (lab.machines[name] for name in ("hub", "spoke1", "spoke2"))
    add_relay(hub, [spoke1, spoke2], {VM1: spoke1, VM2: spoke2}, ipv6)
    plan = spoke_plan(parse_ip(hub.address6 if ipv6 else hub.address))
    reactor, holder = Turns(), Holder()
    planes = []
    for machine in (spoke1, spoke2):
        dataplane = VXLANFDB(reactor, Metrics(), plan)
        with machine.namespace.entered():
            dataplane.start(holder)
        planes.append(dataplane)
    holder.dataplane = planes[0]
    assert planes[0].mtu == 1600 - (70 if ipv6 else 50)
    vms = [lab.add_vm(f"vm{number}", mac) for number, mac in ((1, VM1), (2, VM2))]
    for vm, machine in zip(vms, (spoke1, spoke2), strict=True):
        vm.plug(machine, "br1")

    mac = parse_mac(VM2)
    shortcut = VTEP(parse_ip(spoke2.address6 if ipv6 else spoke2.address), 100)
    flow = Flow(
        vms[0].namespace,
        [vms[1].namespace],
        source=VM1,
        destination=VM2,
        rate=RATE,
        count=FRAMES,
    ).start()
    try:
        reactor.until("hold", lambda: holder.missed)
        reactor.until("frames by the hub", lambda: flow.sent >= FRAMES // 4)
        planes[0].install(mac, shortcut)
        reactor.until("frames by the shortcut", lambda: flow.sent >= FRAMES // 2)
        ages = reactor.result(planes[0].idle_times())
        planes[0].withdraw(mac)
        reactor.until("hold again", lambda: len(holder.missed) == 2)
        reactor.until("frames by the hub again", lambda: flow.sent >= FRAMES * 3 // 4)
        planes[0].install(mac, shortcut)
        reactor.until("the last frame", lambda: flow.sent == FRAMES)
    finally:
        flow.stop()
        (report,) = flow.finish()
        tidy(planes)
    assert report.sent == FRAMES
    assert not report.lost, str(report)
    assert not report.reordered, str(report)
    # One that the bridge is flooding in the very moment of a change may take both ways.
    assert report.duplicated <= 1, str(report)
    assert holder.missed == [mac, mac]
    assert holder.failed == []
    assert 0 <= ages[mac] < 1
    for machine in (spoke1, spoke2):
        assert machine.namespace.devices() == {"ul0", "vm1" if machine is spoke1 else "vm2"}
    assert reactor.getReaders() == []


def tidy(planes: list[VXLANFDB]) -> None:
    """Stop the data planes, each from outside its namespace."""
    for dataplane in planes:
        assert ISpokeDataplane.providedBy(dataplane)
        dataplane.stop()
