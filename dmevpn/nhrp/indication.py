"""Error Indications: when one is sent, and what it is about (RFC 2332 §5.2.7). Layer: core."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.errors import MalformedPacket, NHRPError
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import REPLIES, ErrorCode, PacketType
from dmevpn.nhrp.encapsulation import decapsulate
from dmevpn.nhrp.header import REQUEST_ID
from dmevpn.nhrp.packet import ErrorIndication, Packet, RequestOrReply, decode_embedded

__all__ = [
    "SOURCES",
    "SOURCE_BURST",
    "SOURCE_RATE",
    "TELLING",
    "TOTAL_RATE",
    "ErrorReporter",
    "describe",
    "embedded",
    "embedded_vpn",
    "nobody_wants",
]

#: Error Indications in a row to one NBMA address, and how many a second it earns again.
SOURCE_BURST: Final = 10.0
SOURCE_RATE: Final = 1.0

#: Error Indications a second to everybody together, so that forged sources make us no amplifier.
TOTAL_RATE: Final = 100.0

#: NBMA addresses remembered for that. All together we send to at most TOTAL_RATE * SOURCE_BURST
#: / SOURCE_RATE addresses before the first one has earned everything back, so whoever is
#: forgotten at this bound had nothing against it any more.
SOURCES: Final = 2048

#: Errors that tell a stranger which VPNs there are, and what is in them (RFC 2735 §4.3).
TELLING: Final = frozenset(
    {ErrorCode.UNREACHABLE, ErrorCode.VPN_MISMATCH, ErrorCode.VPN_UNSUPPORTED}
)

#: Largest GRE payload of an Error Indication: an IPv4 datagram of 576 octets, which everybody
#: takes (RFC 1122 §3.3.2), less IPv4 and GRE headers.
_LARGEST: Final = 548

_INDICATIONS = frozenset({PacketType.ERROR_INDICATION, PacketType.TRAFFIC_INDICATION})


class ErrorReporter:
    """Makes Error Indications, no more than anybody should get."""

    def __init__(self, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._suppressed = metrics.dropped("error_suppressed")
        self._forgotten = metrics.counter("error_sources_forgotten")
        self._total = (TOTAL_RATE, clock.seconds())
        #: Tokens and when they were counted, by peer; least recently told first.
        self._sources: dict[bytes, tuple[float, float]] = {}

    def report(
        self,
        offending: Packet,
        code: int,
        offset: int,
        source_nbma: bytes,
        source_protocol: bytes,
        *,
        peer: bytes,
        overhead: int = 0,
    ) -> ErrorIndication | None:
        """The Error Indication about a packet.

        :param offending: as received; its addresses and ``raw`` are enough.
        :param code: an :class:`~dmevpn.nhrp.constants.ErrorCode`.
        :param offset: of the octet that is at fault, from ar$afn on.
        :param source_nbma: our address.
        :param source_protocol: our protocol address, or empty if we have none of that type.
        :param peer: NBMA address that it will go to, whose rate is limited.
        :param overhead: octets before ar$afn in the GRE payload.
        :return: None if there must be none: about an indication, or beyond the rate.
        """
        if offending.packet_type in _INDICATIONS:
            return None
        if not self._allow(peer):
            self._suppressed.inc()
            return None
        if len(source_protocol) != len(offending.source_protocol):
            source_protocol = b""
        indication = ErrorIndication(
            protocol_type=offending.protocol_type,
            snap=offending.snap,
            source_nbma=source_nbma,
            source_protocol=source_protocol,
            destination_protocol=(
                offending.destination_protocol
                if offending.packet_type in REPLIES
                else offending.source_protocol
            ),
            code=code,
            offset=offset,
        )
        room = max(_LARGEST - overhead - indication.header_end, offending.header_end)
        indication.contents = offending.raw[:room]
        return indication

    def _allow(self, peer: bytes) -> bool:
        now = self._clock.seconds()
        total, counted = self._total
        total = min(TOTAL_RATE, total + (now - counted) * TOTAL_RATE)
        self._total = (total, now)
        if total < 1:
            return False
        tokens, counted = self._sources.pop(peer, (SOURCE_BURST, now))
        tokens = min(SOURCE_BURST, tokens + (now - counted) * SOURCE_RATE)
        if allowed := tokens >= 1:
            tokens -= 1
            self._total = (total - 1, now)
        self._sources[peer] = (tokens, now)
        if len(self._sources) > SOURCES:
            del self._sources[next(iter(self._sources))]
            self._forgotten.inc()
        return allowed


def embedded(indication: ErrorIndication) -> RequestOrReply | None:
    """The packet that an Error Indication is about, as far as its addresses; None if damaged.

    The original daemon includes its VPN headers.
    """
    contents = indication.contents
    try:
        packet = decode_embedded(contents[decapsulate(contents, DEFAULT_OUI).offset :])
    except MalformedPacket:
        return None
    return packet if isinstance(packet, RequestOrReply) else None


def embedded_vpn(indication: ErrorIndication, oui: bytes) -> VPNID | None:
    """The VPN that the packet which an Error Indication is about names; None if it names none.

    :param oui: of the VPNs of legacy packets, which do not say.
    """
    try:
        return decapsulate(indication.contents, oui).vpn_id
    except MalformedPacket:
        return None


def describe(code: int) -> str:
    """An error code in words, for logs and operators."""
    try:
        return f"error {code}, {ErrorCode(code).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"error {code}"


def nobody_wants(packet: Packet) -> None:
    """Say what becomes of a packet that concerns no station of its VPN.

    :raises NHRPError: always.
    """
    packet_type = packet.packet_type
    if packet_type is PacketType.RESOLUTION_REPLY:
        raise NHRPError("unsolicited_reply", code=ErrorCode.INVALID_REPLY, offset=REQUEST_ID)
    if packet_type in (PacketType.REGISTRATION_REPLY, PacketType.PURGE_REPLY):
        raise NHRPError("unsolicited_reply")
    if isinstance(packet, ErrorIndication):
        raise NHRPError("error_unmatched")
    if packet_type is PacketType.TRAFFIC_INDICATION:
        raise NHRPError("traffic_indication")
    # We know no server to forward it to.
    raise NHRPError("unreachable", code=ErrorCode.UNREACHABLE, offset=packet.destination_offset)
