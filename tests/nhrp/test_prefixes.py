"""Prefixes: which sets an address is in, and what lies inside of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.addresses import parse_ip, parse_mac, parse_prefix
from dmevpn.nhrp.prefixes import PrefixIndex, PrefixTable, key_of, prefix_of, significant


def key(text: str) -> bytes:
    return key_of(*parse_prefix(text))


def index(*texts: str) -> PrefixIndex:
    found = PrefixIndex()
    for text in texts:
        found.add(key(text))
    return found


#: Sets that lie close together, so that they often contain each other.
PREFIXES = st.builds(
    key_of,
    st.builds(lambda low: bytes((10, 0, 0, low)), st.integers(0, 255)),
    st.one_of(st.integers(20, 32), st.just(0)),
)


@pytest.mark.parametrize(
    ("said", "octets", "meant"),
    [(0, 4, 32), (32, 4, 32), (255, 4, 32), (24, 4, 24), (1, 16, 1), (255, 16, 128), (40, 6, 40)],
)
def test_what_a_prefix_length_means(said: int, octets: int, meant: int) -> None:
    """0, 255 and whatever is too large mean exactly this address."""
    assert significant(said, octets) == meant


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32"])
def test_a_key_names_one_set(text: str) -> None:
    """What lies behind the prefix is no part of the name."""
    assert prefix_of(key(text)) == parse_prefix(text)
    assert key("10.1.2.3/8") == key("10.0.0.0/8")
    assert key("10.0.0.0") == parse_ip("10.0.0.0") != key("10.0.0.0/31")


@given(st.sets(PREFIXES), st.integers(0, 255), st.integers(0, 32))
def test_as_if_looked_for_one_by_one(keys: set[bytes], low: int, length: int) -> None:
    """Whatever the sets, the questions have the answers of a plain search."""
    table = PrefixIndex()
    for each in keys:
        table.add(each)
    address = bytes((10, 0, 0, low))

    def covers(outer: bytes, inner: bytes) -> bool:
        (one, bits), (other, longer) = prefix_of(outer), prefix_of(inner)
        return bits <= longer and key_of(other, bits) == key_of(one, bits)

    around = [each for each in keys if each != address and covers(each, address)]
    around.sort(key=lambda each: -prefix_of(each)[1])
    assert list(table.covering(address)) == around
    within = key_of(address, length)
    assert set(table.inside(address, length)) == {each for each in keys if covers(within, each)}
    others = [each for each in keys if not covers(each, address)]
    free = [n for n in range(33) if not any(covers(key_of(address, n), o) for o in others)]
    assert table.widest(address, length) == max(length, min(free))
    for each in keys:
        table.remove(each)
    assert list(table.covering(address)) == list(table.inside(address, 0)) == []


def test_widest() -> None:
    """Between neighbours there is room for the prefix that both are outside of."""
    table = index("10.0.0.0/8", "10.1.0.0/16", "10.1.4.1", "10.1.8.0/24")
    assert table.widest(parse_ip("10.1.0.1"), 16) == 22
    assert table.widest(parse_ip("10.1.9.1"), 16) == 24
    assert table.widest(parse_ip("10.1.128.1"), 16) == 17
    assert table.widest(parse_ip("10.1.128.1"), 24) == 24


def test_families_do_not_meet() -> None:
    """MAC, IPv4 and IPv6 addresses are different worlds."""
    table = index("0.0.0.0/0", "::/0", "02:00:00:00:00:00/8")
    assert list(table.covering(parse_ip("10.0.0.1"))) == [key("0.0.0.0/0")]
    assert list(table.covering(parse_ip("::1"))) == [key("::/0")]
    assert list(table.covering(parse_mac("02:00:00:00:00:01"))) == [key("02:00:00:00:00:00/8")]


def test_a_routing_table() -> None:
    """The longest prefix decides; what is said about it keeps its order."""
    rows = [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.0.0/16", 3), ("10.1.0.7", 4)]
    table = PrefixTable([(*parse_prefix(text), value) for text, value in rows])
    assert table
    assert table.longest(parse_ip("10.2.0.1")) == [1]
    assert table.longest(parse_ip("10.1.0.1")) == [2, 3]
    assert table.longest(parse_ip("10.1.0.7")) == [4]
    assert table.longest(parse_ip("11.0.0.1")) == []
    assert not PrefixTable[int]()
