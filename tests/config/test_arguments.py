"""Arguments: what is taken, and what users are told about the rest."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.config import arguments as a
from dmevpn.config.grammar import KEYWORDS

ACCEPTED = [
    (a.vni, "1", 1),
    (a.vni, "16777215", 0xFFFFFF),
    (a.vni, "0100", 100),
    (a.number(0, 9), "0", 0),
    (a.vpn_range, "7", (7, 7)),
    (a.vpn_range, "4294967295", (2**32 - 1, 2**32 - 1)),
    (a.vpn_range, "1-3", (1, 3)),
    (a.vpn_range, "5-5", (5, 5)),
    (a.vpn_range, "any", (1, 2**32 - 1)),
    (a.yes_or_no, "yes", True),
    (a.yes_or_no, "no", False),
    (a.transport, "auto", "auto"),
    (a.transport, "raw", "raw"),
    (a.transport, "device", "device"),
    (a.device_name, "a" * 15, "a" * 15),
    (a.device_name, "eth1.100", "eth1.100"),
    (a.station_mac, "2E:cd:9a:5c:ae:c7", bytes.fromhex("2ecd9a5caec7")),
    (a.station_mac, "2e-cd-9a-5c-ae-c7", bytes.fromhex("2ecd9a5caec7")),
    (a.ip_address, "10.0.0.1", b"\x0a\0\0\x01"),
    (a.ip_address, "2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
    (a.host, "10.0.0.1", a.Host("10.0.0.1", b"\x0a\0\0\x01")),
    (a.host, "hub.example.org", a.Host("hub.example.org", None)),
    (a.host, "hub.example.org.", a.Host("hub.example.org.", None)),
    (a.host, "hub", a.Host("hub", None)),
    (a.host, "10.example", a.Host("10.example", None)),
    (a.prefix, "1.0.0.1", (b"\x01\0\0\x01", 32)),
    (a.prefix, "1.0.0.1/24", (b"\x01\0\0\x01", 24)),
    (a.prefix, "2e:cd:9a:5c:ae:c7", (bytes.fromhex("2ecd9a5caec7"), 48)),
    (a.ip_prefix, "1.0.0.2/24", (b"\x01\0\0\x02", 24)),
    (a.network, "10.255.255.0/24", (b"\x0a\xff\xff\0", 24)),
    (a.network, "0.0.0.0/0", (bytes(4), 0)),
    (a.multicast, "dynamic", "dynamic"),
    (a.multicast, "nhs", "nhs"),
    (a.multicast, "10.0.0.1", b"\x0a\0\0\x01"),
    (a.oui, "02-00-00", b"\x02\0\0"),
    (a.endpoint, "unix:/run/a.sock:mode=600", "unix:/run/a.sock:mode=600"),
    (a.secret, "se#cret", b"se#cret"),
    (a.secret, "a\udcff", b"a\xff"),
    (a.secret, "x" * 64, b"x" * 64),
    (a.text, "/var/lib/x", "/var/lib/x"),
]

REFUSED = [
    (a.vni, "0", "a VNI from 1 to 16777215"),
    (a.vni, "16777216", "a VNI from 1 to 16777215"),
    (a.vni, "9" * 5000, "a VNI from 1 to 16777215"),
    (a.vni, "-1", "a VNI"),
    (a.vni, "", "a VNI"),
    (a.vni, "\u0663", "a VNI"),
    (a.vpn_range, "0", "from 1 to 4294967295"),
    (a.vpn_range, "4294967296", "from 1 to 4294967295"),
    (a.vpn_range, "5-3", "write 3-5"),
    (a.vpn_range, "5-", "a VPN number"),
    (a.vpn_range, "all", "a VPN number"),
    (a.yes_or_no, "on", "yes or no"),
    (a.transport, "tcp", "auto, raw or device"),
    (a.device_name, "a" * 16, "at most 15 octets"),
    (a.device_name, "\u00e4" * 8, "at most 15 octets"),
    (a.device_name, "..", "no network device"),
    (a.device_name, "a/b", "no network device"),
    (a.device_name, "vx%d", "no network device"),
    (a.device_name, "vx\udcff", "no network device"),
    (a.station_mac, "2e:cd:9a", "such as 02:00:00:00:00:01"),
    (a.station_mac, "01:00:5e:00:00:01", "group address"),
    (a.station_mac, "00:00:00:00:00:00", "all zeros"),
    (a.ip_address, "10.0.0.300", "an IPv4 or IPv6 address"),
    (a.ip_address, "hub", "an IPv4 or IPv6 address"),
    (a.ip_address, "224.0.0.1", "address of one host"),
    (a.ip_address, "0.0.0.0", "address of one host"),
    (a.ip_address, "255.255.255.255", "address of one host"),
    (a.ip_address, "::", "address of one host"),
    (a.ip_address, "ff02::1", "address of one host"),
    (a.ip_address, "::ffff:10.0.0.1", "write it as the IPv4 address 10.0.0.1"),
    (a.ip_address, "fe80::1", "link-local"),
    (a.ip_address, "2001:db8::1%eth0", "link-local"),
    (a.host, "10.0.0.300", "an IPv4 or IPv6 address"),
    (a.host, "10.0.0", "an IPv4 or IPv6 address"),
    (a.host, "10.0.0.1/24", "an IPv4 or IPv6 address"),
    (a.host, "-hub", "an address or a host name"),
    (a.host, "hub..org", "an address or a host name"),
    (a.host, "hub.1", "an address or a host name"),
    (a.host, "h\u00fcb", "an address or a host name"),
    (a.host, ".".join(["a" * 63] * 4), "an address or a host name"),
    (a.prefix, "1.0.0.1/33", "ADDRESS/BITS"),
    (a.prefix, "hub", "ADDRESS/BITS"),
    (a.ip_prefix, "1.0.0.2", "with its prefix length"),
    (a.ip_prefix, "2e:cd:9a:5c:ae:c7/48", "with its prefix length"),
    (a.network, "10.255.255.1/24", "behind /24 are set"),
    (a.multicast, "all", "dynamic, nhs or an address"),
    (a.oui, "2", "three pairs"),
    (a.endpoint, "/run/x", "a server endpoint"),
    (a.endpoint, "unix:", "a server endpoint"),
    (a.endpoint, ":x", "a server endpoint"),
    (a.secret, "x" * 65, "at most 64 octets"),
]


@pytest.mark.parametrize(("convert", "word", "value"), ACCEPTED)
def test_accepted(convert, word, value):
    """A correct word becomes its value."""
    assert convert(word) == value


@pytest.mark.parametrize(("convert", "word", "expected"), REFUSED)
def test_refused(convert, word, expected):
    """A wrong word is refused with what is expected instead, and is not repeated."""
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        convert(word)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("word", "meant"),
    [("2e:cd:9a:5c:ae:zz", True), ("2e-cd-9a", True), ("register", False), ("vpn-id", False)],
)
def test_looks_like_mac(word, meant):
    """A mistyped MAC address is taken for one, so that it is reported as one."""
    assert a.looks_like_mac(word) is meant


@given(st.text())
def test_any_word(word):
    """No word makes a converter raise anything but ValueError."""
    for row in KEYWORDS.values():
        for argument in row.arguments:
            with contextlib.suppress(ValueError):
                argument.convert(word)


@pytest.mark.parametrize("row", KEYWORDS.values(), ids=lambda row: row.name)
def test_examples(row):
    """The examples that errors and documentation give are correct themselves."""
    for argument in row.arguments:
        argument.convert(argument.example)
