"""The site in memory: the contract, and the frames that world tests send through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.dataplane.memory_spoke import MemorySite, MemorySpokeDataplane, Row
from dmevpn.metrics import Metrics
from tests.contracts.spoke_dataplane import HomecomingContract, Recorder, station


class TestContract(HomecomingContract):
    """The contract on a clock that stands still."""

    hub, other_hub = parse_ip("10.0.0.254"), parse_ip("10.0.0.253")
    near_family = (VTEP(parse_ip("10.0.0.2"), 101), VTEP(parse_ip("10.0.0.3"), 100))
    far_family = VTEP(parse_ip("fd00::2"), 101)

    @pytest.fixture(autouse=True)
    def _site(self) -> None:
        self.clock = Clock()
        self.site = MemorySite(self.clock)

    def make(self, metrics: Metrics) -> Any:
        vtep = VTEP(parse_ip("10.0.0.1"), 100)
        return MemorySpokeDataplane(self.clock, metrics, self.site, local_vtep=vtep)

    def kill(self, dataplane: Any) -> None:
        dataplane.kill()

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        self.settle()
        answer = check()
        assert answer, f"no {what}"
        return answer

    def settle(self) -> None:
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def frame(self, mac: bytes) -> None:
        self.site.send(mac)

    def speak(self, mac: bytes) -> None:
        self.site.speak(mac)

    def shown(self, mac: bytes) -> VTEP | str | None:
        row = self.site.rows.get(mac)
        return None if row is None else "hold" if row.vtep is None else row.vtep

    def shown_flood(self) -> set[bytes]:
        return set(self.site.flood)

    def operator_adds(self, mac: bytes, vtep: VTEP) -> None:
        self.site.rows[mac] = Row(vtep, False)

    def remove_entry(self, mac: bytes) -> None:
        self.site.remove_row(mac)

    def edit_entry(self, mac: bytes, vtep: VTEP, marked: bool) -> None:
        self.site.edit_row(mac, Row(vtep, marked))

    def set_link(self, up: bool) -> None:
        self.site.set_up(up)

    def test_nothing_is_left_on_the_clock(self, metrics: Metrics) -> None:
        """A stopped data plane waits for nothing."""
        dataplane, _ = self.run(metrics)
        dataplane.hold(station(1))
        dataplane.stop()
        assert self.clock.getDelayedCalls() == []

    def test_frames(self, metrics: Metrics) -> None:
        """A frame goes by the hub until its station has a shortcut, and never leaves when local."""
        dataplane, recorder = self.run(metrics)
        near = self.near_family[0]
        assert dataplane.send(station(1)) == self.hub
        assert dataplane.send(station(1)) == self.hub
        self.settle()
        assert recorder.missed == [station(1)]
        dataplane.hold(station(1))
        assert dataplane.send(station(1)) == self.hub
        self.settle()
        assert recorder.missed == [station(1)]
        dataplane.install(station(1), near)
        assert dataplane.send(station(1)) == self.hub
        self.settle()
        assert dataplane.send(station(1)) == near
        assert dataplane.send(b"\xff" * 6) == self.hub
        self.site.speak(station(1))
        assert dataplane.send(station(1)) is None
        self.site.set_up(False)
        assert dataplane.send(station(2)) is None
        dataplane.stop()
        self.site.set_up(True)
        assert dataplane.send(station(2)) is None

    def test_ages(self, metrics: Metrics) -> None:
        """Ages count from the last frame, on the clock of the test."""
        dataplane, _ = self.run(metrics)
        dataplane.install(station(1), self.near_family[0])
        self.settle()
        self.clock.advance(5)
        dataplane.send(station(1))
        self.clock.advance(3)
        results: list[dict[bytes, float]] = []
        dataplane.idle_times().addCallback(results.append)
        self.settle()
        assert results == [{station(1): 3.0}]
        dataplane.stop()

    def test_down_at_the_start(self, metrics: Metrics) -> None:
        """Devices that are down when the daemon comes are reported."""
        self.site.set_up(False)
        dataplane, recorder = self.make(metrics), Recorder()
        dataplane.start(recorder)
        self.until("report", lambda: recorder.links == ["down"])
        dataplane.stop()
