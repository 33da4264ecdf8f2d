"""The network under test: an underlay, the machines on it, and virtual machines behind them.

::

      vm1                      vm2          one namespace each: eth0, 1500 octets
       |                        |
    [bridge]                [bridge]
     spoke1       hub        spoke2         ul0: 10.0.0.N/24 and fd00:10::N/64, 1600 octets
       |           |            |
    ---+-----------+------------+---        the underlay, a bridge in a namespace of its own
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.netns import CommandFailed, Namespace, namespaces, run
from lab.wait import eventually

__all__ = ["VM", "Lab", "Machine", "unpin"]

#: An underlay that leaves the virtual machines a full 1500: VXLAN takes 50 octets over IPv4 and 70
#: over IPv6.
UNDERLAY_MTU = 1600
VM_MTU = 1500

#: Where a hub pins its switch, in a directory LAYOUT/COOKIE-DEVICE; the cookie is the namespace's.
PINS = Path("/sys/fs/bpf/dmevpn")
#: asm-generic/socket.h; the socket module does not name it.
SO_NETNS_COOKIE = 71


class Machine:
    """A machine on the underlay: a hub or a spoke.

    :ivar address: its IPv4 address on the underlay.
    :ivar address6: its IPv6 address there.
    """

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.name = name
        self.namespace = Namespace(f"{lab.prefix}-{name}")
        self.address = f"10.0.0.{number}"
        self.address6 = f"fd00:10::{number:x}"
        self.namespace.create()
        # Ports of a switch have no business with IPv6 of their own; only ul0 gets addresses.
        self.namespace.set_option("ipv6/conf/default/disable_ipv6", 1)
        wire = f"to-{name}"
        self.namespace.ip(
            *("link", "add", "ul0", "mtu", str(UNDERLAY_MTU), "type", "veth"),
            *("peer", "name", wire, "mtu", str(UNDERLAY_MTU), "netns", lab.underlay.name),
        )
        lab.underlay.ip("link", "set", wire, "master", "br0", "up")
        self.namespace.set_option("ipv6/conf/ul0/disable_ipv6", 0)
        self.namespace.ip("link", "set", "ul0", "up")
        self.namespace.ip("address", "add", f"{self.address}/24", "dev", "ul0")
        self.namespace.ip("address", "add", f"{self.address6}/64", "dev", "ul0", "nodad")

    def add_bridge(self, name: str) -> None:
        """Make a site's bridge by hand, as an operator does who does not use `provision`."""
        self.namespace.ip("link", "add", "name", name, "type", "bridge", "mcast_snooping", "0")
        self.namespace.ip("link", "set", name, "up")


class VM:
    """A virtual machine at a site: a namespace whose eth0 is plugged into the site's bridge.

    :ivar mac: the address of its eth0.
    :ivar address: its IPv4 address, or None.
    :ivar address6: its IPv6 address, or None.
    """

    def __init__(
        self, lab: Lab, name: str, mac: str, address: str | None, address6: str | None
    ) -> None:
        self.name = name
        self.namespace = Namespace(f"{lab.prefix}-{name}")
        self.mac = mac
        self.address = address.partition("/")[0] if address else None
        self.address6 = address6.partition("/")[0] if address6 else None
        self.machine: Machine | None = None
        self._addresses = [text for text in (address, address6) if text]
        self.namespace.create()
        # Without IPv6 it is silent until it is told to speak, which cold starts and storms rely on.
        for scope in ("all", "default"):
            self.namespace.set_option(f"ipv6/conf/{scope}/disable_ipv6", int(address6 is None))
        self.namespace.set_option("ipv6/conf/default/accept_ra", 0)
        self.namespace.set_option("ipv6/conf/default/accept_dad", 0)

    def plug(self, machine: Machine, bridge: str, *, timeout: float = 10) -> None:
        """Give it its network card, plugged into a bridge, and its addresses.

        The bridge may be one that a daemon is about to make.
        """
        port = self.name
        eventually(
            f"bridge {bridge} at {machine.name}",
            lambda: bridge in machine.namespace.devices(),
            timeout=timeout,
        )
        self.namespace.ip(
            *("link", "add", "eth0", "mtu", str(VM_MTU), "address", self.mac, "type", "veth"),
            *("peer", "name", port, "mtu", str(VM_MTU), "netns", machine.namespace.name),
        )
        machine.namespace.ip("link", "set", port, "master", bridge, "up")
        self.namespace.ip("link", "set", "eth0", "up")
        for address in self._addresses:
            self.namespace.ip("address", "add", address, "dev", "eth0")
        self.machine = machine

    def unplug(self) -> None:
        """Take the network card away, as when the virtual machine leaves its site."""
        self.namespace.ip("link", "del", "eth0")
        self.machine = None

    def migrate(self, machine: Machine, bridge: str) -> None:
        """Plug its network card into a bridge of another machine, as a live migration does."""
        assert self.machine is not None, f"{self.name} is not plugged in"
        port = self.name
        self.machine.namespace.ip("link", "set", port, "netns", machine.namespace.name)
        machine.namespace.ip("link", "set", port, "master", bridge, "up")
        self.machine = machine


def pins(namespace: Namespace) -> list[Path]:
    """The directories on the bpffs where a hub in this namespace keeps its switch."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
    return list(PINS.glob(f"*/{cookie:x}-*"))


def unpin(namespace: Namespace) -> None:
    """Remove what a killed hub keeps for its successor: its switch, pinned."""
    for directory in pins(namespace):
        for pin in directory.iterdir():
            pin.unlink()
        directory.rmdir()


def _lock_path(prefix: str) -> Path:
    return Path("/run", f"{prefix}-lab.lock")


def _lock(prefix: str) -> int:
    """Keep a second run from tearing down the first, whose namespaces have the same names."""
    path = _lock_path(prefix)
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CommandFailed(f"another run is using the namespaces {prefix}-*: let it end") from None
    return lock


class Lab:
    """All of a laboratory. A context manager: what it made is gone at the end, whatever happened.

    An interrupted earlier run of the same prefix is cleaned up first.

    :param prefix: begins the name of every namespace, as in ``dmdemo`` for ``dmdemo-hub``.
    :ivar directory: for configurations, logs, sockets and state of the daemons; its path has no
        spaces, because a configuration's words end at them.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.underlay = Namespace(f"{prefix}-ul")
        self.machines: dict[str, Machine] = {}
        self.vms: dict[str, VM] = {}
        self._kept = False
        self._lock = -1

    @property
    def directory(self) -> Path:
        """See the class; its name is fixed, so that the next run finds what this one left."""
        return Path("/run", f"{self.prefix}-lab")

    def __enter__(self) -> Self:
        self._lock = _lock(self.prefix)
        self.remove_leftovers(self.prefix)
        self.directory.mkdir(mode=0o700)
        self.underlay.create()
        self.underlay.set_option("ipv6/conf/default/disable_ipv6", 1)
        self.underlay.ip("link", "add", "name", "br0", "type", "bridge", "mcast_snooping", "0")
        self.underlay.ip("link", "set", "br0", "mtu", str(UNDERLAY_MTU), "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._kept:
                self.remove_leftovers(self.prefix)
        finally:
            _lock_path(self.prefix).unlink(missing_ok=True)
            os.close(self._lock)

    def keep(self) -> None:
        """Leave everything up at the end, until :meth:`remove_leftovers`."""
        self._kept = True

    @classmethod
    def remove_leftovers(cls, prefix: str) -> list[str]:
        """Remove everything that a laboratory of this prefix has made; returns what there was."""
        found = []
        for namespace in namespaces(prefix):
            namespace.end_processes()
            unpin(namespace)
            namespace.remove()
            found.append(namespace.name)
        directory = cls(prefix).directory
        if directory.exists():
            for disk in directory.glob("*.disk"):
                run("umount", "--lazy", str(disk), check=False)
            shutil.rmtree(directory)
            found.append(str(directory))
        return found

    def add_machine(self, name: str, number: int) -> Machine:
        """Put a machine on the underlay, with the addresses 10.0.0.N and fd00:10::N."""
        machine = self.machines[name] = Machine(self, name, number)
        return machine

    def add_disk(self, name: str, size: int) -> Path:
        """Make a file system of a few octets, which can be filled up."""
        disk = self.directory / f"{name}.disk"
        disk.mkdir()
        run(
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={size},mode=700",
            f"{self.prefix}-{name}",
            str(disk),
        )
        return disk

    def add_vm(
        self, name: str, mac: str, address: str | None = None, address6: str | None = None
    ) -> VM:
        """Make a virtual machine, not plugged in yet; the addresses have a prefix length."""
        vm = self.vms[name] = VM(self, name, mac, address, address6)
        return vm
