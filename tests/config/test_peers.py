"""What a file says about peers that are not like us, and the VPN of what names none."""

from __future__ import annotations

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID, parse_ip
from dmevpn.config.model import PeerPlan
from tests.config.files import errors, plan, warnings

HUB = "interface vx0 controller nhrp vpn-id 1-9 l2learnonly provision\n"
VPN7 = VPNID(DEFAULT_OUI, 7)
A, B = "10.0.0.1", "10.0.0.2"


def speaker(control):
    """The plan of a hub's control interface, which draws no warning."""
    text = f"{HUB}interface nhrp\n{control}\n"
    assert warnings(text) == []
    return plan(text).speakers[0]


def peer(host, daemon="rfc", vpn=None):
    """A peer's plan."""
    return PeerPlan(address=parse_ip(host), daemon=daemon, vpn=vpn)


@pytest.mark.parametrize("word", ["legacy", "legacy-big-endian", "opennhrp", "frr", "cisco"])
def test_what_a_peer_is(word):
    """A hub's `map` may say nothing else than what the peer is."""
    assert speaker(f"map 1.0.0.1 {A} {word}").peers == (peer(A, word),)


def test_who_cannot_name_a_vpn_implies_that_of_its_line():
    """The `vpn-id` before it says which; the original daemon names its VPNs itself."""
    lines = f"vpn-id 7 map 1.0.0.1 {A} frr map 1.0.0.2 {B} legacy protocol-address 1.0.0.9/24"
    assert speaker(lines).peers == (peer(A, "frr", VPN7), peer(B, "legacy"))


def test_implied_vpns():
    """By peer, by key, and for all others."""
    found = speaker(
        f"implied-vpn 7 of-peer {A} implied-vpn 8 of-key 1008 implied-vpn 9 map 1.0.0.1 {A} cisco"
    )
    assert found.peers == (peer(A, "cisco", VPN7),)
    assert found.vpn_of_key == ((1008, VPNID(DEFAULT_OUI, 8)),)
    assert found.plain_vpn == VPNID(DEFAULT_OUI, 9) and found.plain
    found = speaker("implied-vpn none")
    assert found.plain_vpn is None and not found.plain


def test_without_a_word():
    """Packets without a VPN header are in no VPN, and little-endian VNIs are recognised."""
    found = speaker("")
    assert (found.peers, found.vpn_of_key, found.plain_vpn) == ((), (), None)
    assert found.plain and found.legacy_detection
    assert not speaker("legacy-detection no").legacy_detection


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (
            f"map 1.0.0.1 {A} frr\nmap 1.0.0.2 {A} cisco",
            "4: line 3 says that this peer is frr near 'cisco'",
        ),
        ("map 1.0.0.1 fd00::1 legacy", "3: this daemon knows no IPv6 underlay near 'legacy'"),
        (
            f"implied-vpn none of-peer {A}",
            "3: implied-vpn has one of N, N of-peer ADDR, N of-key K, and none near 'none'",
        ),
        (
            f"implied-vpn 7 of-peer {A} of-key 5",
            "3: implied-vpn has one of N, N of-peer ADDR, N of-key K, and none near '7'",
        ),
        (
            "transport device implied-vpn 7 of-key 5",
            "3: a kernel GRE device has one key: of-key is for transport raw near 'of-key'",
        ),
        ("implied-vpn 0", "3: implied-vpn N|none: a VPN number from 1 to 4294967295 is expected"),
    ],
)
def test_mistakes(control, message):
    """What contradicts itself is an error that names the line."""
    (found,) = errors(f"{HUB}interface nhrp\n{control}\n")
    assert found.startswith(message)


def test_said_twice():
    """The later line counts, with a warning."""
    text = f"{HUB}interface nhrp\nimplied-vpn 7\nimplied-vpn 8\n"
    assert plan(text).speakers[0].plain_vpn == VPNID(DEFAULT_OUI, 8)
    assert warnings(text) == ["4: warning: implied-vpn replaces that of line 3 near '8'"]


def test_a_word_about_a_host_name():
    """A name that nobody looks up says nothing."""
    text = f"{HUB}interface nhrp transport raw\nmap 1.0.0.1 spoke.example legacy\n"
    assert plan(text).speakers[0].peers == ()
    assert warnings(text) == [
        "3: warning: map has no effect: no map-vni of this interface names its address"
        " near '1.0.0.1'"
    ]
