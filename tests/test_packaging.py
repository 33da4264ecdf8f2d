"""The Debian package and the unit fit the rest of the tree (`make deb-check` tries them)."""

from __future__ import annotations

import re
from pathlib import Path

from dmevpn import __version__

ROOT = Path(__file__).resolve().parent.parent
UNIT = (ROOT / "etc" / "dmevpn@.service").read_text()


def test_version() -> None:
    """The package has the version of the program."""
    assert (ROOT / "debian" / "changelog").read_text().startswith(f"dmevpn ({__version__}) ")


def test_files_of_the_package() -> None:
    """What the package takes from the tree is there."""
    for name in ("install", "manpages", "docs", "examples"):
        for line in (ROOT / "debian" / f"dmevpn.{name}").read_text().splitlines():
            assert list(ROOT.glob(line.split()[0])), line


def test_the_unit_is_given_the_private_twistd() -> None:
    """The package replaces the program of the unit, and nothing else of the line."""
    [command] = re.findall(r"^ExecStart=(\S+) (.*)$", UNIT, re.MULTILINE)
    assert command[0].endswith("/twistd")
    assert command[1].endswith("dmevpn --config /etc/dmevpn/%i.conf")


def test_the_unit_watches() -> None:
    """The manager waits for the start, hears of reloads, and restarts a daemon that is stuck."""
    said = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert said["Type"] == "notify" and int(said["WatchdogSec"]) >= 10
    assert said["ExecReload"].endswith("-HUP $MAINPID")
    dropin = (ROOT / "etc" / "notify-reload.dropin").read_text()
    assert "Type=notify-reload" in dropin and "ExecReload=\n" in dropin
