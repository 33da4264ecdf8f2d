"""The Internet checksum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.nhrp.wire import checksum, checksum_holds, left_padded_checksum_holds


def words(octets: bytes) -> int:
    """The checksum word by word, as RFC 1071 tells it."""
    if len(octets) % 2:
        octets += b"\0"
    total = 0
    for at in range(0, len(octets), 2):
        total += octets[at] << 8 | octets[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(min_size=1, max_size=200).filter(any))
def test_checksum_is_that_of_rfc_1071(octets: bytes) -> None:
    """A neighbour that adds up words comes to our number."""
    assert checksum(octets) == words(octets)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 0x220D),
        (b"\xff\xff", 0),
        (b"\xff\xfe\x00\x01", 0),
        (b"\x01", 0xFEFF),
    ],
    ids=["example of RFC 1071", "all ones", "sum is all ones", "odd"],
)
def test_known_checksums(octets: bytes, expected: int) -> None:
    """Sums that come to all ones, and an octet without a partner, are no exception."""
    assert checksum(octets) == expected


@given(st.binary(min_size=2, max_size=101).filter(any))
def test_a_packet_with_its_checksum_adds_up(octets: bytes) -> None:
    """What we send passes the check, and does not any more after a change of one octet."""
    # The first two octets are the place of the checksum, wherever it is in a packet.
    octets = b"\0\0" + octets
    octets = checksum(octets).to_bytes(2, "big") + octets[2:]
    assert checksum_holds(octets)
    spoilt = octets[:-1] + bytes([octets[-1] ^ 1])
    assert not checksum_holds(spoilt)


@given(st.binary(min_size=2, max_size=100).filter(any))
def test_left_padding(octets: bytes) -> None:
    """An odd packet of an older daemon adds up by its reading; even ones by both."""
    octets = b"\0\0" + octets
    padded = octets[:-1] + b"\0" + octets[-1:] if len(octets) % 2 else octets
    octets = checksum(padded).to_bytes(2, "big") + octets[2:]
    assert left_padded_checksum_holds(octets)
    if len(octets) % 2 == 0:
        assert checksum_holds(octets)
    elif octets[-1]:
        assert not checksum_holds(octets)
