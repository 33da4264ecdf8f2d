"""The speaker with real stations: what comes in, and what goes out for it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.errors import NHRPError
from dmevpn.interfaces import IDatagramReceiver, ILink
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import Form, decapsulate
from dmevpn.nhrp.extensions import Authentication
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    RegistrationReply,
    ResolutionReply,
    decode_payload,
)
from dmevpn.nhrp.peers import DIALECTS, peer_of
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.speaker import MOST_GATHERED
from tests.nhrp.neighbours import (
    HOST,
    HUB,
    HUB_MAC,
    SITE_A,
    SITE_B,
    STATION_A,
    TO_A,
    TO_B,
    VPN7,
    VTEP_B,
    Station,
    binding,
)
from tests.nhrp.speaking import CLIENT_IP, HUB_IP, SECRET, World, octets
from tests.vectors import NHRP, Vector


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def hub() -> World:
    """A hub of the default instance that knows MACs and IPv4 addresses, and of VPN 7."""
    world = World()
    world.serve(None, HUB_MAC)
    world.serve(None, HUB_IP, mtu=1400)
    world.serve(VPN7)
    return world


# --- the vectors ------------------------------------------------------------------------------


#: A VPN that the path implies, and forwarding to other servers, which this speaker does not do.
NOT_HERE = {"P07", "M18", "M19"}


@pytest.mark.parametrize(
    "vector",
    [each for each in NHRP if each.counter is not None and each.id not in NOT_HERE],
    ids=str,
)
def test_what_the_vectors_have_dropped_or_answered_with_an_error(vector: Vector) -> None:
    """Each faulty vector is counted under its name; if an error is due, it has code and offset."""
    world = World(secret=SECRET if vector.id in ("M22", "M23") else None)
    world.serve(None, HUB_MAC)
    world.serve(None, HUB_IP)
    world.serve(VPN7)
    sent = world.receive(vector.octets)
    assert world.dropped() == {vector.counter: 1}
    if vector.counter == "bad_vni":
        (reply,) = [decode_payload(data)[1] for data in sent]
        assert isinstance(reply, RegistrationReply)
        assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(4, 0)]
    elif vector.code is None:
        assert sent == []
    else:
        # By hand, since the error about an unknown protocol type is of that type, too.
        data = sent[0][decapsulate(sent[0], DEFAULT_OUI).offset :]
        assert len(sent) == 1 and data[17] == PacketType.ERROR_INDICATION
        assert struct.unpack("!HH", data[24:28]) == (vector.code, vector.offset)


def test_the_purge_reply_of_the_vectors(hub: World) -> None:
    """V09 answers V08, octet by octet."""
    cache = hub.caches[None, HUB_IP]
    cache.put(binding(CLIENT_IP, VTEP_B._replace(nbma=SITE_A, vni=None), Kind.DYNAMIC))
    assert hub.receive(octets("V08")) == [octets("V09")]
    assert cache.lookup(CLIENT_IP) is None


def test_the_error_of_the_vectors(hub: World) -> None:
    """P06 answers P05, octet by octet: the server lacks the VPN."""
    assert hub.receive(octets("P05")) == [octets("P06")]
    assert hub.asked == [VPNID(DEFAULT_OUI, 999)]


@pytest.mark.parametrize(
    ("name", "station", "vpn"),
    [("V05", CLIENT_IP, None), ("V18", STATION_A, None), ("P01", STATION_A, VPN7)],
)
def test_registrations_of_the_vectors(
    hub: World, name: str, station: bytes, vpn: VPNID | None
) -> None:
    """They are stored for 600 s and answered in the VPN and form they came in."""
    reply = hub.answer(octets(name))
    assert isinstance(reply, RegistrationReply)
    assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(0, 600)]
    server = HUB_IP if len(station) == 4 else HUB_MAC
    found = hub.caches[vpn, server].lookup(station)
    assert found is not None and found.vtep is not None
    assert found.vtep.nbma == SITE_A and found.expires == 600
    encapsulation, _ = decode_payload(hub.transport.sent[0][0])
    assert encapsulation.vpn_id == vpn


def test_three_registrations_of_the_vectors(hub: World) -> None:
    """V19 registers three MACs."""
    reply = hub.answer(octets("V19"))
    assert isinstance(reply, RegistrationReply)
    assert [cie.code for cie in reply.cies] == [0, 0, 0]


@pytest.mark.parametrize("name", ["V20", "M27"])
def test_resolution_requests_of_the_vectors(hub: World, name: str) -> None:
    """They are answered from the switch, for no longer than the site is registered."""
    reply = hub.answer(octets(name))
    assert isinstance(reply, ResolutionReply)
    if name == "V20":
        assert reply.cies[0].nbma == SITE_B and reply.cies[0].code == 0
    _, request = decode_payload(octets(name))
    assert [each.type for each in reply.extensions] == [each.type for each in request.extensions]


def test_the_resolution_reply_of_the_vectors(hub: World) -> None:
    """With a registration of 540 s left, V21 is as we would write it but for the limit of 300."""
    cache = hub.caches[None, HUB_MAC]
    cache.put(binding(HOST, VTEP_B, Kind.DYNAMIC, 540.5, mtu=1450))
    reply = hub.answer(octets("V20"))
    assert reply.encode() == octets("V21")


@pytest.mark.parametrize("name", ["V15", "V27", "V28", "V29", "V31", "V25"])
def test_resolution_requests_for_nobody(hub: World, name: str) -> None:
    """Odd but legal requests are answered: no binding; type and order of all stay."""
    reply = hub.answer(octets(name))
    _, request = decode_payload(octets(name))
    assert isinstance(reply, ResolutionReply)
    assert reply.cies in ((CIE(code=12),),) or reply.cies[0].code == 0
    assert (reply.protocol_type, reply.snap) == (request.protocol_type, request.snap)
    assert [each.type for each in reply.extensions] == [each.type for each in request.extensions]


def test_a_purge_without_cies(hub: World) -> None:
    """Older daemons send it and expect a reply (V30)."""
    assert isinstance(hub.answer(octets("V30")), PurgeReply)


# --- VPNs -------------------------------------------------------------------------------------


def test_interfaces(world: World) -> None:
    """Transports and stations can rely on it."""
    assert verifyObject(IDatagramReceiver, world.speaker)
    assert verifyObject(ILink, world.speaker.link(VPN7))


def test_each_station_gets_what_it_lists_in_its_vpn(world: World) -> None:
    """Packets go by VPN and type, to one station after the other until one wants it."""
    first = Station(PacketType.REGISTRATION_REQUEST, PacketType.PURGE_REQUEST)
    second = Station(PacketType.REGISTRATION_REQUEST)
    other = Station(*PacketType)
    world.speaker.attach(VPN7, first)
    world.speaker.attach(VPN7, second)
    world.speaker.attach(None, other)
    world.receive(octets("P01"))
    assert (len(first.received), len(second.received)) == (1, 0)
    first.wants = False
    world.receive(octets("P01"))
    assert (len(first.received), len(second.received)) == (2, 1)
    world.speaker.detach(VPN7, first)
    world.receive(octets("P01"))
    assert (len(first.received), len(second.received)) == (2, 2)
    assert other.received == []
    world.speaker.detach(VPN7, second)
    world.speaker.detach(VPN7, second)
    assert isinstance(world.answer(octets("P01")), ErrorIndication)


def test_counted_per_vpn(world: World) -> None:
    """Operators see what each VPN says and hears."""
    world.serve(VPN7)
    world.receive(octets("P01"))
    for direction, kind in (
        ("received", "registration_request"),
        ("sent", "registration_reply"),
    ):
        assert world.metrics.value("packets", direction=direction, type=kind, vpn="7") == 1


def test_vpns_on_demand() -> None:
    """A hub that serves any VPN makes one when a site first registers in it, not before."""
    made: list[VPNID] = []

    def make(vpn_id: VPNID, packet: Packet, path: Path) -> bool:
        made.append(vpn_id)
        world.serve(vpn_id)
        return True

    world = World(unknown_vpn=make)
    assert isinstance(world.answer(octets("P02")), ErrorIndication), "a reply"
    assert made == []
    assert isinstance(world.answer(octets("P01")), RegistrationReply)
    assert isinstance(world.answer(octets("P01")), RegistrationReply)
    assert made == [VPN7]


def test_on_demand_beside_a_server_of_another_type() -> None:
    """A server of the VPN for IPv4 does not keep away the one for MACs."""

    def make(vpn_id: VPNID, packet: Packet, path: Path) -> bool:
        world.serve(vpn_id)
        return True

    world = World(unknown_vpn=make)
    world.serve(VPN7, HUB_IP)
    assert isinstance(world.answer(octets("P01")), RegistrationReply)


def test_a_vpn_that_was_promised_but_not_made() -> None:
    """The answer is the same as for one that is not served."""
    world = World(unknown_vpn=lambda vpn_id, packet, path: True)
    indication = world.answer(octets("P01"))
    assert isinstance(indication, ErrorIndication) and indication.code == 17


def test_silence_about_vpns() -> None:
    """By configuration strangers do not learn which VPNs there are."""
    world = World(vpn_errors=False)
    assert world.receive(octets("P05")) == []
    assert world.dropped() == {"vpn_unsupported": 1}


def test_packets_without_a_vpn(world: World) -> None:
    """They are dropped where nothing serves the default instance."""
    world.serve(VPN7)
    assert world.receive(octets("V18")) == []
    assert world.dropped() == {"vpn_missing": 1}


# --- what nobody wants -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counter", "error"),
    [
        ("V21", "unsolicited_reply", (10, 24)),
        ("V07", "unsolicited_reply", None),
        ("V09", "unsolicited_reply", None),
        ("V11", "error_unmatched", None),
        ("V13", "traffic_indication", None),
        ("V18", "unreachable", (6, 42)),
        ("V20", "unreachable", (6, 42)),
        ("V24", "unreachable", (6, 38)),
    ],
)
def test_nobody_wants_it(
    world: World, name: str, counter: str, error: tuple[int, int] | None
) -> None:
    """Unexpected replies are dropped, requests that we would have to forward refused."""
    world.speaker.attach(None, Station())
    sent = world.receive(octets(name))
    assert world.dropped() == {counter: 1}
    errors = [decode_payload(data)[1] for data in sent]
    assert [(each.code, each.offset) for each in errors] == (  # type: ignore[attr-defined]
        [] if error is None else [error]
    )


@pytest.mark.parametrize(("code", "label"), [(15, "15"), (99, "other")])
def test_received_errors_are_counted_by_code(world: World, code: int, label: str) -> None:
    """Numbers that mean nothing are counted together."""
    world.speaker.attach(None, Station())
    indication = decode_payload(octets("V11"))[1]
    assert isinstance(indication, ErrorIndication)
    indication.code = code
    world.receive(indication.encode())
    assert world.metrics.value("errors_received", code=label) == 1


# --- authentication ---------------------------------------------------------------------------


def test_replies_carry_our_secret() -> None:
    """In the place where the request had it."""
    world = World(secret=SECRET)
    world.serve(None, HUB_IP)
    reply = world.answer(octets("V05"))
    request = decode_payload(octets("V05"))[1]
    assert [type(each) for each in reply.extensions] == [type(each) for each in request.extensions]
    assert reply.extension(Authentication) == Authentication(1, SECRET)


def test_a_secret_is_never_given_back_by_who_has_none(hub: World) -> None:
    """Without authentication of our own, the request's is taken out of the reply."""
    reply = hub.answer(octets("V05"))
    assert reply.extension(Authentication) is None
    request = decode_payload(octets("V05"))[1]
    assert len(reply.extensions) == len(request.extensions) - 1


def test_strangers_make_no_vpn() -> None:
    """Who does not know the secret cannot have a VPN made."""
    world = World(secret=SECRET)
    indication = world.answer(octets("P01"))
    assert isinstance(indication, ErrorIndication) and indication.code == 11
    assert world.asked == []


def test_errors_need_no_secret() -> None:
    """They cannot carry one; the request inside is proof enough."""
    world = World(secret=SECRET)
    station = Station(PacketType.ERROR_INDICATION)
    world.speaker.attach(None, station)
    assert world.receive(octets("V11")) == []
    assert len(station.received) == 1


def test_errors_with_a_wrong_secret() -> None:
    """What older daemons add to them must be right if it is there; a wrong one is not answered."""
    world = World(secret=SECRET)
    station = Station(PacketType.ERROR_INDICATION)
    world.speaker.attach(None, station)
    indication = decode_payload(octets("V11"))[1]
    for secret, heard in ((SECRET, 1), (b"guess", 1)):
        indication.extensions = (Authentication(1, secret),)
        assert world.receive(indication.encode()) == []
        assert len(station.received) == heard
    assert world.dropped() == {"authentication_failure": 1}


# --- limits and faults --------------------------------------------------------------------------


def test_errors_are_limited(world: World) -> None:
    """A flood of bad packets gets ten answers."""
    world.serve(None)
    assert sum(len(world.receive(octets("M12"))) for _ in range(50)) == 10
    assert world.dropped() == {"duplicate_extension": 50, "error_suppressed": 40}
    assert world.metrics.value("errors_sent", code="9") == 10


def test_errors_about_ip_addresses_by_a_hub_of_macs(world: World) -> None:
    """The source address is empty when we have none of that type, or nothing at all."""
    indication = world.answer(octets("M12"))
    assert indication.source_protocol == b""
    world.serve(None)
    indication = world.answer(octets("M12"))
    assert indication.source_protocol == b""
    assert (indication.source_nbma, indication.destination_protocol) == (HUB, CLIENT_IP)


def test_without_knowing_our_own_address(world: World) -> None:
    """The kernel will choose it."""
    world.serve(None)
    indication = world.answer(octets("M12"), Path(SITE_A))
    assert indication.source_nbma == bytes(4)


def test_too_large_to_send(world: World) -> None:
    """More than 1400 octets are not sent."""
    link = world.speaker.link(VPN7)
    packet = decode_payload(octets("V18"))[1]
    packet.cies = (CIE(),) * 120  # type: ignore[attr-defined]
    link.send(packet, TO_B)
    assert world.transport.sent == [] and world.dropped() == {"too_large": 1}


def test_sending(world: World) -> None:
    """What a station sends goes out in its VPN's form."""
    packet = decode_payload(octets("V18"))[1]
    world.speaker.link(VPN7).send(packet, TO_B)
    assert world.transport.sent == [(packet.encode(Form.RFC, VPN7), TO_B)]
    world.speaker.link(None).send(packet, TO_B)
    assert world.transport.sent[1] == (octets("V18"), TO_B)


def test_what_a_station_refuses(world: World) -> None:
    """Its reason is counted, and answered if it says so."""
    station = Station(*PacketType)
    station.raises = NHRPError("because")
    world.speaker.attach(None, station)
    assert world.receive(octets("V18")) == []
    station.raises = NHRPError("because", code=7, offset=3)
    indication = world.answer(octets("V18"))
    assert isinstance(indication, ErrorIndication) and indication.offset == 3
    assert world.dropped() == {"because": 2}


def test_a_fault_of_ours_ends_nothing(world: World, logged_failures: list[Any]) -> None:
    """It is logged, once a minute per peer, and the next packet is taken."""
    station = Station(*PacketType)
    station.raises = ZeroDivisionError()
    world.speaker.attach(None, station)
    for _ in range(3):
        assert world.receive(octets("V18")) == []
    assert world.dropped() == {"internal_error": 3}
    assert len(logged_failures) == 1
    logged_failures.clear()


@given(st.lists(st.tuples(st.sampled_from(NHRP), st.sampled_from([TO_A, TO_B])), max_size=8))
def test_packets_at_once(arrivals: list[tuple[Vector, Path]]) -> None:
    """Packets that arrive together are answered like one after the other, in their order."""
    together, apart = World(), World()
    for each in (together, apart):
        each.serve(None, HUB_MAC)
        each.serve(VPN7)
    datagrams = [(vector.octets, path) for vector, path in arrivals]
    together.speaker.datagrams_received(datagrams)
    for datagram in datagrams:
        apart.speaker.datagrams_received((datagram,))
    assert together.transport.sent == apart.transport.sent
    assert together.dropped() == apart.dropped()


def test_more_answers_than_wait(hub: World) -> None:
    """What is to be sent does not pile up until all arrivals are handed on."""
    many = 2 * MOST_GATHERED + 5
    hub.speaker.datagrams_received([(octets("V08"), TO_A)] * many)
    assert len(hub.transport.sent) == many


def test_stopped_by_a_packet(world: World) -> None:
    """What arrived with it is not for anybody any more."""

    class Last(Station):
        def packet_received(self, packet: Packet, path: Path) -> bool:
            world.speaker.stop()
            return super().packet_received(packet, path)

    station = Last(*PacketType)
    world.speaker.attach(None, station)
    world.speaker.datagrams_received([(octets("V18"), TO_A)] * 3)
    assert len(station.received) == 1


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(NHRP),
    st.integers(0, 200),
    st.binary(min_size=1, max_size=3),
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from([None, VPN7]),
    st.data(),
)
def test_nothing_that_arrives_raises(
    vector: Vector, at: int, change: bytes, daemon: str, implied: VPNID | None, data: st.DataObject
) -> None:
    """Damaged packets and noise are dropped, whatever they are and whoever they are from."""
    world = World()
    world.speaker.peers.claim("test", {SITE_A: peer_of(daemon, implied)})
    world.serve(None)
    world.serve(VPN7)
    damaged = vector.octets[:at] + change + vector.octets[at + len(change) :]
    for payload in (damaged, vector.octets[:at], data.draw(st.binary(max_size=100))):
        world.receive(payload)
    assert "internal_error" not in world.dropped()


def test_life(world: World) -> None:
    """Starting and stopping is the transport's business."""
    assert world.transport.receiver is world.speaker
    fired: list[object] = []
    world.speaker.stop().addCallback(fired.append)
    assert world.transport.calls == ["start", "stop"] and len(fired) == 1


def test_every_station_hears_of_an_interruption(world: World) -> None:
    """What peers may have forgotten is renewed in every VPN."""
    stations = [Station(PacketType.PURGE_REQUEST) for _ in range(3)]
    for vpn_id, station in zip((None, VPN7, VPN7), stations, strict=True):
        world.speaker.attach(vpn_id, station)
    world.speaker.resumed()
    assert [station.resumptions for station in stations] == [1, 1, 1]
