"""A cable between the bridges of two sites, behind the back of their hub."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab.traffic import Flow
from lab.wait import eventually
from tests.system.backdoor import BOUND, all_pairs, broadcasts, cable
from tests.system.network import Network, Site

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1)
        for number in (2, 3, 4, 5):
            network.add_site(number, {1: 100 + number})
        network.await_members()
        yield network


def received(network: Network, *sites: Site) -> int:
    """Frames that the hub has got from sites."""
    traffic = network.traffic()
    return sum(traffic[1, site.address][0] for site in sites)


def events(network: Network, name: str) -> list[str]:
    """The details of events of the hub."""
    return [row["detail"] for row in network.hub.ctl.rows("events") if row["event"] == name]


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
