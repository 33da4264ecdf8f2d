"""The spoke's data plane on the kernel: the contract in each layout, and what a kernel adds."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.logger import LogLevel

from dmevpn.addresses import VTEP, format_address, parse_ip
from dmevpn.dataplane import spoke_drift, spoke_reading
from dmevpn.dataplane.neighbours import flood_append, parse_entries
from dmevpn.dataplane.netlink import Message
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.dataplane.spoke_flood import FLOOD_RETRY
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import Finding
from dmevpn.metrics import Metrics
from lab.wait import eventually
from tests.contracts.spoke_dataplane import (
    HomecomingContract,
    Recorder,
    SpokeDataplaneContract,
    station,
)
from tests.dataplane.site import HUB4, HUB6, Site, spoke_plan
from tests.dataplane.test_netlink import message
from tests.dataplane.test_provision import texts_of
from tests.dataplane.turns import Turns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

IPV4_VTEPS = (VTEP(parse_ip("10.0.0.2"), 101), VTEP(parse_ip("10.0.0.3"), 102))
IPV6_VTEPS = (VTEP(parse_ip("fd00::2"), 101), VTEP(parse_ip("fd00::3"), 102))


class KernelContract(SpokeDataplaneContract):
    """The contract on a namespace, with real sockets and a reactor that is turned by hand."""

    hub, other_hub = HUB4, parse_ip("10.0.0.253")
    near_family = IPV4_VTEPS
    far_family = IPV6_VTEPS[0]
    device = "vx1-s"
    flood = ("vx1", "00:00:00:00:00:00")
    untouched = True
    """Whether nobody but us has changed entries."""

    @pytest.fixture(autouse=True)
    def _site(self, site: Site) -> Iterator[None]:
        self.site = site
        self.reactor = Turns()
        self.prepare()
        yield
        assert self.reactor.getReaders() == []
        assert self.reactor.getDelayedCalls() == []

    def prepare(self) -> None:
        """Make what an operator has made beforehand: a bridge with a station."""
        self.site.namespace.ip("link", "add", "br1", "type", "bridge", "mcast_snooping", "0")
        self.site.namespace.ip("link", "set", "br1", "up")
        self.site.add_station("br1")

    def plan(self) -> Any:
        return spoke_plan(self.hub)

    def make(self, metrics: Metrics) -> Any:
        return VXLANFDB(self.reactor, metrics, self.plan())

    def start(self, dataplane: Any, listener: Any) -> None:
        with self.site.namespace.entered():
            dataplane.start(listener)

    def kill(self, dataplane: Any) -> None:
        run = dataplane._active
        dataplane._active = None
        dataplane._close(run)
        run.devices._close()
        run.requests.close()

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        return self.reactor.until(what, check)

    def settle(self) -> None:
        self.reactor.settle()

    def frame(self, mac: bytes) -> None:
        self.site.send("vm0", mac, station(0xFFFF))

    def speak(self, mac: bytes) -> None:
        self.site.send("vm0", b"\xff" * 6, mac)
        self.reactor.until("learning", lambda: self.site.bridge_port(mac) == "port0")

    def shown(self, mac: bytes) -> VTEP | str | None:
        vtep = self.site.entry(self.device, mac)
        port = self.site.bridge_port(mac)
        bridged = port == self.device
        if port == "vx1":
            return "half-way"
        if vtep is None:
            assert not (bridged and self.untouched), "the bridge sends frames to nowhere"
            return None
        if not any(vtep.nbma):
            assert not bridged, "the bridge sends frames into a black hole"
            return "hold"
        return "doubled" if port is None else vtep

    def shown_flood(self) -> set[bytes]:
        if self.flood[0] not in self.site.namespace.devices():
            return set()
        return self.site.destinations(*self.flood)

    def operator_adds(self, mac: bytes, vtep: VTEP) -> None:
        text, dst = format_address(mac), format_address(vtep.nbma)
        self.site.namespace.bridge(
            *("fdb", "add", text, "dev", self.device, "dst", dst, "vni", str(vtep.vni)),
            *("self", "static"),
        )

    def remove_entry(self, mac: bytes) -> None:
        self.untouched = False
        self.site.namespace.bridge("fdb", "del", format_address(mac), "dev", self.device, "self")

    def edit_entry(self, mac: bytes, vtep: VTEP, marked: bool) -> None:
        text, dst = format_address(mac), format_address(vtep.nbma)
        self.site.namespace.bridge(
            *("fdb", "replace", text, "dev", self.device, "dst", dst, "vni", str(vtep.vni)),
            *("self", "static", *(["extern_learn"] if marked else [])),
        )

    def set_link(self, up: bool) -> None:
        self.site.namespace.ip("link", "set", "vx1", "up" if up else "down")


class TwoPlanes(KernelContract, HomecomingContract):
    """Both planes."""

    def operator_adds(self, mac: bytes, vtep: VTEP) -> None:
        super().operator_adds(mac, vtep)
        self.site.namespace.bridge(
            "fdb", "add", format_address(mac), "dev", self.device, "master", "static"
        )

    def shown(self, mac: bytes) -> VTEP | str | None:
        return super().shown(mac) if self.device in self.site.namespace.devices() else None

    def test_operators_entry(self, metrics: Metrics) -> None:
        """There are no operators' entries on a plane that is ours."""

    def test_everything_is_gone(self, metrics: Metrics) -> None:
        """A clean stop removes what we made and leaves the operator's bridge."""
        before = self.site.namespace.devices()
        dataplane, _ = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.settle()
        assert self.site.namespace.devices() - before == {"vx1", "vx1-s"}
        dataplane.stop()
        assert self.site.namespace.devices() == before
        assert self.site.bridge_port(station(1)) is None

    def test_every_entry_names_the_port_on_the_wire(self, metrics: Metrics) -> None:
        """The shortcut plane has a port of its own; the wire sees the configured one only."""
        dataplane, _ = self.run(metrics)
        dataplane.hold(station(1))
        dataplane.install(station(2), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(2)) == self.near_family[0])
        rows = [row for row in self.site.namespace.fdb("vx1-s") if "dst" in row]
        assert [row["port"] for row in rows] == [4789, 4789]
        assert all("extern_learn" in row["flags"] for row in rows)
        dataplane.stop()

    def test_devices_removed_by_somebody(self, metrics: Metrics) -> None:
        """Planes that somebody deletes are reported, made again and filled again."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.site.namespace.ip("link", "del", "vx1-s")
        self.until("report", lambda: recorder.links == ["down"])
        dataplane.hold(station(2))
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.until("hold", lambda: self.shown(station(2)) == "hold")
        self.site.namespace.ip("link", "del", "vx1")
        self.until("second report", lambda: recorder.links == ["down", "up"] * 2)
        self.until("flood entry", lambda: self.shown_flood() == {self.hub})
        self.frame(station(3))
        self.until("miss", lambda: recorder.missed == [station(3)])
        dataplane.stop()

    def test_name_taken_meanwhile(self, metrics: Metrics) -> None:
        """A plane whose name somebody else took is made again once the name is free."""
        dataplane, recorder = self.run(metrics)
        self.site.namespace.ip("link", "del", "vx1-s")
        self.site.namespace.ip("link", "add", "vx1-s", "type", "bridge")
        self.until("report", lambda: recorder.links == ["down"])
        dataplane.install(station(1), self.near_family[0])
        self.reactor.advance(1)
        assert recorder.links == ["down"]
        self.site.namespace.ip("link", "del", "vx1-s")
        self.reactor.advance(5)
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        dataplane.stop()

    def test_planes_taken_out_of_the_bridge(self, metrics: Metrics) -> None:
        """Planes that somebody takes out of the bridge are put back, and entries with them."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.site.namespace.ip("link", "set", "vx1-s", "nomaster")
        self.until("report", lambda: recorder.links == ["down"])
        self.reactor.advance(1)
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        assert recorder.failed == []
        dataplane.stop()

    def test_stopped_while_devices_are_gone(self, metrics: Metrics) -> None:
        """A stop finds what is left, and removes that."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.site.namespace.ip("link", "del", "vx1")
        ages = dataplane.idle_times()
        self.until("report", lambda: recorder.links == ["down"])
        assert self.reactor.result(ages) == {}
        dataplane.stop()
        assert not {"vx1", "vx1-s"} & self.site.namespace.devices()

    def test_bridge_entry_removed_by_somebody(self, metrics: Metrics) -> None:
        """The half of a shortcut that the bridge has is put back as well."""
        dataplane, _ = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        text = format_address(station(1))
        self.site.namespace.bridge("fdb", "del", text, "dev", "vx1-s", "master")
        assert self.site.bridge_port(station(1)) is None
        self.until("repair", lambda: self.shown(station(1)) == self.near_family[0])
        assert self.total(metrics, "fdb_repairs") == 1
        dataplane.stop()

    def test_flood_entry_removed_by_somebody(self, metrics: Metrics) -> None:
        """The default entry is put back."""
        dataplane, _ = self.run(metrics)
        dst = format_address(self.hub)
        self.site.namespace.bridge("fdb", "del", "00:00:00:00:00:00", "dev", "vx1", "dst", dst)
        self.until("repair", lambda: self.shown_flood() == {self.hub})
        dataplane.stop()

    def test_flood_entry_refused(self, metrics: Metrics) -> None:
        """The way there is stays as long as the kernel refuses another, which it is asked for
        again; that is said once, and what is shown is what there is."""
        dataplane, _ = self.run(metrics)
        run = dataplane._active
        layout, send = run.table.layout, run.requests.batch
        append, bad = (
            flood_append(layout.flood_device, layout.flood_mac, nbma)
            for nbma in (self.other_hub, b"bad")
        )
        sent: list[list[Message]] = []

        def batch(messages: list[Message]) -> Any:
            if append in messages:
                sent.append(messages)
            return send([bad if each == append else each for each in messages])

        run.requests.batch = batch
        with texts_of(LogLevel.error) as said:
            dataplane.set_flood([self.other_hub])
            for count in (1, 2, 3):
                self.until("refusal", lambda n=count: self.total(metrics, "fdb_refused") == n)
                assert self.shown_flood() == {self.hub}
                assert [entry.vtep.nbma for entry in dataplane.entries()] == [self.hub]
                self.reactor.advance(FLOOD_RETRY)
            assert sent[1:] == [[append]] * (len(sent) - 1), "the way of before was touched"
            run.requests.batch = send
            self.reactor.advance(FLOOD_RETRY)
            self.until("other hub", lambda: self.shown_flood() == {self.other_hub})
        (line,) = said
        assert line.startswith(f"cannot flood to {format_address(self.other_hub)}: flood entry: ")
        dataplane.stop()

    def bridge_fdb(self, verb: str, mac: bytes, device: str, *options: str) -> None:
        """Write an entry of the bridge by hand."""
        text = format_address(mac)
        self.site.namespace.bridge("fdb", verb, text, "dev", device, "master", *options)

    def interpose(self, dataplane: Any, *occasions: Callable[[], None] | None) -> None:
        """Have something happen after each of the sends that follow."""
        send = dataplane._active.requests.batch
        pending = list(occasions)

        def batch(messages: Any) -> Any:
            failed = send(messages)
            if messages and pending:
                occasion = pending.pop(0)
                if occasion is not None:
                    occasion()
            return failed

        dataplane._active.requests.batch = batch

    def come_home(self, mac: bytes) -> None:
        """A station sends a frame at this site, and we have not heard of it yet."""
        self.site.send("vm0", b"\xff" * 6, mac)
        eventually("move", lambda: self.site.bridge_port(mac) == "port0")

    def held(self, dataplane: Any, mac: bytes) -> None:
        """Hold a station."""
        dataplane.hold(mac)
        self.until("hold", lambda: self.shown(mac) == "hold")

    def installed(self, dataplane: Any, mac: bytes) -> None:
        """Install a shortcut."""
        dataplane.install(mac, self.near_family[0])
        self.until("shortcut", lambda: self.shown(mac) == self.near_family[0])

    def at_home(self, mac: bytes) -> None:
        """Nothing is left of ours, and the bridge learns the station like any other."""
        self.until("withdrawal", lambda: self.shown(mac) is None)
        self.until("removal", lambda: self.site.bridge_port(mac) is None)
        self.speak(mac)
        (row,) = [
            row
            for row in self.site.namespace.fdb("port0")
            if row["mac"] == format_address(mac) and "master" in row
        ]
        assert row["state"] == ""

    def test_left_half_way(self, metrics: Metrics) -> None:
        """A daemon killed between two steps leaves its successor nothing that it cannot undo."""
        killed, _ = self.run(metrics)
        for number in (1, 2):
            killed.hold(station(number))
        for number in (3, 4):
            self.installed(killed, station(number))
        self.kill(killed)
        # Between the steps of an installation, and of one or a withdrawal.
        self.bridge_fdb("add", station(2), "vx1", "static")
        self.bridge_fdb("replace", station(3), "vx1", "static")
        # What we do not do: black holes, with and without an entry; a frame that goes both ways.
        self.bridge_fdb("add", station(1), "vx1-s", "static")
        self.bridge_fdb("del", station(4), "vx1-s")
        self.bridge_fdb("add", station(5), "vx1-s", "static")
        # An operator's, that nothing of ours belongs to.
        self.bridge_fdb("add", station(6), "vx1", "static")
        dataplane, _ = self.make(metrics), Recorder()
        self.start(dataplane, Recorder())
        assert sorted(dataplane.adopted(), key=str) == sorted(
            [
                *((station(number), None) for number in (1, 2, 3)),
                (station(4), self.near_family[0]),
            ],
            key=str,
        )
        taken = [station(number) for number in (1, 2, 3)]
        self.until("removal", lambda: not any(map(self.site.bridge_port, taken)))
        assert [self.shown(mac) for mac in taken] == ["hold"] * 3
        self.until("shortcut", lambda: self.shown(station(4)) == self.near_family[0])
        self.until("removal", lambda: self.site.bridge_port(station(5)) is None)
        assert self.site.bridge_port(station(6)) == "vx1"
        dataplane.stop()

    def test_operator_sends_a_station_by_the_hub(self, metrics: Metrics) -> None:
        """A static entry behind the hub plane wins over an answer, and nobody repairs it."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.held(dataplane, mac)
        self.bridge_fdb("add", mac, "vx1", "static")
        self.reactor.result(dataplane.idle_times())
        dataplane.install(mac, self.near_family[0])
        self.until("refusal", lambda: recorder.failed)
        ((failed, error),) = recorder.failed
        assert failed == mac
        assert isinstance(error, DataplaneError)
        assert error.errno == errno.EEXIST
        dataplane.withdraw(mac)
        self.until("withdrawal", lambda: self.site.entry("vx1-s", mac) is None)
        assert self.site.bridge_port(mac) == "vx1"
        assert recorder.local == []
        assert self.total(metrics, "fdb_repairs") == 0
        dataplane.stop()

    @pytest.mark.parametrize("sends", [1, 2])
    def test_station_comes_home_during_the_installation(self, metrics: Metrics, sends: int) -> None:
        """A shortcut that took a station from its port between two steps is given up at once."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.held(dataplane, mac)
        self.interpose(dataplane, *[None] * (sends - 1), lambda: self.come_home(mac))
        dataplane.install(mac, self.near_family[0])
        self.until("report", lambda: recorder.local == [mac])
        self.at_home(mac)
        assert recorder.failed == []
        dataplane.stop()

    @pytest.mark.parametrize("sends", [0, 1, 2, 3])
    def test_station_comes_home_during_the_withdrawal(self, metrics: Metrics, sends: int) -> None:
        """Whenever a station is heard at this site, its entry is learnt anew in the end."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.installed(dataplane, mac)
        if sends:
            self.interpose(dataplane, *[None] * (sends - 1), lambda: self.come_home(mac))
        else:
            self.come_home(mac)
        dataplane.withdraw(mac)
        self.until("withdrawal", lambda: self.shown(mac) is None)
        self.until("end", lambda: not dataplane._active.table._believed)
        if sends == 3:  # The bridge had forgotten it.
            self.settle()
            assert self.site.bridge_port(mac) == "port0"
        else:
            assert recorder.local == [mac]
            self.at_home(mac)
        assert self.total(metrics, "fdb_refused") == 0
        dataplane.stop()

    def test_plane_entry_refused(self, metrics: Metrics) -> None:
        """If the second step of an installation fails, the first is undone; frames go on."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.held(dataplane, mac)
        requests = dataplane._active.requests
        send = requests.batch

        def refuse(messages: Any) -> Any:
            entries = [entry for m in messages for entry in parse_entries(message(m.type, m.body))]
            if any(any(entry.nbma) for entry in entries):
                assert self.site.bridge_port(mac) == "vx1"
                return [(index, errno.ENOMEM) for index in range(len(messages))]
            return send(messages)

        requests.batch = refuse
        dataplane.install(mac, self.near_family[0])
        self.until("refusal", lambda: recorder.failed)
        ((failed, error),) = recorder.failed
        assert failed == mac
        assert isinstance(error, DataplaneError)
        assert error.errno == errno.ENOMEM
        self.until("hold", lambda: self.shown(mac) == "hold")
        assert self.total(metrics, "fdb_refused") == 1
        dataplane.stop()

    def test_entries_removed_between_the_steps(self, metrics: Metrics) -> None:
        """Somebody who empties the tables during a change does not keep it from its end."""
        dataplane, recorder = self.run(metrics)
        mac, other = station(1), station(2)
        self.held(dataplane, mac)
        self.interpose(dataplane, None, lambda: self.bridge_fdb("del", mac, "vx1"))
        dataplane.install(mac, self.near_family[0])
        self.until("shortcut", lambda: self.shown(mac) == self.near_family[0])
        self.installed(dataplane, other)
        self.interpose(dataplane, lambda: self.bridge_fdb("del", other, "vx1"))
        dataplane.withdraw(other)
        self.until("withdrawal", lambda: self.shown(other) is None)
        dataplane.withdraw(mac)
        self.until("half-way", lambda: self.shown(mac) == "half-way")
        self.untouched = False
        self.remove_entry(mac)
        ages = dataplane.idle_times()
        self.until("withdrawal", lambda: self.shown(mac) is None)
        assert self.reactor.result(ages) == {}
        self.frame(mac)
        self.until("miss", lambda: recorder.missed == [mac])
        assert recorder.failed == []
        assert recorder.local == []
        dataplane.stop()

    def test_answer_during_the_withdrawal(self, metrics: Metrics) -> None:
        """A shortcut that is wanted again while its last frames drain is there at once."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.installed(dataplane, mac)
        dataplane.withdraw(mac)
        self.until("half-way", lambda: self.shown(mac) == "half-way")
        dataplane.hold(mac)
        self.reactor.turn()
        self.reactor.result(dataplane.idle_times())
        assert self.total(metrics, "fdb_repairs") == 0
        dataplane.install(mac, self.near_family[1])
        self.until("shortcut", lambda: self.shown(mac) == self.near_family[1])
        self.settle()
        assert self.shown(mac) == self.near_family[1]
        assert recorder.missed == recorder.local == []
        assert recorder.failed == []
        dataplane.stop()

    def test_shortcut_plane_removed_during_a_withdrawal(self, metrics: Metrics) -> None:
        """What the bridge has behind the hub plane does not stay when our mark is gone."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        self.installed(dataplane, mac)
        dataplane.withdraw(mac)
        self.until("half-way", lambda: self.shown(mac) == "half-way")
        self.site.namespace.ip("link", "del", "vx1-s")
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("removal", lambda: self.site.bridge_port(mac) is None)
        dataplane.stop()

    def test_station_moves_while_it_is_asked_for(self, metrics: Metrics) -> None:
        """What the bridge has learnt at a local port beats the answer, and is still learnt."""
        dataplane, recorder = self.run(metrics)
        dataplane.hold(station(1))
        self.until("hold", lambda: self.shown(station(1)) == "hold")
        self.speak(station(1))
        dataplane.install(station(1), self.near_family[0])
        self.until("report", lambda: recorder.local == [station(1)])
        assert self.site.bridge_port(station(1)) == "port0"
        assert self.total(metrics, "fdb_refused") == 1
        dataplane.stop()

    def test_home_coming_is_learnt_anew(self, metrics: Metrics) -> None:
        """The bridge's entry of a station that came home ages like that of any local one."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.site.send("vm0", b"\xff" * 6, station(1))
        self.until("report", lambda: recorder.local == [station(1)])
        self.until("removal", lambda: self.site.bridge_port(station(1)) is None)
        self.speak(station(1))
        rows = self.site.namespace.fdb("port0")
        (row,) = [row for row in rows if row["mac"] == format_address(station(1))]
        assert row["state"] == ""
        dataplane.stop()

    def test_flood_of_misses(self, metrics: Metrics) -> None:
        """Thousands of frames to one MAC are one question; the entry ends the reports."""
        dataplane, recorder = self.run(metrics)
        self.site.send("vm0", station(1), station(0xFFFF), count=300)
        self.reactor.turn(0.5)
        assert 1 <= len(recorder.missed) <= 2
        dataplane.hold(station(1))
        self.settle()
        assert len(recorder.missed) <= 2
        dataplane.stop()

    def test_start_that_fails_late(self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the sockets cannot be had, the devices are gone again and one line says why."""
        dataplane = self.make(metrics)

        def refuse(run: Any, layout: Any) -> None:
            raise OSError(24, "Too many open files")

        before = self.site.namespace.devices()
        dataplane._open_sockets = refuse
        with pytest.raises(StartError, match=r"interface vx1: .*Too many open files"):
            self.start(dataplane, Recorder())
        assert self.site.namespace.devices() == before


class TestTwoPlanes(TwoPlanes):
    """Both planes, over IPv4; and large tables."""

    def test_ten_thousand_shortcuts(self, metrics: Metrics) -> None:
        """A large table is written and read in bounded turns, and nothing is found to repair."""
        dataplane, _ = self.run(metrics)
        for number in range(10_000):
            dataplane.install(station(number), self.near_family[0])
        last = station(9_999)
        self.until("last", lambda: self.shown(last) == self.near_family[0])
        ages = self.reactor.result(dataplane.idle_times())
        assert len(ages) == 10_000
        assert self.total(metrics, "fdb_repairs") == 0
        assert self.total(metrics, "fdb_refused") == 0
        dataplane.stop()

    def test_flushed_by_somebody(self, metrics: Metrics) -> None:
        """More removals than the receive buffer holds are noticed all the same, and repaired."""
        dataplane, _ = self.run(metrics)
        for number in range(6_000):
            dataplane.install(station(number), self.near_family[0])
        last = station(5_999)
        self.until("last", lambda: self.shown(last) == self.near_family[0])
        self.untouched = False
        self.site.namespace.bridge("fdb", "flush", "dev", "vx1-s", "self", "extern_learn")
        self.until("repair", lambda: self.total(metrics, "fdb_repairs") == 6_000)
        self.until("last", lambda: self.shown(last) == self.near_family[0])
        assert self.total(metrics, "fdb_changes_lost") >= 1
        dataplane.stop()

    def test_more_entries_by_hand_than_are_named(
        self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`doctor` names the first, and says how many there are besides."""
        monkeypatch.setattr(spoke_reading, "MAX_FOREIGN", 2)
        dataplane, _ = self.run(metrics)
        for number in range(5):
            self.operator_adds(station(number), self.near_family[0])
        dataplane.idle_times()

        def counted() -> float:
            name = "dmevpn_fdb_entries_by_hand"
            return next(sample.value for sample in metrics.snapshot() if sample.name == name)

        self.until("reading", lambda: counted() == 5)
        findings: list[Finding] = []
        dataplane.examine().addCallback(findings.extend)
        self.until("findings", lambda: findings)
        problems = [each.problem for each in findings if each.check == "entries"]
        assert len(problems) == 3
        assert problems[-1] == "3 more entries were made by hand"
        for number in range(5):
            self.remove_entry(station(number))
        dataplane.stop()

    def test_more_changes_than_are_looked_at(
        self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where somebody has changed many entries, the tables are read whole, and that is counted;
        where few, each of them is looked at."""
        monkeypatch.setattr(spoke_drift, "SUSPECTS", 5)
        dataplane, _ = self.run(metrics)
        macs = [station(number) for number in range(12)]

        def flushed(some: list[bytes]) -> int:
            """Install, have somebody flush, and wait until it is put right; how often the tables
            were read whole for that."""
            for mac in some:
                dataplane.install(mac, self.near_family[0])
            self.until("last", lambda: self.shown(some[-1]) == self.near_family[0])
            self.settle()
            due = self.total(metrics, "fdb_repairs") + len(some)
            self.site.namespace.bridge("fdb", "flush", "dev", "vx1-s", "self", "extern_learn")
            self.until("repair", lambda: self.total(metrics, "fdb_repairs") == due)
            return int(self.total(metrics, "fdb_changes_too_many"))

        self.untouched = False
        assert flushed(macs[:5]) == 0
        assert flushed(macs) == 1
        assert self.total(metrics, "fdb_changes_lost") == 0
        dataplane.stop()


class TestTwoPlanesIPv6(TwoPlanes):
    """Both planes, over IPv6."""

    hub, other_hub = HUB6, parse_ip("fd00::fd")
    near_family = IPV6_VTEPS
    far_family = IPV4_VTEPS[0]


class TestSingleDevice(KernelContract):
    """The device of the original README, made by hand, over IPv4."""

    device = "vx1"
    flood = ("vx1", "ff:ff:ff:ff:ff:ff")

    def prepare(self) -> None:
        super().prepare()
        self.site.add_single()
        self.site.namespace.ip("link", "set", "vx1", "master", "br1")

    def plan(self) -> Any:
        return spoke_plan(self.hub, bridge=None)

    def shown(self, mac: bytes) -> VTEP | str | None:
        vtep = self.site.entry("vx1", mac)
        return "hold" if vtep in (VTEP(self.hub, 100), VTEP(self.other_hub, 100)) else vtep

    def test_nothing_of_the_operators_is_touched(self, metrics: Metrics) -> None:
        """Broadcast entry, static stations and the device are the operator's, and stay."""
        bridge = self.site.namespace.bridge
        bridge("fdb", "append", "ff:ff:ff:ff:ff:ff", "dev", "vx1", "dst", "10.0.0.77")
        bridge("fdb", "append", "02:bb:00:00:00:01", "dev", "vx1", "dst", "10.0.0.78")
        before = self.site.namespace.fdb("vx1")
        dataplane, recorder = self.run(metrics)
        assert self.shown_flood() == {parse_ip("10.0.0.77")}
        dataplane.hold(station(1))
        self.until("hold", lambda: self.shown(station(1)) == "hold")
        dataplane.install(station(2), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(2)) == self.near_family[0])
        rows = [row for row in self.site.namespace.fdb("vx1") if "dst" in row]
        assert not any("port" in row for row in rows)
        assert self.site.bridge_port(station(2)) is None
        dataplane.stop()
        assert self.site.namespace.fdb("vx1") == before
        assert "vx1" in self.site.namespace.devices()
        assert recorder.failed == []

    def test_answers_lost(self, metrics: Metrics) -> None:
        """If the kernel's answers had no room, the table is read and the work done again."""
        dataplane, recorder = self.run(metrics)
        macs = [station(number) for number in range(200)]
        for mac in macs:
            self.operator_adds(mac, self.near_family[0])
        answers = dataplane._active.requests._sock
        answers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for mac in [*macs, station(1000)]:
            dataplane.install(mac, self.near_family[1])
        self.reactor.turn()
        assert recorder.failed == []
        answers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        self.until("refusals", lambda: len(recorder.failed) == len(macs))
        assert self.shown(station(1000)) == self.near_family[1]
        assert self.total(metrics, "fdb_refused") == len(macs)
        dataplane.stop()

    def test_holds_follow_the_hub(self, metrics: Metrics) -> None:
        """Held stations go by another hub when the first is left."""
        dataplane, _ = self.run(metrics)
        dataplane.hold(station(1))
        self.until("hold", lambda: self.site.entry("vx1", station(1)) == VTEP(self.hub, 100))
        dataplane.set_flood([self.other_hub])
        other = VTEP(self.other_hub, 100)
        self.until("other hub", lambda: self.site.entry("vx1", station(1)) == other)
        dataplane.stop()

    def test_no_room_for_the_flood_entry(self, metrics: Metrics) -> None:
        """A device that is full of others' entries gets it as soon as it has room."""
        self.site.namespace.ip("link", "del", "vx1")
        self.site.add_single("l2miss", "nolearning", "maxaddress", "1")
        self.operator_adds(station(9), self.near_family[0])
        dataplane, _ = self.run(metrics)
        self.until("refusal", lambda: self.total(metrics, "fdb_refused") > 0)
        assert list(dataplane.entries()) == []
        self.remove_entry(station(9))
        self.until("flood entry", lambda: self.shown_flood() == {self.hub})
        assert [entry.vtep.nbma for entry in dataplane.entries()] == [self.hub]
        dataplane.stop()

    def test_device_made_anew(self, metrics: Metrics) -> None:
        """A device that its operator deletes and makes again is taken up again."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.site.namespace.ip("link", "del", "vx1")
        self.until("report", lambda: recorder.links == ["down"])
        self.site.add_single()
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.until("flood entry", lambda: self.shown_flood() == {self.hub})
        self.site.namespace.ip("link", "set", "vx1", "master", "br1")
        self.frame(station(3))
        self.until("miss", lambda: recorder.missed == [station(3)])
        dataplane.stop()

    def test_down_at_the_start(self, metrics: Metrics) -> None:
        """A device that is down when the daemon comes is reported, not touched."""
        self.set_link(False)
        dataplane, recorder = self.make(metrics), Recorder()
        self.start(dataplane, recorder)
        self.until("report", lambda: recorder.links == ["down"])
        dataplane.stop()
