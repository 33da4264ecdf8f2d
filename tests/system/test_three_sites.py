"""Three sites, two of which know the VPN by the same VNI: everybody reaches everybody."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest

from lab.topology import VM
from lab.traffic import BROADCAST, Flow, ping
from lab.wait import eventually
from tests.system.network import Network, Site, arrive, shortcut, wait_for_shortcut

pytestmark = pytest.mark.system

#: Every node, and a group that nobody has joined.
ALL_NODES, ANY_GROUP = "33:33:00:00:00:01", "01:00:5e:01:02:03"


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with Network(family=request.param, ipv6=True) as network:
        network.add_hub(1)
        for number, vni in ((2, 100), (3, 101), (4, 100)):
            network.add_site(number, {1: vni})
        network.await_members()
        yield network


@pytest.mark.parametrize("ipv6", [False, True], ids=["ARP", "neighbour-discovery"])
def test_all_pairs(network: Network, ipv6: bool) -> None:
    """Every virtual machine pings every other, found by ARP or by IPv6 neighbour discovery."""
    for one, two in permutations(network.sites, 2):
        address = two.vm.address6 if ipv6 else two.vm.address
        assert address is not None
        report = ping(one.vm.namespace, address, count=20, interval=0.01)
        assert report.lost == 0, f"{one.daemon.name} to {two.daemon.name}: {report}"
        wait_for_shortcut(one, two)


@pytest.mark.parametrize("destination", [BROADCAST, ALL_NODES, ANY_GROUP])
def test_group_frames_arrive_once(network: Network, destination: str) -> None:
    """A broadcast or multicast comes to every other site exactly once, and never back."""
    for sender in network.sites:
        receivers = [site.vm.namespace for site in network.sites]
        flow = Flow(
            sender.vm.namespace,
            receivers,
            source=sender.vm.mac,
            destination=destination,
            rate=500,
            count=100,
        )
        for site, report in zip(network.sites, flow.start().finish(), strict=True):
            assert report.received == (0 if site is sender else 100), (
                f"{site.daemon.name}: {report}"
            )
            assert report.duplicated == 0


def move(vm: VM, site: Site) -> None:
    """Take a virtual machine to another site, its addresses unchanged."""
    vm.unplug()
    vm.plug(site.machine, "br1")


def test_a_move_is_followed(network: Network) -> None:
    """A machine that moves is reached again within a second of its gratuitous ARP."""
    old, new, third = network.sites
    vm = old.vm
    assert vm.address is not None
    for site in (new, third):
        assert ping(site.vm.namespace, vm.address, count=5, interval=0.01).lost == 0
        wait_for_shortcut(site, old)
    flow = Flow(
        third.vm.namespace, [], source=third.vm.mac, destination=vm.mac, rate=1000, count=3000
    ).start()
    move(vm, new)
    flow.add_receiver(vm.namespace)
    announced = flow.sent
    arrive(vm)
    (report,) = flow.finish()
    assert announced < 1900, "moving took so long that a second of silence would not show"
    silence = max(report.lost) - announced
    assert silence < 1000, f"frames were lost for {silence} ms after the announcement"
    for site in (new, third):
        assert ping(site.vm.namespace, vm.address, count=20, interval=0.01).lost == 0
    eventually("shortcut to its new site", lambda: shortcut(third, vm) == new.address)


def test_a_move_back_is_followed(network: Network) -> None:
    """Its old site, which had a shortcut to the new one meanwhile, finds it at home again."""
    old, new, third = network.sites
    vm = old.vm
    assert vm.address is not None
    move(vm, old)
    arrive(vm)
    for site in (new, third):
        report = ping(site.vm.namespace, vm.address, count=100, interval=0.02)
        assert report.lost <= 50, f"{site.daemon.name}: silent for more than a second: {report}"
        assert ping(site.vm.namespace, vm.address, count=20, interval=0.01).lost == 0
        wait_for_shortcut(site, old)
