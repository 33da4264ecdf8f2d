"""A speaker with real servers behind it, and a wire that the test holds."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path, parse_ip
from dmevpn.metrics import Metrics
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.cache import Cache, Kind
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.naming import Naming
from dmevpn.nhrp.packet import Packet, decode_payload
from dmevpn.nhrp.peers import Peers
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.transit import Transit
from tests.nhrp.neighbours import (
    HOST,
    HUB_MAC,
    STATION_B,
    TO_A,
    VTEP_B,
    Policy,
    Transport,
    binding,
    drops,
    outstanding,
)
from tests.vectors import VECTORS

__all__ = ["CLIENT_IP", "HUB_IP", "SECRET", "World", "octets"]

HUB_IP = parse_ip("10.0.0.1")
CLIENT_IP = parse_ip("10.0.0.10")
SECRET = b"dmevpn42"


class World:
    """A speaker, with or without servers behind it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.transport = Transport()
        self.asked: list[VPNID] = []
        secret = options.pop("secret", None)
        peers = Peers(self.clock, self.metrics)
        names = {"by_key", "plain_vpn", "plain", "legacy_detection"} & set(options)
        naming = Naming(peers, oui=DEFAULT_OUI, **{name: options.pop(name) for name in names})
        self.speaker = Speaker(
            interface="gre1",
            transport=self.transport,
            clock=self.clock,
            metrics=self.metrics,
            peers=peers,
            naming=naming,
            authenticator=None if secret is None else CiscoAuthentication(secret),
            **{"unknown_vpn": self.unknown, "vpn_errors": True} | options,
        )
        self.speaker.start()
        self.macs = {HOST: VTEP_B}
        self.caches: dict[tuple[VPNID | None, bytes], Cache] = {}

    def unknown(self, vpn_id: VPNID, packet: Packet, path: Path) -> bool:
        self.asked.append(vpn_id)
        return False

    def serve(
        self,
        vpn_id: VPNID | None,
        station: bytes = HUB_MAC,
        mtu: int = 1450,
        *,
        routes: PrefixTable[bytes] | None = None,
    ) -> Cache:
        """Attach a next hop server that knows two sites; HOST has been seen at one of them.

        :param routes: to other servers, to which it passes on what it does not know.
        """
        identity = Identity(station, mtu=mtu)
        cache = self.caches[vpn_id, station] = Cache(self.clock, self.metrics)
        server = NextHopServer(
            clock=self.clock,
            cache=cache,
            outstanding=outstanding(self.clock, self.metrics),
            link=self.speaker.link(vpn_id),
            policy=Policy(),
            find_mac=self.macs.get,
            vpn=None if vpn_id is None else vpn_id.index,
            identity=identity,
            nat_detection=True,
            passes_on=(lambda protocol: True) if routes else None,
            metrics=self.metrics,
        )
        cache.put(binding(STATION_B, VTEP_B, Kind.DYNAMIC, 540.5, mtu=1450))
        self.speaker.attach(vpn_id, server)
        if routes:
            transit = Transit(
                identity=identity,
                cache=cache,
                link=self.speaker.link(vpn_id),
                routes=routes.longest,
                vpn="-",
                metrics=self.metrics,
            )
            self.speaker.attach(vpn_id, transit)
        return cache

    def receive(self, octets: bytes, path: Path = TO_A) -> list[bytes]:
        """What goes out for a payload."""
        self.transport.sent.clear()
        self.speaker.datagrams_received(((octets, path),))
        return [data for data, _ in self.transport.sent]

    def answer(self, octets: bytes, path: Path = TO_A) -> Packet:
        """The one packet that goes out."""
        (data,) = self.receive(octets, path)
        assert self.transport.sent[0][1] == path
        return decode_payload(data)[1]

    def state(self) -> list[object]:
        """All that may differ by how a packet was answered: what was sent, and what is counted."""
        return [self.transport.sent, list(self.metrics.snapshot())]

    def dropped(self) -> dict[str, int]:
        """What was discarded, by reason."""
        return drops(self.metrics)


def octets(name: str) -> bytes:
    """The octets of a vector."""
    return VECTORS[name].octets
