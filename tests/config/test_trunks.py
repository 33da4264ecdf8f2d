"""The other hubs of a hub: what `other-hub` means, and what it may not say."""

from __future__ import annotations

import pytest

from dmevpn.config.model import TrunkPlan
from dmevpn.config.trunks import MAX_HUBS
from tests.config.test_admission import HUB, errors, plan, warnings

ONE, TWO = b"\x0a\0\0\1", b"\x0a\0\0\2"


def trunks(text: str) -> tuple[TrunkPlan, ...]:
    """The other hubs of the hub that a text completes."""
    (hub,) = plan(HUB + text).hubs
    return hub.trunks


def test_other_hubs() -> None:
    """Addresses, for all VPNs of the interface or some, with VNIs that follow or are the VPNs'."""
    text = "other-hub 10.0.0.1 other-hub 10.0.0.2 vpn 5-9 vni 1005 other-hub 10.0.0.2 vpn 1"
    assert trunks(text) == (
        TrunkPlan(address=ONE),
        TrunkPlan(address=TWO, vpns=(5, 9), vni=1005),
        TrunkPlan(address=TWO, vpns=(1, 1)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other-hub 10.0.0.1 other-hub 10.0.0.1", "10.0.0.1 is a hub of one of these VPNs already"),
        (
            "other-hub 10.0.0.1 vpn 1-9 other-hub 10.0.0.1 vpn 9",
            "10.0.0.1 is a hub of one of these VPNs already",
        ),
        (
            "other-hub 10.0.0.1 vpn 1-9 other-hub 10.0.0.1 vpn 20-29 vni 9",
            "10.0.0.1 has one of these VNIs in another VPN already",
        ),
        ("vpn-id 50-60 other-hub 10.0.0.1 vni 5", "say `vpn`: the VNI is that of the first VPN"),
        ("other-hub 10.0.0.1 vpn any vni 5", "say `vpn`: the VNI is that of the first VPN"),
        ("other-hub 10.0.0.1 vpn 16777216", "say `vni`: the VPN's index is larger than a VNI"),
        ("other-hub 10.0.0.1 vpn 1-2 vni 16777215", "there are not as many VNIs from there on"),
        ("other-hub hub.example", "an IPv4 or IPv6 address is expected"),
        ("other-hub 224.0.0.1", "the address of one host is expected"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    """Each names the line, the word and what to do."""
    assert message in errors(HUB + text)[0]


def test_a_hub_that_names_itself() -> None:
    """Its own address is no other hub."""
    text = f"{HUB}other-hub 10.0.0.1".replace(
        "interface nhrp", "interface nhrp nbma-address 10.0.0.1", 1
    )
    assert "10.0.0.1 is the nbma-address of nhrp: name other hubs only" in errors(text)[0]


def test_too_many() -> None:
    """The bound is said, not the switch's error at run time."""
    lines = " ".join(f"other-hub 10.0.1.{number}" for number in range(1, MAX_HUBS + 1))
    assert len(trunks(lines)) == MAX_HUBS
    assert f"more than {MAX_HUBS} other hubs" in errors(f"{HUB}{lines} other-hub 10.0.2.1")[0]


def test_no_such_vpn() -> None:
    """A line without effect is said."""
    (found,) = warnings(f"{HUB}other-hub 10.0.0.1 vpn 4000")
    assert "this hub serves no such VPN: the line has no effect near '10.0.0.1'" in found


def test_a_spoke_has_none() -> None:
    """It registers with hubs by `default-vni`."""
    text = "interface nhrp interface vx1 controller nhrp vpn-id 1 default-vni 5 10.0.0.1 register"
    assert "other-hub belongs to" in errors(f"{text} provision br1 other-hub 10.0.0.2")[0]
