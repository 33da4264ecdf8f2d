"""The journal tells the story of a network: who came, moved, was refused, and what was mended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import succeed

from dmevpn.addresses import format_address
from dmevpn.config.model import AuthenticationPlan
from dmevpn.dataplane.memory_spoke import Row as SiteRow
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from tests.schemas import CheckedController
from tests.world import Machine, World, mac

A, B = mac(1), mac(2)


def controller(machine: Machine) -> Controller:
    assert machine.node is not None
    return CheckedController(machine.node, ConfigFile("x"), lambda: succeed({}))


def told(machine: Machine, **match: Any) -> list[tuple[str, str | None, str | None]]:
    """The story of a machine: event, address, detail."""
    rows = controller(machine).events(match)
    return [(row["event"], row["protocol"], row["detail"]) for row in rows]


def talk() -> World:
    world = World()
    world.start_hub()
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, A, two, B)
    return world


def test_a_shortcut() -> None:
    """A spoke notes that it is registered, who told it where a MAC is, and the shortcut."""
    world = talk()
    one = next(iter(world.sites.values()))
    assert told(one.machine, mac=B) == [
        ("resolved", format_address(B), "told by 10.0.0.1"),
        ("shortcut-up", format_address(B), None),
    ]
    [registered] = controller(one.machine).events({"event": "registered"})
    assert registered | {"serial": 0, "protocol": ""} == {
        "serial": 0,
        "time": 1_700_000_000,
        "event": "registered",
        "vpn": 1,
        "protocol": "",
        "nbma": "10.0.0.1",
        "vni": None,
        "interface": "vx1",
        "detail": None,
    }
    assert ("learned", format_address(A), None) in told(world.hub)
    # The MAC moves to a third site: the hub sees it there and takes its answer back.
    third = world.add_site("10.0.0.4", 102)
    world.run(1)
    world.speak(third, B)
    world.run(1)
    assert ("moved", format_address(B), "was at 10.0.0.3 vni 101") in told(world.hub, mac=B)
    assert sorted(told(one.machine, mac=B)[2:4]) == [
        ("purged", format_address(B), "told by 10.0.0.1"),
        ("shortcut-down", format_address(B), "purged"),
    ]


def test_nothing_is_noted_for_what_changes_nothing() -> None:
    """Renewals and frames leave no trace: they would push out what matters."""
    world = talk()
    one, two = world.sites.values()
    world.run(5)
    before = len(told(one.machine)), len(told(world.hub))
    for client in one.machine.node.spokes["vx1"].registrations:  # type: ignore[union-attr]
        client.renew()
    for _ in range(20):
        world.exchange(one, A, two, B)
    assert (len(told(one.machine)), len(told(world.hub))) == before


def test_refusals() -> None:
    """A hub notes whose packets, registrations and frames it turns away, not how often."""
    world = World(authentication=AuthenticationPlan(secret=b"right"))
    world.start_hub()
    world.speaker = replace(world.speaker, authentication=AuthenticationPlan(secret=b"wrong"))
    world.add_site("10.0.0.2", 100)
    world.run(40)
    refused = told(world.hub, event="refused")
    assert len(refused) == 1
    assert refused[0][2] is not None and refused[0][2].startswith("a packet: ")


def test_repairs_and_devices() -> None:
    """Somebody else's hands are noted."""
    world = talk()
    one = next(iter(world.sites.values()))
    one.kernel.remove_row(B)
    one.kernel.set_up(False)
    world.run(1)
    one.kernel.set_up(True)
    world.run(1)
    events = [event for event, _, _ in told(one.machine)]
    assert events[-3:] == ["repaired", "device-down", "device-up"]
    assert one.kernel.rows[B] == SiteRow(one.kernel.rows[B].vtep, True)


def test_following() -> None:
    """Who follows gets what there was, what comes, and nothing after that."""
    world = talk()
    one = next(iter(world.sites.values()))
    heard: list[Any] = []
    cancel = controller(one.machine).follow(heard.append)
    world.run(0.1)
    assert heard == list(controller(one.machine).events({}))
    one.kernel.set_up(False)
    world.run(1)
    assert heard[-1]["event"] == "device-down"
    cancel()
    one.kernel.set_up(True)
    world.run(1)
    assert heard[-1]["event"] == "device-down"


def test_following_a_long_journal() -> None:
    """What is old is told over several turns, in order; what happens meanwhile comes after it."""
    world = talk()
    one = next(iter(world.sites.values()))
    assert one.machine.node is not None
    journal = one.machine.node.journal
    for number in range(1000):
        journal.note("device-up", detail=str(number))
    heard: list[Any] = []
    cancel = controller(one.machine).follow(heard.append)
    assert heard == []
    journal.note("device-down")
    world.run(1)
    journal.note("device-up", detail="the last")
    assert heard[-2]["event"] == "device-down"
    assert [row["serial"] for row in heard] == list(range(1, heard[-1]["serial"] + 1))
    cancel()
    early: list[Any] = []
    controller(one.machine).follow(early.append)()
    journal.note("device-down")
    world.run(1)
    assert early == [] and heard[-1]["detail"] == "the last"


def test_the_wall_clock_is_set() -> None:
    """A step of the wall clock is noted, and dates follow it."""
    world = talk()
    one = next(iter(world.sites.values()))
    world.wall += 3600
    world.run(11)
    [stepped] = controller(one.machine).events({"event": "clock-stepped"})
    assert stepped["detail"] == "by +3600 s"
    assert 1_700_003_600 <= stepped["time"] <= 1_700_003_620
