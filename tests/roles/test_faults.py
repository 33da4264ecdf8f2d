"""Staged faults: `doctor` and `explain` name each one right, and say nothing of a sound network.

docs/troubleshooting.md tells of the same faults. Those of the kernel are in tests/system.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import succeed

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import AuthenticationPlan
from dmevpn.dataplane.memory_spoke import Row as SiteRow
from dmevpn.errors import CommandError
from dmevpn.interfaces import CHECKS
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from tests.schemas import CheckedController
from tests.world import BROADCAST, Machine, Site, World, mac

Row = dict[str, Any]

A, B = mac(1), mac(2)
A_TEXT, B_TEXT = A.hex(":"), B.hex(":")


def controller(machine: Machine) -> Controller:
    assert machine.node is not None
    return CheckedController(machine.node, ConfigFile("x"), lambda: succeed({}))


def answer(world: World, deferred: Any) -> list[Row]:
    """What a question comes to, which may need an answer of the hub."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    world.run(4)
    assert len(found) == 1
    rows: list[Row] = found[0]
    assert isinstance(rows, list), rows
    return rows


def doctor(world: World, machine: Machine) -> list[Row]:
    rows = answer(world, controller(machine).doctor())
    assert {row["check"] for row in rows} <= set(CHECKS)
    assert all(row["finding"] and row["cure"] for row in rows)
    return rows


def explain(world: World, machine: Machine, address: bytes) -> list[Row]:
    return answer(world, controller(machine).explain({"mac": address, "vpn": 1}))


def about(rows: list[Row], topic: str) -> list[str]:
    return [row["text"] for row in rows if row["about"] == topic]


class Talk:
    """Two sites whose stations have spoken."""

    def __init__(self, **options: Any) -> None:
        self.world = World(**options)
        self.world.start_hub()
        self.one: Site = self.world.add_site("10.0.0.2", 100)
        self.two: Site = self.world.add_site("10.0.0.3", 101)
        self.world.run(1)
        self.world.exchange(self.one, A, self.two, B)


@pytest.fixture
def talk() -> Talk:
    """A sound network."""
    return Talk()


def test_a_flood_is_named(talk: Talk) -> None:
    """Who sends more than he may is in the journal and found by the doctor, once a minute."""
    speaker = talk.world.hub.node.speakers["nhrp"]  # type: ignore[union-attr]
    for _ in range(50):
        speaker.flooded(talk.one.vtep.nbma, 100)
        talk.world.run(1)
    speaker.flooded(b"", 100)
    found = [row for row in doctor(talk.world, talk.world.hub) if "request-rate" in row["finding"]]
    assert [row["subject"] for row in found] == ["10.0.0.2", "strangers"]
    assert all(row["check"] == "allowed" and "request-rate" in row["cure"] for row in found)
    events = [each["event"] for each in controller(talk.world.hub).events({})]
    assert events.count("flooded") == 2


# --- nothing is wrong -----------------------------------------------------------------------


def test_a_sound_network(talk: Talk) -> None:
    """Nothing is found where nothing is wrong, and asking leaves no trace."""
    spoke = talk.one.machine.node.spokes["vx1"]  # type: ignore[union-attr]
    for machine in talk.world.machines.values():
        assert doctor(talk.world, machine) == []
    before = list(spoke.cache.bindings()), len(list(controller(talk.one.machine).events({})))
    for machine in talk.world.machines.values():
        assert doctor(talk.world, machine) == []
        explain(talk.world, machine, B)
    after = list(spoke.cache.bindings()), len(list(controller(talk.one.machine).events({})))
    assert after == before


def test_a_shortcut_is_explained(talk: Talk) -> None:
    """Where, why, since when, who said so, what the hub says now, and nothing wrong."""
    talk.world.run(5)
    rows = explain(talk.world, talk.one.machine, B)
    verdict = rows[0]
    assert verdict["text"] == (
        "frames go straight to 10.0.0.3 vni 101: a shortcut, as hub 10.0.0.1 has answered"
    )
    assert (verdict["nbma"], verdict["vni"], verdict["by"]) == ("10.0.0.3", 101, "10.0.0.1")
    assert verdict["since"] >= 4
    assert about(rows, "hub") == ["says it is at 10.0.0.3 vni 101"]
    assert about(rows, "event")[-1].startswith("shortcut-up")
    assert about(rows, "problem") == []


def test_a_local_station_is_explained(talk: Talk) -> None:
    """Frames for a station of this site stay here, and the hub agrees."""
    rows = explain(talk.world, talk.one.machine, A)
    assert rows[0]["text"] == "frames stay at this site: the station is behind bridge port port1"
    assert about(rows, "hub") == ["says it is at 10.0.0.2 vni 100, which is this site"]
    assert about(rows, "problem") == []


def test_a_stranger_is_explained(talk: Talk) -> None:
    """A MAC that nobody has sent to goes by the hub, which does not know it."""
    rows = explain(talk.world, talk.one.machine, mac(9))
    assert rows[0]["text"] == (
        "frames go by the hub at 10.0.0.1: nobody here has sent to it lately"
    )
    assert about(rows, "hub") == ["does not know it"]
    assert about(rows, "cache") == ["nothing"]


def test_a_hub_explains(talk: Talk) -> None:
    """The hub says where its switch sends frames, who registered there, and whom it has told."""
    rows = explain(talk.world, talk.world.hub, B)
    assert rows[0]["text"] == "frames go to 10.0.0.3 vni 101: the switch has seen it there"
    assert about(rows, "answers") == ["clients were told 10.0.0.3 vni 101"]
    assert about(rows, "problem") == []
    rows = explain(talk.world, talk.world.hub, mac(9))
    assert rows[0]["text"] == (
        "frames for it go to every member: the switch has not seen it lately"
    )
    rows = explain(talk.world, talk.world.hub, BROADCAST)
    assert rows[0]["text"] == "it is a group's address: frames for it go to every member"


def test_no_such_vpn(talk: Talk) -> None:
    """A VPN that is not here is said not to be."""
    found: list[Any] = []
    asking = controller(talk.one.machine).explain({"mac": A, "vpn": 7})
    asking.addErrback(lambda failure: found.append(failure.value))
    talk.world.run(1)
    assert isinstance(found[0], CommandError)
    assert str(found[0]) == "no VPN 7 of this daemon knows 02:00:00:00:00:01"


# --- ten faults -----------------------------------------------------------------------------


def test_wrong_vni(talk: Talk) -> None:
    """The hub names a site whose frames carry another VNI than it has registered."""
    sender = VTEP(parse_ip("10.0.0.2"), 999)
    talk.world.switch.receive(sender, BROADCAST + A)
    talk.world.run(1)
    [found] = doctor(talk.world, talk.world.hub)
    assert (found["check"], found["subject"]) == ("vni", "10.0.0.2")
    assert found["finding"].startswith("it sends frames with VNI 999")
    assert found["finding"].endswith("but has registered VNI 100")


def test_hub_down(talk: Talk) -> None:
    """A spoke says that its hub does not answer, and explain that nobody can be asked."""
    talk.world.kill(talk.world.hub)
    talk.world.run(8000, step=5)
    [found] = doctor(talk.world, talk.one.machine)
    assert (found["check"], found["subject"]) == ("hub", "10.0.0.1")
    assert found["finding"] == "vpn 1 is not registered with hub 10.0.0.1: no answer"
    assert "start the hub's daemon" in found["cure"]
    rows = explain(talk.world, talk.one.machine, B)
    assert about(rows, "hub") == ["no hub can be asked"]
    assert about(rows, "problem")[0].startswith("we are registered with no hub")


def test_mtu_too_small() -> None:
    """A site behind a smaller underlay is named by the hub, and by who sends to it."""
    world = World()
    world.start_hub()
    one = world.add_site("10.0.0.2", 100)
    two = world.add_site("10.0.0.3", 101, start=False)
    two.mtu = 1350
    world.start_site(two)
    world.run(1)
    world.exchange(one, A, two, B)
    [found] = doctor(world, one.machine)
    assert found["check"] == "mtu"
    assert found["finding"] == "site 10.0.0.3 takes frames of MTU 1350, this one sends 1450"
    assert doctor(world, two.machine) == []
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"]) == ("mtu", "vpn 1")
    assert found["finding"].startswith("sites disagree: 10.0.0.3 takes frames of MTU 1350")


def test_forwarding_entries_flushed(talk: Talk) -> None:
    """That somebody removes entries is said for a while, although they are put right at once."""
    talk.one.kernel.remove_row(B)
    [found] = doctor(talk.world, talk.one.machine)
    assert (found["check"], found["subject"]) == ("entries", "vx1")
    assert found["finding"].startswith("repaired ")
    assert "1 entries differed" in found["finding"]
    talk.world.run(601, step=1)
    assert doctor(talk.world, talk.one.machine) == []


def test_duplicate_mac(talk: Talk) -> None:
    """The hub names a MAC that speaks from two sites, and both of them."""
    for _ in range(3):
        for site in (talk.one, talk.two):
            talk.world.speak(site, mac(7))
            talk.world.run(1)
    [found] = doctor(talk.world, talk.world.hub)
    assert (found["check"], found["subject"]) == ("mac", mac(7).hex(":"))
    assert "10.0.0.2 vni 100 and 10.0.0.3 vni 101" in found["finding"]
    rows = explain(talk.world, talk.world.hub, mac(7))
    assert about(rows, "problem")[0].startswith("the same MAC is at")


def test_wrong_secret() -> None:
    """Both ends name the secret as what differs."""
    world = World(authentication=AuthenticationPlan(secret=b"right"))
    world.start_hub()
    world.speaker = replace(world.speaker, authentication=AuthenticationPlan(secret=b"wrong"))
    site = world.add_site("10.0.0.2", 100)
    world.run(20)
    [found] = doctor(world, site.machine)
    assert (found["check"], found["subject"]) == ("secret", "10.0.0.1")
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"]) == ("secret", "10.0.0.2")


def test_blocked_udp_port() -> None:
    """A spoke that is registered finds out that none of its frames reach the hub."""
    world = World()
    world.start_hub()
    site = world.add_site("10.0.0.2", 100)
    world.run(1)
    assert doctor(world, site.machine) == []
    world.blocked.add(site.machine.address)
    world.speak(site, A, B)
    [found] = doctor(world, site.machine)
    assert (found["check"], found["subject"]) == ("port", "vx1")
    assert (
        found["finding"]
        == "hub 10.0.0.1 answers, but has heard none of the stations that speak here"
    )
    assert "UDP port 4789" in found["cure"]


def test_spoke_not_allowed() -> None:
    """A VPN that the hub does not serve, and a VNI of another VPN, are told apart, at both ends."""
    world = World(vpns=((1, 2),))
    world.start_hub()
    outside = world.add_site("10.0.0.2", 100, vpn=9)
    world.run(2)
    [found] = doctor(world, outside.machine)
    assert (found["check"], found["cure"]) == ("allowed", "add the VPN to `vpn-id` at the hub")
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"]) == ("allowed", "10.0.0.2")

    world = World(vpns=((1, 2),))
    world.start_hub()
    first = world.add_site("10.0.0.3", 101, vpn=1)
    world.run(2)
    world.kill(first.machine)
    second = world.add_site("10.0.0.3", 101, vpn=2)
    world.run(2)
    [found] = doctor(world, second.machine)
    assert found["check"] == "allowed"
    assert "refused with code 4, prohibited" in found["finding"]
    [found] = doctor(world, world.hub)
    assert (found["check"], found["subject"]) == ("allowed", "10.0.0.3")


def test_stale_entry_by_hand(talk: Talk) -> None:
    """An entry that somebody has made by hand is named, with the command that removes it."""
    talk.one.kernel.rows[mac(8)] = SiteRow(VTEP(parse_ip("10.0.0.66"), 100), False)
    [found] = doctor(talk.world, talk.one.machine)
    assert (found["check"], found["subject"]) == ("entries", mac(8).hex(":"))
    assert found["cure"] == "bridge fdb del 02:00:00:00:00:08 dev vx1 self"
    rows = explain(talk.world, talk.one.machine, mac(8))
    assert rows[0]["text"] == (
        "frames go straight to 10.0.0.66 vni 100: an entry made by hand says so"
    )
    [problem] = about(rows, "problem")
    assert "made by hand on vx1 takes its frames to 10.0.0.66 vni 100" in problem
    assert "bridge fdb del 02:00:00:00:00:08 dev vx1 self" in problem


def test_clock_jump(talk: Talk) -> None:
    """A step of the wall clock is named at once and for an hour; nothing else is harmed by it."""
    talk.world.wall -= 7200
    for machine in (talk.one.machine, talk.world.hub):
        [found] = doctor(talk.world, machine)
        assert found["check"] == "clock"
        assert "by -7200 s" in found["finding"]
    talk.world.run(3700, step=5)
    assert doctor(talk.world, talk.world.hub) == []
