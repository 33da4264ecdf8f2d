"""Authentication by a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from zope.interface.verify import verifyObject

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.errors import AuthenticationFailure, MalformedPacket
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.encapsulation import Encapsulation, Form, decapsulate
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    Extension,
    NATAddress,
    ResponderAddress,
)
from dmevpn.nhrp.keyed import EitherAuthentication, Key, KeyedAuthentication
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    ResolutionReply,
    ResolutionRequest,
    TrafficIndication,
    decode,
)
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.wire import checksum
from tests.vectors import VECTORS

PATH = Path(bytes([192, 0, 2, 10]), bytes([192, 0, 2, 1]))
STATION = bytes([10, 0, 0, 10])
VECTOR_KEY = Key(256, "hmac-md5", b"dmevpn-test-key!")
KEY = Key(2, "hmac-sha-256", b"a key of thirty-two octets, or so")
KEYED = KeyedAuthentication(KEY, [VECTOR_KEY])
VPN = VPNID(DEFAULT_OUI, 7)
PLAIN = Encapsulation(Form.PLAIN, None, 0)

_ADDRESSES = {
    "source_nbma": bytes([192, 0, 2, 10]),
    "source_protocol": STATION,
    "destination_protocol": bytes([10, 0, 0, 1]),
    "protocol_type": 0x0800,
}
REQUEST = RegistrationRequest(
    **_ADDRESSES, cies=(CIE(prefix_length=255, holding_time=600),), request_id=20
)
PACKETS = [
    ResolutionRequest(**_ADDRESSES),
    ResolutionReply(**_ADDRESSES, cies=(CIE(nbma=bytes(4)),)),
    REQUEST,
    RegistrationReply(**_ADDRESSES),
    PurgeRequest(**_ADDRESSES, cies=(CIE(protocol=STATION),)),
    PurgeReply(**_ADDRESSES),
    TrafficIndication(**_ADDRESSES, contents=b"odd length"),
]


def sign(packet: Packet, by: IAuthenticator = KEYED) -> bytes:
    """A packet in plain form, signed by our station."""
    data: bytes = by.sign(packet, Form.PLAIN, None, PATH, STATION)
    return data


def verify(octets: bytes, by: IAuthenticator = KEYED) -> None:
    """Verify a packet that came in any form."""
    encapsulation = decapsulate(octets, DEFAULT_OUI)
    by.verify(decode(octets, encapsulation), encapsulation, PATH)


def test_interface() -> None:
    """It is an authenticator like any other."""
    assert verifyObject(IAuthenticator, KEYED)


def test_vector() -> None:
    """The vector of the protocol is accepted, and made again octet for octet."""
    octets = VECTORS["V23"].octets
    verify(octets)
    again = sign(decode(octets), KeyedAuthentication(VECTOR_KEY))
    assert again == octets


@pytest.mark.parametrize("algorithm", ["hmac-sha-256", "hmac-md5"])
@pytest.mark.parametrize("length", [16, 64, 65, 128])
def test_hmac(algorithm: str, length: int) -> None:
    """The hash is what the standard library computes."""
    secret, octets = bytes(range(length)), b"any octets"
    name = {"hmac-sha-256": hashlib.sha256, "hmac-md5": hashlib.md5}[algorithm]
    assert Key(2, algorithm, secret).hash(octets) == hmac.new(secret, octets, name).digest()


@pytest.mark.parametrize(
    ("spi", "algorithm", "secret"),
    [
        (1, "hmac-md5", b"x"),
        (0x10000, "hmac-md5", b"x"),
        (2, "hmac-sha1", b"x"),
        (2, "hmac-md5", b""),
    ],
)
def test_no_keys(spi: int, algorithm: str, secret: bytes) -> None:
    """Index 1 is the cleartext secret's, and everything else has its range, too."""
    with pytest.raises(ValueError, match="no key"):
        Key(spi, algorithm, secret)


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: type(packet).__name__)
@pytest.mark.parametrize("form", Form)
def test_every_type_in_every_form(packet: Packet, form: Form) -> None:
    """What we sign is read by others with the key, with the packet as it was."""
    data = KEYED.sign(packet, form, VPN, PATH, STATION)
    verify(data)
    read = decode(data, decapsulate(data, DEFAULT_OUI))
    extension = read.extension(Authentication)
    assert extension is not None
    assert (extension.spi, extension.data[:4], len(extension.data)) == (2, STATION, 4 + 32)
    assert replace(read, extensions=(), bare_end=packet.bare_end) == packet


def test_every_bit_counts() -> None:
    """Whatever is changed in a packet, it is refused, even if its checksum is mended."""
    octets = sign(replace(REQUEST, extensions=(ResponderAddress(), DeviceCapabilities(1, 0))))
    refused = 0
    for at in range(len(octets)):
        damaged = bytearray(octets)
        damaged[at] ^= 1
        damaged[12:14] = bytes(2)
        damaged[12:14] = checksum(bytes(damaged)).to_bytes(2, "big")
        try:
            packet = decode(bytes(damaged))
        except MalformedPacket:
            continue
        if at in (12, 13):
            KEYED.verify(packet, PLAIN, PATH)
            continue
        with pytest.raises(AuthenticationFailure):
            KEYED.verify(packet, PLAIN, PATH)
        refused += 1
    assert refused > 80, "of all others the decoder has complained"


@pytest.mark.parametrize(
    "extension",
    [
        None,
        Authentication(1, b"secret"),
        Authentication(2, STATION),
        Authentication(2, STATION + bytes(31)),
        Authentication(2, STATION + bytes(32)),
        Authentication(2, STATION + bytes(33)),
        Authentication(256, STATION + bytes(32)),
        Authentication(999, STATION + bytes(32)),
        Authentication.of_octets(bytes.fromhex("80070000")),
    ],
    ids=str,
)
def test_refused(extension: Authentication | None) -> None:
    """Nothing but the whole hash of a key that we have will do, and the answer points at it."""
    extensions: tuple[Extension, ...] = (ResponderAddress(),)
    if extension is not None:
        extensions = (*extensions, extension)
    packet = decode(replace(REQUEST, extensions=extensions).encode())
    with pytest.raises(AuthenticationFailure) as caught:
        KEYED.verify(packet, PLAIN, PATH)
    offset = 0 if extension is None else packet.extensions_offset + 4
    error = caught.value
    assert (error.counter, error.code, error.offset) == (
        "authentication_failure",
        ErrorCode.AUTHENTICATION_FAILURE,
        offset,
    )


def test_place() -> None:
    """The hash keeps the place of what it replaces, and comes before type 9 else."""
    before = (ResponderAddress(), NATAddress())
    first = decode(sign(replace(REQUEST, extensions=before)))
    assert [type(each) for each in first.extensions] == [
        ResponderAddress,
        Authentication,
        NATAddress,
    ]
    moved = replace(first, extensions=first.extensions[::-1])
    assert [type(each) for each in decode(sign(moved)).extensions] == [
        NATAddress,
        Authentication,
        ResponderAddress,
    ]


@pytest.mark.parametrize(
    ("extensions", "left"),
    [
        ((ResponderAddress(),), (ResponderAddress(),)),
        ((ResponderAddress(), NATAddress()), (ResponderAddress(), NATAddress())),
        ((Authentication(1, b"x"), ResponderAddress()), None),
    ],
)
def test_taken_out(extensions: tuple[Extension, ...], left: tuple[Extension, ...] | None) -> None:
    """What was checked concerns nobody else; only in an unusual place it stays to keep that."""
    packet = decode(sign(replace(REQUEST, extensions=extensions)))
    offsets = [packet.extension_offset(each) for each in packet.extensions]
    came = packet.extensions
    KEYED.verify(packet, PLAIN, PATH)
    assert packet.extensions == (came if left is None else left)
    # Errors point at the octets of the packet as it came.
    for extension, offset in zip(came, offsets, strict=True):
        if extension in packet.extensions:
            assert packet.extension_offset(extension) == offset
    again = decode(sign(packet))
    assert [type(each) for each in again.extensions] == [type(each) for each in came]


def test_made_anew_for_the_next_hop() -> None:
    """A server that passes a packet on signs for itself, with its own address and key."""
    came = decode(sign(REQUEST, KeyedAuthentication(VECTOR_KEY)))
    server = bytes([10, 0, 0, 1])
    went = KEYED.sign(replace(came, hop_count=15), Form.RFC, VPN, PATH, server)
    verify(went, KeyedAuthentication(KEY))
    extension = decode(went, decapsulate(went, DEFAULT_OUI)).extension(Authentication)
    assert extension is not None and extension.data[:4] == server


@pytest.mark.parametrize("station", [b"", bytes(6)])
def test_without_an_address_of_that_type(station: bytes) -> None:
    """A station without one names none, and is believed."""
    data = KEYED.sign(REQUEST, Form.PLAIN, None, PATH, station)
    verify(data)
    extension = decode(data).extension(Authentication)
    assert extension is not None and extension.data[:4] == bytes(4)


def test_error_indications_are_not_signed() -> None:
    """RFC 2332 allows no extensions there."""
    error = ErrorIndication(**_ADDRESSES, code=6)
    assert sign(error) == error.encode()


def test_migration() -> None:
    """Between secret and keys both are accepted, and what is sent is as chosen."""
    clear = CiscoAuthentication(b"secret")
    before = EitherAuthentication(clear, KEYED, signs=False)
    after = EitherAuthentication(clear, KEYED, signs=True)
    assert verifyObject(IAuthenticator, before)
    assert sign(REQUEST, before) == sign(REQUEST, clear)
    assert sign(REQUEST, after) == sign(REQUEST)
    for data in (sign(REQUEST), sign(REQUEST, clear)):
        verify(data, before)
        verify(data, after)
    for wrong in (sign(REQUEST, CiscoAuthentication(b"other")), REQUEST.encode()):
        with pytest.raises(AuthenticationFailure):
            verify(wrong, before)
