"""Two hubs of one VPN with a trunk, and sites of the one, of the other, and of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import permutations

import pytest

from lab.chaos.underlay import Underlay
from lab.traffic import BROADCAST, Flow, ping
from lab.wait import eventually
from tests.system.network import Site, wait_for_shortcut
from tests.system.trunked import FIRST, SECOND, Trunked

pytestmark = pytest.mark.system

#: The hubs of each site, by its number.
HUBS = {2: (FIRST,), 3: (SECOND,), 4: (FIRST, SECOND)}
#: A MAC that no hub has learnt.
NOBODY = "02:00:00:01:00:99"


@pytest.fixture(scope="module")
def network() -> Iterator[Trunked]:
    with Trunked(HUBS) as network:
        yield network


def arrivals(network: Trunked, sender: Site, destination: str) -> dict[str, tuple[int, int]]:
    """How many of a hundred frames arrived at each site, and how many twice."""
    flow = Flow(
        sender.vm.namespace,
        [site.vm.namespace for site in network.sites],
        source=sender.vm.mac,
        destination=destination,
        rate=500,
        count=100,
    )
    reports = flow.start().finish()
    return {
        site.daemon.name: (report.received, report.duplicated)
        for site, report in zip(network.sites, reports, strict=True)
    }


@pytest.mark.parametrize("destination", [BROADCAST, NOBODY])
def test_what_is_flooded_arrives_once(network: Trunked, destination: str) -> None:
    """At every other site, of whichever hub, and never where it came from."""
    for sender in network.sites:
        wanted = {site.daemon.name: (0 if site is sender else 100, 0) for site in network.sites}
        assert arrivals(network, sender, destination) == wanted, sender.daemon.name


def test_known_unicast_takes_one_way(network: Trunked) -> None:
    """What both hubs have learnt goes to its site only."""
    for one, two in permutations(network.sites, 2):
        wanted = {site.daemon.name: (100 if site is two else 0, 0) for site in network.sites}
        assert arrivals(network, one, two.vm.mac) == wanted, (one.daemon.name, two.daemon.name)


def test_all_pairs(network: Trunked) -> None:
    """Every virtual machine pings every other without loss, and the sites talk directly then: the
    hub that has the other one answers."""
    for one, two in permutations(network.sites, 2):
        assert two.vm.address is not None
        report = ping(one.vm.namespace, two.vm.address, count=20, interval=0.01)
        assert report.lost == 0, f"{one.daemon.name} to {two.daemon.name}: {report}"
        wait_for_shortcut(one, two)
    forwarded = [
        network.metric(network.daemons[name], "dmevpn_packets_forwarded_total")
        for name in (FIRST, SECOND)
    ]
    print(f"requests passed on by the hubs: {forwarded}")
    assert all(forwarded), forwarded


def test_a_site_that_is_cut_off_from_one_of_its_hubs(network: Trunked) -> None:
    """That hub forgets it within seconds, and frames for a station of it that does not speak go by
    the site's other hub."""
    one, _, both = network.sites
    station = "02:00:00:77:00:04"
    assert arrivals(network, both, BROADCAST)["site2"] == (100, 0)
    Flow(
        both.vm.namespace, [], source=station, destination=BROADCAST, rate=100, count=1
    ).start().finish()

    def is_member() -> bool:
        rows = network.hub.ctl.rows("member", "show")
        return both.address in {row["nbma"] for row in rows}

    assert is_member()
    underlay = Underlay(network.lab)
    underlay.separate("cut", [both.machine], [network.lab.machines[FIRST]])
    begun = time.monotonic()
    eventually("the hub has left the site", lambda: not is_member(), timeout=8)
    print(f"left after {time.monotonic() - begun:.1f} s, with the command that tells it")
    assert arrivals(network, one, station)["site4"] == (100, 0)
    assert arrivals(network, one, BROADCAST)["site4"] == (100, 0)
    underlay.heal("cut")
    network.await_registrations()
    assert is_member()
    wanted = {"site2": (100, 0), "site3": (100, 0), "site4": (0, 0)}
    assert arrivals(network, both, BROADCAST) == wanted


def test_a_hub_dies_and_comes_back(network: Trunked) -> None:
    """The site of both goes on with the other, and the hub's return doubles nothing."""
    _, other, both = network.sites
    network.hub.kill()
    network.lab.machines[FIRST].namespace.ip("link", "delete", "vx0")
    flow = Flow(
        both.vm.namespace,
        [other.vm.namespace, both.vm.namespace],
        source=both.vm.mac,
        destination=BROADCAST,
        rate=100,
        count=300,
    )
    there, back = flow.start().finish()
    print(f"a hub with a trunk is lost: {there}")
    assert len(there.lost) < 110
    assert there.duplicated == back.received == 0
    network.hub.start()
    network.await_registrations()
    wanted = {"site2": (100, 0), "site3": (100, 0), "site4": (0, 0)}
    assert arrivals(network, both, BROADCAST) == wanted
    wanted = {"site2": (100, 0), "site3": (0, 0), "site4": (100, 0)}
    assert arrivals(network, other, BROADCAST) == wanted
