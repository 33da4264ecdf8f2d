"""Resolution at a spoke: what is asked, what is believed, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, Path, parse_ip, parse_mac
from dmevpn.errors import NHRPError
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.extensions import Unknown
from dmevpn.nhrp.nat import nat_address
from dmevpn.nhrp.packet import (
    PurgeReply,
    PurgeRequest,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.resolution import Outcome, ResolutionClient
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    OTHER_HOST,
    SITE_A,
    SITE_B,
    STATION_A,
    TO_HUB,
    VTEP_A,
    VTEP_B,
    CacheLog,
    Link,
    binding,
    error_about,
    no_jitter,
    outstanding,
)
from tests.vectors import VECTORS

IPV6_SITE = parse_ip("2001:db8::20")


class World:
    """A client, and a server that the test plays."""

    def __init__(self, limit: int = 3, cache_limit: int = 100) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.requests = outstanding(self.clock, self.metrics)
        self.cache = Cache(self.clock, self.metrics, cache_limit)
        self.server: Path | None = TO_HUB
        self.due: list[tuple[float, bytes]] = []
        self.seen_as: set[bytes] = set()
        self.client = ResolutionClient(
            clock=self.clock,
            jitter=no_jitter,
            cache=self.cache,
            outstanding=self.requests,
            link=self.link,
            station=STATION_A,
            vni=VTEP_A.vni,
            mtu=1450,
            metrics=self.metrics,
            servers=lambda protocol: self.server,
            on_renewal_due=lambda mac: self.due.append((self.clock.seconds(), mac)),
            seen_as=lambda: self.seen_as,
            limit=limit,
        )
        self.log = CacheLog()
        self.cache.subscribe(self.log)

    def request(self) -> ResolutionRequest:
        """The latest that was sent."""
        packets = [p for p, _ in self.link.sent if isinstance(p, ResolutionRequest)]
        return packets[-1]

    def answer(self, *cies: CIE, request: ResolutionRequest | None = None) -> bool:
        request = request or self.request()
        return self.requests.reply_received(request.reply(cies), TO_HUB)

    def answer_with(self, vtep: VTEP = VTEP_B, holding_time: int = 300) -> bool:
        return self.answer(answer(self.request().destination_protocol, vtep, holding_time))

    def error(self, code: int) -> None:
        indication = error_about(self.request(), code)
        assert self.requests.reply_received(indication, TO_HUB)

    def kind(self, protocol: bytes = HOST) -> Kind | None:
        found = self.cache.lookup(protocol)
        return None if found is None else found.kind

    def asked(self, **labels: str) -> int:
        return self.metrics.value("resolutions_not_asked", **labels)

    def close(self) -> None:
        self.client.close()
        self.requests.close()
        self.cache.close()
        assert not self.clock.getDelayedCalls()


def answer(
    protocol: bytes = HOST, vtep: VTEP = VTEP_B, holding_time: int = 300, **more: Any
) -> CIE:
    return CIE(
        prefix_length=48,
        holding_time=holding_time,
        nbma=vtep.nbma,
        subaddress=encode_vni(vtep.vni),
        protocol=protocol,
        **more,
    )


def purge(*cies: CIE, flags: int = 0, **more: Any) -> PurgeRequest:
    return PurgeRequest(
        source_nbma=HUB,
        source_protocol=HUB_MAC,
        destination_protocol=STATION_A,
        flags=flags,
        request_id=7,
        cies=cies,
        **more,
    )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def cached(world: World) -> World:
    world.client.resolve(HOST)
    world.answer_with()
    world.log.take()
    world.link.take()
    return world


# --- asking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "learnt"),
    [(encode_vni(200), VTEP_B), (encode_vni(VTEP_A.vni), None), (b"", None), (b"\1\0\0", None)],
)
def test_a_vni_in_the_header(world: World, header: bytes, learnt: VTEP | None) -> None:
    """An answer without one in its CIE has it in place of ours, as the original daemon states it;
    our own come back tells nothing."""
    world.client.resolve(HOST)
    reply = world.request().reply([replace(answer(), subaddress=b"")])
    assert world.requests.reply_received(replace(reply, source_subaddress=header), TO_HUB)
    binding = world.cache.lookup(HOST)
    assert binding is not None and binding.vtep == learnt


def test_the_request_is_that_of_the_vectors(world: World) -> None:
    """Authoritative answers only, device capabilities with it: vector V20."""
    assert world.client.resolve(HOST)
    request = world.request()
    _, expected = decode_payload(VECTORS["V20"].octets)
    assert isinstance(expected, ResolutionRequest)
    request.request_id = expected.request_id
    assert request.encode() == VECTORS["V20"].octets
    assert world.log.take() == [("added", HOST, "incomplete")]
    world.close()


def test_once_per_address(world: World) -> None:
    """A thousand frames to one MAC cause one request."""
    assert world.client.resolve(HOST)
    for _ in range(1000):
        assert not world.client.resolve(HOST)
    assert len(world.link.sent) == 1
    assert world.asked(reason="incomplete") == 1000
    world.answer_with()
    assert not world.client.resolve(HOST)
    assert world.asked(reason="cached") == 1
    world.close()


def test_transmissions(world: World) -> None:
    """The request is repeated after 1, 3 and 7 s; at 15 s the address is left alone for 10 s."""
    world.client.resolve(HOST)
    times = []
    for second in range(15):
        times += [second for _ in world.link.take()]
        world.clock.advance(1)
    assert times == [0, 1, 3, 7]
    assert world.kind() is Kind.NEGATIVE
    assert not world.client.resolve(HOST)
    world.clock.advance(10)
    assert world.client.resolve(HOST)
    world.close()


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"])
def test_no_station_is_never_asked_for(world: World, mac: str) -> None:
    """Broadcast and multicast have no place."""
    assert not world.client.resolve(parse_mac(mac))
    assert len(world.cache) == 0 and world.asked(reason="no_station") == 1
    world.close()


def test_limit(world: World) -> None:
    """Beyond the limit frames just go by the hub, and that is counted."""
    for last in range(3):
        assert world.client.resolve(HOST[:5] + bytes([last]))
    assert not world.client.resolve(OTHER_HOST)
    assert world.asked(reason="full") == 1
    assert world.kind(OTHER_HOST) is None
    world.answer_with()
    assert world.client.resolve(OTHER_HOST)
    world.close()


def test_the_limit_of_requests_counts_too(world: World) -> None:
    """No hold entry without a request behind it."""
    world.requests._limit = 0
    assert not world.client.resolve(HOST)
    assert len(world.cache) == 0
    world.close()


def test_a_full_cache(world: World) -> None:
    """When nothing can be remembered, nothing is asked."""
    world = World(cache_limit=1)
    world.cache.put(binding(OTHER_HOST))
    assert not world.client.resolve(HOST)
    assert world.link.sent == []
    world.close()


def test_without_a_server(world: World) -> None:
    """With every hub down the misses of each frame are not worth asking about for 10 s."""
    world.server = None
    assert not world.client.resolve(HOST)
    assert world.kind() is Kind.NEGATIVE and world.asked(reason="no_server") == 1
    world.server = TO_HUB
    world.client.forget_negatives()
    assert world.client.resolve(HOST)
    world.close()


def test_other_kinds_are_not_asked_for(world: World) -> None:
    """What is configured or local is known."""
    world.cache.put(binding(kind=Kind.LOCAL, expires=None))
    assert not world.client.resolve(HOST)
    assert world.link.sent == []
    world.close()


# --- answers ----------------------------------------------------------------------------------


def test_an_answer_is_a_shortcut_for_its_time(world: World) -> None:
    """The VTEP of the answer is used for its holding time and no longer."""
    world.client.resolve(HOST)
    world.answer_with(VTEP_B, 300)
    found = world.cache.lookup(HOST)
    assert found == Binding(HOST, VTEP_B, Kind.CACHED, 300, 300.0, source=HUB)
    assert world.log.take()[1:] == [("changed", HOST, "incomplete to cached")]
    world.clock.advance(300)
    assert world.log.take() == [("removed", HOST, "expired")]
    world.close()


def test_how_long_an_answer_takes(world: World) -> None:
    """Operators see how long answers take, whatever they are."""
    histogram = world.metrics.histogram("resolution_seconds", ())
    world.client.resolve(HOST)
    world.clock.advance(0.02)
    world.answer_with(VTEP_B, 300)
    assert histogram.sum == pytest.approx(0.02)
    assert [bound for bound, n in zip(histogram.bounds, histogram.counts, strict=False) if n] == [
        0.025
    ]
    world.close()


def test_the_answer_of_the_vectors(world: World) -> None:
    """Vector V21 is read as it is meant."""
    world.client.resolve(HOST)
    _, reply = decode_payload(VECTORS["V21"].octets)
    reply.request_id = 1000  # type: ignore[attr-defined]
    assert world.requests.reply_received(reply, TO_HUB)
    found = world.cache.lookup(HOST)
    assert found is not None
    assert (found.vtep, found.holding_time, found.mtu) == (VTEP_B, 540, 1450)
    world.close()


def test_the_best_usable_answer(world: World) -> None:
    """Of several next hops the one with the highest preference that we can use."""
    world.client.resolve(HOST)
    world.answer(
        answer(vtep=VTEP(SITE_B, 1), preference=1),
        answer(vtep=VTEP(SITE_B, 2), preference=9),
        answer(vtep=VTEP(IPV6_SITE, 3), preference=200),
    )
    found = world.cache.lookup(HOST)
    assert found is not None and found.vtep == VTEP(SITE_B, 2)
    world.close()


@pytest.mark.parametrize(
    "cie",
    [
        answer(vtep=VTEP_A),
        answer(vtep=VTEP(IPV6_SITE, 200)),
        answer(vtep=VTEP(SITE_B, None)),
        answer(holding_time=0),
        answer(OTHER_HOST),
        CIE(holding_time=300, nbma=SITE_B, subaddress=b"\1\2\3", protocol=HOST),
        CIE(holding_time=300, nbma=SITE_B, subaddress=b"\1\2\3\4", protocol=HOST),
        CIE(holding_time=300, protocol=HOST),
    ],
    ids=["ourselves", "family", "no VNI", "no time", "other", "short VNI", "bad VNI", "no VTEP"],
)
def test_an_answer_that_is_no_use(world: World, cie: CIE) -> None:
    """An answer that we cannot send frames by, or that names us, is taken for a no."""
    world.client.resolve(HOST)
    world.answer(cie)
    assert world.kind() is Kind.NEGATIVE
    assert world.log.take()[1:] == [("changed", HOST, "incomplete to negative")]
    world.close()


def test_an_answer_that_says_nothing(world: World) -> None:
    """Nor does a reply without a CIE do harm."""
    world.client.resolve(HOST)
    world.answer()
    assert world.kind() is Kind.NEGATIVE
    world.close()


@pytest.mark.parametrize(
    ("code", "pause"), [(12, 10), (11, 10), (4, 180), (5, 180), (13, 180), (99, 180)]
)
def test_refusals(world: World, code: int, pause: int) -> None:
    """A MAC that the hub does not know may be known soon; other refusals last 3 minutes."""
    world.client.resolve(HOST)
    world.answer(CIE(code=code))
    assert world.kind() is Kind.NEGATIVE
    world.clock.advance(pause - 1.5)
    assert not world.client.resolve(HOST)
    world.clock.advance(1.5)
    assert world.log.take()[-1] == ("removed", HOST, "expired")
    world.close()


def test_an_unknown_ip_address_is_refused_for_longer(world: World) -> None:
    """Only MACs come and go with a frame."""
    address = parse_ip("10.0.0.20")
    world.client.resolve(address)
    assert world.request().protocol_type == 0x0800
    world.answer(CIE(code=CIECode.NO_BINDING))
    found = world.cache.lookup(address)
    assert found is not None and found.expires == 180
    world.close()


@pytest.mark.parametrize(("code", "pause"), [(6, 10), (1, 180), (11, 180), (17, 180)])
def test_errors(world: World, code: int, pause: int) -> None:
    """An Error Indication about the request is a no, too."""
    world.client.resolve(HOST)
    world.error(code)
    found = world.cache.lookup(HOST)
    assert found is not None and found.kind is Kind.NEGATIVE and found.expires == pause
    world.close()


# --- who waits for an outcome ---------------------------------------------------------------------


def test_every_waiting_operator_is_told(world: World) -> None:
    """Asked by hand, an outcome is reported to each who asked, once."""
    outcomes: list[Binding] = []
    world.client.resolve(HOST, outcomes.append)
    world.client.resolve(HOST, outcomes.append)
    assert outcomes == []
    world.answer_with()
    assert [outcome.vtep for outcome in outcomes] == [VTEP_B, VTEP_B]
    world.client.resolve(HOST, outcomes.append)
    assert len(outcomes) == 3
    world.close()


def test_there_is_always_an_outcome(world: World) -> None:
    """Also when nobody could be asked, or nobody answered, or the binding was taken away."""
    outcomes: list[Kind] = []

    def done(outcome: Binding) -> None:
        outcomes.append(outcome.kind)

    world.client.resolve(bytes(6), done)
    world.server = None
    world.client.resolve(OTHER_HOST, done)
    world.server = TO_HUB
    assert outcomes == [Kind.NEGATIVE] * 2
    world.client.resolve(HOST, done)
    world.cache.remove(HOST, "flushed")
    assert outcomes == [Kind.NEGATIVE] * 3
    assert len(world.requests) == 0
    world.client.resolve(HOST, done)
    world.cache.put(binding(kind=Kind.STATIC, expires=None))
    assert outcomes[3:] == [Kind.STATIC]
    assert len(world.requests) == 0
    world.close()


# --- renewal ----------------------------------------------------------------------------------


def test_renewal_is_due_at_two_thirds(cached: World) -> None:
    """The owner is asked in time; if it does nothing, the shortcut expires."""
    cached.clock.pump([1] * 300)
    assert cached.due == [(200, HOST)]
    assert cached.log.take() == [("removed", HOST, "expired")]
    cached.close()


def test_the_shortcut_stays_while_it_is_renewed(cached: World) -> None:
    """Traffic does not notice a renewal."""
    cached.clock.advance(200)
    cached.client.renew(HOST)
    cached.client.renew(HOST)
    assert len(cached.link.sent) == 1
    assert cached.log.take() == []
    cached.answer_with(VTEP_B, 300)
    assert cached.log.take() == [("changed", HOST, "cached to cached")]
    cached.clock.advance(199)
    assert cached.due == [(200, HOST)]
    cached.clock.advance(1)
    assert cached.due == [(200, HOST), (400, HOST)]
    cached.close()


def test_an_early_renewal_moves_the_next(cached: World) -> None:
    """Two thirds count from the latest answer."""
    cached.clock.advance(100)
    cached.client.renew(HOST)
    cached.answer_with(VTEP_B, 300)
    cached.clock.pump([1] * 199)
    assert cached.due == []
    cached.clock.advance(1)
    assert cached.due == [(300, HOST)]
    cached.close()


def test_a_renewal_that_is_refused(cached: World) -> None:
    """The hub says no: the shortcut goes at once."""
    cached.client.renew(HOST)
    cached.answer(CIE(code=12))
    assert cached.log.take() == [("changed", HOST, "cached to negative")]
    cached.close()


def test_a_renewal_without_an_answer(cached: World) -> None:
    """The hub is silent: the shortcut stays for its time, and can be renewed again."""
    cached.clock.advance(200)
    cached.client.renew(HOST)
    cached.clock.pump([1] * 20)
    assert cached.kind() is Kind.CACHED
    cached.link.take()
    cached.client.renew(HOST)
    assert len(cached.link.sent) == 1
    cached.close()


def test_a_renewal_that_another_server_is_asked_for(cached: World) -> None:
    """It takes the place of the one under way; what the first server says comes too late."""
    cached.client.renew(HOST)
    before = cached.request()
    cached.server = Path(SITE_B, SITE_A)
    cached.client.renew(HOST)
    cached.client.renew(HOST)
    assert [path.peer for _, path in cached.link.sent] == [HUB, SITE_B]
    assert cached.client.asking == 1
    assert not cached.answer(CIE(code=12), request=before)
    cached.answer_with()
    assert cached.kind() is Kind.CACHED
    cached.close()


@pytest.mark.parametrize("believed", [False, True])
@pytest.mark.parametrize(
    ("cies", "outcome", "kind"),
    [
        ((CIE(code=12),), Outcome.UNKNOWN, Kind.NEGATIVE),
        ((CIE(code=11),), Outcome.UNKNOWN, Kind.NEGATIVE),
        ((CIE(code=4),), Outcome.REFUSED, Kind.NEGATIVE),
        ((), Outcome.UNUSABLE, Kind.NEGATIVE),
        ((answer(vtep=VTEP_A),), Outcome.UNUSABLE, Kind.NEGATIVE),
        ((answer(holding_time=77),), Outcome.CACHED, Kind.CACHED),
    ],
)
def test_a_renewal_with_a_judge(
    cached: World, cies: tuple[CIE, ...], outcome: Outcome, kind: Kind, believed: bool
) -> None:
    """It is told what was said, and what it does not believe changes nothing."""
    before = cached.cache.lookup(HOST)
    asked: list[tuple[Kind, Outcome]] = []

    def judge(answer: Binding, outcome: Outcome) -> bool:
        asked.append((answer.kind, outcome))
        return believed

    cached.client.renew(HOST, judge)
    assert cached.answer(*cies)
    assert asked == [(kind, outcome)]
    after = cached.cache.lookup(HOST)
    assert after is not None
    assert (after.kind is kind and after is not before) if believed else after is before
    assert cached.client.asking == 0
    cached.close()


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(ErrorCode.UNREACHABLE, Outcome.UNKNOWN), (ErrorCode.VPN_UNSUPPORTED, Outcome.REFUSED)],
)
def test_a_judge_of_errors(cached: World, code: ErrorCode, outcome: Outcome) -> None:
    """A server that knows no way does not know the address."""
    asked: list[Outcome] = []
    cached.client.renew(HOST, lambda answer, outcome: bool(asked.append(outcome)))
    cached.error(code)
    assert asked == [outcome]
    assert cached.kind() is Kind.CACHED
    cached.close()


def test_what_cannot_be_renewed(cached: World) -> None:
    """Unknown addresses, refused ones, and any without a server or room."""
    cached.client.renew(OTHER_HOST)
    cached.server = None
    cached.client.renew(HOST)
    cached.server = TO_HUB
    cached.requests._limit = 0
    cached.client.renew(HOST)
    assert cached.link.sent == []
    assert cached.asked(reason="full") == 1
    cached.close()


def test_adopted_shortcuts(world: World) -> None:
    """Shortcuts found in the kernel stay, are due for renewal soon, and do not last unconfirmed."""
    world.client.adopt(HOST, VTEP_B)
    assert world.kind() is Kind.CACHED
    world.clock.pump([1] * 6)
    assert world.due == [(5, HOST)]
    world.clock.pump([1] * 60)
    assert world.due == [(5, HOST)]
    assert world.kind() is None
    world.cache.put(binding(kind=Kind.STATIC, expires=None))
    world.client.adopt(HOST, VTEP_A)
    assert world.kind() is Kind.STATIC
    world.close()


# --- purges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "gone"),
    [
        ({}, True),
        ({"nbma": SITE_B}, True),
        ({"nbma": SITE_B, "subaddress": encode_vni(200)}, True),
        ({"nbma": SITE_A}, False),
        ({"nbma": SITE_B, "subaddress": encode_vni(100)}, False),
        ({"nbma": SITE_B, "subaddress": b"\1\2\3\4"}, False),
    ],
)
def test_purge(cached: World, more: dict[str, Any], gone: bool) -> None:
    """A purged shortcut is withdrawn at once, if the purge does not mean another place."""
    request = purge(CIE(prefix_length=48, protocol=HOST, **more))
    assert cached.client.purge_received(request, TO_HUB)
    assert cached.log.take() == ([("removed", HOST, "purged")] if gone else [])
    (reply,) = cached.link.take()
    assert isinstance(reply, PurgeReply)
    assert (reply.request_id, reply.cies, reply.flags) == (7, request.cies, 0)
    cached.close()


def test_purge_of_what_is_about_to_expire(cached: World) -> None:
    """A shortcut stands until its last moment, and goes before when it is taken back."""
    binding = cached.cache.lookup(HOST)
    assert binding is not None and binding.expires is not None
    cached.clock.advance(binding.expires - cached.clock.seconds() - 0.5)
    assert [each.protocol for each in cached.cache.bindings()] == [HOST]
    assert cached.client.purge_received(purge(CIE(prefix_length=0xFF, protocol=HOST)), TO_HUB)
    assert not list(cached.cache.bindings())
    cached.close()


def test_purge_without_a_reply(cached: World) -> None:
    """With N set nobody waits for one."""
    cached.client.purge_received(purge(CIE(protocol=HOST), flags=0x8000), TO_HUB)
    assert cached.kind() is None and cached.link.sent == []
    cached.close()


def test_purge_ends_a_refusal(world: World) -> None:
    """The hub has news about an address that we had given up."""
    world.client.resolve(HOST)
    world.answer(CIE(code=4))
    world.client.purge_received(purge(CIE(protocol=HOST), CIE(protocol=OTHER_HOST)), TO_HUB)
    assert world.client.resolve(HOST)
    world.close()


@pytest.mark.parametrize("kind", [Kind.DYNAMIC, Kind.LOCAL, Kind.STATIC])
def test_purge_spares_what_is_ours(world: World, kind: Kind) -> None:
    """A server cannot take away what did not come from it."""
    world.cache.put(binding(kind=kind))
    world.client.purge_received(purge(CIE(protocol=HOST)), TO_HUB)
    assert world.kind() is kind
    world.close()


def test_an_answer_overtaken_by_its_purge_is_not_believed(world: World) -> None:
    """The network may deliver the purge of an answer before the answer itself."""
    world.client.resolve(HOST)
    stale = world.request()
    world.client.purge_received(purge(CIE(protocol=HOST)), TO_HUB)
    assert world.request().request_id != stale.request_id
    assert not world.answer(answer(vtep=VTEP_B), request=stale)
    assert world.answer(answer(vtep=VTEP(SITE_B, 201)))
    found = world.cache.lookup(HOST)
    assert found is not None and found.vtep == VTEP(SITE_B, 201)
    world.close()


def test_the_same_for_a_renewal(cached: World) -> None:
    """Nor is the answer to a renewal that was under way."""
    cached.client.renew(HOST)
    stale = cached.request()
    cached.client.purge_received(purge(CIE(protocol=HOST)), TO_HUB)
    assert not cached.answer(answer(), request=stale)
    assert cached.kind() is None
    cached.close()


def test_a_purge_while_no_server_is_there(world: World) -> None:
    """Then the request that is under way has to do."""
    world.client.resolve(HOST)
    world.server = None
    world.client.purge_received(purge(CIE(protocol=HOST)), TO_HUB)
    assert world.kind() is Kind.INCOMPLETE
    world.close()


def test_a_purge_with_an_unknown_compulsory_extension(cached: World) -> None:
    """It is refused as a whole, with the place of the extension."""
    request = purge(CIE(protocol=HOST), extensions=(Unknown(0x3802, True, b"\1\2"),))
    with pytest.raises(NHRPError) as raised:
        cached.client.purge_received(request, TO_HUB)
    assert (raised.value.code, raised.value.offset) == (1, 28 + 4 + 12 + 18)
    assert cached.kind() is Kind.CACHED
    cached.close()


# --- address translation ------------------------------------------------------------------------


def test_our_own_site_from_outside(world: World) -> None:
    """An answer that names us as a server sees us leads nowhere else: no shortcut to ourselves."""
    outside = parse_ip("198.51.100.7")
    world.client.resolve(HOST)
    world.answer_with(VTEP(outside, VTEP_A.vni))
    assert world.kind() is Kind.CACHED
    world.seen_as.add(outside)
    world.client.resolve(OTHER_HOST)
    world.answer_with(VTEP(outside, VTEP_A.vni))
    assert world.kind(OTHER_HOST) is Kind.NEGATIVE


def test_the_translated_address_of_a_target(world: World) -> None:
    """It replaces the one in the answer, if it is about the same station."""
    outside = parse_ip("198.51.100.7")
    world.client.resolve(HOST)
    reply = world.request().reply((answer(HOST, VTEP_B, 300),))
    reply.extensions = (nat_address(HUB, STATION_A, 1450),)
    world.requests.reply_received(reply, TO_HUB)
    found = world.cache.lookup(HOST)
    assert found is not None and found.vtep == VTEP_B and not found.nat
    world.client.renew(HOST)
    reply = world.request().reply((answer(HOST, VTEP_B, 300),))
    reply.extensions = (nat_address(outside, HOST, 1450),)
    world.requests.reply_received(reply, TO_HUB)
    found = world.cache.lookup(HOST)
    assert found is not None
    assert (found.vtep, found.nat, found.claimed) == (VTEP(outside, 200), True, SITE_B)
