"""Where switches are pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmevpn.dataplane.ebpf.layout import LAYOUT
from dmevpn.dataplane.ebpf.pins import PinDirectory, _filesystem
from dmevpn.errors import StartError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a bpffs needs root")

ROOT = f"/sys/fs/bpf/dmf-pins-{os.getpid()}"


@pytest.fixture
def pins() -> Iterator[PinDirectory]:
    pins = PinDirectory(ROOT, "vx0")
    yield pins
    if pins.path:
        pins.remove()


def in_own_mounts(script: str, *prepare: str) -> str:
    """What a script prints in a mount namespace of its own, after some shell commands."""
    code = textwrap.dedent(script)
    shell = "; ".join([*prepare, 'exec "$0" -c "$1"'])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, sys.executable, code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_path(pins: PinDirectory) -> None:
    """The path tells layout, network namespace and device."""
    pins.open()
    version, name = pins.path.removeprefix(ROOT + "/").split("/")
    assert version == f"v{LAYOUT}"
    assert name.endswith("-vx0")
    assert int(name.removesuffix("-vx0"), 16) > 0
    assert pins.names() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: os.chown(path, 65534, -1),
        lambda path: os.chmod(path, 0o777),
        lambda path: os.chmod(path, 0o775),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_directory_of_somebody_else(pins: PinDirectory, spoil, depth: int) -> None:
    """Who made it first, where everybody may, does not get to exchange our pins."""
    pins.open()
    pins.close()
    path = "/".join(pins.path.split("/")[: len(ROOT.split("/")) + depth])
    spoil(path)
    try:
        with pytest.raises(StartError, match="may exchange what is pinned there"):
            pins.open()
    finally:
        os.chown(path, 0, -1)
        os.chmod(path, 0o700)
    pins.open()


def test_a_place_for_everybody(pins: PinDirectory) -> None:
    """A bpffs may be one, but not the directory of our own pins."""
    pins.open()
    pins.close()
    os.chmod(ROOT, 0o1777)
    pins.open()
    pins.close()
    os.chmod(pins.path, 0o1777)
    with pytest.raises(StartError, match="may exchange what is pinned there"):
        pins.open()


def test_lock(pins: PinDirectory) -> None:
    """A second daemon is kept out until the first is gone, however it went."""
    pins.open()
    second = PinDirectory(ROOT, "vx0")
    with pytest.raises(StartError, match="vx0: another dmevpn daemon"):
        second.open()
    pins.close()
    second.open()
    second.close()
    pins.open()


def test_devices_are_apart(pins: PinDirectory) -> None:
    """Removing one device's pins leaves the other's."""
    pins.open()
    other = PinDirectory(ROOT, "vx1")
    other.open()
    other.remove()
    assert not os.path.exists(other.path)
    assert os.path.isdir(pins.path)


def test_nothing_is_left(pins: PinDirectory) -> None:
    """The last one to go takes the directories along."""
    pins.open()
    pins.remove()
    assert not os.path.exists(ROOT)
    pins.path = ""


def test_filesystem(pins: PinDirectory) -> None:
    """The file system of a path is known before the path exists."""
    pins.open()
    assert _filesystem("/sys/fs/bpf/dmevpn/v1") == "bpf"
    assert _filesystem("/proc/self/nothing") == "proc"
    assert _filesystem("/sys/fs/bpfoo") == "sysfs"


def test_mounts_a_bpffs() -> None:
    """A machine without a bpffs gets one."""
    said = in_own_mounts(
        """
        from dmevpn.dataplane.ebpf.pins import PinDirectory, _filesystem
        pins = PinDirectory("/sys/fs/bpf/dmf-mount", "vx0")
        pins.open()
        print(_filesystem("/sys/fs/bpf"))
        """,
        "while umount /sys/fs/bpf 2>/dev/null; do :; done",
    )
    assert said == "bpf"


def test_bpffs_elsewhere(tmp_path: Path) -> None:
    """Another root is mounted at that root."""
    said = in_own_mounts(
        f"""
        from dmevpn.dataplane.ebpf.pins import PinDirectory, _filesystem
        pins = PinDirectory({str(tmp_path / "pins")!r}, "vx0")
        pins.open()
        print(_filesystem({str(tmp_path / "pins")!r}), _filesystem({str(tmp_path)!r}) == "bpf")
        """
    )
    assert said == "bpf False"


def test_may_not_mount() -> None:
    """Whoever may not mount is told the command."""
    said = in_own_mounts(
        """
        from dmevpn.dataplane.ebpf.pins import PinDirectory
        from dmevpn.errors import StartError
        try:
            PinDirectory("/sys/fs/bpf/dmf-mount", "vx0").open()
        except StartError as error:
            print(error)
        """,
        "while umount /sys/fs/bpf 2>/dev/null; do :; done",
        'set -- "$0" "$1"',
        'exec setpriv --bounding-set=-all --inh-caps=-all "$1" -c "$2"',
    )
    assert said.startswith("no bpffs at /sys/fs/bpf: mount -t bpf bpf /sys/fs/bpf")
