"""What every ISpokeDataplane does, run over each provider."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dmevpn.addresses import VTEP
from dmevpn.dataplane.spoke_table import MAX_HOLDS
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import Finding, ISpokeDataplane, ISpokeListener
from dmevpn.metrics import Metrics

__all__ = ["HomecomingContract", "Recorder", "SpokeDataplaneContract", "station"]


def station(number: int) -> bytes:
    """A station's MAC."""
    return b"\x02\xaa" + number.to_bytes(4, "big")


@implementer(ISpokeListener)
class Recorder:
    """Keeps what a data plane reports."""

    def __init__(self) -> None:
        self.missed: list[bytes] = []
        self.local: list[bytes] = []
        self.links: list[str] = []
        self.mtus: list[int] = []
        self.failed: list[tuple[bytes, Exception]] = []
        self.repaired = 0
        self.devices: list[str] = []

    def fdb_missed(self, mac: bytes) -> None:
        self.missed.append(mac)

    def mac_local(self, mac: bytes) -> None:
        self.local.append(mac)

    def mtu_changed(self, mtu: int) -> None:
        self.mtus.append(mtu)

    def address_changed(self) -> None:
        self.links.append("readdressed")

    def device_up(self) -> None:
        self.links.append("up")

    def device_down(self) -> None:
        self.links.append("down")

    def install_failed(self, mac: bytes, error: Exception) -> None:
        self.failed.append((mac, error))

    def entries_repaired(self, count: int) -> None:
        self.repaired += count

    def devices_repaired(self, faults: str) -> None:
        self.devices.append(faults)


class SpokeDataplaneContract:
    """One site. Subclasses say how data planes are made and what the site's table shows."""

    hub: bytes
    other_hub: bytes
    near_family: tuple[VTEP, VTEP]
    """Two VTEPs of the address family of the devices."""
    far_family: VTEP
    """One of the other."""

    def make(self, metrics: Metrics) -> Any:
        """A data plane on the site's devices."""
        raise NotImplementedError

    def start(self, dataplane: Any, listener: Any) -> None:
        """Start a data plane at the site."""
        dataplane.start(listener)

    def kill(self, dataplane: Any) -> None:
        """End it as SIGKILL does."""
        raise NotImplementedError

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        """Let time pass until a check is true; fail if that takes too long."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let happen what is about to happen."""
        raise NotImplementedError

    def frame(self, mac: bytes) -> None:
        """A local station sends a frame to a MAC."""
        raise NotImplementedError

    def speak(self, mac: bytes) -> None:
        """A station with that MAC sends a frame at the site."""
        raise NotImplementedError

    def shown(self, mac: bytes) -> VTEP | str | None:
        """What the site's table has: a VTEP, ``hold``, or None."""
        raise NotImplementedError

    def shown_flood(self) -> set[bytes]:
        """Where the site's table sends broadcasts."""
        raise NotImplementedError

    def operator_adds(self, mac: bytes, vtep: VTEP) -> None:
        """An operator makes a static entry."""
        raise NotImplementedError

    def remove_entry(self, mac: bytes) -> None:
        """Somebody removes an entry of the table."""
        raise NotImplementedError

    def edit_entry(self, mac: bytes, vtep: VTEP, marked: bool) -> None:
        """Somebody replaces an entry of the table, with our mark or without it."""
        raise NotImplementedError

    def set_link(self, up: bool) -> None:
        """Somebody sets the data interface up or down."""
        raise NotImplementedError

    @pytest.fixture
    def metrics(self) -> Metrics:
        """One for all data planes of a test."""
        return Metrics()

    def run(self, metrics: Metrics) -> tuple[Any, Recorder]:
        """A started data plane that floods to the hub, and what it reports."""
        dataplane, recorder = self.make(metrics), Recorder()
        self.start(dataplane, recorder)
        dataplane.set_flood([self.hub])
        self.settle()
        return dataplane, recorder

    @staticmethod
    def total(metrics: Metrics, name: str) -> float:
        """A counter over all its labels."""
        return sum(s.value for s in metrics.snapshot() if s.name == f"dmevpn_{name}_total")

    # --- the tests --------------------------------------------------------------------------

    def test_interface(self, metrics: Metrics) -> None:
        """The driver provides what a spoke role asks for."""
        dataplane, _ = self.run(metrics)
        assert verifyObject(ISpokeDataplane, dataplane)
        dataplane.stop()

    def test_attributes(self, metrics: Metrics) -> None:
        """After the start it is known under which VTEP, name and MTU we take part."""
        dataplane, recorder = self.run(metrics)
        assert len(dataplane.local_vtep.nbma) == len(self.hub)
        assert dataplane.local_vtep.vni == 100
        assert 1280 <= dataplane.mtu <= 1500
        assert dataplane.interface == "vx1"
        assert recorder.links == []
        dataplane.stop()

    def test_miss(self, metrics: Metrics) -> None:
        """A frame to an unknown station is reported, one to a group is not."""
        dataplane, recorder = self.run(metrics)
        self.frame(b"\xff" * 6)
        self.frame(b"\x33\x33\0\0\0\1")
        self.frame(station(1))
        self.until("miss", lambda: recorder.missed)
        self.settle()
        assert recorder.missed == [station(1)]
        dataplane.stop()

    def test_hold_silences(self, metrics: Metrics) -> None:
        """While a station is held, its frames are not reported; others' are."""
        dataplane, recorder = self.run(metrics)
        dataplane.hold(station(1))
        self.until("hold", lambda: self.shown(station(1)) == "hold")
        self.frame(station(1))
        self.frame(station(2))
        self.until("miss", lambda: recorder.missed)
        self.settle()
        assert recorder.missed == [station(2)]
        dataplane.stop()

    def test_shortcut_and_back(self, metrics: Metrics) -> None:
        """A shortcut replaces the hold, follows a new answer, and leaves nothing behind."""
        dataplane, recorder = self.run(metrics)
        mac = station(1)
        near, other = self.near_family
        dataplane.hold(mac)
        self.until("hold", lambda: self.shown(mac) == "hold")
        dataplane.install(mac, near)
        self.until("shortcut", lambda: self.shown(mac) == near)
        dataplane.install(mac, other)
        self.until("moved shortcut", lambda: self.shown(mac) == other)
        self.frame(mac)
        self.settle()
        assert recorder.missed == []
        dataplane.hold(mac)
        self.until("hold again", lambda: self.shown(mac) == "hold")
        dataplane.install(mac, near)
        self.until("shortcut again", lambda: self.shown(mac) == near)
        dataplane.withdraw(mac)
        self.until("withdrawal", lambda: self.shown(mac) is None)
        self.frame(mac)
        self.until("miss", lambda: recorder.missed == [mac])
        assert recorder.failed == []
        assert self.total(metrics, "fdb_repairs") == 0
        dataplane.stop()

    def test_own_vni(self, metrics: Metrics) -> None:
        """A site whose VNI is ours is as good as any other."""
        dataplane, _ = self.run(metrics)
        vtep = self.near_family[0]._replace(vni=100)
        dataplane.install(station(1), vtep)
        self.until("shortcut", lambda: self.shown(station(1)) == vtep)
        dataplane.stop()

    def test_last_word_of_a_turn(self, metrics: Metrics) -> None:
        """What was asked for and taken back in one turn never reaches the table."""
        dataplane, _ = self.run(metrics)
        dataplane.hold(station(1))
        dataplane.install(station(1), self.near_family[0])
        dataplane.withdraw(station(1))
        dataplane.hold(station(2))
        dataplane.install(station(2), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(2)) == self.near_family[0])
        assert self.shown(station(1)) is None
        dataplane.stop()

    def test_entries(self, metrics: Metrics) -> None:
        """An operator sees holds, shortcuts and where the rest goes."""
        dataplane, _ = self.run(metrics)
        dataplane.hold(station(1))
        dataplane.install(station(2), self.near_family[0])
        self.settle()
        rows = {entry.state: (entry.mac, entry.vtep) for entry in dataplane.entries()}
        assert rows["hold"] == (station(1), None)
        assert rows["shortcut"] == (station(2), self.near_family[0])
        assert rows["flood"][1] == VTEP(self.hub, 100)
        dataplane.stop()
        assert list(dataplane.entries()) == []

    def test_traffic(self, metrics: Metrics) -> None:
        """An operator sees how much goes by a shortcut."""
        dataplane, _ = self.run(metrics)
        before = dataplane.traffic()
        assert set(before) in ({"hub", "shortcut"}, {"both"})
        plane = "both" if "both" in before else "shortcut"
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.frame(station(1))
        self.until(
            "frame", lambda: dataplane.traffic()[plane].tx_packets > before[plane].tx_packets
        )
        assert dataplane.traffic()[plane].tx_bytes > before[plane].tx_bytes
        dataplane.stop()

    def test_flood(self, metrics: Metrics) -> None:
        """Broadcasts follow to another hub, and end when there is none."""
        dataplane, _ = self.run(metrics)
        self.until("hub", lambda: self.shown_flood() == {self.hub})
        dataplane.set_flood([self.far_family.nbma, self.other_hub])
        self.until("other hub", lambda: self.shown_flood() == {self.other_hub})
        dataplane.hold(station(1))
        self.until("hold", lambda: self.shown(station(1)) == "hold")
        dataplane.set_flood([])
        self.until("no hub", lambda: self.shown_flood() == set())
        dataplane.stop()

    def test_other_family(self, metrics: Metrics) -> None:
        """A VTEP of the other address family is reported as impossible and stays with the hub."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.far_family)
        self.until("refusal", lambda: recorder.failed)
        ((mac, error),) = recorder.failed
        assert mac == station(1)
        assert isinstance(error, DataplaneError)
        assert error.errno == errno.EAFNOSUPPORT
        self.until("hold", lambda: self.shown(mac) == "hold")
        dataplane.stop()

    def test_no_station(self, metrics: Metrics) -> None:
        """A group address is never installed: that would be our mistake."""
        dataplane, _ = self.run(metrics)
        for mac in (b"\xff" * 6, bytes(6), b"\1\0\x5e\0\0\1", b"short"):
            with pytest.raises(ValueError, match="names no station"):
                dataplane.hold(mac)
            with pytest.raises(ValueError, match="names no station"):
                dataplane.install(mac, self.near_family[0])
        dataplane.withdraw(station(9))
        dataplane.stop()

    def test_bound_of_holds(self, metrics: Metrics) -> None:
        """A site that sends to random MACs costs a bounded table: the oldest hold goes."""
        dataplane, _ = self.run(metrics)
        for number in range(MAX_HOLDS + 3):
            dataplane.hold(station(number))
        last = station(MAX_HOLDS + 2)
        self.until("last hold", lambda: self.shown(last) == "hold")
        assert [self.shown(station(number)) for number in range(4)] == [None, None, None, "hold"]
        assert self.total(metrics, "fdb_holds_evicted") == 3
        assert sum(entry.state == "hold" for entry in dataplane.entries()) == MAX_HOLDS
        dataplane.stop()

    def test_killed_and_started_again(self, metrics: Metrics) -> None:
        """Shortcuts outlive the daemon; its successor finds them and has them in hand."""
        killed, _ = self.run(metrics)
        killed.install(station(1), self.near_family[0])
        killed.hold(station(2))
        self.until("hold", lambda: self.shown(station(2)) == "hold")
        self.kill(killed)
        assert self.shown(station(1)) == self.near_family[0]
        dataplane, recorder = self.make(metrics), Recorder()
        self.start(dataplane, recorder)
        assert sorted(dataplane.adopted(), key=str) == sorted(
            [(station(1), self.near_family[0]), (station(2), None)], key=str
        )
        dataplane.set_flood([self.hub])
        dataplane.withdraw(station(2))
        self.until("withdrawal", lambda: self.shown(station(2)) is None)
        assert self.shown(station(1)) == self.near_family[0]
        dataplane.install(station(1), self.near_family[1])
        self.until("new answer", lambda: self.shown(station(1)) == self.near_family[1])
        assert recorder.failed == []
        dataplane.stop()

    def test_handed_over(self, metrics: Metrics) -> None:
        """A stop that leaves what forwards changes nothing; the successor finds it all."""
        dataplane, recorder = self.run(metrics)
        near = self.near_family[0]
        dataplane.install(station(1), near)
        dataplane.hold(station(2))
        self.until("shortcut", lambda: self.shown(station(1)) == near)
        dataplane.hand_over()
        dataplane.hand_over()
        self.settle()
        assert self.shown(station(1)) == near
        assert self.shown(station(2)) == "hold"
        assert self.shown_flood() == {self.hub}
        assert recorder.failed == recorder.links == []
        successor = self.make(metrics)
        self.start(successor, Recorder())
        assert sorted(successor.adopted()) == [(station(1), near), (station(2), None)]
        self.settle()
        assert self.total(metrics, "fdb_repairs") == 0
        successor.stop()
        assert self.shown(station(1)) is None

    def test_operators_entry(self, metrics: Metrics) -> None:
        """An operator's static entry wins over an answer, and is there after we have gone."""
        dataplane, recorder = self.run(metrics)
        mac, (static, answer) = station(1), self.near_family
        self.operator_adds(mac, static)
        dataplane.install(mac, answer)
        self.until("refusal", lambda: recorder.failed)
        ((failed, error),) = recorder.failed
        assert failed == mac
        assert isinstance(error, DataplaneError)
        assert error.errno == errno.EEXIST
        assert self.shown(mac) == static
        dataplane.withdraw(mac)
        self.settle()
        assert self.shown(mac) == static
        self.remove_entry(mac)
        dataplane.stop()

    def test_placements(self, metrics: Metrics) -> None:
        """Operators see what the kernel says of a MAC, and who has made it so."""
        dataplane, _ = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.operator_adds(station(2), self.near_family[1])
        for mac, vtep, origin in (
            (station(1), self.near_family[0], "ours"),
            (station(2), self.near_family[1], "by hand"),
        ):
            [found] = [each for each in dataplane.placements(mac) if each.table != "bridge"]
            assert (found.vtep, found.origin) == (vtep, origin)
        assert dataplane.placements(station(3)) == []
        findings: list[Finding] = []
        dataplane.examine().addCallback(findings.extend)
        self.until("findings", lambda: [each.subject for each in findings])
        assert station(2).hex(":") in [each.subject for each in findings if each.check == "entries"]
        assert station(1).hex(":") not in [each.subject for each in findings]
        self.remove_entry(station(2))
        dataplane.stop()

    def test_repair(self, metrics: Metrics) -> None:
        """What somebody else removes of ours is put back, and counted."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        dataplane.hold(station(2))
        self.until("hold", lambda: self.shown(station(2)) == "hold")
        for mac in (station(1), station(2)):
            self.remove_entry(mac)
        self.until("repair", lambda: self.shown(station(1)) == self.near_family[0])
        self.until("repair", lambda: self.shown(station(2)) == "hold")
        assert self.total(metrics, "fdb_repairs") == recorder.repaired == 2
        dataplane.stop()

    @pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
    def test_edited_in_place(self, metrics: Metrics, marked: bool) -> None:
        """An entry of ours that somebody replaces is put right and counted, once."""
        dataplane, recorder = self.run(metrics)
        right, wrong = self.near_family
        dataplane.install(station(1), right)
        dataplane.hold(station(2))
        self.until("shortcut", lambda: self.shown(station(1)) == right)
        self.edit_entry(station(1), wrong, marked)
        self.until("repair", lambda: recorder.repaired and self.shown(station(1)) == right)
        self.edit_entry(station(2), wrong, marked)
        self.until("repair", lambda: self.shown(station(2)) == "hold")
        self.settle()
        assert self.total(metrics, "fdb_repairs") == recorder.repaired == 2
        assert recorder.failed == recorder.local == []
        dataplane.stop()

    def test_idle_times(self, metrics: Metrics) -> None:
        """The age of each shortcut is known, so that unused ones may lapse; holds have none."""
        dataplane, _ = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        dataplane.hold(station(2))
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.frame(station(1))
        results: list[dict[bytes, float]] = []
        dataplane.idle_times().addCallback(results.append)
        dataplane.idle_times().addCallback(results.append)
        self.until("both results", lambda: len(results) == 2)
        assert list(results[0]) == [station(1)]
        assert 0 <= results[0][station(1)] < 2
        assert results[0] == results[1]
        used = {entry.mac: entry.used_ago for entry in dataplane.entries()}
        assert used[station(1)] is not None
        dataplane.stop()

    def test_link(self, metrics: Metrics) -> None:
        """A device that goes down is reported, and its entries are there when it is back."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.settle()
        self.set_link(False)
        self.until("report", lambda: recorder.links == ["down"])
        dataplane.hold(station(2))
        self.set_link(True)
        self.until("report", lambda: recorder.links == ["down", "up"])
        self.until("shortcut", lambda: self.shown(station(1)) == self.near_family[0])
        self.until("hold", lambda: self.shown(station(2)) == "hold")
        dataplane.stop()

    def test_stop(self, metrics: Metrics) -> None:
        """A stop leaves no entry, fires at once, is harmless twice, and a start may follow."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        dataplane.hold(station(2))
        self.until("hold", lambda: self.shown(station(2)) == "hold")
        dataplane.install(station(3), self.near_family[0])
        waiting: list[object] = []
        dataplane.idle_times().addCallback(waiting.append)
        stopped: list[None] = []
        dataplane.stop().addCallback(stopped.append)
        dataplane.stop().addCallback(stopped.append)
        assert stopped == [None, None]
        assert [self.shown(station(number)) for number in (1, 2, 3)] == [None] * 3
        assert self.shown_flood() == set()
        self.settle()
        assert recorder.failed == []
        self.start(dataplane, recorder)
        assert dataplane.adopted() == []
        dataplane.stop()


class HomecomingContract(SpokeDataplaneContract):
    """What a driver that writes into the bridge owes as well: local stations win.

    A device made by hand leaves them to the bridge alone.
    """

    def test_local_station(self, metrics: Metrics) -> None:
        """A station that was heard at this site is never sent elsewhere."""
        dataplane, recorder = self.run(metrics)
        self.speak(station(1))
        dataplane.install(station(1), self.near_family[0])
        self.until("report", lambda: recorder.local)
        assert recorder.local == [station(1)]
        assert self.shown(station(1)) == "hold"
        dataplane.stop()

    def test_station_comes_home(self, metrics: Metrics) -> None:
        """A remote station that is heard at this site loses its shortcut at once."""
        dataplane, recorder = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        dataplane.install(station(2), self.near_family[0])
        self.until("shortcut", lambda: self.shown(station(2)) == self.near_family[0])
        self.speak(station(1))
        self.until("report", lambda: recorder.local)
        self.until("withdrawal", lambda: self.shown(station(1)) is None)
        assert recorder.local == [station(1)]
        assert self.shown(station(2)) == self.near_family[0]
        dataplane.stop()
