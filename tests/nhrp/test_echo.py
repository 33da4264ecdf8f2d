"""Keepalives that are answered as the one before: octet by octet what they would get anyway."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.nhrp import echo
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.constants import PacketType, PurgeFlag
from dmevpn.nhrp.encapsulation import RFC_LENGTH, Form
from dmevpn.nhrp.extensions import END, ResponderAddress
from dmevpn.nhrp.packet import PurgeReply, PurgeRequest, decode_payload, seal
from dmevpn.nhrp.peers import peer_of
from dmevpn.nhrp.records import CIE
from tests.nhrp.neighbours import (
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VPN7,
    Station,
)
from tests.nhrp.speaking import SECRET, World

VPN8 = VPNID(DEFAULT_OUI, 8)


def keepalive(
    request_id: int = 1, path: Path = TO_A, vpn_id: VPNID = VPN7, **fields: object
) -> bytes:
    """The payload of a keepalive as a client of ours makes it, but for the fields."""
    station = STATION_A if path.peer == SITE_A else STATION_B
    packet = PurgeRequest(
        **{  # type: ignore[arg-type]
            "source_nbma": path.peer,
            "source_subaddress": b"\0\0\x01\x02",
            "source_protocol": station,
            "destination_protocol": station,
            "request_id": request_id,
        }
        | fields
    )
    return packet.encode(Form.RFC, vpn_id)


class Repeating(Station):
    """Answers keepalives, and lets the speaker repeat that."""

    def __init__(self, world: World, vpn_id: VPNID) -> None:
        super().__init__(PacketType.PURGE_REQUEST)
        self._link = world.speaker.link(vpn_id)

    def packet_received(self, packet: object, path: Path) -> bool:
        super().packet_received(packet, path)  # type: ignore[arg-type]
        assert isinstance(packet, PurgeRequest)
        self._link.answer(packet, packet.reply(), path)
        return True

    def heard(self) -> bool:
        """Whether it was asked since the last time."""
        heard = bool(self.received)
        self.received.clear()
        return heard


@pytest.fixture
def world() -> World:
    """A speaker that knows both sites."""
    world = World()
    world.speaker.known.claim("registered", [SITE_A, SITE_B])
    return world


@pytest.fixture
def station(world: World) -> Repeating:
    """The only station of VPN 7, which has answered a keepalive of site A."""
    station = Repeating(world, VPN7)
    world.speaker.attach(VPN7, station)
    world.receive(keepalive())
    assert station.heard()
    return station


# --- when a station is not asked again --------------------------------------------------------


def test_the_station_is_not_asked_again(world: World, station: Repeating) -> None:
    """The second keepalive has its own answer, and both are counted like the first."""
    (answer,) = world.receive(keepalive(0xABCDEF01))
    assert not station.heard()
    assert world.transport.sent[0][1] == TO_A
    packet = decode_payload(answer)[1]
    assert isinstance(packet, PurgeReply)
    assert packet.request_id == 0xABCDEF01
    counts = [
        world.metrics.value("packets", direction=direction, type=name, vpn="7")
        for direction, name in (("received", "purge_request"), ("sent", "purge_reply"))
    ]
    assert counts == [2, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda world: world.speaker.attach(VPN7, Station(PacketType.PURGE_REQUEST)),
        lambda world: setattr(world.speaker, "authenticator", CiscoAuthentication(SECRET)),
        lambda world: world.speaker.peers.claim("file", {SITE_A: peer_of("legacy")}),
        lambda world: world.speaker.naming.by_key.update({3: VPN8}),
    ],
    ids=["stations", "authentication", "dialect", "keys"],
)
def test_what_changes_the_answer_is_heeded(
    world: World, station: Repeating, change: Callable[[World], object]
) -> None:
    """Other stations, or another understanding of the peer: the packet is read."""
    world.receive(keepalive(2))
    assert not station.heard()
    change(world)
    world.receive(keepalive(3))
    assert station.heard() or world.dropped() == {"authentication_failure": 1}


def test_strangers_are_not_remembered(world: World, station: Repeating) -> None:
    """Whoever is not registered cannot fill the table."""
    stranger = Path(b"\xc0\0\2\x63", TO_A.local)
    for number in (1, 2):
        assert world.receive(keepalive(number, stranger), stranger)
        assert station.heard()


def test_long_ones_are_not_remembered(world: World, station: Repeating) -> None:
    """Nor can who is, by packets that are longer than they need to be."""
    packet = decode_payload(keepalive())[1]
    for _ in range(2):
        world.receive(seal(*packet.write(Form.RFC, VPN7, END + bytes(200))))
        assert station.heard()


def test_bounded(world: World, station: Repeating, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no more room, all are forgotten and read again."""
    monkeypatch.setattr(echo, "ECHOES", 1)
    assert len(world.receive(keepalive(1, TO_B), TO_B)) == 1
    assert station.heard()
    world.receive(keepalive(2))
    assert station.heard()
    world.receive(keepalive(3))
    assert not station.heard()
    assert world.metrics.value("keepalives_forgotten") == 2


# --- against a speaker that remembers nothing ---------------------------------------------------


def two_worlds() -> tuple[World, World]:
    """Speakers with servers for two VPNs; the one has both sites' keepalives, the other reads all
    packets."""
    worlds = World(), World()
    worlds[0].speaker.known.claim("registered", [SITE_A, SITE_B])
    for world in worlds:
        world.serve(VPN7)
        world.serve(VPN8)
        for path in (TO_A, TO_B):
            world.speaker.datagrams_received([(keepalive(1, path), path)])
    return worlds


def assert_alike(worlds: tuple[World, World]) -> None:
    """What was sent, in its order, and what was counted is the same at both."""
    one, other = worlds
    assert one.transport.sent == other.transport.sent
    assert list(one.metrics.snapshot()) == list(other.metrics.snapshot())


def flipped(payload: bytes, at: int, bit: int) -> bytes:
    """A payload with one bit changed."""
    at = min(at, len(payload) - 1)
    return payload[:at] + bytes([payload[at] ^ 1 << bit]) + payload[at + 1 :]


def test_every_octet_counts() -> None:
    """A bit that is wrong, wherever, makes of the packet what it does when it is read."""
    worlds = two_worlds()
    payload = keepalive(2)
    for at in range(len(payload)):
        for world in worlds:
            world.speaker.datagrams_received([(flipped(payload, at, at % 8), TO_A)])
        assert_alike(worlds)


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=5))
def test_every_request_id(number: int, subaddress: bytes) -> None:
    """So does every number, and the reply's checksum is that of a reply that was written, for even
    and odd lengths."""
    worlds = two_worlds()
    for world in worlds:
        for each in (7, number):
            payload = keepalive(each, source_subaddress=subaddress)
            world.speaker.datagrams_received([(payload, TO_A)])
    assert_alike(worlds)
    assert len(worlds[0].transport.sent) == 4


noises = st.one_of(
    st.just(lambda payload: payload),
    st.just(lambda payload: payload),
    st.builds(
        lambda at, bit: lambda payload: flipped(payload, at, bit),
        st.integers(0, 79),
        st.integers(0, 7),
    ),
    st.sampled_from([lambda payload: payload + b"\0", lambda payload: payload[:-1]]),
    st.just(lambda payload: payload[RFC_LENGTH:]),
)
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

#: What happens between packets; each is done at both speakers.
EVENTS: dict[str, Callable[[World], object]] = {
    "another station": lambda world: world.serve(VPN7, b"\x0a\0\0\1"),
    "a secret": lambda world: setattr(world.speaker, "authenticator", CiscoAuthentication(SECRET)),
    "no secret": lambda world: setattr(world.speaker, "authenticator", None),
    "another dialect": lambda world: world.speaker.peers.claim("file", {SITE_A: peer_of("legacy")}),
    "our dialect": lambda world: world.speaker.peers.claim("file", {}),
    "a key": lambda world: world.speaker.naming.by_key.update({3: VPN8}),
    "no key": lambda world: world.speaker.naming.by_key.clear(),
}


@given(
    st.lists(
        st.one_of(st.lists(arrivals, min_size=1, max_size=5), st.sampled_from(sorted(EVENTS))),
        max_size=20,
    )
)
def test_nobody_can_tell(steps: list[str | list[tuple[bytes, Path]]]) -> None:
    """Whatever arrives and happens: nobody can tell which packets were read."""
    worlds = two_worlds()
    for step in steps:
        for world in worlds:
            if isinstance(step, str):
                EVENTS[step](world)
            else:
                world.speaker.datagrams_received(step)
        assert_alike(worlds)
