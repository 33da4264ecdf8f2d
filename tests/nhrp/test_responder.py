"""The next hop server: where addresses are."""

from __future__ import annotations

from typing import Any

import pytest

from dmevpn.addresses import VTEP, Path, parse_ip, parse_mac
from dmevpn.errors import NHRPError
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    ResponderAddress,
)
from dmevpn.nhrp.records import CIE, encode_vni
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    SITE_A,
    SITE_B,
    STATION_A,
    STATION_B,
    TO_A,
    TO_B,
    VTEP_A,
    VTEP_B,
    binding,
)
from tests.nhrp.serving import (
    IPV6_SITE,
    OUTSIDE,
    TRANSIT,
    World,
    resolution,
)


@pytest.fixture
def world() -> World:
    return World()


def test_an_answer_from_the_switch(world: World) -> None:
    """A MAC that the switch has learned is at its site, for 300 s, stable and authoritative."""
    world.learned()
    reply = world.resolve()
    assert reply.flags == 0xE000
    (cie,) = reply.cies
    assert cie == CIE(
        prefix_length=48,
        mtu=1400,
        holding_time=300,
        nbma=SITE_B,
        subaddress=encode_vni(200),
        protocol=HOST,
    )
    assert world.way == TO_A
    assert reply.extension(DeviceCapabilities) == DeviceCapabilities(1, 1)
    responder = reply.extension(ResponderAddress)
    assert responder is not None and responder.cies[0].nbma == HUB
    assert world.metrics.value("resolution_answers", code="0", vpn="7") == 1
    world.close()


def test_no_longer_than_its_site_is_registered(world: World) -> None:
    """A shortcut never outlives the registration of its site."""
    world.register(STATION_A, VTEP_B, holding_time=50)
    world.learned()
    world.clock.advance(0.5)
    assert world.resolve().cies[0].holding_time == 300
    world.clock.advance(398.5)
    assert world.resolve().cies[0].holding_time == 201
    world.clock.advance(200.5)
    assert world.resolve().cies[0].code == CIECode.NO_BINDING, "less than a second left"
    world.clock.advance(0.5)
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_an_answer_from_registrations(world: World) -> None:
    """A registered station is answered with what remains of its time."""
    world.register(STATION_B, VTEP_B, TO_B, CIE(holding_time=600, preference=7, mtu=0))
    world.clock.advance(100.5)
    cie = world.resolve(STATION_B).cies[0]
    assert (cie.code, cie.holding_time, cie.preference, cie.mtu) == (0, 499, 7, 1450)
    world.close()


def test_an_answer_from_the_configuration(world: World) -> None:
    """A static binding outweighs what the switch has seen, and lasts our default time."""
    world.learned(HOST, VTEP_B)
    world.cache.put(binding(HOST, VTEP_A, Kind.STATIC, None))
    cie = world.resolve(station=STATION_B, path=TO_B).cies[0]
    assert (cie.nbma, cie.holding_time) == (SITE_A, 100), "its own time, from now on"
    world.close()


def test_unknown(world: World) -> None:
    """What nobody has seen has no binding."""
    reply = world.resolve()
    assert reply.cies == (CIE(code=CIECode.NO_BINDING),)
    assert reply.flags == 0xC000
    assert reply.extension(DeviceCapabilities) == DeviceCapabilities(1, 0)
    assert list(world.server.answered()) == []
    world.close()


@pytest.mark.parametrize("protocol", [b"\xff" * 6, parse_mac("01:00:5e:00:00:01"), bytes(6)])
def test_groups_have_no_place(world: World, protocol: bytes) -> None:
    """Even if the switch thought so."""
    world.learned(protocol)
    assert world.resolve(protocol).cies[0].code == CIECode.NO_BINDING
    world.close()


def test_an_ip_address_is_not_looked_for_in_the_switch() -> None:
    """The switch knows MACs only."""
    world = World(station=parse_ip("10.0.0.1"))
    address = parse_ip("10.0.0.20")
    world.register(parse_ip("10.0.0.30"), VTEP(SITE_B, None))
    world.switch[address] = VTEP(SITE_B, None)
    assert world.resolve(address, parse_ip("10.0.0.10")).cies[0].code == CIECode.NO_BINDING
    world.close()


def test_a_site_that_is_not_registered_is_not_given_out(world: World) -> None:
    """Nobody would tell us when it is gone."""
    world.switch[HOST] = VTEP_B
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_another_underlay_family_cannot_be_given(world: World) -> None:
    """A site with IPv6 only is no use to one with IPv4 only: by the hub then."""
    world.learned(HOST, VTEP(IPV6_SITE, 200))
    assert world.resolve().cies[0].code == CIECode.NO_BINDING
    world.close()


def test_unique_bindings_only(world: World) -> None:
    """With U set, only a unique registration is good enough."""
    world.learned()
    assert world.resolve(flags=0x1000).cies[0].code == CIECode.NOT_UNIQUE
    reply = world.resolve(STATION_B, flags=0x1802)
    assert reply.cies[0].code == 0
    assert reply.flags == 0x1802 | 0x4000 | 0x2000
    world.close()


@pytest.mark.parametrize("extensions", [(), (DeviceCapabilities(0, 0),)])
def test_who_cannot_name_a_vpn_gets_no_shortcut(world: World, extensions: Any) -> None:
    """RFC 2735 §3.3: its frames would arrive without one."""
    world.learned()
    assert world.resolve(extensions=extensions).cies[0].code == CIECode.PROHIBITED
    world.close()


def test_in_the_default_instance_nobody_names_one() -> None:
    """There device capabilities do not matter."""
    world = World(vpn=None)
    world.learned()
    assert world.resolve(extensions=()).cies[0].code == 0
    world.close()


def test_two_cies_in_a_resolution_request(world: World) -> None:
    """A protocol error at the second (vector M29)."""
    request = resolution()
    request.cies = (CIE(), CIE())
    with pytest.raises(NHRPError) as raised:
        world.server.packet_received(request, TO_A)
    assert (raised.value.code, raised.value.offset) == (7, 60)
    world.close()


def test_answers_through_other_servers_go_straight_back(world: World) -> None:
    """So do later purges."""
    world.learned()
    world.resolve(path=TO_A, extensions=(TRANSIT, DeviceCapabilities(1, 0)), source_nbma=OUTSIDE)
    assert world.way == Path(OUTSIDE, HUB)
    world.server.invalidate(HOST, "moved")
    assert world.link.sent[0][1] == Path(OUTSIDE, HUB)
    world.close()
