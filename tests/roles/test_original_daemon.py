"""Whole nodes beside the original dmevpn daemon, which knows no form but its own."""

from __future__ import annotations

from dataclasses import replace
from struct import pack, unpack_from

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, parse_ip
from dmevpn.config.model import PeerPlan
from dmevpn.nhrp.registration import State
from tests.original import Message, Original
from tests.world import Site, World, mac

A, B, C = mac(1), mac(2), mac(3)
#: Stations that the original daemons register.
STATION, OTHER = mac(0x81), mac(0x82)
REGISTRATION, RESOLUTION, PURGE = 3, 1, 5


def answers(cies: bytes) -> list[tuple[int, int, bytes, bytes]]:
    """The code, holding time, NBMA and protocol address of CIEs without subaddress."""
    found = []
    while cies:
        code, holding_time, nbma, subaddress, protocol = unpack_from("!BxxxxxHBBBx", cies)
        assert subaddress == 0, "it would take it for a part of the NBMA address"
        at = 12 + nbma
        found.append((code, holding_time, cies[12:at], cies[at : at + protocol]))
        cies = cies[at + protocol :]
    return found


def answer(holding_time: int, vtep: VTEP, protocol: bytes) -> bytes:
    """The CIE of an answer of that daemon."""
    return pack("!BBHHHBBBB", 0, 0, 0, 0, holding_time, 4, 0, 6, 0) + vtep.nbma + protocol


# --- it is a spoke of our hub ---------------------------------------------------------------------


class Hub:
    """Our hub with two sites of that daemon and one of ours, all in VPN 1."""

    def __init__(self, *, little: bool = True) -> None:
        self.world = World()
        self.world.start_hub()
        network, self.to = self.world.network, self.world.hub.address
        self.one = Original(network, "10.0.0.81", STATION, vpn=1, little=little)
        self.two = Original(network, "10.0.0.82", OTHER, vpn=1, little=little)
        self.ours = self.world.add_site("10.0.0.2", 300)
        self.one.register(self.to, 100)
        self.two.register(self.to, 70000)
        self.world.run(1)

    def frame(self, site: Original, vni: int, source: bytes) -> None:
        """A station behind one of them sends a frame by way of the hub."""
        self.world.switch.receive(VTEP(site.address, vni), b"\xff" * 6 + source)


@pytest.fixture(params=[True, False], ids=["little-endian", "big-endian"])
def hub(request: pytest.FixtureRequest) -> Hub:
    return Hub(little=request.param)


def test_its_registration(hub: Hub) -> None:
    """It is accepted for what it asked, and its VTEP is a member by its true VNI."""
    (reply,) = hub.one.received
    assert (reply.type, reply.flags, reply.vni, reply.vpn) == (4, 0x8002, 100, 1)
    assert [code for code, *_ in answers(reply.rest)] == [0]
    members = {VTEP(hub.one.address, 100), VTEP(hub.two.address, 70000), hub.ours.vtep}
    assert set(hub.world.switch.members) == members
    assert hub.one.refused == []


def test_its_resolution(hub: Hub) -> None:
    """It learns where a MAC is, of either kind of site; and that nobody has one."""
    hub.frame(hub.two, 70000, B)
    hub.world.speak(hub.ours, A)
    hub.world.run(0.1)
    hub.one.received.clear()
    for number, target in enumerate((B, A, C)):
        hub.one.resolve(hub.to, target, 10 + number)
    hub.world.run(0.5)
    to_b, to_a, to_c = hub.one.received
    assert [each.request_id for each in hub.one.received] == [10, 11, 12]
    assert (to_b.vni, to_a.vni) == (70000, 300)
    assert [(c, n, p) for c, _, n, p in answers(to_b.rest)] == [(0, hub.two.address, B)]
    assert [(c, n, p) for c, _, n, p in answers(to_a.rest)] == [(0, hub.ours.vtep.nbma, A)]
    assert [code for code, *_ in answers(to_c.rest)] == [12]
    assert hub.one.refused == []


def test_our_spoke_finds_its_stations(hub: Hub) -> None:
    """A shortcut to a site of the original daemon."""
    hub.frame(hub.two, 70000, B)
    hub.world.speak(hub.ours, A)
    hub.world.run(0.1)
    hub.world.speak(hub.ours, A, B)
    hub.world.run(0.5)
    assert hub.world.path(hub.ours, B) == VTEP(hub.two.address, 70000)


def test_answers_are_taken_back(hub: Hub) -> None:
    """A MAC that moves is purged there, in its form; its reply, with flags cleared, is enough."""
    hub.frame(hub.two, 70000, B)
    hub.world.run(0.1)
    hub.one.resolve(hub.to, B)
    hub.world.run(0.5)
    hub.one.received.clear()
    hub.world.speak(hub.ours, B)
    hub.world.run(0.5)
    (purge,) = hub.one.received
    assert (purge.type, purge.vpn, purge.destination) == (PURGE, 1, STATION)
    hub.one.reply(purge, hub.to, rest=purge.rest)
    hub.world.run(60, step=1)
    assert len(hub.one.received) == 1, "the purge is not repeated"
    assert hub.one.refused == []


def test_its_purges(hub: Hub) -> None:
    """One without CIEs, as it sends after its first registration, is answered; one that names
    its station ends the registration."""
    hub.one.received.clear()
    header = (hub.one.address, None, STATION, STATION)
    hub.one.send(Message(PURGE, 0, 2, *header), hub.to)
    hub.world.run(0.5)
    assert [each.type for each in hub.one.received] == [6]
    cie = pack("!BBHHHBBBB", 0, 48, 0, 0, 0, 0, 0, 6, 0) + STATION
    hub.one.send(Message(PURGE, 0, 3, *header, cie), hub.to)
    hub.world.run(0.5)
    assert VTEP(hub.one.address, 100) not in hub.world.switch.members


def test_its_errors(hub: Hub) -> None:
    """What is not served it learns in the only form that it reads."""
    hub.one.vpn = 2
    hub.one.register(hub.to, 100)
    hub.world.run(0.5)
    assert hub.one.errors == [17]
    assert hub.one.refused == []


def test_without_vpn_headers() -> None:
    """One that has no vpn-id can be put into a VPN by its address; its byte order is found out."""
    world = World()
    peer = PeerPlan(address=parse_ip("10.0.0.81"), vpn=VPNID(DEFAULT_OUI, 1))
    world.speaker = replace(world.speaker, peers=(peer,))
    world.hub_plan = replace(world.hub_plan, speakers=(world.speaker,))
    world.start_hub()
    one = Original(world.network, "10.0.0.81", STATION, vpn=0)
    one.register(world.hub.address, 100)
    world.run(0.5)
    assert set(world.switch.members) == {VTEP(one.address, 100)}
    (reply,) = one.received
    assert (reply.vpn, reply.vni) == (0, 100)
    assert one.refused == []


def test_in_the_vpn_of_its_gre_key() -> None:
    """So it can by the key of its GRE device, beside others without a key."""
    world = World()
    world.speaker = replace(world.speaker, vpn_of_key=((1001, VPNID(DEFAULT_OUI, 1)),))
    world.hub_plan = replace(world.hub_plan, speakers=(world.speaker,))
    world.start_hub()
    one = Original(world.network, "10.0.0.81", STATION, vpn=0, key=1001)
    two = Original(world.network, "10.0.0.82", OTHER, vpn=1)
    one.register(world.hub.address, 100)
    two.register(world.hub.address, 200)
    world.run(0.5)
    members = {VTEP(one.address, 100), VTEP(two.address, 200)}
    assert set(world.switch.members) == members
    assert [(each.received[0].vpn, each.received[0].vni) for each in (one, two)] == [
        (0, 100),
        (1, 200),
    ]
    assert one.refused == [] == two.refused


# --- it is the hub of our spoke -----------------------------------------------------------------


def _site(world: World) -> Site:
    return world.add_site("10.0.0.2", 100, start=False)


class Spoke:
    """Our spoke, whose hub is an original daemon that knows one other site."""

    target = VTEP(parse_ip("10.0.0.9"), 100)

    def __init__(self, word: str = "legacy") -> None:
        self.world = World()
        self.hub = Original(self.world.network, "10.0.0.1", STATION, vpn=1, little=word == "legacy")
        self.site = _site(self.world)
        plan = self.world.spoke_plan(self.site)
        (spoke,) = plan.spokes
        servers = (replace(spoke.servers[0], peer=word),)
        self.world._start(
            self.site.machine, replace(plan, spokes=(replace(spoke, servers=servers),))
        )
        self.world.run(0.5)

    def register(self) -> None:
        """The hub accepts."""
        request = self.hub.received.pop()
        self.hub.reply(request, self.site.vtep.nbma, rest=request.rest)
        self.world.run(0.5)

    def ask(self, target: bytes = B) -> Message:
        """A frame makes the spoke ask; what arrives at the hub."""
        self.world.speak(self.site, A, target)
        self.world.run(0.1)
        return self.hub.received.pop()

    @property
    def state(self) -> State:
        """Of the registration."""
        assert self.site.machine.node is not None
        (role,) = self.site.machine.node.spokes.values()
        return role.registrations[0].state


@pytest.fixture(params=["legacy", "legacy-big-endian"])
def spoke(request: pytest.FixtureRequest) -> Spoke:
    return Spoke(request.param)


def test_registering_with_it(spoke: Spoke) -> None:
    """It understands our registration, and we its reply."""
    request = spoke.hub.received[-1]
    assert (request.type, request.vpn, request.vni) == (REGISTRATION, 1, 100)
    assert spoke.hub.refused == []
    spoke.register()
    assert spoke.state is State.REGISTERED


def test_asking_it(spoke: Spoke) -> None:
    """It understands our question, and the VNI in its header becomes that of the shortcut."""
    spoke.register()
    request = spoke.ask()
    assert (request.type, request.vpn, request.destination) == (RESOLUTION, 1, B)
    spoke.hub.reply(
        request, spoke.site.vtep.nbma, vni=spoke.target.vni, rest=answer(300, spoke.target, B)
    )
    spoke.world.run(0.5)
    assert spoke.world.path(spoke.site, B) == spoke.target
    assert spoke.hub.refused == []


def test_its_errors_end_our_question(spoke: Spoke) -> None:
    """They come without VPN header and name the VPN inside."""
    spoke.register()
    sent = len(spoke.world.network.transmissions)
    spoke.ask()
    about = spoke.world.network.transmissions[sent].payload()
    spoke.hub.error(about, 6, spoke.site.vtep.nbma)
    spoke.world.run(0.5)
    metrics = spoke.site.machine.metrics
    assert metrics.value("resolutions_answered", outcome="error") == 1
    assert metrics.value("errors_received", code="6") == 1


def test_its_purges_at_our_spoke(spoke: Spoke) -> None:
    """A shortcut that it takes back goes, and it gets its reply."""
    spoke.register()
    request = spoke.ask()
    spoke.hub.reply(request, spoke.site.vtep.nbma, vni=100, rest=answer(300, spoke.target, B))
    spoke.world.run(0.5)
    cie = pack("!BBHHHBBBB", 0, 48, 0, 0, 0, 0, 0, 6, 0) + B
    purge = Message(PURGE, 0, 77, spoke.hub.address, None, STATION, request.source, cie)
    spoke.hub.send(purge, spoke.site.vtep.nbma)
    spoke.world.run(0.5)
    assert spoke.world.path(spoke.site, B) == spoke.hub.address
    reply = spoke.hub.received.pop()
    assert (reply.type, reply.request_id, reply.vpn) == (6, 77, 1)


def test_saying_goodbye_to_it(spoke: Spoke) -> None:
    """The purge at our stop is in its form, too."""
    spoke.register()
    assert spoke.site.machine.node is not None
    spoke.site.machine.node.stopService()
    spoke.world.run(0.5)
    assert [each.type for each in spoke.hub.received] == [PURGE]
    assert spoke.hub.refused == []


def test_it_drops_our_own_form() -> None:
    """Without the word it understands nothing, and does not say so."""
    spoke = Spoke("rfc")
    assert spoke.hub.received == [] and spoke.hub.refused != []
    assert spoke.state is not State.REGISTERED
