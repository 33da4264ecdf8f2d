"""What `make` does first, on a machine that is set up and on machines that cannot be."""

from __future__ import annotations

import subprocess

import pytest

from lab.daemons import ROOT
from lab.netns import namespaces

pytestmark = pytest.mark.system

#: Says that `make` has set this checkout up; tests that are run by other means may lack it.
STAMP = ROOT / ".venv" / ".dmevpn-test"


def setup(*prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, "tools/setup.sh", "demo"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_needs_root() -> None:
    """Anybody else is told in one line."""
    # Through standard input, since others may not look into root's checkout.
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-s", "demo"],
        input=(ROOT / "tools" / "setup.sh").read_text(),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == ("setup: network namespaces need root: run this as root, or with sudo\n")


@pytest.mark.skipif(not STAMP.exists(), reason="this checkout was not set up by make")
def test_second_run_needs_no_network() -> None:
    """Where everything is in place nothing is fetched, nothing said, and no probe left behind."""
    done = setup("unshare", "--net")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not namespaces("dmprobe")


def test_closed_container() -> None:
    """Where namespaces cannot be made, that is what is said, and not that devices are missing."""
    done = setup("setpriv", "--bounding-set", "-sys_admin")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: this kernel or container allows no network namespaces")
    assert done.stderr.count("\n") == 1
