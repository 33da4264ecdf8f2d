"""A cable between the bridges of two sites, behind the back of their hub."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations

import pytest

from lab.traffic import Flow, ping
from lab.wait import eventually
from tests.system.network import Network, Site, arrive

pytestmark = pytest.mark.system

#: Frames a second that the hub may get from two sites that are connected, each of whose stations
#: broadcasts ten times a second: a hundred from each in the name of held stations, and their own.
BOUND = 600


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1)
        for number in (2, 3, 4, 5):
            network.add_site(number, {1: 100 + number})
        network.await_members()
        yield network


@contextmanager
def cable(one: Site, two: Site) -> Iterator[None]:
    """Connect the bridges of two sites."""
    end = one.machine.namespace
    far = two.machine.namespace
    end.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
    for namespace in (end, far):
        namespace.ip("link", "set", "cable", "master", "br1")
        namespace.ip("link", "set", "cable", "up")
    try:
        yield
    finally:
        end.ip("link", "del", "cable")


@contextmanager
def broadcasts(network: Network) -> Iterator[None]:
    """Let every station broadcast ten times a second."""
    over = threading.Event()

    def speak() -> None:
        while not over.wait(0.1):
            for site in network.sites:
                arrive(site.vm)

    speaking = threading.Thread(target=speak)
    speaking.start()
    try:
        yield
    finally:
        over.set()
        speaking.join()


def received(network: Network, *sites: Site) -> int:
    """Frames that the hub has got from sites."""
    traffic = network.traffic()
    return sum(traffic[1, site.address][0] for site in sites)


def events(network: Network, name: str) -> list[str]:
    """The details of events of the hub."""
    return [row["detail"] for row in network.hub.ctl.rows("events") if row["event"] == name]


def all_pairs(network: Network) -> None:
    """Every station reaches every other."""
    for one, two in permutations(network.sites, 2):
        assert two.vm.address is not None
        address = two.vm.address

        def reached(one: Site = one, address: str = address) -> bool:
            return ping(one.vm.namespace, address, count=3, interval=0.02).lost == 0

        eventually(f"{one.daemon.name} to {two.daemon.name}", reached)


def test_a_backdoor_between_two_sites(network: Network) -> None:
    """The loop is named within seconds, with its VPN and both sites; stations elsewhere reach each
    other all the while; what goes round is bounded; and without the cable all is as before."""
    two, three, four, five = network.sites
    all_pairs(network)
    assert five.vm.address is not None
    with cable(two, three), broadcasts(network):
        began = time.monotonic()
        eventually("name of the loop", lambda: events(network, "loop"), timeout=40)
        eventually("holds", lambda: network.metric(network.hub, "dmevpn_macs_held_total"))
        named = time.monotonic() - began
        start, since = received(network, two, three), time.monotonic()
        flow = Flow(
            four.vm.namespace,
            [five.vm.namespace],
            source=four.vm.mac,
            destination=five.vm.mac,
            rate=200,
            count=800,
        ).start()
        (report,) = flow.finish()
        rate = (received(network, two, three) - start) / (time.monotonic() - since)
        [detail] = set(events(network, "loop"))
        assert detail == (
            f"{two.address} vni 102 and {three.address} vni 103 are connected behind this hub"
        )
        done = network.hub.ctl.run("doctor", json=True)
        findings = json.loads(done.stdout)["table"]
        assert ("loop", "vpn 1") in {(row["check"], row["subject"]) for row in findings}
        print(
            f"loop named and stations held after {named:.1f} s; {rate:.0f} frames a second from"
            f" both sites; {len(report.lost)} of {flow.sent} frames between other sites lost"
        )
        assert rate < BOUND
        assert len(report.lost) <= 20
    eventually("end of the loop", lambda: events(network, "loop-ended"), timeout=30)
    ended = time.monotonic()
    all_pairs(network)
    print(f"all pairs reach each other {time.monotonic() - ended:.1f} s after its end was noted")
