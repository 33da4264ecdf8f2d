"""Captures of real daemons: all of them is read, and a server of ours answers their requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, Path, parse_ip, parse_mac
from dmevpn.nhrp.cache import Cache, Kind
from dmevpn.nhrp.constants import CIECode, ErrorCode, PacketType
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    Request,
    RequestOrReply,
    ResolutionReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.nhrp.peers import ours
from dmevpn.nhrp.requests import Outstanding, RequestIDs
from dmevpn.nhrp.resolution import ResolutionClient
from tests.captures import CAPTURES, Datagram, read
from tests.nhrp.neighbours import IDStore, no_jitter
from tests.nhrp.speaking import World

HUB = parse_ip("10.99.0.10")
HUB_IP = parse_ip("10.255.255.1")
HUB_MAC = parse_mac("02:00:00:00:00:01")
VPN1, VPN2 = VPNID(DEFAULT_OUI, 1), VPNID(DEFAULT_OUI, 2)


def mac(number: int) -> bytes:
    """A station behind s1 (0x11), s2 (0x12) or s3 (0x13)."""
    return bytes([2, 0, 0, 0, 0, number])


#: Where the sites of the original daemon are.
SITES = {
    mac(0x11): VTEP(parse_ip("10.99.0.11"), 100),
    mac(0x12): VTEP(parse_ip("10.99.0.12"), 101),
    mac(0x13): VTEP(parse_ip("10.99.0.13"), 777),
}


@pytest.mark.parametrize("name", list(CAPTURES))
def test_read(name: str) -> None:
    """Every packet is understood, and what was read is what would be written."""
    count = 0
    for datagram in read(name):
        encapsulation, packet = decode_payload(datagram.payload)
        written = packet.encode(encapsulation.form, encapsulation.vpn_id)
        if isinstance(packet, ErrorIndication):
            # OpenNHRP counts sixteen octets behind End.
            assert len(written) == len(datagram.payload) - 16
            assert decode_payload(written)[1] == packet
        else:
            assert written == datagram.payload
        count += 1
    assert count == CAPTURES[name]


def requests(name: str) -> Iterator[tuple[Datagram, Encapsulation, Request]]:
    """What the hub of a capture was asked by the stations themselves."""
    for datagram in read(name):
        encapsulation, packet = decode_payload(datagram.payload)
        if datagram.destination == HUB and isinstance(packet, Request):
            yield datagram, encapsulation, packet


class Hub(World):
    """A hub of ours in the place of the one that was recorded."""

    def ask(self, datagram: Datagram) -> tuple[Encapsulation, Packet]:
        """Its answer to a packet."""
        self.clock.advance(max(0.0, datagram.time - self.clock.seconds()))
        path = Path(datagram.source, HUB, datagram.key)
        (data,) = self.receive(datagram.payload, path)
        assert self.transport.sent[0][1] == path
        return decode_payload(data)


# --- the original daemon ------------------------------------------------------------------------


def test_the_original_daemons_spokes() -> None:
    """They are answered as by their own hub, but for its leak between VPNs and its silence."""
    hub = Hub()
    hub.macs = dict(list(SITES.items())[:2])
    hub.serve(VPN1)
    hub.macs = dict(list(SITES.items())[2:])
    hub.serve(VPN2)
    recorded = {}
    for datagram in read("dmevpn-c"):
        packet = decode_payload(datagram.payload)[1]
        if datagram.source == HUB and isinstance(packet, RequestOrReply):
            recorded[datagram.destination, packet.request_id] = packet
    kinds = set()
    for datagram, encapsulation, request in requests("dmevpn-c"):
        form, reply = hub.ask(datagram)
        assert (form.form, form.vpn_id) == (Form.LEGACY_LITTLE, encapsulation.vpn_id)
        assert isinstance(reply, RequestOrReply)
        assert reply.request_id == request.request_id
        kinds.add(type(reply))
        theirs = recorded.get((datagram.source, request.request_id))
        if isinstance(request, PurgeRequest):
            # One without CIEs is not answered there, so their client repeats it for ever.
            assert theirs is None and isinstance(reply, PurgeReply)
            continue
        assert theirs is not None and type(theirs) is type(reply)
        (cie,), (their_cie,) = reply.cies, theirs.cies
        if request.destination_protocol == mac(0x13):
            # A station of VPN 2: it was told, without a VNI.
            assert their_cie.nbma and cie.code == CIECode.NO_BINDING
            continue
        assert reply.source_subaddress == theirs.source_subaddress
        assert (cie.code, cie.nbma, cie.subaddress, cie.protocol) == (
            their_cie.code,
            their_cie.nbma,
            their_cie.subaddress,
            their_cie.protocol,
        )
        assert [each.type for each in reply.extensions] == [each.type for each in theirs.extensions]
    assert kinds == {RegistrationReply, PurgeReply, ResolutionReply}
    assert hub.dropped() == {}


def test_the_original_daemons_answers() -> None:
    """A client of ours in the place of s1 learns from its hub's reply what s1 learnt."""
    world = World()
    (answer,) = [
        datagram
        for datagram in read("dmevpn-c")
        if datagram.destination == SITES[mac(0x11)].nbma
        and decode_payload(datagram.payload)[1].packet_type is PacketType.RESOLUTION_REPLY
    ]
    reply = decode_payload(answer.payload)[1]
    assert isinstance(reply, ResolutionReply)
    cache = Cache(world.clock, world.metrics)
    ids = RequestIDs(IDStore(reply.request_id))
    outstanding = Outstanding(world.clock, no_jitter, ids, world.metrics)
    to_hub = Path(HUB, SITES[mac(0x11)].nbma)
    client = ResolutionClient(
        clock=world.clock,
        jitter=no_jitter,
        cache=cache,
        outstanding=outstanding,
        link=world.speaker.link(VPN1),
        station=reply.source_protocol,
        vni=SITES[mac(0x11)].vni,
        mtu=1450,
        metrics=world.metrics,
        servers=lambda protocol: to_hub,
        on_renewal_due=lambda mac: None,
    )
    client.resolve(mac(0x12))
    canonical = ours(Form.LEGACY_LITTLE).read(reply, Form.LEGACY_LITTLE)
    assert outstanding.reply_received(canonical, to_hub)
    binding = cache.lookup(mac(0x12))
    assert binding is not None
    assert (binding.kind, binding.vtep) == (Kind.CACHED, SITES[mac(0x12)])


# --- OpenNHRP and FRR ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "secret"),
    [("frr844-basic", None), ("opennhrp-basic", None), ("opennhrp-auth-key", b"secret")],
)
def test_spokes_of_opennhrp_and_frr(name: str, secret: bytes | None) -> None:
    """They register, purge, and find each other; who has a wrong secret is told so."""
    hub = Hub(secret=secret)
    cache = hub.serve(None, HUB_IP, mtu=1400)
    registered: dict[bytes, bytes] = {}
    refused = 0
    for datagram, _, request in requests(name):
        # What a hub forwards came from elsewhere first.
        if request.source_nbma != datagram.source:
            continue
        encapsulation, reply = hub.ask(datagram)
        assert encapsulation.form is Form.PLAIN
        if isinstance(reply, ErrorIndication):
            assert datagram.source == parse_ip("10.99.0.12") and secret is not None
            assert reply.code == ErrorCode.AUTHENTICATION_FAILURE
            refused += 1
            continue
        assert isinstance(reply, RequestOrReply)
        assert (reply.request_id, reply.source_protocol) == (
            request.request_id,
            request.source_protocol,
        )
        assert [each.type for each in reply.extensions] == [
            each.type for each in request.extensions
        ]
        if isinstance(request, RegistrationRequest):
            registered[request.source_protocol] = request.source_nbma
            assert [(cie.code, cie.holding_time) for cie in reply.cies] == [(0, 30)]
            binding = cache.lookup(request.source_protocol)
            assert binding is not None and binding.vtep == VTEP(datagram.source, None)
        elif isinstance(request, ResolutionRequest):
            (cie,) = reply.cies
            known = registered.get(request.destination_protocol)
            if known is None:
                assert cie.code == CIECode.NO_BINDING
            else:
                assert (cie.code, cie.nbma, cie.prefix_length) == (0, known, 32)
                assert 0 < cie.holding_time <= 30
        else:
            assert isinstance(reply, PurgeReply) and reply.cies == request.cies
    assert set(hub.dropped()) == ({"authentication_failure"} if refused else set())
    assert len(registered) == (1 if secret else 2) and bool(refused) is (secret is not None)
