"""`make interop` where it cannot run, and how it reads FRR; all else it shows itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interop import guest, packages
from interop.frr import read_table
from interop.report import Report
from interop.stories import STORIES, title
from lab.wait import Timeout


def test_no_root_no_guest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is not root is told so, and the exit status is that of a skipped test."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert guest.main(["true"]) == guest.SKIPPED
    assert "only root" in capsys.readouterr().err


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """A guest without one is a mistake of the command line's."""
    with pytest.raises(SystemExit) as ended:
        guest.main([])
    assert ended.value.code == 2
    assert "name a command" in capsys.readouterr().err


def test_a_package_that_nobody_brings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without apt-get is told which package to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.PackageMissing, match=r"peer is not installed.*no apt-get"):
        packages.provide("dmevpn-peer", "/usr/lib/dmevpn-peer/peerd")


def test_an_installed_package_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is there is taken, without a network."""
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "peerd"
    program.touch()
    assert packages.provide("dmevpn-peer", str(program)) == program


def test_a_kernel_that_does_not_start() -> None:
    """The reason is what it said last, without the trace of its panic."""
    console = (
        b"Linux version 6.1\nmount: /run/root: too many",
        b" levels\nKernel panic - not syncing\nCall Trace:\n [<0>]\n",
    )
    said = guest.last_words(console)
    assert said == "Linux version 6.1; mount: /run/root: too many levels (kernel panic)"


@pytest.mark.parametrize("head", ["", "Type     Prefix    Via    Identity\n"])
def test_a_table_of_frr(head: str) -> None:
    """The head of the text table may stand before the JSON."""
    text = head + '{"attr": {"entriesCount": 1}, "table": [{"prefix": "192.168.3.0/24"}]}\n'
    assert read_table(text) == [{"prefix": "192.168.3.0/24"}]


def test_a_message_of_frr() -> None:
    """Without entries FRR prints a message."""
    assert read_table("% No entries\n") == []


def test_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is said when it happens, and once more in the table; a failure is counted."""
    report = Report()
    report.begin("FRR with FRR")
    report.show("pings", "20 of 20")
    assert report.wait("registered", lambda: "yes") == "yes"
    with pytest.raises(Timeout):
        report.wait("a miracle", lambda: None, timeout=0)
    report.fail("no miracle\nwith details")
    assert (report.shown, report.failures) == (2, 1)
    assert "with details" in capsys.readouterr().out
    report.print_table()
    table = capsys.readouterr().out
    assert "with details" not in table
    lines = [line.split("  ", 2) for line in table.strip().splitlines()]
    assert lines[0] == ["FRR with FRR"]
    assert "pings       20 of 20" in table
    assert "FAILED      no miracle" in table


@pytest.mark.parametrize("name", STORIES)
def test_titles(name: str) -> None:
    """The table says who speaks with whom, by which transport."""
    words = title(name)
    assert "\n" not in words
    assert all(f"transport {each}" in words for each in ("raw", "device") if each in name)
