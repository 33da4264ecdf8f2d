"""Resolution Requests like one that was answered before: answered without making packets of them.

Layer: core. The requests of a VPN for MACs differ in request ID, addresses and checksum alone, and
so do their replies, but for the CIE. All else in them is found in one table, and written again.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from dmevpn.addresses import MAC_LENGTH, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import (
    CHECKSUM_BEGIN,
    CHECKSUM_END,
    REQUEST_ID_BEGIN,
    RFC_LENGTH,
    Form,
    header,
)
from dmevpn.nhrp.extensions import Authentication
from dmevpn.nhrp.link import Tell, VPNLink
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.wire import checksum

__all__ = ["QUESTIONS", "Question", "Questions"]

#: Kinds of requests that are remembered, 6 MB: one of each VPN, if its clients are of one kind.
#: Beyond it all are forgotten, and the next ones are read.
QUESTIONS: Final = 4096
#: Octets of a payload that is remembered: twice those of our own clients.
_LONGEST: Final = 256

_MAC: Final = MAC_LENGTH
_VNI: Final = 4

#: Octets before the CIE of a request, less its NBMA address. What is asked stands at their end:
#: request ID, NBMA address, VNI, and two MACs.
_BEFORE_CIE: Final = REQUEST_ID_BEGIN + 4 + _VNI + _MAC + _MAC

#: By the octets of an NBMA address: checksum, and from the request ID on what is asked; the CIE of
#: an answer.
_REQUEST: Final = {size: Struct(f"!H10x{8 + size}s6s6s") for size in (4, 16)}
_CIE: Final = {size: Struct(f"!BBHHHBBBB{size}sL6s") for size in (4, 16)}


class Question:
    """What the requests of a kind, and their replies, have in common.

    It is true as long as the VPN has the same stations.

    :param request: the payload of one that was answered, in RFC form.
    :param reply: the payload of the answer, which names one VTEP with a VNI.
    :param size: octets of an NBMA address.
    :param tell: says where a MAC is.
    """

    __slots__ = (
        "_changes",
        "_cie",
        "_counters",
        "_end",
        "_fields",
        "_length",
        "_link",
        "_reply",
        "_size",
        "_sums",
        "_tell",
    )

    authenticator = None
    """Nobody has to accept it."""

    def __init__(self, request: bytes, reply: bytes, size: int, link: VPNLink, tell: Tell) -> None:
        self._link = link
        self._changes = link.changes
        self._tell = tell
        self._counters = (
            link.received[PacketType.RESOLUTION_REQUEST],
            link.sent[PacketType.RESOLUTION_REPLY],
        )
        self._length = len(request)
        self._size = size
        self._fields = _REQUEST[size]
        self._cie = _CIE[size]
        self._end = end = _BEFORE_CIE + size
        tail = end + self._cie.size
        self._reply = reply[:CHECKSUM_BEGIN], reply[CHECKSUM_END:REQUEST_ID_BEGIN], reply[tail:]
        self._sums = _sum(request, end), _sum(reply, tail)

    def answer(self, payload: bytes, path: Path) -> bytes | None:
        """The reply to a payload of this kind, counted like the request.

        :return: None if nothing was said: the payload is to be read.
        """
        if len(payload) != self._length or self._link.changes != self._changes:
            return None
        given, _, station, mac = self._fields.unpack_from(payload, CHECKSUM_BEGIN)
        asked = payload[REQUEST_ID_BEGIN : self._end]
        number = int.from_bytes(asked, "big")
        expected, told = self._sums
        if (given + number - expected) % 0xFFFF:
            return None
        place = self._tell(mac, station, path)
        if place is None:
            return None
        (nbma, vni), mtu, holding_time, preference = place
        size = self._size
        cie = self._cie.pack(
            0, 8 * _MAC, 0, mtu, holding_time, size, _VNI, _MAC, preference, nbma, vni, mac
        )
        received, sent = self._counters
        received.inc()
        sent.inc()
        head, between, tail = self._reply
        total = (told - number - int.from_bytes(cie, "big")) % 0xFFFF
        return b"".join((head, total.to_bytes(2, "big"), between, asked, cie, tail))


def _sum(payload: bytes, end: int) -> int:
    """The checksum with zeros from the request ID to an offset; what stands there is taken from
    it, modulo 65535."""
    constant = (
        payload[RFC_LENGTH:CHECKSUM_BEGIN],
        payload[CHECKSUM_END:REQUEST_ID_BEGIN],
        payload[end:],
    )
    return checksum(b"%b\0\0%b%b%b" % (*constant[:2], bytes(end - REQUEST_ID_BEGIN), constant[2]))


def _kind(payload: bytes, path: Path) -> bytes:
    """All that requests of a kind have in common: their octets but for checksum and what is asked,
    and the address of ours that they were sent to, since what replies say of us depends on it."""
    end = _BEFORE_CIE + len(path.peer)
    return (
        payload[:CHECKSUM_BEGIN]
        + payload[CHECKSUM_END:REQUEST_ID_BEGIN]
        + payload[end:]
        + path.local
    )


class Questions:
    """The kinds of requests that were answered."""

    def __init__(self, metrics: Metrics) -> None:
        self._questions: dict[bytes, Question] = {}
        self._forgotten = metrics.counter("questions_forgotten")

    def get(self, payload: bytes, path: Path) -> Question | None:
        """The kind that a payload is of. One look into a table."""
        return self._questions.get(_kind(payload, path))

    def remember(
        self, request: RequestOrReply, reply: RequestOrReply, path: Path, link: VPNLink, tell: Tell
    ) -> None:
        """A request that came by a path was answered, with the VTEP of one MAC; nothing happens
        unless request and reply are laid out as usual.

        :param request: as it was received.
        :param tell: gives the answers to those like it.
        """
        size = len(path.peer)
        lengths = (
            len(request.source_nbma),
            len(request.source_subaddress),
            len(request.source_protocol),
            len(request.destination_protocol),
            *(len(octets) for cie in reply.cies for octets in (cie.nbma, cie.subaddress)),
        )
        payload = header(Form.RFC, link.vpn_id) + request.raw
        if (
            lengths != (size, _VNI, _MAC, _MAC, size, _VNI)
            or len(payload) > _LONGEST
            or reply.extension(Authentication) is not None
        ):
            return
        if len(self._questions) >= QUESTIONS:
            self._questions.clear()
            self._forgotten.inc()
        encoded = reply.encode(Form.RFC, link.vpn_id)
        self._questions[_kind(payload, path)] = Question(payload, encoded, size, link, tell)
