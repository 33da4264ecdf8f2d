"""What is installed is whole, and the Debian package and the unit fit the rest of the tree
(`make deb-check` tries them)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmevpn import __version__

ROOT = Path(__file__).resolve().parent.parent
UNIT = (ROOT / "etc" / "dmevpn@.service").read_text()


#: What is installed is made from.
SOURCES = ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `pip install .` has put a copy of this checkout, from a path with a space in it."""
    place = tmp_path_factory.mktemp("with a space")
    checkout = place / "check out"
    checkout.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, checkout)
    for name in ("dmevpn", "twisted"):
        shutil.copytree(
            ROOT / name,
            checkout / name,
            ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"),
        )
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", place / "target", "."],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, done.stderr
    return place / "target"


def files(directory: Path) -> dict[str, bytes]:
    """What a daemon needs of a tree."""
    found = {
        str(path.relative_to(directory)): path.read_bytes()
        for top in ("dmevpn", "twisted")
        for path in (directory / top).rglob("*")
        if path.is_file() and path.suffix not in (".c", ".build", ".pyc", ".cache")
    }
    return dict(sorted(found.items()))


def test_installed(installed: Path) -> None:
    """Every module, the programs for the kernel, the status page, the plugin of twistd, and nothing
    that would hide Twisted's own package."""
    found = files(installed)
    assert found == files(ROOT)
    assert {Path(name).suffix for name in found} >= {".py", ".o", ".html", ".js", ".css"}
    assert [name for name in found if name.startswith("twisted")] == [
        "twisted/plugins/dmevpn_plugin.py"
    ]


@pytest.mark.parametrize(
    ("program", "options", "name"),
    [
        ("dmevpnctl", [], "dmevpnctl"),
        ("opennhrpctl", [], "dmevpn"),
        ("twistd", ["dmevpn"], "dmevpn"),
    ],
)
def test_installed_commands(installed: Path, program: str, options: list[str], name: str) -> None:
    """They run, and are of this version."""
    place = Path(sys.executable).parent if program == "twistd" else installed / "bin"
    done = subprocess.run(
        [sys.executable, place / program, *options, "--version"],
        cwd="/",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name} {__version__}\n"


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
