"""What every IHubDataplane does, run over each provider with real frames."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from zope.interface.verify import verifyObject

from dmevpn.addresses import VTEP
from dmevpn.interfaces import HubListener, IHubDataplane, Registration, Sticky, VPNRules

__all__ = [
    "BROADCAST",
    "HUB_IPV4",
    "HUB_IPV6",
    "Delivery",
    "HubDataplaneContract",
    "Recorder",
    "SwitchWorld",
    "frame",
    "ipv4",
    "ipv6",
    "mac",
]

BROADCAST = b"\xff" * 6


def ipv4(number: int) -> bytes:
    """Underlay address of a site; 1 to 20 exist."""
    return bytes([10, 99, 0, number])


def ipv6(number: int) -> bytes:
    """Its IPv6 one."""
    return bytes.fromhex("fd0000990000000000000000000000") + bytes([number])


HUB_IPV4, HUB_IPV6 = ipv4(254), ipv6(254)


def mac(number: int) -> bytes:
    """MAC address of a machine at some site."""
    return b"\x02\xaa" + number.to_bytes(4, "big")


def frame(destination: bytes, source: bytes, payload: bytes = b"frame", tag: bytes = b"") -> bytes:
    """An Ethernet frame of the smallest size, of an experimental type."""
    return (destination + source + tag + b"\x88\xb5" + payload).ljust(60, b"\0")


class Delivery(NamedTuple):
    """A frame that the switch has sent to a site."""

    local: bytes
    """Underlay address of ours that it came from."""
    vtep: VTEP
    frame: bytes


class Recorder(HubListener):
    """Keeps the events of the VPNs that are tested."""

    def __init__(self, ignored: Iterable[int] = ()) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._ignored = set(ignored)

    def _record(self, name: str, vpn: int, *arguments: Any) -> None:
        if vpn not in self._ignored:
            self.events.append((name, vpn, *arguments))

    def mac_learned(self, vpn: int, mac: bytes, vtep: VTEP) -> None:
        self._record("learned", vpn, mac, vtep)

    def mac_moved(self, vpn: int, mac: bytes, old: VTEP | None, new: VTEP) -> None:
        self._record("moved", vpn, mac, old, new)

    def mac_aged(self, vpn: int, mac: bytes) -> None:
        self._record("aged", vpn, mac)

    def limit_reached(self, vpn: int, vtep: VTEP | None) -> None:
        self._record("limit", vpn, vtep)

    def mac_held(
        self, vpn: int, mac: bytes, vtep: VTEP, other: VTEP | None, seconds: float
    ) -> None:
        self._record("held", vpn, mac, vtep, other, seconds)

    def move_refused(self, vpn: int, mac: bytes, owner: VTEP | None, vtep: VTEP) -> None:
        self._record("stuck", vpn, mac, owner, vtep)

    def flood_limited(self, vpn: int, vtep: VTEP) -> None:
        self._record("flooding", vpn, vtep)

    def loop_seen(self, vpn: int, origin: VTEP | None, vtep: VTEP) -> None:
        self._record("loop", vpn, origin, vtep)

    def sender_refused(self, vtep: VTEP) -> None:
        self.events.append(("refused", vtep))

    def events_lost(self) -> None:
        self.events.append(("lost",))

    def entries_repaired(self, count: int) -> None:
        self.events.append(("repaired", count))

    def devices_repaired(self, faults: str) -> None:
        self.events.append(("mended", faults))

    def take(self) -> list[tuple[Any, ...]]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events


class SwitchWorld:
    """A hub's switch with sites round it, started; subclasses say how."""

    dataplane: Any
    listener: Recorder
    rules = VPNRules(mac_limit=64)
    """Of every VPN that a site joins."""
    probe_secret: slice
    """Where the octets are by which a switch knows its own loop probes."""

    def send(self, vtep: VTEP, frame: bytes) -> None:
        """Have a site send a frame."""
        raise NotImplementedError

    def deliveries(self) -> list[Delivery]:
        """What has arrived at the sites since the last time, once all that was sent is dealt with.

        Events have been reported by then as well.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Let the data plane do what it has put off."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let time go by, for MACs too."""
        raise NotImplementedError

    def lose_events(self) -> None:
        """Lose events that no daemon has read."""
        raise NotImplementedError

    def probe(self, vpn: int, vtep: VTEP) -> Delivery:
        """Have the switch send a loop probe to a member; what arrives there."""
        self.dataplane.probe(vpn, vtep)
        (delivery,) = self.deliveries()
        return delivery

    def kill(self) -> None:
        """End the daemon without warning; the switch goes on."""
        raise NotImplementedError

    def restart(self) -> None:
        """Start a daemon after a kill."""
        raise NotImplementedError

    def seconds(self) -> float:
        """The daemon's clock."""
        raise NotImplementedError

    def adopted(self) -> list[tuple[int, VTEP, bytes, Registration]]:
        """What the data plane has adopted of the tested VPNs."""
        raise NotImplementedError

    # --- in terms of these --------------------------------------------------------------

    def join(self, vpn: int, *vteps: VTEP) -> None:
        """Register sites for an hour."""
        self.dataplane.add_vpn(vpn, self.rules)
        for vtep in vteps:
            local = HUB_IPV4 if len(vtep.nbma) == 4 else HUB_IPV6
            registration = Registration(mac(0xFFFF), False, self.seconds() + 3600)
            self.dataplane.add_member(vpn, vtep, local, registration)

    def join_as(
        self, vtep: VTEP, *, hub: bool = False, apart: frozenset[bytes] | None = frozenset()
    ) -> None:
        """Register a hub, or a site that is a member of other hubs, too, in VPN 1."""
        self.dataplane.add_vpn(1, self.rules)
        expires = self.seconds() + 3600
        registration = Registration(mac(0xFFFF), False, expires, hub, None if hub else apart)
        self.dataplane.add_member(1, vtep, b"", registration)

    def sent(self, vtep: VTEP, frame: bytes) -> list[VTEP]:
        """Where one frame arrives, in order of the VTEPs, as often as it does."""
        self.deliveries()
        self.send(vtep, frame)
        arrived = self.deliveries()
        assert all(delivery.frame == frame for delivery in arrived)
        return sorted(delivery.vtep for delivery in arrived)

    def learn(self, vtep: VTEP, *macs: bytes) -> None:
        """Have MACs behind a site speak."""
        for source in macs:
            self.send(vtep, frame(BROADCAST, source))
        self.deliveries()
        self.listener.take()


A, B, C, D = (VTEP(ipv4(1), 100), VTEP(ipv4(2), 101), VTEP(ipv4(3), 100), VTEP(ipv6(4), 103))
STRANGER = VTEP(ipv4(5), 100)
#: Other hubs of VPN 1, in the VNI that hubs use among themselves.
HUB_2, HUB_3 = VTEP(ipv4(11), 1), VTEP(ipv6(12), 1)


class HubDataplaneContract:
    """Subclasses provide the fixture ``world`` for ``ageing`` 300 s."""

    @pytest.fixture
    def world(self) -> SwitchWorld:
        raise NotImplementedError

    def test_interface(self, world: SwitchWorld) -> None:
        """The switch offers all that the hub role asks of it."""
        assert verifyObject(IHubDataplane, world.dataplane)

    def test_what_start_finds_out(self, world: SwitchWorld) -> None:
        """The NHS learns its own MAC and the MTU from the device."""
        assert len(world.dataplane.station_mac) == 6
        assert world.dataplane.mtu > 1000
        assert world.dataplane.interface

    # --- forwarding ---------------------------------------------------------------------

    def test_broadcast_reaches_all_others_once(self, world: SwitchWorld) -> None:
        """ARP works: every other site gets a broadcast once, in its VNI, and its sender never."""
        world.join(1, A, B, C, D)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C, D]
        assert world.sent(D, frame(BROADCAST, mac(4))) == [A, B, C]

    def test_multicast_is_flooded(self, world: SwitchWorld) -> None:
        """IPv6 neighbour discovery works."""
        world.join(1, A, B, C)
        assert world.sent(A, frame(bytes.fromhex("3333ff000001"), mac(1))) == [B, C]

    def test_a_lone_site(self, world: SwitchWorld) -> None:
        """A broadcast in a VPN of one site goes nowhere and is no fault."""
        world.join(1, A)
        assert world.sent(A, frame(BROADCAST, mac(1))) == []
        assert world.dataplane.member_counters(1, A).dropped == 0

    def test_known_unicast_goes_to_its_site_only(self, world: SwitchWorld) -> None:
        """Two machines talk through the hub without anybody else hearing it."""
        world.join(1, A, B, C, D)
        world.learn(B, mac(2))
        world.learn(D, mac(4))
        assert world.sent(A, frame(mac(2), mac(1))) == [B]
        assert world.sent(B, frame(mac(1), mac(2))) == [A]
        assert world.sent(C, frame(mac(4), mac(3))) == [D]
        assert world.sent(D, frame(mac(3), mac(4))) == [C]

    def test_unknown_unicast_is_flooded(self, world: SwitchWorld) -> None:
        """A machine that has never spoken is still reached."""
        world.join(1, A, B, C)
        assert world.sent(A, frame(mac(99), mac(1))) == [B, C]

    def test_frames_come_from_the_address_that_was_asked(self, world: SwitchWorld) -> None:
        """Sites behind a stateful firewall accept what the hub sends."""
        world.join(1, A, B, D)
        world.send(A, frame(BROADCAST, mac(1)))
        assert sorted((d.vtep, d.local) for d in world.deliveries()) == [
            (B, HUB_IPV4),
            (D, HUB_IPV6),
        ]

    def test_member_without_local_address(self, world: SwitchWorld) -> None:
        """Where the asked address is unknown, frames are sent all the same."""
        world.join(1, A)
        world.dataplane.add_member(1, B, b"", Registration(mac(2), False, world.seconds() + 60))
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_tags_are_kept(self, world: SwitchWorld) -> None:
        """VLANs inside a VPN pass unchanged, flooded and known."""
        world.join(1, A, B)
        tagged = frame(BROADCAST, mac(1), tag=b"\x81\x00\x00\x2a")
        assert world.sent(A, tagged) == [B]
        assert world.sent(B, frame(mac(1), mac(2), tag=b"\x81\x00\xa0\x2b")) == [A]

    def test_frames_to_their_own_site_are_dropped(self, world: SwitchWorld) -> None:
        """The hub never reflects what a site could have delivered itself."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        assert world.sent(A, frame(mac(1), mac(5))) == []
        assert world.dataplane.counters()["reflected"] == 1
        assert world.dataplane.member_counters(1, A).dropped == 1

    @pytest.mark.parametrize("last", [0x00, 0x02, 0x0E])
    def test_link_local_groups_stay_at_their_site(self, world: SwitchWorld, last: int) -> None:
        """Spanning tree and LACP of one site do not confuse another."""
        world.join(1, A, B)
        group = bytes([0x01, 0x80, 0xC2, 0, 0, last])
        assert world.sent(A, frame(group, mac(1))) == []
        assert world.dataplane.counters()["link_local"] == 1

    @pytest.mark.parametrize("source", [b"\x01\xaa\0\0\0\1", bytes(6)])
    def test_impossible_sources_are_dropped(self, world: SwitchWorld, source: bytes) -> None:
        """No site can poison the table with a group address."""
        world.join(1, A, B)
        assert world.sent(A, frame(BROADCAST, source)) == []
        assert world.dataplane.counters()["bad_source"] == 1
        assert world.dataplane.mac_count(1) == 0

    def test_one_address_with_two_vnis(self, world: SwitchWorld) -> None:
        """Two segments of one site in one VPN hear each other, and never themselves."""
        other = VTEP(A.nbma, 777)
        world.join(1, A, B, other)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [other, B]
        assert world.sent(other, frame(mac(1), mac(7))) == [A]

    # --- isolation ----------------------------------------------------------------------

    def test_vpns_do_not_meet(self, world: SwitchWorld) -> None:
        """Two customers with the same VNI numbers, and even the same MACs, never mix."""
        other = [VTEP(ipv4(1), 200), VTEP(ipv4(2), 100), VTEP(ipv4(3), 101)]
        world.join(1, A, B, C)
        world.join(2, *other)
        assert world.sent(other[1], frame(BROADCAST, mac(1))) == [other[0], other[2]]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C]
        assert world.sent(B, frame(mac(1), mac(2))) == [A]
        assert world.sent(other[2], frame(mac(1), mac(2))) == [other[1]]
        assert world.sent(other[0], frame(mac(77), mac(3))) == [other[1], other[2]]
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.dataplane.lookup(2, mac(1)) == other[1]

    def test_strangers_are_dropped_and_teach_nothing(self, world: SwitchWorld) -> None:
        """Nobody gets into a VPN by knowing its VNI: only registered sites do."""
        world.join(1, A, B)
        for stranger in (STRANGER, VTEP(A.nbma, 999), VTEP(A.nbma, 101)):
            assert world.sent(stranger, frame(BROADCAST, mac(66))) == []
            assert ("refused", stranger) in world.listener.take()
        assert world.dataplane.counters()["unregistered"] == 3
        assert world.dataplane.lookup(1, mac(66)) is None

    # --- learning -----------------------------------------------------------------------

    def test_learning(self, world: SwitchWorld) -> None:
        """The NHS knows where a MAC is as soon as it has spoken."""
        world.join(1, A, B)
        assert world.dataplane.lookup(1, mac(1)) is None
        world.send(A, frame(BROADCAST, mac(1)))
        world.deliveries()
        assert world.listener.take() == [("learned", 1, mac(1), A)]
        assert world.dataplane.lookup(1, mac(1)) == A
        (entry,) = world.dataplane.entries(1)
        assert (entry.mac, entry.vtep, entry.static) == (mac(1), A, False)
        one = world.dataplane.entry(1, mac(1))
        assert one[:2] == entry[:2] and 0 <= entry.idle <= one.idle < 5
        assert world.dataplane.entry(2, mac(1)) is world.dataplane.entry(1, mac(2)) is None
        for vpn, expected in ((None, [(1, mac(1))]), (1, [(1, mac(1))]), (2, [])):
            tables = [each for each in world.dataplane.tables(vpn) if each is not None]
            # The laboratory may have a VPN of its own.
            found = [(index, each.mac) for index, each in tables if index < 1000]
            assert found == expected
        assert 0 <= entry.idle < 5
        assert world.dataplane.mac_count(1) == 1
        world.send(A, frame(BROADCAST, mac(1)))
        world.deliveries()
        assert world.listener.take() == []

    @pytest.mark.parametrize("address", [b"", b"\x0a\x00\x00\x01", bytes(16), b"\x02" * 7])
    def test_lookup_of_what_is_no_mac(self, world: SwitchWorld, address: bytes) -> None:
        """A peer that asks for an IP address gets an answer, not a fault."""
        world.join(1, A)
        assert world.dataplane.lookup(1, address) is None
        assert world.dataplane.entry(1, address) is None

    def test_moving(self, world: SwitchWorld) -> None:
        """A machine that migrates is reached at its new place from its first frame on."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        world.send(B, frame(BROADCAST, mac(1)))
        world.deliveries()
        assert world.listener.take() == [("moved", 1, mac(1), A, B)]
        assert world.sent(C, frame(mac(1), mac(3))) == [B]
        assert world.dataplane.lookup(1, mac(1)) == B
        assert world.dataplane.mac_count(1) == 2

    def test_limit(self, world: SwitchWorld) -> None:
        """A VPN keeps to its limit of MACs; what is over it is flooded, not lost."""
        world.join(1, A, B)
        world.join(2, VTEP(ipv4(6), 6), VTEP(ipv4(7), 7))
        for number in range(100):
            world.send(A, frame(BROADCAST, mac(number)))
        world.deliveries()
        events = world.listener.take()
        assert [e[0] for e in events].count("learned") == 64
        assert ("limit", 1, None) in events
        assert world.dataplane.mac_count(1) == len(list(world.dataplane.entries(1))) == 64
        assert sum(each is not None for each in world.dataplane.tables(1)) == 64
        assert world.dataplane.counters()["not_learned"] == 36
        assert world.sent(B, frame(mac(99), mac(0))) == [A]
        assert world.sent(VTEP(ipv4(6), 6), frame(BROADCAST, mac(1))) == [VTEP(ipv4(7), 7)]
        assert world.dataplane.mac_count(2) == 1
        world.dataplane.forget(1, mac(5))
        world.learn(A, mac(99))
        assert world.dataplane.lookup(1, mac(99)) == A
        assert world.dataplane.mac_count(1) == 64

    def test_share_of_a_site(self, world: SwitchWorld) -> None:
        """One site cannot use up the table of its VPN."""
        world.rules = VPNRules(mac_limit=20, site_limit=15)
        world.join(1, A, B)
        for number in range(30):
            world.send(A, frame(BROADCAST, mac(number)))
        world.deliveries()
        assert ("limit", 1, A) in world.listener.take()
        assert world.dataplane.mac_count(1) == 15
        assert world.dataplane.member_counters(1, A).macs == 15
        for number in range(50, 60):
            world.send(B, frame(BROADCAST, mac(number)))
        world.deliveries()
        assert ("limit", 1, None) in world.listener.take()
        assert world.dataplane.mac_count(1) == 20
        assert world.dataplane.member_counters(1, B).macs == 5
        world.learn(B, mac(3))
        assert world.dataplane.member_counters(1, A).macs == 14
        assert world.dataplane.member_counters(1, B).macs == 6
        world.dataplane.forget(1, mac(4))
        assert world.dataplane.member_counters(1, A).macs == 13
        world.learn(A, mac(40))
        assert world.dataplane.member_counters(1, A).macs == 14

    def test_hubs_have_no_share(self, world: SwitchWorld) -> None:
        """Behind another hub are many sites."""
        world.rules = VPNRules(mac_limit=20, site_limit=5)
        world.join_as(HUB_2, hub=True)
        world.learn(HUB_2, *(mac(number) for number in range(30)))
        assert world.dataplane.mac_count(1) == 20

    def test_other_rules(self, world: SwitchWorld) -> None:
        """Rules are changed while the switch runs, and nobody loses anything."""
        world.rules = VPNRules(mac_limit=1)
        world.join(1, A, B)
        world.learn(A, mac(1), mac(2))
        assert world.dataplane.mac_count(1) == 1
        world.dataplane.add_vpn(1, VPNRules(mac_limit=2))
        world.learn(A, mac(2), mac(3))
        assert world.dataplane.mac_count(1) == 2
        assert world.sent(B, frame(mac(1), mac(9))) == [A]

    def test_flood_budget(self, world: SwitchWorld) -> None:
        """A storm at one site does not become one at all the others."""
        world.rules = VPNRules(flood_rate=1, flood_burst=10)
        world.join(1, A, B)
        world.learn(B, mac(2))
        for _ in range(50):
            world.send(A, frame(BROADCAST, mac(1)))
        assert 11 <= len(world.deliveries()) <= 13
        assert ("flooding", 1, A) in world.listener.take()
        dropped = world.dataplane.counters()["flood_rate"]
        assert 37 <= dropped <= 39
        counters = world.dataplane.member_counters(1, A)
        assert counters.dropped == counters.limited == dropped
        # Others, among them a hub that many sites are behind, and known unicast are not affected.
        world.join_as(HUB_2, hub=True)
        for _ in range(50):
            world.send(HUB_2, frame(BROADCAST, mac(3)))
        assert len(world.deliveries()) == 100
        world.dataplane.remove_member(1, HUB_2)
        assert world.sent(B, frame(BROADCAST, mac(2))) == [A]
        assert world.sent(A, frame(mac(2), mac(1))) == [B]

    # --- duplicates ---------------------------------------------------------------------

    def flip(self, world: SwitchWorld, source: bytes, *places: VTEP) -> None:
        """Have a MAC speak at places in turn."""
        for place in places:
            world.send(place, frame(BROADCAST, source))
        world.deliveries()

    def test_a_mac_that_flips_is_held(self, world: SwitchWorld) -> None:
        """Five moves are followed, the sixth is not: it stays where it had settled, frames from
        elsewhere are dropped, and the daemon hears of it once."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), B, A, B, A, B)
        assert [event[0] for event in world.listener.take()] == ["moved"] * 5
        self.flip(world, mac(1), A, B, A, B)
        assert world.listener.take() == [("held", 1, mac(1), A, B, 10.0)]
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.sent(B, frame(BROADCAST, mac(1))) == []
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C]
        assert world.sent(C, frame(mac(1), mac(3))) == [A]
        assert world.dataplane.counters()["duplicate_mac"] == 3
        assert world.dataplane.member_counters(1, B).dropped == 3
        (held,) = world.dataplane.held()
        assert held._replace(seconds=0) == (1, mac(1), A, B, 0)
        assert 0 < held.seconds <= 10

    def test_a_mac_is_held_where_it_has_moved_to(self, world: SwitchWorld) -> None:
        """A station that moves too often, but stays a while each time, is held at its last
        place."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        for place in (B, A, B, A, B):
            world.pass_time(20)
            self.flip(world, mac(1), place)
        world.pass_time(20)
        world.listener.take()
        self.flip(world, mac(1), A)
        assert world.listener.take() == [("held", 1, mac(1), B, A, 10.0)]
        assert world.dataplane.lookup(1, mac(1)) == B

    @pytest.mark.parametrize("apart", [frozenset([HUB_2.nbma]), None, frozenset()])
    def test_a_site_that_changes_its_hub(
        self, world: SwitchWorld, apart: frozenset[bytes] | None
    ) -> None:
        """Its MACs come from it or from its other hub, now and then: they are not held, unless
        it has not said that it has another hub, or they are at both at a time."""
        world.join_as(A, apart=apart)
        world.join_as(HUB_2, hub=True)
        world.learn(A, mac(1))
        for place in [HUB_2, A] * 5:
            world.pass_time(2)
            self.flip(world, mac(1), place)
        assert (list(world.dataplane.held()) == []) is (apart != frozenset())
        world.learn(A, mac(2))
        self.flip(world, mac(2), *[HUB_2, A] * 5)
        assert mac(2) in [each.mac for each in world.dataplane.held()]

    def test_a_hold_goes_along_with_a_site_that_changes_its_hub(self, world: SwitchWorld) -> None:
        """A MAC that is held behind another hub, or at a site that is a member of that hub, too, is
        followed from the one to the other when it has fallen silent where it was. Whoever made it
        flip stays out, and the hold lasts."""
        for site in (A, B):
            world.join_as(site, apart=frozenset([HUB_2.nbma]))
        world.join_as(HUB_2, hub=True)
        world.join_as(D)
        world.learn(HUB_2, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), *[B, HUB_2] * 5)
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (HUB_2, B)
        assert world.sent(A, frame(BROADCAST, mac(1))) == []
        world.pass_time(2.5)
        for site in (B, D):
            assert world.sent(site, frame(BROADCAST, mac(1))) == []
        assert world.sent(A, frame(BROADCAST, mac(1))) == sorted([B, D, HUB_2])
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.listener.take()[-1] == ("moved", 1, mac(1), HUB_2, A)
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (A, B)
        for site in (B, D, HUB_2):
            assert world.sent(site, frame(BROADCAST, mac(1))) == []
        world.pass_time(2.5)
        assert world.sent(D, frame(BROADCAST, mac(1))) == []
        assert world.sent(HUB_2, frame(BROADCAST, mac(1))) == [D]
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (HUB_2, B)

    def test_a_mac_that_is_held_behind_the_hub_that_its_site_has_left(
        self, world: SwitchWorld
    ) -> None:
        """The site was the cause that it flipped: it had just changed its hub, and what a loop
        brings back comes by the other one. When that has been silent for four seconds, the MAC is
        free to be at its site, and the other hub is who stays out."""
        world.join_as(A, apart=frozenset([HUB_2.nbma]))
        world.join_as(HUB_2, hub=True)
        world.learn(HUB_2, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), *[A, HUB_2] * 5)
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (HUB_2, A)
        world.pass_time(3.5)
        assert world.sent(A, frame(BROADCAST, mac(1))) == []
        world.pass_time(1)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [HUB_2]
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (A, HUB_2)
        assert world.sent(HUB_2, frame(BROADCAST, mac(1))) == []

    def test_a_mac_that_is_held_at_the_wrong_site(self, world: SwitchWorld) -> None:
        """Its frames came by another hub, and a loop through two sites brought them back as well.
        It is at a site that changes its hub, and free to be there after four seconds."""
        for site in (A, B, D):
            world.join_as(site, apart=frozenset([HUB_2.nbma]))
        world.join_as(HUB_2, hub=True)
        world.learn(A, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), *[B, A] * 5)
        world.pass_time(3.5)
        assert world.sent(D, frame(BROADCAST, mac(1))) == []
        world.pass_time(1)
        assert world.sent(D, frame(BROADCAST, mac(1))) == sorted([A, B, HUB_2])
        (held,) = world.dataplane.held()
        assert (held.vtep, held.other) == (D, B)

    @pytest.mark.parametrize("apart", [frozenset(), None])
    def test_silence_does_not_end_a_hold_at_a_hub_alone(
        self, world: SwitchWorld, apart: frozenset[bytes] | None
    ) -> None:
        """Where sites have one hub, or do not say which, a MAC is held where it was at home."""
        for site in (A, B, D):
            world.join_as(site, apart=apart)
        world.learn(A, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), *[B, A] * 5)
        world.pass_time(7)
        for site in (B, D):
            assert world.sent(site, frame(BROADCAST, mac(1))) == []

    def test_a_hold_ends(self, world: SwitchWorld) -> None:
        """It is free again by itself; if it goes on flipping, it is held for twice as long, and
        after a time of peace as long as the first time."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.pass_time(2)
        for seconds in (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 640.0):
            self.flip(world, mac(1), *[B, A] * 3)
            assert world.listener.take()[-1] == ("held", 1, mac(1), A, B, seconds)
            while seconds > 1:
                world.pass_time(min(seconds - 1, 200))
                seconds -= min(seconds - 1, 200)
                assert world.sent(B, frame(BROADCAST, mac(1))) == []
                self.flip(world, mac(1), A)
            world.pass_time(1.5)
            assert list(world.dataplane.held()) == []
            world.listener.take()
        self.flip(world, mac(1), B)
        assert world.listener.take() == [("moved", 1, mac(1), A, B)]
        world.pass_time(1000)
        self.flip(world, mac(1), *[A, B] * 3)
        assert world.listener.take()[-1][0] != "held"
        world.pass_time(2)
        self.flip(world, mac(1), A, B)
        assert world.listener.take()[-1][-1] == 10.0

    def test_slow_moves_are_followed(self, world: SwitchWorld) -> None:
        """A station that moves every now and then is never held."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        for place in [B, A] * 8:
            world.pass_time(40)
            self.flip(world, mac(1), place)
            assert world.listener.take()[-1][0] == "moved"

    def test_any_number_of_moves(self, world: SwitchWorld) -> None:
        """Without the rule, every move is followed."""
        world.rules = VPNRules(moves=0)
        world.join(1, A, B)
        world.learn(A, mac(1))
        self.flip(world, mac(1), *[B, A] * 10)
        assert [event[0] for event in world.listener.take()] == ["moved"] * 20

    def test_a_held_mac_whose_site_leaves(self, world: SwitchWorld) -> None:
        """Nobody is shut out for the sake of a site that is gone, or of a silent one."""
        world.join(1, A, B, C)
        for source in (mac(1), mac(2)):
            world.learn(A, source)
            world.pass_time(2)
            self.flip(world, source, *[B, A] * 3)
        assert len(list(world.dataplane.held())) == 2
        world.dataplane.forget(1, mac(2))
        assert len(list(world.dataplane.held())) == 1
        assert world.sent(B, frame(BROADCAST, mac(2))) == [A, C]
        world.dataplane.remove_member(1, A)
        assert list(world.dataplane.held()) == []
        assert world.sent(B, frame(BROADCAST, mac(1))) == [C]
        assert world.sent(C, frame(mac(1), mac(3))) == [B]

    def test_a_hold_outlives_the_daemon(self, world: SwitchWorld) -> None:
        """The switch holds by itself, and the next daemon knows what it holds."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        world.pass_time(2)
        world.kill()
        for place in [B, A] * 4:
            world.send(place, frame(BROADCAST, mac(1)))
        world.restart()
        world.deliveries()
        assert ("held", 1, mac(1), A, B, 10.0) in world.listener.take()
        (held,) = world.dataplane.held()
        assert (held.mac, held.vtep, held.other) == (mac(1), A, B)
        assert world.sent(B, frame(BROADCAST, mac(1))) == []

    def test_floods_in_the_name_of_a_held_mac(self, world: SwitchWorld) -> None:
        """What a loop feeds back to the hub dies out: it is a hundred frames a second at most."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        world.pass_time(2)
        self.flip(world, mac(1), *[B, A] * 3)
        for _ in range(500):
            world.send(A, frame(BROADCAST, mac(1)))
        assert 200 <= len(world.deliveries()) < 400
        assert 300 < world.dataplane.counters()["held_flood"] <= 400
        assert world.sent(A, frame(BROADCAST, mac(9))) == [B, C]
        assert world.sent(C, frame(mac(1), mac(3))) == [A]

    # --- sticky MACs --------------------------------------------------------------------

    def test_sticky_macs_do_not_move(self, world: SwitchWorld) -> None:
        """A MAC is of the site that was the first to have it, as long as that has it."""
        world.rules = VPNRules(sticky=(Sticky(bytes(6), 0),))
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        assert world.sent(B, frame(BROADCAST, mac(1))) == []
        assert world.listener.take() == [("stuck", 1, mac(1), A, B)]
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.dataplane.counters()["sticky_mac"] == 1
        assert world.dataplane.member_counters(1, B).dropped == 1
        world.pass_time(301)
        assert world.sent(B, frame(BROADCAST, mac(1))) == [A, C]
        assert world.dataplane.lookup(1, mac(1)) == B
        world.dataplane.remove_member(1, B)
        assert world.sent(C, frame(BROADCAST, mac(1))) == [A]

    def test_macs_that_belong_to_a_site(self, world: SwitchWorld) -> None:
        """A MAC that is given to a site is never learnt elsewhere; the longest prefix decides."""
        world.rules = VPNRules(
            sticky=(
                Sticky(mac(0), 24, A.nbma),
                Sticky(mac(7), 48, D.nbma),
                Sticky(mac(8), 48),
            )
        )
        world.join(1, A, B, D)
        world.join(2, C)
        assert world.sent(B, frame(BROADCAST, mac(1))) == []
        assert world.listener.take() == [("stuck", 1, mac(1), None, B)]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, D]
        assert world.sent(D, frame(BROADCAST, mac(1))) == []
        assert world.sent(A, frame(BROADCAST, mac(7))) == []
        assert world.sent(D, frame(BROADCAST, mac(7))) == [A, B]
        assert world.sent(B, frame(BROADCAST, mac(8))) == [A, D]
        assert world.sent(A, frame(BROADCAST, mac(8))) == []
        assert world.sent(B, frame(BROADCAST, b"\x02\xbb\0\0\0\1")) == [A, D]
        world.rules = VPNRules(sticky=(Sticky(mac(7), 48, D.nbma),))
        world.join(1)
        assert world.sent(B, frame(BROADCAST, mac(1))) == [A, D]
        assert world.sent(B, frame(BROADCAST, mac(7))) == []
        world.kill()
        world.restart()
        world.deliveries()
        assert world.sent(B, frame(BROADCAST, mac(7))) == []
        world.rules = VPNRules()
        world.join(1, A, B, D)
        assert world.sent(B, frame(BROADCAST, mac(7))) == [A, D]

    def test_sticky_macs_and_hubs(self, world: SwitchWorld) -> None:
        """What another hub lets pass is its own affair, as long as no site here has the MAC."""
        world.rules = VPNRules(sticky=(Sticky(mac(0), 24, A.nbma),))
        world.join(1, A, B)
        world.join_as(HUB_2, hub=True)
        assert world.sent(HUB_2, frame(BROADCAST, mac(1))) == [A, B]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, HUB_2]
        assert world.sent(HUB_2, frame(BROADCAST, mac(1))) == []
        assert world.dataplane.lookup(1, mac(1)) == A

    # --- loops --------------------------------------------------------------------------

    def test_a_probe_that_comes_back(self, world: SwitchWorld) -> None:
        """Sites that are connected behind the hub's back are both named; nobody else gets it."""
        world.join(1, A, B, C, D)
        for site, other in ((A, B), (D, A), (C, C)):
            probe = world.probe(1, site)
            assert probe.vtep == site
            assert probe.frame[:6] == BROADCAST
            assert len(probe.frame) >= 60
            assert world.sent(other, probe.frame) == []
            assert world.listener.take() == [("loop", 1, site, other)]
        assert world.dataplane.counters()["loop_probe"] == 3
        assert world.dataplane.mac_count(1) == 0

    def test_floods_of_a_site_in_a_loop(self, world: SwitchWorld) -> None:
        """What a site floods is bounded while probes come back from it, even if no MAC flips here:
        another hub may be part of the way. Nobody else is, and it is over with the probes."""
        world.join(1, A, B, C)
        world.join_as(HUB_2, hub=True)
        probe = world.probe(1, B)
        assert world.sent(A, probe.frame) == []
        assert world.sent(HUB_2, probe.frame) == []
        for _ in range(300):
            world.send(A, frame(BROADCAST, mac(1)))
        assert 300 <= len(world.deliveries()) < 600
        assert 100 < world.dataplane.counters()["loop_flood"] <= 200
        assert world.sent(A, frame(BROADCAST, mac(9))) == []
        for sender in (B, HUB_2):
            for _ in range(300):
                world.send(sender, frame(BROADCAST, mac(2)))
                assert A in {each.vtep for each in world.deliveries()}
        world.learn(C, mac(3))
        assert world.sent(A, frame(mac(3), mac(1))) == [C]
        world.pass_time(5)
        for _ in range(300):
            assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C, HUB_2]

    def test_probes_of_others(self, world: SwitchWorld) -> None:
        """Only our own probes are proof, and what is none is a frame like any other."""
        world.join(1, A, B)
        probe = world.probe(1, A)
        world.dataplane.remove_member(1, A)
        assert world.sent(B, probe.frame) == []
        assert world.listener.take() == [("loop", 1, None, B)]
        world.join(1, A)
        altered = probe.frame[:14] + bytes(46)
        assert world.sent(B, altered) == [A]
        world.dataplane.probe(1, C)
        world.dataplane.probe(2, A)
        assert world.deliveries() == []

    def test_probes_of_other_hubs_die_out(self, world: SwitchWorld) -> None:
        """They go on, so that a loop through several hubs is found. But the way round may not lead
        by whose they are, and one that always comes from the same site flips no MAC: it goes round
        three times and no more, and nothing is learned from it."""
        world.join(1, A, B)
        probe = bytearray(world.probe(1, A).frame)
        probe[world.probe_secret] = b"somebody"
        arrived = [Delivery(HUB_IPV4, A, bytes(probe))]
        rounds = -1
        while arrived and rounds < 10:
            assert {delivery.vtep for delivery in arrived} == {A}
            rounds += 1
            world.send(B, arrived[0].frame)
            arrived = world.deliveries()
        assert rounds == 3
        assert world.dataplane.counters()["loop_probe"] == 1
        assert world.dataplane.mac_count(1) == 0
        assert world.listener.take() == []

    def test_forgetting(self, world: SwitchWorld) -> None:
        """What an operator flushes is learnt anew."""
        world.join(1, A, B, C)
        world.learn(A, mac(1), mac(2))
        world.dataplane.forget(1, mac(1))
        world.dataplane.forget(1, mac(1))
        world.dataplane.forget(7, mac(1))
        assert world.dataplane.lookup(1, mac(1)) is None
        assert [entry.mac for entry in world.dataplane.entries(1)] == [mac(2)]
        assert world.dataplane.mac_count(1) == 1
        assert world.sent(B, frame(mac(1), mac(3))) == [A, C]

    # --- ageing -------------------------------------------------------------------------

    def test_ageing_needs_no_daemon(self, world: SwitchWorld) -> None:
        """A machine that left in silence is flooded for after the ageing time."""
        world.join(1, A, B, C)
        world.learn(B, mac(2))
        world.pass_time(299)
        assert world.sent(A, frame(mac(2), mac(1))) == [B]
        world.pass_time(2)
        assert world.dataplane.lookup(1, mac(2)) is None
        assert world.sent(A, frame(mac(2), mac(1))) == [B, C]
        world.listener.take()
        world.send(B, frame(BROADCAST, mac(2)))
        world.deliveries()
        assert world.listener.take() == [("learned", 1, mac(2), B)]
        assert world.sent(A, frame(mac(2), mac(1))) == [B]

    def test_age_removes_the_silent(self, world: SwitchWorld) -> None:
        """The table shrinks again, and whoever watches hears of each MAC."""
        world.join(1, A, B)
        world.join(2, C)
        world.learn(A, mac(1), mac(2))
        world.learn(C, mac(3))
        world.pass_time(200)
        world.learn(A, mac(1))
        world.dataplane.age(100, {})
        world.settle()
        assert sorted(world.listener.take()) == [("aged", 1, mac(2)), ("aged", 2, mac(3))]
        assert [entry.mac for entry in world.dataplane.entries(1)] == [mac(1)]
        assert world.dataplane.mac_count(1) == 1
        assert world.dataplane.mac_count(2) == 0

    def test_age_refreshes_what_is_kept(self, world: SwitchWorld) -> None:
        """A MAC whose traffic takes shortcuts stays known though the hub does not see it."""
        world.join(1, A, B, C)
        world.learn(A, mac(1), mac(2))
        for _ in range(3):
            world.pass_time(200)
            world.dataplane.age(300, {1: [mac(1), mac(77)], 9: [mac(1)]})
            world.settle()
        assert ("aged", 1, mac(2)) in world.listener.take()
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.sent(B, frame(mac(1), mac(3))) == [A]
        assert [e.mac for e in world.dataplane.entries(1) if e.idle < 100] != []

    def test_age_leaves_moved_macs_at_their_new_place(self, world: SwitchWorld) -> None:
        """Refreshing a MAC never sends its traffic back to where it was."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        world.dataplane.age(300, {1: [mac(1)]})
        world.learn(B, mac(1))
        world.settle()
        assert world.dataplane.lookup(1, mac(1)) == B

    # --- membership ---------------------------------------------------------------------

    def test_removed_member(self, world: SwitchWorld) -> None:
        """A site whose registration ends neither sends nor receives, and its MACs are forgotten."""
        world.join(1, A, B, C)
        world.learn(B, mac(2))
        world.dataplane.remove_member(1, B)
        assert world.dataplane.lookup(1, mac(2)) is None
        assert list(world.dataplane.entries(1)) == []
        assert world.sent(A, frame(BROADCAST, mac(1))) == [C]
        assert world.sent(A, frame(mac(2), mac(1))) == [C]
        assert world.sent(B, frame(BROADCAST, mac(2))) == []
        assert world.dataplane.member_counters(1, B) is None
        world.settle()
        assert world.dataplane.mac_count(1) == 1
        assert "aged" not in [event[0] for event in world.listener.take()]
        world.dataplane.remove_member(1, B)
        world.dataplane.remove_member(2, A)
        assert world.sent(C, frame(BROADCAST, mac(3))) == [A]

    def test_mac_of_a_removed_member_elsewhere(self, world: SwitchWorld) -> None:
        """A forgotten MAC that speaks at another site is new there."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.dataplane.remove_member(1, A)
        world.send(B, frame(BROADCAST, mac(1)))
        world.deliveries()
        assert world.listener.take() == [("learned", 1, mac(1), B)]

    def test_member_that_comes_back(self, world: SwitchWorld) -> None:
        """What a site's MACs were before it left says nothing about where they are now."""
        world.join(1, A, B, C)
        world.learn(B, mac(2))
        world.dataplane.remove_member(1, B)
        world.join(1, B)
        assert world.dataplane.lookup(1, mac(2)) is None
        assert world.sent(A, frame(mac(2), mac(1))) == [B, C]
        world.learn(B, mac(2))
        assert world.sent(A, frame(mac(2), mac(1))) == [B]

    def test_refresh_changes_nothing_else(self, world: SwitchWorld) -> None:
        """Renewing a registration loses no MAC and no count, and floods no frame twice."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        before = world.dataplane.member_counters(1, A)
        assert before.rx_packets == 1
        world.join(1, A, B)
        assert world.dataplane.member_counters(1, A) == before
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_a_vtep_belongs_to_one_vpn(self, world: SwitchWorld) -> None:
        """What a frame of a VTEP belongs to is never ambiguous."""
        world.join(1, A, B)
        with pytest.raises(ValueError, match="VPN 1"):
            world.join(2, A)
        with pytest.raises(ValueError, match="VNI"):
            world.join(1, VTEP(ipv4(9), None))
        with pytest.raises(ValueError, match="VPN 8"):
            world.dataplane.add_member(8, C, b"", Registration(mac(1), False, 1e9))
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_churn(self, world: SwitchWorld) -> None:
        """After any number of arrivals and departures a broadcast reaches exactly the members."""
        chance = random.Random(7)
        sites = [VTEP(ipv4(number), 100 + number) for number in range(1, 16)]
        sender = VTEP(ipv4(20), 5)
        world.join(1, sender)
        members: set[VTEP] = set()
        for _ in range(12):
            for vtep in chance.sample(sites, 5):
                if vtep in members:
                    members.discard(vtep)
                    world.dataplane.remove_member(1, vtep)
                else:
                    members.add(vtep)
                    world.join(1, vtep)
            if chance.random() < 0.3:
                world.settle()
            assert world.sent(sender, frame(BROADCAST, mac(1))) == sorted(members)

    def test_removed_vpn(self, world: SwitchWorld) -> None:
        """A VPN that is served no more passes nothing; served again it starts empty."""
        world.join(1, A, B)
        world.join(2, C, D)
        world.learn(A, mac(1))
        world.dataplane.remove_vpn(1)
        world.dataplane.remove_vpn(1)
        assert world.sent(A, frame(BROADCAST, mac(1))) == []
        assert world.dataplane.lookup(1, mac(1)) is None
        assert world.sent(C, frame(BROADCAST, mac(3))) == [D]
        world.join(1, A, B)
        assert list(world.dataplane.entries(1)) == []
        world.settle()
        assert world.dataplane.mac_count(1) == 0
        assert world.sent(B, frame(mac(1), mac(2))) == [A]

    def test_counters_of_a_member(self, world: SwitchWorld) -> None:
        """`member show` tells who sends, receives and floods how much."""
        world.join(1, A, B)
        for number in range(3):
            world.send(A, frame(BROADCAST, mac(number)))
        world.send(B, frame(mac(1), mac(9)))
        world.deliveries()
        counters = world.dataplane.member_counters(1, A)
        assert counters._replace(rx_bytes=0, tx_bytes=0) == (3, 0, 1, 0, 3, 0, 0, 3)
        assert counters.rx_bytes == 3 * 60
        assert counters.tx_bytes == 60
        assert world.dataplane.member_counters(1, C) is None
        assert world.dataplane.member_counters(2, A) is None

    # --- other hubs ---------------------------------------------------------------------

    def test_split_horizon_of_floods(self, world: SwitchWorld) -> None:
        """Hubs send to each other: what came from a hub goes to sites only, so it cannot circle."""
        world.join(1, A, B)
        world.join_as(HUB_2, hub=True)
        world.join_as(HUB_3, hub=True)
        assert world.sent(A, frame(BROADCAST, mac(1))) == sorted([B, HUB_2, HUB_3])
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A, B]
        assert world.sent(HUB_3, frame(mac(99), mac(3))) == [A, B]

    def test_split_horizon_of_known_macs(self, world: SwitchWorld) -> None:
        """Nor does a frame for a MAC behind a third hub, which its own hub has sent there."""
        world.join(1, A)
        world.join_as(HUB_2, hub=True)
        world.join_as(HUB_3, hub=True)
        world.learn(HUB_2, mac(2))
        world.learn(HUB_3, mac(3))
        assert world.sent(A, frame(mac(3), mac(1))) == [HUB_3]
        assert world.sent(HUB_2, frame(mac(1), mac(2))) == [A]
        assert world.sent(HUB_2, frame(mac(3), mac(2))) == []
        assert world.dataplane.counters()["split_horizon"] == 1
        assert world.dataplane.member_counters(1, HUB_2).dropped == 1

    def test_a_site_that_is_a_member_of_two_hubs(self, world: SwitchWorld) -> None:
        """It gets what another hub's sites flood from there; unicast it gets by any way."""
        world.join(1, A)
        world.join_as(B, apart=frozenset([HUB_2.nbma]))
        world.join_as(C, apart=None)
        world.join_as(HUB_2, hub=True)
        world.join_as(HUB_3, hub=True)
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A]
        assert world.sent(HUB_3, frame(BROADCAST, mac(3))) == [A, B]
        assert world.sent(A, frame(BROADCAST, mac(1))) == sorted([B, C, HUB_2, HUB_3])
        world.learn(B, mac(20))
        world.learn(C, mac(30))
        assert world.sent(HUB_2, frame(mac(20), mac(2))) == [B]
        assert world.sent(HUB_2, frame(mac(30), mac(2))) == [C]

    def test_a_member_becomes_a_hub_and_a_site_again(self, world: SwitchWorld) -> None:
        """A reload that names or forgets a hub takes effect with its registration."""
        world.join(1, A, HUB_2)
        world.join_as(HUB_3, hub=True)
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == sorted([A, HUB_3])
        world.join_as(HUB_2, hub=True)
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A]
        world.join(1, HUB_2)
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == sorted([A, HUB_3])
        world.join_as(A, apart=frozenset([HUB_3.nbma]))
        assert world.sent(HUB_3, frame(BROADCAST, mac(3))) == [HUB_2]
        world.join_as(A)
        assert world.sent(HUB_3, frame(BROADCAST, mac(3))) == [A, HUB_2]

    def test_a_move_from_behind_a_hub_is_told_to_it(self, world: SwitchWorld) -> None:
        """The first frame from the new place goes to all, so that the old hub learns of it, too,
        though it be for somebody who is known."""
        world.join(1, A, B)
        world.join_as(HUB_2, hub=True)
        world.join_as(HUB_3, hub=True)
        world.learn(B, mac(2))
        world.learn(HUB_2, mac(1))
        assert world.sent(A, frame(mac(2), mac(1))) == sorted([B, HUB_2, HUB_3])
        assert world.sent(A, frame(mac(2), mac(1))) == [B]
        # From hub to hub: the old one hears it from the new one itself.
        world.learn(HUB_2, mac(5))
        assert world.sent(HUB_3, frame(mac(2), mac(5))) == [B]
        # From here to a hub: no hub has to be told.
        world.learn(A, mac(6))
        assert world.sent(HUB_2, frame(mac(2), mac(6))) == [B]

    def test_hubs_after_a_restart(self, world: SwitchWorld) -> None:
        """Who is a hub, and whose floods a site does not get, outlives the daemon."""
        world.join(1, A)
        world.join_as(HUB_2, hub=True)
        world.join_as(B, apart=frozenset([HUB_2.nbma]))
        world.join_as(C, apart=frozenset([HUB_3.nbma]))
        world.join_as(D, apart=None)
        world.kill()
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A, C]
        world.restart()
        found = {vtep: (each.hub, each.apart) for _, vtep, _, each in world.adopted()}
        assert found == {
            A: (False, frozenset()),
            B: (False, frozenset([HUB_2.nbma])),
            C: (False, frozenset([HUB_3.nbma])),
            D: (False, None),
            HUB_2: (True, None),
        }
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A, C]
        world.join_as(HUB_3, hub=True)
        assert world.sent(HUB_3, frame(BROADCAST, mac(3))) == [A, B]
        assert world.sent(HUB_2, frame(BROADCAST, mac(2))) == [A, C]

    # --- end and beginning --------------------------------------------------------------

    def test_killed_and_started_again(self, world: SwitchWorld) -> None:
        """A hub's daemon may die: frames go on, and its successor knows every member."""
        world.join(1, A)
        world.join(2, C)
        expires = world.seconds() + 500
        world.dataplane.add_member(1, B, HUB_IPV4, Registration(mac(2), True, expires))
        world.dataplane.add_member(1, D, HUB_IPV6, Registration(mac(4), False, float("inf")))
        world.learn(A, mac(1))
        world.kill()
        assert world.sent(B, frame(mac(1), mac(2))) == [A]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, D]
        world.restart()
        adopted = {(vpn, vtep): rest for vpn, vtep, *rest in world.adopted()}
        assert set(adopted) == {(1, A), (1, B), (1, D), (2, C)}
        local, registration = adopted[1, B]
        assert (local, registration.station, registration.unique) == (HUB_IPV4, mac(2), True)
        assert registration.expires == pytest.approx(expires, abs=5)
        assert adopted[1, D][1].expires == float("inf")
        assert world.dataplane.lookup(1, mac(1)) == A
        assert world.sent(A, frame(mac(2), mac(1))) == [B]
        world.dataplane.add_vpn(1, world.rules)
        world.dataplane.remove_member(1, B)
        world.join(1, VTEP(ipv4(8), 8))
        assert world.sent(A, frame(BROADCAST, mac(1))) == [VTEP(ipv4(8), 8), D]

    def test_handed_over(self, world: SwitchWorld) -> None:
        """A stop that leaves the switch costs no member, and again is harmless."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.dataplane.hand_over()
        world.dataplane.hand_over()
        assert world.sent(B, frame(mac(1), mac(2))) == [A]
        world.restart()
        assert {(vpn, vtep) for vpn, vtep, *_ in world.adopted()} == {(1, A), (1, B)}
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_events_of_the_time_between(self, world: SwitchWorld) -> None:
        """A MAC that moved while no daemon ran is reported to the next one."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.kill()
        world.sent(B, frame(BROADCAST, mac(1)))
        world.restart()
        world.deliveries()
        assert ("moved", 1, mac(1), A, B) in world.listener.take()

    def test_lost_events(self, world: SwitchWorld) -> None:
        """When more happens than can be reported, the role is told to look at the table."""
        world.join(1, A, B)
        world.lose_events()
        assert ("lost",) in world.listener.take()
        world.pass_time(5)
        assert world.listener.take() == []

    def test_stop(self, world: SwitchWorld) -> None:
        """A clean stop ends the forwarding, and what comes after it starts empty."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.dataplane.stop()
        world.dataplane.stop()
        world.restart()
        assert world.adopted() == []
        world.join(1, B)
        assert world.dataplane.lookup(1, mac(1)) is None
        assert world.sent(A, frame(BROADCAST, mac(1))) == []
