"""What a hub's switch lets sites do, as the file says it."""

from __future__ import annotations

import pytest

from dmevpn.addresses import parse_ip, parse_mac
from dmevpn.config.model import SwitchPlan
from dmevpn.config.switch import STICKY_LINES, rules
from dmevpn.interfaces import Sticky, VPNRules
from tests.config.files import HUB, SPOKE, checked, errors, plan, warnings


def switch(words: str) -> SwitchPlan:
    """What a hub's block says with these words."""
    text = f"{HUB}{words}"
    assert checked(text).messages == []
    return plan(text).hubs[0].switch


def test_nothing_said() -> None:
    """A file of before has the limits that the documentation names."""
    assert rules(switch(""), 1) == VPNRules()
    assert switch("").loop_probe == 30
    assert VPNRules()[:6] == (16384, 8192, 10_000, 20_000, 5, 180)


def test_mac_limits() -> None:
    """Of several lines for a VPN the last one holds; a site may have half, if nothing is said."""
    found = switch("mac-limit any 2000 mac-limit 2 300 200 mac-limit 3 1")
    assert [rules(found, vpn)[:2] for vpn in (1, 2, 3)] == [(2000, 1000), (300, 200), (1, 1)]
    assert rules(switch("mac-limit 2 300"), 1)[:2] == (16384, 8192)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flood-rate 1000", (1000, 2000)),
        ("flood-rate 1000 50", (1000, 50)),
        ("flood-rate 0", (0, 0)),
    ],
)
def test_flood_rate(words: str, expected: tuple[int, int]) -> None:
    """Frames a second, and how many at once."""
    assert rules(switch(words), 1)[2:4] == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [("duplicate-mac 0", (0, 180)), ("duplicate-mac 3", (3, 180)), ("duplicate-mac 9 60", (9, 60))],
)
def test_duplicate_mac(words: str, expected: tuple[int, int]) -> None:
    """How many moves are followed in which time."""
    assert rules(switch(words), 1)[4:6] == expected


def test_sticky() -> None:
    """All MACs of a VPN, those with a prefix, and those of one site."""
    found = switch(
        "sticky 1 any sticky 1-2 52:54:00:00:00:00/24 10.0.0.2 sticky 3 02:00:00:00:00:01"
    )
    cards = Sticky(parse_mac("52:54:00:00:00:00"), 24, parse_ip("10.0.0.2"))
    assert rules(found, 1).sticky == (Sticky(bytes(6), 0), cards)
    assert rules(found, 2).sticky == (cards,)
    assert rules(found, 3).sticky == (Sticky(parse_mac("02:00:00:00:00:01"), 48),)


def test_loop_probe() -> None:
    """Seconds, or none at all."""
    assert switch("loop-probe 10").loop_probe == 10
    assert switch("loop-probe no").loop_probe == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mac-limit 1 100 200", "one site cannot have more than all of them: at most 100"),
        ("mac-limit 1 0", "a number from 1 to 1048576 is expected"),
        ("sticky 1 10.0.0.0/8", "a MAC address, MAC/BITS or any is expected"),
        ("sticky 1 52:54:00:00:00:01/24", "bits behind /24 are set"),
        ("sticky 1 any 0.0.0.0", "the address of one host is expected"),
        ("sticky 1-2 any sticky 2 any 10.0.0.2", "an earlier line is about the same MACs and VPN"),
        ("loop-probe 0", "no, or a number of seconds from 1 to 3600 is expected"),
        ("duplicate-mac 5 0", "a number of seconds from 1 to 86400 is expected"),
    ],
)
def test_mistakes(words: str, message: str) -> None:
    """A mistake is told with its line and word."""
    (found,) = errors(f"{HUB}{words}")
    assert message in found


def test_too_many_sticky_lines() -> None:
    """There is room for so many in every VPN."""
    lines = [f"sticky any 02:00:00:00:00:{number:02x}" for number in range(STICKY_LINES)]
    assert len(switch(" ".join(lines)).sticky) == STICKY_LINES
    (found,) = errors(f"{HUB}{' '.join(lines)} sticky 2 any")
    assert f"a VPN has at most {STICKY_LINES} such lines" in found


@pytest.mark.parametrize("words", ["mac-limit 9 100", "sticky 9 any"])
def test_a_vpn_that_is_not_served(words: str) -> None:
    """It is accepted, since the VPN may come later, but nobody shall believe in it."""
    (found,) = warnings(f"{HUB}{words}")
    assert "this hub serves no such VPN: the line says nothing near '9'" in found


def test_a_spoke_has_no_switch() -> None:
    """Sites keep to what their hub says."""
    assert "flood-rate belongs to a hub's data interface" in errors(f"{SPOKE}flood-rate 1")[0]
