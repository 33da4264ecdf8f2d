"""What others do to a hub's switch is put right, or said, within a second, and counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from dmevpn.addresses import VTEP
from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.layout import NUMBER, pack_vtep
from dmevpn.dataplane.ebpf.libbpf import Map
from dmevpn.dataplane.hub_device import PRIORITY
from tests.contracts.hub_dataplane import BROADCAST, A, B, C, frame, ipv4, mac
from tests.dataplane.hub_lab import DEVICE, HubLab, KernelWorld
from tests.dataplane.turns import Turns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

#: Somebody who has never registered.
STRANGER = VTEP(ipv4(9), 4009)

PLACE = ("dev", DEVICE, "ingress", "pref", str(PRIORITY))


class RealWorld(KernelWorld):
    """One that goes by the time of the machine."""

    reactor_type = Turns
    reactor: Turns

    def event(self, name: str) -> tuple[object, ...]:
        """Turn until something was reported; within a second."""

        def said() -> list[tuple[object, ...]]:
            return [event for event in self.listener.events if event[0] == name]

        with self.lab.hub.entered():
            return self.reactor.until(name, said, timeout=1.0)[-1]

    def floods(self) -> bool:
        """Whether the switch forwards as it should: from a member to the other two."""
        return sorted(self.sent(A, frame(BROADCAST, mac(1)))) == sorted([B, C])


@pytest.fixture
def world(lab: HubLab) -> Iterator[RealWorld]:
    world = RealWorld(lab)
    world.join(1, A, B, C)
    world.reactor.settle()
    assert world.floods()
    world.listener.take()
    yield world
    world.dataplane.stop()
    assert "clsact" not in lab.qdiscs()


@pytest.mark.parametrize(
    "command",
    [
        ("filter", "del", *PLACE),
        ("filter", "del", "dev", DEVICE, "ingress"),
        ("qdisc", "del", "dev", DEVICE, "clsact"),
    ],
    ids=["filter", "filters", "qdisc"],
)
def test_switch_taken_off_is_reported(world: RealWorld, command: tuple[str, ...]) -> None:
    """It is put on again within a second, and that is reported and counted."""
    world.lab.hub.run("tc", *command)
    start = time.monotonic()
    assert world.event("mended") == ("mended", f"somebody took the switch off {DEVICE}")
    print(f"\ntc {' '.join(command)}: put right after {1000 * (time.monotonic() - start):.0f} ms")
    assert world.floods()
    assert world.count("device_faults") == world.count("device_repairs") == 1


def _number(world: RealWorld, vtep: VTEP) -> bytes:
    member = world.dataplane._members.find(1, vtep)
    assert member is not None
    return NUMBER.pack(member.number)


def _admission(maps: dict[str, Map]) -> bytes:
    """How a member is admitted: its number, its VPN, its limits."""
    admission = maps["senders"].lookup(pack_vtep(A))
    assert admission is not None
    return admission


Edit = Callable[[RealWorld, dict[str, Map]], object]

EDITS: dict[str, Edit] = {
    "sender removed": lambda world, maps: maps["senders"].delete(pack_vtep(A)),
    "sender of another VPN": lambda world, maps: maps["senders"].update(
        pack_vtep(A), _number(world, A) + NUMBER.pack(77) + _admission(maps)[8:]
    ),
    "stranger admitted": lambda world, maps: maps["senders"].update(
        pack_vtep(STRANGER), _admission(maps)
    ),
    "member removed": lambda world, maps: maps["members"].delete(_number(world, B)),
    "member elsewhere": lambda world, maps: maps["members"].update(
        _number(world, B), maps["members"].value.raw[:0].ljust(layout.MEMBER.size, b"\1")
    ),
    "counters removed": lambda world, maps: maps["states"].delete(_number(world, A)),
    "VPN emptied": lambda world, maps: maps["vpns"].update(
        NUMBER.pack(1), layout.VPN.pack(layout.NOBODY, 0, 1, 1, 1, 0, 0, 0, 0)
    ),
    "VPN removed": lambda world, maps: maps["vpns"].delete(NUMBER.pack(1)),
}


@pytest.mark.parametrize("what", EDITS)
def test_maps_agree_within_a_second(world: RealWorld, what: str) -> None:
    """Whatever somebody writes into the maps about members is what it should be a second later."""
    # The audit that finds nothing makes it go by checksums alone.
    world.reactor.settle(1.0)
    assert world.listener.take() == []
    EDITS[what](world, world.dataplane._maps)
    start = time.monotonic()
    world.event("repaired")
    print(f"\n{what}: put right after {1000 * (time.monotonic() - start):.0f} ms")
    assert world.floods()
    world.listener.take()
    assert world.sent(STRANGER, frame(BROADCAST, mac(9))) == []
    assert world.count("switch_repairs") >= 1


def test_members_that_come_and_go_are_no_drift(world: RealWorld) -> None:
    """What we write ourselves while the maps are being read is not taken for somebody else's."""
    end = time.monotonic() + 3
    sites = [VTEP(ipv4(number), 5000 + number) for number in range(4, 17)]
    while time.monotonic() < end:
        for site in sites:
            world.join(1, site)
            world.reactor.turn(0.001)
        for site in sites:
            world.dataplane.remove_member(1, site)
            world.reactor.turn(0.001)
    assert world.count("switch_repairs") == 0
