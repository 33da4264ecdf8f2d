"""Registration with a server: every state, every input, and what goes out when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, Path, parse_ip
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.extensions import Authentication, NATAddress, ResponderAddress
from dmevpn.nhrp.multihoming import apart
from dmevpn.nhrp.packet import (
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    decode_payload,
)
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import TRANSITIONS, Input, RegistrationClient, State
from dmevpn.nhrp.requests import Outstanding, RequestIDs
from tests.nhrp.neighbours import (
    HUB,
    SITE_A,
    STATION_A,
    TO_HUB,
    VTEP_A,
    IDStore,
    Link,
    error_about,
    no_jitter,
    outstanding,
)
from tests.vectors import VECTORS

HOLDING_TIME = 600


class World:
    """A client, and a server that the test plays."""

    def __init__(self, limit: int = 10, **options: Any) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.requests: Outstanding = outstanding(self.clock, self.metrics, limit)
        self.changes: list[tuple[State, State]] = []
        self.client = RegistrationClient(
            clock=self.clock,
            jitter=no_jitter,
            outstanding=self.requests,
            link=self.link,
            path=TO_HUB,
            station=STATION_A,
            vtep=VTEP_A,
            holding_time=HOLDING_TIME,
            mtu=1450,
            metrics=self.metrics,
            on_change=lambda client, old, new: self.changes.append((old, new)),
            **options,
        )

    def request(self) -> RegistrationRequest:
        """The latest that was sent."""
        packets = [p for p, _ in self.link.sent if isinstance(p, RegistrationRequest)]
        return packets[-1]

    def answer(self, code: int = 0, holding_time: int = HOLDING_TIME) -> bool:
        request = self.request()
        cie = CIE(code=code, prefix_length=0xFF, mtu=1450, holding_time=holding_time)
        return self.requests.reply_received(request.reply((cie,)), TO_HUB)

    def error(self, code: int) -> bool:
        indication = error_about(self.request(), code)
        return self.requests.reply_received(indication, TO_HUB)

    def advance(self, seconds: int) -> None:
        self.clock.pump([1] * seconds)


@pytest.fixture
def world() -> World:
    return World()


def registered(holding_time: int = HOLDING_TIME) -> World:
    world = World()
    world.client.start()
    world.answer(holding_time=holding_time)
    world.changes.clear()
    world.link.sent.clear()
    return world


# --- packets --------------------------------------------------------------------------------


def test_the_request_is_that_of_the_vectors(world: World) -> None:
    """One CIE without addresses, U set, our own MAC as destination: vector V18."""
    world.client.start()
    request = world.request()
    _, expected = decode_payload(VECTORS["V18"].octets)
    assert isinstance(expected, RegistrationRequest)
    request.request_id = expected.request_id
    assert request.encode() == VECTORS["V18"].octets
    assert world.link.sent == [(request, TO_HUB)]
    world.client.stop()


def test_stopping_purges(world: World) -> None:
    """A spoke that is shut down takes itself off the hub, and does not wait for a reply."""
    world = registered()
    world.client.stop()
    (purge,) = world.link.take()
    assert isinstance(purge, PurgeRequest)
    assert (purge.flags, purge.source_protocol, purge.destination_protocol) == (
        0x8000,
        STATION_A,
        STATION_A,
    )
    assert purge.cies == (CIE(prefix_length=48, protocol=STATION_A),)
    assert purge.request_id == 1001
    assert not purge.extensions
    assert world.client.state is State.IDLE
    assert not world.client.usable
    assert not world.clock.getDelayedCalls()


def test_one_request_id_for_a_cisco_router() -> None:
    """Renewals and purges have that of the first request, so that the purge is heeded."""
    world = World(keeps_id=True)
    world.client.start()
    world.answer()
    world.client.renew()
    world.answer()
    world.client.stop()
    assert [packet.request_id for packet in world.link.take()] == [1000, 1000, 1000]


def test_stopping_while_asking_purges(world: World) -> None:
    """The hub may have heeded a request whose reply we do not wait for."""
    world.client.start()
    world.link.take()
    world.client.stop()
    assert [type(packet) for packet in world.link.take()] == [PurgeRequest]
    assert len(world.requests) == 0 and not world.clock.getDelayedCalls()


def test_stopping_what_is_not_registered_purges_nothing(world: World) -> None:
    """A hub that has refused us is not told."""
    world.client.start()
    world.answer(CIECode.PROHIBITED, 0)
    world.link.take()
    world.client.stop()
    assert world.link.take() == []
    assert len(world.requests) == 0 and not world.clock.getDelayedCalls()


# --- timers ---------------------------------------------------------------------------------


def test_retransmission(world: World) -> None:
    """A hub that is down is asked after 1, 2, 4 … 64 s, for ever, by one request ID."""
    world.client.start()
    times: list[int] = []
    for second in range(400):
        times += [second] * (len(world.link.sent) - len(times))
        world.advance(1)
    assert {packet.request_id for packet, _ in world.link.sent} == {1000}
    assert times == [0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]
    assert world.changes == [(State.IDLE, State.REGISTERING), (State.REGISTERING, State.DOWN)]
    assert world.client.last_error == "no answer"
    assert world.metrics.value("registrations_down") == 1
    assert world.answer()
    assert world.client.state is State.REGISTERED and world.client.last_error is None
    world.client.stop()


def test_three_unanswered_are_down(world: World) -> None:
    """Three transmissions without an answer, and the hub is no longer asked things."""
    world.client.start()
    world.advance(6)
    assert world.client.state is State.REGISTERING
    world.advance(1)
    assert world.client.state is State.DOWN
    world.client.stop()


@pytest.mark.parametrize(("granted", "pause"), [(600, 190), (7200, 2280), (12, 9.5), (30, 9.5)])
def test_renewal(granted: int, pause: float) -> None:
    """A third of the granted time, at least 10 s, less up to a tenth; with a new request ID."""
    world = registered(granted)
    assert world.client.renew_at == pytest.approx(pause)
    assert world.client.expires == granted
    world.clock.advance(pause - 0.01)
    assert world.link.sent == []
    world.clock.advance(0.02)
    assert world.request().request_id == 1001
    assert world.client.state is State.REGISTERED
    assert world.client.renew_at is None
    world.answer(holding_time=granted)
    assert world.client.expires == pytest.approx(world.clock.seconds() + granted)
    world.client.stop()


def test_a_reply_without_a_holding_time_grants_what_was_asked() -> None:
    """Some servers leave it out."""
    world = registered(0)
    assert world.client.expires == HOLDING_TIME
    world.client.stop()


def test_usable_until_it_expires() -> None:
    """When the hub falls silent, its switch forwards for us until our holding time is over."""
    world = registered(60)
    world.advance(30)
    assert world.client.state is State.DOWN
    assert world.client.usable
    assert world.changes == [(State.REGISTERED, State.DOWN)]
    world.advance(30)
    assert not world.client.usable and world.client.expires is None
    # Told once more, because it is of no use any longer.
    assert world.changes[1:] == [(State.DOWN, State.DOWN)]
    world.client.stop()


@pytest.mark.parametrize("code", [4, 5, 99])
def test_refusal(world: World, code: int) -> None:
    """A refused client asks again after 30 to 90 s."""
    world.client.start()
    world.answer(code, 0)
    assert world.client.state is State.REFUSED
    assert world.client.last_error is not None and f"code {code}" in world.client.last_error
    assert world.client.renew_at == 60
    world.link.take()
    world.clock.advance(59)
    assert world.link.take() == []
    world.clock.advance(1)
    assert [type(packet) for packet in world.link.take()] == [RegistrationRequest]
    assert world.client.state is State.REGISTERING
    world.client.stop()


@pytest.mark.parametrize(("code", "pause"), [(11, 120), (6, 120), (3, 120), (17, 600), (99, 120)])
def test_error(world: World, code: int, pause: int) -> None:
    """After an error it takes longer, longest where the VPN is not served."""
    world.client.start()
    assert world.error(code)
    assert world.client.state is State.REFUSED
    assert world.client.renew_at == pause
    assert world.client.last_error is not None and f"error {code}" in world.client.last_error
    world.client.stop()


def test_a_vpn_that_a_server_has_given_up(world: World) -> None:
    """A server that serves the VPN no more is asked again soon, then less often, and at last as
    seldom as one that never did; once it has us again, as soon as before."""
    world = registered(600)
    for pauses in ((2, 4, 8, 16, 32, 64, 600, 600), (2, 4)):
        world.client.renew()
        for pause in pauses:
            assert world.error(17)
            assert world.client.renew_at is not None
            wait = world.client.renew_at - world.clock.seconds()
            assert 0.9 * pause <= wait <= pause
            assert pause < 600 or wait == 600
            world.clock.advance(wait)
        world.answer()
        assert world.client.state is State.REGISTERED
    world.client.stop()


def test_a_vpn_that_a_server_has_given_up_while_we_were_away(world: World) -> None:
    """The same holds for a server that had accepted our run before this one."""
    world.client.recall(world.clock.seconds() + 60, b"", None)
    world.client.start()
    assert world.error(17)
    assert world.client.renew_at is not None and world.client.renew_at <= 2
    world.client.stop()


def test_a_failed_renewal_leaves_the_binding(world: World) -> None:
    """What the hub granted holds until it runs out, even if it refuses to renew it."""
    world = registered(600)
    world.client.renew()
    world.answer(CIECode.PROHIBITED, 0)
    assert world.client.state is State.REFUSED and world.client.usable
    world.client.stop()


def test_conflict(world: World) -> None:
    """A site that moved removes its old registration and has the new one 2 s later."""
    world.client.start()
    world.link.take()
    world.changes.clear()
    world.client.renew()
    world.answer(CIECode.ALREADY_REGISTERED, 0)
    _, purge = world.link.take()
    assert isinstance(purge, PurgeRequest)
    assert purge.flags == 0x8000
    assert world.client.state is State.REGISTERING
    world.clock.advance(2)
    assert len(world.link.sent) == 1
    world.answer()
    assert world.client.state is State.REGISTERED
    world.client.stop()


def test_a_conflict_that_stays(world: World) -> None:
    """If the address is really somebody else's, we do not fight for it."""
    world.client.start()
    world.answer(CIECode.ALREADY_REGISTERED, 0)
    world.clock.advance(2)
    world.answer(CIECode.ALREADY_REGISTERED, 0)
    assert world.client.state is State.REFUSED and not world.client.usable
    purges = [packet for packet in world.link.take() if isinstance(packet, PurgeRequest)]
    assert len(purges) == 1
    world.client.stop()


def test_a_conflict_ends_usability() -> None:
    """Somebody else has our address now: the hub's frames for us go there."""
    world = registered()
    world.client.renew()
    world.answer(CIECode.ALREADY_REGISTERED, 0)
    assert not world.client.usable
    world.client.stop()


def test_no_room_for_the_request() -> None:
    """With too many requests under way, registering waits a little."""
    world = World(limit=0)
    world.client.start()
    assert world.link.sent == [] and world.client.renew_at == 10
    world.client.stop()
    assert not world.clock.getDelayedCalls()


def test_the_operator_renews_now() -> None:
    """A renewal by hand replaces whatever was planned or under way."""
    world = registered()
    world.client.renew()
    world.client.renew()
    assert [packet.request_id for packet in world.link.take()] == [1001, 1002]
    assert len(world.requests) == 1
    world.client.stop()


# --- every state, every input -----------------------------------------------------------------


def reach(state: State) -> World:
    """A client in a state, with whatever belongs to it under way."""
    if state is State.IDLE:
        return World()
    world = World()
    world.client.start()
    if state is State.REGISTERED:
        world.answer()
        world.client.renew()
    elif state is State.REFUSED:
        world.answer()
        world.client.renew()
        world.answer(CIECode.PROHIBITED, 0)
    elif state is State.DOWN:
        world.answer()
        world.client.renew()
        world.advance(7)
    assert world.client.state is state
    world.changes.clear()
    return world


GIVE: dict[Input, Callable[[World], Any]] = {
    Input.START: lambda world: world.client.start(),
    Input.ACK: lambda world: world.answer(),
    Input.CONFLICT: lambda world: world.answer(CIECode.ALREADY_REGISTERED, 0),
    Input.NAK: lambda world: world.answer(CIECode.NO_RESOURCES, 0),
    Input.ERROR: lambda world: world.error(ErrorCode.AUTHENTICATION_FAILURE),
    Input.RENEW: lambda world: world.client.renew(),
    Input.STOP: lambda world: world.client.stop(),
}


#: Without a request there is none to answer.
IMPOSSIBLE = {(State.IDLE, event) for event in (Input.ACK, Input.CONFLICT, Input.NAK, Input.ERROR)}


@pytest.mark.parametrize(
    ("state", "event"),
    [(state, event) for state in State for event in GIVE if (state, event) not in IMPOSSIBLE],
)
def test_every_input_in_every_state(state: State, event: Input) -> None:
    """What the server, the timers or the operator do never surprises the client."""
    world = reach(state)
    if state is State.REFUSED and event in (Input.ACK, Input.CONFLICT, Input.NAK, Input.ERROR):
        assert not GIVE[event](world), "the request was answered before"
    else:
        GIVE[event](world)
    expected = TRANSITIONS.get((state, event), state)
    assert world.client.state is expected
    changes = [] if expected is state else [(state, expected)]
    assert world.changes == changes
    world.client.stop()
    assert world.client.state is State.IDLE
    assert len(world.requests) == 0 and not world.clock.getDelayedCalls()


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", [Input.SILENCE, Input.RETRY, Input.EXPIRE])
def test_every_timer_in_every_state(state: State, event: Input) -> None:
    """The table is complete: a timer that comes too late changes nothing."""
    world = reach(state)
    world.client._move(event, lambda: None)
    assert world.client.state is TRANSITIONS.get((state, event), state)
    world.client.stop()
    assert not world.clock.getDelayedCalls()


def test_the_table_has_no_idle_by_accident() -> None:
    """Only a stop leads to idle, only a start away from it, and every state can be stopped."""
    assert {pair for pair, new in TRANSITIONS.items() if new is State.IDLE} == {
        (state, Input.STOP) for state in State if state is not State.IDLE
    }
    assert [event for state, event in TRANSITIONS if state is State.IDLE] == [Input.START]


def test_a_reply_with_other_cies_is_read_as_a_whole(world: World) -> None:
    """One refused CIE is a refusal."""
    world.client.start()
    reply = world.request().reply((CIE(), CIE(code=4)))
    assert isinstance(reply, RegistrationReply)
    world.requests.reply_received(reply, TO_HUB)
    assert world.client.state is State.REFUSED
    world.client.stop()


def test_a_server_that_is_known_by_name_and_an_address_that_may_move() -> None:
    """The request goes to the server's address; without U it names the whole address."""
    station, server = parse_ip("10.0.0.10"), parse_ip("10.0.0.1")
    world = World()
    client = RegistrationClient(
        clock=world.clock,
        jitter=no_jitter,
        outstanding=world.requests,
        link=world.link,
        path=TO_HUB,
        station=station,
        vtep=VTEP(TO_HUB.local, None),
        destination=server,
        unique=False,
        holding_time=HOLDING_TIME,
        mtu=1400,
        metrics=world.metrics,
        on_change=lambda client, old, new: None,
    )
    client.start()
    request = world.request()
    assert (request.source_protocol, request.destination_protocol) == (station, server)
    assert request.source_subaddress == b""
    assert request.flags == 0
    assert [each.prefix_length for each in request.cies] == [32]
    assert client.server == b""
    responder = ResponderAddress((CIE(nbma=HUB, protocol=server),))
    reply = request.reply(extensions=(responder,))
    assert world.requests.reply_received(reply, TO_HUB)
    assert client.usable and client.server == server
    client.stop()
    purge = world.link.take()[-1]
    assert isinstance(purge, PurgeRequest)
    assert (purge.destination_protocol, purge.cies[0].protocol) == (server, station)
    world.requests.close()


# --- address translation ------------------------------------------------------------------------


def test_the_request_of_vector_v05() -> None:
    """With the NAT Address extension, a request names the server as we know it."""
    server, station = parse_ip("10.0.0.1"), parse_ip("10.0.0.10")
    link, clock, metrics = Link(), Clock(), Metrics()
    requests = Outstanding(clock, no_jitter, RequestIDs(IDStore(7)), metrics)
    client = RegistrationClient(
        clock=clock,
        jitter=no_jitter,
        outstanding=requests,
        link=link,
        path=TO_HUB,
        station=station,
        vtep=VTEP(SITE_A, None),
        destination=server,
        holding_time=600,
        mtu=1400,
        metrics=metrics,
        nat_extension=True,
        on_change=lambda client, old, new: None,
    )
    client.start()
    expected = decode_payload(VECTORS["V05"].octets)[1]
    # The speaker adds the secret.
    expected.extensions = tuple([e for e in expected.extensions if type(e) is not Authentication])
    assert link.sent[0][0].encode() == expected.encode()
    assert requests.reply_received(decode_payload(VECTORS["V06"].octets)[1], TO_HUB)
    assert client.state is State.REGISTERED
    assert client.seen_as == parse_ip("198.51.100.7")
    assert client.renew_at is not None and 180 < client.renew_at <= 200
    client.renew()
    assert requests.reply_received(link.sent[-1][0].reply(), TO_HUB)  # type: ignore[attr-defined]
    assert client.seen_as == b"", "the translation is gone"


def test_a_server_whose_address_is_not_known() -> None:
    """It is named by zeros; without the extension nothing is said."""
    world = World(nat_extension=True)
    world.client.start()
    said = world.request().extension(NATAddress)
    assert said is not None
    assert [(each.nbma, each.protocol) for each in said.cies] == [(HUB, bytes(6))]
    assert world.request().flags == 0x8002
    plain = World()
    plain.client.start()
    assert plain.request().extension(NATAddress) is None and plain.request().flags == 0x8000


def test_a_late_reply(world: World) -> None:
    """A request of before that was repeated on the way may be the last that the server heeds: what
    it said of other servers is put right, as long as that may be under way."""
    world = registered(600)
    other = bytes([10, 0, 1, 1])
    world.client.late_reply(world.client.path)
    assert world.link.take() == []
    world.client.set_others((other,), leave=False)
    world.client.late_reply(world.client.path)
    assert len(world.link.sent) == 1
    world.answer()
    # Once more, since that came while a request was under way; and once for those of then.
    for _ in range(2):
        assert len(world.link.sent) == 2
        assert apart(world.request()) == {other}
        del world.link.sent[0]
        for _ in range(3):
            world.client.late_reply(world.client.path)
        world.answer()
    world.clock.advance(10)
    world.answer()
    world.link.take()
    world.client.late_reply(Path(other, world.client.path.local))
    world.client.late_reply(world.client.path)
    assert world.link.take() == []
    world.client.stop()
