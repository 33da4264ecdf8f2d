"""Who may register with a hub, as the file says it."""

from __future__ import annotations

import pytest

from dmevpn.addresses import parse_ip
from dmevpn.config.arguments import ANY_VPN
from dmevpn.config.model import AdmissionPlan, PermitPlan
from tests.config.files import HUB, SPOKE, checked, errors, plan, warnings


def admission(words: str) -> AdmissionPlan:
    """What a hub's block says with these words."""
    text = f"{HUB}{words}"
    assert checked(text).messages == []
    return plan(text).hubs[0].admission


def test_without_permit_everybody_may():
    """A file of before means what it meant."""
    assert admission("") == AdmissionPlan()


def test_a_permit():
    """A network, the VNIs of its sites, and the key that they sign with."""
    assert admission("permit 1 10.0.0.0/24 vni 100-199 spi 256") == AdmissionPlan(
        permits=(
            PermitPlan(vpns=(1, 1), nbma=(parse_ip("10.0.0.0"), 24), vnis=(100, 199), spi=256),
        ),
        members_only=True,
    )


def test_several_permits():
    """One address, all addresses, both families; the options may stand in any order."""
    found = admission("permit any any permit 1 2001:db8::2 spi 1 vni 7 members-only no")
    assert found == AdmissionPlan(
        permits=(
            PermitPlan(vpns=ANY_VPN, nbma=None),
            PermitPlan(vpns=(1, 1), nbma=(parse_ip("2001:db8::2"), 128), vnis=(7, 7), spi=1),
        ),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("permit 1 10.0.0.1/24", "a network is expected: bits behind /24 are set near"),
        ("permit 1 02:00:00:00:00:01", "an IPv4 or IPv6 network is expected near"),
        ("permit 1 any vni 9-3", "the range is reversed: write 3-9 near '9-3'"),
        ("permit 1 any spi 0", "an SPI from 1 to 65535 is expected near '0'"),
        ("permit 1 any vni 1 vni 2", "near 'vni'"),
    ],
)
def test_mistakes(words, message):
    """A mistake is told with its line and word."""
    (found,) = errors(f"{HUB}{words}")
    assert message in found


def test_a_permit_for_a_vpn_that_is_not_served():
    """It is accepted, since the VPN may come later, but nobody shall believe in it."""
    (found,) = warnings(f"{HUB}permit 4000 any")
    assert "this hub serves no such VPN: the line permits nothing near '4000'" in found


def test_a_spoke_permits_nothing():
    """Whom a spoke talks to is said elsewhere."""
    assert "permit belongs to a hub's data interface" in errors(f"{SPOKE}permit 1 any")[0]
