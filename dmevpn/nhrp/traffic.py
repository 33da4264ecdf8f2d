"""Traffic Indications: a packet took a detour (Cisco, OpenNHRP, FRR). Layer: core.

They are not in RFC 2332. A server that sends a packet out where it came in tells the client that
sent it, and the client asks for the direct way. An indication proves nothing: all that it can
bring about is a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import Path, is_station_mac
from dmevpn.interfaces import ILink
from dmevpn.metrics import Metrics
from dmevpn.nhrp.packet import TrafficIndication
from dmevpn.nhrp.requests import protocol_type_of

__all__ = ["CONTENTS", "PAIRS", "Redirector", "data_addresses", "is_host", "target"]

#: Octets of the data packet that are sent along, as OpenNHRP does.
CONTENTS: Final = 68

#: Indications about one pair of addresses, and the seconds between them.
_TIMES: Final = 4
_INTERVAL: Final = 5.0
#: Seconds that a pair must not be seen for before its indications begin anew.
_SILENCE: Final = 360.0

#: Pairs that are remembered. Beyond it, the pair that was seen longest ago is forgotten, and may
#: get its indications again.
PAIRS: Final = 16384

_REDIRECT: Final = 0

#: By octets of an address: how many of the data packet are needed, and where its source and
#: destination stand.
_PLACES: Final = {4: (20, 12, 16), 16: (40, 8, 24), 6: (14, 6, 0)}


def data_addresses(packet: bytes, octets: int) -> tuple[bytes, bytes] | None:
    """Source and destination of a data packet; None if its header is not whole.

    :param packet: its beginning: IPv4, IPv6 or, for MACs, Ethernet header.
    :param octets: length of its addresses.
    """
    needed, source, destination = _PLACES[octets]
    if len(packet) < needed or (octets != 6 and packet[0] >> 4 != (4 if octets == 4 else 6)):
        return None
    return packet[source : source + octets], packet[destination : destination + octets]


def is_host(address: bytes) -> bool:
    """Whether an address can be that of one host: unicast, not loopback or link-local."""
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 224 and address[:2] != b"\xa9\xfe"
    if len(address) == 16:
        return (
            address[0] != 0xFF
            and address[:10] != bytes(10)
            and not (address[0] == 0xFE and address[1] & 0xC0 == 0x80)
        )
    return is_station_mac(address)


def target(indication: TrafficIndication) -> bytes | None:
    """The address that a direct way would help to; None if the indication does not say."""
    addresses = data_addresses(
        indication.contents, len(indication.destination_protocol) or len(indication.source_protocol)
    )
    if indication.code != _REDIRECT or addresses is None or not is_host(addresses[1]):
        return None
    return addresses[1]


@dataclass(slots=True)
class _Pair:
    """A source and a destination that a detour was seen of."""

    told: int
    """How many indications were sent."""
    told_at: float
    seen_at: float


class Redirector:
    """Sends Traffic Indications about detours, no more than help."""

    def __init__(self, clock: IReactorTime, link: ILink, metrics: Metrics) -> None:
        self._clock = clock
        self._link = link
        #: Least recently seen first.
        self._pairs: dict[bytes, _Pair] = {}
        self._sent = metrics.counter("traffic_indications_sent")
        self._suppressed = metrics.counter("traffic_indications_suppressed")
        self._forgotten = metrics.counter("traffic_pairs_forgotten")

    def due(self, source: bytes, destination: bytes) -> bool:
        """Whether an indication about a pair is due, now that its detour was seen."""
        now = self._clock.seconds()
        key = source + destination
        pair = self._pairs.pop(key, None)
        if pair is None or now - pair.seen_at >= _SILENCE:
            pair = _Pair(0, now - _INTERVAL, now)
        pair.seen_at = now
        self._pairs[key] = pair
        if len(self._pairs) > PAIRS:
            del self._pairs[next(iter(self._pairs))]
            self._forgotten.inc()
        if pair.told >= _TIMES or now - pair.told_at < _INTERVAL:
            self._suppressed.inc()
            return False
        pair.told += 1
        pair.told_at = now
        return True

    def forget(self, destination: bytes, bits: int) -> int:
        """Let indications about a destination begin anew.

        :param destination: an address or a network of so many bits; empty: any.
        :return: how many pairs were forgotten.
        """
        doomed = [
            key
            for key in self._pairs
            if not destination
            or (
                len(key) == 2 * len(destination)
                and _top(key[len(destination) :], bits) == _top(destination, bits)
            )
        ]
        for key in doomed:
            del self._pairs[key]
        return len(doomed)

    def tell(self, packet: bytes, source: bytes, station: bytes, path: Path) -> None:
        """Tell a client that a packet of its side took a detour.

        :param source: of the packet.
        :param station: our own protocol address.
        :param path: to the client.
        """
        self._sent.inc()
        self._link.send(
            TrafficIndication(
                source_nbma=path.local or bytes(len(path.peer)),
                source_protocol=station,
                destination_protocol=source,
                protocol_type=protocol_type_of(source),
                contents=packet[:CONTENTS],
            ),
            path,
        )


def _top(address: bytes, bits: int) -> int:
    return int.from_bytes(address, "big") >> (8 * len(address) - bits)
