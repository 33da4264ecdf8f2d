"""What the operator's script hears of IPv4 and IPv6, and what its refusal does."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP, parse_ip, parse_prefix
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.registration import State
from dmevpn.roles.registration_gate import MOST_HELD
from tests.layer3 import Layer3Machine, Layer3World
from tests.roles.scripts import Script
from tests.roles.test_layer3 import HUB, device_hub, device_spoke, device_spoke_text, tunnel


@pytest.fixture
def world() -> Layer3World:
    return Layer3World()


def scripted_hub(world: Layer3World) -> tuple[Layer3Machine, Script]:
    """A hub with a script."""
    script = Script(world.clock)
    machine = world.add(HUB, "redirect", device=("10.255.255.1/24",), scripts=script)
    return machine, script


def scripted_spoke(
    world: Layer3World, more: str = "", script: Script | None = None
) -> tuple[Layer3Machine, Script]:
    """A spoke with a script, an IPv4 address and a network behind it."""
    script = script or Script(world.clock)
    text = f"map 10.255.255.1/24 {HUB} register shortcut-target 192.168.2.0/24 shortcut {more}"
    machine = world.add("10.0.0.2", text, device=("10.255.255.2/24",), scripts=script)
    return machine, script


def behind(world: Layer3World, centre: Layer3Machine, two: Layer3Machine) -> Layer3Machine:
    """Another spoke, the network behind which is routed by way of the hub."""
    three = device_spoke(world, 3)
    tunnel(centre).others[parse_prefix("192.168.3.0/24")] = parse_ip("10.255.255.3")
    tunnel(two).others[parse_prefix("192.168.0.0/16")] = parse_ip("10.255.255.1")
    world.run(1)
    return three


# --- a client ----------------------------------------------------------------------------------


def test_a_spoke_comes_and_goes(world: Layer3World) -> None:
    """Interface, server, registration; and the other way round in the end."""
    device_hub(world)
    two, script = scripted_spoke(world)
    world.run(1)
    assert script.heard() == [
        "interface-up",
        "peer-up 10.255.255.1",
        "nhs-up 10.255.255.1",
    ]
    interface, peer, nhs = script.seen
    assert interface.environment == {
        "NHRP_TYPE": "INTERFACE",
        "NHRP_INTERFACE": "gre1",
        "NHRP_GRE_KEY": "0",
    }
    assert (
        peer.environment
        == nhs.environment
        == {
            "NHRP_TYPE": "static",
            "NHRP_INTERFACE": "gre1",
            "NHRP_GRE_KEY": "0",
            "NHRP_SRCADDR": "10.255.255.2",
            "NHRP_SRCNBMA": "10.0.0.2",
            "NHRP_DESTADDR": "10.255.255.1",
            "NHRP_DESTPREFIX": "24",
            "NHRP_DESTNBMA": "10.0.0.1",
        }
    )
    assert two.node is not None
    two.node.stopService()
    world.run(1)
    assert script.heard() == ["nhs-down 10.255.255.1", "peer-down 10.255.255.1"]
    assert script.seen[1].environment["NHRP_PEER_DOWN_REASON"] == "stopped"
    assert script.stopped and two.clock.getDelayedCalls() == []


def test_no_registration_before_the_script_agrees(world: Layer3World) -> None:
    """A server that the script refuses is shown to it again later."""
    centre = device_hub(world)
    script = Script(world.clock)
    script.refuses.add("peer-up 10.255.255.1")
    two, _ = scripted_spoke(world, script=script)
    world.run(10)
    assert two.station().registrations == [] and centre.known("10.255.255.2") is None
    assert two.known("10.255.255.1") is None
    script.refuses.clear()
    world.run(180, step=0.5)
    assert script.heard() == ["interface-up", *["peer-up 10.255.255.1"] * 2, "nhs-up 10.255.255.1"]
    assert centre.known("10.255.255.2") is not None


def test_a_lost_server(world: Layer3World) -> None:
    """The script hears of it when the registration has run out, and again when it is back."""
    device_hub(world)
    two, script = scripted_spoke(world, "holding-time 30")
    world.run(1)
    script.heard()
    world.kill(world.hosts[HUB])
    world.run(60, step=0.5)
    assert script.heard() == ["nhs-down 10.255.255.1"]
    assert script.seen[0].environment["NHRP_PEER_DOWN_REASON"] == "no answer"
    device_hub(world)
    world.run(120, step=0.5)
    assert script.heard() == ["nhs-up 10.255.255.1"]
    assert two.station().registrations[0].state is State.REGISTERED


def test_the_device_comes_back(world: Layer3World) -> None:
    """It is an event when the interface is up after it was not."""
    device_hub(world)
    two, script = scripted_spoke(world)
    world.run(1)
    script.heard()
    device = world.devices[two.address]
    state = device.state
    assert state is not None
    device.change(state._replace(up=False))
    device.change(state._replace(mtu=1300))
    device.change(None)
    device.change(state._replace(ifindex=9, key=5))
    assert script.heard() == ["interface-up"] * 2
    assert script.seen[1].environment["NHRP_GRE_KEY"] == "5"


# --- shortcuts ---------------------------------------------------------------------------------


def test_a_shortcut(world: Layer3World) -> None:
    """The way to another spoke carries nothing before the script has seen it."""
    centre = device_hub(world)
    two, script = scripted_spoke(world)
    three = device_spoke(world, 3, "holding-time 60")
    world.run(1)
    script.heard()
    target = parse_ip("10.255.255.3")
    script.hangs.add("peer-up 10.255.255.3")
    tunnel(two).send(target)
    world.run(1)
    assert script.heard() == ["peer-up 10.255.255.3"]
    (run,) = script.seen
    assert run.environment["NHRP_TYPE"] == "cached"
    assert run.environment["NHRP_DESTNBMA"] == "10.0.0.3"
    assert run.environment["NHRP_DESTPREFIX"] == "32"
    assert tunnel(two).send(target) == centre.address, "it goes by the hub meanwhile"
    assert run.done is not None
    run.done(True)
    assert tunnel(two).send(target) == three.address
    world.run(120, step=0.5)
    assert script.heard() == ["peer-down 10.255.255.3"]
    assert script.seen[0].environment["NHRP_PEER_DOWN_REASON"] == "expired"


def test_a_refused_shortcut(world: Layer3World) -> None:
    """It is held for a refusal of the server: traffic stays with the hub, nobody asks again."""
    centre = device_hub(world)
    two, script = scripted_spoke(world)
    device_spoke(world, 3)
    world.run(1)
    script.heard()
    script.refuses.add("peer-up 10.255.255.3")
    target = parse_ip("10.255.255.3")
    for _ in range(20):
        assert tunnel(two).send(target) == centre.address
        world.run(1)
    assert script.heard() == ["peer-up 10.255.255.3"]
    found = two.known("10.255.255.3")
    assert found is not None and found.kind is Kind.NEGATIVE


def test_a_route(world: Layer3World) -> None:
    """First the station that leads there, then the network; both go with the binding."""
    centre = device_hub(world)
    two, script = scripted_spoke(world)
    three = behind(world, centre, two)
    script.heard()
    two.station().resolution.resolve(parse_ip("192.168.3.7"))
    world.run(0.15)
    assert tunnel(two).routes == {}, "the script is still at it"
    world.run(1)
    assert script.heard() == ["peer-up 10.255.255.3", "route-up 192.168.3.0"]
    route = script.seen[1].environment
    assert (route["NHRP_TYPE"], route["NHRP_DESTPREFIX"]) == ("shortcut-route", "24")
    assert route["NHRP_NEXTHOP"] == "10.255.255.3" and "NHRP_DESTNBMA" not in route
    assert tunnel(two).send(parse_ip("192.168.3.7")) == three.address
    two.station().cache.remove_if(lambda binding: binding.kind is Kind.CACHED, "flushed")
    assert script.heard() == ["route-down 192.168.3.0", "peer-down 10.255.255.3"]
    assert script.seen[0].environment["NHRP_PEER_DOWN_REASON"] == "user-request"
    assert tunnel(two).routes == {}


@pytest.mark.parametrize("refused", ["peer-up 10.255.255.3", "route-up 192.168.3.0"])
def test_a_refused_route(world: Layer3World, refused: str) -> None:
    """The network stays with the hub, and nobody asks again for as long as the answer lasts."""
    centre = device_hub(world)
    two, script = scripted_spoke(world)
    behind(world, centre, two)
    script.refuses.add(refused)
    two.station().resolution.resolve(parse_ip("192.168.3.7"))
    world.run(1)
    asked = two.metrics.value("resolutions_asked")
    two.station().resolution.resolve(parse_ip("192.168.3.8"))
    world.run(1)
    assert two.metrics.value("resolutions_asked") == asked
    assert tunnel(two).routes == {}
    assert tunnel(two).send(parse_ip("192.168.3.7")) == centre.address


def test_a_way_that_goes_while_the_script_runs(world: Layer3World) -> None:
    """Nobody waits for it any more, and what it says does not matter."""
    device_hub(world)
    two, script = scripted_spoke(world)
    device_spoke(world, 3)
    world.run(1)
    script.heard()
    script.hangs.add("peer-up 10.255.255.3")
    tunnel(two).send(parse_ip("10.255.255.3"))
    world.run(1)
    assert script.heard() == ["peer-up 10.255.255.3"]
    two.station().cache.remove_if(lambda binding: binding.kind is Kind.CACHED, "flushed")
    assert script.seen[0].cancelled and script.heard() == []


def test_a_peer_elsewhere(world: Layer3World) -> None:
    """A client that moves goes down where it was and comes up where it is."""
    centre, script = scripted_hub(world)
    text = f"protocol-address 10.255.255.2/24 map 10.255.255.1 {HUB} register no-unique"
    world.add("10.0.0.2", text)
    world.run(1)
    assert script.heard() == [
        "interface-up",
        "peer-register 10.255.255.2",
        "peer-up 10.255.255.2",
    ]
    world.kill(world.hosts["10.0.0.2"])
    world.add("10.0.0.4", text)
    world.run(1)
    assert script.heard() == [
        "peer-register 10.255.255.2",
        "peer-down 10.255.255.2",
        "peer-up 10.255.255.2",
    ]
    register, down, up = (run.environment for run in script.seen)
    assert register["NHRP_DESTNBMA"] == up["NHRP_DESTNBMA"] == "10.0.0.4"
    assert (down["NHRP_DESTNBMA"], down["NHRP_PEER_DOWN_REASON"]) == ("10.0.0.2", "moved")
    assert tunnel(centre).send(parse_ip("10.255.255.2")) == parse_ip("10.0.0.4")


# --- a server ----------------------------------------------------------------------------------


def test_a_client_registers(world: Layer3World) -> None:
    """The cache is as it was until the script agrees, and so is the kernel."""
    centre, script = scripted_hub(world)
    script.hangs.add("peer-register 10.255.255.3")
    three = device_spoke(world, 3)
    world.run(5)
    assert centre.known("10.255.255.3") is None
    assert script.heard() == ["interface-up", "peer-register 10.255.255.3"], (
        "once, though it repeats"
    )
    register = script.seen[1]
    assert register.environment["NHRP_TYPE"] == "dynamic"
    assert register.environment["NHRP_DESTNBMA"] == "10.0.0.3"
    assert register.environment["NHRP_DESTMTU"] == "1400"
    script.hangs = {"peer-up 10.255.255.3"}
    assert register.done is not None
    register.done(True)
    world.run(0.5)
    found = centre.known("10.255.255.3")
    assert found is not None and found.vtep == VTEP(three.address, None)
    assert three.station().registrations[0].state is State.REGISTERED
    assert script.heard() == ["peer-up 10.255.255.3"]
    assert parse_ip("10.255.255.3") not in tunnel(centre).neighbours
    up = script.seen[0].done
    assert up is not None
    up(True)
    assert tunnel(centre).neighbours[parse_ip("10.255.255.3")] == three.address


def test_a_refused_registration(world: Layer3World) -> None:
    """The client is told that it may not, and nothing is kept."""
    centre, script = scripted_hub(world)
    script.refuses.add("peer-register 10.255.255.3")
    three, four = device_spoke(world, 3), device_spoke(world, 4)
    world.run(2)
    assert centre.known("10.255.255.3") is None and centre.known("10.255.255.4") is not None
    client = three.station().registrations[0]
    assert client.state is State.REFUSED and client.last_error is not None
    assert "prohibited" in client.last_error
    assert four.station().registrations[0].state is State.REGISTERED


def test_a_renewal_is_asked_about_and_is_no_event(world: Layer3World) -> None:
    """As with OpenNHRP: whoever must not register any more is found at the next renewal."""
    _, script = scripted_hub(world)
    device_spoke(world, 3, "holding-time 30")
    world.run(1)
    script.heard()
    world.run(20)
    assert set(script.heard()) == {"peer-register 10.255.255.3"}
    script.refuses.add("peer-register 10.255.255.3")
    world.run(40, step=0.5)
    assert script.heard()[-1] != "peer-up 10.255.255.3"
    assert "peer-down 10.255.255.3" in [run.about for run in script.seen]


def test_a_refused_client(world: Layer3World) -> None:
    """Without a way to it, it is not registered either."""
    centre, script = scripted_hub(world)
    script.refuses.add("peer-up 10.255.255.3")
    device_spoke(world, 3)
    world.run(1)
    assert script.heard()[-1] == "peer-up 10.255.255.3"
    assert centre.known("10.255.255.3") is None
    assert parse_ip("10.255.255.3") not in tunnel(centre).neighbours


def test_registrations_that_wait_are_bounded(world: Layer3World) -> None:
    """Whoever finds no room is told so, and those that wait lose nothing."""
    centre, script = scripted_hub(world)
    count = MOST_HELD + 3
    spokes = []
    for number in range(count):
        address = f"10.255.{number // 250}.{number % 250 + 2}"
        script.hangs.add(f"peer-register {address}")
        text = f"protocol-address {address}/16 map 10.255.255.1 {HUB} register"
        spokes.append(world.add(f"10.1.{number // 250}.{number % 250 + 2}", text))
    world.run(0.5)
    assert centre.metrics.value("registrations_not_held") >= 3
    states = [each.station().registrations[0].state for each in spokes]
    assert states.count(State.REFUSED) == 3
    waiting = [run for run in script.runs if run.event == "peer-register"]
    assert len(waiting) == MOST_HELD
    for run in waiting:
        assert run.done is not None
        run.done(True)
    world.run(1)
    assert centre.station().cache.count(Kind.DYNAMIC) == MOST_HELD


def test_no_script(world: Layer3World) -> None:
    """Without one, nothing stands between cache and kernel."""
    centre = device_hub(world)
    station = centre.station()
    assert station.server_gate is None
    spoke = world.add("10.0.0.9", device_spoke_text(9), device=("10.255.255.9/24",))
    world.run(0.1)
    assert spoke.station().registrations[0].state is State.REGISTERED
