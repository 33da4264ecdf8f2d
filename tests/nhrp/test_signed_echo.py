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
from dmevpn.nhrp.header import PACKET_TYPE
from dmevpn.nhrp.keyed import Key, KeyedAuthentication
from dmevpn.nhrp.packet import Packet, PurgeReply, decode_payload
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.nhrp.signed_echo import SignedEcho
from tests.nhrp import twins
from tests.nhrp.neighbours import HOST, HUB_MAC, STATION_A, STATION_B, TO_A, TO_B, VPN7, VPN8
from tests.nhrp.speaking import World
from tests.nhrp.twins import Reading, Twins, flipped, noises, resealed

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
        packet = twins.keepalive(self.path, self.station, request_id, **fields)
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


def two_hubs(clients: list[Client]) -> Twins[World]:
    """Hubs of two VPNs, which have answered each client."""

    def make() -> World:
        world = World()
        guard = ReplayGuard(world.clock, world.metrics, runs(1)) if clients[0].guarded else None
        world.speaker.authenticator = KeyedAuthentication(key(0), map(key, (1, 2)), guard)
        world.serve(VPN7)
        world.serve(VPN8)
        return world

    hubs = Twins(make, [client.path.peer for client in clients])
    for client in clients:
        for request_id in (1, 2, 3):
            for answer in hubs.receive((client.keepalive(request_id), client.path)):
                client.hear(answer)
        assert isinstance(hubs.worlds[0].speaker._echoes._echoes[client.path.peer], SignedEcho)
    return hubs


@pytest.fixture(params=[(0, True), (0, False), (1, True), (2, True)], ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    """Of the hub's key or another one, with proofs or without."""
    number, guarded = request.param
    return Client(TO_A, number, guarded=guarded)


def test_it_is_not_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is one that the client accepts."""
    hubs = two_hubs([client])
    reading = Reading(monkeypatch, hubs.worlds[0])
    for request_id in (0xABCDEF01, 0, 0xFFFFFFFF):
        (answer,) = hubs.receive((client.keepalive(request_id), client.path))
        reply = client.hear(answer)
        assert isinstance(reply, PurgeReply)
        assert reply.request_id == request_id
    assert not reading.taken()


@pytest.mark.parametrize(
    "change",
    [
        lambda hub, client: EVENTS["another station"](hub),
        lambda hub, client: EVENTS["other keys"](hub),
        lambda hub, client: EVENTS["another dialect"](hub),
        lambda hub, client: EVENTS["a key"](hub),
        lambda hub, client: setattr(client, "signs_as", STATION_B),
        lambda hub, client: setattr(client, "station", STATION_B),
        lambda hub, client: client.restart(2),
    ],
    ids=["stations", "keys", "dialect", "gre keys", "neighbour", "station", "restart"],
)
def test_what_may_change_the_answer(
    change: Callable[[World, Client], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is read."""
    client = Client()
    world = two_hubs([client]).worlds[0]
    reading = Reading(monkeypatch, world)
    world.receive(client.keepalive(4))
    assert not reading.taken()
    change(world, client)
    world.receive(client.keepalive(5))
    assert reading.taken()


@pytest.mark.parametrize("mend", [bytes, resealed])
def test_every_bit_counts(client: Client, mend: Callable[[bytes], bytes]) -> None:
    """Whatever is wrong in a packet: it is refused, and nothing of what it says is heeded."""
    hubs = two_hubs([client])
    payload = client.keepalive(4)
    assert resealed(payload) == payload
    for at in range(RFC_LENGTH, len(payload)):
        changed = mend(flipped(payload, at, at % 8))
        if changed != payload:
            for answer in hubs.receive((changed, client.path)):
                assert answer[RFC_LENGTH + PACKET_TYPE] == PacketType.ERROR_INDICATION
    (answer,) = hubs.receive((payload, client.path))
    assert isinstance(client.hear(answer), PurgeReply)
    # In the header before it, a bit has no meaning.
    for at in range(RFC_LENGTH):
        hubs.receive((flipped(client.keepalive(5), at, at % 8), client.path))


def test_a_replay(client: Client) -> None:
    """It is answered only where there are no proofs, and again when it was: nobody remembers."""
    hubs = two_hubs([client])
    payload = client.keepalive(4)
    assert hubs.receive((payload, client.path))
    before = hubs.worlds[0].dropped().get("replayed", 0)
    for number in range(1, 3):
        assert bool(hubs.receive((payload, client.path))) is not client.guarded
        refused = hubs.worlds[0].dropped().get("replayed", 0) - before
        assert refused == (number if client.guarded else 0)


def test_answers_among_others() -> None:
    """Answers to what came with it have other numbers, none of them twice."""
    client = Client()
    world = two_hubs([client]).worlds[0]
    payloads = [
        client.keepalive(10),
        client.keepalive(11, hop_count=9),
        client.keepalive(12),
        client.keepalive(13, cies=(CIE(prefix_length=48, protocol=STATION_A),)),
        client.keepalive(14),
    ]
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


#: What happens between packets.
EVENTS: dict[str, Callable[[World], object]] = {
    **twins.EVENTS,
    "other keys": _replace_authenticator,
    "neighbours are forgotten": _forget,
    "time passes": lambda world: world.clock.advance(0.7),
}

sites = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("send"), sites, st.integers(0, 0xFFFFFFFF), st.sampled_from(FIELDS), noises),
    st.tuples(st.just("keep"), sites, st.integers(0, 5)),
    st.tuples(st.just("again"), st.integers(0, 30), st.sampled_from([None, TO_A, TO_B])),
    st.tuples(st.just("restart"), sites, st.integers(0, 2)),
    st.tuples(st.just("event"), st.sampled_from(sorted(EVENTS))),
)


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
    hubs = two_hubs(clients)
    late: list[tuple[bytes, Client]] = []
    seen: list[tuple[bytes, Path]] = []
    for kind, *details in steps:
        match kind, details:
            case "send", [int(who), int(request_id), dict(fields), noise]:
                payload = noise(clients[who].keepalive(request_id, **fields))  # type: ignore[operator]
                arrive(hubs, payload, clients[who], seen)
            case "keep", [int(who), int(overtaken)]:
                late.append((clients[who].keepalive(7), clients[who]))
                if len(late) > overtaken:
                    for payload, client in reversed(late):
                        arrive(hubs, payload, client, seen)
                    late.clear()
            case "again", [int(which), way] if seen:
                payload, path = seen[which % len(seen)]
                hubs.receive((payload, way or path))  # type: ignore[arg-type]
            case "restart", [int(who), int(number)]:
                clients[who].restart(number)
            case "event", [str(event)]:
                hubs.undergo(EVENTS[event])
    for client in clients:
        for request_id in (1, 2):
            arrive(hubs, client.keepalive(request_id), client, seen)


def arrive(
    hubs: Twins[World], payload: bytes, client: Client, seen: list[tuple[bytes, Path]]
) -> None:
    """Let both hubs have a payload of a client, and the client have what comes back."""
    seen.append((payload, client.path))
    for answer in hubs.receive((payload, client.path)):
        if answer[RFC_LENGTH + PACKET_TYPE] == PacketType.PURGE_REPLY:
            client.hear(answer)
