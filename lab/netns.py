"""Named network namespaces: make, enter, run programs and open sockets in them, remove."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.wait import Timeout, eventually

__all__ = ["CommandFailed", "Namespace", "namespaces", "run"]

#: Where iproute2 keeps the names.
NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(AssertionError):
    """A program of the laboratory failed; the text has its command line and what it said."""


def run(*argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, its output captured as text.

    :raises CommandFailed: it exited non-zero and ``check`` is set.
    """
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"`{' '.join(argv)}` exited {done.returncode}: {said}")
    return done


class Namespace:
    """One named network namespace.

    :param name: its name among all of the machine's; the laboratory puts its prefix before it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS / name

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    def create(self) -> None:
        """Make it, with its loopback device up."""
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def remove(self) -> None:
        """End the processes that still run in it, and remove it with all its devices."""
        if not self.path.exists():
            return
        self.end_processes()
        run("ip", "netns", "del", self.name)

    def end_processes(self) -> None:
        """End what still runs in it: politely first, so that a daemon tidies up.

        A namespace lives on, nameless and out of reach, for as long as a process is in it.
        """
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(Timeout):
                eventually(
                    f"end of the processes in {self.name}",
                    lambda: not self.processes(),
                    timeout=patience,
                )
                return

    def processes(self) -> list[int]:
        """The processes that run in it. A dead one that nobody has waited for is not among them."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).stdout.split()]

    def command(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` in it.

        Not ``ip netns exec``: that mounts a /sys of its own, in which the daemon's bpffs is hidden.
        """
        return ["nsenter", f"--net={self.path}", *argv]

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it, as :func:`run` does."""
        return run(*self.command(*argv), check=check, timeout=timeout)

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` on it."""
        run("ip", "-n", self.name, *arguments)

    def ip_json(self, *arguments: str) -> list[dict[str, Any]]:
        """What ``ip -json -details`` shows in it."""
        return self._json("ip", "-n", self.name, "-json", "-details", *arguments)

    def bridge(self, *arguments: str) -> None:
        """Run ``bridge`` on it."""
        run("bridge", "-n", self.name, *arguments)

    def fdb(self, device: str) -> list[dict[str, Any]]:
        """The forwarding database of a vxlan device or bridge port, as ``bridge -json`` has it."""
        return self._json("bridge", "-n", self.name, "-json", "fdb", "show", "dev", device)

    @staticmethod
    def _json(*argv: str) -> list[dict[str, Any]]:
        text = run(*argv).stdout
        # iproute2 prints nothing at all for an empty list, and `{}` for an attribute it skips.
        return [row for row in json.loads(text or "[]") if row]

    def devices(self) -> set[str]:
        """The names of its network devices, loopback left out."""
        return {row["ifname"] for row in self.ip_json("link", "show")} - {"lo"}

    def set_option(self, option: str, value: object) -> None:
        """Set a sysctl below ``/proc/sys/net``, such as ``ipv6/conf/all/disable_ipv6``."""
        with self.entered():
            Path("/proc/sys/net", option).write_text(str(value))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread in it for the duration of a ``with``.

        Sockets opened meanwhile stay in it for their whole life.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket in it."""
        with self.entered():
            return socket.socket(family, kind, protocol)


def _setns(fd: int) -> None:
    # os.setns exists from Python 3.12 only.
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def namespaces(prefix: str) -> list[Namespace]:
    """The namespaces whose name begins with ``prefix`` and a dash."""
    if not NETNS.is_dir():
        return []
    return [
        Namespace(path.name)
        for path in sorted(NETNS.iterdir())
        if path.name.startswith(f"{prefix}-")
    ]
