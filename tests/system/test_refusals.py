"""What a user does wrong, or a machine lacks, is one line that names the place and the cure."""

from __future__ import annotations

import ctypes.util
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.daemons import daemon_environment, twistd_command
from lab.topology import Lab, Machine
from tests.config.files import HUB, SPOKE
from tests.system.network import PREFIX

pytestmark = pytest.mark.system

#: Longer than a daemon takes to find out that it cannot start.
PATIENCE = 20


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Lab(PREFIX) as lab:
        yield lab.add_machine("lonely", 2)


@pytest.fixture
def start(machine: Machine, tmp_path: Path) -> Iterator[Start]:
    before = machine.namespace.devices()
    yield Start(machine, tmp_path)
    assert machine.namespace.devices() == before, "devices were left behind"
    assert not list(tmp_path.glob("*.sock")), "an admin socket was left behind"
    assert "clsact" not in machine.namespace.run("tc", "qdisc", "show").stdout


class Start:
    """Starts of a daemon that must not succeed."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.directory = directory

    def write(self, text: str) -> Path:
        path = self.directory / "broken.conf"
        path.write_text(
            f"admin unix:{self.directory}/broken.sock\nstate-dir {self.directory}/state\n{text}"
        )
        return path

    def refusal(self, config: Path, *prefix: str) -> str:
        """The line that a start ends with.

        :param prefix: a command that runs the daemon's command line.
        """
        done = subprocess.run(
            self.machine.namespace.command(*prefix, *twistd_command(config)),
            capture_output=True,
            text=True,
            env=daemon_environment(),
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0]


@pytest.mark.parametrize(
    ("line", "where", "said"),
    [
        ("interface vx1\n    frobnicate 1", 4, "frobnicate"),
        ("interface vx1\n    vpn-id", 4, "vpn-id"),
        ("interface vx1\n    default-vni 100 10.0.0.300 register", 4, "10.0.0.300"),
        ("interface vx1\n    default-vni 16777216 10.0.0.1 register", 4, "16777216"),
    ],
    ids=["unknown word", "missing argument", "invalid address", "VNI too large"],
)
def test_broken_file(start: Start, line: str, where: int, said: str) -> None:
    """A mistake in the file is named with file, line and word."""
    config = start.write(f"{line}\n")
    refusal = start.refusal(config)
    assert refusal.startswith(f"dmevpn: {config}:{where}: ")
    assert said in refusal


def test_missing_file(start: Start) -> None:
    """A file that is not there is named."""
    path = start.directory / "nowhere.conf"
    assert str(path) in start.refusal(path)


def test_missing_device(start: Start) -> None:
    """A data interface that does not exist is named, with the way to have it made."""
    refusal = start.refusal(start.write(SPOKE.replace("    provision br1\n", "")))
    assert "vx1" in refusal
    assert "provision" in refusal


@pytest.mark.parametrize(("text", "port"), [(SPOKE, 4789), (SPOKE, 4788), (HUB, 4789)])
def test_port_in_use(start: Start, text: str, port: int) -> None:
    """A UDP port that another program has is named."""
    with start.machine.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", port))
        refusal = start.refusal(start.write(text))
    assert str(port) in refusal
    assert "vxlan-port" in refusal


@pytest.mark.parametrize(
    ("text", "device", "parameters", "said"),
    [
        (SPOKE, "vx1", "id 7 dstport 4789", "id is 7, not 100, local is none, not 10.0.0.2"),
        (HUB, "vx0", "external dstport 8472", "dstport is 8472, not 4789"),
    ],
    ids=["spoke", "hub"],
)
def test_device_of_others(start: Start, text: str, device: str, parameters: str, said: str) -> None:
    """A device that is not ours and not right is named with what differs, and left alone."""
    namespace = start.machine.namespace
    namespace.ip("link", "add", device, "type", "vxlan", *parameters.split())
    before = namespace.ip_json("link", "show", "dev", device)
    try:
        refusal = start.refusal(start.write(text))
        assert namespace.ip_json("link", "show", "dev", device) == before
    finally:
        namespace.ip("link", "del", device)
    assert f"interface {device}: a device of that name exists and is not ours: {said}" in refusal
    assert f"`ip link delete {device}`" in refusal


@pytest.mark.parametrize("text", [SPOKE, HUB], ids=["spoke", "hub"])
def test_no_privileges(start: Start, text: str) -> None:
    """Without its capabilities the daemon says which one it needs."""
    refusal = start.refusal(start.write(text), "setpriv", "--bounding-set", "-all")
    assert "CAP_NET_" in refusal


def test_no_libbpf(start: Start) -> None:
    """A hub without libbpf says what to install."""
    name = ctypes.util.find_library("bpf")
    assert name is not None
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    paths = [line.split(" => ")[1] for line in found.splitlines() if line.strip().startswith(name)]
    # In a mount namespace of its own the library's file is an empty one.
    hide = " && ".join(f"mount --bind /dev/null {os.path.realpath(path)}" for path in paths)
    hidden = ("unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh")
    refusal = start.refusal(start.write(HUB), *hidden)
    assert "libbpf" in refusal


def test_no_way_to_the_hub(start: Start) -> None:
    """A hub that no route leads to is named."""
    refusal = start.refusal(start.write(SPOKE.replace("10.0.0.1", "192.0.2.1")))
    assert "192.0.2.1" in refusal
