"""What is left for a spoke that does not run is taken down, and nothing of others."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import SpokePlan
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.dataplane.spoke_removal import take_down
from dmevpn.interfaces import SpokeListener
from dmevpn.metrics import Metrics
from tests.contracts.spoke_dataplane import station
from tests.dataplane.site import HUB4, HUB6, UNDERLAY, Site, spoke_plan
from tests.dataplane.test_provision import PLANES, make_by_hand
from tests.dataplane.turns import Turns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

NEAR = {HUB4: VTEP(parse_ip("10.0.0.2"), 101), HUB6: VTEP(parse_ip("fd00::2"), 101)}
BY_HAND = "02:bb:00:00:00:01"


def leave(site: Site, plan: SpokePlan) -> None:
    """Have a daemon hold a station and install another, and end without a word."""
    reactor = Turns()
    dataplane = VXLANFDB(reactor, Metrics(), plan)
    hub = plan.servers[0].address
    assert hub is not None
    with site.namespace.entered():
        dataplane.start(SpokeListener())
    dataplane.set_flood([hub])
    dataplane.hold(station(1))
    dataplane.install(station(2), NEAR[hub])
    device = "vx1-s" if plan.bridge else "vx1"
    reactor.until("entries", lambda: site.entry(device, station(2)) == NEAR[hub])
    dataplane.hand_over()


def taken_down(site: Site, plan: SpokePlan) -> None:
    """Take it down at a machine that has lost its underlay, and does not know its hub's address."""
    site.namespace.ip("address", "flush", "dev", "ul0")
    nameless = replace(plan, servers=tuple(replace(each, address=None) for each in plan.servers))
    try:
        with site.namespace.entered():
            take_down(Turns(), nameless)
            take_down(Turns(), nameless)
    finally:
        site.readdress()


@pytest.mark.parametrize("hub", [HUB4, HUB6], ids=["IPv4", "IPv6"])
def test_devices_of_ours(site: Site, hub: bytes) -> None:
    """They go, and the bridge with them."""
    leave(site, spoke_plan(hub))
    assert site.namespace.devices() == {*UNDERLAY, "vx1", "vx1-s", "br1"}
    taken_down(site, spoke_plan(hub))
    assert site.namespace.devices() == UNDERLAY


@pytest.mark.parametrize("lost", ["vx1", "vx1-s", "br1"])
def test_some_are_gone(site: Site, lost: str) -> None:
    """The others go all the same."""
    leave(site, spoke_plan())
    site.namespace.ip("link", "delete", lost)
    taken_down(site, spoke_plan())
    assert site.namespace.devices() == UNDERLAY


def single(site: Site) -> SpokePlan:
    """One device made by hand."""
    site.add_single()
    return spoke_plan(bridge=None)


def planes(site: Site) -> SpokePlan:
    """Both planes made by hand."""
    for name, parameters in PLANES.items():
        make_by_hand(site, name, parameters)
    return spoke_plan()


@pytest.mark.parametrize("make", [single, planes])
def test_devices_of_others(site: Site, make: Callable[[Site], SpokePlan]) -> None:
    """They stay, with what their operator has put there, and without our entries."""
    plan = make(site)
    device = "vx1-s" if plan.bridge else "vx1"
    add = ("fdb", "append", BY_HAND, "dev", device, "dst", "10.0.0.78", "self")
    site.namespace.bridge(*add)
    before = site.namespace.devices()
    leave(site, plan)
    assert site.entry(device, station(1)) is not None
    taken_down(site, plan)
    assert site.namespace.devices() == before
    rows = {row["mac"] for row in site.namespace.fdb(device) if "dst" in row}
    assert rows - {"00:00:00:00:00:00"} == {BY_HAND}
    assert site.bridge_port(station(2)) is None


def test_nothing_there(site: Site) -> None:
    """Nothing happens, and nothing is made."""
    taken_down(site, spoke_plan())
    taken_down(site, spoke_plan(bridge=None))
    assert site.namespace.devices() == UNDERLAY
