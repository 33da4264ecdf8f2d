"""The numbers of the protocol are what other daemons have."""

from __future__ import annotations

from dmevpn.nhrp.constants import (
    NBMA_LENGTHS,
    PROTOCOL_LENGTHS,
    CIECode,
    ErrorCode,
    ExtensionType,
    PacketType,
    RegistrationFlag,
    ResolutionFlag,
)


def test_packet_types() -> None:
    """A packet means the same to us and to a neighbour."""
    assert [each.value for each in PacketType] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_codes() -> None:
    """Refusals and errors carry the numbers of RFC 2332 and RFC 2735, not OpenNHRP's."""
    assert (CIECode.NO_BINDING, CIECode.ALREADY_REGISTERED) == (12, 14)
    assert (ErrorCode.LOOP_DETECTED, ErrorCode.HOP_COUNT_EXCEEDED) == (3, 15)
    assert (ErrorCode.VPN_MISMATCH, ErrorCode.VPN_UNSUPPORTED) == (16, 17)


def test_type_nine_has_two_names() -> None:
    """Cisco and RFC 2735 use the same extension number."""
    assert len({ExtensionType.NAT_ADDRESS, ExtensionType.DEVICE_CAPABILITIES}) == 1


def test_flags_are_tested_without_making_objects() -> None:
    """Looking at a flag of a packet gives a plain number."""
    assert type(0x8002 & RegistrationFlag.U) is int
    assert sum(ResolutionFlag) == 0xF802


def test_address_lengths() -> None:
    """IPv4 and IPv6 underlays carry IPv4, IPv6 and MAC addresses."""
    assert NBMA_LENGTHS == {1: 4, 2: 16}
    assert PROTOCOL_LENGTHS == {0x0800: 4, 0x86DD: 16, 0x8100: 6, 0x6558: 6}
