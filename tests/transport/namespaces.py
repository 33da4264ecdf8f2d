"""Network namespaces for tests of real sockets: entered by a thread, removed in the end."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["Namespaces", "needs_namespaces"]

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def needs_namespaces() -> None:
    """Skip the test, with the reason, where network namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")


class Namespaces:
    """Makes namespaces whose names nobody else uses, and removes them.

    :param prefix: of the names.
    """

    _numbers = itertools.count()

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}{os.getpid()}-"
        self._names: list[str] = []

    def add(self) -> str:
        """Make a namespace with its loopback up; its name."""
        name = f"{self._prefix}{next(self._numbers)}"
        self.ip("netns", "add", name)
        self._names.append(name)
        self.ip("-n", name, "link", "set", "lo", "up")
        return name

    def connect(self, one: str, other: str, ifname: str) -> None:
        """Put a veth pair between two namespaces; both ends have the same name."""
        self.ip(
            *("-n", one, "link", "add", ifname, "type", "veth"),
            *("peer", "name", ifname, "netns", other),
        )
        for name in (one, other):
            self.ip("-n", name, "link", "set", ifname, "up")

    def address(self, name: str, ifname: str, *addresses: str) -> None:
        """Give an interface addresses that can be used at once."""
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.ip("-n", name, "address", "add", address, "dev", ifname, *nodad)

    def remove_all(self) -> None:
        """Remove the namespaces, and with them their devices."""
        for name in self._names:
            self.ip("netns", "del", name)
        self._names.clear()

    @staticmethod
    def ip(*arguments: str) -> str:
        """Run ``ip``; what it prints."""
        command = ["ip", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    @staticmethod
    @contextmanager
    def inside(name: str) -> Iterator[None]:
        """Do something in a namespace; sockets opened in it stay there."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as namespace:
            _setns(namespace.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())


def _setns(descriptor: int) -> None:
    """``os.setns``, which Python has from 3.12."""
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
