"""The manual pages are well-formed, and name all that there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.opennhrp import COMMANDS as OPENNHRP
from dmevpn.admin.opennhrpctl import SOCKETS
from dmevpn.config.grammar import KEYWORDS

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "man"
PAGES = sorted(DIRECTORY.iterdir())


def shown(name: str) -> str:
    """A page as a reader sees it, on one line."""
    done = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=1000", str(DIRECTORY / name)],
        capture_output=True,
        check=True,
    )
    text = re.sub(rb".\x08", b"", done.stdout).decode()
    return " ".join(text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lint(page: Path) -> None:
    """mandoc finds nothing to complain of, not even style."""
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", str(page)], capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""


def test_sections() -> None:
    """Each page has what a reader looks for."""
    assert [page.name for page in PAGES] == [
        "dmevpn.8",
        "dmevpn.conf.5",
        "dmevpnctl.8",
        "opennhrpctl.8",
    ]
    for page in PAGES:
        sections = re.findall(r"^\.SH (.+)$", page.read_text(), re.MULTILINE)
        assert sections[0] == "NAME" and sections[-1] == "SEE ALSO"
        assert {"DESCRIPTION", "OPTIONS", "FILES"} <= set(sections)
        assert "SIGNALS" in sections or page.name != "dmevpn.8"
        assert "EXIT STATUS" in sections or not page.name.endswith(".8")


def test_keywords() -> None:
    """Every keyword is there with its arguments, as a user would write it."""
    text = shown("dmevpn.conf.5")
    for row in KEYWORDS.values():
        words = [row.name, *(f"[{a.name}]" if a.wanted else a.name for a in row.arguments)]
        assert " ".join(words) in text


def test_commands() -> None:
    """Every command is there with what it takes and shows."""
    text = shown("dmevpnctl.8")
    for command in COMMANDS.values():
        assert command.name in text and f"{command.summary}." in text
        assert all(" ".join(column.meaning.split()) in text for column in command.columns)


def test_commands_of_opennhrp() -> None:
    """So is every command that the socket of OpenNHRP's users takes."""
    text = shown("opennhrpctl.8")
    assert all(name in text for name in OPENNHRP)
    assert all(f"{place}" in text for place in SOCKETS)


def test_no_marks_of_the_source_are_left() -> None:
    """Backticks and backslashes are for those who write."""
    for page in PAGES:
        assert not set("`\\") & set(shown(page.name))
