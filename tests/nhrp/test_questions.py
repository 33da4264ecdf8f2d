"""Resolution Requests like one before: octet by octet they get what they would get anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import VPNID, VTEP, Path
from dmevpn.nhrp import answered, questions
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import EXACT_PREFIX, ResolutionFlag
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
)
from dmevpn.nhrp.packet import ResolutionReply, ResolutionRequest, decode_payload
from dmevpn.nhrp.peers import peer_of
from dmevpn.nhrp.questions import Question
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.server import NextHopServer
from tests.nhrp import twins
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VPN7,
    VPN8,
    VTEP_A,
    VTEP_B,
    binding,
)
from tests.nhrp.speaking import World
from tests.nhrp.twins import Reading, Twins, flipped, lives, noises, resealed

SITE_6 = b"\x20\x01" + bytes(13) + b"\x06"
TO_6 = Path(SITE_6, b"\x20\x01" + bytes(13) + b"\x01")
STATION_6 = b"\x02\0\0\0\0\x06"
HOST_6 = b"\x52\x54\0\0\0\x06"
SITES = {SITE_A: STATION_A, SITE_B: STATION_B, SITE_6: STATION_6}
EXTENSIONS = (
    ResponderAddress(),
    ForwardTransitRecord(),
    ReverseTransitRecord(),
    DeviceCapabilities(1, 0),
)


def question(
    request_id: int = 1, path: Path = TO_A, vpn_id: VPNID = VPN7, **fields: object
) -> bytes:
    """The payload of a request as a client of ours makes it, but for the fields."""
    packet = ResolutionRequest(
        **{  # type: ignore[arg-type]
            "source_nbma": path.peer,
            "source_subaddress": b"\0\0\x01\x02",
            "source_protocol": SITES[path.peer],
            "destination_protocol": HOST,
            "flags": ResolutionFlag.Q | ResolutionFlag.A,
            "request_id": request_id,
            "cies": (CIE(prefix_length=EXACT_PREFIX, mtu=1450),),
            "extensions": EXTENSIONS,
        }
        | fields
    )
    return packet.encode(Form.RFC, vpn_id)


class Hub(World):
    """A hub of VPN 7 and 8, with MACs at a site of either family.

    :ivar recorded: what it has answered, as it is written down.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs[HOST_6] = VTEP(SITE_6, 6)
        self.recorded: list[object] = []
        for vpn_id in (VPN7, VPN8):
            cache = self.serve(vpn_id)
            cache.put(binding(STATION_6, VTEP(SITE_6, 6), Kind.DYNAMIC, 7200.0, preference=9))
            cache.put(binding(STATION_A, VTEP_A, Kind.DYNAMIC, 400.0))
            self.server(vpn_id).record_answers(lambda *answer: self.recorded.append(answer))

    def server(self, vpn_id: VPNID = VPN7) -> NextHopServer:
        """The server of a VPN."""
        server = self.speaker.link(vpn_id).stations[0]
        assert isinstance(server, NextHopServer)
        return server

    def know(self) -> None:
        """Let questions of the sites be remembered."""
        self.speaker.known.claim("registered", list(SITES))

    def state(self) -> list[object]:
        """The same with whom it has told what, as it is known and written down."""
        return [
            *super().state(),
            self.recorded,
            [list(self.server(vpn_id).records()) for vpn_id in (VPN7, VPN8)],
        ]


def crowd(hub: Hub) -> None:
    """Register a second VTEP for an address."""
    site = binding(STATION_B, VTEP_A, Kind.DYNAMIC, 540.5, preference=7)
    hub.caches[VPN7, HUB_MAC].put(site, beside=True)


#: What happens between packets.
EVENTS: dict[str, Callable[[Hub], object]] = {
    **twins.EVENTS,
    **twins.SECRETS,
    "a target's dialect": lambda hub: hub.speaker.peers.claim(
        "file", {SITE_B: peer_of("frr", VPN7)}
    ),
    "servers only": lambda hub: setattr(hub.server(), "servers", frozenset({SITE_B})),
    "everybody": lambda hub: setattr(hub.server(), "servers", None),
    "moved": lambda hub: hub.macs.update({HOST: VTEP_A}),
    "moved to IPv6": lambda hub: hub.macs.update({HOST: VTEP(SITE_6, 6)}),
    "nowhere": lambda hub: hub.macs.clear(),
    "at no site": lambda hub: hub.macs.update({HOST: VTEP(SITE_A, 101)}),
    "moved back": lambda hub: hub.macs.update({HOST: VTEP_B}),
    "taken back": lambda hub: hub.server().invalidate(HOST, "moved"),
    "time": lambda hub: hub.clock.advance(100),
    "MTU": lambda hub: setattr(hub.server()._identity, "mtu", 1400),
    "no room": lambda hub: setattr(hub.server()._answered, "_limit", 2),
    "room": lambda hub: setattr(hub.server()._answered, "_limit", answered.ANSWERED_LIMIT),
    "several bindings": crowd,
    "another MTU": lambda hub: hub.caches[VPN7, HUB_MAC].put(
        binding(STATION_B, VTEP_B, Kind.DYNAMIC, 5000.0, mtu=1280, preference=3)
    ),
    "gone": lambda hub: hub.caches[VPN7, HUB_MAC].remove(STATION_B, "purged"),
}


@pytest.fixture
def world() -> Hub:
    """A hub that knows its sites, and has answered one of them."""
    world = Hub()
    world.know()
    assert len(world.receive(question())) == 1
    return world


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, world: Hub) -> Reading:
    """What that hub reads."""
    return Reading(monkeypatch, world)


# --- when a packet is not read ------------------------------------------------------------------


def test_others_like_it_are_not_read(world: Hub, reading: Reading) -> None:
    """Of another site, for another MAC: the answer is that of its own, and counted."""
    (answer,) = world.receive(question(0xABCDEF01, TO_B, destination_protocol=STATION_B), TO_B)
    assert not reading.taken()
    assert world.transport.sent[0][1] == TO_B
    packet = decode_payload(answer)[1]
    assert isinstance(packet, ResolutionReply)
    assert (packet.request_id, packet.source_protocol) == (0xABCDEF01, STATION_B)
    (cie,) = packet.cies
    assert (cie.code, cie.nbma, cie.protocol, cie.mtu) == (0, SITE_B, STATION_B, 1450)
    assert world.metrics.value("resolution_answers", code="0", vpn="7") == 2
    told = [each[:1] + each[2:4] for each in world.server().records()]
    assert told == [(HOST, STATION_A, TO_A), (STATION_B, STATION_B, TO_B)]


def test_both_families(world: Hub, reading: Reading) -> None:
    """Over an underlay of IPv6, too, once one was answered there."""
    for is_read in (True, False):
        payload = question(2, TO_6, destination_protocol=HOST_6)
        (answer,) = world.receive(payload, TO_6)
        assert reading.taken() is is_read
        assert decode_payload(answer)[1].cies[0].nbma == SITE_6  # type: ignore[attr-defined]


#: What makes the answer another one, or lets a packet be understood in another way.
CHANGES: dict[str, Callable[[Hub], object]] = {
    name: EVENTS[name]
    for name in (
        "another station",
        "a secret",
        "another dialect",
        "a target's dialect",
        "a key",
        "nowhere",
        "at no site",
        "moved",
        "MTU",
    )
} | {
    "strangers": lambda hub: setattr(hub.server(), "servers", frozenset()),
    "expired": lambda hub: hub.clock.advance(540),
    "no room": lambda hub: (
        setattr(hub.server()._answered, "_limit", 0) or hub.server()._answered.take(HOST)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_answer_is_heeded(
    world: Hub, reading: Reading, change: Callable[[Hub], object]
) -> None:
    """Then the packet is read."""
    world.receive(question(2))
    assert not reading.taken()
    change(world)
    world.receive(question(3))
    assert reading.taken()


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": int(ResolutionFlag.U)},
        {"flags": int(ResolutionFlag.NAT)},
        {"source_subaddress": b""},
        {"extensions": (ResponderAddress(), DeviceCapabilities(0, 0))},
        {"extensions": (*EXTENSIONS, Authentication(1, b"secret"))},
        {"extensions": (*EXTENSIONS, Unknown(77, False, bytes(200)))},
        {"destination_protocol": OTHER_HOST},
        {"source_nbma": SITE_6},
    ],
    ids=["unique", "nat", "no VNI", "unaware", "secret", "long", "nowhere", "other family"],
)
def test_the_unusual_is_read_again(world: Hub, reading: Reading, fields: dict[str, Any]) -> None:
    """What is not answered in the usual way is not remembered."""
    for _ in range(2):
        assert len(world.receive(question(**fields))) == 1
        assert reading.taken()


def test_strangers_are_not_remembered() -> None:
    """Whoever is not registered cannot fill the table."""
    world = Hub()
    world.receive(question())
    assert not world.speaker._questions._questions


def test_bounded(world: Hub, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no more room, all are forgotten and read again."""
    monkeypatch.setattr(questions, "QUESTIONS", 1)
    world.receive(question(2, hop_count=7))
    assert reading.taken()
    world.receive(question(3))
    assert reading.taken()
    world.receive(question(4))
    assert not reading.taken()
    assert world.metrics.value("questions_forgotten") == 2


def test_a_fault_is_met(
    world: Hub, monkeypatch: pytest.MonkeyPatch, logged_failures: list[Any]
) -> None:
    """An answer that fails costs nobody else his."""

    def fail(self: Question, payload: bytes, path: Path) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(Question, "answer", fail)
    world.receive(question(2))
    assert world.dropped() == {"internal_error": 1}
    assert len(world.receive(question(3, extensions=()))) == 1
    assert len(logged_failures) == 1
    logged_failures.clear()


# --- against a hub that remembers nothing -------------------------------------------------------


def two_hubs() -> Twins[Hub]:
    """Hubs that have answered a site of either family in both VPNs."""
    hubs = Twins(Hub, SITES)
    for path, mac in ((TO_A, HOST), (TO_6, HOST_6)):
        for vpn_id in (VPN7, VPN8):
            hubs.receive((question(1, path, vpn_id, destination_protocol=mac), path))
    return hubs


@pytest.mark.parametrize("repair", [bytes, resealed])
def test_every_octet_counts(repair: Callable[[bytes], bytes]) -> None:
    """A bit that is wrong, wherever, makes of the packet what it does when it is read."""
    hubs = two_hubs()
    payload = question(2)
    for at in range(len(payload)):
        for bit in (0, at % 8):
            hubs.receive((repair(flipped(payload, at, bit)), TO_A))


arrivals = st.builds(
    lambda number, path, key, vpn_id, target, fields, noise: (
        noise(question(number, path, vpn_id, **{"destination_protocol": target} | fields)),
        path._replace(key=key),
    ),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([TO_A, TO_B, TO_6, TO_A._replace(local=b"")]),
    st.sampled_from([None, None, None, 3]),
    st.sampled_from([VPN7, VPN7, VPN7, VPN8]),
    st.sampled_from([HOST, HOST, HOST_6, STATION_B, OTHER_HOST, HUB_MAC, b"\xff" * 6, bytes(6)]),
    st.sampled_from(
        [
            {},
            {},
            {},
            {"source_protocol": HOST},
            {"source_nbma": SITE_B},
            {"source_nbma": SITE_6},
            {"source_subaddress": b""},
            {"hop_count": 7},
            {"flags": 0},
            {"flags": int(ResolutionFlag.U)},
            {"flags": int(ResolutionFlag.NAT), "extensions": (*EXTENSIONS, NATAddress())},
            {"extensions": ()},
            {"extensions": EXTENSIONS[:-1]},
            {"extensions": (*EXTENSIONS, Unknown(77, True, b""))},
            {"extensions": (ForwardTransitRecord((CIE(nbma=HUB),)), DeviceCapabilities(1, 0))},
            {"cies": ()},
            {"cies": (CIE(prefix_length=20), CIE())},
        ]
    ),
    noises,
)


@given(lives(arrivals, EVENTS))
def test_nobody_can_tell(steps: list[str | list[tuple[bytes, Path]]]) -> None:
    """Whatever arrives and happens: nobody can tell which packets were read."""
    two_hubs().live(steps, EVENTS)
