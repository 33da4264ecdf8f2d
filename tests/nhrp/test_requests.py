"""Retransmission, and which reply belongs to which request."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.encapsulation import Form, header
from dmevpn.nhrp.packet import (
    ErrorIndication,
    PurgeRequest,
    RequestOrReply,
    ResolutionReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import (
    Backoff,
    Outstanding,
    protocol_type_of,
)
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_HUB,
    VPN7,
    IDStore,
    Link,
    outstanding,
)


def make(request_id: int) -> ResolutionRequest:
    return ResolutionRequest(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HOST,
        request_id=request_id,
    )


class Calls:
    """Everything a request tells its sender."""

    def __init__(self, clock: Clock) -> None:
        self.log: list[tuple[float, str, object]] = []
        self._clock = clock

    def _add(self, what: str, value: object) -> None:
        self.log.append((self._clock.seconds(), what, value))

    def on_reply(self, packet: RequestOrReply, path: Path) -> None:
        self._add("reply", packet.request_id)

    def on_error(self, code: int, path: Path) -> None:
        self._add("error", code)

    def on_timeout(self) -> None:
        self._add("timeout", None)

    def on_unanswered(self, transmissions: int) -> None:
        self._add("unanswered", transmissions)

    def kwargs(self) -> dict[str, object]:
        names = ("on_reply", "on_error", "on_timeout", "on_unanswered")
        return {name: getattr(self, name) for name in names}


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def requests(clock: Clock, metrics: Metrics) -> Outstanding:
    return outstanding(clock, metrics, limit=2)


@pytest.fixture
def calls(clock: Clock) -> Calls:
    return Calls(clock)


def send(requests: Outstanding, link: Link, calls: Calls, delays: object = (1, 2, 4)) -> int | None:
    return requests.send(make, link, TO_HUB, delays=delays, **calls.kwargs())  # type: ignore


# --- transmissions ------------------------------------------------------------------------------


def test_it_is_repeated_and_given_up(
    clock: Clock, requests: Outstanding, link: Link, calls: Calls, metrics: Metrics
) -> None:
    """Without a reply the same packet goes out again after each gap, and then no more."""
    request_id = send(requests, link, calls)
    sent = []
    for _ in range(10):
        sent += [(clock.seconds(), packet.request_id) for packet in link.take()]
        clock.advance(1)
    assert sent == [(0, request_id), (1, request_id), (3, request_id)]
    assert calls.log == [
        (1, "unanswered", 1),
        (3, "unanswered", 2),
        (7, "unanswered", 3),
        (7, "timeout", None),
    ]
    assert len(requests) == 0 and not clock.getDelayedCalls()
    assert metrics.value("retransmissions") == 2
    assert metrics.value("requests_timed_out") == 1


def test_back_off_never_ends(clock: Clock, requests: Outstanding, link: Link, calls: Calls) -> None:
    """An unreachable hub is asked for ever, at last once in 64 seconds."""
    send(requests, link, calls, Backoff(1, 64))
    clock.pump([1] * 1000)
    times = [when for when, _, _ in calls.log]
    assert times[:8] == [1, 3, 7, 15, 31, 63, 127, 191]
    assert times[-1] > 900


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 9.0), (0.5, 10.0), (0.999999, 11.0)])
def test_spread(chance: float, expected: float, metrics: Metrics, link: Link) -> None:
    """Clients of one hub do not repeat in step."""
    clock = Clock()
    requests = Outstanding(clock, lambda: chance, RequestIDs(IDStore()), metrics)
    requests.send(make, link, TO_HUB, delays=(10.0,), spread=0.1)
    assert clock.getDelayedCalls()[0].getTime() == pytest.approx(expected, abs=0.001)
    requests.close()


def test_limit(requests: Outstanding, link: Link, calls: Calls, metrics: Metrics) -> None:
    """Beyond the limit nothing is sent, and that is counted."""
    assert send(requests, link, calls) == 1000
    assert not requests.full
    assert send(requests, link, calls) == 1001
    assert requests.full
    assert send(requests, link, calls) is None
    assert metrics.value("requests_refused") == 1
    assert len(link.sent) == 2
    requests.cancel(1000)
    assert send(requests, link, calls) == 1002
    requests.close()


def test_cancel_and_close(clock: Clock, requests: Outstanding, link: Link, calls: Calls) -> None:
    """A cancelled request is silent and leaves no timer; its reply is unexpected."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    requests.cancel(request_id)
    requests.cancel(request_id)
    assert not requests.reply_received(make(request_id).reply(), TO_HUB)
    send(requests, link, calls)
    requests.close()
    assert not clock.getDelayedCalls() and not calls.log


def test_a_request_may_be_cancelled_when_it_is_found_unanswered(
    clock: Clock, metrics: Metrics, link: Link
) -> None:
    """Its sender may lose interest just then."""
    requests = outstanding(clock, metrics)
    requests.send(
        make, link, TO_HUB, delays=(1, 1), on_unanswered=lambda count: requests.cancel(1000)
    )
    clock.advance(5)
    assert len(link.sent) == 1 and not clock.getDelayedCalls()


def test_once(requests: Outstanding, link: Link, clock: Clock) -> None:
    """A request that wants no reply is not waited for."""
    requests.send_once(make, link, TO_HUB)
    assert [packet.request_id for packet in link.take()] == [1000]
    assert len(requests) == 0 and not clock.getDelayedCalls()


# --- matching -------------------------------------------------------------------------------


def test_a_reply_ends_it(clock: Clock, requests: Outstanding, link: Link, calls: Calls) -> None:
    """The first reply counts; the same once more is unexpected."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    reply = make(request_id).reply()
    # The original daemon puts its answer there.
    reply.source_subaddress = b"\0\0\0\x07"
    assert requests.reply_received(reply, TO_HUB)
    assert not requests.reply_received(reply, TO_HUB)
    clock.advance(99)
    assert calls.log == [(0, "reply", request_id)]


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": 7},
        {"source_protocol": STATION_B},
        {"source_nbma": SITE_B},
    ],
)
def test_replies_to_others_do_not(
    requests: Outstanding, link: Link, calls: Calls, change: dict[str, object]
) -> None:
    """Number, protocol address and NBMA address must all be those of the request."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    reply = make(request_id).reply()
    for name, value in change.items():
        setattr(reply, name, value)
    assert not requests.reply_received(reply, TO_HUB)
    requests.close()


def test_other_types_do_not(requests: Outstanding, link: Link, calls: Calls) -> None:
    """A Purge Reply, or the request itself, is no answer to a Resolution Request."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    request = make(request_id)
    purge = PurgeRequest(
        source_nbma=SITE_A,
        source_protocol=STATION_A,
        destination_protocol=HOST,
        request_id=request_id,
    )
    assert not requests.reply_received(purge.reply(), TO_HUB)
    assert not requests.reply_received(request, TO_HUB)
    assert isinstance(request.reply(), ResolutionReply)
    requests.close()


def error(contents: bytes, code: int = 6) -> ErrorIndication:
    return ErrorIndication(
        source_nbma=HUB,
        source_protocol=HUB_MAC,
        destination_protocol=STATION_A,
        code=code,
        contents=contents,
    )


@pytest.mark.parametrize("cut", [0, 44, 48])
@pytest.mark.parametrize("code", [3, 6])
def test_an_error_ends_it(
    requests: Outstanding, link: Link, calls: Calls, cut: int, code: int
) -> None:
    """An Error Indication about our request counts, even if only the addresses are in it."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    contents = make(request_id).encode()
    assert requests.reply_received(error(contents[: cut or None], code), TO_HUB)
    assert [(what, value) for _, what, value in calls.log] == [("error", code)]


def test_an_error_about_a_legacy_packet(requests: Outstanding, link: Link, calls: Calls) -> None:
    """The original daemon includes its VPN headers."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    headers = header(Form.LEGACY_LITTLE, VPN7)
    assert requests.reply_received(error(headers + make(request_id).encode()), TO_HUB)


@pytest.mark.parametrize("contents", [b"", bytes(27), b"\xaa\xaa\x03", bytes(200)])
def test_errors_about_nothing(
    requests: Outstanding, link: Link, calls: Calls, contents: bytes
) -> None:
    """Damaged contents concern no request of ours."""
    send(requests, link, calls)
    assert not requests.reply_received(error(contents), TO_HUB)
    requests.close()


def test_errors_about_what_others_sent(requests: Outstanding, link: Link, calls: Calls) -> None:
    """Nor do those about a reply, an indication, or somebody else's request."""
    request_id = send(requests, link, calls)
    assert request_id is not None
    request = make(request_id)
    assert not requests.reply_received(error(request.reply().encode()), TO_HUB)
    assert not requests.reply_received(error(error(b"").encode()), TO_HUB)
    request.source_protocol = STATION_B
    assert not requests.reply_received(error(request.encode()), TO_HUB)
    assert not requests.reply_received(decode_payload(error(b"x").encode())[1], TO_HUB)
    requests.close()


def test_protocol_types() -> None:
    """Requests say what their addresses are."""
    assert [protocol_type_of(bytes(size)) for size in (4, 6, 16)] == [0x0800, 0x8100, 0x86DD]
