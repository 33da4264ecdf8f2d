"""The files that we ship, and the documentation made from the keyword table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from dmevpn.config.resolve import Resolution, check

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "etc").rglob("*.conf"))


def load(path: Path) -> Resolution:
    """Check a file as the daemon does."""
    return check(path.read_text(encoding="utf-8"), str(path), path.stem)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_files(path):
    """Every file in etc/ is correct; only the original's have warnings."""
    resolution = load(path)
    assert resolution.errors == []
    if "original" not in path.parts:
        assert resolution.warnings == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_default_endpoints(path):
    """Twisted understands the endpoints of the plan."""
    resolution = load(path)
    assert resolution.plan is not None
    for description in resolution.plan.admin:
        serverFromString(MemoryReactor(), description)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commented_out_lines(path):
    """What a file shows as a comment works when the comment sign is removed."""
    text = re.sub(r"^( *)#(?=[^# ])", r"\1", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert check(text, str(path), path.stem, lambda path: bytes(16)).errors == []


def test_demo_agrees():
    """The demonstration's hub and spokes fit together: one VPN, two VNIs, one hub."""
    plans = {path.stem: load(path).plan for path in FILES if path.parent.name == "demo"}
    hub, first, second = plans["hub"], plans["spoke1"], plans["spoke2"]
    assert hub is not None and first is not None and second is not None
    assert hub.hubs[0].vpns == ((1, 1),)
    assert [p.spokes[0].vni for p in (first, second)] == [100, 101]
    for each in (first, second):
        assert each.spokes[0].vpn.index == 1
        assert [s.address for s in each.spokes[0].servers] == [b"\x0a\0\0\x01"]
        assert each.spokes[0].port == hub.hubs[0].port


def test_documentation_is_up_to_date():
    """docs/configuration.md tells what the keyword table says."""
    script = ROOT / "tools" / "generate_docs.py"
    result = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_examples_of_the_documentation():
    """The examples in docs/configuration.md are correct."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    examples = [part for part in text.split("\n\n") if part.startswith("    interface")]
    assert len(examples) == 3
    for example in examples:
        assert check(example, "example", "example").messages == []
