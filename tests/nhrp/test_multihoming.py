"""A station that is registered with several servers tells each of the others."""

from __future__ import annotations

import pytest

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.nhrp.constants import ProtocolType
from dmevpn.nhrp.extensions import Extension, ResponderAddress, VendorPrivate
from dmevpn.nhrp.multihoming import apart, other_servers
from dmevpn.nhrp.packet import RegistrationRequest, decode_payload
from dmevpn.nhrp.records import CIE

ONE, TWO = b"\x0a\0\0\1", b"\x0a\0\0\2"
SIX = bytes.fromhex("20010db8000000000000000000000001")


def request(*extensions: Extension) -> RegistrationRequest:
    """A registration as it arrives."""
    sent = RegistrationRequest(
        source_nbma=b"\x0a\0\0\x09",
        source_protocol=b"\x02\0\0\0\0\1",
        destination_protocol=b"\x02\0\0\0\0\1",
        protocol_type=ProtocolType.MAC,
        request_id=1,
        cies=(CIE(),),
        extensions=(ResponderAddress(), *extensions),
    )
    packet = decode_payload(sent.encode())[1]
    assert isinstance(packet, RegistrationRequest)
    return packet


def test_on_the_wire() -> None:
    """Type 8, not compulsory: whoever does not know it passes it over."""
    assert bytes(other_servers((ONE, TWO), leave=False)).hex() == (
        "0008000e0200000300040a0000010a000002"
    )


@pytest.mark.parametrize(
    ("addresses", "leave", "expected"),
    [
        ((ONE,), False, frozenset([ONE])),
        ((ONE, TWO), False, frozenset([ONE, TWO])),
        ((SIX,), False, frozenset([SIX])),
        ((ONE,), True, None),
    ],
)
def test_read_again(
    addresses: tuple[bytes, ...], leave: bool, expected: frozenset[bytes] | None
) -> None:
    """What is written is read, behind other extensions of the same kind, too."""
    proof = VendorPrivate(DEFAULT_OUI, b"\1" + bytes(31))
    foreign = VendorPrivate(b"\x00\x00\x0c", b"\3\0\4" + ONE)
    extension = other_servers(addresses, leave=leave)
    assert apart(request(extension)) == expected
    assert apart(request(proof, foreign, extension)) == expected


@pytest.mark.parametrize(
    "data", [b"", b"\3", b"\3\0", b"\3\1", b"\3\0\0", b"\3\0\4abc", b"\3\0\5abcde", b"\4\0\4" + ONE]
)
def test_what_makes_no_sense_says_nothing(data: bytes) -> None:
    """A station that is not understood gets all floods."""
    assert apart(request(VendorPrivate(DEFAULT_OUI, data))) == frozenset()


def test_nothing_said() -> None:
    """As of a station with one server."""
    assert apart(request()) == frozenset()


def test_a_long_list_is_cut() -> None:
    """What a peer can make us keep is bounded."""
    many = tuple(bytes([10, 0, 1, number]) for number in range(40))
    found = apart(request(VendorPrivate(DEFAULT_OUI, b"\3\0\4" + b"".join(many))))
    assert found == frozenset(many[:16])
