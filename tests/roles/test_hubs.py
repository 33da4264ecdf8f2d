"""Spokes with two hubs: which one carries their flooding when one is silent, refuses or leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dmevpn.addresses import parse_ip
from dmevpn.config.model import (
    AdmissionPlan,
    AuthenticationPlan,
    KeepalivePlan,
    KeyPlan,
    NHSPlan,
    PermitPlan,
    Plan,
    TrunkPlan,
)
from dmevpn.nhrp.keepalive import Status
from dmevpn.nhrp.packet import PurgeRequest, decode_payload
from dmevpn.nhrp.registration import State
from dmevpn.roles.carrier import PROBATION
from dmevpn.roles.doctor import examine
from dmevpn.roles.drain import LINGER, SETTLE, Drain
from dmevpn.roles.explain import explain
from dmevpn.roles.node import Node
from dmevpn.roles.spoke import SpokeRole
from dmevpn.roles.turns import Turns
from tests.world import Machine, Site, World, mac

A, B = mac(1), mac(2)
HUBS = ("10.0.0.1", "10.0.1.1")
KEEPALIVE = KeepalivePlan(interval=600)
EVERYBODY = PermitPlan(vpns=(1, 1), nbma=None)
KEYED = AuthenticationPlan(
    keys=(KeyPlan(spi=256, algorithm="hmac-sha-256", secret=b"the key of this year"),)
)


class TwoHubs(World):
    """Two hubs and two sites that know both, the first preferred."""

    def __init__(
        self,
        *,
        authentication: AuthenticationPlan | None = None,
        admission: AdmissionPlan | None = None,
        keepalive: KeepalivePlan | None = KEEPALIVE,
        hubs: tuple[str, ...] = HUBS,
        trunks: bool = False,
    ) -> None:
        super().__init__(hub=HUBS[0], authentication=authentication)
        self.speaker = replace(self.speaker, keepalive=keepalive)
        self.servers = tuple(
            NHSPlan(host=each, address=parse_ip(each), register=True, flood=True) for each in hubs
        )
        if admission is not None:
            (hub,) = self.hub_plan.hubs
            self.hub_plan = replace(self.hub_plan, hubs=(replace(hub, admission=admission),))
        self.first, self.second = [
            self.add_hub(address, trunks=(other,) if trunks else ())
            for address, other in zip(HUBS, HUBS[::-1], strict=True)
        ]
        self.one = self.add_site("10.0.0.2", 100)
        self.two = self.add_site("10.0.0.3", 101)
        self.run(2)

    def spoke_plan(self, site: Site, *, vpn: int = 1, register: bool = True) -> Plan:
        plan = super().spoke_plan(site, vpn=vpn, register=register)
        spokes = tuple(replace(each, servers=self.servers) for each in plan.spokes)
        return replace(plan, spokes=spokes)

    def path_of(self, site: Site) -> bytes:
        (hub,) = site.kernel.flood
        return hub

    def carriers(self) -> list[Machine]:
        return [self.machines[self.path_of(site)] for site in (self.one, self.two)]


def role_of(site: Site) -> SpokeRole:
    assert site.machine.node is not None
    (role,) = site.machine.node.spokes.values()
    return role


def states(site: Site) -> list[State]:
    return [client.state for client in role_of(site).registrations]


def events(site: Site) -> list[str]:
    assert site.machine.node is not None
    return [e.event for e in site.machine.node.journal if e.event in ("hub-lost", "hub-back")]


def node_of(machine: Machine) -> Node:
    assert machine.node is not None
    return machine.node


@pytest.fixture
def world() -> TwoHubs:
    world = TwoHubs()
    assert world.carriers() == [world.first] * 2
    return world


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"authentication": AuthenticationPlan(secret=b"secret")},
        {"authentication": KEYED},
        {"admission": AdmissionPlan(permits=(EVERYBODY,), members_only=True)},
    ],
    ids=["open", "secret", "keyed", "members-only"],
)
def test_a_silent_hub_is_left_within_a_second_and_comes_back(
    options: dict[str, AuthenticationPlan],
) -> None:
    """Whatever hubs want to see: at the next one within a second, registered anew as soon as the
    first answers, and back at it after a probation."""
    world = TwoHubs(**options)  # type: ignore[arg-type]
    assert world.carriers() == [world.first] * 2
    world.network.isolate(world.first.address)
    world.run(1.0)
    assert world.carriers() == [world.second] * 2
    assert states(world.one) == [State.DOWN, State.REGISTERED]
    world.run(100)
    assert world.carriers() == [world.second] * 2
    world.network.heal()
    world.run(2)
    assert states(world.one) == states(world.two) == [State.REGISTERED] * 2
    assert world.carriers() == [world.second] * 2
    world.run(PROBATION)
    assert world.carriers() == [world.first] * 2
    assert events(world.one) == ["hub-lost", "hub-back"]


@pytest.mark.parametrize("late", [None, 0, 1])
def test_hubs_are_believed_from_the_start(world: TwoHubs, late: int | None) -> None:
    """Each hears of the other with the first registration, whichever answers first: so none seems
    to be lost, and the first may be left for the second at once."""
    hubs = [world.first.address, world.second.address]
    three = world.add_site("10.0.0.4", 102, start=False)
    if late is not None:
        world.network.separate(three.machine.address, hubs[late])
    world.start_site(three)
    world.run(0.2)
    world.network.heal()
    world.run(2)
    assert states(three) == [State.REGISTERED] * 2
    carrier = role_of(three).hubs._carrier
    assert [carrier.trusted_in(each) for each in hubs] == [None, None]
    world.network.isolate(world.first.address)
    world.run(1)
    assert world.path_of(three) == world.second.address


def test_a_hub_that_has_lost_everything(world: TwoHubs) -> None:
    """Without its power it forgets its members; they are there again before anybody sends them
    frames by it."""
    world.lose_power(world.first)
    world.run(3)
    assert world.carriers() == [world.second] * 2
    world.add_hub(HUBS[0])
    world.run(2)
    assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    assert world.carriers() == [world.second] * 2
    world.run(PROBATION)
    assert world.carriers() == [world.first] * 2


def test_keepalives_leave_no_trace(world: TwoHubs) -> None:
    """A minute of them changes neither table nor answer of a hub, and none is an error."""
    hub = node_of(world.first).hubs["vx0"].vpns[1]
    before = sorted(map(repr, hub.cache.bindings())), dict(world.switch.members)
    world.network.transmissions.clear()
    world.run(60)
    packets = [decode_payload(each.payload())[1] for each in world.network.transmissions]
    asked = [each for each in packets if isinstance(each, PurgeRequest)]
    assert 4 * 60 / 0.6 <= len(asked) <= 4 * 60 / 0.54 + 4
    assert 2 * len(asked) - len(packets) <= 4  # of those asked last
    assert before == (sorted(map(repr, hub.cache.bindings())), dict(world.switch.members))
    assert list(hub.server.answered()) == []


def test_a_hub_that_refuses_is_left(world: TwoHubs) -> None:
    """A hub that permits a site no more tells it so, and is left at once; who is still permitted
    stays."""
    plan = node_of(world.first).plan
    only = replace(EVERYBODY, nbma=(world.two.machine.address, 32))
    hub = replace(plan.hubs[0], admission=AdmissionPlan(permits=(only,)))
    node_of(world.first).apply(replace(plan, hubs=(hub,)))
    world.run(0.1)
    assert world.carriers() == [world.second, world.first]
    world.run(3)
    assert states(world.one) == [State.REFUSED, State.REGISTERED]
    node_of(world.first).apply(plan)
    world.run(100)
    assert world.carriers() == [world.first] * 2


def test_a_hub_that_stops_in_order_is_left_at_once(world: TwoHubs) -> None:
    """It says so: nobody waits for a keepalive."""
    node_of(world.first).stopService()
    world.run(0.1)
    assert world.carriers() == [world.second] * 2


def test_a_spoke_with_one_hub_stays() -> None:
    """Where there is no other, flooding stays where it is, whatever keepalives say."""
    world = TwoHubs(hubs=HUBS[:1])
    world.network.isolate(world.first.address)
    world.run(10)
    assert states(world.one) == [State.DOWN]
    assert world.carriers() == [world.first] * 2
    world.network.heal()
    world.run(2)
    assert states(world.one) == [State.REGISTERED]
    assert events(world.one) == []


def test_both_hubs_are_silent(world: TwoHubs) -> None:
    """A site that is cut off moves nothing to and fro; whoever answers first has it."""
    for hub in (world.first, world.second):
        world.network.isolate(hub.address)
    world.run(60)
    assert events(world.one) in (["hub-lost"], [])
    world.network.heal()
    world.network.isolate(world.first.address)
    world.run(2)
    assert world.carriers() == [world.second] * 2


def test_without_keepalives_registrations_tell() -> None:
    """By default nobody is asked for a sign of life."""
    world = TwoHubs(keepalive=None)
    world.network.transmissions.clear()
    world.network.isolate(world.first.address)
    world.run(100)
    assert not world.network.transmissions
    assert world.carriers() == [world.first] * 2


def test_switched_on_by_a_reload() -> None:
    """And off again, without touching a registration."""
    world = TwoHubs(keepalive=None)
    node = node_of(world.one.machine)
    before = role_of(world.one).registrations
    speaker = replace(world.speaker, keepalive=KEEPALIVE)
    plan = node.plan
    node.apply(replace(plan, speakers=(speaker,)))
    world.run(2)
    assert role_of(world.one).registrations == before
    world.network.isolate(world.first.address)
    world.run(1)
    assert world.carriers() == [world.second, world.first]
    node.apply(plan)
    world.run(1)
    world.network.transmissions.clear()
    world.run(5)
    asked = [decode_payload(each.payload())[1] for each in world.network.transmissions]
    assert not any(isinstance(each, PurgeRequest) for each in asked)


def test_a_spoke_that_starts_anew_stays_where_it_was(world: TwoHubs) -> None:
    """Killed while its preferred hub is gone, a spoke floods to the other one on, and never to
    nobody."""
    world.lose_power(world.first)
    world.run(2)
    assert world.carriers() == [world.second] * 2
    world.kill(world.one.machine)
    world.start_site(world.one)
    assert world.carriers() == [world.second] * 2
    world.run(0.2)
    assert states(world.one) == [State.REGISTERING, State.REGISTERED]
    world.run(30)
    assert world.carriers() == [world.second] * 2


def test_questions_go_to_the_hub_that_carries(world: TwoHubs) -> None:
    """Its switch has seen where stations are, the other's has not."""
    world.network.isolate(world.first.address)
    world.run(1)
    world.network.heal()
    world.run(3)
    assert world.carriers() == [world.second] * 2
    way = role_of(world.one).way_to_server(B)
    assert way is not None and way.peer == world.second.address
    assert states(world.one) == [State.REGISTERED] * 2


def test_a_site_with_a_silent_hub_stops_cleanly(world: TwoHubs) -> None:
    """In any state of the keepalives, no timer is left."""
    world.network.isolate(world.first.address)
    world.run(1)
    node = node_of(world.one.machine)
    assert node.controls["nhrp"].keepalives.status(world.first.address) is Status.SILENT
    node.stopService()
    world.run(3)
    assert world.one.machine.clock.getDelayedCalls() == []


def test_explain_says_why_the_preferred_hub_does_not_carry(world: TwoHubs) -> None:
    """It is silent, or back but not trusted yet; else nothing is said of it."""

    def verdict() -> str:
        found: list[Any] = []
        explain(node_of(world.one.machine), turns, B, 1).addCallback(found.extend)
        world.run(20)
        return next(row["text"] for row in found if row["about"] == "verdict")

    turns = Turns(world.one.machine.clock)
    assert "passed over" not in verdict()
    world.network.isolate(world.first.address)
    world.run(2)
    assert "by the hub at 10.0.1.1" in verdict()
    assert "10.0.0.1 is passed over: no answer" in verdict()
    for _ in range(3):
        world.network.heal()
        world.run(3)
        world.network.isolate(world.first.address)
        world.run(2)
    world.network.heal()
    world.run(3)
    assert "10.0.0.1 is passed over: it was lost, and has to stand for" in verdict()


# --- draining -------------------------------------------------------------------------------


def drain_of(machine: Machine) -> Drain:
    (hub,) = node_of(machine).hubs.values()
    return hub.drain


def noted(machine: Machine, *names: str) -> list[str]:
    return [each.event for each in node_of(machine).journal if each.event in names]


def test_a_drained_hub_is_left(world: TwoHubs) -> None:
    """At once, by all that know another; it keeps them in its switch, and says when it is done."""
    drain = drain_of(world.first)
    assert (drain.state, drain.registered) == ("serving", 2)
    drain.begin()
    done: list[bool] = []
    drain.wait(10).addCallback(done.append)
    world.run(0.3)
    assert world.carriers() == [world.second] * 2
    assert (drain.state, drain.registered, drain.left) == ("draining", 0, 2)
    assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    assert done == []
    world.run(SETTLE + 0.5)
    assert done == [True]
    assert drain.state == "drained"
    world.run(5)
    assert states(world.one) == [State.REFUSED, State.REGISTERED]
    assert noted(world.first, "drain", "drained") == ["drain", "drained"]
    found: list[Any] = []
    examine(node_of(world.first), Turns(world.first.clock)).addCallback(found.extend)
    world.run(1)
    assert found[0].problem == "it is drained: 0 sites are left, others refused"
    assert world.carriers() == [world.second] * 2
    world.run(300)
    assert world.carriers() == [world.second] * 2
    assert {world.one.vtep, world.two.vtep} == set(world.switch.members)


def test_frames_reach_all_while_a_hub_is_drained(world: TwoHubs) -> None:
    """At each step every station reaches every other, whichever hub each site floods by."""
    drain_of(world.first).begin()
    sent = 0
    for _ in range(40):
        for site, other, source in ((world.one, world.two, A), (world.two, world.one, B)):
            before = len(other.received)
            world.speak(site, source)
            assert len(other.received) == before + 1
            sent += 1
        world.run(0.05)
    assert world.carriers() == [world.second] * 2
    assert sent == 80


def test_half_of_the_sites_have_left(world: TwoHubs) -> None:
    """One that does not hear of it stays, and reaches those that have left; it is asked again."""
    world.network.separate(world.first.address, world.two.machine.address)
    role_of(world.two)._keepalives.set(0, 3)
    drain = drain_of(world.first)
    drain.begin()
    world.run(3)
    assert world.carriers() == [world.second, world.first]
    assert (drain.state, drain.registered, drain.left) == ("draining", 1, 1)
    world.speak(world.two, B)
    world.speak(world.one, A)
    assert len(world.one.received) == len(world.two.received) == 1
    world.network.heal()
    world.run(5)
    assert world.carriers() == [world.second] * 2
    assert drain.state == "drained"


def test_a_spoke_with_one_hub_is_let_stay() -> None:
    """It is asked three times, registers again each time, and floods where it did."""
    world = TwoHubs(hubs=HUBS[:1])
    drain = drain_of(world.first)
    drain.begin()
    done: list[bool] = []
    drain.wait(10).addCallback(done.append)
    world.run(11)
    assert done == [False]
    world.run(60)
    assert (drain.state, drain.registered, drain.left) == ("draining", 2, 0)
    assert states(world.one) == [State.REGISTERED]
    world.speak(world.one, A)
    assert len(world.two.received) == 1


def test_the_other_hub_is_silent(world: TwoHubs) -> None:
    """Nobody leaves for a hub that does not answer."""
    world.network.isolate(world.second.address)
    world.run(1)
    drain = drain_of(world.first)
    drain.begin()
    world.run(3)
    assert world.carriers() == [world.first] * 2
    assert drain.registered == 2
    world.network.heal()
    world.run(20)
    assert drain.state == "drained"
    assert world.carriers() == [world.second] * 2


def test_nobody_new_while_it_lasts(world: TwoHubs) -> None:
    """A site that comes now is refused, and floods by the other hub."""
    drain_of(world.first).begin()
    world.run(3)
    late = world.add_site("10.0.0.4", 102)
    world.run(1)
    assert states(late) == [State.REFUSED, State.REGISTERED]
    assert world.path_of(late) == world.second.address


def test_undrained_all_come_back(world: TwoHubs) -> None:
    """They are told, register at once, and flood by it again after the probation; nobody is
    forgotten or doubled in the switch meanwhile."""
    drain = drain_of(world.first)
    drain.begin()
    world.run(40)
    drain.end()
    assert drain.state == "serving"
    world.run(2.5)
    assert states(world.one) == states(world.two) == [State.REGISTERED] * 2
    assert (drain.registered, drain.left) == (2, 0)
    world.run(PROBATION)
    assert world.carriers() == [world.first] * 2
    world.run(200)
    assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    assert noted(world.first, "undrained") == ["undrained"]
    drain.begin()
    world.run(3)
    assert drain.state == "drained"


def test_who_does_not_come_back_is_forgotten(world: TwoHubs) -> None:
    """Two minutes after the end of a drain, members that have not registered are none."""
    drain = drain_of(world.first)
    drain.begin()
    world.run(3)
    node_of(world.one.machine).stopService()
    world.run(1)
    drain.end()
    drain.begin()
    drain.end()
    assert world.one.vtep in world.switch.members or drain.left <= 1
    world.run(LINGER + 1)
    assert set(world.switch.members) == {world.two.vtep}


def test_a_drained_hub_stops_cleanly(world: TwoHubs) -> None:
    """Whether or not all have left, and whether or not it serves again: no timer is left."""
    for seconds, again in ((0.1, False), (3, False), (3, True)):
        drain = drain_of(world.first)
        drain.begin()
        done: list[bool] = []
        drain.wait(10).addCallback(done.append)
        world.run(seconds)
        if again:
            drain.end()
        node_of(world.first).stopService()
        world.run(2.5)
        assert world.first.clock.getDelayedCalls() == []
        assert len(done) == 1
        assert world.carriers() == [world.second] * 2
        world.add_hub(HUBS[0])
        world.run(10)
        world.run(100)
        assert world.carriers() == [world.first] * 2


#: Seconds in which a site that hears of it, or sees it by a keepalive, has registered anew.
BACK = 2.5


def end(world: TwoHubs, machine: Machine, how: str) -> None:
    """End the daemon of a hub."""
    if how == "stopped":
        node_of(machine).stopService()
        world.run(0.5)
        machine.node = None
    elif how == "killed":
        world.kill(machine)
    else:
        world.lose_power(machine)


@pytest.mark.parametrize("how", ["stopped", "killed", "without power"])
@pytest.mark.parametrize("keepalive", [KEEPALIVE, None], ids=["keepalives", "none"])
@pytest.mark.parametrize("away", [0.3, 100])
def test_a_drain_ends_with_the_daemon(
    how: str, keepalive: KeepalivePlan | None, away: float
) -> None:
    """The next one serves, calls back those who had left, and has them within seconds, however
    long that takes; none that was a member of the switch is forgotten meanwhile."""
    world = TwoHubs(keepalive=keepalive)
    drain_of(world.first).begin()
    world.run(6)
    assert states(world.one) == [State.REFUSED, State.REGISTERED]
    end(world, world.first, how)
    world.run(away)
    if how == "killed":
        assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    world.add_hub(HUBS[0])
    drain = drain_of(world.first)
    assert (drain.state, drain.left) == ("serving", 2)
    assert noted(world.first, "undrained") == ["undrained"]
    if how == "killed":
        assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    world.run(BACK)
    assert states(world.one) == states(world.two) == [State.REGISTERED] * 2
    assert (drain.registered, drain.left) == (2, 0)
    world.run(PROBATION)
    assert world.carriers() == [world.first] * 2
    sent = len(world.network.transmissions)
    world.run(LINGER + 1)
    assert {world.one.vtep, world.two.vtep} == set(world.switch.members)
    asked = [decode_payload(each.payload())[1] for each in world.network.transmissions[sent:]]
    assert not any(isinstance(packet, PurgeRequest) and packet.cies for packet in asked)


@pytest.mark.parametrize("away", [1.5, 100])
def test_a_drained_hub_is_replaced_by_one_that_knows_nothing(world: TwoHubs, away: float) -> None:
    """By keepalives sites see that it was away, and register with it at once."""
    drain_of(world.first).begin()
    world.run(6)
    end(world, world.first, "without power")
    world.states[world.first.address].forget()
    world.run(away)
    assert states(world.one)[0] in (State.REFUSED, State.DOWN)
    world.add_hub(HUBS[0])
    world.run(BACK)
    assert states(world.one) == states(world.two) == [State.REGISTERED] * 2
    world.run(PROBATION)
    assert world.carriers() == [world.first] * 2


def test_who_has_not_heard_the_call_is_called_again() -> None:
    """Those that a packet was lost to."""
    world = TwoHubs(keepalive=None)
    drain_of(world.first).begin()
    world.run(3)
    world.network.separate(world.first.address, world.two.machine.address)
    drain_of(world.first).end()
    world.run(2)
    assert states(world.one)[0] is State.REGISTERED
    assert states(world.two)[0] is State.REFUSED
    world.network.heal()
    world.run(2 + BACK)
    assert states(world.two)[0] is State.REGISTERED


def test_who_has_left_and_is_not_wanted_any_more(world: TwoHubs) -> None:
    """A site whose VPN the successor does not serve, or that has become a hub, is not called."""
    drain_of(world.first).begin()
    world.run(6)
    world.kill(world.first)
    (hub,) = world.hub_plan.hubs
    trunks = (TrunkPlan(address=world.one.machine.address),)
    world.hub_plan = replace(world.hub_plan, hubs=(replace(hub, trunks=trunks),))
    world.add_hub(HUBS[0], keep_trunks=True)
    assert drain_of(world.first).left == 1
    world.kill(world.first)
    world.hub_plan = replace(world.hub_plan, hubs=(replace(hub, vpns=((2, 3),)),))
    world.add_hub(HUBS[0])
    assert drain_of(world.first).left == 0
    assert set(world.switch.members) == set()
