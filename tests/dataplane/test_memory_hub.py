"""The hub's switch in memory."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP
from dmevpn.dataplane.memory_hub import MemoryHubDataplane, MemorySwitch
from dmevpn.dataplane.memory_switch import MAX_EVENTS
from dmevpn.errors import StartError
from dmevpn.interfaces import Registration
from tests.contracts.hub_dataplane import (
    BROADCAST,
    A,
    Delivery,
    HubDataplaneContract,
    Recorder,
    SwitchWorld,
    frame,
    mac,
)


class MemoryWorld(SwitchWorld):
    """Sites are the places in a list of deliveries."""

    probe_secret = slice(19, 27)

    def __init__(self) -> None:
        self.clock = Clock()
        self._delivered: list[Delivery] = []
        self.switch = MemorySwitch(
            self.clock, lambda *delivery: self._delivered.append(Delivery(*delivery))
        )
        self.listener = Recorder()
        self.restart()

    def send(self, vtep: VTEP, frame: bytes) -> None:
        self.switch.receive(vtep, frame)

    def deliveries(self) -> list[Delivery]:
        self.settle()
        delivered, self._delivered = self._delivered, []
        return delivered

    def settle(self) -> None:
        self.clock.advance(0)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def lose_events(self) -> None:
        self.send(A, frame(BROADCAST, mac(1)))
        self.switch.lose_events()
        self.deliveries()

    def kill(self) -> None:
        self.dataplane.kill()

    def restart(self) -> None:
        self.dataplane = MemoryHubDataplane(self.clock, self.switch)
        self.dataplane.start(self.listener)

    def seconds(self) -> float:
        seconds: float = self.clock.seconds()
        return seconds

    def adopted(self) -> list[tuple[int, VTEP, bytes, Registration]]:
        return self.dataplane.adopted()


class TestMemoryHubDataplane(HubDataplaneContract):
    """The contract, and what a test needs of a fake beyond it."""

    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()

    def test_stop_leaves_no_call(self, world: MemoryWorld) -> None:
        """A stopped hub has nothing left to do."""
        world.join(1, A)
        world.send(A, frame(BROADCAST, mac(1)))
        world.dataplane.stop()
        assert world.clock.getDelayedCalls() == []

    def test_events_are_bounded(self, world: MemoryWorld) -> None:
        """A daemon that is not there cannot make the switch grow."""
        world.join(1, A)
        world.kill()
        for _ in range(MAX_EVENTS + 3):
            world.send(VTEP(A.nbma, 9), frame(BROADCAST, mac(1)))
        assert len(world.switch.events) == MAX_EVENTS
        assert world.switch.counters["events_lost"] == 3

    def test_start_error(self) -> None:
        """A test can have the device missing."""
        clock = Clock()
        switch = MemorySwitch(clock, lambda *delivery: None)
        dataplane = MemoryHubDataplane(clock, switch, start_error="no such device")
        with pytest.raises(StartError, match="no such device"):
            dataplane.start(Recorder())
