"""The headers that name a VPN."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.encapsulation import Encapsulation, Form, decapsulate, header
from tests.strategies import encapsulations
from tests.vectors import VECTORS

VPN = bytes.fromhex("aaaa0300005e0008")
NHRP = bytes.fromhex("aaaa0300005e0003")
PACKET = b"\0\1" + bytes(40)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("V01", Encapsulation(Form.PLAIN, None, 0)),
        ("P01", Encapsulation(Form.RFC, VPNID(DEFAULT_OUI, 7), 24)),
        ("P03", Encapsulation(Form.RFC, VPNID(DEFAULT_OUI, 7), 24)),
        ("P04", Encapsulation(Form.PLAIN, None, 8)),
        ("P07", Encapsulation(Form.RFC, VPNID(DEFAULT_OUI, 8), 24)),
        ("L01", Encapsulation(Form.LEGACY_LITTLE, VPNID(DEFAULT_OUI, 7), 32)),
        ("L04", Encapsulation(Form.LEGACY_BIG, VPNID(DEFAULT_OUI, 7), 32)),
        ("M30", Encapsulation(Form.PLAIN, None, 0)),
    ],
)
def test_recognised(name: str, expected: Encapsulation) -> None:
    """Each form is told from the others, and names the right VPN."""
    assert decapsulate(VECTORS[name].octets, DEFAULT_OUI) == expected


@pytest.mark.parametrize(
    ("payload", "counter"),
    [
        (b"\xaa\xaa\x03", "vpn_bad_inner"),
        (b"\xaa\xaa\x03\0\0\x5e\0", "vpn_bad_inner"),
        (b"\xaa\xaa\x03\0\0\0\x08\0" + PACKET, "vpn_bad_inner"),
        (b"\xaa\xaa\x03\0\0\x5e\0\x04" + PACKET, "vpn_bad_inner"),
        (VPN, "vpn_truncated"),
        (VPN + b"\0\2\0\0\0\0\0\7" + NHRP[:-1], "vpn_truncated"),
        (VPN + b"\0\2\0\0\0\0\0\7" + VPN[:-1] + b"\7" + PACKET, "vpn_bad_inner"),
        (VPN + b"\0\0\1\0\0\0\0\7" + VPN + b"\0\0\0\0\0\0\0\1" + PACKET, "vpn_bad_inner"),
        (VPN + b"\0\0\1\1\0\0\0\7" + VPN + bytes(8) + PACKET, "vpn_bad_inner"),
        (VPN + b"\0\1\1\0\0\0\0\7" + VPN + bytes(8) + PACKET, "vpn_bad_inner"),
        (VPN + b"\0\0\1\0\0\0\0\7" + VPN + bytes(7), "vpn_bad_inner"),
        (VPN + b"\0\0\1\0\0\0\0\7" + VPN + bytes(8) + PACKET[:27], "vpn_truncated"),
    ],
    ids=[
        "LLC alone",
        "SNAP cut",
        "another SNAP OUI",
        "another SNAP PID",
        "VPN header cut",
        "inner header cut",
        "another inner protocol",
        "legacy, not zero",
        "legacy, no mark",
        "legacy, first octet of the mark",
        "legacy, inner header cut",
        "legacy, packet cut",
    ],
)
def test_refused(payload: bytes, counter: str) -> None:
    """Headers that are none of the forms are dropped, under a name that says why."""
    with pytest.raises(MalformedPacket) as caught:
        decapsulate(payload, DEFAULT_OUI)
    assert (caught.value.counter, caught.value.code) == (counter, None)


@given(encapsulations())
def test_round_trip(encapsulation: tuple[Form, VPNID | None]) -> None:
    """What we put before a packet names the same VPN to whoever receives it."""
    form, vpn_id = encapsulation
    front = header(form, vpn_id)
    oui = vpn_id.oui if vpn_id else DEFAULT_OUI
    assert decapsulate(front + PACKET, oui) == (form, vpn_id, len(front))


@given(st.binary(max_size=80))
def test_any_octets_after_llc(octets: bytes) -> None:
    """No octets make it fail in another way than MalformedPacket."""
    for start in (b"", b"\xaa\xaa\x03", VPN, VPN + b"\0\0\1\0\0\0\0\7" + VPN):
        try:
            assert decapsulate(start + octets, DEFAULT_OUI).offset <= len(start + octets)
        except MalformedPacket as error:
            assert error.counter in {"vpn_bad_inner", "vpn_truncated"}


def test_no_vpn_to_name() -> None:
    """A form that names a VPN is not sent without one; the plain form needs none."""
    assert header(Form.PLAIN, VPNID(DEFAULT_OUI, 1)) == b""
    with pytest.raises(ValueError, match="names a VPN"):
        header(Form.RFC, None)
