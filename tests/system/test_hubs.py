"""Two hubs: one is lost, comes back, or is drained, under traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby

import pytest

from dmevpn.roles.carrier import PROBATION
from lab.daemons import Starved
from lab.traffic import Flow, FlowReport
from lab.wait import eventually
from tests.system.network import Network, Site, arrive, flush, reaches, wait_for_shortcut

pytestmark = pytest.mark.system

NOBODY = "02:00:00:01:00:99"
FIRST, SECOND = "hub", "hub2"


class TwoHubs(Network):
    """A network whose sites know two hubs, and ask them for signs of life."""

    def add_hubs(self) -> None:
        """Start both hubs."""
        for name, number in ((FIRST, 1), (SECOND, 9)):
            self.start_hub(name, number)

    def start_hub(self, name: str, number: int) -> None:
        """Start a hub, on a machine as it was when it was new."""
        config = (
            "interface nhrp\ninterface vx0\ncontroller nhrp\nvpn-id 1\nl2learnonly\nprovision\n"
        )
        if name in self.daemons:
            self.daemons[name].start()
        else:
            self.add_daemon(name, number, config)

    def address_of(self, name: str) -> str:
        machine = self.lab.machines[name]
        return machine.address if self.family == 4 else machine.address6

    def spoke_config(self, vnis: dict[int, int]) -> str:
        lines = ["interface nhrp", "keepalive 600"]
        for vpn, vni in vnis.items():
            lines += [f"interface vx{vpn}", "controller nhrp", f"vpn-id {vpn}"]
            lines += [
                f"default-vni {vni} {self.address_of(each)} register" for each in (FIRST, SECOND)
            ]
            lines += [f"provision br{vpn}"]
        return "\n".join(lines) + "\n"

    def carrier(self, site: Site) -> str | None:
        """The hub that a site's kernel floods to; None: there is not exactly one."""
        floods = [
            row["dst"]
            for row in site.machine.namespace.fdb("vx1")
            if row["mac"] == "00:00:00:00:00:00"
        ]
        return floods[0] if len(floods) == 1 else None

    def await_carrier(self, name: str, timeout: float = 15) -> None:
        address = self.address_of(name)
        eventually(
            f"flooding by {name}",
            lambda: all(self.carrier(site) == address for site in self.sites),
            timeout=timeout,
        )

    def await_registrations(self) -> None:
        def states() -> set[str]:
            return {
                row["state"]
                for site in self.sites
                for row in site.daemon.ctl.rows("registration", "show")
            }

        eventually("registrations with both hubs", lambda: states() == {"registered"}, timeout=30)

    def silences(self) -> list[str]:
        """What sites have said of hubs that did not answer in time."""
        lines = [line for site in self.sites for line in site.daemon.log.splitlines()]
        return [line for line in lines if "has been silent" in line]

    def await_trust(self) -> None:
        """A busy machine may have kept a hub silent: nobody leaves another one for it in a hurry
        until it has stood for a while."""
        seen, since = len(self.silences()), time.monotonic()

        def quiet() -> bool:
            nonlocal seen, since
            silences = len(self.silences())
            if silences != seen:
                seen, since = silences, time.monotonic()
            return not silences or time.monotonic() - since > 2 * PROBATION

        eventually("hubs that are believed", quiet, timeout=120)

    def flows(self, rate: float, seconds: float) -> list[Flow]:
        """Frames for nobody, which only the hub delivers, from each site to the other."""
        one, two = self.sites
        return [
            Flow(
                source.vm.namespace,
                [target.vm.namespace],
                source=source.vm.mac,
                destination=NOBODY,
                rate=rate,
                count=int(rate * seconds),
            ).start()
            for source, target in ((one, two), (two, one))
        ]


def await_more(flows: list[Flow], what: str) -> None:
    """Let each flow send five hundred frames more."""
    sent = [flow.sent for flow in flows]
    eventually(
        what,
        lambda: all(flow.sent > before + 500 for flow, before in zip(flows, sent, strict=True)),
    )


@pytest.fixture(scope="module")
def network() -> Iterator[TwoHubs]:
    with TwoHubs() as network:
        network.add_hubs()
        network.add_site(2, {1: 100})
        network.add_site(3, {1: 101})
        network.await_registrations()
        network.await_carrier(FIRST)
        yield network


def longest_gap(report: FlowReport, rate: float) -> float:
    """Seconds of the longest run of frames that are lost."""
    runs = groupby(enumerate(report.lost), lambda pair: pair[1] - pair[0])
    return max((len(list(run)) for _, run in runs), default=0) / rate


def test_a_hub_dies_and_comes_back(network: TwoHubs) -> None:
    """Killed with its device gone, the hub is left within a second, and what daemons wait for a
    processor on a busy machine; back again, it costs no frame and doubles at most one."""
    network.await_trust()
    flows = network.flows(100, 60)
    eventually("the first frames", lambda: all(flow.sent >= 50 for flow in flows))
    starved = Starved(network.daemons[SECOND], *(site.daemon for site in network.sites))
    network.hub.kill()
    network.lab.machines[FIRST].namespace.ip("link", "delete", "vx0")
    network.await_carrier(SECOND)
    late = starved.seconds
    left = [flow.sent for flow in flows]
    eventually(
        "frames by the other",
        lambda: all(flow.sent > before + 50 for flow, before in zip(flows, left, strict=True)),
    )
    for flow in flows:
        flow.stop()
        (report,) = flow.finish()
        gap = longest_gap(report, 100)
        print(
            f"a hub is lost: longest gap {gap:.2f} s, waited for processors {late:.2f} s: {report}"
        )
        assert report.lost
        assert gap < 1.0 + late, network.silences()
        assert report.duplicated <= 1
    back = network.flows(100, 60)
    network.start_hub(FIRST, 1)
    network.await_carrier(FIRST)
    for flow in back:
        flow.stop()
        (report,) = flow.finish()
        print(f"it is back: {report}")
        assert not report.lost, report
        assert report.duplicated <= 1, report


def test_a_hub_is_drained_and_taken_away(network: TwoHubs) -> None:
    """Drained, stopped and its machine's devices gone, it costs no frame at 1,000 a second; started
    again, it has its sites within seconds."""
    network.await_registrations()
    network.await_carrier(FIRST)
    flows = network.flows(1000, 120)
    eventually("the first frames", lambda: all(flow.sent >= 200 for flow in flows))
    (row,) = network.hub.ctl.rows("hub", "drain", "wait", "30")
    assert (row["state"], row["members"], row["left"]) == ("drained", 0, 2)
    assert all(network.carrier(site) == network.address_of(SECOND) for site in network.sites)
    network.hub.stop()
    assert "vx0" not in network.lab.machines[FIRST].namespace.devices()
    await_more(flows, "frames without it")
    for flow in flows:
        flow.stop()
        (report,) = flow.finish()
        print(f"drained and taken away: {report}")
        assert not report.lost, report
        assert report.duplicated <= 1, report
    back = network.flows(100, 60)
    starved = Starved(*network.daemons.values())
    begun = time.monotonic()
    network.start_hub(FIRST, 1)
    network.await_registrations()
    registered = time.monotonic() - begun
    network.await_carrier(FIRST)
    print(f"started again: registered after {registered:.1f} s, with the start of the daemon")
    assert registered < 8 + starved.seconds
    for flow in back:
        flow.stop()
        (report,) = flow.finish()
        assert not report.lost, report
        assert report.duplicated <= 1, report


def test_shortcuts_of_a_hub_that_is_gone(network: TwoHubs) -> None:
    """Killed with its device gone, the hub costs no frame by the shortcuts that it had told; the
    other one, which has not heard the stations at first, answers for them soon after it has."""
    network.await_registrations()
    network.await_carrier(FIRST)
    network.await_trust()
    one, two = network.sites
    pairs = ((one, two), (two, one))
    for site, _ in pairs:
        flush(site)
    assert reaches(one.vm, two.vm)
    for site, other in pairs:
        wait_for_shortcut(site, other)
    flows = [
        Flow(
            site.vm.namespace,
            [other.vm.namespace],
            source=site.vm.mac,
            destination=other.vm.mac,
            rate=500,
            count=60_000,
        ).start()
        for site, other in pairs
    ]
    eventually("the first frames", lambda: all(flow.sent >= 200 for flow in flows))
    network.hub.kill()
    network.lab.machines[FIRST].namespace.ip("link", "delete", "vx0")
    network.await_carrier(SECOND)

    def confirmed(**labels: str) -> list[float]:
        name = "dmevpn_answers_confirmed_total"
        return [network.metric(site.daemon, name, **labels) for site in network.sites]

    eventually("questions at the other hub", lambda: all(confirmed()))
    for site in network.sites:
        arrive(site.vm)
    eventually("its answers", lambda: all(confirmed(outcome="same")), timeout=15)
    await_more(flows, "frames after that")
    for flow in flows:
        flow.stop()
        (report,) = flow.finish()
        print(f"the shortcuts of a hub that is gone: {report}")
        assert not report.lost, report
        assert report.untouched, report
