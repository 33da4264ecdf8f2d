"""What authentication costs a hub per request, against the same hub without.

The whole way of a request through a hub's daemon but for the socket: speaker, server, switch in
memory, reply. Sockets cost the same with and without, so on the wire the ratios are smaller:
``hub-keyed`` measures those. All kinds take turns, so that a slow moment of the machine meets each
of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from benchmarks.load import Client, client
from benchmarks.report import Progress, Report
from dmevpn.addresses import VTEP, Path, parse_ip
from dmevpn.config.model import AuthenticationPlan, HubPlan, KeyPlan, Plan, SpeakerPlan
from dmevpn.dataplane.memory_hub import MemoryHubDataplane, MemorySwitch
from dmevpn.errors import Handshake
from dmevpn.interfaces import IAuthenticator, IDatagramTransport
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import Form, decapsulate
from dmevpn.nhrp.packet import Packet, decode
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.nhrp.request_ids import TimeRequestIDStore
from dmevpn.roles.authentication import make_authenticator
from dmevpn.roles.node import Drivers, Node
from dmevpn.transport.reader import DATAGRAMS_PER_WAKEUP

__all__ = ["run"]

CLIENTS = 2000
REPETITIONS = 9
SECTION = "Authentication (hub, without sockets)"

_HUB = parse_ip("10.0.0.1")


def _keyed(algorithm: str, protected: bool) -> AuthenticationPlan:
    key = KeyPlan(spi=256, algorithm=algorithm, secret=b"thirty-two octets of a fixed key")
    return AuthenticationPlan(keys=(key,), replay_protection=protected)


NONE = "none"
KINDS = {
    NONE: AuthenticationPlan(),
    "cleartext": AuthenticationPlan(secret=b"secret"),
    "hmac-md5": _keyed("hmac-md5", protected=False),
    "hmac-sha-256": _keyed("hmac-sha-256", protected=False),
    "hmac-sha-256, replay protection": _keyed("hmac-sha-256", protected=True),
}


@implementer(IDatagramTransport)
class _Wire:
    """A transport that goes nowhere, and remembers what went there."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.receiver: Any = None

    def start(self, receiver: Any) -> None:
        self.receiver = receiver

    def send(self, data: bytes, path: Path) -> None:
        self.sent.append(data)

    def know(self, peer: bytes) -> None:
        """Nobody has a budget here."""

    def forget(self, peer: bytes) -> None:
        """Nobody has a budget here."""

    def set_rate(self, rate: int) -> None:
        """Nobody has a budget here."""

    def stop(self) -> Any:
        return succeed(None)


class _Site:
    """One client, and how it signs."""

    def __init__(self, who: Client, plan: AuthenticationPlan, clock: Clock) -> None:
        self.who = who
        self.at_hub = Path(who.nbma, _HUB)
        self._to_hub = Path(_HUB, who.nbma)
        self.authenticator: IAuthenticator | None = make_authenticator(
            plan, ReplayGuard(clock, Metrics())
        )

    def sign(self, packet: Packet) -> bytes:
        """The payload of a packet for the hub."""
        vpn_id, station = self.who.vpn_id, self.who.station
        if self.authenticator is None:
            return packet.encode(Form.RFC, vpn_id)
        data: bytes = self.authenticator.sign(packet, Form.RFC, vpn_id, self._to_hub, station)
        return data

    def heed(self, data: bytes) -> list[bytes]:
        """What is sent again because of a challenge; nothing for anything else."""
        encapsulation = decapsulate(data, self.who.vpn_id.oui)
        try:
            if self.authenticator is not None:
                self.authenticator.verify(decode(data, encapsulation), encapsulation, self._to_hub)
        except Handshake as handshake:
            return [self.sign(packet) for packet, *_ in handshake.answers]
        return []


class _Hub:
    """A hub's node with its clients, all of one kind."""

    def __init__(self, plan: AuthenticationPlan) -> None:
        clock, metrics = Clock(), Metrics()
        self.wire = _Wire()
        self._request_id = 0
        switch = MemorySwitch(clock, transmit=lambda *_: None)

        def unused(*_: Any) -> Any:
            raise AssertionError("this plan has no spoke")

        node = Node(
            plan=Plan(
                speakers=(SpeakerPlan(interface="nhrp", authentication=plan),),
                hubs=(HubPlan(interface="vx0", controller="nhrp", vpns=((1, 25),)),),
            ),
            clock=clock,
            drivers=Drivers(
                control_device=lambda speaker: None,
                transport=lambda *_: self.wire,
                spoke_dataplane=unused,
                take_down=unused,
                hub_dataplane=lambda *_: MemoryHubDataplane(clock, switch),
                layer3_dataplane=unused,
                resolve_host=unused,
                request_ids=TimeRequestIDStore(lambda: 0.0),
                jitter=lambda: 0.5,
                machine_id=b"benchmark",
                wall_clock=time.time,
            ),
            metrics=metrics,
        )
        node.privilegedStartService()
        self.sites = [_Site(client(number), plan, clock) for number in range(CLIENTS)]
        for site in self.sites:
            # Challenges have a rate.
            clock.advance(0.002)
            for data in self.ask(site, site.sign(self._registration(site))):
                for again in site.heed(data):
                    self.ask(site, again)
            switch.receive(VTEP(site.who.nbma, site.who.vni), bytes(6) + site.who.vm + bytes(48))

    def _registration(self, site: _Site) -> Packet:
        self._request_id += 1
        return site.who.requester.registration(self._request_id)

    def _resolution(self, site: _Site) -> Packet:
        self._request_id += 1
        # Somebody of the same VPN.
        number = (int.from_bytes(site.who.station[2:], "big") + 25) % CLIENTS
        return site.who.requester.resolution(client(number).vm, self._request_id)

    def ask(self, site: _Site, data: bytes) -> list[bytes]:
        """What the hub sends because of a packet."""
        self.wire.sent.clear()
        self.wire.receiver.datagrams_received(((data, site.at_hub),))
        return list(self.wire.sent)

    def measure(self, make: str, reply: PacketType) -> float:
        """CPU microseconds per request of each client, all of which are granted."""
        maker: Callable[[_Site], Packet] = getattr(self, make)
        packets = [(site.sign(maker(site)), site.at_hub) for site in self.sites]
        self.wire.sent.clear()
        receive = self.wire.receiver.datagrams_received
        begin = time.process_time()
        for first in range(0, len(packets), DATAGRAMS_PER_WAKEUP):
            receive(packets[first : first + DATAGRAMS_PER_WAKEUP])
        spent = time.process_time() - begin
        replies = [decode(data, decapsulate(data, b"\2\0\0")) for data in self.wire.sent]
        for packet in replies:
            assert packet.packet_type is reply
            assert not packet.cies[0].code  # type: ignore[attr-defined]
        assert len(replies) == len(packets)
        return spent / len(packets) * 1e6


def run(report: Report, progress: Progress) -> None:
    """Renew registrations and answer resolutions, with each kind of authentication."""
    progress.say("authentication: registering")
    hubs = {name: _Hub(plan) for name, plan in KINDS.items()}
    for what, make, reply in (
        ("registration", "_registration", PacketType.REGISTRATION_REPLY),
        ("resolution", "_resolution", PacketType.RESOLUTION_REPLY),
    ):
        figures: dict[str, list[float]] = {name: [] for name in hubs}
        for repetition in range(REPETITIONS + 1):
            progress.say(f"authentication: {what}, {repetition} of {REPETITIONS}")
            for name, hub in hubs.items():
                spent = hub.measure(make, reply)
                if repetition:  # the first one warms up
                    figures[name].append(spent)
        for name, values in figures.items():
            report.add(SECTION, f"{what}, {name}", values, "us")
        plain = figures[NONE]
        for name, values in figures.items():
            if name == NONE:
                continue
            ratios = [one / other for one, other in zip(values, plain, strict=True)]
            report.add(SECTION, f"{what}, {name}, by none", ratios, "times")
