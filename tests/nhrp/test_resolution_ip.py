"""Resolution of IPv4 and IPv6 addresses: prefixes, next hops, and purges of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import VTEP, Path, parse_ip, parse_prefix
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.extensions import DeviceCapabilities
from dmevpn.nhrp.packet import PurgeRequest, ResolutionRequest
from dmevpn.nhrp.prefixes import key_of
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.requests import protocol_type_of
from dmevpn.nhrp.resolution import ResolutionClient
from tests.nhrp.neighbours import HUB, SITE_A, SITE_B, TO_HUB, Link, no_jitter, outstanding

STATION = parse_ip("10.0.0.10")
TARGET = parse_ip("192.168.3.7")
NETWORK = parse_prefix("192.168.3.0/24")
KEY = key_of(*NETWORK)
NEXT_HOP = parse_ip("10.0.0.20")


class World:
    """A client, and a server that the test plays."""

    def __init__(self, station: bytes = STATION) -> None:
        self.clock = Clock()
        self.link = Link()
        self.metrics = Metrics()
        self.requests = outstanding(self.clock, self.metrics)
        self.cache = Cache(self.clock, self.metrics)
        self.station = station
        self.due: list[bytes] = []
        self.client = ResolutionClient(
            clock=self.clock,
            jitter=no_jitter,
            cache=self.cache,
            outstanding=self.requests,
            link=self.link,
            station=station,
            vni=None,
            mtu=1400,
            metrics=self.metrics,
            servers=lambda protocol: TO_HUB,
            on_renewal_due=self.due.append,
            capabilities=False,
        )

    def request(self) -> ResolutionRequest:
        """The latest that was sent."""
        return [p for p, _ in self.link.sent if isinstance(p, ResolutionRequest)][-1]

    def answer(self, *cies: CIE) -> None:
        assert self.requests.reply_received(self.request().reply(cies), TO_HUB)

    def resolve(self, protocol: bytes, *cies: CIE) -> None:
        """Ask for an address, and have it answered."""
        assert self.client.resolve(protocol)
        self.answer(*cies)

    def purge(self, cie: CIE) -> None:
        self.client.purge_received(
            PurgeRequest(
                source_nbma=HUB,
                source_protocol=parse_ip("10.0.0.1"),
                destination_protocol=self.station,
                protocol_type=protocol_type_of(self.station),
                cies=(cie,),
            ),
            TO_HUB,
        )

    def keys(self) -> dict[bytes, Kind]:
        return {binding.key: binding.kind for binding in self.cache.bindings()}


def cie(protocol: bytes = NEXT_HOP, prefix_length: int = 24, **more: Any) -> CIE:
    """An answer: SITE_B for five minutes."""
    fields = {"holding_time": 300, "nbma": SITE_B, **more}
    return CIE(prefix_length=prefix_length, protocol=protocol, **fields)


def test_the_request() -> None:
    """It names our address on the way to the server, no VNI and no VPN."""
    world = World()
    world.client.resolve(TARGET)
    request = world.request()
    assert (request.source_nbma, request.source_subaddress) == (SITE_A, b"")
    assert (request.source_protocol, request.destination_protocol) == (STATION, TARGET)
    assert request.extension(DeviceCapabilities) is None


def test_a_network_is_the_answer() -> None:
    """It stands for all of its addresses, with the station that leads there."""
    world = World()
    outcomes: list[Binding] = []
    assert world.client.resolve(TARGET, outcomes.append)
    world.answer(cie())
    assert world.keys() == {KEY: Kind.CACHED}
    (found,) = outcomes
    assert (found.protocol, found.prefix_length, found.next_hop) == (*NETWORK, NEXT_HOP)
    assert found.vtep == VTEP(SITE_B, None)
    assert not world.client.resolve(parse_ip("192.168.3.200"), outcomes.append)
    assert outcomes[1] is world.cache.lookup(KEY)
    assert world.client.resolve(parse_ip("192.168.4.1"))


@pytest.mark.parametrize(
    ("station", "target", "answer"),
    [
        (STATION, TARGET, cie(TARGET, 32)),
        (STATION, TARGET, cie(TARGET, 0)),
        (STATION, TARGET, cie(TARGET, 255)),
        (STATION, TARGET, cie(b"", 32)),
        (STATION, TARGET, cie(NEXT_HOP, 7)),
        (STATION, TARGET, cie(NEXT_HOP, 1)),
        (STATION, parse_ip("192.0.2.7"), cie(NEXT_HOP, 24)),
        (parse_ip("2001:db8::a"), parse_ip("2001:db8:3::7"), cie(parse_ip("2001:db8::b"), 15)),
    ],
)
def test_one_address_is_the_answer(station: bytes, target: bytes, answer: CIE) -> None:
    """So are networks that are too wide, or that the underlay address itself is in."""
    world = World(station)
    world.resolve(target, answer)
    assert world.keys() == {target: Kind.CACHED}
    found = world.cache.lookup(target)
    assert found is not None
    assert found.next_hop == (b"" if answer.protocol == target else answer.protocol)


def test_renewal_of_a_network() -> None:
    """It is asked for by the address that was asked for at first, and stays meanwhile."""
    world = World()
    world.resolve(TARGET, cie())
    world.clock.advance(201)
    assert world.due == [KEY]
    world.client.renew(KEY)
    assert world.request().destination_protocol == TARGET
    assert world.keys() == {KEY: Kind.CACHED}
    world.answer(cie(nbma=HUB))
    found = world.cache.lookup(KEY)
    assert found is not None and found.vtep == VTEP(HUB, None)


def test_a_renewal_may_say_less() -> None:
    """A network that was divided: the old answer goes, the new one comes."""
    world = World()
    world.resolve(TARGET, cie())
    world.client.renew(KEY)
    world.answer(cie(prefix_length=28))
    assert world.keys() == {key_of(TARGET, 28): Kind.CACHED}
    world.client.renew(key_of(TARGET, 28))
    world.answer(CIE(code=CIECode.NO_BINDING))
    assert world.keys() == {TARGET: Kind.NEGATIVE}


def test_a_renewal_without_an_answer() -> None:
    """What is known stays true until it expires."""
    world = World()
    world.resolve(TARGET, cie())
    world.client.renew(KEY)
    for _ in range(20):
        world.clock.advance(1)
    assert world.keys() == {KEY: Kind.CACHED}
    world.clock.advance(300)
    assert world.keys() == {}


@pytest.mark.parametrize(
    ("purged", "goes"),
    [
        (cie(NETWORK[0], 24, nbma=b""), True),
        (cie(parse_ip("192.168.0.0"), 16, nbma=b""), True),
        (cie(TARGET, 32, nbma=b""), True),
        (cie(NETWORK[0], 24), True),
        (cie(NETWORK[0], 24, nbma=HUB), False),
        (cie(parse_ip("192.168.4.0"), 24, nbma=b""), False),
        (cie(b"", 0, nbma=b""), False),
    ],
)
def test_purges(purged: CIE, goes: bool) -> None:
    """Of the network, of a wider one, or of an address that it was the answer for."""
    world = World()
    world.resolve(TARGET, cie())
    world.purge(purged)
    assert world.keys() == ({} if goes else {KEY: Kind.CACHED})


def test_a_purge_while_asking() -> None:
    """What is on its way may be what is taken back: it is asked for again, once."""
    world = World()
    world.client.resolve(TARGET)
    first = world.request()
    world.purge(cie(parse_ip("192.168.0.0"), 16, nbma=b""))
    assert world.request().request_id != first.request_id
    assert not world.requests.reply_received(first.reply((cie(),)), TO_HUB)


def test_a_purged_network_is_not_renewed() -> None:
    """The answer to a renewal that was under way is of no use."""
    world = World()
    world.resolve(TARGET, cie())
    world.client.renew(KEY)
    stale = world.request()
    world.purge(cie(NETWORK[0], 24, nbma=b""))
    assert not world.requests.reply_received(stale.reply((cie(),)), Path(HUB, SITE_A))
    assert world.keys() == {}
