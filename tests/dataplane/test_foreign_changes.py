"""What others do to our devices is put right, or said, within a second, and counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel

from dmevpn.addresses import VTEP, format_address, parse_ip
from dmevpn.config.model import Plan
from dmevpn.dataplane import spoke_mending
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.metrics import Metrics
from dmevpn.removal import remove
from tests.contracts.spoke_dataplane import Recorder, station
from tests.dataplane.site import HUB4, UNDERLAY, Site, spoke_plan
from tests.dataplane.test_provision import PLANES, make_by_hand, shown, texts_of
from tests.dataplane.turns import Turns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

FAR = VTEP(parse_ip("10.0.0.2"), 101)


class Spoke:
    """A data plane with a shortcut, on devices of its own."""

    def __init__(self, site: Site, bridge: str | None = "br1") -> None:
        self.site = site
        self.reactor, self.recorder, self.metrics = Turns(), Recorder(), Metrics()
        self.dataplane = VXLANFDB(self.reactor, self.metrics, spoke_plan(bridge=bridge))
        with site.namespace.entered():
            self.dataplane.start(self.recorder)
        self.dataplane.install(station(1), FAR)
        self.within_a_second("shortcut", self.has_shortcut)

    def within_a_second(self, what: str, check: Callable[[], object]) -> None:
        """Turn until it is so."""
        self.reactor.until(what, check, timeout=1.0)

    def has_shortcut(self) -> bool:
        """Whether frames for the station go straight to its site."""
        device = "vx1-s" if "br1" in self.site.namespace.devices() else "vx1"
        if device not in self.site.namespace.devices():
            return False
        return self.site.entry(device, station(1)) == FAR

    def flood(self) -> set[bytes]:
        """Where frames without an entry go."""
        return self.site.destinations("vx1", "00:00:00:00:00:00")

    def written(self) -> object:
        """All that stands of ours."""
        mac = format_address(station(1))
        rows = self.site.namespace.fdb("vx1-s") + self.site.namespace.fdb("vx1")
        return self.flood(), sorted(str(row) for row in rows if row["mac"] == mac)

    def total(self, name: str) -> float:
        """The value of a counter."""
        return sum(each.value for each in self.metrics.snapshot() if each.name == name)


@pytest.fixture
def spoke(namespace: Site) -> Iterator[Spoke]:
    """A spoke; nothing of it is left afterwards."""
    with namespace.cleared():
        spoke = Spoke(namespace)
        yield spoke
        spoke.dataplane.stop()
        assert spoke.site.namespace.devices() == UNDERLAY
        assert spoke.reactor.getReaders() == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("link del br1", "br1 is gone"),
        ("link del vx1", "vx1 is gone"),
        ("link del vx1-s", "vx1-s is gone"),
        ("link set vx1 nomaster", "vx1 is no port of br1"),
        ("link set br1 name lan", "br1 is called lan now"),
        ("link set vx1 name wan", "vx1 is called wan now"),
        ("link set vx1-s name wan", "vx1-s is called wan now"),
        ("link set vx1 mtu 1400", "vx1 has MTU 1400, the underlay leaves 1500"),
        (
            "link set vx1-s type bridge_slave learning on",
            "vx1-s has other settings as a port of br1",
        ),
        ("link set vx1 type bridge_slave isolated off", "vx1 has other settings as a port of br1"),
    ],
)
def test_put_right(spoke: Spoke, command: str, fault: str) -> None:
    """The device is again what it was, the shortcut is back, and the log has said why."""
    before = {name: shown(spoke.site, name) for name in ("br1", "vx1", "vx1-s")}
    with texts_of() as warnings:
        spoke.site.namespace.ip(*command.split())
        spoke.within_a_second("repair", lambda: spoke.recorder.devices)
        spoke.within_a_second("shortcut", spoke.has_shortcut)
    assert f"vx1: {fault}" in warnings
    assert any(fault in text for text in spoke.recorder.devices)
    for name, row in before.items():
        now = shown(spoke.site, name)
        for field in ("mtu", "ifalias", "master", "inet6_addr_gen_mode"):
            assert now.get(field) == row.get(field)
        settings, wanted = (each["linkinfo"].get("info_slave_data", {}) for each in (now, row))
        for field in ("learning", "isolated", "flood", "mcast_flood", "multicast_router"):
            assert settings.get(field) == wanted.get(field)
        assert "UP" in now["flags"]
    assert spoke.total("dmevpn_device_faults_total") >= 1
    assert spoke.total("dmevpn_device_repairs_total") >= 1
    spoke.reactor.settle()
    assert spoke.recorder.links in ([], ["down", "up"])


def test_bridge_setting_by_its_own_tool(spoke: Spoke) -> None:
    """`bridge link set` tells nobody but those who listen for ports of bridges."""
    spoke.site.namespace.bridge("link", "set", "dev", "vx1", "learning", "on")
    spoke.within_a_second("repair", lambda: spoke.recorder.devices)
    assert shown(spoke.site, "vx1")["linkinfo"]["info_slave_data"]["learning"] is False


def test_fdb_flushed(spoke: Spoke) -> None:
    """Entries that somebody removes all at once are written again."""
    spoke.reactor.settle(0.2)
    spoke.site.namespace.bridge("fdb", "flush", "dev", "vx1-s")
    spoke.within_a_second("shortcut", lambda: spoke.recorder.repaired and spoke.has_shortcut())
    assert spoke.total("dmevpn_fdb_repairs_total") >= 1


@pytest.mark.parametrize("device", ["vx1", "vx1-s", "br1"])
def test_set_down(spoke: Spoke, device: str) -> None:
    """That may be meant: it is said and counted, and goes on when the device is up again."""
    with texts_of() as warnings:
        spoke.site.namespace.ip("link", "set", device, "down")
        spoke.within_a_second("report", lambda: spoke.recorder.links == ["down"])
    assert f"vx1: {device} is down" in warnings
    spoke.reactor.settle(0.5)
    assert "UP" not in shown(spoke.site, device)["flags"]
    assert spoke.total("dmevpn_device_faults_total") == 1
    spoke.site.namespace.ip("link", "set", device, "up")
    spoke.within_a_second("report", lambda: spoke.recorder.links == ["down", "up"])
    spoke.within_a_second("shortcut", spoke.has_shortcut)
    assert spoke.recorder.devices == []


def test_underlay_gets_another_mtu(spoke: Spoke) -> None:
    """The planes follow the device that leads to the hub."""
    try:
        spoke.site.namespace.ip("link", "set", "ul0", "mtu", "1450")
        spoke.within_a_second("MTU", lambda: shown(spoke.site, "vx1-s")["mtu"] == 1400)
        assert shown(spoke.site, "vx1")["mtu"] == 1400
        spoke.within_a_second("report", lambda: spoke.dataplane.mtu == 1400)
        assert spoke.recorder.mtus == [1400]
    finally:
        spoke.site.namespace.ip("link", "set", "ul0", "mtu", "1550")
    spoke.within_a_second("MTU", lambda: shown(spoke.site, "vx1-s")["mtu"] == 1500)


def test_bridge_of_the_operator_is_renamed(namespace: Site) -> None:
    """Its name is not ours to change: the planes stay in it, and the log asks for a decision."""
    with namespace.cleared():
        namespace.namespace.ip("link", "add", "br1", "type", "bridge")
        namespace.namespace.ip("link", "set", "br1", "up")
        spoke = Spoke(namespace)
        namespace.namespace.ip("link", "set", "br1", "name", "lan")
        spoke.within_a_second("report", lambda: spoke.total("dmevpn_device_faults_total") == 1)
        spoke.reactor.settle(0.5)
        assert "br1" not in namespace.namespace.devices()
        assert shown(namespace, "vx1")["master"] == "lan"
        assert spoke.recorder.links == []
        namespace.namespace.ip("link", "set", "lan", "name", "br1")
        spoke.reactor.settle(0.2)
        assert spoke.recorder.links == spoke.recorder.devices == []
        spoke.dataplane.stop()
        assert namespace.namespace.devices() == {*UNDERLAY, "br1"}


def test_planes_of_others(namespace: Site) -> None:
    """They are watched like our own; at the stop they lose our entries and keep their own."""
    with namespace.cleared():
        namespace.namespace.ip("link", "add", "br1", "type", "bridge")
        for name, parameters in PLANES.items():
            make_by_hand(namespace, name, parameters)
            namespace.namespace.ip("link", "set", name, "master", "br1")
        spoke = Spoke(namespace)
        namespace.namespace.ip("link", "set", "vx1", "type", "bridge_slave", "isolated", "off")
        spoke.within_a_second("repair", lambda: spoke.recorder.devices)
        assert spoke.total("dmevpn_device_repairs_total") == 1
        theirs = ("00:00:00:00:00:77", "dev", "vx1-s", "dst", "10.0.0.7", "self")
        namespace.namespace.bridge("fdb", "add", *theirs)
        spoke.dataplane.stop()
        assert namespace.namespace.devices() == {*UNDERLAY, *PLANES, "br1"}
        assert namespace.entry("vx1-s", station(1)) is None
        assert namespace.bridge_port(station(1)) is None
        assert namespace.destinations("vx1-s", theirs[0]) == {parse_ip("10.0.0.7")}
        assert namespace.destinations("vx1", "00:00:00:00:00:00") == {HUB4}


def test_planes_of_others_are_taken_down(namespace: Site) -> None:
    """What an ended daemon left on them goes, and they stay (`--remove`)."""
    with namespace.cleared():
        for name, parameters in PLANES.items():
            make_by_hand(namespace, name, parameters)
        spoke = Spoke(namespace)
        # Killed: nothing is taken back.
        assert spoke.dataplane._active is not None
        spoke.dataplane._close(spoke.dataplane._active)
        spoke.dataplane._active.requests.close()
        spoke.dataplane._active.devices.hand_over()
        assert spoke.has_shortcut()
        with namespace.namespace.entered():
            assert remove(MemoryReactorClock(), Plan(spokes=(spoke_plan(),))) == []
        assert namespace.namespace.devices() == {*UNDERLAY, *PLANES}
        assert namespace.entry("vx1-s", station(1)) is None
        assert namespace.bridge_port(station(1)) is None


@pytest.mark.parametrize("change", ["learning", "dstport 8472", "l2miss"])
def test_replaced_by_another(spoke: Spoke, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of others in the place of ours, in the bridge like ours, is told from it."""
    monkeypatch.setattr(spoke_mending, "RESTORE_RETRY", 0.5)
    ip = spoke.site.namespace.ip
    wanted = {"learning": ("nolearning", "learning"), "dstport 8472": ("dstport 4789", change)}
    ip("link", "del", "vx1")
    parameters = PLANES["vx1"].replace(*wanted.get(change, ("remote", "l2miss remote")))
    make_by_hand(spoke.site, "vx1", parameters)
    ip("link", "set", "vx1", "master", "br1", "up", "mtu", "1500")
    with texts_of(LogLevel.error) as texts:
        spoke.within_a_second("refusal", lambda: texts)
    name = change.split()[0]
    assert f"interface vx1: a device of that name exists and is not ours: {name} is " in texts[0]
    ip("link", "del", "vx1")
    spoke.within_a_second("repair", lambda: spoke.recorder.devices)
    spoke.within_a_second("shortcut", spoke.has_shortcut)


def test_groups_pass_a_bridge_that_snoops(namespace: Site) -> None:
    """Multicast that no local station has asked for goes to the hub, though the bridge of the
    operator snoops and has a querier."""
    with namespace.cleared():
        namespace.namespace.ip(
            *("link", "add", "br1", "type", "bridge", "mcast_snooping", "1"),
            *("mcast_querier", "1", "mcast_query_response_interval", "1"),
        )
        namespace.namespace.ip("link", "set", "br1", "up")
        namespace.add_station("br1")
        spoke = Spoke(namespace)
        # A report of the only member: from then on the bridge knows the group.
        namespace.namespace.ip("link", "set", "vm0", "up")

        def sent() -> int:
            return int(
                namespace.namespace.ip_json("-s", "link", "show", "dev", "vx1")[0]["stats64"]["tx"][
                    "packets"
                ]
            )

        before = sent()
        group = bytes.fromhex("01005e010203")
        namespace.send("vm0", group, station(7), 20)
        spoke.within_a_second("frames by the hub", lambda: sent() >= before + 20)
        assert shown(namespace, "vx1")["linkinfo"]["info_slave_data"]["multicast_router"] == 2
        spoke.dataplane.stop()


SHORTCUT = format_address(station(1))


@pytest.mark.parametrize(
    "command",
    [
        f"fdb replace {SHORTCUT} dev vx1-s dst 10.0.0.66 vni 101 self static extern_learn",
        f"fdb replace {SHORTCUT} dev vx1-s dst 10.0.0.66 vni 101 self static",
        f"fdb replace {SHORTCUT} dev vx1-s dst 10.0.0.2 vni 777 port 4789 self static extern_learn",
        f"fdb replace {SHORTCUT} dev vx1-s dst 10.0.0.2 vni 101 port 9 self static extern_learn",
        f"fdb replace {SHORTCUT} dev vx1-s dst 10.0.0.2 vni 101 port 4789 self static",
        f"fdb del {SHORTCUT} dev vx1-s self",
        f"fdb del {SHORTCUT} dev vx1-s master",
        f"fdb replace {SHORTCUT} dev vx1-s master dynamic",
        f"fdb replace {SHORTCUT} dev vx1-s master permanent",
        f"fdb replace {SHORTCUT} dev vx1 master static",
        f"fdb replace {SHORTCUT} dev vx1 master dynamic",
        "fdb append 00:00:00:00:00:00 dev vx1 dst 10.0.0.66 self",
        "fdb del 00:00:00:00:00:00 dev vx1 dst 10.0.0.254 self",
        "fdb flush dev vx1-s",
    ],
)
def test_table_agrees_within_a_second(spoke: Spoke, command: str) -> None:
    """Whatever somebody does to what we wrote, the kernel has again what we believe, and that was
    counted and reported, within a second, though the tables were read just before."""
    spoke.dataplane.set_flood([HUB4])
    spoke.within_a_second("flood", lambda: spoke.flood() == {HUB4})
    before = spoke.written()
    spoke.reactor.result(spoke.dataplane.idle_times())
    spoke.site.namespace.bridge(*command.split())
    start = time.monotonic()
    spoke.within_a_second("repair", lambda: spoke.recorder.repaired)
    spoke.within_a_second("agreement", lambda: spoke.written() == before)
    took = time.monotonic() - start
    print(f"\nbridge {command}: put right after {1000 * took:.0f} ms")
    assert took < 1.0
    spoke.reactor.settle(0.2)
    assert spoke.total("dmevpn_fdb_repairs_total") == spoke.recorder.repaired == 1
    assert spoke.recorder.failed == spoke.recorder.local == []


def test_operators_entry_in_place_of_ours(spoke: Spoke) -> None:
    """Who removes ours first and then makes his own keeps it, and we say that we gave way."""
    spoke.reactor.settle(0.1)
    spoke.site.namespace.bridge("fdb", "del", SHORTCUT, "dev", "vx1-s", "self")
    spoke.site.namespace.bridge(
        *("fdb", "add", SHORTCUT, "dev", "vx1-s", "dst", "10.0.0.66", "self", "static")
    )
    spoke.within_a_second("refusal", lambda: spoke.recorder.failed)
    spoke.reactor.settle(0.3)
    found = spoke.site.entry("vx1-s", station(1))
    assert found is not None
    assert found.nbma == parse_ip("10.0.0.66")


def test_notifications_lost(namespace: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel had no room for its notifications, the tables agree again within a second."""
    monkeypatch.setattr("dmevpn.dataplane.spoke_notices.CHANGE_BUFFER", 1 << 14)
    many = 1000
    with namespace.cleared():
        spoke = Spoke(namespace)
        for number in range(many):
            spoke.dataplane.install(station(number), FAR)
        last = station(many - 1)
        spoke.reactor.until("last", lambda: namespace.bridge_port(last) == "vx1-s")
        spoke.reactor.result(spoke.dataplane.idle_times())
        start = time.monotonic()
        namespace.namespace.bridge("fdb", "flush", "dev", "vx1-s", "self")
        spoke.within_a_second("repair", lambda: spoke.recorder.repaired >= many)
        spoke.within_a_second("last", lambda: namespace.entry("vx1-s", last) == FAR)
        print(f"\n{many} entries flushed: written again after {time.monotonic() - start:.2f} s")
        assert spoke.total("dmevpn_fdb_changes_lost_total") >= 1
        spoke.dataplane.stop()


def test_another_address(namespace: Site) -> None:
    """A machine that has another address than before is told apart from one that only has more:
    said within a second, and who starts on the devices then is a site there."""
    with namespace.cleared():
        spoke = Spoke(namespace)
        try:
            namespace.namespace.ip("address", "add", "10.0.0.7/24", "dev", "ul0")
            spoke.reactor.settle(0.8)
            assert spoke.recorder.links == []
            namespace.namespace.ip("address", "del", "10.0.0.1/24", "dev", "ul0")
            # Linux takes secondary addresses of the same network along.
            namespace.namespace.ip("address", "replace", "10.0.0.7/24", "dev", "ul0")
            start = time.monotonic()
            spoke.within_a_second("report", lambda: spoke.recorder.links == ["readdressed"])
            print(f"\nreported after {time.monotonic() - start:.2f} s")
            spoke.dataplane.hand_over()
            successor = VXLANFDB(spoke.reactor, spoke.metrics, spoke_plan())
            with namespace.namespace.entered():
                successor.start(spoke.recorder)
            assert successor.local_vtep == VTEP(parse_ip("10.0.0.7"), 100)
            assert shown(namespace, "vx1-s")["linkinfo"]["info_data"]["local"] == "10.0.0.7"
            successor.stop()
        finally:
            namespace.namespace.run("ip", "address", "flush", "dev", "ul0", "scope", "global")
            namespace.namespace.ip("address", "add", "10.0.0.1/24", "dev", "ul0")
            namespace.namespace.ip("address", "add", "fd00::1/64", "dev", "ul0", "nodad")
