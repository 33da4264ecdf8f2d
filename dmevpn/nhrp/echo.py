"""Keepalives like one that was answered before: answered without being read. Layer: core.

A Purge Request that names nothing changes nothing, and its reply has nothing that is not in it. So
one of a client differs from the next in request ID and checksum alone, and so do the replies.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from dmevpn.addresses import Path
from dmevpn.interfaces import IAuthenticator
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import (
    CHECKSUM_BEGIN,
    CHECKSUM_END,
    REQUEST_ID_BEGIN,
    REQUEST_ID_END,
    RFC_LENGTH,
    Form,
    header,
)
from dmevpn.nhrp.keyed import KeyedAuthentication
from dmevpn.nhrp.link import VPNLink
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.signed_echo import SignedEcho, signed_echo
from dmevpn.nhrp.wire import checksum

__all__ = ["ECHOES", "AnyEcho", "Echo", "Echoes"]

#: Clients of whom a keepalive is remembered, 10 MB, and 15 MB if they sign. Beyond it all are
#: forgotten, and their next ones are read.
ECHOES: Final = 16_384
#: Octets of a payload that is remembered: twice those of our own clients.
_LONGEST: Final = 192


class Echo:
    """A keepalive without authentication, and its reply.

    It is true as long as the VPN has the same stations.

    :param request: the payload that was answered, in RFC form.
    :param reply: the payload of the answer.
    """

    __slots__ = ("_changes", "_counters", "_link", "_reply", "_request", "_sums")

    authenticator = None
    """Nobody has to accept it."""

    def __init__(self, request: bytes, reply: bytes, link: VPNLink) -> None:
        self._link = link
        self._changes = link.changes
        self._counters = link.received[PacketType.PURGE_REQUEST], link.sent[PacketType.PURGE_REPLY]
        self._request = _constant(request)
        self._reply = (
            reply[:CHECKSUM_BEGIN],
            reply[CHECKSUM_END:REQUEST_ID_BEGIN],
            reply[REQUEST_ID_END:],
        )
        self._sums = _sum(request), _sum(reply)

    def matches(self, payload: bytes) -> bool:
        """Whether a payload is the request again, with any request ID and any checksum."""
        return _constant(payload) == self._request

    def answer(self, payload: bytes, path: Path) -> bytes | None:
        """The reply to a payload that matches, counted like the request.

        :param path: which does not matter.
        :return: None if its checksum is wrong, or the reply may not be true any more.
        """
        octets = payload[REQUEST_ID_BEGIN:REQUEST_ID_END]
        number = int.from_bytes(octets, "big")
        given = int.from_bytes(payload[CHECKSUM_BEGIN:CHECKSUM_END], "big")
        asked, told = self._sums
        if (given + number - asked) % 0xFFFF or self._link.changes != self._changes:
            return None
        received, sent = self._counters
        received.inc()
        sent.inc()
        head, between, tail = self._reply
        total = (told - number) % 0xFFFF
        return b"".join((head, total.to_bytes(2, "big"), between, octets, tail))


AnyEcho: TypeAlias = Echo | SignedEcho


def _constant(payload: bytes) -> bytes:
    """What is the same in every keepalive of a client."""
    return (
        payload[:CHECKSUM_BEGIN] + payload[CHECKSUM_END:REQUEST_ID_BEGIN] + payload[REQUEST_ID_END:]
    )


def _sum(payload: bytes) -> int:
    """The checksum with a request ID of zero; another one is taken from it, modulo 65535."""
    return checksum(
        b"%b\0\0%b\0\0\0\0%b"
        % (
            payload[RFC_LENGTH:CHECKSUM_BEGIN],
            payload[CHECKSUM_END:REQUEST_ID_BEGIN],
            payload[REQUEST_ID_END:],
        )
    )


class Echoes:
    """The latest keepalive of each client, by underlay address."""

    def __init__(self, metrics: Metrics) -> None:
        self._echoes: dict[bytes, AnyEcho] = {}
        self._forgotten = metrics.counter("keepalives_forgotten")

    def get(self, payload: bytes, path: Path) -> AnyEcho | None:
        """The one that a payload is like."""
        echo = self._echoes.get(path.peer)
        return echo if echo is not None and echo.matches(payload) else None

    def remember(
        self,
        request: RequestOrReply,
        reply: RequestOrReply,
        link: VPNLink,
        path: Path,
        authenticator: IAuthenticator | None,
    ) -> None:
        """A request was answered that came in RFC form.

        :param request: as it was received and accepted.
        """
        if RFC_LENGTH + len(request.raw) > _LONGEST:
            return
        echo: AnyEcho | None = None
        if authenticator is None:
            echo = Echo(
                header(Form.RFC, link.vpn_id) + request.raw,
                reply.encode(Form.RFC, link.vpn_id),
                link,
            )
        elif isinstance(authenticator, KeyedAuthentication):
            echo = signed_echo(request, reply, link, path, authenticator)
        if echo is None:
            return
        if len(self._echoes) >= ECHOES:
            self._echoes.clear()
            self._forgotten.inc()
        self._echoes[path.peer] = echo
