"""Completion of dmevpnctl, as bash itself does it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.ctl import FLAGS
from dmevpn.admin.parameters import BINDING_TYPES, LOG_LEVELS

SCRIPT = Path(__file__).resolve().parent.parent.parent / "etc" / "bash-completion" / "dmevpnctl"

#: Completes the line that is its first argument, with sockets from its second, as readline would.
BASH = """
source "$0"
_dmevpnctl_directory=$2
COMP_LINE=$1 COMP_POINT=${#1}
_dmevpnctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path: Path) -> Callable[[str], list[str]]:
    """The words that bash offers for the end of a line."""

    def run(line: str) -> list[str]:
        words = ["bash", "--norc", "-uc", BASH, str(SCRIPT), f"dmevpnctl {line}", str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=10)
        assert done.stderr == ""
        return sorted(done.stdout.split())

    return run


GROUPS = sorted({name.split()[0] for name in COMMANDS})
FILTERS = sorted(["vpn", "mac", "nbma", "protocol", "vni", "type", "interface"])


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", GROUPS),
        ("ca", ["cache"]),
        ("--json ca", ["cache"]),
        ("cache ", ["flush", "purge", "resolve", "show", "watch"]),
        ("cache sh", ["show"]),
        ("cache show ", FILTERS),
        ("cache show v", ["vni", "vpn"]),
        ("cache show vpn 1 v", ["vni"]),
        ("cache show vpn ", []),
        ("cache show type ", sorted(BINDING_TYPES)),
        ("cache show type ca", ["cached"]),
        ("--name hub cache show mac 52:54:00:12:34:56 ty", ["type"]),
        ("cache resolve 52:54:00:12:34:56 ", ["vpn"]),
        ("log level ", sorted(["level", *LOG_LEVELS])),
        ("log level de", ["debug"]),
        ("log level debug ", []),
        ("version ", []),
        ("-", sorted(FLAGS)),
        ("cache show --j", ["--json"]),
        ("nonsense ", []),
        ("nonsense and more ", []),
    ],
)
def test_words(complete: Callable[[str], list[str]], line: str, offered: list[str]) -> None:
    """What may stand at the end of the line is offered, and nothing else."""
    assert complete(line) == offered


def test_every_command(complete: Callable[[str], list[str]]) -> None:
    """Every command of the table is found, with all that it takes."""
    for name, command in COMMANDS.items():
        assert set(complete(f"{name} ")) >= {parameter.name for parameter in command.parameters}


def test_daemons(complete: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Daemons that have a socket are offered, by name and by endpoint."""
    (tmp_path / "no.sock").touch()
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(tmp_path / "hub.sock"))
        two.bind(str(tmp_path / "spoke.sock"))
        assert complete("--name ") == ["hub", "spoke"]
        assert complete("--name s") == ["spoke"]
        assert complete("--endpoint u") == [
            f"unix:{tmp_path}/hub.sock",
            f"unix:{tmp_path}/spoke.sock",
        ]
        # Readline puts in what stands behind the colon.
        assert complete(f"--endpoint unix:{tmp_path}/h") == [f"{tmp_path}/hub.sock"]


def test_files_and_interfaces(complete: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Files are those that are here, interfaces those of the machine."""
    (tmp_path / "hub.conf").touch()
    assert complete("config check h") == ["hub.conf"]
    assert set(complete("cache show interface ")) == set(os.listdir("/sys/class/net"))
