"""Keepalives: when a server is silent, when it is back, and what is asked how often."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.keepalive import REPEATED_AFTER, UNSUPPORTED_AFTER, Keepalives, Status
from dmevpn.nhrp.packet import ErrorIndication, Packet, PurgeRequest, RegistrationRequest
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.requests import Outstanding
from tests.nhrp.neighbours import (
    HUB,
    HUB_MAC,
    STATION_A,
    STATION_B,
    TO_HUB,
    VTEP_A,
    Link,
    no_jitter,
    outstanding,
)

INTERVAL = 0.6
MULTIPLIER = 3
SILENT_AFTER = INTERVAL * (1 + MULTIPLIER * REPEATED_AFTER) + 0.05


class VPN:
    """One VPN of a site: its registration with the server, and the server, played by the test."""

    def __init__(self, world: World, station: bytes) -> None:
        self.world = world
        self.link = Link()
        self.requests: Outstanding = outstanding(world.clock, world.metrics, 100)
        self.client = RegistrationClient(
            clock=world.clock,
            jitter=no_jitter,
            outstanding=self.requests,
            link=self.link,
            path=TO_HUB,
            station=station,
            vtep=VTEP_A,
            holding_time=600,
            mtu=1450,
            metrics=world.metrics,
            on_change=lambda client, old, new: world.keepalives.changed(client),
        )
        world.keepalives.add(self.client)
        self.client.start()

    def play(self) -> None:
        """Answer what was sent, as far as the server does so; keep what it was."""
        for packet in self.link.take():
            self.world.seen.append((self.world.clock.seconds(), packet))
            if self.world.answers(packet):
                cies: Any = packet.cies
                if isinstance(packet, RegistrationRequest):
                    code = CIECode.PROHIBITED if self.world.refuses else CIECode.SUCCESS
                    cies = (CIE(code, prefix_length=0xFF, holding_time=600),)
                self.requests.reply_received(packet.reply(cies), TO_HUB)
            elif self.world.error:
                indication = ErrorIndication(
                    source_nbma=HUB,
                    source_protocol=HUB_MAC,
                    destination_protocol=packet.source_protocol,
                    code=self.world.error,
                    contents=packet.encode(),
                )
                self.requests.reply_received(indication, TO_HUB)


class World:
    """A site with VPNs that register with one server."""

    def __init__(self, interval: float = INTERVAL, multiplier: int = MULTIPLIER) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.keepalives = Keepalives(self.clock, no_jitter, self.metrics, interval, multiplier)
        self.seen: list[tuple[float, Packet]] = []
        self.registers = self.purges = True
        self.lost: Callable[[], bool] = lambda: False
        self.refuses = False
        self.error = 0
        self.vpns = [VPN(self, STATION_A)]

    def answers(self, packet: Packet) -> bool:
        if self.lost():
            return False
        return self.purges if isinstance(packet, PurgeRequest) else self.registers

    def run(self, seconds: float, step: float = 0.01) -> None:
        for _ in range(round(seconds / step)):
            for vpn in self.vpns:
                vpn.play()
            self.clock.advance(step)

    def probes(self) -> list[float]:
        """When keepalives were sent, since the last time."""
        times = [at for at, packet in self.seen if isinstance(packet, PurgeRequest)]
        self.seen.clear()
        return times

    @property
    def status(self) -> Status | None:
        return self.keepalives.status(HUB)

    def states(self) -> list[State]:
        return [vpn.client.state for vpn in self.vpns]

    def time_until(self, done: Any, limit: float = 10.0) -> float:
        begin = self.clock.seconds()
        while not done():
            self.run(0.01)
            assert self.clock.seconds() - begin < limit
        return self.clock.seconds() - begin


@pytest.fixture
def world() -> World:
    world = World()
    world.run(2)
    assert world.status is Status.UP
    assert world.states() == [State.REGISTERED]
    return world


def test_what_is_sent(world: World) -> None:
    """A Purge Request that wants a reply and names nothing, from our station to itself."""
    packets = [packet for _, packet in world.seen if isinstance(packet, PurgeRequest)]
    assert packets
    for packet in packets:
        assert (packet.flags, packet.cies, packet.extensions) == (0, (), ())
        assert packet.source_protocol == packet.destination_protocol == STATION_A


def test_one_keepalive_an_interval(world: World) -> None:
    """While a server answers, it is asked once an interval, whatever the number of VPNs."""
    world.vpns += [VPN(world, STATION_B), VPN(world, HUB_MAC)]
    world.run(1)
    world.probes()
    world.run(45)
    assert 74 <= len(world.probes()) <= 84  # as chance may make intervals a tenth shorter


@pytest.mark.parametrize(("interval", "multiplier"), [(0.6, 3), (0.5, 5), (0.12, 2), (3.0, 10)])
def test_silence_is_noticed_in_time(interval: float, multiplier: int) -> None:
    """An interval and MULTIPLIER sixths of it after the last answer at the latest."""
    world = World(interval, multiplier)
    world.run(3 * interval + 1)
    world.purges = world.registers = False
    world.probes()
    taken = world.time_until(lambda: world.states() == [State.DOWN])
    repeating = multiplier * interval * REPEATED_AFTER
    assert repeating <= taken <= interval + repeating + 0.01 * (multiplier + 2)
    assert world.status is Status.SILENT
    assert len(world.probes()) == 2 * multiplier - 1


def test_all_vpns_hear_of_it(world: World) -> None:
    """One exchange serves every registration with the server."""
    world.vpns.append(VPN(world, STATION_B))
    world.run(1)
    assert world.states() == [State.REGISTERED] * 2
    world.purges = world.registers = False
    world.run(1)
    assert world.states() == [State.DOWN] * 2
    assert [vpn.client.last_error for vpn in world.vpns] == ["no answer"] * 2


def test_two_that_are_lost_mean_nothing(world: World) -> None:
    """What is unanswered is repeated faster, so that a few lost packets are no silence."""
    for _ in range(20):
        world.purges = False
        world.time_until(lambda: len(world.probes()) > 0)
        world.run(1.5 * INTERVAL * REPEATED_AFTER)
        world.purges = True
        world.run(INTERVAL)
    assert world.states() == [State.REGISTERED]
    assert world.status is Status.UP


@pytest.mark.parametrize(("loss", "most"), [(0.1, 2), (0.3, 60)])
def test_where_packets_are_lost(loss: float, most: int) -> None:
    """With 10 % of the packets lost each way a server seems to be silent once in 4,000 intervals,
    with 30 % in 30. It is asked 1,000 times here and more."""
    world = World()
    world.run(2)
    chance = Random(1)
    world.lost = lambda: chance.random() > (1 - loss) ** 2
    world.run(600)
    assert world.metrics.value("keepalives_sent") >= 1000
    assert (loss > 0.2) <= world.metrics.value("servers_silent") <= most


def test_back_it_is_registered_with_first(world: World) -> None:
    """A server that answers again may have forgotten us: all register anew within a second, one
    after the other."""
    world.vpns += [VPN(world, STATION_B), VPN(world, HUB_MAC)]
    world.run(1)
    world.purges = world.registers = False
    world.run(100)
    assert world.states() == [State.DOWN] * 3
    world.seen.clear()
    world.purges = world.registers = True
    taken = world.time_until(lambda: world.states() == [State.REGISTERED] * 3)
    assert taken <= INTERVAL + 1.1
    times = [at for at, packet in world.seen if isinstance(packet, RegistrationRequest)]
    assert len(times) == len(set(times)) == 3
    assert world.status is Status.UP


def test_a_registration_that_is_answered_counts_too(world: World) -> None:
    """Whatever shows that the server is back does, also for the other VPNs."""
    world.vpns.append(VPN(world, STATION_B))
    world.run(1)
    world.purges = world.registers = False
    world.run(1)
    assert world.states() == [State.DOWN] * 2
    world.registers = True
    world.vpns[0].client.renew()
    world.run(0.5)
    assert world.states() == [State.REGISTERED] * 2


def test_a_server_that_answers_none(world: World) -> None:
    """FRR answers no purge: it is not called dead, asked no more, and tried again later."""
    world = World()
    world.purges = False
    world.run(20)
    assert world.status is Status.UNSUPPORTED
    assert world.states() == [State.REGISTERED]
    assert len(world.probes()) == UNSUPPORTED_AFTER
    world.vpns[0].client.silent()
    world.run(1)
    assert world.states() == [State.REGISTERED]
    world.purges = True
    world.run(1)
    assert world.status is Status.UP


def test_an_error_is_an_answer(world: World) -> None:
    """Who answers with an error is there; but perhaps we are not registered any more."""
    world.purges = world.registers = False
    world.error = ErrorCode.VPN_UNSUPPORTED
    assert world.time_until(lambda: world.states() == [State.REFUSED]) <= INTERVAL + 0.05
    world.seen.clear()
    world.run(100)
    registrations = [packet for _, packet in world.seen if isinstance(packet, RegistrationRequest)]
    assert len(world.probes()) <= len(registrations) + 1 <= 6, "who refuses us is not asked on"


def test_one_that_refuses_us_and_was_away(world: World) -> None:
    """A server that is drained answers, and has no registration of ours: when it has been silent,
    it is asked for one at once."""
    world.refuses = True
    (vpn,) = world.vpns
    vpn.client.renew()
    world.run(5)
    assert world.states() == [State.REFUSED]
    assert len(world.probes()) > 5
    world.purges = world.registers = False
    assert world.time_until(lambda: world.status is Status.SILENT) <= SILENT_AFTER
    world.run(5)
    world.purges = world.registers = True
    world.refuses = False
    assert world.time_until(lambda: world.states() == [State.REGISTERED]) <= INTERVAL + 0.05


def test_errors_do_not_make_a_storm(world: World) -> None:
    """A server that registers us but answers keepalives with errors has one more registration
    every ten seconds."""
    world.purges = False
    world.error = ErrorCode.PROTOCOL_ERROR
    world.seen.clear()
    world.run(100)
    assert world.states() == [State.REGISTERED]
    renewals = [each for _, each in world.seen if isinstance(each, RegistrationRequest)]
    assert 9 <= len(renewals) <= 11


def test_a_daemon_that_was_stopped(world: World) -> None:
    """Whoever stood still for a minute, as in a debugger, blames nobody: the answers are there,
    only later than the timers."""
    for _ in range(10):
        world.clock.advance(60)
        world.run(0.5)
        assert world.status is Status.UP
        assert world.states() == [State.REGISTERED]


def test_a_daemon_that_has_missed_something(world: World) -> None:
    """Nobody has seen what the server did while the daemon was stopped: all registrations are
    renewed, at a pace, whether it answers or not; after a shorter delay none is."""
    world.vpns.append(VPN(world, STATION_B))
    world.run(5)
    for stopped, renewed in ((0.9, 0), (30, 2)):
        world.seen.clear()
        world.clock.advance(stopped)
        world.run(2)
        requests = [packet for _, packet in world.seen if isinstance(packet, RegistrationRequest)]
        assert len(requests) == renewed
    assert world.status is Status.UP
    assert world.states() == [State.REGISTERED] * 2


def test_late_answers_are_answers(world: World) -> None:
    """A way of a quarter of a second there and back is no silence."""
    late: list[tuple[float, VPN, Any]] = []
    (vpn,) = world.vpns
    for _ in range(3000):
        late += [(world.clock.seconds() + 0.25, vpn, each) for each in vpn.link.take()]
        while late and late[0][0] <= world.clock.seconds():
            _, _, packet = late.pop(0)
            cies: Any = packet.cies
            if isinstance(packet, RegistrationRequest):
                cies = (CIE(prefix_length=0xFF, holding_time=600),)
            vpn.requests.reply_received(packet.reply(cies), TO_HUB)
        world.clock.advance(0.01)
        assert world.states() == [State.REGISTERED]


def test_nothing_is_left(world: World) -> None:
    """After the last registration has gone there is no timer, in whatever state."""
    world.purges = world.registers = False
    for seconds in (0.2, 1, 1):
        world.run(seconds)
    world.purges = True
    world.run(0.6)
    for vpn in world.vpns:
        world.keepalives.remove(vpn.client)
        world.keepalives.remove(vpn.client)
        vpn.client.stop()
        vpn.requests.close()
    assert not world.clock.getDelayedCalls()
    assert world.status is None


def test_off_on_and_at_another_rate(world: World) -> None:
    """A reload changes how often is asked, and whether."""
    world.keepalives.set(0, 2)
    world.probes()
    world.run(5)
    assert world.status is None
    assert not world.probes()
    world.keepalives.set(1.0, 3)
    world.run(11)
    assert world.status is Status.UP
    assert 9 <= len(world.probes()) <= 13
    world.keepalives.set(1.0, 3)
    world.keepalives.set(0.1, 3)
    world.run(2)
    world.purges = world.registers = False
    assert world.time_until(lambda: world.status is Status.SILENT) <= 0.2


def test_no_room_for_a_request(world: World) -> None:
    """Requests beyond what may be under way are not sent, and nothing breaks."""
    (vpn,) = world.vpns
    vpn.requests._limit = 0
    world.run(3)
    vpn.requests._limit = 100
    world.run(12)
    assert world.states() == [State.REGISTERED]


def test_a_server_that_is_away_at_first() -> None:
    """A site that starts before its server registers as soon as that is there, not only when its
    request is due to be repeated, and knows from then on when it falls silent."""
    world = World()
    world.registers = world.purges = False
    world.run(40)
    assert (world.states(), world.status) == ([State.DOWN], Status.UNKNOWN)
    world.registers = world.purges = True
    time = world.time_until(lambda: world.states() == [State.REGISTERED])
    assert time <= INTERVAL + 0.1
    assert world.status is Status.UP


def test_a_server_without_keepalives_that_is_away_at_first() -> None:
    """That it has left keepalives unanswered before it was there does not count."""
    world = World()
    world.registers = world.purges = False
    world.run(20)
    world.registers = True
    world.time_until(lambda: world.states() == [State.REGISTERED], limit=64)
    assert world.status is Status.UNKNOWN
    world.run(UNSUPPORTED_AFTER * INTERVAL + 1)
    assert (world.states(), world.status) == ([State.REGISTERED], Status.UNSUPPORTED)
    world.probes()
    world.run(10)
    assert world.probes() == []


def test_a_server_that_is_lost_before_its_first_answer() -> None:
    """It registers a site, loses its power in the same moment, and is back before the site has
    given up its keepalives: it has forgotten the site, which registers anew."""
    world = World()
    world.purges = False
    world.time_until(lambda: world.states() == [State.REGISTERED])
    world.registers = False
    world.run((UNSUPPORTED_AFTER - 4) * INTERVAL)
    world.seen.clear()
    world.registers = world.purges = True
    world.run(2 * INTERVAL)
    assert any(isinstance(packet, RegistrationRequest) for _, packet in world.seen)
    assert (world.states(), world.status) == ([State.REGISTERED], Status.UP)
    world.seen.clear()
    world.run(10)
    assert not any(isinstance(packet, RegistrationRequest) for _, packet in world.seen)
