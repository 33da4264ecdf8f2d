"""A next hop server whose clients the test plays."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, Path, parse_ip
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Cache
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import (
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
)
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.server import NextHopServer
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    VTEP_A,
    VTEP_B,
    Link,
    Policy,
    outstanding,
)

__all__ = [
    "IPV6_SITE",
    "OUTSIDE",
    "REQUEST_EXTENSIONS",
    "TRANSIT",
    "World",
    "purge",
    "registration",
    "resolution",
    "told",
]

#: A site as it is seen from outside of an address translation.
OUTSIDE = parse_ip("198.51.100.7")
IPV6_SITE = parse_ip("2001:db8::20")
REQUEST_EXTENSIONS = (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord())
#: What a request carries that another server has passed on.
TRANSIT = ForwardTransitRecord((CIE(nbma=SITE_B, protocol=STATION_B),))


class World:
    """A server with two clients that the test plays."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.requests = outstanding(self.clock, self.metrics, options.pop("requests", 100))
        self.cache = Cache(self.clock, self.metrics, options.pop("cache", 100))
        self.policy = Policy()
        #: What the switch has learned.
        self.switch: dict[bytes, VTEP] = {}
        station = options.pop("station", HUB_MAC)
        identity = options.pop("identity", Identity(station, mtu=1450))
        settings: dict[str, Any] = {"vpn": 7, "nat_detection": True, "identity": identity}
        self.server = NextHopServer(
            clock=self.clock,
            cache=self.cache,
            outstanding=self.requests,
            link=self.link,
            policy=self.policy,
            find_mac=self.switch.get,
            metrics=self.metrics,
            **settings | options,
        )

    def register(
        self,
        station: bytes = STATION_A,
        vtep: VTEP = VTEP_A,
        path: Path | None = None,
        *cies: CIE,
        unique: bool = True,
        holding_time: int = 600,
        **more: Any,
    ) -> RegistrationReply:
        request = registration(station, vtep, *cies, unique=unique, holding_time=holding_time)
        for name, value in more.items():
            setattr(request, name, value)
        assert self.server.packet_received(request, path or Path(vtep.nbma, HUB))
        reply, way = self.link.sent.pop()
        self.way = way
        assert isinstance(reply, RegistrationReply)
        return reply

    def resolve(
        self,
        protocol: bytes = HOST,
        station: bytes = STATION_A,
        path: Path = TO_A,
        **more: Any,
    ) -> ResolutionReply:
        request = resolution(protocol, station, path)
        for name, value in more.items():
            setattr(request, name, value)
        assert self.server.packet_received(request, path)
        reply, self.way = self.link.sent.pop()
        assert isinstance(reply, ResolutionReply)
        return reply

    def learned(self, protocol: bytes = HOST, vtep: VTEP = VTEP_B) -> None:
        """The switch has seen a MAC behind a registered site."""
        self.register(STATION_B, vtep)
        self.switch[protocol] = vtep

    def close(self) -> None:
        self.server.close()
        self.requests.close()
        self.cache.close()
        assert not self.clock.getDelayedCalls()


def registration(
    station: bytes = STATION_A,
    vtep: VTEP = VTEP_A,
    *cies: CIE,
    unique: bool = True,
    holding_time: int = 600,
) -> RegistrationRequest:
    return RegistrationRequest(
        source_nbma=vtep.nbma,
        source_subaddress=encode_vni(vtep.vni),
        source_protocol=station,
        destination_protocol=station,
        flags=0x8000 if unique else 0,
        request_id=16,
        cies=cies or (CIE(prefix_length=0xFF, mtu=1400, holding_time=holding_time),),
        extensions=REQUEST_EXTENSIONS,
    )


def resolution(
    protocol: bytes = HOST, station: bytes = STATION_A, path: Path = TO_A
) -> ResolutionRequest:
    return ResolutionRequest(
        source_nbma=path.peer,
        source_subaddress=encode_vni(100),
        source_protocol=station,
        destination_protocol=protocol,
        flags=0xC000,
        request_id=18,
        cies=(CIE(prefix_length=0xFF, mtu=1450),),
        extensions=(*REQUEST_EXTENSIONS, DeviceCapabilities(1, 0)),
    )


def purge(station: bytes = STATION_A, nbma: bytes = SITE_A, **more: Any) -> PurgeRequest:
    fields: dict[str, Any] = {"protocol": STATION_A, "prefix_length": 48}
    flags = more.pop("flags", 0)
    return PurgeRequest(
        source_nbma=nbma,
        source_protocol=station,
        destination_protocol=station,
        flags=flags,
        request_id=9,
        cies=(CIE(**fields | more),),
    )


def told(world: World) -> set[tuple[bytes, bytes]]:
    """Who was told to forget what."""
    packets = [packet for packet in world.link.take() if isinstance(packet, PurgeRequest)]
    return {(each.destination_protocol, cie.protocol) for each in packets for cie in each.cies}
