"""Extensions."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.extensions import (
    END,
    Authentication,
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
    VendorPrivate,
    decode_extensions,
)
from dmevpn.nhrp.records import CIE
from tests.strategies import extension_lists

SERVER = CIE(mtu=1400, holding_time=7200, nbma=bytes([192, 0, 2, 1]), protocol=bytes([10, 0, 0, 1]))


def decode(*extensions: bytes, end: bytes = END) -> tuple[Extension, ...]:
    """The extensions of an IPv4 packet with these octets."""
    return decode_extensions(b"".join(extensions) + end, 0, 4)


def octets(number: int, value: bytes) -> bytes:
    """An extension, its first number as it is."""
    return pack("!HH", number, len(value)) + value


@given(st.data(), st.binary(max_size=30), st.binary(max_size=30))
def test_round_trip(data: st.DataObject, before: bytes, after: bytes) -> None:
    """Extensions come back in their order; octets behind End do not matter."""
    nbma_length = data.draw(st.sampled_from([4, 16]))
    extensions = data.draw(extension_lists(nbma_length))
    part = b"".join([each for each in extensions]) + END
    assert decode_extensions(before + part + after, len(before), nbma_length) == extensions


@pytest.mark.parametrize(
    ("extension", "number", "compulsory"),
    [
        (ResponderAddress(), 3, True),
        (ForwardTransitRecord(), 4, True),
        (ReverseTransitRecord(), 5, True),
        (Authentication(1, b"secret"), 7, True),
        (VendorPrivate(b"\0\0\x0c", b"data"), 8, False),
        (NATAddress(), 9, False),
        (DeviceCapabilities(1, 0), 9, False),
        (Unknown(0x3801, True, b"data"), 0x3801, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Extension) else "",
)
def test_header(extension: Extension, number: int, compulsory: bool) -> None:
    """A responder sees whether it must know an extension."""
    assert (extension.type, extension.compulsory) == (number, compulsory)
    assert bytes(extension) == octets(number | compulsory << 15, extension.value)
    assert decode(bytes(extension)) == (extension,)


def test_values() -> None:
    """The parts of an extension are found again."""
    responder, authentication, vendor, capabilities = decode(
        ResponderAddress([SERVER]),
        Authentication(1, b"secret"),
        VendorPrivate(b"\0\0\x0c", b"data"),
        DeviceCapabilities(1, 0x80000001),
    )
    assert isinstance(responder, ResponderAddress)
    assert responder.cies == (SERVER,)
    assert isinstance(authentication, Authentication)
    assert (authentication.spi, authentication.data) == (1, b"secret")
    assert isinstance(vendor, VendorPrivate)
    assert (vendor.oui, vendor.data) == (b"\0\0\x0c", b"data")
    assert isinstance(capabilities, DeviceCapabilities)
    assert (capabilities.source, capabilities.target) == (1, 0x80000001)


@pytest.mark.parametrize("number", [0x0003, 0x4004, 0xC005, 0x0007, 0xC008, 0xC009, 0xC00A, 0x7801])
def test_header_bits_are_kept(number: int) -> None:
    """A transit server passes on the compulsory bit and the unused one as they came."""
    (extension,) = decode(octets(number, b""))
    assert bytes(extension) == octets(number, b"")
    assert extension.type == number & 0x3FFF
    assert extension.compulsory is (number >= 0x8000)


@pytest.mark.parametrize("end", ["80000000", "00000000", "c0000000", "80000004", "8000ffff"])
def test_end(end: str) -> None:
    """End is End by its type, whatever its other bits and its length say."""
    assert decode(octets(0x3801, b"data"), end=bytes.fromhex(end)) == (
        Unknown(0x3801, False, b"data"),
    )


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, NATAddress), (4, Unknown), (8, DeviceCapabilities), (6, Unknown), (11, Unknown)],
)
def test_type_9_by_length(length: int, expected: type[Extension]) -> None:
    """The three meanings of type 9 are told apart, and what is none of them is no error."""
    (extension,) = decode(octets(9, bytes(length)))
    assert type(extension) is expected
    assert extension.value == bytes(length)


def test_type_9_as_cies() -> None:
    """Cisco's NAT Address has a list of CIEs; what only looks like one is unknown."""
    (extension,) = decode(octets(9, SERVER.encode() * 2))
    assert extension == NATAddress([SERVER, SERVER])
    assert isinstance(extension, NATAddress)
    assert extension.cies == (SERVER, SERVER)
    (extension,) = decode(octets(9, SERVER.encode() + b"x"))
    assert type(extension) is Unknown


def test_each_meaning_of_type_9_once() -> None:
    """The meanings of type 9 may stand side by side, but none of them twice."""
    four = [octets(9, bytes(length)) for length in (0, 4, 6, 8)]
    assert len(decode(*four)) == 4
    for again in four:
        with pytest.raises(MalformedPacket) as caught:
            decode(*four, again)
        assert (caught.value.counter, caught.value.code) == ("duplicate_extension", 9)
        assert caught.value.offset == sum([len(each) for each in four])


@pytest.mark.parametrize("number", [3, 4, 5, 7, 10, 0x3801])
def test_duplicate(number: int) -> None:
    """A type that occurs twice is reported at its second header, whatever the values are."""
    first, second = octets(number | 0x8000, b""), octets(number, b"" if number < 6 else b"data")
    with pytest.raises(MalformedPacket) as caught:
        decode(first, Unknown(77, False, b""), second)
    error = caught.value
    assert (error.counter, error.code, error.offset) == ("duplicate_extension", 9, 8)


def test_vendor_private_several_times() -> None:
    """Vendors may say more than one thing, even the same thing twice."""
    vendor = VendorPrivate(b"\0\0\x0c", b"data")
    assert decode(vendor, vendor) == (vendor, vendor)


@pytest.mark.parametrize(
    ("part", "counter", "offset"),
    [
        ("", "missing_end_extension", 0),
        ("800000", "missing_end_extension", 0),
        ("80030000", "missing_end_extension", 4),
        ("8003000080", "missing_end_extension", 4),
        ("8003000180000000", "bad_cie", 4),
        ("80030000800700058000", "bad_extension_length", 6),
        ("8004000c0000000000000000010000008000", "bad_cie", 4),
    ],
)
def test_malformed(part: str, counter: str, offset: int) -> None:
    """What is wrong is reported with its place."""
    with pytest.raises(MalformedPacket) as caught:
        decode(bytes.fromhex(part), end=b"")
    error = caught.value
    assert (error.counter, error.code, error.offset) == (counter, 7, offset)


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\0\0", b"\0\0\0\1"])
def test_short_authentication(value: bytes) -> None:
    """Authentication too short for its fields has an index that nobody uses, and no data."""
    (extension,) = decode(octets(0x8007, value))
    assert isinstance(extension, Authentication)
    assert extension.spi == int(len(value) == 4)
    assert extension.data == b""


def test_secrets_stay_out_of_logs() -> None:
    """Who prints a packet does not print the secret in it."""
    text = repr(Authentication(1, b"secret"))
    assert "secret" not in text
    assert b"secret".hex() not in text
    assert VendorPrivate(b"\0\0\x0c", b"data").hex() in repr(VendorPrivate(b"\0\0\x0c", b"data"))


def test_equality() -> None:
    """Extensions are equal by their octets."""
    assert ResponderAddress([SERVER]) == ResponderAddress([SERVER])
    assert hash(ResponderAddress([SERVER])) == hash(ResponderAddress([SERVER]))
    assert ResponderAddress() != ForwardTransitRecord()


@pytest.mark.parametrize("number", [-1, 0, 0x4000])
def test_impossible_type(number: int) -> None:
    """We make no extension whose type would not fit or would mean End."""
    with pytest.raises(ValueError, match="no extension type"):
        Unknown(number, False, b"")


def test_too_long() -> None:
    """We make no extension longer than its length field can say."""
    with pytest.raises(ValueError, match="65535"):
        Unknown(77, False, bytes(65536))
