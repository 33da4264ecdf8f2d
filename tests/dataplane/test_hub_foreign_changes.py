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
from dmevpn.dataplane.hub_audit import pause
from dmevpn.dataplane.hub_device import PRIORITY
from dmevpn.dataplane.hub_ebpf import _POLL_INTERVAL
from dmevpn.interfaces import Registration, Sticky, VPNRules
from tests.contracts.hub_dataplane import BROADCAST, HUB_2, A, B, C, frame, ipv4, mac
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
    rules = VPNRules(
        mac_limit=64,
        sticky=(Sticky(mac(50), 48, ipv4(1)), Sticky(b"\x02\xff\xff\0\0\0", 24, ipv4(2))),
    )

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
    world.join(2)
    world.dataplane.add_member(2, HUB_2, b"", Registration(mac(0xFFFF), False, 1e9, hub=True))
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


def _number(world: RealWorld, vtep: VTEP, vpn: int = 1) -> bytes:
    member = world.dataplane._members.find(vpn, vtep)
    assert member is not None
    return NUMBER.pack(member.number)


def _lookup(maps: dict[str, Map], name: str, key: bytes) -> bytes:
    """What a map has for a key that is there."""
    value = maps[name].lookup(key)
    assert value is not None
    return value


def _admission(maps: dict[str, Map]) -> bytes:
    """How a member is admitted: its number, its VPN, its limits."""
    return _lookup(maps, "senders", pack_vtep(A))


def _line(mac_: bytes, bits: int) -> bytes:
    """The key of a sticky line of VPN 1."""
    return layout.STICKY_KEY.pack(32 + bits, 1, mac_)


def _state(maps: dict[str, Map], number: bytes, field: int, value: int) -> None:
    """Write one field of a member's state."""
    state = list(layout.STATE.unpack(_lookup(maps, "states", number)))
    state[field] = value
    maps["states"].update(number, layout.STATE.pack(*state))


ZERO = NUMBER.pack(0)
NOBODYS = NUMBER.pack(999_999)
HUB_KEY = layout.pack_address(HUB_2.nbma)
FOR_EVER = 1 << 62

Edit = Callable[[RealWorld, dict[str, Map]], object]

#: What somebody writes into the maps, by what it does.
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
    "member of nobody": lambda world, maps: maps["members"].update(
        NOBODYS, _lookup(maps, "members", _number(world, B))
    ),
    "counters removed": lambda world, maps: maps["states"].delete(_number(world, A)),
    "counters of nobody": lambda world, maps: maps["states"].update(
        NOBODYS, bytes(layout.STATE.size)
    ),
    "VPN emptied": lambda world, maps: maps["vpns"].update(
        NUMBER.pack(1), layout.VPN.pack(layout.NOBODY, 0, 1, 1, 1, 0, 0, 0, 0)
    ),
    "VPN removed": lambda world, maps: maps["vpns"].delete(NUMBER.pack(1)),
    "VPN of nobody": lambda world, maps: maps["vpns"].update(
        NOBODYS, _lookup(maps, "vpns", NUMBER.pack(1))
    ),
    "hub forgotten": lambda world, maps: maps["hubs"].delete(HUB_KEY),
    "hub with another bit": lambda world, maps: maps["hubs"].update(HUB_KEY, layout.HUB.pack(8)),
    "hub of nobody": lambda world, maps: maps["hubs"].update(
        layout.pack_address(STRANGER.nbma), layout.HUB.pack(1)
    ),
    "sticky line removed": lambda world, maps: maps["sticky"].delete(_line(mac(50), 48)),
    "sticky line elsewhere": lambda world, maps: maps["sticky"].update(
        _line(mac(50), 48), layout.pack_address(STRANGER.nbma)
    ),
    "sticky line of nobody": lambda world, maps: maps["sticky"].update(
        _line(mac(1), 48), layout.pack_address(STRANGER.nbma)
    ),
    "sticky line in the place of ours": lambda world, maps: maps["sticky"].update(
        _line(b"\x02\xff\xff\0\0\1", 24), layout.pack_address(A.nbma)
    ),
    "probes by another device": lambda world, maps: maps["probing"].update(
        ZERO, layout.PROBING.pack(b"somebody", 1)
    ),
    "numbers to be used again": lambda world, maps: maps["keepsakes"].update(
        ZERO, layout.KEEPSAKE.pack(1, 0)
    ),
    "strangers never told": lambda world, maps: maps["strangers"].update(
        ZERO, layout.HUB.pack(FOR_EVER)
    ),
    "floods dropped for ever": lambda world, maps: _state(maps, _number(world, A), 0, FOR_EVER),
    "alarms silenced for ever": lambda world, maps: _state(maps, _number(world, A), 3, FOR_EVER),
    "in a loop for ever": lambda world, maps: _state(maps, _number(world, A), 4, FOR_EVER),
    "MACs of a site below zero": lambda world, maps: _state(
        maps, _number(world, A), layout.STATE_MACS, (1 << 64) - 1
    ),
    "MACs of a VPN below zero": lambda world, maps: maps["usage"].update(
        NUMBER.pack(1), layout.USAGE.pack((1 << 32) - 2)
    ),
    "MACs of a VPN not counted": lambda world, maps: maps["usage"].delete(NUMBER.pack(1)),
}


def _content(table: Map) -> dict[bytes, bytes]:
    size, width = table.shape.key_size, table.value_size
    return {
        keys[index * size : (index + 1) * size]: values[index * width : (index + 1) * width]
        for count, keys, values in table.batches()
        for index in range(count)
    }


def meaning(world: RealWorld) -> dict[str, object]:
    """What all maps say, but for what comes and goes with frames."""
    maps, now = world.dataplane._maps, time.monotonic_ns()
    found: dict[str, object] = {
        name: _content(maps[name])
        for name in ("vpns", "members", "senders", "hubs", "sticky", "usage")
    }
    found.update({name: maps[name].lookup(ZERO) for name in ("probing", "keepsakes")})
    states = {key: layout.STATE.unpack(value) for key, value in _content(maps["states"]).items()}
    found["MACs"] = {key: state[layout.STATE_MACS] for key, state in states.items()}
    found["budgets"] = all(
        due < now + 60e9 for state in states.values() for due in state[: layout.STATE_COUNTERS]
    )
    (strangers,) = layout.HUB.unpack(_lookup(maps, "strangers", ZERO))
    found["strangers"] = strangers < now + 60e9
    return found


@pytest.mark.parametrize("what", EDITS)
def test_maps_agree_within_a_second(world: RealWorld, what: str) -> None:
    """Whatever somebody writes into the maps is what it should be a second later."""
    # The audit that finds nothing makes it go by checksums alone.
    world.reactor.settle(1.0)
    assert world.listener.take() == []
    before = meaning(world)
    EDITS[what](world, world.dataplane._maps)
    assert meaning(world) != before
    start = time.monotonic()
    world.event("repaired")
    with world.lab.hub.entered():
        world.reactor.until(what, lambda: meaning(world) == before, timeout=1.0)
    print(f"\n{what}: put right after {1000 * (time.monotonic() - start):.0f} ms")
    assert world.floods()
    world.listener.take()
    assert world.sent(STRANGER, frame(BROADCAST, mac(9))) == []
    assert world.count("switch_repairs") >= 1


@pytest.mark.parametrize("whose", ["VPN", "site"])
def test_a_wrong_number_of_macs(world: RealWorld, whose: str) -> None:
    """As many MACs as there can be, but not as many as there are, are counted again once two
    audits have found them at odds: the site learns again."""
    before = meaning(world)
    maps = world.dataplane._maps
    if whose == "VPN":
        maps["usage"].update(NUMBER.pack(1), layout.USAGE.pack(world.rules.mac_limit))
    else:
        limit = world.rules.site_limit
        _state(maps, _number(world, A), layout.STATE_MACS, limit)
    world.sent(A, frame(BROADCAST, mac(70)))
    assert world.dataplane.lookup(1, mac(70)) is None
    with world.lab.hub.entered():
        world.reactor.until(whose, lambda: meaning(world) == before, timeout=5.0)
    assert world.count("switch_repairs") == 1
    world.learn(A, mac(70))
    assert world.dataplane.lookup(1, mac(70)) == A


def test_macs_of_who_has_left_are_no_drift(world: RealWorld) -> None:
    """As long as they are not swept up, a VPN has more MACs than its members; so it is."""
    macs = world.dataplane._macs
    world.learn(C, *map(mac, range(20, 30)))
    with world.lab.hub.entered():
        world.reactor.settle(1.0)
        # As if the sweep took long.
        macs._sweep_call = object()
        world.dataplane.remove_member(1, C)
        world.reactor.settle(4.0)
    macs._sweep_call = None
    assert world.dataplane.mac_count(1) == 11
    assert world.count("switch_repairs") == 0


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


def test_many_members_hold_nothing_up(world: RealWorld) -> None:
    """With 4,096 members an audit, and what it puts right, takes less than a second with its
    pauses, and no turn of the reactor 20 ms of work."""
    world.dataplane.add_vpn(3, VPNRules())
    for number in range(1, 4097):
        vtep = VTEP(number.to_bytes(16, "big"), 3000)
        registration = Registration(mac(number), False, 1e9)
        world.dataplane.add_member(3, vtep, b"", registration)
    switch = world.dataplane
    auditor = switch._rounds._audit
    assert sum(auditor.run()) == 0
    victims = list(switch._members.by_number)[512::512]
    for edit in (
        lambda key: switch._maps["members"].delete(key),
        lambda key: switch._maps["states"].delete(key),
    ):
        for number in victims:
            edit(NUMBER.pack(number))
        turns, looking, mending, repaired = list[float](), 0.0, 0.0, 0
        audit = auditor.run()
        while True:
            began = time.thread_time()
            count = next(audit, None)
            turns.append(time.thread_time() - began)
            if count is None:
                break
            repaired += count
            passed = turns[-1] + pause(turns[-1], comparing=auditor.comparing)
            if auditor.comparing:
                mending += passed
            else:
                looking += passed
        print(
            f"\n{len(turns)} turns, {1000 * max(turns):.1f} ms at most, {sum(turns):.3f} s in all;"
            f" with pauses {looking:.2f} s to look and {mending:.2f} s to mend"
        )
        assert repaired == len(victims)
        assert max(turns) < 0.02
        # What is changed behind an audit's back is met by the next one, and put right then.
        assert max(_POLL_INTERVAL, looking) + mending < 1
