"""Client Information Entries and VNIs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.header import address_length
from dmevpn.nhrp.records import CIE, decode_cies, decode_vni, encode_vni
from tests.strategies import cies, vnis

FORMS = st.sampled_from(Form)


@given(st.lists(cies(4, 6), max_size=5), st.binary(max_size=40), st.binary(max_size=40))
def test_round_trip(records: list[CIE], before: bytes, after: bytes) -> None:
    """Entries come back as they were sent, wherever in a packet they stand."""
    octets = b"".join([cie.encode() for cie in records])
    start, end = len(before), len(before) + len(octets)
    assert decode_cies(before + octets + after, start, end, 4, 6) == tuple(records)
    assert sum([len(cie) for cie in records]) == len(octets)


@given(cies(16, 16), st.data())
def test_cut(cie: CIE, data: st.DataObject) -> None:
    """An entry that does not fit is reported where it starts, behind those that do."""
    octets = cie.encode()
    whole = bytes(8) + octets + octets
    end = data.draw(st.integers(8 + len(octets) + 1, len(whole) - 1))
    with pytest.raises(MalformedPacket) as caught:
        decode_cies(whole, 8, end, 16, 16)
    error = caught.value
    assert (error.counter, error.code, error.offset) == ("bad_cie", 7, 8 + len(octets))


@pytest.mark.parametrize(
    ("lengths", "good"),
    [
        ((4, 0, 6), True),
        ((0, 0, 0), True),
        ((0x40, 0x40, 0), True),
        ((4, 3, 6), True),
        ((0x44, 0, 6), False),
        ((0x84, 0, 6), False),
        ((0x80, 0, 6), False),
        ((4, 0x44, 6), False),
        ((4, 0x80, 6), False),
        ((16, 0, 6), False),
        ((4, 0, 4), False),
    ],
)
def test_lengths(lengths: tuple[int, int, int], good: bool) -> None:
    """Addresses have the length of their family and no type bits, or are left out."""
    octets = bytes(8) + bytes(lengths) + bytes(1 + sum(each & 0x3F for each in lengths))
    if good:
        (cie,) = decode_cies(octets, 0, len(octets), 4, 6)
        assert [len(cie.nbma), len(cie.subaddress), len(cie.protocol)] == [
            each & 0x3F for each in lengths
        ]
    else:
        with pytest.raises(MalformedPacket):
            decode_cies(octets, 0, len(octets), 4, 6)


def test_any_protocol_length() -> None:
    """Servers may have another kind of protocol address than a packet is about."""
    octets = CIE(nbma=bytes(4), protocol=bytes(4)).encode()
    with pytest.raises(MalformedPacket):
        decode_cies(octets, 0, len(octets), 4, 6)
    assert len(decode_cies(octets, 0, len(octets), 4)) == 1


@pytest.mark.parametrize(
    "cie",
    [
        CIE(code=256),
        CIE(holding_time=-1),
        CIE(mtu=65536),
        CIE(nbma=bytes(64)),
        CIE(subaddress=bytes(64)),
        CIE(protocol=bytes(256)),
    ],
    ids=["code", "holding time", "MTU", "NBMA address", "subaddress", "protocol address"],
)
def test_what_does_not_fit_is_not_sent(cie: CIE) -> None:
    """A number too large for its field is our mistake, and never becomes another number."""
    with pytest.raises(ValueError):
        cie.encode()


@pytest.mark.parametrize(
    ("octet", "length"), [(0, 0), (4, 4), (0x3F, 63), (0x40, 0), (0x44, None), (0x80, None)]
)
def test_type_length_octet(octet: int, length: int | None) -> None:
    """The E.164 bit matters only when there is an address, the reserved bit always."""
    assert address_length(octet) == length


@given(vnis, FORMS)
def test_vni_round_trip(vni: int, form: Form) -> None:
    """A VNI is the same number at both ends, whatever byte order the form has."""
    subaddress = encode_vni(vni, form)
    assert len(subaddress) == 4
    assert decode_vni(subaddress, form) == vni


@pytest.mark.parametrize(
    ("form", "octets"),
    [
        (Form.PLAIN, "00000064"),
        (Form.RFC, "00000064"),
        (Form.LEGACY_BIG, "00000064"),
        (Form.LEGACY_LITTLE, "64000000"),
    ],
)
def test_vni_byte_order(form: Form, octets: str) -> None:
    """VNI 100 stands in network order, but for a little-endian legacy peer."""
    assert encode_vni(100, form).hex() == octets


@given(FORMS)
def test_no_vni(form: Form) -> None:
    """No subaddress, and a subaddress of zero, both say that there is no VNI."""
    assert encode_vni(None, form) == b""
    assert decode_vni(b"", form) is None
    assert decode_vni(bytes(4), form) is None


@pytest.mark.parametrize("octets", ["01000000", "ff0000ff", "000064", "0000000064"])
def test_bad_vni(octets: str) -> None:
    """More than 24 bits, or another length than four octets, is no VNI."""
    with pytest.raises(ValueError, match="not a VNI"):
        decode_vni(bytes.fromhex(octets), Form.RFC)


@pytest.mark.parametrize("vni", [0, -1, 0x1000000])
def test_impossible_vni(vni: int) -> None:
    """We never send a VNI that VXLAN does not have."""
    with pytest.raises(ValueError, match="not a VNI"):
        encode_vni(vni)
