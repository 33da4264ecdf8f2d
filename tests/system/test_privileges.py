"""Daemons under all that the systemd unit takes from them: user, capabilities, system calls."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.confined import USER, Unit, confine
from lab.daemons import Daemon, daemon_environment, twistd_command
from lab.topology import Machine
from lab.traffic import ping
from lab.wait import eventually
from tests.system.network import Network, wait_for_shortcut

pytestmark = pytest.mark.system

UNIT = Unit(Path(__file__).parents[2] / "etc" / "dmevpn@.service")

#: What nobody needs who runs a daemon: the calls, and what each says when it is refused.
FORBIDDEN = """
import ctypes, errno, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    return ctypes.get_errno() if result == -1 else 0
def attempt(what, *arguments, **named):
    try:
        what(*arguments, **named)
    except OSError as error:
        return error.errno
    return 0
harmless = {
    "ptrace": lambda: call("ptrace", 0, 0, 0, 0),
    "writable code": lambda: attempt(mmap.mmap, -1, 4096, prot=7),
    "setuid": lambda: attempt(os.setuid, os.getuid()),
    "nice": lambda: attempt(os.nice, 1),
    "unshare": lambda: call("unshare", 0x04000000),
}
others = {
    "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "kexec_load": lambda: call("syscall", 246, 0, 0, None, 0),
    "add_key": lambda: call("syscall", 248, b"user", b"x", b"y", 1, -2),
    "socket of another family": lambda: attempt(socket.socket, 38, socket.SOCK_SEQPACKET),
    "write /etc": lambda: attempt(open, "/etc/dmevpn-was-here", "w"),
    "read /etc/shadow": lambda: attempt(open, "/etc/shadow"),
}
attempts = harmless | (others if sys.argv[1:] else {})
said = {name: each() for name, each in attempts.items()}
print(json.dumps(said))
"""


class ConfinedDaemon(Daemon):
    """A daemon as the unit runs it."""

    def command(self) -> list[str]:
        """See :func:`lab.confined.confine`."""
        argv = twistd_command(self.config_path)
        return self.namespace.command(*confine(UNIT, self.config_path.parent, argv))


class ConfinedNetwork(Network):
    """Its daemons are confined, each with a directory that belongs to it."""

    def add_daemon(self, name: str, number: int, config: str) -> Daemon:
        machine: Machine = self.lab.machines.get(name) or self.lab.add_machine(name, number)
        self.lab.directory.chmod(0o711)
        directory = self.lab.directory / name
        directory.mkdir(mode=0o755)
        daemon = ConfinedDaemon(machine.namespace, directory, name, config)
        daemon.config_path.chmod(0o644)
        self.daemons[name] = daemon
        daemon.start()
        return daemon


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with ConfinedNetwork() as network:
        network.add_hub(1)
        for number, vni in ((2, 100), (3, 101)):
            network.add_site(number, {1: vni})
        network.await_members()
        yield network


def status(daemon: Daemon) -> dict[str, str]:
    """What the kernel says of a daemon's process."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_they_have_nothing_else(network: Network) -> None:
    """An ordinary user with three capabilities, which can never be more, and a filter."""
    three = 1 << 12 | 1 << 13 | 1 << 39  # CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF
    for daemon in network.daemons.values():
        said = status(daemon)
        assert "0" not in said["Uid"].split()
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(said[kind], 16) == three, kind
        assert said["NoNewPrivs"] == "1" and said["Seccomp"] == "2"


def test_shortcut_and_reload(network: Network) -> None:
    """Stations reach each other, straight; a reload takes effect; limits are the kernel's work."""
    one, two = network.sites
    assert two.vm.address is not None
    assert ping(one.vm.namespace, two.vm.address, count=20, interval=0.01).lost == 0
    wait_for_shortcut(one, two)
    hub = network.hub
    text = hub.config_path.read_text()
    hub.config_path.write_text(text.replace("vpn-id 1\n", "vpn-id 1\n    vpn-id 7\n"))
    hub.signal(signal.SIGHUP)
    eventually("VPN 7", lambda: [r for r in hub.ctl.rows("vpn", "show") if r["vpn"] == 7])
    assert "CAP_BPF" not in hub.log and "not permitted" not in hub.log.lower()


def test_what_is_missing_is_said(network: Network, tmp_path: Path) -> None:
    """A daemon without its privileges names them in one line, and leaves nothing behind."""
    config = tmp_path / "poor.conf"
    config.write_text(
        f"admin unix:{tmp_path}/poor.sock:mode=600:lockfile=1\nstate-dir {tmp_path}/state\n"
        "interface nhrp\ninterface vx9\n    controller nhrp\n    vpn-id 9\n    l2learnonly\n"
        "    provision\n    vxlan-port 4999\n"
    )
    done = subprocess.run(
        network.lab.machines["hub"].namespace.command(
            *("setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_admin"),
            *twistd_command(config),
        ),
        capture_output=True,
        text=True,
        env=daemon_environment(),
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dmevpn: ")]
    assert "CAP_NET_RAW (GRE sockets), CAP_BPF (the hub's switch) missing" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert "vx9" not in network.lab.machines["hub"].namespace.devices()


def test_forbidden_calls(network: Network) -> None:
    """What a daemon never does, an intruder in it cannot do either; without the unit he could."""
    directory = network.lab.directory / "intruder"
    directory.mkdir(mode=0o755, exist_ok=True)
    script = [sys.executable, "-c", FORBIDDEN]
    confined = confine(UNIT, directory, [*script, "all"])
    machine = network.lab.machines["hub"].namespace
    said = []
    for command in (confined, script):
        done = subprocess.run(
            machine.command(*command), capture_output=True, text=True, env=daemon_environment()
        )
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert set(said[0].values()) <= {errno.EPERM, errno.EACCES, errno.EROFS}, said[0]
    assert len(said[0]) == 11
    assert set(said[1].values()) == {0}, said[1]


def test_stop(network: Network) -> None:
    """They take away what they have made."""
    for site in network.sites:
        site.daemon.stop()
        assert "vx1" not in site.machine.namespace.devices()
    network.hub.stop()
    assert "vx0" not in network.lab.machines["hub"].namespace.devices()
    for daemon in network.daemons.values():
        daemon.assert_sound()
        assert daemon.state_path.owner() == USER
