"""Signed keepalives that are answered as the one before: octet by octet what they would get
anyway, and refused like any other packet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import Path
from dmevpn.errors import AuthenticationFailure, Handshake
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import PacketType, PurgeFlag
from dmevpn.nhrp.encapsulation import RFC_LENGTH, Form
from dmevpn.nhrp.extensions import ResponderAddress
from dmevpn.nhrp.header import CHECKSUM
from dmevpn.nhrp.keyed import Key, KeyedAuthentication
from dmevpn.nhrp.packet import Packet, PurgeReply, PurgeRequest, decode_payload
from dmevpn.nhrp.peers import peer_of
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.nhrp.signed_echo import SignedEcho
from dmevpn.nhrp.wire import checksum
from tests.nhrp.neighbours import HOST, HUB_MAC, SITE_A, STATION_A, STATION_B, TO_A, TO_B, VPN7
from tests.nhrp.speaking import World
from tests.nhrp.test_echo import VPN8, assert_alike, flipped

#: As the hub has them: its own is the first one.
KEYS = ("hmac-sha-256", b"one"), ("hmac-md5", b"two"), ("hmac-sha-256", b"three")


def key(number: int) -> Key:
    """The key with a number from 0."""
    algorithm, secret = KEYS[number]
    return Key(256 + number, algorithm, secret)


def runs(first: int) -> Callable[[int], bytes]:
    """Random octets that can be foreseen."""
    numbers: Iterator[int] = count(first)
    return lambda octets: next(numbers).to_bytes(octets, "big")


class Client:
    """A site that signs.

    :param path: to it, as the hub sees it.
    :param number: of its key.
    :ivar signs_as: whom it names as the neighbour that sends what it sends.
    """

    def __init__(
        self,
        path: Path = TO_A,
        number: int = 0,
        *,
        station: bytes = STATION_A,
        guarded: bool = True,
    ) -> None:
        self.path = path
        self.guarded = guarded
        self.station = self.signs_as = station
        self._random = runs(1000 * (1 + station[-1]))
        self.restart(number)

    def restart(self, number: int) -> None:
        """Start anew, with a key."""
        world = World()
        guard = ReplayGuard(world.clock, Metrics(), self._random) if self.guarded else None
        keys = [key(each) for each in range(len(KEYS)) if each != number]
        self.authenticator = KeyedAuthentication(key(number), keys, guard)

    def keepalive(self, request_id: int = 1, vpn_id: object = VPN7, **fields: object) -> bytes:
        """The payload of one, but for the fields."""
        packet = PurgeRequest(
            **{  # type: ignore[arg-type]
                "source_nbma": self.path.peer,
                "source_subaddress": b"\0\0\x01\x02",
                "source_protocol": self.station,
                "destination_protocol": self.station,
                "request_id": request_id,
            }
            | fields
        )
        way = Path(self.path.local, self.path.peer)
        return self.authenticator.sign(packet, Form.RFC, vpn_id, way, self.signs_as)  # type: ignore[arg-type]

    def hear(self, payload: bytes) -> Packet | None:
        """Read what the hub has sent; None if it is refused, or a challenge, which is heeded."""
        encapsulation, packet = decode_payload(payload)
        try:
            way = Path(self.path.local, self.path.peer)
            self.authenticator.verify(packet, encapsulation, way)
        except (Handshake, AuthenticationFailure):
            return None
        return packet


def hub(clients: list[Client], *, known: bool = True) -> World:
    """A speaker with servers for two VPNs, which has answered each client once.

    :param known: whether it remembers keepalives.
    """
    world = World()
    if known:
        world.speaker.known.claim("registered", [client.path.peer for client in clients])
    guard = ReplayGuard(world.clock, world.metrics, runs(1)) if clients[0].guarded else None
    world.speaker.authenticator = KeyedAuthentication(key(0), map(key, (1, 2)), guard)
    world.serve(VPN7)
    world.serve(VPN8)
    return world


class Hubs:
    """One that remembers keepalives, and one that reads all packets, which get the same."""

    def __init__(self, clients: list[Client]) -> None:
        self.worlds = hub(clients), hub(clients, known=False)
        for client in clients:
            for request_id in (1, 2, 3):
                for answer in self.receive(client.keepalive(request_id), client.path):
                    client.hear(answer)
            assert isinstance(self.worlds[0].speaker._echoes._echoes[client.path.peer], SignedEcho)

    def receive(self, payload: bytes, path: Path) -> list[bytes]:
        """What both send for a payload, and count."""
        one, other = (world.receive(payload, path) for world in self.worlds)
        assert one == other
        assert_alike(self.worlds)
        return one


def is_read(monkeypatch: pytest.MonkeyPatch, world: World) -> list[bytes]:
    """The payloads that a speaker reads from now on."""
    read: list[bytes] = []
    original = world.speaker._read

    def reading(data: bytes, encapsulation: object, path: Path) -> Packet:
        read.append(data)
        return original(data, encapsulation, path)  # type: ignore[arg-type]

    monkeypatch.setattr(world.speaker, "_read", reading)
    return read


@pytest.fixture(params=[(0, True), (0, False), (1, True), (2, True)], ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    """Of the hub's key or another one, with proofs or without."""
    number, guarded = request.param
    return Client(TO_A, number, guarded=guarded)


def test_it_is_not_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is one that the client accepts."""
    hubs = Hubs([client])
    read = is_read(monkeypatch, hubs.worlds[0])
    for request_id in (0xABCDEF01, 0, 0xFFFFFFFF):
        (answer,) = hubs.receive(client.keepalive(request_id), client.path)
        reply = client.hear(answer)
        assert isinstance(reply, PurgeReply)
        assert reply.request_id == request_id
    assert not read


@pytest.mark.parametrize(
    "change",
    [
        lambda hub, client: hub.serve(VPN7, b"\x0a\0\0\1"),
        lambda hub, client: _replace_authenticator(hub),
        lambda hub, client: setattr(client, "signs_as", STATION_B),
        lambda hub, client: setattr(client, "station", STATION_B),
        lambda hub, client: client.restart(2),
        lambda hub, client: hub.speaker.peers.claim("file", {SITE_A: peer_of("legacy")}),
        lambda hub, client: hub.speaker.naming.by_key.update({3: VPN8}),
    ],
    ids=["stations", "keys", "neighbour", "station", "restart", "dialect", "gre keys"],
)
def test_what_may_change_the_answer(
    change: Callable[[World, Client], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is read."""
    client = Client()
    world = Hubs([client]).worlds[0]
    read = is_read(monkeypatch, world)
    world.receive(client.keepalive(4))
    assert not read
    change(world, client)
    world.receive(client.keepalive(5))
    assert read


def mended(payload: bytes) -> bytes:
    """A payload with the checksum that it should have."""
    octets = payload[RFC_LENGTH:]
    octets = octets[:CHECKSUM] + b"\0\0" + octets[CHECKSUM + 2 :]
    total = checksum(octets).to_bytes(2, "big")
    return payload[:RFC_LENGTH] + octets[:CHECKSUM] + total + octets[CHECKSUM + 2 :]


@pytest.mark.parametrize("mend", [lambda payload: payload, mended], ids=["flipped", "mended"])
def test_every_bit_counts(client: Client, mend: Callable[[bytes], bytes]) -> None:
    """Whatever is wrong in a packet: it is refused, and nothing of what it says is heeded."""
    hubs = Hubs([client])
    payload = client.keepalive(4)
    assert mended(payload) == payload
    for at in range(RFC_LENGTH, len(payload)):
        changed = mend(flipped(payload, at, at % 8))
        if changed != payload:
            for answer in hubs.receive(changed, client.path):
                assert answer[RFC_LENGTH + 17] == PacketType.ERROR_INDICATION
    (answer,) = hubs.receive(payload, client.path)
    assert isinstance(client.hear(answer), PurgeReply)
    # In the header before it, a bit has no meaning.
    for at in range(RFC_LENGTH):
        hubs.receive(flipped(client.keepalive(5), at, at % 8), client.path)


def test_a_replay(client: Client) -> None:
    """It is answered only where there are no proofs, and again when it was: nobody remembers."""
    hubs = Hubs([client])
    payload = client.keepalive(4)
    assert hubs.receive(payload, client.path)
    before = hubs.worlds[0].dropped().get("replayed", 0)
    for number in range(1, 3):
        assert bool(hubs.receive(payload, client.path)) is not client.guarded
        refused = hubs.worlds[0].dropped().get("replayed", 0) - before
        assert refused == (number if client.guarded else 0)


def test_answers_among_others() -> None:
    """Answers to what came with it have other numbers, none of them twice."""
    client = Client()
    hubs = Hubs([client])
    payloads = [
        client.keepalive(10),
        client.keepalive(11, hop_count=9),
        client.keepalive(12),
        client.keepalive(13, cies=(CIE(prefix_length=48, protocol=STATION_A),)),
        client.keepalive(14),
    ]
    world = hubs.worlds[0]
    world.transport.sent.clear()
    world.speaker.datagrams_received([(each, client.path) for each in payloads])
    replies = [client.hear(data) for data, _ in world.transport.sent]
    assert [each.request_id for each in replies if isinstance(each, PurgeReply)] == [*range(10, 15)]


# --- against a speaker that remembers nothing ---------------------------------------------------

#: What a keepalive may have that others do not.
FIELDS: list[dict[str, object]] = [
    {},
    {},
    {},
    {},
    {"destination_protocol": HUB_MAC},
    {"hop_count": 7},
    {"flags": int(PurgeFlag.N)},
    {"extensions": (ResponderAddress(),)},
    {"cies": (CIE(prefix_length=48, protocol=STATION_A),)},
    {"source_subaddress": b"\0"},
    {"vpn_id": VPN8},
]


def _replace_authenticator(world: World) -> None:
    """As a reload does: the keys in another order, the same guard."""
    old = world.speaker.authenticator
    assert isinstance(old, KeyedAuthentication)
    world.speaker.authenticator = KeyedAuthentication(key(1), map(key, (0, 2)), old.guard)


def _forget(world: World) -> None:
    authenticator = world.speaker.authenticator
    assert isinstance(authenticator, KeyedAuthentication)
    assert authenticator.guard is not None
    authenticator.guard._forget()


#: What happens between packets; each is done at both speakers.
EVENTS: dict[str, Callable[[World], object]] = {
    "another station": lambda world: world.serve(VPN7, b"\x0a\0\0\1"),
    "other keys": _replace_authenticator,
    "neighbours are forgotten": _forget,
    "another dialect": lambda world: world.speaker.peers.claim("file", {SITE_A: peer_of("legacy")}),
    "our dialect": lambda world: world.speaker.peers.claim("file", {}),
    "a key": lambda world: world.speaker.naming.by_key.update({3: VPN8}),
    "no key": lambda world: world.speaker.naming.by_key.clear(),
    "time passes": lambda world: world.clock.advance(0.7),
}

sites = st.integers(0, 2)
noises = st.sampled_from(["", "", "", "", "flip", "longer", "shorter"])
steps = st.one_of(
    st.tuples(
        st.just("send"), sites, st.integers(0, 0xFFFFFFFF), st.sampled_from(FIELDS), noises,
        st.integers(0, 2000),
    ),
    st.tuples(st.just("keep"), sites, st.integers(0, 5)),
    st.tuples(st.just("again"), st.integers(0, 30), st.sampled_from([None, TO_A, TO_B])),
    st.tuples(st.just("restart"), sites, st.integers(0, 2)),
    st.tuples(st.just("event"), st.sampled_from(sorted(EVENTS))),
)  # fmt: skip


@given(st.lists(steps, max_size=25))
def test_nobody_can_tell(steps: list[tuple[object, ...]]) -> None:
    """Whatever arrives, is held back, is repeated or happens: octet by octet the same is sent, and
    the same counted."""
    clients = [
        Client(TO_A, 0),
        Client(TO_B, 1, station=STATION_B),
        # Behind the same address translation as the first.
        Client(TO_A, 0, station=HOST),
    ]
    hubs = Hubs(clients)
    late: list[tuple[bytes, Client]] = []
    seen: list[tuple[bytes, Path]] = []
    for kind, *details in steps:
        match kind, details:
            case "send", [int(who), int(request_id), dict(fields), noise, int(where)]:
                payload = clients[who].keepalive(request_id, **fields)
                if noise == "flip":
                    payload = flipped(payload, where // 8 % len(payload), where % 8)
                elif noise:
                    payload = payload + b"\0" if noise == "longer" else payload[:-1]
                arrive(hubs, payload, clients[who], seen)
            case "keep", [int(who), int(overtaken)]:
                late.append((clients[who].keepalive(7), clients[who]))
                if len(late) > overtaken:
                    for payload, client in reversed(late):
                        arrive(hubs, payload, client, seen)
                    late.clear()
            case "again", [int(which), way] if seen:
                payload, path = seen[which % len(seen)]
                hubs.receive(payload, way or path)  # type: ignore[arg-type]
            case "restart", [int(who), int(number)]:
                clients[who].restart(number)
            case "event", [str(event)]:
                for world in hubs.worlds:
                    EVENTS[event](world)
    for client in clients:
        for request_id in (1, 2):
            arrive(hubs, client.keepalive(request_id), client, seen)


def arrive(hubs: Hubs, payload: bytes, client: Client, seen: list[tuple[bytes, Path]]) -> None:
    """Let both hubs have a payload of a client, and the client have what comes back."""
    seen.append((payload, client.path))
    for answer in hubs.receive(payload, client.path):
        if answer[RFC_LENGTH + 17] == PacketType.PURGE_REPLY:
            client.hear(answer)
