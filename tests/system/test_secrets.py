"""What a daemon knows in secret is not to be read in logs, answers, files or process lists."""

from __future__ import annotations

import base64
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dmevpn.admin.commands import COMMANDS
from lab.daemons import Daemon, daemon_environment, twistd_command
from lab.flood import Probe
from lab.topology import Lab
from lab.wait import eventually
from tests.system.network import PREFIX

pytestmark = pytest.mark.system

CLEARTEXT = "Cl3arText-Zebra"
KEY = "A-key-of-many-octets-Quagga-91"
FILE_KEY = "Another-key-in-a-file-Okapi-17"
SECRETS = (CLEARTEXT, KEY, FILE_KEY)

CONFIG = f"""log-format json
metrics unix:{{directory}}/metrics.sock:mode=600
interface nhrp
    cisco-authentication {CLEARTEXT}
interface nhrp2
    gre-key 7
    authentication-key 256 hmac-sha-256 {KEY}
    authentication-key 257 hmac-sha-256 file:{{directory}}/key accept-only
interface vx0
    controller nhrp
    vpn-id 1
    l2learnonly
    provision
interface vx2
    controller nhrp2
    vpn-id 2
    l2learnonly
    provision
    vxlan-port 4790
"""
#: Words behind commands that want some.
ARGUMENTS = {
    "explain": ["02:00:00:00:00:01"],
}
#: Commands that could know one: they read the file, the plan or the journal, or see packets. The
#: others list addresses and numbers.
TOLD = {
    *("config show", "config check", "config diff", "config reload", "interface show"),
    *("metrics show", "events", "doctor", "explain", "registration show"),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(PREFIX) as lab:
        yield lab


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    """A hub with every kind of secret, whose peers have had reasons to complain."""
    hub, site = lab.add_machine("hub", 1), lab.add_machine("site", 2)
    (lab.directory / "key").write_text(FILE_KEY + "\n")
    (lab.directory / "key").chmod(0o600)
    config = CONFIG.format(directory=lab.directory)
    daemon = Daemon(hub.namespace, lab.directory, "hub", config)
    daemon.start()
    try:
        daemon.ctl.run("log", "level", "debug")
        for secret in (CLEARTEXT, "wrong", ""):
            probe = Probe(site.namespace, site.address, hub.address, secret=secret)
            with probe, suppress(AssertionError):
                probe.register()
        yield daemon
    finally:
        daemon.stop()
    daemon.assert_sound()


def leaks(text: str) -> list[str]:
    """The secrets that can be read in a text, as they are or encoded."""
    return [
        secret
        for secret in SECRETS
        for form in (
            secret,
            secret.encode().hex(),
            base64.b64encode(secret.encode()).decode().rstrip("="),
        )
        if form.lower() in text.lower()
    ]


def test_answers(daemon: Daemon) -> None:
    """No command that could know a secret shows one; the file is shown without them."""
    said = {}
    for name in sorted(TOLD):
        command = COMMANDS[name]
        words = [*name.split(), *ARGUMENTS.get(name, [])]
        if any(parameter.name == "file" for parameter in command.parameters):
            words.append(str(daemon.config_path))
        done = daemon.ctl.run(*words)
        said[name] = done.stdout + done.stderr
    assert {what: leaks(text) for what, text in said.items() if leaks(text)} == {}
    assert "cisco-authentication ***" in said["config show"]


def test_metrics(daemon: Daemon, lab: Lab) -> None:
    """Nor does Prometheus read any."""
    text = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{lab.directory}/metrics.sock")
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        while octets := sock.recv(65536):
            text += octets
    assert b"dmevpn_" in text and not leaks(text.decode())


def test_log(daemon: Daemon, lab: Lab) -> None:
    """Not with every level, nor about peers whose packets are refused, nor about a reload."""
    assert daemon.ctl.run("config", "reload").returncode == 0
    text = daemon.config_path.read_text()
    daemon.config_path.write_text(text.replace("cisco-authentication", "cisco-authentification"))
    assert daemon.ctl.run("config", "reload").returncode == 1
    check = subprocess.run(
        twistd_command(daemon.config_path, "--check"),
        capture_output=True,
        text=True,
        env=daemon_environment(),
    )
    assert check.returncode == 1 and "cisco-authentification" in check.stdout
    assert not leaks(check.stdout + check.stderr)
    daemon.config_path.write_text(text)
    eventually("a refusal", lambda: "authentication failure" in daemon.log)
    assert not leaks(daemon.log)


def test_process(daemon: Daemon) -> None:
    """Not in the command line or the environment of the daemon."""
    for name in ("cmdline", "environ", "comm"):
        assert not leaks(Path(f"/proc/{daemon.pid}/{name}").read_bytes().decode(errors="replace"))


def test_files(daemon: Daemon, lab: Lab) -> None:
    """What it writes holds no secret, and nobody else may read or write it."""
    own = {daemon.config_path, lab.directory / "key", daemon.log_path}
    written = [path for path in lab.directory.rglob("*") if path not in own]
    assert written
    for path in written:
        mode = path.lstat().st_mode
        assert path.is_symlink() or not mode & (stat.S_IRWXO | stat.S_IWGRP), path
        if stat.S_ISREG(mode):
            assert not leaks(path.read_bytes().decode(errors="replace")), path
