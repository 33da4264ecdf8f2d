"""The GRE header codec, on the protocol's vectors and on whatever else may arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.errors import MalformedPacket
from dmevpn.transport.gre import KEY_MAX, decode, encode
from dmevpn.transport.rawgre import split_ipv4

_FILE = Path(__file__).parent.parent / "data" / "protocol_vectors.json"
VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector
    for vector in json.loads(_FILE.read_text())["vectors"]
    if vector["layer"] in ("gre", "ipv4")
}
PLAIN = frozenset({None})


def octets(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


@pytest.mark.parametrize(
    ("name", "keys", "header", "key"),
    [
        ("G01", PLAIN, 4, None),
        ("G02", {1000}, 8, 1000),
        ("G02", {7, 1000, None}, 8, 1000),
        ("G03", {1000}, 16, 1000),
    ],
)
def test_accepted(name: str, keys: set[int | None], header: int, key: int | None) -> None:
    """Packets of the accepted forms give their payload."""
    assert decode(octets(name), keys) == (octets(name)[header:], key)


def test_ipv4_options() -> None:
    """A raw IPv4 datagram with options gives its GRE packet."""
    gre, source, destination = split_ipv4(memoryview(octets("G04")))
    assert (source, destination) == (octets("G04")[12:16], octets("G04")[16:20])
    assert decode(gre, PLAIN) == (octets("G04")[28:], None)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("G05", PLAIN),
        ("G06", PLAIN),
        ("G07", PLAIN),
        ("G08", PLAIN),
        ("G09", PLAIN),
        ("G10", {1000}),
    ],
)
def test_refused(name: str, keys: set[int | None]) -> None:
    """Each fault is counted under the name that the specification gives it."""
    with pytest.raises(MalformedPacket) as caught:
        decode(octets(name), keys)
    assert caught.value.counter == VECTORS[name]["reaction"]["counter"]
    assert caught.value.code is None


def test_every_vector_is_tested() -> None:
    """A vector added to the file must be added here."""
    assert set(VECTORS) == {f"G{number:02}" for number in range(1, 11)}


@pytest.mark.parametrize(
    ("packet", "keys", "counter"),
    [
        # The first check that fails names the fault.
        ("", PLAIN, "gre_truncated"),
        ("000020", PLAIN, "gre_truncated"),
        ("200120010000", {1}, "gre_truncated"),
        ("0001200100", PLAIN, "gre_bad_version"),
        ("4001200100", PLAIN, "gre_bad_version"),
        ("0800080000", PLAIN, "gre_bad_flags"),
        ("0400200100", PLAIN, "gre_bad_flags"),
        ("8000080000000000", PLAIN, "gre_other_protocol"),
        ("a00020010000000000000001", {2}, "gre_bad_checksum"),
        ("00002001", {0}, "gre_key_mismatch"),
        ("2000200100000000", PLAIN, "gre_key_mismatch"),
    ],
)
def test_order_of_checks(packet: str, keys: set[int | None], counter: str) -> None:
    """A packet with several faults is counted under the first."""
    with pytest.raises(MalformedPacket) as caught:
        decode(bytes.fromhex(packet), keys)
    assert caught.value.counter == counter


def test_reserved_bits_are_ignored() -> None:
    """Recursion control and reserved bits that RFC 2784 lets pass are no reason to drop."""
    assert decode(bytes.fromhex("03f82001") + b"x", PLAIN) == (b"x", None)


def test_key_zero_is_a_key() -> None:
    """Key 0 is not the same as no key."""
    packet = encode(b"x", 0)
    assert packet == bytes.fromhex("2000200100000000") + b"x"
    assert decode(packet, {0}) == (b"x", 0)


@pytest.mark.parametrize(("name", "key"), [("G01", None), ("G02", 1000)])
def test_encode_vectors(name: str, key: int | None) -> None:
    """What we send is, octet by octet, what the specification shows."""
    payload, _ = decode(octets(name), {key})
    assert encode(payload, key) == octets(name)


@given(
    payload=st.binary(max_size=100),
    key=st.none() | st.integers(0, KEY_MAX),
    checksum=st.booleans(),
)
def test_round_trip(payload: bytes, key: int | None, checksum: bool) -> None:
    """What we send, we accept."""
    assert decode(encode(payload, key, checksum=checksum), {key}) == (payload, key)


@given(
    payload=st.binary(max_size=40),
    key=st.none() | st.integers(0, KEY_MAX),
    where=st.integers(min_value=0),
    change=st.integers(1, 255),
)
def test_checksum_finds_a_changed_octet(
    payload: bytes, key: int | None, where: int, change: int
) -> None:
    """No single damaged octet passes a packet with a checksum."""
    packet = bytearray(encode(payload, key, checksum=True))
    packet[where % len(packet)] ^= change
    try:
        accepted, _ = decode(bytes(packet), {key})
    except MalformedPacket:
        return
    # The checksum flag itself, and reserved bits, are read before the sum can speak.
    assert where % len(packet) < 2 or accepted == payload


@given(st.binary(max_size=60))
def test_anything_else_is_malformed(data: bytes) -> None:
    """Whatever arrives, the decoder answers with a payload or with MalformedPacket."""
    try:
        payload, _ = decode(data, {None, 1})
    except MalformedPacket as error:
        assert error.counter.startswith("gre_")
    else:
        assert data.endswith(payload)


@given(st.binary(max_size=80))
def test_any_ipv4_header(data: bytes) -> None:
    """No length in an IPv4 header is believed."""
    try:
        payload, _, _ = split_ipv4(memoryview(data))
    except MalformedPacket as error:
        assert error.counter == "gre_truncated"
    else:
        assert payload in data


def test_ipv4_padding_is_cut() -> None:
    """What follows the IPv4 total length does not belong to the packet."""
    header = bytes([0x45, 0, 0, 24]) + bytes(8) + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    assert split_ipv4(memoryview(header + b"\0\0\x20\x01padding"))[0] == b"\0\0\x20\x01"
