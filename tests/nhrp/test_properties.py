"""What holds for every packet, whole or damaged, from the GRE header to the tables of a node."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.encapsulation import Form, decapsulate, header
from dmevpn.nhrp.packet import Packet, decode_payload
from dmevpn.transport import gre
from dmevpn.transport.rawgre import split_ipv4
from tests.layer3 import Layer3World
from tests.nhrp.test_packet import read, sealed
from tests.strategies import packets, vpn_ids
from tests.vectors import VECTORS, Vector
from tests.world import Machine, World, mac

ALL = list(VECTORS.values())
OURS = VPNID(DEFAULT_OUI, 1)

#: The GRE keys of the vectors, and none.
KEYS = frozenset({None, 1000})


def documented() -> frozenset[str]:
    """The reasons for a drop that docs/operations.md lists."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = text.split("## What was dropped, and why")[1].split("\n## ")[0]
    return frozenset(
        name
        for row in re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    )


DOCUMENTED = documented()

#: What takes a reason for a drop as its first argument.
RAISED = {"NHRPError", "MalformedPacket", "AuthenticationFailure", "dropped"}


def test_every_reason_is_explained() -> None:
    """An operator finds each of them in the guide, and none that cannot be."""
    reasons, words = set(), set()
    for path in (Path(__file__).parents[2] / "dmevpn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                words.add(node.value)
            elif isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                reason = node.args[0]
                if name in RAISED and isinstance(reason, ast.Constant):
                    reasons.add(reason.value)
    assert reasons <= DOCUMENTED <= words


# --- both ways ----------------------------------------------------------------------------------


@given(packets(), vpn_ids, st.none() | st.integers(0, gre.KEY_MAX), st.booleans())
def test_there_and_back(packet: Packet, vpn_id: VPNID, key: int | None, checksum: bool) -> None:
    """In every form, with and without a key, what is sent is what arrives, and is sent the same."""
    for form in Form:
        payload = packet.encode(form, vpn_id)
        received, found_key = gre.decode(gre.encode(payload, key, checksum=checksum), {key})
        assert (received, found_key) == (payload, key)
        encapsulation, found = decode_payload(received, vpn_id.oui)
        assert (encapsulation.form, found) == (form, packet)
        assert encapsulation.vpn_id == (None if form is Form.PLAIN else vpn_id)
        assert found.encode(form, encapsulation.vpn_id) == payload


# --- damaged ------------------------------------------------------------------------------------


def mutations(octets: bytes) -> Iterator[bytes]:
    """The octets cut at every place and with every single bit changed."""
    for end in range(len(octets)):
        yield octets[:end]
    for place in range(len(octets)):
        for bit in range(8):
            yield octets[:place] + bytes([octets[place] ^ 1 << bit]) + octets[place + 1 :]


def unwrapped(vector: Vector, octets: bytes) -> bytes:
    """The GRE payload in octets as they come at the layer of a vector.

    :raises MalformedPacket: and nothing else.
    """
    if vector.layer == "ipv4":
        octets = split_ipv4(memoryview(octets))[0]
    return octets if vector.layer == "nhrp" else gre.decode(octets, KEYS)[0]


@pytest.mark.parametrize("vector", ALL, ids=str)
def test_damage_is_named_by_the_decoder(vector: Vector) -> None:
    """Cut anywhere or with any bit wrong, it is refused under a documented name, or is a packet
    that would be sent and read as the same."""
    for octets in (vector.octets, *mutations(vector.octets)):
        for each in {octets, sealed(octets)} if vector.layer == "nhrp" else {octets}:
            try:
                payload = unwrapped(vector, each)
            except MalformedPacket as error:
                assert error.counter in DOCUMENTED
            else:
                read(payload, DOCUMENTED)


class Node:
    """A daemon that octets are thrown at; the others of its world are gone."""

    def __init__(self, machine: Machine, world: World) -> None:
        self.world = world
        self.machine = machine
        for other in world.machines.values():
            if other is not machine and other.node is not None:
                world.kill(other)
        (self._transport,) = self.world.network._attached[self.machine.address]

    def take(self, packet: bytes) -> None:
        """A GRE packet arrives; it must end in a counter.

        The time after it is for what it started: answers, and the timers of its tables.
        """
        before = self.ended()
        self._transport.packets_received(((packet, bytes([192, 0, 2, 10]), self.machine.address),))
        assert self.ended() > before, "neither a packet nor a named drop"

    def ended(self) -> int:
        """How many packets were delivered or dropped so far."""
        counters = self.machine.metrics._counters
        return sum(
            counter.value
            for name in ("drops", "packets")
            for labels, counter in counters.get(name, {}).items()
            if ("direction", "sent") not in labels
        )

    def reasons(self) -> set[str]:
        """All reasons for drops so far."""
        drops = self.machine.metrics._counters["drops"]
        return {dict(labels)["reason"] for labels, counter in drops.items() if counter.value}


def hub() -> Node:
    """A hub with a member, and another server to ask."""
    world = World()
    machine = world.add_hub("10.0.0.1", "192.0.2.66")
    world.add_site("10.0.0.2", 100)
    world.run(0.1)
    return Node(machine, world)


def spoke() -> Node:
    """A spoke that is registered and asks for an address."""
    world = World()
    world.start_hub()
    site = world.add_site("10.0.0.2", 100)
    world.run(0.1)
    node = Node(site.machine, world)
    world.speak(site, mac(1), mac(2))
    return node


def router() -> Node:
    """A server of IPv4 and IPv6, which is where the vectors without a VPN are at home."""
    world = Layer3World()
    text = "protocol-address 10.0.0.1/24 protocol-address 2001:db8:a::1/64 redirect shortcut"
    return Node(world.add("192.0.2.1", text), world)


def as_ours(octets: bytes) -> bytes:
    """A payload in the VPN that hub and spoke serve, whatever form and VPN it came in."""
    try:
        start = decapsulate(octets, DEFAULT_OUI).offset
    except MalformedPacket:
        start = 0
    return sealed(header(Form.RFC, OURS) + octets[start:])


def as_it_is(vector: Vector) -> Iterator[bytes]:
    """GRE packets: the vector and every damaged one, also with the checksum put right."""
    for octets in (vector.octets, *mutations(vector.octets)):
        if vector.layer == "ipv4":
            try:
                yield split_ipv4(memoryview(octets))[0]
            except MalformedPacket as error:
                assert error.counter in DOCUMENTED
        elif vector.layer == "gre":
            yield octets
        else:
            yield gre.encode(octets, None)
            yield gre.encode(sealed(octets), None)


def in_our_vpn(vector: Vector) -> Iterator[bytes]:
    """The same where hub and spoke believe them."""
    if vector.layer == "nhrp":
        for octets in (vector.octets, *mutations(vector.octets)):
            yield gre.encode(as_ours(octets), None)


@pytest.mark.parametrize(
    ("make", "variants"), [(hub, in_our_vpn), (spoke, in_our_vpn), (router, as_it_is)]
)
@pytest.mark.parametrize("vector", ALL, ids=str)
def test_damage_is_named_by_a_node(
    vector: Vector, make: Callable[[], Node], variants: Callable[[Vector], Iterator[bytes]]
) -> None:
    """A whole daemon takes it without a fault of ours, and says in a counter what became of it."""
    node = make()
    for number, packet in enumerate(variants(vector)):
        node.take(packet)
        if number % 50 == 0:
            node.world.clock.advance(1)
            node.world.network.transmissions.clear()
    assert node.machine.metrics.value("drops", reason="internal_error") == 0
    assert node.reasons() <= DOCUMENTED
