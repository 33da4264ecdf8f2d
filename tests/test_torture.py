"""Whole nodes under loss, delay, restarts, moves and failures of hubs, on a virtual clock."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.torture import DAMAGES, HOLDING_TIME, KEEPALIVE, TorturedWorld
from tests.world import Machine

#: Seconds after the last fault within which everything leads to the right place: a hub that was
#: silent for long is asked once in 64 s and a little more, and what is learnt then wants seconds.
CONVERGENCE = 80

#: Seconds from then on until a hub that was lost often is believed by all of its sites. So long
#: some flood by the other one, and a hub without a trunk hears nothing of who moves there.
TRUSTED = 60

#: Seconds after a hub is left within which the other one has answered for what it had told.
SETTLED = 4

#: The same where hubs have a trunk: until the other one has noticed, too, it passes questions on to
#: the one that is lost. They are repeated after 1, 3 and 7 s, and asked anew after 20.
SETTLED_BY_TRUNK = 15

_NUMBERS = st.integers(0, 59)


class Torture(RuleBasedStateMachine):
    """Whatever happens, in whatever order, what :class:`TorturedWorld` promises holds."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        """Everybody has heard of everybody."""
        self.world = TorturedWorld(seed)
        for _ in range(2):
            for station in self.world.homes:
                self.world.say(station)
            self.world.wrong()
            self.world.run(1)

    @rule(one=_NUMBERS, other=_NUMBERS)
    def speak(self, one: int, other: int) -> None:
        """A station speaks to another of its VPN."""
        stations = list(self.world.homes)
        station = stations[one % len(stations)]
        peers = [each for each in stations if each[0] == station[0] and each != station]
        self.world.say(station, peers[other % len(peers)][1])
        self.world.run(0.1)

    @rule(seconds=st.sampled_from([0.01, 0.5, 3, 20, 45]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.world.run(seconds, step=min(0.25, seconds))

    @rule(
        loss=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
        duplication=st.sampled_from([0.0, 0.5]),
        variation=st.sampled_from([0.0, 0.2, 3.0]),
    )
    def worsen(self, loss: float, duplication: float, variation: float) -> None:
        """The underlay loses, duplicates, delays and reorders control packets."""
        network = self.world.network
        network.loss, network.duplication = loss, duplication
        network.delay_variation = variation

    @rule(number=_NUMBERS, where=_NUMBERS)
    def separate(self, number: int, where: int) -> None:
        """A site and a hub no longer hear each other."""
        hub = self.world.hubs[where % 2]
        site = self.world.places[number % len(self.world.places)]
        self.world.network.separate(site.vtep.nbma, hub.address)

    @rule()
    def rejoin(self) -> None:
        """They do again."""
        self.world.network.heal()

    @rule(number=_NUMBERS)
    def kill(self, number: int) -> None:
        """A daemon is killed with -9, its kernel goes on."""
        machine = self.machine(number)
        if machine.node is not None:
            self.world.kill(machine)

    @rule(number=_NUMBERS)
    def start(self, number: int) -> None:
        """A daemon is started, if it does not run."""
        self.world.restart(self.machine(number))
        self.world.run(0.1)

    @rule(number=_NUMBERS, leaving=st.booleans())
    def stop(self, number: int, leaving: bool) -> None:
        """A daemon is stopped in order, and takes what forwards with it or leaves it."""
        self.world.stop(self.machine(number), leaving=leaving)

    @rule(number=_NUMBERS)
    def lose_power(self, number: int) -> None:
        """A machine forgets everything."""
        self.world.lose_power(self.machine(number))

    @rule(number=_NUMBERS, how=st.sampled_from(DAMAGES))
    def damage(self, number: int, how: str) -> None:
        """Something happens to the file that a daemon keeps for its successor."""
        self.world.damage(self.machine(number), how)

    @rule(seconds=st.sampled_from([-400 * 86400, -3600, -2, 5, 3600, 400 * 86400]))
    def set_clock(self, seconds: int) -> None:
        """Somebody sets the wall clocks."""
        self.world.wall += seconds

    @rule(number=_NUMBERS, where=_NUMBERS)
    def move(self, number: int, where: int) -> None:
        """A station moves to another site of its VPN."""
        world = self.world
        station = list(world.homes)[number % len(world.homes)]
        sites = world.sites_of(station[0])
        world.move(station, sites[where % len(sites)])
        world.run(0.1)

    @rule(number=_NUMBERS, where=_NUMBERS, times=st.sampled_from([1, 2, 8]))
    def duplicate(self, number: int, where: int, times: int) -> None:
        """The MAC of a station is at another site, too."""
        world = self.world
        station = list(world.homes)[number % len(world.homes)]
        sites = [site for site in world.sites_of(station[0]) if site is not world.homes[station]]
        if sites:
            world.duplicate(station, sites[where % len(sites)], times)

    @rule(number=_NUMBERS)
    def tamper(self, number: int) -> None:
        """Somebody flushes a site's table."""
        site = self.world.places[number % len(self.world.places)]
        for address in list(site.kernel.rows):
            site.kernel.remove_row(address)
        self.world.run(0.01, step=0.01)

    @rule(number=_NUMBERS, up=st.booleans())
    def bounce(self, number: int, up: bool) -> None:
        """A site's devices go down or up."""
        self.world.places[number % len(self.world.places)].kernel.set_up(up)
        self.world.run(0.01, step=0.01)

    @rule(where=_NUMBERS)
    def overrun(self, where: int) -> None:
        """A hub loses the events that wait for it."""
        self.world.switches[self.world.hubs[where % 2].address].lose_events()
        self.world.run(0.01, step=0.01)

    @rule(where=_NUMBERS, over=st.booleans())
    def drain(self, where: int, over: bool) -> None:
        """A hub is drained, or serves again."""
        self.world.drain(self.world.hubs[where % 2], over=over)

    @rule(number=_NUMBERS, seconds=st.sampled_from([HOLDING_TIME, HOLDING_TIME // 2]))
    def hold_for(self, number: int, seconds: int) -> None:
        """A daemon is told another holding time."""
        self.world.change_speaker(self.machine(number), holding_time=seconds)

    @rule(number=_NUMBERS, kept=st.booleans())
    def watch(self, number: int, kept: bool) -> None:
        """A site's daemon is told to send keepalives, or not to."""
        site = self.world.places[number % len(self.world.places)]
        self.world.change_speaker(site.machine, keepalive=KEEPALIVE if kept else None)

    @rule(number=_NUMBERS, rate=st.sampled_from([1, 4, 1000]))
    def limit(self, number: int, rate: int) -> None:
        """A daemon is told to take so many packets a second from a peer."""
        self.world.change_speaker(self.machine(number), request_rate=rate)

    @rule(number=_NUMBERS, where=_NUMBERS)
    def pester(self, number: int, where: int) -> None:
        """Somebody sends spoilt packets in the name of a site."""
        world = self.world
        world.pester(world.places[number % len(world.places)], world.hubs[where % 2], 30)
        world.run(0.1)

    @rule(number=_NUMBERS)
    def empty(self, number: int) -> None:
        """Everything is taken out of a daemon's file, and put back."""
        self.world.empty(self.machine(number))

    @rule(number=_NUMBERS)
    def know(self, number: int) -> None:
        """A site is told other hubs, or another order of them."""
        self.world.know(self.world.places[number % len(self.world.places)])

    @rule(number=_NUMBERS)
    def assign(self, number: int) -> None:
        """A site is moved to the other VPN."""
        self.world.assign(self.world.places[number % len(self.world.places)])

    @rule(number=_NUMBERS, vpns=st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    def serve(self, number: int, vpns: tuple[int, int]) -> None:
        """A hub serves only one of its VPNs, or both again."""
        self.world.serve(self.world.hubs[number % 2], (vpns,))

    def machine(self, number: int) -> Machine:
        """One of the machines."""
        return list(self.world.machines.values())[number % len(self.world.machines)]

    @invariant()
    def hold(self) -> None:
        """What holds at any time."""
        if hasattr(self, "world"):
            self.world.check()

    @rule()
    def recover(self) -> None:
        """Once the faults stop, all shortcuts lead to the right place and all reach each other;
        whoever moves then is followed at once."""
        world = self.world
        world.heal()
        world.wait()
        wrong = [""]
        for _ in range(CONVERGENCE):
            for station in world.homes:
                world.say(station)
            world.run(1, step=0.25)
            world.check()
            wrong = world.wrong()
        assert wrong == []
        for _ in range(5):
            world.run(5, step=0.25)
            assert world.wrong() == []
        for _ in range(TRUSTED):
            if world.all_is_heard:
                break
            world.run(1, step=0.25)
            world.check()
            assert world.wrong() == []
        assert world.all_is_heard
        for number, station in enumerate(world.homes):
            if world.is_settled(station):
                self.move(number, world.chance.randrange(3))
                world.run(0.4)
                assert world.wrong() == []

    @rule()
    def lose_for_good(self) -> None:
        """After all is well, the hub that carries loses its power, and nobody replaces it: once its
        sites have noticed, whoever moves is followed at once, by shortcuts that the hub had told,
        too."""
        self.recover()
        world = self.world
        if not world.all_know_both:
            return
        (carrier,) = world.places[0].kernel.flood
        world.lose_power(world.machines[carrier])
        settled = SETTLED_BY_TRUNK if world.trunked else SETTLED
        for _ in range(world.noticed_after() + settled):
            for station in world.homes:
                world.say(station)
            world.run(1, step=0.25)
            world.check()
        assert world.wrong() == []
        for number, station in enumerate(world.homes):
            if world.is_settled(station):
                sites = world.sites_of(station[0])
                self.move(number, sites.index(world.homes[station]) + 1)
                world.run(0.4)
                assert world.wrong() == []

    def teardown(self) -> None:
        """Everything recovers, and stops without a trace."""
        if not hasattr(self, "world"):
            return
        self.recover()
        world = self.world
        for machine in world.machines.values():
            world.stop(machine)
        world.run(5)
        assert world.clock.getDelayedCalls() == []


#: How many runs, if not the same few: ``DMEVPN_TORTURE=300 pytest tests/test_torture.py``,
#: by chance, or with ``--hypothesis-seed``.
RUNS = int(os.environ.get("DMEVPN_TORTURE", "0"))

Torture.TestCase.settings = settings(
    max_examples=RUNS or 16,
    stateful_step_count=30,
    deadline=None,
    derandomize=not RUNS,
    database=None,
    # Shrinking would run hundreds of worlds; the steps that are printed can be run again.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestTorture = pytest.mark.timeout(max(600, 30 * RUNS))(Torture.TestCase)


def test_faults_are_felt() -> None:
    """What is done to the world has the effect that it is done for, and that passes."""
    world = TorturedWorld(1)
    first, second = world.hubs
    for station in world.homes:
        world.say(station)
    world.run(1)
    station, home = next(iter(world.homes.items()))
    site = next(each for each in world.sites_of(station[0]) if each is not home)
    world.duplicate(station, site, 8)
    assert [held.mac for held in world.switches[first.address].held()] == [station[1]]
    assert first.node is not None
    world.change_speaker(first, request_rate=1)
    world.pester(site, first, 30)
    world.run(1)
    assert first.metrics.value("drops", reason="peer_rate") == 28
    world.heal()
    world.wait()
    assert world.wrong() == []

    old = home.vtep
    world.serve(first, ((1, 1),))
    world.assign(home)
    world.run(1)
    assert home.vtep != old and old not in world.switches[first.address].members
    assert not first.node.hubs["vx0"].vpns.keys() & {2}
    world.heal()
    world.wait()
    world.run(3)
    assert home.vtep in world.switches[first.address].members

    world.drain(second, over=False)
    world.stop(first, leaving=True)
    assert world.switches[first.address].members
    for how in DAMAGES[:-1]:
        world.restart(first)
        world.stop(first, leaving=True)
        world.damage(first, how)
        assert world.states[first.address].load() is None
