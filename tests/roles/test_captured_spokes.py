"""A whole node of ours in the place of a recorded hub, asked by the recorded spokes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from zope.interface import implementer

from dmevpn.addresses import VTEP, Path, format_address, parse_ip
from dmevpn.interfaces import IDatagramReceiver
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    RegistrationReply,
    RegistrationRequest,
    Request,
    ResolutionReply,
    ResolutionRequest,
    decode_payload,
)
from dmevpn.transport.memory import MemoryTransport
from tests.captures import read
from tests.layer3 import Layer3World

HUB, HUB_IP = "10.99.0.10", "10.255.255.1"
SPOKES = ("10.99.0.11", "10.99.0.12")


@implementer(IDatagramReceiver)
class Spoke:
    """A recorded spoke: what it sent is sent again, what it gets is kept."""

    def __init__(self, world: Layer3World, address: str, key: int | None) -> None:
        self.received: list[Packet] = []
        self.transport = MemoryTransport(world.network, Metrics(), [parse_ip(address)], key)
        self.transport.start(self)

    def datagrams_received(self, datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """Keep what comes back."""
        self.received += [decode_payload(data)[1] for data, _ in datagrams]


@pytest.mark.parametrize(
    ("name", "key", "secret"),
    [
        ("frr844-basic", None, None),
        ("opennhrp-basic", None, None),
        ("opennhrp-auth-key", 1234, "secret"),
    ],
)
def test_recorded_spokes(name: str, key: int | None, secret: str | None) -> None:
    """They are registered, purge what they had, and find each other; of what is behind them nothing
    is known, and who has a wrong secret gets the error that their own hub sends."""
    world = Layer3World()
    words = f"transport raw protocol-address {HUB_IP}/24"
    words += f" gre-key {key}" if key else ""
    words += f" cisco-authentication {secret}" if secret else ""
    hub = world.add(HUB, words)
    spokes = {parse_ip(each): Spoke(world, each, key) for each in SPOKES}
    counts: dict[type[Packet], int] = {}
    unknown = 0
    for datagram in read(name):
        spoke = spokes.get(datagram.source)
        request = decode_payload(datagram.payload)[1]
        if spoke is None or not isinstance(request, Request):
            continue
        world.run(max(0.0, datagram.time - world.clock.seconds()))
        spoke.received.clear()
        spoke.transport.send(datagram.payload, Path(parse_ip(HUB), datagram.source))
        world.run(0.1)
        (answer,) = spoke.received
        counts[type(answer)] = counts.get(type(answer), 0) + 1
        if isinstance(answer, ErrorIndication):
            wrong = isinstance(request, RegistrationRequest)
            expected = ErrorCode.AUTHENTICATION_FAILURE if wrong else ErrorCode.UNREACHABLE
            assert answer.code == expected
        elif isinstance(answer, RegistrationReply):
            assert [(cie.code, cie.holding_time) for cie in answer.cies] == [(0, 30)]
            known = hub.known(format_address(request.source_protocol))
            assert known is not None and known.vtep == VTEP(datagram.source, None)
        elif isinstance(answer, ResolutionReply):
            assert isinstance(request, ResolutionRequest)
            known = hub.known(format_address(request.destination_protocol))
            if known is None:
                unknown += 1
                assert [cie.code for cie in answer.cies] == [CIECode.NO_BINDING]
                continue
            assert known.vtep is not None
            assert [(cie.code, cie.nbma) for cie in answer.cies] == [(0, known.vtep.nbma)]
        else:
            assert isinstance(answer, PurgeReply)
    assert counts[RegistrationReply] > 1
    assert (PurgeReply in counts) is name.startswith("opennhrp")
    assert (counts.get(ResolutionReply, 0) > unknown) is (secret is None)
    assert unknown
    assert (ErrorIndication in counts) is (secret is not None)
