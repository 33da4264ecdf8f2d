"""Every way to take another site's MAC or VTEP, and what stands in it (docs/security.md)."""

from __future__ import annotations

import pytest

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.packet import Packet, PurgeRequest, RegistrationReply
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.roles import takeover
from tests.roles.test_admission import drops, members, vpn_of
from tests.roles.test_hostile import Peer
from tests.world import Site, World, mac

#: A station that is not registered, the one that is, and the intruder's.
GUEST, MINE = mac(1), mac(0x66)
INTRUDER = "10.0.0.66"


class Place:
    """A hub with two sites, and an intruder with a key of the network, or without any."""

    def __init__(self, *, unique: bool = True) -> None:
        self.world = World()
        self.world.start_hub()
        self.one: Site = self.world.add_site("10.0.0.2", 100)
        self.two: Site = self.world.add_site("10.0.0.3", 101)
        self.world.run(1)
        self.world.speak(self.one, GUEST)
        self.world.run(0.1)
        self.intruder = Peer(self.world, INTRUDER)
        self.own = VTEP(self.intruder.address, 666)
        (station,) = vpn_of(self.world).members[self.one.vtep]
        self.station: bytes = station

    def register(self, station: bytes, vtep: VTEP, *, peer: Peer | None = None) -> int:
        """Register a station at a VTEP; the code of the answer."""
        peer = peer or self.intruder
        peer.received.clear()
        cie = CIE(holding_time=300, nbma=vtep.nbma, subaddress=encode_vni(vtep.vni))
        peer.register(cie, station=station, vni=vtep.vni or 0)
        self.world.run(0.1)
        [reply] = peer.received
        assert isinstance(reply, RegistrationReply)
        return reply.cies[0].code

    def answer(self, station: bytes) -> VTEP | None:
        """Where the hub says that a MAC is."""
        found = vpn_of(self.world).server._responder.find(station, self.world.clock.seconds())
        return None if found is None else found[1]


@pytest.fixture
def place() -> Place:
    return Place()


def test_an_intruder_has_his_own_mac_and_vtep(place: Place) -> None:
    """Without `permit` anybody may register what is nobody's."""
    assert place.register(MINE, place.own) == CIECode.SUCCESS
    assert place.own in members(place.world)


def test_a_mac_that_another_site_has(place: Place) -> None:
    """A MAC that the switch sees at another site is not registered away from there."""
    assert place.register(GUEST, place.own) == CIECode.ALREADY_REGISTERED
    assert place.answer(GUEST) == place.one.vtep
    assert place.own not in members(place.world)
    assert drops(place.world, "station_elsewhere") == 1
    place.world.run(400)
    # It has been silent since, for longer than the switch remembers: it is nobody's.
    assert place.register(GUEST, place.own) == CIECode.SUCCESS


def test_a_mac_that_another_site_has_registered(place: Place) -> None:
    """A unique registration stands until it ends (RFC 2332 §5.2.4, code 14)."""
    assert place.register(place.station, place.own) == CIECode.ALREADY_REGISTERED
    assert place.answer(place.station) == place.one.vtep
    assert members(place.world) == {place.one.vtep, place.two.vtep}


def test_a_vtep_that_another_station_has(place: Place) -> None:
    """Nobody registers himself at the VTEP of a site that is there."""
    assert place.register(MINE, place.one.vtep) == CIECode.PROHIBITED
    assert drops(place.world, "vtep_taken") == 1
    assert place.answer(MINE) is None
    again = Peer(place.world, "10.0.0.2")
    assert place.register(MINE, place.one.vtep, peer=again) == CIECode.SUCCESS


def test_a_vtep_of_another_vpn() -> None:
    """Nor in another VPN: what comes from there would belong to both."""
    world = World(vpns=((1, 2),))
    world.start_hub()
    one = world.add_site("10.0.0.2", 100)
    world.run(1)
    peer = Peer(world, INTRUDER)
    cie = CIE(holding_time=300, nbma=one.vtep.nbma, subaddress=encode_vni(100))
    peer.register(cie, station=MINE, vni=100, vpn=2)
    world.run(0.1)
    assert drops(world, "vtep_conflict") == 1
    assert one.vtep in members(world)


def test_a_station_in_its_absence(place: Place) -> None:
    """What a site has registered is not taken back by who could not have registered it."""
    cie = CIE(nbma=place.one.vtep.nbma, protocol=place.station)
    purge: Packet = PurgeRequest(
        source_nbma=place.intruder.address,
        source_protocol=MINE,
        destination_protocol=place.station,
        request_id=9,
        cies=(cie,),
    )
    place.intruder.send(purge, place.world.hub.address)
    place.world.run(0.5)
    assert place.one.vtep in members(place.world)
    assert place.answer(place.station) == place.one.vtep


@pytest.mark.parametrize("nbma", ["10.0.0.2", INTRUDER])
def test_a_purge_in_the_name_of_a_station(place: Place, nbma: str) -> None:
    """A site that has registered itself is believed only where it is, whoever claims to be it."""
    purge: Packet = PurgeRequest(
        source_nbma=parse_ip(nbma),
        source_protocol=place.station,
        destination_protocol=place.station,
        request_id=9,
        cies=(CIE(nbma=place.one.vtep.nbma, protocol=place.station),),
    )
    place.intruder.send(purge, place.world.hub.address)
    place.world.run(0.5)
    assert place.one.vtep in members(place.world)


def test_a_renewal_in_the_name_of_a_station(place: Place) -> None:
    """Nor can somebody else renew its registration, and get what is meant for it."""
    before = vpn_of(place.world).cache.lookup(place.station)
    assert place.register(place.station, place.one.vtep) == CIECode.PROHIBITED
    after = vpn_of(place.world).cache.lookup(place.station)
    assert before is not None and after is not None
    assert after.path == before.path
    assert after.expires == before.expires
    assert drops(place.world, "vtep_taken") == 1


def test_what_is_remembered_of_sites_is_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who registers at ever other VNIs, and is refused each time, leaves nothing behind."""
    monkeypatch.setattr(takeover, "MOST_HEARD", 10)
    guard = vpn_of(place.world).server._registrar._policy
    for vni in range(1000, 1050):
        place.register(place.station, place.own._replace(vni=vni))
        assert len(guard._own_word) <= 10
    assert place.world.hub.metrics.value("left_sites_forgotten") == 6
    assert place.register(place.station, place.one.vtep) == CIECode.PROHIBITED


def test_frames_with_the_mac_of_a_registered_station(place: Place) -> None:
    """Whatever the switch sees, a registered station is where it has registered."""
    for _ in range(20):
        place.world.speak(place.two, place.station)
        place.world.run(0.1)
    assert place.answer(place.station) == place.one.vtep


def test_a_station_that_moves_with_its_registration(place: Place) -> None:
    """A MAC that sends frames from where it was registered may register elsewhere, as long as it
    was not unique."""
    other = Peer(place.world, "10.0.0.77")
    there = VTEP(parse_ip("10.0.0.77"), 77)
    assert place.register(MINE, there, peer=other) == CIECode.SUCCESS
    place.world.switch.receive(there, b"\xff" * 6 + MINE)
    place.world.run(0.1)
    assert place.register(MINE, place.own) == CIECode.SUCCESS
    assert place.answer(MINE) == place.own
