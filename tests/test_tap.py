"""``twistd dmevpn``: options, and mistakes told in one line before anything is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dmevpn import __version__
from dmevpn.tap import Options
from lab.daemons import ROOT

GOOD = "interface nhrp\ninterface vx0\n controller nhrp\n vpn-id 1\n provision\n l2learnonly\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good configuration file."""
    path = tmp_path / "hub.conf"
    path.write_text(GOOD)
    return path


def parse(*words: str) -> Options:
    """Parse a command line."""
    options = Options()
    options.parseOptions(list(words))
    return options


def test_good(file: Path) -> None:
    """The plan is ready when the options are read; NAME comes from the file's name."""
    options = parse("--config", str(file), "--state-dir", "/var/tmp/x")
    assert options.plan.hubs[0].interface == "vx0"
    assert options.plan.state_dir == "/var/tmp/x"
    assert options.plan.admin == ("unix:/run/dmevpn/hub.sock:mode=600:lockfile=1",)
    assert options.warnings == []


def test_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--check`` prints every error and warning, and exits 0 only without errors."""
    with pytest.raises(SystemExit) as left:
        parse("--config", str(file), "--check")
    assert left.value.code == 0 and capsys.readouterr().out == ""
    file.write_text(GOOD + " redirect\n")
    with pytest.raises(SystemExit) as left:
        parse("--config", str(file), "--check")
    assert left.value.code == 0 and "hub.conf:7: warning:" in capsys.readouterr().out
    file.write_text(GOOD + " foo\n bar\n")
    with pytest.raises(SystemExit) as left:
        parse("--config", str(file), "--check")
    out = capsys.readouterr().out
    assert left.value.code == 1 and ":7:" in out and ":8:" in out


#: Runs ``--check`` and prints what it touches: sockets, programs, directories, files written to.
WATCHED = """
import os, sys
from dmevpn.tap import Options

def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("socket.", "subprocess.", "os.mkdir", "os.remove", "os.rename")):
        print(event, arguments)

sys.addaudithook(watch)
Options().parseOptions(["--config", sys.argv[1], "--check"])
"""


def test_check_touches_nothing(file: Path) -> None:
    """``--check`` opens no socket, starts no program, and writes to no file."""
    words = (sys.executable, "-B", "-c", WATCHED, str(file))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_mistakes(file: Path) -> None:
    """The first mistake is the message, and says that there are more."""
    file.write_text(GOOD + " foo\n bar\n")
    with pytest.raises(SystemExit) as left:
        parse("--config", str(file))
    text = str(left.value.code)
    assert text.startswith(f"dmevpn: {file}:7: unknown word near 'foo'")
    assert "--check lists 1 more" in text and "\n" not in text


def test_missing(tmp_path: Path) -> None:
    """No file, or none that can be read."""
    with pytest.raises(SystemExit, match="say which file"):
        parse()
    with pytest.raises(SystemExit, match="No such file"):
        parse("--config", str(tmp_path / "absent.conf"))
    with pytest.raises(SystemExit, match="Is a directory"):
        parse("--config", str(tmp_path))


def test_strange_octets(file: Path) -> None:
    """Octets that are no text end in a line that names their place."""
    file.write_bytes(b"interface nhrp\n\xff\xfe\n")
    with pytest.raises(SystemExit) as left:
        parse("--config", str(file))
    str(left.value.code).encode("ascii")
    assert ":2:" in str(left.value.code)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` is ours, not Twisted's."""
    with pytest.raises(SystemExit):
        parse("--version")
    assert capsys.readouterr().out == f"dmevpn {__version__}\n"
