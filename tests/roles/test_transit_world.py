"""Several hubs that ask each other: what a site of one learns of a site of another."""

from __future__ import annotations

from typing import Any

import pytest

from dmevpn.addresses import parse_ip
from dmevpn.config.model import AuthenticationPlan, KeyPlan
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.packet import Packet, decode_payload
from tests.world import Machine, Site, World, mac

A, B = mac(1), mac(2)
FIRST, SECOND, THIRD = "10.0.0.1", "10.0.1.1", "10.0.2.1"


def packets(world: World, packet_type: PacketType) -> list[tuple[bytes, Packet]]:
    """What was sent of a type so far, with where it went."""
    decoded = [
        (each.destination, decode_payload(each.payload())[1])
        for each in world.network.transmissions
    ]
    return [(where, packet) for where, packet in decoded if packet.packet_type is packet_type]


def binding(site: Site, protocol: bytes) -> tuple[Kind, object] | None:
    """What a site's spoke knows about an address."""
    assert site.machine.node is not None
    (spoke,) = site.machine.node.spokes.values()
    found = spoke.cache.lookup(protocol)
    return None if found is None else (found.kind, found.vtep)


class Chain:
    """Three hubs, each of which asks the next; a site at the first, one at the last."""

    def __init__(self, **options: Any) -> None:
        self.world = world = World(**options)
        self.first = world.add_hub(FIRST, SECOND)
        self.second = world.add_hub(SECOND, THIRD)
        self.third = world.add_hub(THIRD)
        self.one = world.add_site("10.0.0.2", 100, hub=self.first)
        self.two = world.add_site("10.0.2.2", 200, hub=self.third)
        world.run(1)
        world.speak(self.two, B)
        world.run(0.2)

    def ask(self) -> None:
        """A station at the first hub has a frame for one at the third."""
        self.world.network.transmissions.clear()
        self.world.speak(self.one, A, B)
        self.world.run(0.5)


def forwarded(machine: Machine) -> float:
    return machine.metrics.value("packets_forwarded", vpn="1")


def test_a_chain() -> None:
    """The answer comes from the hub that knows, straight to the site that asks."""
    chain = Chain()
    chain.ask()
    assert chain.world.path(chain.one, B) == chain.two.vtep
    requests = packets(chain.world, PacketType.RESOLUTION_REQUEST)
    assert [(where, packet.hop_count) for where, packet in requests] == [
        (parse_ip(FIRST), 16),
        (parse_ip(SECOND), 15),
        (parse_ip(THIRD), 14),
    ]
    replies = packets(chain.world, PacketType.RESOLUTION_REPLY)
    assert [where for where, _ in replies] == [chain.one.machine.address]


@pytest.mark.parametrize(
    "plan",
    [
        AuthenticationPlan(secret=b"secret"),
        AuthenticationPlan(keys=(KeyPlan(spi=256, algorithm="hmac-sha-256", secret=b"k" * 32),)),
    ],
    ids=["cleartext", "keyed hash"],
)
def test_each_hop_is_authenticated(plan: AuthenticationPlan) -> None:
    """Every hub proves itself to the next, and the one that answers to the site that asked."""
    chain = Chain(authentication=plan)
    chain.ask()
    chain.world.run(2)
    assert chain.world.path(chain.one, B) == chain.two.vtep
    assert len(packets(chain.world, PacketType.ERROR_INDICATION)) == 0


def test_what_moves_is_purged_across_the_chain() -> None:
    """The hub that answered takes its answer back from the site of another hub."""
    chain = Chain()
    chain.ask()
    three = chain.world.add_site("10.0.2.3", 300, hub=chain.third)
    chain.world.run(1)
    chain.two.kernel.local.discard(B)
    chain.world.speak(three, B)
    chain.world.run(0.5)
    assert binding(chain.one, B) is None, "it does not believe it any more"
    chain.ask()
    assert chain.world.path(chain.one, B) == three.vtep


def test_a_site_that_stops_is_purged_across_the_chain() -> None:
    """Shortcuts to a site that is gone are withdrawn at sites of other hubs, too."""
    chain = Chain()
    chain.ask()
    assert chain.two.machine.node is not None
    chain.two.machine.node.stopService()
    chain.world.run(0.5)
    assert chain.one.kernel.rows == {} or chain.world.path(chain.one, B) == parse_ip(FIRST)


def test_nobody_knows() -> None:
    """The last hub knows that there is no binding, and the site is told so."""
    chain = Chain()
    chain.two.kernel.local.discard(B)
    chain.third.node.hubs["vx0"].dataplane.forget(1, B)  # type: ignore[union-attr]
    chain.ask()
    assert binding(chain.one, B) == (Kind.NEGATIVE, None)
    (reply,) = packets(chain.world, PacketType.RESOLUTION_REPLY)
    assert [cie.code for cie in reply[1].cies] == [12]  # type: ignore[attr-defined]


def test_a_route_that_leads_back() -> None:
    """Two hubs that ask each other: the second has nobody else, and says so to the site."""
    world = World()
    first, second = world.add_hub(FIRST, SECOND), world.add_hub(SECOND, FIRST)
    one = world.add_site("10.0.0.2", 100, hub=first)
    two = world.add_site("10.0.1.2", 200, hub=second)
    world.run(1)
    world.network.transmissions.clear()
    world.speak(one, A, B)
    world.run(0.5)
    assert len(packets(world, PacketType.RESOLUTION_REQUEST)) == 2
    ((where, error),) = packets(world, PacketType.ERROR_INDICATION)
    assert (where, error.code) == (one.machine.address, 6)  # type: ignore[attr-defined]
    assert binding(one, B) == (Kind.NEGATIVE, None)
    world.speak(two, B)
    world.run(11)
    world.speak(one, A, B)
    world.run(0.5)
    assert world.path(one, B) == two.vtep


def test_a_triangle() -> None:
    """A request that nobody can answer goes round once, and no storm follows."""
    world = World()
    first = world.add_hub(FIRST, SECOND)
    second = world.add_hub(SECOND, THIRD)
    third = world.add_hub(THIRD, FIRST)
    one = world.add_site("10.0.0.2", 100, hub=first)
    world.run(1)
    world.network.transmissions.clear()
    world.speak(one, A, B)
    world.run(5)
    assert len(packets(world, PacketType.RESOLUTION_REQUEST)) == 4, "three hops after the first"
    ((where, error),) = packets(world, PacketType.ERROR_INDICATION)
    assert (where, error.code) == (one.machine.address, 3)  # type: ignore[attr-defined]
    assert [forwarded(each) for each in (first, second, third)] == [1, 1, 1]
    assert first.metrics.value("drops", reason="loop_detected") == 1
    assert binding(one, B) == (Kind.NEGATIVE, None)


@pytest.mark.parametrize("dead", [SECOND, None])
def test_upstream_is_asked_in_order(dead: str | None) -> None:
    """The first server of the list; if it is silent, so is the answer, and frames go by the hub."""
    world = World()
    first = world.add_hub(FIRST, SECOND, THIRD)
    world.add_hub(SECOND)
    world.add_hub(THIRD)
    one = world.add_site("10.0.0.2", 100, hub=first)
    world.run(1)
    if dead is not None:
        world.network.isolate(parse_ip(dead))
    world.network.transmissions.clear()
    world.speak(one, A, B)
    world.run(0.5)
    requests = packets(world, PacketType.RESOLUTION_REQUEST)
    assert [where for where, _ in requests] == [parse_ip(FIRST), parse_ip(SECOND)]
    assert (binding(one, B) or (None,))[0] is (Kind.INCOMPLETE if dead else Kind.NEGATIVE)
    assert world.path(one, B) == parse_ip(FIRST)
