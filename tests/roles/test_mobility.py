"""Stations that move, flip, or are at two sites at once, and sites that are connected: at a hub."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmevpn.config.model import HubPlan, MACLimitPlan, StickyPlan, SwitchPlan
from dmevpn.roles.loops import MAX_LOOPS, OVER, RECHECK
from tests.roles.test_faults import about, doctor, explain
from tests.world import BROADCAST, Site, World, mac

A, B, C, D = mac(1), mac(2), mac(3), mac(4)


class Sites:
    """A hub with four sites, with a station each that is known."""

    def __init__(self, switch: SwitchPlan | None = None) -> None:
        self.world = World()
        if switch is not None:
            self.set(switch)
        self.world.start_hub()
        self.sites: list[Site] = [
            self.world.add_site(f"10.0.0.{number}", 100 + number) for number in range(2, 6)
        ]
        self.world.run(1)
        for site, station in zip(self.sites, (A, B, C, D), strict=True):
            self.world.speak(site, station)
        self.world.run(2)

    def set(self, switch: SwitchPlan) -> None:
        """Let a hub have other rules."""
        (hub,) = self.world.hub_plan.hubs
        self.world.hub_plan = replace(self.world.hub_plan, hubs=(replace(hub, switch=switch),))

    @property
    def hub(self) -> HubPlan:
        (hub,) = self.world.hub_plan.hubs
        return hub

    def value(self, name: str, **labels: str) -> int:
        return self.world.hub.metrics.value(name, **labels)

    def events(self, *names: str) -> list[tuple[str, str]]:
        """Events of the hub's journal, with their details."""
        assert self.world.hub.node is not None
        journal = self.world.hub.node.journal
        return [(each.event, each.detail) for each in journal if each.event in names]


@pytest.fixture
def sites() -> Sites:
    return Sites()


# --- a MAC that flips -----------------------------------------------------------------------


def test_clients_are_not_purged_again_and_again(sites: Sites) -> None:
    """A client that was told of a MAC which two sites have hears of five moves and of the hold,
    and then nothing more: what it is told again stays true."""
    world, (one, two, three, _) = sites.world, sites.sites
    world.exchange(three, C, one, A)
    assert world.path(three, A) == one.vtep
    for turn in range(40):
        world.speak((two, one)[turn % 2], A)
        world.run(0.1)
        world.speak(three, C, A)
        world.run(0.1)
    assert sites.value("macs_moved", interface="vx0") == 5
    assert sites.value("macs_held", interface="vx0") == 1
    purges = sites.value("purges_sent", vpn="1")
    assert purges <= 2 * 6
    assert world.path(three, A) == one.vtep
    assert world.switch.find(1, A) == one.vtep
    assert world.switch.counters["duplicate_mac"] >= 15
    print(f"40 flips within 8 s: 5 moves followed, 1 hold, {purges} purges sent in all")


def test_a_hold_is_named_with_both_places(sites: Sites) -> None:
    """Journal, `doctor` and `explain` name the MAC and both sites, and later nobody does."""
    world, (one, two, *_) = sites.world, sites.sites
    for _ in range(3):
        world.speak(two, A)
        world.speak(one, A)
    world.run(0.1)
    assert sites.events("held") == [("held", "for 10 s; it sends from 10.0.0.3 vni 103, too")]
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"]) == ("mac", A.hex(":"))
    assert "held at 10.0.0.2 vni 102 for " in found["finding"]
    assert "it sends from 10.0.0.3 vni 103, too" in found["finding"]
    [problem] = about(explain(world, world.hub, A), "problem")
    assert "held at 10.0.0.2 vni 102" in problem
    world.run(80)
    assert doctor(world, world.hub) == []


def test_a_hold_outlives_the_daemon(sites: Sites) -> None:
    """While no daemon runs the switch holds, and the next one says so."""
    world, (one, two, *_) = sites.world, sites.sites
    world.kill(world.hub)
    for _ in range(4):
        world.speak(two, A)
        world.speak(one, A)
    assert world.switch.find(1, A) == one.vtep
    world.start_hub()
    world.run(0.5)
    assert sites.value("macs_held", interface="vx0") == 1
    assert any("held at 10.0.0.2" in row["finding"] for row in doctor(world, world.hub))


# --- loops ----------------------------------------------------------------------------------


def test_a_loop_that_nobody_has_used_yet(sites: Sites) -> None:
    """A cable between two sites is found by a probe within half a minute, named with VPN and both
    sites, and said to be gone when it is."""
    world, (one, two, *_) = sites.world, sites.sites
    world.connect(one, two)
    world.run(31)
    where = "10.0.0.2 vni 102 and 10.0.0.3 vni 103 are connected behind this hub"
    assert sites.events("loop") == [("loop", where)]
    assert sites.value("loops_found", interface="vx0") == 1
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"], found["finding"]) == ("loop", "vpn 1", where)
    world.connect(one, two)
    world.run(OVER + RECHECK)
    assert [name for name, _ in sites.events("loop", "loop-ended")] == ["loop", "loop-ended"]
    assert doctor(world, world.hub) == []


def test_a_loop_does_not_melt_the_network(sites: Sites) -> None:
    """A broadcast that goes round is found and named within a second. Frames that come back are
    bounded, stations of other sites stay where they are, and so do those of the two."""
    world, (one, two, three, four) = sites.world, sites.sites
    world.connect(one, two)
    began = world.clock.seconds()
    for station, site in ((A, one), (B, two), (C, three), (D, four)):
        world.speak(site, station)
    while not sites.events("loop"):
        world.run(0.05)
        assert world.clock.seconds() - began < 1
    named = world.clock.seconds() - began
    world.run(5)
    before = world.looped
    for _ in range(100):
        for station, site in ((A, one), (B, two), (C, three), (D, four)):
            world.speak(site, station)
        world.run(0.1)
    rate = (world.looped - before) / 10
    for station, site in ((A, one), (B, two), (C, three), (D, four)):
        assert world.switch.find(1, station) == site.vtep
    # Two sites may flood a hundred frames a second each in the name of stations that are held.
    assert rate < 500
    print(f"loop named after {named:.2f} s; {rate:.0f} frames a second went round")
    world.connect(one, two)
    world.run(60)
    four.received.clear()
    for station, site in ((A, one), (B, two), (C, three)):
        world.speak(site, station)
    assert four.received == [BROADCAST + station for station in (A, B, C)]
    assert [each for each in world.switch.held() if each.mac == D] == []


def test_a_loop_within_a_site(sites: Sites) -> None:
    """A site that gives back what it gets is named, too."""
    world, (one, *_) = sites.world, sites.sites
    world.cables[one.vtep] = one
    world.run(31)
    assert sites.events("loop") == [("loop", "frames for 10.0.0.2 vni 102 come back from there")]


def test_loops_are_bounded(sites: Sites) -> None:
    """However many there are, so many are watched."""
    assert sites.world.hub.node is not None
    role = sites.world.hub.node.hubs["vx0"]
    one = sites.sites[0].vtep
    for number in range(MAX_LOOPS + 10):
        role.loop_seen(1, one, one._replace(vni=1000 + number))
    assert len(role.loops) == MAX_LOOPS
    assert sites.value("loops_found", interface="vx0") == MAX_LOOPS
    sites.world.run(OVER + RECHECK)
    assert len(role.loops) == 0


def test_probes_are_paced() -> None:
    """Every site gets one in the time that is configured, and none if there is none."""
    sites = Sites(SwitchPlan(loop_probe=4))
    before = sites.value("loop_probes_sent", interface="vx0")
    sites.world.run(20)
    assert 18 <= sites.value("loop_probes_sent", interface="vx0") - before <= 21
    sites.set(SwitchPlan(loop_probe=0))
    assert sites.world.hub.node is not None
    sites.world.hub.node.hubs["vx0"].change(sites.hub)
    before = sites.value("loop_probes_sent", interface="vx0")
    sites.world.run(20)
    assert sites.value("loop_probes_sent", interface="vx0") == before


# --- limits ---------------------------------------------------------------------------------


def test_a_site_with_too_many_macs() -> None:
    """Journal and `doctor` name the site whose share is used up, and the others have room."""
    sites = Sites(SwitchPlan(mac_limits=(MACLimitPlan(vpns=(1, 1), macs=20, per_site=10),)))
    world, (one, two, *_) = sites.world, sites.sites
    for number in range(100, 150):
        world.speak(one, mac(number))
    world.speak(two, mac(200))
    world.run(0.1)
    assert world.switch.find(1, mac(200)) == two.vtep
    assert len(world.switch.vpns[1]) == 14
    assert sites.events("table-full") == [("table-full", "")]
    [found] = doctor(world, world.hub)
    assert found["check"] == "room"
    assert "10.0.0.2 vni 102 has 10 MACs, its share" in found["finding"]


def test_rules_of_a_reload(sites: Sites) -> None:
    """Limits, budgets and sticky MACs are in force from the reload on, with nothing lost."""
    world, (one, two, three, _) = sites.world, sites.sites
    assert world.hub.node is not None
    sticky = StickyPlan(vpns=(1, 1), mac=bytes(6), prefix_length=0)
    sites.set(SwitchPlan(sticky=(sticky,), flood_rate=1, flood_burst=2))
    world.hub.node.hubs["vx0"].change(sites.hub)
    world.speak(two, A)
    world.run(0.1)
    assert world.switch.find(1, A) == one.vtep
    assert sites.events("move-refused") == [("move-refused", "it is at 10.0.0.2 vni 102")]
    for _ in range(10):
        world.speak(three, C)
    world.run(0.1)
    assert world.switch.members[three.vtep].limited == 7
    assert [name for name, _ in sites.events("flood-limited")] == ["flood-limited"]
    found = {(row["check"], row["subject"]): row["finding"] for row in doctor(world, world.hub)}
    assert "from 10.0.0.3 vni 103 were dropped: it is at" in found["mac", A.hex(":")]
    assert "10.0.0.4 vni 104 had more to flood" in found["flood", "vpn 1"]
    assert len(world.switch.members) == 4
