"""README's commands do what it says, taken from its text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.readme import blocks, run

pytestmark = pytest.mark.system

#: Until those who were asked to end have done so.
ENDED = """
for try in $(seq 100); do ls /run/dmevpn-*.pid 2>/dev/null || break; sleep 0.1; done
ls -A /run/netns /run/dmevpn
"""


def test_two_sites(tmp_path: Path) -> None:
    """From an empty /etc/dmevpn to two sites that ping each other by a shortcut, and back."""
    output = run(blocks("Two sites of your own") + ENDED, tmp_path)
    assert "3 packets transmitted, 3 received, 0% packet loss" in output
    _, registration, cache, events, members = output.split("+ dmevpnctl --name ")
    assert registration.startswith("paris registration show")
    assert "registered" in registration
    assert re.search(r"cached +198\.51\.100\.3 +7002", cache)
    assert "shortcut-up" in events
    for site, vni in ((2, 7001), (3, 7002)):
        assert re.search(rf"198\.51\.100\.{site} +{vni}", members)
    assert output.endswith("+ ls -A /run/netns /run/dmevpn\n/run/dmevpn:\n\n/run/netns:\n"), output
