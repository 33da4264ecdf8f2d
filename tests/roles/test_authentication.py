"""Whole nodes that authenticate each other: replays of everything, and new keys under way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.config.model import AuthenticationPlan, KeyPlan, Plan
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.packet import TrafficIndication, decode_payload
from dmevpn.nhrp.registration import State
from dmevpn.transport.memory import Transmission
from tests.world import Machine, Site, World, mac

A, B, C, D = mac(1), mac(2), mac(3), mac(4)

OLD = KeyPlan(spi=256, algorithm="hmac-sha-256", secret=b"the key of last year")
NEW = KeyPlan(spi=257, algorithm="hmac-md5", secret=b"the key of this year")
KEYED = AuthenticationPlan(keys=(OLD,))
SECRET = AuthenticationPlan(secret=b"secret")


def tables(world: World) -> dict[str, object]:
    """Everything that packets can change at any node."""
    state: dict[str, object] = {
        "members": {vtep: (m.vpn, m.registration) for vtep, m in world.switch.members.items()},
        "switch": {vpn: dict(macs) for vpn, macs in world.switch.vpns.items()},
    }
    for address, machine in world.machines.items():
        if machine.node is None:
            continue
        name = address.hex()
        for hub in machine.node.hubs.values():
            for index, vpn in hub.vpns.items():
                state[f"{name} {index} bindings"] = sorted(map(repr, vpn.cache.bindings()))
                state[f"{name} {index} answered"] = sorted(vpn.server.answered())
                state[f"{name} {index} members"] = sorted(vpn.members)
        for interface, spoke in machine.node.spokes.items():
            state[f"{name} {interface} bindings"] = sorted(map(repr, spoke.cache.bindings()))
            state[f"{name} {interface} registrations"] = [
                (client.state, client.expires, client.renew_at, client.last_error)
                for client in spoke.registrations
            ]
    for vtep, site in world.sites.items():
        state[f"{vtep} kernel"] = (dict(site.kernel.rows), site.kernel.flood)
    return state


class Recording:
    """Three sites, two of them in one VPN, and all that they and the hub have ever said.

    :param protected: whether they refuse replays.
    """

    def __init__(self, protected: bool = True) -> None:
        plan = replace(KEYED, replay_protection=protected)
        self.world = world = World(vpns=((1, 2),), authentication=plan)
        world.start_hub()
        self.one = world.add_site("10.0.0.2", 100)
        self.two = world.add_site("10.0.0.3", 101)
        self.other = world.add_site("10.0.0.4", 200, vpn=2)
        stranger = world.add_site("10.0.0.5", 300, vpn=3)
        world.run(1)
        world.exchange(self.one, A, self.two, B)
        # The hub takes its answers back, and is answered.
        world.speak(self.one, C)
        world.exchange(self.two, D, self.one, C)
        world.speak(self.two, C)
        world.run(1)
        self.indicate()
        # Everybody has stopped and started once.
        for site, vpn in ((self.one, 1), (self.two, 1), (self.other, 2)):
            self.stop(site)
            world.start_site(site, vpn=vpn)
            world.run(1)
        self.stop(stranger)
        world.exchange(self.one, A, self.two, B)
        world.run(2)
        self.sent = list(world.network.transmissions)

    def stop(self, site: Site) -> None:
        """End the daemon of a site in order."""
        assert site.machine.node is not None
        site.machine.node.stopService()
        self.world.run(0.1)
        site.machine.node = None

    def indicate(self) -> None:
        """The hub tells a site that its frames take a detour."""
        node = self.world.hub.node
        assert node is not None
        path = Path(self.one.vtep.nbma, self.world.hub.address)
        link = node.speakers["nhrp"].link(VPNID(DEFAULT_OUI, 1))
        indication = TrafficIndication(
            source_nbma=self.world.hub.address,
            source_protocol=mac(99),
            destination_protocol=A,
            contents=B + A + bytes(2),
        )
        link.send(indication, path)
        self.world.run(0.1)

    def types(self) -> set[PacketType]:
        """The packets that were recorded."""
        return {decode_payload(each.payload())[1].packet_type for each in self.sent}

    def replay(self, sent: list[Transmission]) -> None:
        """Send packets again."""
        for each in sent:
            self.world.network.transmit(each.source, each.destination, each.packet)
        self.world.run(0.1)

    def restart(self, machine: Machine, plan: Plan) -> None:
        """Let a daemon crash and start again."""
        self.world.kill(machine)
        node = machine.node = self.world.make_node(machine, plan)
        node.privilegedStartService()
        node.startService()


def test_the_recording_has_everything() -> None:
    """Every type of packet is among what is replayed, and everybody is on."""
    recording = Recording()
    assert recording.types() == set(PacketType)
    world = recording.world
    assert set(world.switch.members) == {
        each.vtep for each in (recording.one, recording.two, recording.other)
    }
    assert world.path(recording.one, B) == recording.two.vtep
    assert world.path(recording.two, A) == recording.one.vtep


@pytest.mark.parametrize("order", ["as sent", "reversed", "shuffled", "twice each"])
def test_replayed_to_whom_they_were_sent(order: str) -> None:
    """All at once, in any order: nothing changes in any table."""
    recording = Recording()
    sent = {
        "as sent": recording.sent,
        "reversed": recording.sent[::-1],
        "shuffled": random.Random(7).sample(recording.sent, len(recording.sent)),
        "twice each": [each for each in recording.sent for _ in range(2)],
    }[order]
    before = tables(recording.world)
    recording.replay(sent)
    assert tables(recording.world) == before
    hub = recording.world.hub.metrics
    assert hub.value("drops", reason="replayed") + hub.value("drops", reason="unproven") > 20
    still_works(recording)


def test_without_protection_they_do_harm() -> None:
    """The keyed hash alone lets a recorded purge take away what is registered now."""
    recording = Recording(protected=False)
    before = tables(recording.world)
    recording.replay(recording.sent[::-1])
    assert tables(recording.world) != before


def test_replayed_to_everybody_else() -> None:
    """A packet means nothing to those it was not sent to, whoever it claims to come from."""
    recording = Recording()
    before = tables(recording.world)
    for address in recording.world.machines:
        recording.replay([replaced(each, destination=address) for each in recording.sent])
        recording.replay(
            [replaced(each, destination=address, source=address) for each in recording.sent]
        )
    assert tables(recording.world) == before
    still_works(recording)


def test_thrown_back_at_their_senders() -> None:
    """Nobody takes his own packets for those of his neighbour."""
    recording = Recording()
    before = tables(recording.world)
    recording.replay(
        [
            replaced(each, source=each.destination, destination=each.source)
            for each in recording.sent
        ]
    )
    assert tables(recording.world) == before
    still_works(recording)


def test_replayed_into_another_vpn() -> None:
    """The VPN header is not covered by the hash of RFC 2332; nevertheless it counts."""
    recording = Recording()
    before = tables(recording.world)
    for index in (b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3"):
        recording.replay(
            [replaced(each, packet=moved(each.packet, index)) for each in recording.sent]
        )
    without = [replaced(each, packet=each.packet[:4] + each.packet[28:]) for each in recording.sent]
    recording.replay(without)
    assert tables(recording.world) == before
    still_works(recording)


@pytest.mark.parametrize("who", ["hub", "one", "two"])
def test_replayed_after_a_restart(who: str) -> None:
    """Neither the first moment of a new daemon nor what its neighbours know of the old one is of
    use: it has no file, and its clock is not asked."""
    recording = Recording()
    world = recording.world
    if who == "hub":
        recording.restart(world.hub, world.hub_plan)
    else:
        site: Site = getattr(recording, who)
        recording.restart(site.machine, world.spoke_plan(site))
    # Before anybody has said a word, everything arrives again.
    hub_before = hub_tables(world)
    for each in recording.sent:
        world.network.transmit(each.source, each.destination, each.packet)
    world.run(0.05)
    if who == "hub":
        assert hub_tables(world) == hub_before
    world.run(5)
    before = tables(world)
    recording.replay(recording.sent)
    recording.replay(recording.sent[::-1])
    assert tables(world) == before
    still_works(recording)


def moved(packet: bytes, index: bytes) -> bytes:
    """A packet in another VPN: the index is the last of the VPN header, which follows GRE's."""
    return packet[:16] + index + packet[20:]


def hub_tables(world: World) -> dict[str, object]:
    """What the hub knows."""
    name = world.hub.address.hex()
    return {key: value for key, value in tables(world).items() if key.startswith((name, "members"))}


def replaced(each: Transmission, **fields: bytes) -> Transmission:
    """A transmission from or to somebody else."""
    return each._replace(**fields)


def still_works(recording: Recording) -> None:
    """After an attack all goes on: registrations are renewed, and new stations find each other."""
    world, one, two = recording.world, recording.one, recording.two
    world.run(2)
    for site in (one, two, recording.other):
        assert site.machine.node is not None
        for spoke in site.machine.node.spokes.values():
            for client in spoke.registrations:
                client.renew()
    world.run(2)
    for site in (one, two, recording.other):
        assert site.machine.node is not None
        states = [
            client.state
            for spoke in site.machine.node.spokes.values()
            for client in spoke.registrations
        ]
        assert states == [State.REGISTERED]
    world.exchange(one, mac(41), two, mac(42))
    world.run(2)
    world.exchange(one, mac(41), two, mac(42))
    assert world.path(one, mac(42)) == two.vtep
    assert world.path(two, mac(41)) == one.vtep


class TestRollover:
    """Other keys, node by node, while everybody goes on."""

    def traffic(self, world: World, sites: tuple[Site, Site], number: int) -> None:
        """Registrations and resolutions, all of which have to succeed."""
        one, two = sites
        for site in sites:
            assert site.machine.node is not None
            for client in site.machine.node.spokes["vx1"].registrations:
                client.renew()
        a, b = mac(100 + 2 * number), mac(101 + 2 * number)
        world.exchange(one, a, two, b)
        assert world.path(one, b) == two.vtep
        assert world.path(two, a) == one.vtep

    @pytest.mark.parametrize(
        "steps",
        [
            [
                KEYED,
                AuthenticationPlan(keys=(OLD, replace(NEW, signs=False))),
                AuthenticationPlan(keys=(OLD, NEW)),
                AuthenticationPlan(keys=(NEW,)),
            ],
            [
                SECRET,
                replace(SECRET, keys=(replace(OLD, signs=False),)),
                replace(SECRET, keys=(OLD,)),
                KEYED,
            ],
        ],
        ids=["from key to key", "from cleartext to a key"],
    )
    def test_no_request_fails(self, steps: list[AuthenticationPlan]) -> None:
        """Accept the new key everywhere, sign with it, drop the old one: nothing is lost, and
        nothing restarted."""
        world = World(authentication=steps[0])
        hub = world.start_hub()
        sites = world.add_site("10.0.0.2", 100), world.add_site("10.0.0.3", 101)
        world.run(1)
        number = 0
        self.traffic(world, sites, number)
        machines = [world.hub, *(site.machine for site in sites)]
        roles = [(*m.node.hubs.values(), *m.node.spokes.values()) for m in machines if m.node]
        for step in steps[1:]:
            for machine in machines:
                assert machine.node is not None
                plan = machine.node.plan
                speakers = tuple(replace(each, authentication=step) for each in plan.speakers)
                machine.node.apply(replace(plan, speakers=speakers))
                number += 1
                self.traffic(world, sites, number)
        assert world.hub.node is hub
        assert roles == [
            (*m.node.hubs.values(), *m.node.spokes.values()) for m in machines if m.node
        ]
        for machine in machines:
            values = machine.metrics.value
            assert values("drops", reason="authentication_failure") == 0
            assert values("requests_timed_out") == values("retransmissions") == 0
            assert values("registrations_refused") == values("registrations_down") == 0
            assert values("resolutions_answered", outcome="error") == 0
        world.speaker = replace(world.speaker, authentication=steps[0])
        late = world.add_site("10.0.0.9", 109)
        world.run(1)
        assert late.vtep not in world.switch.members, "the old one is worth nothing any more"
