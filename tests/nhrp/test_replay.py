"""Packets that were sent before are refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path, parse_ip
from dmevpn.errors import AuthenticationFailure, Handshake
from dmevpn.metrics import Metrics
from dmevpn.nhrp import replay
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.encapsulation import Form, decapsulate
from dmevpn.nhrp.extensions import Authentication, ResponderAddress, VendorPrivate
from dmevpn.nhrp.keyed import Key, KeyedAuthentication
from dmevpn.nhrp.packet import Packet, PurgeReply, RegistrationRequest, decode
from dmevpn.nhrp.replay import ReplayGuard

KEY = Key(2, "hmac-sha-256", b"sixteen octets!!")
VPN = VPNID(DEFAULT_OUI, 1)
A, B, C = (parse_ip(f"10.0.0.{last}") for last in (1, 2, 3))


class Node:
    """A station with the key, at an underlay address."""

    def __init__(self, clock: Clock, address: bytes, station: bytes | None = None) -> None:
        self.clock = clock
        self.address = address
        self.station = b"\x02\0" + (station or address)
        self.start()

    def start(self) -> None:
        """Start (again): nothing of before is known."""
        self.metrics = Metrics()
        self.guard = ReplayGuard(self.clock, self.metrics)
        self.authenticator = KeyedAuthentication(KEY, guard=self.guard)

    def send(self, to: Node, packet: Packet | None = None, vpn: VPNID | None = VPN) -> bytes:
        """A packet for another node."""
        if packet is None:
            packet = RegistrationRequest(
                source_nbma=self.address,
                source_protocol=self.station,
                destination_protocol=self.station,
                extensions=(ResponderAddress(),),
            )
        form = Form.PLAIN if vpn is None else Form.RFC
        return self.authenticator.sign(packet, form, vpn, Path(to.address), self.station)

    def receive(self, data: bytes, sender: bytes) -> list[bytes]:
        """What goes out for a packet; nothing for one that is accepted."""
        encapsulation = decapsulate(data, DEFAULT_OUI)
        path = Path(sender, self.address)
        try:
            self.authenticator.verify(decode(data, encapsulation), encapsulation, path)
        except Handshake as handshake:
            return [self.authenticator.sign(*answer, self.station) for answer in handshake.answers]
        return []

    def accepts(self, data: bytes, sender: bytes) -> bool:
        """Whether a packet reaches the stations."""
        encapsulation = decapsulate(data, DEFAULT_OUI)
        try:
            self.authenticator.verify(
                decode(data, encapsulation), encapsulation, Path(sender, self.address)
            )
        except (Handshake, AuthenticationFailure):
            return False
        return True

    def dropped(self, reason: str) -> int:
        """How many packets were dropped for a reason."""
        return self.metrics.value("drops", reason=reason)


@pytest.fixture
def clock() -> Clock:
    """Time."""
    return Clock()


@pytest.fixture
def nodes(clock: Clock) -> tuple[Node, Node]:
    """Two that do not know each other yet."""
    return Node(clock, A), Node(clock, B)


def meet(one: Node, other: Node) -> None:
    """Let two nodes learn each other's run by a packet of the first."""
    (challenge,) = other.receive(one.send(other), one.address)
    (again,) = one.receive(challenge, other.address)
    assert other.receive(again, one.address) == []


def test_the_first_packet_is_asked_for_again(nodes: tuple[Node, Node]) -> None:
    """One more round trip, once: the challenge is answered with the packet, and all is known."""
    one, other = nodes
    first = one.send(other)
    (challenge,) = other.receive(first, A)
    assert other.dropped("unproven") == 1
    (again,) = one.receive(challenge, B)
    assert other.accepts(again, A)
    assert one.accepts(other.send(one), B), "the other way needs no challenge of its own"
    assert other.accepts(one.send(other), A)
    assert one.metrics.value("challenges_heeded") == 1


def test_a_challenge_is_harmless_to_others(nodes: tuple[Node, Node]) -> None:
    """To a neighbour that only knows RFC 2332 it is a Purge Reply to no request."""
    one, other = nodes
    first = one.send(other)
    (challenge,) = other.receive(first, A)
    packet = decode(challenge, decapsulate(challenge, DEFAULT_OUI))
    assert type(packet) is PurgeReply
    assert packet.cies == ()
    KeyedAuthentication(KEY).verify(packet, decapsulate(challenge, DEFAULT_OUI), Path(B, A))
    assert len(challenge) <= len(first), "no amplifier"


def test_nothing_is_accepted_twice(nodes: tuple[Node, Node]) -> None:
    """Neither at once nor later, and there is no answer that would end the first's request."""
    one, other = nodes
    meet(one, other)
    data = one.send(other)
    assert other.accepts(data, A)
    for _ in range(3):
        with pytest.raises(AuthenticationFailure) as caught:
            other.receive(data, A)
        assert (caught.value.counter, caught.value.code) == ("replayed", None)


def test_packets_may_overtake_each_other(nodes: tuple[Node, Node]) -> None:
    """In any order, each once, as long as it is not too late."""
    one, other = nodes
    meet(one, other)
    sent = [one.send(other) for _ in range(replay.WINDOW)]
    shuffled = random.Random(1).sample(sent, len(sent))
    assert all(other.accepts(data, A) for data in shuffled)
    assert not any(other.accepts(data, A) for data in shuffled)
    late = one.send(other)
    for _ in range(replay.WINDOW):
        assert other.accepts(one.send(other), A)
    assert not other.accepts(late, A)


@pytest.mark.parametrize("ahead", [1, replay.WINDOW - 1, replay.WINDOW, 2**63])
def test_gaps(ahead: int) -> None:
    """Lost packets leave gaps; even absurd ones cost nothing."""
    neighbour = replay._Neighbour(bytes(8))
    assert neighbour.take(5)
    assert neighbour.take(5 + ahead)
    assert not neighbour.take(5)
    assert neighbour.take(4 + ahead) is (ahead > 1)


def test_neither_restart_makes_old_packets_new(nodes: tuple[Node, Node]) -> None:
    """Of no former run anything is accepted, before and after the new runs are known."""
    one, other = nodes
    meet(one, other)
    recorded = [one.send(other) for _ in range(5)]
    unseen = one.send(other)
    assert all(other.accepts(data, A) for data in recorded)
    other.start()
    assert not any(other.accepts(data, A) for data in [*recorded, unseen])
    (challenge,) = other.receive(one.send(other), A)
    one.receive(challenge, B)
    assert other.accepts(one.send(other), A)
    assert not any(other.accepts(data, A) for data in [*recorded, unseen])
    unseen = one.send(other)
    one.start()
    meet(one, other)
    assert not any(other.accepts(data, A) for data in [*recorded, unseen, unseen])
    assert other.accepts(one.send(other), A)


def test_nobody_else_accepts_it(clock: Clock, nodes: tuple[Node, Node]) -> None:
    """Not a third neighbour, and not its own sender."""
    one, other = nodes
    third = Node(clock, C)
    meet(one, other)
    meet(one, third)
    data = one.send(other)
    assert not third.accepts(data, A)
    with pytest.raises(AuthenticationFailure, match="replayed"):
        one.receive(data, B)
    assert other.accepts(data, A)


def test_a_first_packet_thrown_back(nodes: tuple[Node, Node]) -> None:
    """Nobody can make us take ourselves for our neighbour."""
    one, other = nodes
    with pytest.raises(AuthenticationFailure, match="replayed"):
        one.receive(one.send(other), B)


def test_a_node_may_speak_to_itself(clock: Clock) -> None:
    """Hub and spoke of one daemon share a control interface, and an address."""
    node = Node(clock, A)
    meet(node, node)
    data = node.send(node)
    assert node.accepts(data, A)
    assert not node.accepts(data, A)


@pytest.mark.parametrize("other_vpn", [VPNID(DEFAULT_OUI, 2), VPNID(b"\0\0\x01", 1), None])
def test_another_vpn(nodes: tuple[Node, Node], other_vpn: VPNID | None) -> None:
    """The VPN header is not covered by the hash, but repeated where it is."""
    one, other = nodes
    meet(one, other)
    data = one.send(other)
    length = decapsulate(data, DEFAULT_OUI).offset
    moved = one.send(other, vpn=other_vpn)
    headers = moved[: decapsulate(moved, DEFAULT_OUI).offset]
    with pytest.raises(AuthenticationFailure) as caught:
        other.receive(headers + data[length:], A)
    assert (caught.value.counter, caught.value.code) == (
        "replayed",
        ErrorCode.AUTHENTICATION_FAILURE,
    )
    assert other.accepts(data, A)
    assert other.accepts(moved, A)


def test_challenges_are_heeded_once(nodes: tuple[Node, Node]) -> None:
    """A recorded challenge cannot make us forget a neighbour's present run."""
    one, other = nodes
    (first,) = other.receive(one.send(other), A)
    one.receive(first, B)
    other.start()
    (second,) = other.receive(one.send(other), A)
    one.receive(second, B)
    for challenge, sender in itertools.product((first, second), (B, A)):
        with pytest.raises(AuthenticationFailure, match="replayed"):
            one.receive(challenge, sender)
    assert other.accepts(one.send(other), A)
    one.start()
    with pytest.raises(AuthenticationFailure, match="replayed"):
        one.receive(second, B)


def test_a_neighbour_that_has_just_started(clock: Clock, nodes: tuple[Node, Node]) -> None:
    """The request that reached it first is sent again at once: it may have been the last one."""
    one, other = nodes
    meet(one, other)
    clock.advance(1)
    other.start()
    (challenge,) = other.receive(one.send(other), A)
    (again,) = one.receive(challenge, B)
    assert other.accepts(again, A)


def test_only_what_is_recent_is_sent_again(clock: Clock, nodes: tuple[Node, Node]) -> None:
    """After a second the owner has repeated it himself, and some packets are too many."""
    one, other = nodes
    one.send(other)
    clock.advance(1)
    for _ in range(replay.RECENT + 1):
        data = one.send(other)
    (challenge,) = other.receive(data, A)
    again = one.receive(challenge, B)
    assert len(again) == replay.RECENT
    assert one.metrics.value("replay_packets_forgotten") == 1
    assert all(other.accepts(each, A) for each in again)


def test_neighbours_without_proofs(nodes: tuple[Node, Node]) -> None:
    """Who protects himself wants proofs; who does not, does not mind them."""
    one, other = nodes
    other.authenticator = KeyedAuthentication(KEY)
    with pytest.raises(AuthenticationFailure) as caught:
        one.receive(other.send(one), B)
    assert caught.value.counter == "authentication_failure"
    assert other.receive(one.send(other), A) == []


def test_a_proof_is_not_passed_on(clock: Clock, nodes: tuple[Node, Node]) -> None:
    """A reply has the extensions of its request, but for the proof, which is ours; what others
    put into Vendor-Private extensions goes back."""
    one, other = nodes
    meet(one, other)
    foreign = VendorPrivate(b"\0\0\x0c", b"group")
    request = RegistrationRequest(
        source_nbma=A,
        source_protocol=one.station,
        destination_protocol=one.station,
        extensions=(foreign, ResponderAddress()),
    )
    data = one.send(other, request)
    read = decode(data, decapsulate(data, DEFAULT_OUI))
    assert isinstance(read, RegistrationRequest)
    assert other.accepts(data, A)
    reply = other.send(one, read.reply())
    assert one.accepts(reply, B)
    extensions = decode(reply, decapsulate(reply, DEFAULT_OUI)).extensions
    assert [type(each) for each in extensions] == [
        VendorPrivate,
        ResponderAddress,
        VendorPrivate,
        Authentication,
    ]
    assert extensions[0] == foreign


def test_bound_of_runs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound everything sent before becomes worthless, and everybody is told once more."""
    monkeypatch.setattr(replay, "RUNS", 3)
    hub = Node(clock, A)
    recorded = []
    spokes = [Node(clock, parse_ip(f"10.0.1.{last}")) for last in range(3)]
    for spoke in spokes:
        meet(spoke, hub)
        recorded.append((spoke.send(hub), spoke.address))
    late = Node(clock, C)
    (challenge,) = hub.receive(late.send(hub), C)
    (again,) = late.receive(challenge, A)
    assert hub.receive(again, C) == []
    assert hub.metrics.value("replay_runs_forgotten") == 1
    assert not any(hub.accepts(data, sender) for data, sender in recorded)
    for spoke in (*spokes, late):
        (challenge,) = hub.receive(spoke.send(hub), spoke.address)
        spoke.receive(challenge, A)
        if spoke is not late:
            assert hub.accepts(spoke.send(hub), spoke.address)


def test_bound_of_stations(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a key and names ever new stations as its own ends in the same way."""
    monkeypatch.setattr(replay, "STATIONS", 3)
    hub, spoke = Node(clock, A), Node(clock, C)
    meet(spoke, hub)
    old = spoke.send(hub)
    accepted = 0
    for number in range(10):
        spoke.station = bytes([2, 1, 0, 0, 0, number])
        accepted += hub.accepts(spoke.send(hub), C)
        assert len(hub.guard._stations) <= 3
    assert accepted == 2, "until all was forgotten; it has not heeded a challenge since"
    assert hub.metrics.value("replay_runs_forgotten") == 1
    assert not hub.accepts(old, C)
    (challenge,) = hub.receive(spoke.send(hub), C)
    assert len(spoke.receive(challenge, A)) > 1, "all that was sent in vain goes out again"
    assert hub.accepts(spoke.send(hub), C)


def test_bound_of_paths(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An underlay address that was forgotten is learned again by a challenge."""
    hub = Node(clock, A)
    spokes = [Node(clock, parse_ip(f"10.0.1.{last}")) for last in range(4)]
    for spoke in spokes:
        meet(spoke, hub)
    monkeypatch.setattr(replay, "RUNS", 4)
    hub.guard._set_path(C, hub.guard._neighbours[next(iter(hub.guard._neighbours))])
    assert len(hub.guard._paths) == 4
    (challenge,) = spokes[0].receive(hub.send(spokes[0]), A)
    (again,) = hub.receive(challenge, spokes[0].address)
    assert spokes[0].accepts(again, A)


def test_challenges_are_limited(clock: Clock, nodes: tuple[Node, Node]) -> None:
    """Somebody who floods us with recorded packets gets no flood of challenges out of us."""
    one, other = nodes
    data = one.send(other)
    answers = [other.receive(data, A) for _ in range(int(replay.CHALLENGES) + 10)]
    assert sum(map(len, answers)) == replay.CHALLENGES
    assert other.metrics.value("challenges_suppressed") == 10
    clock.advance(0.5)
    assert other.receive(data, A)


def test_two_stations_behind_one_address(clock: Clock) -> None:
    """Two daemons that share an underlay address do not take each other's turn."""
    hub, one, two = Node(clock, A), Node(clock, B, b"one."), Node(clock, B, b"two.")
    meet(one, hub)
    meet(two, hub)
    for _ in range(3):
        assert hub.accepts(one.send(hub), B)
        assert hub.accepts(two.send(hub), B)


def test_a_held_back_packet_of_a_former_run(nodes: tuple[Node, Node]) -> None:
    """What was never delivered is worthless once its station was heard in a later run."""
    one, other = nodes
    meet(one, other)
    held: list[bytes] = [one.send(other) for _ in range(2)]
    assert other.accepts(held[0], A)
    one.start()
    meet(one, other)
    assert not other.accepts(held[1], A)


def test_runs_are_random() -> None:
    """Nobody can guess a run: it comes from the system's source of randomness."""
    drawn: list[int] = []

    def octets(count: int) -> bytes:
        drawn.append(count)
        return bytes(count)

    make: Callable[..., ReplayGuard] = ReplayGuard
    make(Clock(), Metrics(), octets)
    assert drawn == [8]
    assert ReplayGuard(Clock(), Metrics())._run != ReplayGuard(Clock(), Metrics())._run
