"""A hub's daemon that dies leaves its switch at work, and its successor takes it over."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab.daemons import Starved
from lab.traffic import BROADCAST, Flow, Ping, ping
from lab.wait import eventually
from tests.system.network import Network, Site, shortcut, wait_for_shortcut

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with Network(family=request.param) as network:
        network.add_hub(1)
        for number, vni in ((2, 100), (3, 101), (4, 100)):
            network.add_site(number, {1: vni})
        network.await_members()
        yield network


def test_killed_and_started_under_traffic(network: Network) -> None:
    """Killed with -9 and started again, the hub costs no ping, by the shortcut or by the hub."""
    one, two, three = network.sites
    assert two.vm.address is not None
    assert three.vm.address is not None
    assert ping(one.vm.namespace, two.vm.address).lost == 0
    wait_for_shortcut(one, two)
    wait_for_shortcut(two, one)
    members = network.traffic()
    by_shortcut = Ping(one.vm.namespace, two.vm.address, count=10_000, interval=0.01)
    network.hub.kill()
    # Nobody has asked for the third before, and nobody answers now: these can only go by the hub.
    by_hub = Ping(one.vm.namespace, three.vm.address, count=10_000, interval=0.01)
    restart_at_ease(network)
    began = by_hub.answered, by_shortcut.answered
    eventually(
        "a thousand pings, the last of them by the successor",
        lambda: (
            min(by_hub.answered, by_shortcut.answered) >= 1000
            and by_hub.answered > began[0] + 100
            and by_shortcut.answered > began[1] + 100
        ),
        timeout=60,
        interval=0.2,
    )
    for pings in (by_shortcut, by_hub):
        pings.stop()
        report = pings.finish()
        assert report.sent >= 1000
        assert report.lost == 0
        assert report.duplicated <= 1
    assert network.traffic().keys() == members.keys()


def restart_at_ease(network: Network) -> None:
    """Start the hub again after its sites have had to do without it for a while."""
    one, _, three = network.sites
    flow = Flow(
        one.vm.namespace,
        [three.vm.namespace],
        source=one.vm.mac,
        destination=three.vm.mac,
        rate=1000,
        count=120_000,
    ).start()
    eventually("a thousand frames", lambda: flow.sent >= 1000)
    assert shortcut(one, three.vm) is None
    network.hub.start()
    started = flow.sent
    eventually("some more by the successor", lambda: flow.sent >= started + 500)
    flow.stop()
    (report,) = flow.finish()
    assert not report.lost, report
    assert report.reordered == 0, report
    assert report.duplicated <= 1, report


def speak(site: Site, source: str, destination: str = BROADCAST) -> None:
    """Send a frame of a station that is at a site."""
    Flow(
        site.vm.namespace, [], source=source, destination=destination, rate=100, count=1
    ).start().finish()


def place_of(site: Site, mac: str) -> str | None:
    """The underlay address to which a site's kernel sends frames for a MAC directly."""
    rows = site.machine.namespace.fdb("vx1-s")
    places = [str(row["dst"]) for row in rows if row["mac"] == mac and "dst" in row]
    return places[0] if places and places[0] not in ("0.0.0.0", "::") else None


def told(network: Network) -> list[float]:
    """How many Purge Requests each site has had; one may be sent again."""
    return [
        network.metric(site.daemon, "dmevpn_packets_total", type="purge_request")
        for site in network.sites
    ]


def test_told_in_the_last_moment(network: Network) -> None:
    """Killed as soon as it has answered, the hub has its successor take the answer back when the
    station has moved meanwhile, from who was told and from nobody else."""
    one, two, three = network.sites
    station = f"02:00:00:77:00:{network.family:02x}"
    speak(two, station)

    def asked_and_told() -> bool:
        speak(one, one.vm.mac, station)
        return place_of(one, station) == two.address

    eventually("an answer of the hub", asked_and_told)
    network.hub.kill()
    speak(three, station)
    assert place_of(one, station) == two.address
    before = told(network)
    network.hub.start()
    begun = time.monotonic()
    starved = Starved(network.hub, one.daemon)
    eventually("the old place is left", lambda: place_of(one, station) != two.address, timeout=30)
    took = time.monotonic() - begun
    print(f"taken back {took:.1f} s after the hub's start")
    assert took < 5 + starved.seconds
    after = told(network)
    assert after[0] > before[0] and after[1:] == before[1:], "who was told hears of it, nobody else"
    assert network.metric(network.hub, "dmevpn_purges_sent_total") == 1


def test_the_successor_answers(network: Network) -> None:
    """The hub that took over knows its members and MACs, so that new shortcuts come at once."""
    one, two, three = network.sites
    for source, target in ((one, three), (three, two), (two, three)):
        assert target.vm.address is not None
        assert ping(source.vm.namespace, target.vm.address, count=20, interval=0.01).lost == 0
        wait_for_shortcut(source, target)
    states = [
        row["state"]
        for site in network.sites
        for row in site.daemon.ctl.rows("registration", "show")
    ]
    assert states == ["registered"] * 3
