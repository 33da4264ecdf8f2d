"""The neighbours of the protocol machines, as logs of what they were told."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path, parse_ip, parse_mac
from dmevpn.interfaces import (
    Claim,
    ICacheListener,
    IDatagramReceiver,
    IDatagramTransport,
    ILink,
    IRegistrationPolicy,
    IRequestIDStore,
    IStation,
)
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.link import Tell
from dmevpn.nhrp.packet import ErrorIndication, Packet
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding

HUB = parse_ip("192.0.2.1")
HUB_MAC = parse_mac("02:00:00:00:00:01")
SITE_A = parse_ip("192.0.2.10")
SITE_B = parse_ip("192.0.2.20")
STATION_A = parse_mac("02:00:00:00:00:0a")
STATION_B = parse_mac("02:00:00:00:00:0b")
HOST = parse_mac("52:54:00:12:34:56")
OTHER_HOST = parse_mac("52:54:00:ab:cd:ef")
VTEP_A = VTEP(SITE_A, 100)
VTEP_B = VTEP(SITE_B, 200)
#: From a client to the hub, and from the hub to the clients.
TO_HUB = Path(HUB, SITE_A)
TO_A = Path(SITE_A, HUB)
TO_B = Path(SITE_B, HUB)
VPN7 = VPNID(b"\x02\x00\x00", 7)
VPN8 = VPNID(b"\x02\x00\x00", 8)


def no_jitter() -> float:
    """The middle of what chance may bring."""
    return 0.5


@implementer(IRequestIDStore)
class IDStore:
    """Starts at a number, and logs what is reserved."""

    def __init__(self, first: int = 1000) -> None:
        self.next = first
        self.reserved: list[int] = []

    def reserve(self, count: int) -> int:
        first = self.next
        self.reserved.append(first)
        self.next = (first + count) % 2**32
        return first

    def reserve_ahead(self, count: int) -> int:
        return self.reserve(count)


@implementer(ILink)
class Link:
    """Logs what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Packet, Path]] = []

    def send(self, packet: Packet, path: Path) -> None:
        self.sent.append((packet, path))

    def answer(self, request: Packet, reply: Packet, path: Path, tell: Tell | None = None) -> None:
        self.send(reply, path)

    def names_vpn(self, path: Path) -> bool:
        return True

    def form(self, path: Path) -> Form:
        return Form.RFC

    def largest(self, path: Path) -> int:
        return 1400

    def take(self) -> list[Any]:
        """The packets sent since the last time."""
        packets = [packet for packet, _ in self.sent]
        self.sent.clear()
        return packets


@implementer(ICacheListener)
class CacheLog:
    """Logs changes of a cache, as (event, protocol address, kind or reason)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bytes, str]] = []

    def binding_added(self, binding: Binding) -> None:
        self.events.append(("added", binding.protocol, binding.kind.name.lower()))

    def binding_changed(self, old: Binding, new: Binding) -> None:
        kinds = f"{old.kind.name.lower()} to {new.kind.name.lower()}"
        self.events.append(("changed", new.protocol, kinds))

    def binding_removed(self, binding: Binding, reason: str) -> None:
        self.events.append(("removed", binding.protocol, reason))

    def take(self) -> list[tuple[str, bytes, str]]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events


@implementer(IRegistrationPolicy)
class Policy:
    """Answers with a code, and logs what it is asked."""

    def __init__(self) -> None:
        self.code = 0
        self.asked: list[tuple[int, bytes, VTEP]] = []

    def decide(self, claim: Claim) -> int:
        self.asked.append((claim.vpn, claim.station, claim.vtep))
        return self.code


@implementer(IDatagramTransport)
class Transport:
    """Logs what is sent; ``receiver`` takes what the test has arrive."""

    receiver: IDatagramReceiver

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Path]] = []
        self.calls: list[str] = []
        self.known: set[bytes] = set()

    def start(self, receiver: IDatagramReceiver) -> None:
        self.receiver = receiver
        self.calls.append("start")

    def send(self, data: bytes, path: Path) -> None:
        self.sent.append((data, path))

    def know(self, peer: bytes) -> None:
        self.known.add(peer)

    def forget(self, peer: bytes) -> None:
        self.known.remove(peer)

    def set_rate(self, rate: int) -> None:
        self.calls.append(f"rate {rate}")

    def stop(self) -> Deferred[None]:
        self.calls.append("stop")
        return succeed(None)


@implementer(IStation)
class Station:
    """Logs what it gets, and says whether that was for it."""

    def __init__(self, *packet_types: PacketType, station: bytes = STATION_A) -> None:
        self.packet_types = frozenset(packet_types)
        self.station = station
        self.wants = True
        self.resumptions = 0
        self.raises: Exception | None = None
        self.received: list[tuple[Packet, Path]] = []

    def packet_received(self, packet: Packet, path: Path) -> bool:
        self.received.append((packet, path))
        if self.raises is not None:
            raise self.raises
        return self.wants

    def transport_resumed(self) -> None:
        self.resumptions += 1


def drops(metrics: Metrics) -> dict[str, int]:
    """What was discarded, by reason."""
    return {
        labels[0][1]: int(value)
        for name, labels, _, value in metrics.snapshot()
        if name == "dmevpn_drops_total" and value
    }


def error_about(request: Packet, code: int) -> ErrorIndication:
    """What the hub says of a request of station A that it could not process."""
    return ErrorIndication(
        source_nbma=HUB,
        source_protocol=HUB_MAC,
        destination_protocol=STATION_A,
        code=code,
        contents=request.encode(),
    )


def outstanding(clock: Clock, metrics: Metrics, limit: int = 100) -> Outstanding:
    """Requests whose identifiers start at 1000."""
    return Outstanding(clock, no_jitter, RequestIDs(IDStore()), metrics, limit)


def binding(
    protocol: bytes = HOST,
    vtep: VTEP | None = VTEP_B,
    kind: Kind = Kind.CACHED,
    expires: float | None = 100.0,
    **more: Any,
) -> Binding:
    """A binding, as most tests need it."""
    return Binding(protocol, vtep, kind, 100, expires, **more)
