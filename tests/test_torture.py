"""Whole nodes under loss, delay, restarts, moves and failures of hubs, on a virtual clock."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.torture import HOLDING_TIME, KEEPALIVE, TorturedWorld

#: Seconds after the last fault within which everything leads to the right place: a hub that was
#: silent for long is asked once in 64 s and a little more, and what is learnt then wants seconds.
CONVERGENCE = 80

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
        machine = list(self.world.machines.values())[number % len(self.world.machines)]
        if machine.node is not None:
            self.world.kill(machine)

    @rule(number=_NUMBERS)
    def start(self, number: int) -> None:
        """A daemon is started, if it does not run."""
        machine = list(self.world.machines.values())[number % len(self.world.machines)]
        self.world.restart(machine)
        self.world.run(0.1)

    @rule(number=_NUMBERS)
    def stop(self, number: int) -> None:
        """A daemon is stopped in order."""
        self.world.stop(list(self.world.machines.values())[number % len(self.world.machines)])

    @rule(number=_NUMBERS)
    def lose_power(self, number: int) -> None:
        """A machine forgets everything."""
        self.world.lose_power(list(self.world.machines.values())[number % len(self.world.machines)])

    @rule(number=_NUMBERS, where=_NUMBERS)
    def move(self, number: int, where: int) -> None:
        """A station moves to another site of its VPN."""
        world = self.world
        station = list(world.homes)[number % len(world.homes)]
        sites = [site for site in world.places if world.vpn_of[site.vtep] == station[0]]
        world.move(station, sites[where % len(sites)])
        world.run(0.1)

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

    @rule(number=_NUMBERS, seconds=st.sampled_from([HOLDING_TIME, HOLDING_TIME // 2]))
    def reload(self, number: int, seconds: int) -> None:
        """A daemon gets another plan."""
        machine = list(self.world.machines.values())[number % len(self.world.machines)]
        if machine.node is not None:
            plan = machine.node.plan
            speakers = tuple(replace(each, holding_time=seconds) for each in plan.speakers)
            machine.node.apply(replace(plan, speakers=speakers))
            self.world.run(0.1)

    @rule(number=_NUMBERS, kept=st.booleans())
    def watch(self, number: int, kept: bool) -> None:
        """A site's daemon is told to send keepalives, or not to."""
        site = self.world.places[number % len(self.world.places)]
        node = site.machine.node
        if node is not None:
            keepalive = KEEPALIVE if kept else None
            speakers = [replace(each, keepalive=keepalive) for each in node.plan.speakers]
            node.apply(replace(node.plan, speakers=tuple(speakers)))
            self.world.run(0.1)

    @rule(number=_NUMBERS, vpn=st.sampled_from([1, 2]))
    def serve_one(self, number: int, vpn: int) -> None:
        """A hub no longer serves one of its VPNs."""
        self._serve(number, ((3 - vpn, 3 - vpn),))

    @rule(number=_NUMBERS)
    def serve_both(self, number: int) -> None:
        """It does again."""
        self._serve(number, ((1, 2),))

    def _serve(self, number: int, vpns: tuple[tuple[int, int], ...]) -> None:
        node = self.world.hubs[number % 2].node
        if node is not None:
            hubs = [replace(each, vpns=vpns) for each in node.plan.hubs]
            node.apply(replace(node.plan, hubs=tuple(hubs)))
            self.world.run(0.1)

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
        for number in range(2):
            self._serve(number, ((1, 2),))
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
        for station in world.homes:
            self.move(list(world.homes).index(station), world.chance.randrange(3))
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
        for site in world.places:
            assert site.kernel.rows == {} and site.kernel.flood == ()
        assert all(not switch.members for switch in world.switches.values())


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
TestTorture = Torture.TestCase
