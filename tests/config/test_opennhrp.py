"""Files of OpenNHRP: every word that its parser knows takes effect or draws a warning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmevpn.addresses import parse_ip
from dmevpn.config.grammar import KEYWORDS, OPTIONS
from dmevpn.config.model import Plan
from tests.config.files import checked, errors, plan, warnings

#: What OpenNHRP's parser compares a word with.
WORDS = {
    *("interface", "map", "register", "cisco", "dynamic-map", "shortcut-target", "holding-time"),
    *("cisco-authentication", "route-table", "shortcut", "redirect", "non-caching"),
    *("shortcut-destination", "multicast"),
}
HUB = "interface gre1 redirect"


def test_every_word_is_known():
    """Nothing in such a file is an unknown word."""
    assert set(KEYWORDS) | set(OPTIONS) >= WORDS


def test_a_server():
    """A server's file has no map: its words alone make it one, on its GRE device."""
    text = """
    interface gre1
      holding-time 3600
      cisco-authentication secret
      shortcut
      redirect
      non-caching
    """
    assert checked(text).messages == []
    (speaker,), (layer3,) = plan(text).speakers, plan(text).layer3
    assert (speaker.transport, speaker.holding_time) == ("device", 3600)
    assert speaker.authentication.secret == b"secret"
    assert layer3.interface == "gre1" and layer3.shortcut and layer3.redirect


def test_several_devices():
    """Each interface is a device of its own, so that nothing is in the other's way."""
    text = "interface gre1 map 10.1.0.1/24 10.0.0.1 register interface gre2 redirect"
    assert checked(text).messages == []
    assert [(s.interface, s.transport) for s in plan(text).speakers] == [
        ("gre1", "device"),
        ("gre2", "device"),
    ]


def of_hub(text: str) -> Plan:
    """The plan of the hub with more lines in its block."""
    return plan(f"{HUB}\n{text}")


@pytest.mark.parametrize(
    "line",
    [
        "map 10.255.255.9/24 10.0.0.9",
        "map 10.255.255.9/24 10.0.0.9 register",
        "map 10.255.255.9/24 10.0.0.9 cisco",
        "map 10.255.255.9/24 10.0.0.9 register cisco",
        "map 10.255.255.9 nine.example register",
        "dynamic-map 10.255.255.0/24 hubs.example",
        "shortcut-target 192.168.0.0/16",
        "shortcut-target 192.168.0.0/16 holding-time 60",
        "holding-time 60",
        "cisco-authentication word",
        "route-table 9",
        "shortcut",
    ],
)
def test_takes_effect(line):
    """It changes what the daemon does, and says nothing."""
    text = f"{HUB}\n{line}"
    assert checked(text).messages == []
    assert plan(text) != plan(HUB)
    # ... and on a line of its own, as the word by word parser would have it.
    assert plan(f"{HUB}\n" + "\n".join(line.split())) == plan(text)


def test_options_take_effect():
    """What stands after a map tells it from a map without."""
    maps = [
        of_hub(f"map 10.255.255.9/24 10.0.0.9 {options}").layer3[0].maps[0]
        for options in ("", "register", "cisco", "register cisco")
    ]
    plain, register, cisco, both = maps
    assert plain.protocol == parse_ip("10.255.255.9")
    assert register == replace(plain, register=True)
    assert cisco == replace(plain, peer="cisco")
    assert both == replace(plain, register=True, peer="cisco")


def test_holding_times():
    """After a shortcut-target it is that one's, else the interface's."""
    text = f"{HUB} shortcut-target 192.168.0.0/16 holding-time 60 holding-time 90"
    assert plan(text).layer3[0].targets[0].holding_time == 60
    assert plan(text).speakers[0].holding_time == 90


@pytest.mark.parametrize(
    ("given", "kept", "reason"),
    [
        (0, 30, "a lost packet could not be sent again in time"),
        (29, 30, "a lost packet could not be sent again in time"),
        (65536, 65535, "packets have no room for more than 65535"),
        (86400, 65535, "packets have no room for more than 65535"),
    ],
)
def test_holding_times_that_cannot_be_kept(given, kept, reason):
    """OpenNHRP takes any number; the nearest one that works is used, and a warning says so."""
    text = f"{HUB} shortcut-target 192.168.0.0/16 holding-time {given}\nholding-time {given}"
    assert plan(text).layer3[0].targets[0].holding_time == kept
    assert plan(text).speakers[0].holding_time == kept
    said = f"warning: taken for {kept} seconds: {reason} near '{given}'"
    assert sorted(warnings(text)) == [f"1: {said}", f"2: {said}"]


@pytest.mark.parametrize("seconds", [30, 65535])
def test_holding_times_at_the_bounds(seconds):
    """They are kept as they are."""
    text = f"{HUB} holding-time {seconds}"
    assert checked(text).messages == []
    assert plan(text).speakers[0].holding_time == seconds


def test_non_caching():
    """We never cache what passes through, so the word is true without an effect."""
    assert checked(f"{HUB} non-caching").messages == []
    assert plan(f"{HUB} non-caching") == plan(HUB)


@pytest.mark.parametrize("destination", ["dynamic", "nhs", "10.255.255.1"])
def test_multicast_warns(destination):
    """Packets to groups are not copied, and the file is told so."""
    text = f"{HUB}\nmulticast {destination}"
    assert plan(text) == plan(HUB)
    assert warnings(text) == [
        "2: warning: multicast has no effect (packets to groups are not copied in this release)"
        " near 'multicast'"
    ]


def test_shortcut_destination_warns():
    """It stands alone in the block of another device; the warning says what to write instead."""
    text = f"{HUB}\ninterface eth1\nshortcut-destination"
    assert plan(text) == plan(HUB)
    assert (
        "3: warning: shortcut-destination has no effect (name the interface's networks with"
        " shortcut-target) near 'shortcut-destination'"
    ) in warnings(text)


def test_an_empty_block_warns():
    """OpenNHRP would serve that interface; what has no word of NHRP may be anything here."""
    assert warnings(f"{HUB}\ninterface gre2") == [
        "2: warning: no `controller` names this interface, and it does not say `transport device`:"
        " this interface has no effect near 'gre2'"
    ]
    assert checked(f"{HUB}\ninterface gre2 transport device").messages == []


def test_a_word_without_an_interface():
    """That is an error of OpenNHRP's, too."""
    assert errors("map 10.255.255.1 10.0.0.1") == [
        "1: belongs to an interface: write `interface NAME` before it near 'map'"
    ]
