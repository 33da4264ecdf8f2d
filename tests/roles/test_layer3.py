"""IPv4 and IPv6 hubs and spokes together, on one clock: what a user of the whole would notice."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import fail, succeed
from twisted.internet.error import DNSLookupError

from dmevpn.addresses import VTEP, parse_ip, parse_prefix
from dmevpn.config.model import ProtocolPermitPlan
from dmevpn.dataplane.memory_layer3 import MemoryLayer3, MemoryTunnel
from dmevpn.errors import CommandError, StartError
from dmevpn.interfaces import Claim, ILayer3Listener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.prefixes import key_of
from dmevpn.nhrp.registration import State
from dmevpn.roles.controller import Controller
from dmevpn.roles.l3_admission import ProtocolAdmission
from dmevpn.roles.lookup import REFRESH
from tests.layer3 import Layer3Machine, Layer3World
from tests.schemas import CheckedController

HUB = "10.0.0.1"


@pytest.fixture
def world() -> Layer3World:
    """Nobody is there yet."""
    return Layer3World()


def hub(world: Layer3World, more: str = "") -> Layer3Machine:
    """A hub with addresses of both families."""
    return world.add(
        HUB,
        f"protocol-address 10.255.255.1/24 protocol-address 2001:db8::1/64 {more}",
    )


def spoke(world: Layer3World, number: int, more: str = "") -> Layer3Machine:
    """A spoke of that hub."""
    return world.add(
        f"10.0.0.{number}",
        f"""protocol-address 10.255.255.{number}/24 protocol-address 2001:db8::{number}/64
        map 10.255.255.1/24 {HUB} register
        map 2001:db8::1/64 {HUB} register
        {more}""",
    )


def ask(world: Layer3World, machine: Layer3Machine, protocol: str) -> None:
    """Have a machine ask for an address, and wait for the answer."""
    octets = parse_ip(protocol)
    machine.station(len(octets)).resolution.resolve(octets)
    world.run(0.2)


@pytest.mark.parametrize("network", ["10.255.255.", "2001:db8::"])
def test_registration_and_resolution(world: Layer3World, network: str) -> None:
    """Each station is known to the hub by both families, and one asks for the other."""
    centre, two, three = hub(world), spoke(world, 2), spoke(world, 3)
    world.run(1)
    found = centre.known(f"{network}2")
    assert found is not None and (found.kind, found.unique) == (Kind.DYNAMIC, True)
    assert found.vtep == VTEP(two.address, None)
    ask(world, two, f"{network}3")
    answer = two.known(f"{network}3")
    assert answer is not None and answer.kind is Kind.CACHED
    assert answer.vtep == VTEP(three.address, None)


@pytest.mark.parametrize(
    ("permits", "known"),
    [
        ("", (2, 3)),
        ("permit-protocol 10.255.255.0/24 any permit-protocol 2001:db8::/64 10.0.0.2", (2, 3)),
        ("permit-protocol 10.255.255.2 10.0.0.2", (2,)),
        ("permit-protocol 10.255.255.0/24 10.0.0.3/32", (3,)),
        ("permit-protocol 10.255.255.2 10.0.0.3", ()),
        ("permit-protocol 10.255.255.0/24 any spi 300", ()),
        ("permit-protocol 2001:db8::/64 any", ()),
        ("permit-protocol 192.168.0.0/16 any permit-protocol 10.255.255.3 any", (3,)),
    ],
)
def test_who_may_register(world: Layer3World, permits: str, known: tuple[int, ...]) -> None:
    """A registration of an IPv4 address needs a line that holds for all of it: the address, where
    the station is and sends from, and its key."""
    centre, *_ = hub(world, permits), spoke(world, 2), spoke(world, 3)
    world.run(1)
    found = [number for number in (2, 3) if centre.known(f"10.255.255.{number}") is not None]
    assert tuple(found) == known
    refused = centre.metrics.value("drops", reason="not_permitted")
    assert (refused > 0) is (known != (2, 3) or "2001:db8::/64" in permits)


def test_networks_need_a_permit_for_all_of_them() -> None:
    """Whoever may register an address of a network may not register more of it."""
    line = ProtocolPermitPlan(
        protocol=parse_ip("10.1.0.0"), prefix_length=16, nbma=(parse_ip("10.0.0.0"), 24)
    )
    policy = ProtocolAdmission((line,), Metrics())
    there, elsewhere = parse_ip("10.0.0.2"), parse_ip("10.0.1.2")
    for bits, vtep, sender, expected in (
        (None, there, there, CIECode.SUCCESS),
        (24, there, there, CIECode.SUCCESS),
        (16, there, there, CIECode.SUCCESS),
        (15, there, there, CIECode.PROHIBITED),
        (8, there, there, CIECode.PROHIBITED),
        (None, there, elsewhere, CIECode.PROHIBITED),
        (None, elsewhere, there, CIECode.PROHIBITED),
    ):
        network = parse_ip("10.1.0.0")
        code = policy.decide(Claim(0, network, VTEP(vtep, None), sender, 0, bits))
        assert code == expected, (bits, vtep, sender)


def test_stop(world: Layer3World) -> None:
    """A spoke that stops is forgotten at once, by the hub and by those who had asked."""
    centre, two, three = hub(world), spoke(world, 2), spoke(world, 3)
    world.run(1)
    ask(world, two, "10.255.255.3")
    assert three.node is not None
    three.node.stopService()
    world.run(1)
    assert centre.known("10.255.255.3") is None
    assert two.known("10.255.255.3") is None
    assert three.clock.getDelayedCalls() == []


def test_renewal(world: Layer3World) -> None:
    """Registrations are renewed for as long as the spoke lives."""
    centre = hub(world)
    spoke(world, 2, "holding-time 30")
    world.run(200, step=0.5)
    assert centre.known("10.255.255.2") is not None
    world.kill(world.hosts["10.0.0.2"])
    world.run(31, step=0.5)
    assert centre.known("10.255.255.2") is None


# --- kernel GRE devices -------------------------------------------------------------------------


def device_hub(world: Layer3World, more: str = "") -> Layer3Machine:
    """A hub whose kernel forwards."""
    device = ("10.255.255.1/24", "2001:db8::1/64")
    return world.add(HUB, f"shortcut redirect non-caching {more}", device=device)


def device_spoke_text(number: int) -> str:
    """What such a spoke is told."""
    return f"""map 10.255.255.1/24 {HUB} register map 2001:db8::1/64 {HUB} register
        shortcut-target 192.168.{number}.0/24 shortcut"""


def device_spoke(world: Layer3World, number: int, more: str = "") -> Layer3Machine:
    """A spoke whose kernel forwards, with a network behind it."""
    return world.add(
        f"10.0.0.{number}",
        f"{device_spoke_text(number)} {more}",
        device=(f"10.255.255.{number}/24", f"2001:db8::{number}/64"),
    )


def tunnel(machine: Layer3Machine) -> MemoryTunnel:
    """The kernel's part of a machine."""
    assert machine.tunnel is not None
    return machine.tunnel


@pytest.mark.parametrize("network", ["10.255.255.", "2001:db8::"])
def test_a_packet_finds_its_way(world: Layer3World, network: str) -> None:
    """Its first packet goes by the hub, later ones straight; the hub knows its clients."""
    centre, two, three = device_hub(world), device_spoke(world, 2), device_spoke(world, 3)
    world.run(1)
    target = parse_ip(f"{network}3")
    assert tunnel(two).send(parse_ip(f"{network}1")) == centre.address
    assert tunnel(two).send(target) == centre.address, "nothing is lost while we ask"
    world.run(0.2)
    assert tunnel(two).send(target) == three.address
    assert tunnel(centre).send(target) == three.address
    assert tunnel(two).routes == {}, "what is on our network needs no route"


def test_an_unused_way_lapses_and_a_used_one_stays(world: Layer3World) -> None:
    """The kernel tells which next hops carry packets."""
    device_hub(world)
    two, three = device_spoke(world, 2), device_spoke(world, 3, "holding-time 60")
    four = device_spoke(world, 4, "holding-time 60")
    world.run(1)
    for _ in range(30):
        tunnel(two).send(parse_ip("10.255.255.3"))
        world.run(5, step=0.5)
        if not _:
            tunnel(two).send(parse_ip("10.255.255.4"))
    assert tunnel(two).neighbours[parse_ip("10.255.255.3")] == three.address
    assert four.address not in tunnel(two).neighbours.values()


def test_everything_goes_with_the_daemon(world: Layer3World) -> None:
    """A stop leaves the kernel as it was."""
    device_hub(world)
    two = device_spoke(world, 2)
    device_spoke(world, 3)
    world.run(1)
    tunnel(two).send(parse_ip("10.255.255.3"))
    world.run(1)
    assert tunnel(two).neighbours
    assert two.node is not None
    two.node.stopService()
    world.run(1)
    assert tunnel(two).neighbours == tunnel(two).routes == {}
    assert two.clock.getDelayedCalls() == []


def test_other_addresses_of_the_device(world: Layer3World) -> None:
    """The station moves with the address of its device, and the old one is purged."""
    centre, two = device_hub(world), device_spoke(world, 2)
    world.run(1)
    assert centre.known("10.255.255.2") is not None
    tunnel(two).addresses = (parse_prefix("10.255.255.22/24"),)
    tunnel(two).listener.addresses_changed()
    world.run(1)
    assert centre.known("10.255.255.2") is None and centre.known("2001:db8::2") is None
    found = centre.known("10.255.255.22")
    assert found is not None and found.vtep == VTEP(two.address, None)


# --- redirects ----------------------------------------------------------------------------------


def data_packet(source: str, destination: str) -> bytes:
    """The beginning of a data packet."""
    addresses = parse_ip(source) + parse_ip(destination)
    front = b"\x45" + bytes(11) if "." in source else b"\x60" + bytes(7)
    return (front + addresses).ljust(100, b"x")


@pytest.mark.parametrize("network", ["10.255.255.", "2001:db8::"])
def test_a_redirect_makes_a_shortcut(world: Layer3World, network: str) -> None:
    """A packet that takes a detour by the hub is the last one but a few that does."""
    centre, two, three = device_hub(world), device_spoke(world, 2), device_spoke(world, 3)
    world.run(1)
    packet = data_packet(f"{network}2", f"{network}3")
    tunnel(centre).listener.detour_seen(packet, two.address)
    world.run(0.5)
    assert tunnel(two).neighbours[parse_ip(f"{network}3")] == three.address


def test_redirects_are_for_clients(world: Layer3World) -> None:
    """Nobody else is told, and who does not want shortcuts does not ask."""
    centre = device_hub(world)
    deaf = world.add("10.0.0.2", f"map 10.255.255.1/24 {HUB} register", device=("10.255.255.2/24",))
    device_spoke(world, 3)
    world.run(1)
    packet = data_packet("10.255.255.2", "10.255.255.3")
    tunnel(centre).listener.detour_seen(packet, parse_ip("10.0.0.77"))
    tunnel(centre).listener.detour_seen(data_packet("10.255.255.77", "10.255.255.3"), b"")
    world.run(1)
    assert centre.metrics.value("traffic_indications_sent") == 0
    tunnel(centre).listener.detour_seen(packet, b"")
    world.run(1)
    assert centre.metrics.value("traffic_indications_sent") == 1
    assert deaf.metrics.value("traffic_indications_received") == 1
    assert deaf.known("10.255.255.3") is None


# --- names --------------------------------------------------------------------------------------


def test_names(world: Layer3World) -> None:
    """Every address of a dynamic-map's name is a server; changes are followed."""
    hub(world)
    other = world.add("10.0.0.9", "protocol-address 10.255.255.9/24")
    one, two = parse_ip(HUB), other.address
    world.names["hubs.example"] = lambda: succeed((one, two))
    machine = world.add(
        "10.0.0.2", "protocol-address 10.255.255.2/24 dynamic-map 10.255.255.0/24 hubs.example"
    )
    world.run(1)
    clients = machine.station().registrations
    assert {client.nhs: client.state for client in clients} == {
        one: State.REGISTERED,
        two: State.REGISTERED,
    }
    found = machine.known("10.255.255.9")
    assert found is not None and (found.kind, found.vtep) == (Kind.STATIC, VTEP(two, None))
    world.names["hubs.example"] = lambda: succeed((one,))
    world.run(REFRESH + 1, step=0.5)
    assert [client.nhs for client in machine.station().registrations] == [one]
    assert other.known("10.255.255.2") is None, "the registration there was purged"
    assert machine.known("10.255.255.9") is None
    world.names["hubs.example"] = lambda: fail(DNSLookupError("hubs.example"))
    world.run(2 * REFRESH, step=0.5)
    assert [client.state for client in machine.station().registrations] == [State.REGISTERED]


def test_names_of_both_families(world: Layer3World) -> None:
    """A server's address is taken of the family that our side of the underlay has."""
    hub(world)
    world.names["hub.example"] = lambda: succeed((parse_ip("2001:db8:f::1"), parse_ip(HUB)))
    machine = world.add(
        "10.0.0.2", "protocol-address 10.255.255.2/24 map 10.255.255.1 hub.example register"
    )
    world.run(1)
    assert [client.nhs for client in machine.station().registrations] == [parse_ip(HUB)]
    assert machine.station().registrations[0].state is State.REGISTERED


# --- VPNs, reload, operators ----------------------------------------------------------------


def test_vpns_are_apart(world: Layer3World) -> None:
    """The same address may be another station in another VPN."""
    text = "vpn-id 7 protocol-address 10.7.0.{0}/24 vpn-id 8 protocol-address 10.7.0.{0}/24"
    centre = world.add(HUB, text.format(1))
    two = world.add(
        "10.0.0.2", f"vpn-id 7 protocol-address 10.7.0.2/24 map 10.7.0.1 {HUB} register"
    )
    three = world.add(
        "10.0.0.3", f"vpn-id 8 protocol-address 10.7.0.2/24 map 10.7.0.1 {HUB} register"
    )
    world.run(1)
    seven, eight = centre.known("10.7.0.2", vpn=7), centre.known("10.7.0.2", vpn=8)
    assert seven is not None and seven.vtep == VTEP(two.address, None)
    assert eight is not None and eight.vtep == VTEP(three.address, None)


def test_a_reload_restarts_what_changed(world: Layer3World) -> None:
    """Another server; the speaker is not touched."""
    hub(world)
    machine = spoke(world, 2)
    world.run(1)
    assert machine.node is not None
    speaker = machine.node.speakers["gre1"]
    world.restart(machine, "protocol-address 10.255.255.2/24")
    world.run(1)
    assert machine.node.speakers["gre1"] is speaker
    assert machine.station().registrations == []


# --- networks behind stations -------------------------------------------------------------------


def routed(world: Layer3World) -> tuple[Layer3Machine, Layer3Machine, Layer3Machine]:
    """A hub and two spokes with networks behind them, routed by way of the hub."""
    centre, two, three = device_hub(world), device_spoke(world, 2), device_spoke(world, 3)
    for number in (2, 3):
        behind = parse_prefix(f"192.168.{number}.0/24")
        tunnel(centre).others[behind] = parse_ip(f"10.255.255.{number}")
    for machine in (two, three):
        tunnel(machine).others[parse_prefix("192.168.0.0/16")] = parse_ip("10.255.255.1")
    world.run(1)
    return centre, two, three


def test_a_network_behind_a_spoke(world: Layer3World) -> None:
    """The hub passes the question on by its routes; the answer is the whole network."""
    centre, two, three = routed(world)
    inside = parse_ip("192.168.3.7")
    assert tunnel(two).send(inside) == centre.address
    tunnel(centre).listener.detour_seen(data_packet("192.168.2.5", "192.168.3.7"), two.address)
    world.run(0.5)
    network = parse_prefix("192.168.3.0/24")
    assert tunnel(two).routes == {network: parse_ip("10.255.255.3")}
    assert tunnel(two).send(inside) == tunnel(two).send(parse_ip("192.168.3.99")) == three.address
    binding = two.station().cache.lookup(key_of(*network))
    assert binding is not None and (binding.kind, binding.vtep) == (
        Kind.CACHED,
        VTEP(three.address, None),
    )
    asked = two.metrics.value("resolutions_asked")
    two.station().resolution.resolve(parse_ip("192.168.3.200"))
    assert two.metrics.value("resolutions_asked") == asked, "that is known already"
    assert tunnel(centre).routes == {}


def test_a_network_that_goes(world: Layer3World) -> None:
    """When its spoke stops, whoever was told of its network is told that it is gone."""
    centre, two, three = routed(world)
    ask(world, two, "192.168.3.7")
    assert tunnel(two).routes
    assert three.node is not None
    three.node.stopService()
    world.run(1)
    assert tunnel(two).routes == {}
    assert tunnel(two).send(parse_ip("192.168.3.7")) == centre.address


def test_a_network_in_use_is_renewed(world: Layer3World) -> None:
    """By asking for the address that was asked for at first; an unused one lapses."""
    _, two, three = routed(world)
    text = device_spoke_text(3).replace("/24 shortcut", "/24 holding-time 60 shortcut")
    world.restart(three, text)
    world.run(1)
    ask(world, two, "192.168.3.7")
    for _ in range(40):
        tunnel(two).send(parse_ip("192.168.3.99"))
        world.run(5, step=0.5)
    assert tunnel(two).routes == {parse_prefix("192.168.3.0/24"): parse_ip("10.255.255.3")}
    world.run(70, step=0.5)
    assert tunnel(two).routes == {}


def test_a_map_leads_to_a_network(world: Layer3World) -> None:
    """Without kernels that forward, the hub is told by its file where a network is."""
    hub(world, "map 192.168.3.0/24 10.0.0.3 map 2001:db8:3::/48 10.0.0.3")
    two = spoke(world, 2)
    spoke(world, 3, "shortcut-target 192.168.3.0/24 shortcut-target 2001:db8:3::/48")
    world.run(1)
    for address, network, next_hop in (
        ("192.168.3.7", "192.168.3.0/24", "10.255.255.3"),
        ("2001:db8:3::7", "2001:db8:3::/48", "2001:db8::3"),
    ):
        ask(world, two, address)
        octets = len(parse_ip(address))
        binding = two.station(octets).cache.lookup(key_of(*parse_prefix(network)))
        assert binding is not None and binding.next_hop == parse_ip(next_hop)


@pytest.mark.parametrize("upstream", ["", "map 172.16.0.1/16 10.0.0.9"])
@pytest.mark.parametrize("address", ["192.168.3.7", "10.255.255.9", "2001:db8:9::9"])
def test_nobody_leads_there(world: Layer3World, upstream: str, address: str) -> None:
    """The hub says so, and the question is not asked again at once. If nobody else may know the
    address there is no binding (code 12), else nobody who could be asked (error 6)."""
    one = hub(world, upstream)
    two = spoke(world, 2)
    world.run(1)
    ask(world, two, address)
    found = two.known(address)
    assert found is not None and found.kind is Kind.NEGATIVE
    elsewhere = bool(upstream) and ":" not in address
    assert one.metrics.dropped("unreachable").value == elsewhere
    answers = one.metrics.value("resolution_answers", code="12", vpn="-")
    assert answers == (not elsewhere)


# --- operators ------------------------------------------------------------------------------


def controller(machine: Layer3Machine) -> Controller:
    """The admin's hands on a machine."""
    assert machine.node is not None
    config: Any = None
    return CheckedController(machine.node, config, lambda: succeed({}))


def test_what_operators_see(world: Layer3World) -> None:
    """Stations and networks have rows without a VPN; so have registrations."""
    centre, two, _ = routed(world)
    ask(world, two, "192.168.3.7")
    rows = {row["protocol"]: row for row in controller(two).bindings({})}
    assert rows["192.168.3.0/24"]["vpn"] is None
    assert rows["192.168.3.0/24"]["type"] == "cached" and rows["192.168.3.0/24"]["flags"] == ["up"]
    assert rows["192.168.2.0/24"]["type"] == rows["2001:db8::2"]["type"] == "local"
    wanted = {"protocol": "10.255.255.1"}
    assert [row["nbma"] for row in controller(two).bindings(wanted)] == [HUB]
    assert [
        (row["vpn"], row["nhs"], row["state"]) for row in controller(two).registrations({})
    ] == [(None, HUB, "registered")] * 2
    (row,) = controller(centre).vpns({})
    assert (row["vpn"], row["roles"], row["members"]) == (None, ["layer3"], 4)


def test_what_operators_do(world: Layer3World) -> None:
    """They ask, flush, purge and renew."""
    centre, two, three = routed(world)
    answers: list[Any] = []
    asking = controller(two).resolve({"mac": parse_ip("192.168.3.7")})
    asking.addCallback(answers.append)
    world.run(0.2)
    assert answers[0]["nbma"] == "10.0.0.3"
    with pytest.raises(CommandError, match="no spoke serves"):
        controller(two).resolve({"mac": parse_ip("192.168.3.7"), "vpn": 7})
    removed: list[int] = []
    controller(two).flush({"type": "cached"}).addCallback(removed.append)
    world.run(0.1)
    assert removed == [1]
    assert tunnel(two).routes == {}
    assert controller(two).renew({}) == 2
    removed.clear()
    controller(centre).purge({"protocol": "10.255.255.3"}).addCallback(removed.append)
    world.run(0.1)
    assert removed == [1]
    assert centre.known("10.255.255.3") is None
    assert controller(three).renew({}) == 2
    world.run(0.2)
    assert centre.known("10.255.255.3") is not None


def test_a_kernel_that_refuses(world: Layer3World) -> None:
    """A role that cannot start is undone, and the daemon says why it does not start."""

    class Refusing(MemoryLayer3):
        def start(self, listener: ILayer3Listener) -> None:
            raise StartError("no permission")

    world.make_layer3 = lambda *_: Refusing(parse_ip(HUB))  # type: ignore[method-assign]
    with pytest.raises(StartError, match="no permission"):
        hub(world)
