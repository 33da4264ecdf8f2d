"""Requests of ours: retransmission, matching of replies (RFC 2332 §5.2.0.1). Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.addresses import Path
from dmevpn.interfaces import ILink
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import ErrorCode, PacketType, ProtocolType
from dmevpn.nhrp.indication import embedded
from dmevpn.nhrp.packet import ErrorIndication, Packet, RequestOrReply
from dmevpn.nhrp.request_ids import RequestIDs

__all__ = ["LIMIT", "Backoff", "Outstanding", "protocol_type_of"]

#: Requests without a reply at any time, unless the owner says otherwise. Each has a timer and
#: transmissions. Resolutions have a lower limit of their own, so registrations always find room.
LIMIT: Final = 4096

_PROTOCOL_TYPES = {4: ProtocolType.IPV4, 6: ProtocolType.MAC, 16: ProtocolType.IPV6}

_REPLY_TO = {
    PacketType.RESOLUTION_REPLY: PacketType.RESOLUTION_REQUEST,
    PacketType.REGISTRATION_REPLY: PacketType.REGISTRATION_REQUEST,
    PacketType.PURGE_REPLY: PacketType.PURGE_REQUEST,
}


def protocol_type_of(protocol: bytes) -> ProtocolType:
    """The protocol type (ar$pro.type) of an address, told by its length.

    :raises KeyError: if it is no MAC, IPv4 or IPv6 address.
    """
    return _PROTOCOL_TYPES[len(protocol)]


class Backoff:
    """Endless gaps between transmissions: each twice the one before, up to a longest.

    :param first: seconds.
    :param longest: seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest

    def __iter__(self) -> Iterator[float]:
        gap = self._first
        while True:
            yield gap
            gap = min(2 * gap, self._longest)


@dataclass(slots=True)
class _Pending:
    """A request without a reply."""

    packet: RequestOrReply
    link: ILink
    path: Path
    delays: Iterator[float]
    spread: float
    on_reply: Callable[[RequestOrReply, Path], None]
    on_error: Callable[[int, Path], None]
    on_timeout: Callable[[], None]
    on_unanswered: Callable[[int], None]
    transmissions: int = 0
    call: IDelayedCall | None = None


def _ignore(*_: object) -> None:
    pass


class Outstanding:
    """Requests of one VPN that wait for their reply. The VPN is not looked at: have one per VPN.

    :param jitter: uniform in [0, 1).
    :param ids: shared by the whole daemon.
    :param limit: requests at most.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        limit: int = LIMIT,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._ids = ids
        self._limit = limit
        self._pending: dict[int, _Pending] = {}
        self._refused = metrics.counter("requests_refused")
        self._retransmitted = metrics.counter("retransmissions")
        self._timed_out = metrics.counter("requests_timed_out")

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether the next :meth:`send` would be refused."""
        return len(self._pending) >= self._limit

    def send(
        self,
        make: Callable[[int], RequestOrReply],
        link: ILink,
        path: Path,
        *,
        delays: Iterable[float],
        spread: float = 0.0,
        on_reply: Callable[[RequestOrReply, Path], None] = _ignore,
        on_error: Callable[[int, Path], None] = _ignore,
        on_timeout: Callable[[], None] = _ignore,
        on_unanswered: Callable[[int], None] = _ignore,
        request_id: int | None = None,
    ) -> int | None:
        """Send a request now, and again until it is replied to.

        A link never delivers the reply before its ``send`` returns.

        Exactly one of ``on_reply``, ``on_error`` and ``on_timeout`` is called, unless the request
        is cancelled.

        :param make: makes the packet with the request ID that it is given.
        :param delays: gaps between transmissions in seconds, the last one before giving up; an
            endless iterable (:class:`Backoff`) never gives up.
        :param spread: each gap is varied by up to this part of it in both directions.
        :param on_error: called with the code of an Error Indication.
        :param on_unanswered: called with the number of transmissions so far whenever the time of
            the latest has passed.
        :param request_id: of an earlier request that has ended, to be used again; None: a new one.
        :return: the request ID; None if there are too many requests already, which is counted.
        """
        if self.full:
            self._refused.inc()
            return None
        if request_id is None:
            request_id = self._ids.next()
        pending = _Pending(
            make(request_id),
            link,
            path,
            iter(delays),
            spread,
            on_reply,
            on_error,
            on_timeout,
            on_unanswered,
        )
        self._pending[request_id] = pending
        self._transmit(request_id, pending, next(pending.delays))
        return request_id

    def send_once(
        self,
        make: Callable[[int], RequestOrReply],
        link: ILink,
        path: Path,
        request_id: int | None = None,
    ) -> None:
        """Send a request that asks for no reply.

        :param request_id: as of :meth:`send`.
        """
        link.send(make(self._ids.next() if request_id is None else request_id), path)

    def cancel(self, request_id: int) -> None:
        """Forget a request; its reply will be unexpected."""
        pending = self._pending.pop(request_id, None)
        if pending is not None and pending.call is not None:
            pending.call.cancel()

    def close(self) -> None:
        """Forget all requests, leave no timer behind."""
        for request_id in list(self._pending):
            self.cancel(request_id)

    def reply_received(self, packet: Packet, path: Path) -> bool:
        """Whether a reply or Error Indication belongs to a request; that is finished by it."""
        if isinstance(packet, ErrorIndication):
            about = embedded(packet)
            return about is not None and self.error_received(packet.code, about, path)
        if not isinstance(packet, RequestOrReply):
            return False
        pending = self._match(packet, _REPLY_TO.get(packet.packet_type))
        if pending is None:
            return False
        pending.on_reply(packet, path)
        return True

    def error_received(self, code: int, about: RequestOrReply, path: Path) -> bool:
        """Whether an error is about one of our requests; that is finished by it."""
        pending = self._match(about, about.packet_type)
        if pending is None:
            return False
        if code in (
            ErrorCode.LEGACY_LOOP_DETECTED,
            ErrorCode.LOOP_DETECTED,
            ErrorCode.HOP_COUNT_EXCEEDED,
        ):
            self.log.warn(
                "request {request_id} went round in circles: error {code} by {nbma}",
                request_id=about.request_id,
                code=code,
                nbma=str(path),
            )
        pending.on_error(code, path)
        return True

    def _match(self, packet: RequestOrReply, request_type: PacketType | None) -> _Pending | None:
        """Take out the request that a packet is the reply to, or about.

        The source subaddress is not compared: the original daemon puts its answer there.
        """
        pending = self._pending.get(packet.request_id)
        if pending is None:
            return None
        request = pending.packet
        if (
            request.packet_type is not request_type
            or request.source_protocol != packet.source_protocol
            or request.source_nbma != packet.source_nbma
        ):
            return None
        self.cancel(packet.request_id)
        return pending

    def _transmit(self, request_id: int, pending: _Pending, delay: float) -> None:
        pending.transmissions += 1
        if pending.spread:
            delay *= 1 + pending.spread * (2 * self._jitter() - 1)
        pending.call = self._clock.callLater(delay, self._unanswered, request_id, pending)
        pending.link.send(pending.packet, pending.path)

    def _unanswered(self, request_id: int, pending: _Pending) -> None:
        pending.call = None
        pending.on_unanswered(pending.transmissions)
        if self._pending.get(request_id) is not pending:
            # Whoever was told has cancelled it.
            return
        delay = next(pending.delays, None)
        if delay is None:
            del self._pending[request_id]
            self._timed_out.inc()
            pending.on_timeout()
        else:
            self._retransmitted.inc()
            self._transmit(request_id, pending, delay)
