"""Keepalives that are answered as the one before: octet by octet what they would get anyway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import VPNID, Path
from dmevpn.nhrp import echo
from dmevpn.nhrp.constants import PurgeFlag
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import END, ResponderAddress
from dmevpn.nhrp.packet import PurgeReply, decode_payload, seal
from dmevpn.nhrp.records import CIE
from tests.nhrp import twins
from tests.nhrp.neighbours import (
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VPN7,
    VPN8,
)
from tests.nhrp.speaking import World
from tests.nhrp.twins import Reading, Twins, flipped, lives, noises


def keepalive(
    request_id: int = 1, path: Path = TO_A, vpn_id: VPNID = VPN7, **fields: object
) -> bytes:
    """The payload of a keepalive as a client of ours makes it, but for the fields."""
    station = STATION_A if path.peer == SITE_A else STATION_B
    return twins.keepalive(path, station, request_id, **fields).encode(Form.RFC, vpn_id)


@pytest.fixture
def world() -> World:
    """A hub that knows both sites, and has answered a keepalive of one of them."""
    world = World()
    world.serve(VPN7)
    world.speaker.known.claim("registered", [SITE_A, SITE_B])
    assert len(world.receive(keepalive())) == 1
    return world


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, world: World) -> Reading:
    """What that hub reads."""
    return Reading(monkeypatch, world)


# --- when a packet is not read ------------------------------------------------------------------


def test_the_next_one_is_not_read(world: World, reading: Reading) -> None:
    """The second keepalive has its own answer, and both are counted like the first."""
    (answer,) = world.receive(keepalive(0xABCDEF01))
    assert not reading.taken()
    assert world.transport.sent[0][1] == TO_A
    packet = decode_payload(answer)[1]
    assert isinstance(packet, PurgeReply)
    assert packet.request_id == 0xABCDEF01
    counts = [
        world.metrics.value("packets", direction=direction, type=name, vpn="7")
        for direction, name in (("received", "purge_request"), ("sent", "purge_reply"))
    ]
    assert counts == [2, 2]


#: What happens between packets.
EVENTS = twins.EVENTS | twins.SECRETS


@pytest.mark.parametrize("event", ["another station", "a secret", "another dialect", "a key"])
def test_what_changes_the_answer_is_heeded(world: World, reading: Reading, event: str) -> None:
    """Other stations, or another understanding of the peer: the packet is read."""
    world.receive(keepalive(2))
    assert not reading.taken()
    EVENTS[event](world)
    world.receive(keepalive(3))
    assert reading.taken()


def test_strangers_are_not_remembered(world: World, reading: Reading) -> None:
    """Whoever is not registered cannot fill the table."""
    stranger = Path(b"\xc0\0\2\x63", TO_A.local)
    for number in (1, 2):
        assert world.receive(keepalive(number, stranger), stranger)
        assert reading.taken()


def test_long_ones_are_not_remembered(world: World, reading: Reading) -> None:
    """Nor can who is, by packets that are longer than they need to be."""
    packet = decode_payload(keepalive())[1]
    for _ in range(2):
        assert world.receive(seal(*packet.write(Form.RFC, VPN7, END + bytes(200))))
        assert reading.taken()


def test_bounded(world: World, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no more room, all are forgotten and read again."""
    monkeypatch.setattr(echo, "ECHOES", 1)
    assert len(world.receive(keepalive(1, TO_B), TO_B)) == 1
    assert reading.taken()
    world.receive(keepalive(2))
    assert reading.taken()
    world.receive(keepalive(3))
    assert not reading.taken()
    assert world.metrics.value("keepalives_forgotten") == 2


# --- against a hub that remembers nothing -------------------------------------------------------


def two_hubs() -> Twins[World]:
    """Hubs of two VPNs, which have answered a keepalive of either site."""

    def make() -> World:
        world = World()
        world.serve(VPN7)
        world.serve(VPN8)
        return world

    hubs = Twins(make, [SITE_A, SITE_B])
    for path in (TO_A, TO_B):
        assert len(hubs.receive((keepalive(1, path), path))) == 1
    return hubs


def test_every_octet_counts() -> None:
    """A bit that is wrong, wherever, makes of the packet what it does when it is read."""
    hubs = two_hubs()
    payload = keepalive(2)
    for at in range(len(payload)):
        hubs.receive((flipped(payload, at, at % 8), TO_A))


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=5))
def test_every_request_id(number: int, subaddress: bytes) -> None:
    """So does every number, and the reply's checksum is that of a reply that was written, for even
    and odd lengths."""
    hubs = two_hubs()
    for each in (7, number):
        assert len(hubs.receive((keepalive(each, source_subaddress=subaddress), TO_A))) == 1


arrivals = st.builds(
    lambda number, path, key, vpn_id, fields, noise: (
        noise(keepalive(number, path, vpn_id, **fields)),
        path._replace(key=key),
    ),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([TO_A, TO_B]),
    st.sampled_from([None, None, None, 3]),
    st.sampled_from([VPN7, VPN7, VPN7, VPN8]),
    st.sampled_from(
        [
            {},
            {},
            {},
            {"destination_protocol": HUB_MAC},
            {"hop_count": 7},
            {"flags": int(PurgeFlag.N)},
            {"extensions": (ResponderAddress(),)},
            {"cies": (CIE(prefix_length=48, protocol=STATION_A),)},
        ]
    ),
    noises,
)


@given(lives(arrivals, EVENTS))
def test_nobody_can_tell(steps: list[str | list[tuple[bytes, Path]]]) -> None:
    """Whatever arrives and happens: nobody can tell which packets were read."""
    two_hubs().live(steps, EVENTS)
