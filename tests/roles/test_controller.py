"""What operators see: rows of plain values from running nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed
from zope.interface.verify import verifyObject

from dmevpn.errors import CommandError
from dmevpn.interfaces import IController
from dmevpn.nhrp.cache import Kind
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from dmevpn.roles.node import Node
from dmevpn.roles.withdrawal import withdrawing
from tests.schemas import CheckedController
from tests.world import Machine, Site, World, mac

A, B, UNKNOWN = mac(1), mac(2), mac(9)


class Talk:
    """Two sites whose stations have spoken, and a controller for each node."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World()
        self.world.start_hub()
        self.one: Site = self.world.add_site("10.0.0.2", 100)
        self.two: Site = self.world.add_site("10.0.0.3", 101)
        self.world.run(1)
        self.world.exchange(self.one, A, self.two, B)
        self.hub = self.controller(self.world.hub)
        self.spoke = self.controller(self.one.machine)

    def controller(self, machine: Machine) -> Controller:
        """The admin's view of a machine's node."""
        node: Node | None = machine.node
        assert node is not None
        config = ConfigFile(str(self.path))
        return CheckedController(node, config, lambda: succeed({"ok": True, "messages": []}))

    def done(self, doing: Any) -> Any:
        """What something came to that takes some turns."""
        self.world.run(0.5)
        return result(doing)


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    """The controllers of a hub and a spoke."""
    path = tmp_path / "spoke.conf"
    path.write_text("interface nhrp\n    cisco-authentication geheim\n    no-such-word\n")
    return Talk(path)


def result(deferred: Any) -> Any:
    """What a Deferred has fired with."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "it has not fired"
    return found[0]


def test_interface(talk: Talk) -> None:
    """The admin layer gets what it was promised."""
    assert verifyObject(IController, talk.hub)


def test_cache_of_a_spoke(talk: Talk) -> None:
    """A shortcut is shown with where it goes, how long it lives, and that it is up."""
    [row] = talk.spoke.bindings({})
    assert row == {
        "vpn": 1,
        "protocol": "02:00:00:00:00:02",
        "type": "cached",
        "nbma": "10.0.0.3",
        "vni": 101,
        "expires_in": row["expires_in"],
        "flags": row["flags"],
        "interface": "vx1",
    }
    assert 290 < row["expires_in"] <= 300
    assert "up" in row["flags"]


def test_cache_of_a_hub(talk: Talk) -> None:
    """Registered and learned bindings stand together, told apart by their type."""
    rows = list(talk.hub.bindings({}))
    assert sorted(row["type"] for row in rows) == ["dynamic", "dynamic", "learned", "learned"]
    [row] = talk.hub.bindings({"mac": A})
    assert (row["nbma"], row["vni"], row["type"]) == ("10.0.0.2", 100, "learned")
    assert all(row["flags"] == ["unique"] for row in talk.hub.bindings({"type": "dynamic"}))


@pytest.mark.parametrize(
    ("match", "count"),
    [
        ({}, 4),
        ({"vpn": 1}, 4),
        ({"vpn": 2}, 0),
        ({"nbma": b"\x0a\0\0\2"}, 2),
        ({"vni": 101}, 2),
        ({"interface": "vx0"}, 4),
        ({"type": "learned", "vni": 100}, 1),
    ],
)
def test_filters(talk: Talk, match: dict[str, Any], count: int) -> None:
    """Every filter narrows, together they narrow further."""
    assert len(list(talk.hub.bindings(match))) == count


def test_members_and_registrations(talk: Talk) -> None:
    """Both ends of a registration agree."""
    [row] = talk.hub.members({"vni": 100})
    [registration] = talk.spoke.registrations({})
    assert registration["state"] == "registered"
    assert registration["nhs"] == "10.0.0.1"
    assert registration["last_error"] is None
    assert abs(row["expires_in"] - registration["expires_in"]) <= 1
    assert row["rx_packets"] >= 1 and row["flooded"] == 1


def test_shortcuts(talk: Talk) -> None:
    """The hub knows who was told what, each spoke what it uses, until it is withdrawn."""
    there = {"vpn": 1, "nbma": "10.0.0.2", "vni": 100, "protocol": "02:00:00:00:00:02"}
    there |= {"peer_nbma": "10.0.0.3", "peer_vni": 101}
    [own] = talk.spoke.shortcuts({})
    assert own == there | {"expires_in": own["expires_in"]}
    rows = list(talk.hub.shortcuts({}))
    assert len(rows) == 2
    [row] = talk.hub.shortcuts({"vni": 100})
    assert row == there | {"expires_in": row["expires_in"]}
    assert abs(own["expires_in"] - row["expires_in"]) <= 1
    talk.done(talk.hub.purge({"mac": A}))
    talk.world.run(1)
    assert B not in [row["protocol"] for row in talk.hub.shortcuts({"nbma": b"\x0a\0\0\3"})]
    assert list(talk.hub.shortcuts({"vpn": 2})) == []


def test_refused_rows_give_others_their_turn(talk: Talk) -> None:
    """A filter that refuses nearly everything does not keep the reactor until it has found."""
    for number in range(1000):
        talk.world.speak(talk.two, b"\x02\0\0\1" + number.to_bytes(2, "big"))
    rows = list(talk.hub.bindings({"mac": A}))
    assert [row["protocol"] for row in rows if row] == ["02:00:00:00:00:01"]
    assert rows.count({}) >= 5


def test_a_spoke_with_many_shortcuts_gives_others_their_turn(talk: Talk) -> None:
    """So does a spoke: when it lists, when it forgets, and when it looks for what is wrong."""
    node = talk.one.machine.node
    assert node is not None
    cache = node.spokes["vx1"].cache
    [known] = [each for each in cache.bindings() if each.kind is Kind.CACHED]
    for number in range(1000):
        cache.put(replace(known, protocol=b"\x02\0\0\1" + number.to_bytes(2, "big")))
    rows = list(talk.spoke.bindings({}))
    assert rows.count({}) >= 10 and sum(bool(row) for row in rows) == 1001
    steps = list(withdrawing(node, {"vni": 999}, Kind.LEARNED, "flushed"))
    assert steps.count(None) >= 10 and not any(steps)
    assert talk.done(talk.spoke.doctor()) == []
    steps = list(withdrawing(node, {}, Kind.LEARNED, "flushed"))
    assert steps.count(True) == 1001 and steps.count(None) >= 1001


def test_fdb(talk: Talk) -> None:
    """A spoke shows its kernel's entries, a hub its switch's."""
    reading = talk.spoke.fdb({})
    talk.world.run(0.1)
    rows = {row["mac"]: row for row in result(reading)}
    assert rows["02:00:00:00:00:02"]["state"] == "shortcut"
    assert rows["02:00:00:00:00:02"]["used_ago"] is not None
    rows = {row["mac"]: row for row in result(talk.hub.fdb({}))}
    assert {row["state"] for row in rows.values()} == {"learned"}


def test_vpns_and_interfaces(talk: Talk) -> None:
    """An overview of what runs here."""
    [row] = talk.hub.vpns({})
    assert row == {
        "vpn": 1,
        "roles": ["hub"],
        "members": 2,
        "macs": 2,
        "shortcuts": 0,
        "pending": 0,
    }
    [row] = talk.spoke.vpns({})
    assert (row["roles"], row["shortcuts"]) == (["spoke"], 1)
    assert [(r["interface"], r["role"]) for r in talk.spoke.interfaces({})] == [
        ("nhrp", "control"),
        ("vx1", "spoke"),
    ]
    assert [r["vpns"] for r in talk.hub.interfaces({"role": "hub"})] == ["1"]


def test_flush_of_a_shortcut(talk: Talk) -> None:
    """The shortcut is gone, and comes back with the next frames."""
    assert talk.done(talk.spoke.flush({"mac": B})) == 1
    talk.world.run(0.1)
    assert talk.world.path(talk.one, B) == talk.world.hub.address
    talk.world.exchange(talk.one, A, talk.two, B)
    assert talk.world.path(talk.one, B) == talk.two.vtep


def test_what_changes_during_a_purge(talk: Talk) -> None:
    """What is there at the beginning goes, even if it is renewed meanwhile; what comes later stays,
    and others get their turns."""
    node = talk.world.hub.node
    assert node is not None
    cache = node.hubs["vx0"].vpns[1].cache
    [first] = [each for each in cache.bindings() if each.vtep == talk.one.vtep]
    for number in range(2, 500):
        station = b"\x02\0\0\1" + number.to_bytes(2, "big")
        cache.put(replace(first, protocol=station, unique=False))
    later = replace(first, protocol=b"\x02\0\0\2\0\1", unique=False)
    renewed = replace(first, protocol=b"\x02\0\0\1\0\x09", unique=False)
    steps = withdrawing(node, {"type": "dynamic"}, Kind.DYNAMIC, "purged")
    removed = int(next(steps) or 0)
    cache.put(later)
    cache.put(renewed)
    turns = 0
    for each in steps:
        removed += each or 0
        turns += each is None
    assert removed == 500 and turns >= 500
    assert [each.protocol for each in cache.bindings()] == [later.protocol]


def test_flush_at_a_hub(talk: Talk) -> None:
    """What the switch has learned goes, with every answer about it; registrations stay."""
    assert talk.done(talk.hub.flush({"mac": B})) == 1
    talk.world.run(0.5)
    assert talk.world.switch.find(1, B) is None
    assert talk.world.path(talk.one, B) == talk.world.hub.address
    assert len(list(talk.hub.members({}))) == 2


def test_purge_at_a_hub(talk: Talk) -> None:
    """A registration can be ended; the site is no member until it registers again."""
    assert talk.done(talk.hub.purge({"type": "dynamic", "vni": 101})) == 1
    talk.world.run(0.5)
    assert set(talk.world.switch.members) == {talk.one.vtep}
    assert talk.world.path(talk.one, B) == talk.world.hub.address
    assert talk.controller(talk.two.machine).renew({}) == 1
    talk.world.run(0.5)
    assert set(talk.world.switch.members) == {talk.one.vtep, talk.two.vtep}


def test_resolve(talk: Talk) -> None:
    """Asking by hand makes the shortcut before the first frame wants it."""
    talk.done(talk.spoke.flush({}))
    answer = talk.spoke.resolve({"mac": B})
    talk.world.run(0.5)
    assert result(answer)["nbma"] == "10.0.0.3"
    assert talk.world.path(talk.one, B) == talk.two.vtep
    again = talk.spoke.resolve({"mac": B, "vpn": 1})
    talk.world.run(0.5)
    assert result(again)["vni"] == 101


def test_resolve_in_vain(talk: Talk) -> None:
    """The reason is told: unknown to the hub, no spoke here, nobody to ask."""
    answer = talk.spoke.resolve({"mac": UNKNOWN})
    talk.world.run(0.5)
    result(answer).trap(CommandError)
    with pytest.raises(CommandError, match="no spoke"):
        talk.hub.resolve({"mac": B})
    with pytest.raises(CommandError, match="no spoke"):
        talk.spoke.resolve({"mac": B, "vpn": 2})
    node = talk.one.machine.node
    assert node is not None
    for client in node.spokes["vx1"].registrations:
        client.stop()
    talk.done(talk.spoke.flush({}))
    with pytest.raises(CommandError, match="no hub can be asked"):
        talk.spoke.resolve({"mac": B})


def test_watching(talk: Talk) -> None:
    """Every change is told as it happens, at a spoke and at a hub, until it is ended."""
    at_spoke: list[dict[str, Any]] = []
    at_hub: list[dict[str, Any]] = []
    cancel = talk.spoke.subscribe(at_spoke.append)
    talk.hub.subscribe(at_hub.append)
    talk.done(talk.spoke.flush({"mac": B}))
    talk.world.exchange(talk.one, A, talk.two, B)
    assert [event["event"] for event in at_spoke] == ["flushed", "added", "changed"]
    assert at_spoke[-1]["type"] == "cached"
    talk.world.speak(talk.two, A)
    talk.world.run(0.2)
    assert at_hub[-1] == {
        "event": "moved",
        "vpn": 1,
        "protocol": "02:00:00:00:00:01",
        "type": "learned",
        "nbma": "10.0.0.3",
        "vni": 101,
        "expires_in": 300,
        "flags": [],
        "interface": "vx0",
    }
    seen = len(at_spoke)
    cancel()
    talk.done(talk.spoke.flush({}))
    assert len(at_spoke) == seen


def test_a_watcher_that_fails_harms_nobody(talk: Talk, logged_failures: list[Any]) -> None:
    """Others still hear, and the daemon goes on."""
    heard: list[dict[str, Any]] = []

    def broken(event: dict[str, Any]) -> None:
        raise ValueError("broken watcher")

    talk.spoke.subscribe(broken)
    talk.spoke.subscribe(heard.append)
    assert talk.done(talk.spoke.flush({})) == 1
    assert len(heard) == 1
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_metrics(talk: Talk) -> None:
    """Counters of the daemon and of the switch stand in one table."""
    names = {row["name"] for row in talk.hub.metrics()}
    assert "dmevpn_packets_total" in names
    talk.world.switch.receive(talk.one.vtep._replace(vni=999), b"\xff" * 6 + A)
    talk.world.exchange(talk.one, A, talk.two, B)
    carried = {
        row["labels"]["plane"]: row["value"]
        for row in talk.spoke.metrics()
        if row["name"] == "dmevpn_plane_tx_packets_total"
    }
    assert carried["hub"] > 0 and carried["shortcut"] > 0
    rows = [row for row in talk.hub.metrics() if row["name"] == "dmevpn_switch_drops_total"]
    assert any(row["labels"]["reason"] == "unregistered" and row["value"] == 1 for row in rows)


def test_what_a_reload_would_do(talk: Talk, tmp_path: Path) -> None:
    """Each part that would be touched has a row; a file with errors has none."""
    with pytest.raises(CommandError, match=r"spoke\.conf:3: unknown word near 'no-such-word'"):
        talk.spoke.config_diff(None)
    many = tmp_path / "many.conf"
    many.write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(CommandError, match=r"many\.conf:3: .*; and 2 more$"):
        talk.spoke.config_diff(str(many))
    other = tmp_path / "other.conf"
    other.write_text(
        "log-format json interface nhrp holding-time 600 protocol-address 1.0.0.1/24\n"
        "interface vx0 controller nhrp vpn-id 1-3 vpn-id 7 l2learnonly provision\n"
    )
    rows = {(row["role"], row["interface"]): row for row in talk.hub.config_diff(str(other))}
    assert rows[("control", "nhrp")] == {
        "change": "change",
        "role": "control",
        "interface": "nhrp",
        "vpns": None,
        "keywords": ["holding-time"],
    }
    hub, layer3 = rows[("hub", "vx0")], rows[("layer3", "nhrp")]
    assert (hub["change"], hub["vpns"]) == ("restart", "1-3,7")
    assert hub["keywords"] == ["vpn-id", "provision"]
    assert (layer3["change"], layer3["vpns"]) == ("start", None)
    assert rows[("daemon", None)]["change"] == "wait"
    assert "log-format" in [
        row["keywords"][0] for row in talk.hub.config_diff(str(other)) if row["change"] == "wait"
    ]
    stopped = [row["role"] for row in talk.spoke.config_diff(str(other)) if row["change"] == "stop"]
    assert stopped == ["spoke"]


def test_configuration(talk: Talk, tmp_path: Path) -> None:
    """The file can be shown without its secrets, and checked, this one or another."""
    assert "geheim" not in talk.spoke.config_show()
    assert "cisco-authentication ***" in talk.spoke.config_show()
    report = talk.spoke.config_check(None)
    assert not report["ok"]
    assert report["messages"] == [f"{talk.path}:3: unknown word near 'no-such-word'"]
    assert not talk.spoke.config_check(str(tmp_path / "absent"))["ok"]
    assert result(talk.spoke.reload())["ok"]
