"""Daemons that are restarted: what they leave, what they say, and what their successors know."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from twisted.logger import LogLevel

from dmevpn.config.model import AuthenticationPlan
from dmevpn.roles import recollection
from dmevpn.roles.recollection import Recollection
from dmevpn.statefile import pack, unpack
from tests.dataplane.test_provision import texts_of
from tests.world import Machine, Site, World, mac


@pytest.fixture
def world() -> World:
    """A hub."""
    world = World()
    world.start_hub()
    return world


def leave(world: World, machine: Machine) -> None:
    """Stop a daemon whose plan says ``leave-forwarding``, or that is told so."""
    assert machine.node is not None
    world.run(0.1)
    sent = len(world.network.transmissions)
    stopped: list[object] = []
    machine.node.stopService().addCallback(stopped.append)
    world.run(0.1)
    assert stopped == [None]
    assert machine.clock.getDelayedCalls() == []
    assert len(world.network.transmissions) == sent, "nobody is told"
    machine.node = None


def with_shortcut(world: World) -> tuple[Site, Site]:
    """Two sites whose stations have found each other."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    world.run(1)
    world.exchange(one, mac(1), two, mac(2))
    assert world.path(one, mac(2)) == two.vtep
    return one, two


def test_spoke_leaves_its_forwarding(world: World) -> None:
    """With `leave-forwarding` a stopped spoke is a member still, its shortcut stands, and its
    successor says that it is there and asks once for what it found."""
    one, two = with_shortcut(world)
    node = one.machine.node
    assert node is not None
    node.apply(replace(node.plan, leave_forwarding=True))
    leave(world, one.machine)
    assert world.path(one, mac(2)) == two.vtep
    assert one.vtep in world.switch.members
    sent = len(world.network.transmissions)
    world.start_site(one)
    world.run(1)
    world.speak(one, mac(1), mac(2))
    world.run(15)
    assert world.path(one, mac(2)) == two.vtep
    assert len(world.network.transmissions) - sent == 4, "two requests, and their replies"


def test_hub_leaves_its_switch(world: World) -> None:
    """Told to leave what forwards, a hub says nothing to its members; its successor has them."""
    one, two = with_shortcut(world)
    assert world.hub.node is not None
    world.hub.node.leaving = True
    leave(world, world.hub)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    sent = len(world.network.transmissions)
    world.start_hub()
    world.run(5)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    assert len(world.network.transmissions) == sent
    world.speak(one, mac(1))
    assert two.received[-1].endswith(mac(1))


def test_taken_down_all_the_same(world: World) -> None:
    """A shutdown takes down what `leave-forwarding` would leave."""
    one, _ = with_shortcut(world)
    node = one.machine.node
    assert node is not None
    node.apply(replace(node.plan, leave_forwarding=True))
    node.leaving = False
    node.stopService()
    world.run(1)
    assert one.kernel.rows == {}
    assert one.vtep not in world.switch.members


def renew(site: Site) -> None:
    """Have a site register anew, as it does when it asks a hub that has forgotten it."""
    assert site.machine.node is not None
    for spoke in site.machine.node.spokes.values():
        for client in spoke.registrations:
            client.renew()


def end(world: World, how: str) -> None:
    """End the hub's daemon."""
    assert world.hub.node is not None
    if how == "stopped":
        world.hub.node.stopService()
        world.run(0.5)
        world.hub.node = None
    elif how == "without power":
        world.lose_power(world.hub)
    else:
        world.kill(world.hub)


@pytest.mark.parametrize("how", ["stopped", "without power"])
@pytest.mark.parametrize("remembers", [True, False])
def test_hub_follows_who_moved_meanwhile(world: World, how: str, remembers: bool) -> None:
    """A hub that comes back with an empty switch takes back what its predecessor answered about
    a station that turns up elsewhere; one whose file is lost cannot know."""
    one, two = with_shortcut(world)
    three = world.add_site("10.0.0.4", 102)
    world.run(6)
    end(world, how)
    if not remembers:
        world.states[world.hub.address].forget()
    world.run(5)
    world.start_hub()
    world.run(3)
    for site in (one, two, three):
        renew(site)
    world.run(1)
    world.speak(three, mac(2))
    world.run(2)
    assert world.path(one, mac(2)) == (one.hub if remembers else two.vtep)


def test_exactly_those_are_told(world: World) -> None:
    """After an orderly stop and after a kill a hub purges at who was told, not at everybody; where
    the journal of its answers is spoilt, so that some may be missing, at everybody."""
    told: dict[str, set[bytes]] = {}
    for how in ("left", "killed", "spoilt"):
        world = World()
        world.start_hub()
        one, _ = with_shortcut(world)
        others = [world.add_site(f"10.0.0.{number}", 100 + number) for number in range(10, 15)]
        world.run(6)
        if how == "left":
            assert world.hub.node is not None
            world.hub.node.leaving = True
            leave(world, world.hub)
        else:
            world.exchange(others[1], mac(3), others[2], mac(4))
            world.kill(world.hub)
        if how == "spoilt":
            journal = world.states[world.hub.address].journal
            assert journal
            for place, octets in journal.items():
                journal[place] = octets[:-1] + b"?"
        world.run(1)
        world.start_hub()
        world.run(1)
        sent = len(world.network.transmissions)
        world.speak(others[0], mac(2))
        world.run(1)
        assert world.path(one, mac(2)) == one.hub
        told[how] = {each.destination for each in world.network.transmissions[sent:]} - {
            world.hub.address
        }
    assert told["left"] == told["killed"] == {one.machine.address}
    assert len(told["spoilt"]) == 7


def test_killed_young(world: World) -> None:
    """A hub that is killed a second after its very first start leaves nobody in doubt, either."""
    one, _ = with_shortcut(world)
    three = world.add_site("10.0.0.4", 102)
    world.kill(world.hub)
    world.start_hub()
    world.run(1)
    sent = len(world.network.transmissions)
    world.speak(three, mac(2))
    world.run(1)
    told = {each.destination for each in world.network.transmissions[sent:]}
    assert told == {one.machine.address, world.hub.address}


@pytest.mark.parametrize("age", [0.5, 4, 9.5])
@pytest.mark.parametrize("kills", [1, 3])
def test_killed_hub_follows_who_moved_meanwhile(world: World, age: float, kills: int) -> None:
    """Whoever was told anything before a hub was killed, in the very last moment, too, hears of it
    when the station has moved while there was no daemon; however often it is killed."""
    one, two = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
    three = world.add_site("10.0.0.4", 102)
    world.run(age)
    world.exchange(one, mac(1), two, mac(2))
    assert world.path(one, mac(2)) == two.vtep
    for _ in range(kills):
        world.kill(world.hub)
        world.start_hub()
        world.run(0.01)
    world.speak(two, mac(4))
    world.exchange(one, mac(1), two, mac(4))
    world.kill(world.hub)
    for moved in (mac(2), mac(4)):
        assert world.path(one, moved) == two.vtep
        world.speak(three, moved)
    # Events of the switch that nobody has read are lost with a machine that has much to say.
    world.switch.events.clear()
    world.start_hub()
    world.run(1)
    for moved in (mac(2), mac(4)):
        assert world.path(one, moved) in (one.hub, three.vtep)


def test_a_killed_hub_knows_what_it_was_told_of_before(world: World) -> None:
    """What its predecessor did not know for certain, it does not know either."""
    with_shortcut(world)
    others = [world.add_site(f"10.0.0.{number}", 100 + number) for number in range(10, 15)]
    world.run(6)
    for lost in (True, False, False):
        if lost:
            world.states[world.hub.address].forget()
        world.run(6)
        world.kill(world.hub)
        world.start_hub()
        world.run(1)
    sent = len(world.network.transmissions)
    world.speak(others[0], mac(2))
    world.run(1)
    told = {each.destination for each in world.network.transmissions[sent:]}
    assert len(told - {world.hub.address}) == 7


def test_spoke_goes_on_with_its_registration(world: World) -> None:
    """A spoke that comes back knows at once whom to ask, and makes sure of it with one request."""
    one, two = with_shortcut(world)
    world.run(6)
    world.kill(one.machine)
    sent = len(world.network.transmissions)
    node = world.start_site(one)
    (client,) = node.spokes["vx1"].registrations
    assert client.usable
    assert node.spokes["vx1"].way_to_server(mac(9)) is not None
    world.run(3)
    assert len(world.network.transmissions) == sent + 2
    assert set(world.switch.members) == {one.vtep, two.vtep}


def test_spoke_ends_a_registration_that_is_not_wanted_any_more(world: World) -> None:
    """A hub that was taken out of the file while there was no daemon is told."""
    one, two = with_shortcut(world)
    other = world.add_hub("10.0.0.9")
    world.run(6)
    world.kill(one.machine)
    one.hubs = (other.address,)
    world.start_site(one)
    world.run(1)
    assert set(world.switch.members) == {two.vtep}
    assert set(world.switches[other.address].members) == {one.vtep}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda octets: None,
        lambda octets: b"",
        lambda octets: octets[: len(octets) // 2],
        lambda octets: octets.replace(b"dmevpn-state 1", b"dmevpn-state 9"),
        lambda octets: pack({"boot": 1}),
        lambda octets: pack({**unpack(octets), "answers": {"vx0": {"1": "0,1,2"}}}),
        lambda octets: pack({**unpack(octets), "registered": {"vx1": [[1]]}}),
        lambda octets: pack({**unpack(octets), "peers": {"nhrp": [["00", "?", "?", None, 1]]}}),
    ],
    ids=["missing", "empty", "torn", "too new", "foreign", "answers", "registered", "peers"],
)
def test_spoilt_state_is_survived(world: World, spoil: Callable[[bytes], bytes | None]) -> None:
    """Both roles start as if there had been nothing, and say so in one line at the most."""
    one, two = with_shortcut(world)
    world.run(6)
    for machine in (one.machine, world.hub):
        store = world.states[machine.address]
        assert store.octets is not None
        world.kill(machine)
        store.octets = spoil(store.octets)
    with texts_of(LogLevel.warn) as texts:
        world.start_hub()
        world.start_site(one)
    assert len(texts) <= 2
    world.run(1)
    world.speak(one, mac(1), mac(2))
    world.run(15)
    assert set(world.switch.members) == {one.vtep, two.vtep}
    assert world.path(one, mac(2)) == two.vtep


@pytest.mark.parametrize("how", ["killed", "left", "stopped", "without power"])
def test_no_registration_storm(how: str) -> None:
    """A hub with 300 spokes that comes back is not run over: those that it knows say nothing, and
    those that it has told to come again do so over two seconds."""
    chance = random.Random(1).random
    world = World()
    world.jitter = chance
    world.start_hub()
    sites = [world.add_site(f"10.0.{2 + n // 200}.{1 + n % 200}", 1000 + n) for n in range(300)]
    world.run(6)
    sent = len(world.network.transmissions)
    if how == "left":
        assert world.hub.node is not None
        world.hub.node.leaving = True
        leave(world, world.hub)
    else:
        end(world, how)
    world.start_hub()
    world.run(5)
    asked = [
        each.time for each in world.network.transmissions[sent:] if each.source != world.hub.address
    ]
    if how != "stopped":
        assert asked == []
        return
    assert len(world.switch.members) == len(sites)
    # Whoever came while there was no hub yet comes twice.
    assert len(sites) <= len(asked) <= 1.5 * len(sites)
    busiest = max(sum(start <= each < start + 0.1 for each in asked) for start in asked)
    print(
        f"\n300 spokes: {len(asked)} registrations in {max(asked) - min(asked):.1f} s,"
        f" {busiest} of them in 0.1 s"
    )
    assert busiest <= 40


def test_no_secret_is_written() -> None:
    """What is kept for a successor has nothing of what packets are signed with."""
    secret = b"wachtwoord"
    world = World(authentication=AuthenticationPlan(secret=secret))
    world.start_hub()
    with_shortcut(world)
    world.run(6)
    for store in world.states.values():
        assert store.octets is not None
        assert secret not in store.octets
        assert secret.hex().encode() not in store.octets


def test_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound no answer is kept, and the successor knows that it knows nothing."""
    monkeypatch.setattr(recollection, "ANSWERS_KEPT", 1)
    world = World()
    world.start_hub()
    with_shortcut(world)
    world.run(6)
    assert world.hub.node is not None
    world.hub.node.leaving = True
    leave(world, world.hub)
    state = world.states[world.hub.address].load()
    assert (state["complete"], state["answers"], state["clean"]) == (False, {}, True)
    assert not Recollection.read(state, state["boot"], state["at"]).exact
    assert world.states[world.hub.address].parts() == []
