"""Where a switch is pinned, so that it outlives its daemon. Layer: edge.

A bpffs is one for the whole machine while device names are not, so the directory of a switch is
``ROOT/vLAYOUT/COOKIE-DEVICE``: the cookie numbers the network namespace and is never used again
before the next boot, which empties every bpffs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import stat
from collections.abc import Mapping

from dmevpn.dataplane.ebpf.layout import LAYOUT
from dmevpn.dataplane.ebpf.libbpf import MapShape, pinned_map_shape
from dmevpn.errors import StartError
from dmevpn.log import Logger

__all__ = ["BPFFS", "PIN_ROOT", "PROGRAM_PIN", "PinDirectory"]

#: Where a bpffs is mounted by custom (systemd does it).
BPFFS = "/sys/fs/bpf"
#: Where switches are pinned.
PIN_ROOT = f"{BPFFS}/dmevpn"
#: What the pin of a program begins with; its number follows.
PROGRAM_PIN = "program_"

#: asm-generic/socket.h; the socket module does not name it.
_SO_NETNS_COOKIE = 71


class PinDirectory:
    """The directory of one device's switch, with the lock that keeps a second daemon out."""

    log = Logger()

    def __init__(self, root: str, interface: str) -> None:
        """Name it; nothing is touched yet.

        :param root: a directory on a bpffs, made when needed.
        """
        self._root = root
        self._interface = interface
        self._name = ""
        self._lock = -1
        self.path = ""

    def open(self, *, trusting: bool = False) -> None:
        """Mount a bpffs if there is none, make the directory, lock it.

        Call it in the network namespace of the device; the rest works in any.

        :param trusting: whoever it belongs to, since nothing in it will be used, only removed.
        :raises StartError: with the cure, or if another daemon has the lock.
        """
        # A bpffs refuses names with a dot (kernel/bpf/inode.c), interface names may have them.
        device = self._interface.replace(".", "%2e")
        self._name = f"{_namespace_cookie():x}-{device}"
        self.path = os.path.join(self._root, f"v{LAYOUT}", self._name)
        self._mount()
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StartError(
                f"{self.path}: {error.strerror}: the daemon's user must own {self._root}"
            ) from None
        checked = () if trusting else (self._root, os.path.dirname(self.path), self.path)
        for path in checked:
            try:
                _check_owner(path, others_too=path != self.path)
            except BaseException:
                self.close()
                raise
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise StartError(
                f"{self._interface}: another dmevpn daemon serves this device: stop it first"
            ) from None

    def _mount(self) -> None:
        if _filesystem(self._root) == "bpf":
            return
        target = BPFFS if os.path.join(self._root, "").startswith(BPFFS + "/") else self._root
        cure = f"no bpffs at {target}: mount -t bpf bpf {target}"
        try:
            os.makedirs(target, exist_ok=True)
        except OSError:
            raise StartError(cure) from None
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", target.encode(), b"bpf", 0, None):
            raise StartError(f"{cure} ({os.strerror(ctypes.get_errno())})")
        self.log.info("mounted a bpffs at {path}", path=target)

    def names(self) -> list[str]:
        """What is pinned here."""
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []  # somebody has cleared the bpffs

    def at(self, name: str) -> str:
        """The path of a pin."""
        return os.path.join(self.path, name)

    def unpin(self, name: str) -> None:
        """Let go of one; nothing happens if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(name))

    def unpin_other_builds(self, shapes: Mapping[str, MapShape]) -> bool:
        """Let go of maps that a build cannot use: all of them, since they belong together.

        :param shapes: of the maps of that build, by name.
        :return: whether there were any.
        """
        names = [name for name in self.names() if not name.startswith(PROGRAM_PIN)]
        present = {name: pinned_map_shape(self.at(name)) for name in names}
        if not present or present == shapes:
            return False
        for name in names:
            self.unpin(name)
        return True

    def clear(self) -> None:
        """Let go of all of them."""
        for name in self.names():
            self.unpin(name)

    def remove_other_layouts(self) -> int:
        """Let go of what daemons of other versions have left for this device; how many."""
        removed = 0
        for version in os.listdir(self._root):
            path = os.path.join(self._root, version, self._name)
            if path != self.path and os.path.isdir(path):
                for name in os.listdir(path):
                    os.unlink(os.path.join(path, name))
                os.rmdir(path)
                removed += 1
        return removed

    def close(self) -> None:
        """Give the lock back and leave the pins."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Let go of everything, and of the directories if nobody else has pins in them."""
        self.clear()
        for path in (self.path, os.path.dirname(self.path), self._root):
            try:
                os.rmdir(path)
            except OSError:
                break  # another device's pins are in it
        self.close()


def _check_owner(path: str, *, others_too: bool) -> None:
    """Refuse a directory in which others could exchange our pins, or have done so.

    Where everybody may write to the bpffs (mode 1777), somebody may have made it before us.

    :param others_too: whether others may have directories of their own beside ours, if the sticky
        bit keeps them from exchanging those.
    :raises StartError: with the cure.
    """
    found = os.lstat(path)
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not mine or (shared and not (others_too and found.st_mode & stat.S_ISVTX)):
        raise StartError(
            f"{path}: user {found.st_uid} may exchange what is pinned there (mode"
            f" {stat.S_IMODE(found.st_mode):04o}): remove it, and see who made it"
        )


def _namespace_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(cookie, "little")


def _filesystem(path: str) -> str:
    """The type of the file system that a path is on, or will be once it is made."""
    path = os.path.realpath(path)
    found, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            # proc(5): fields before " - ", the fifth of them the mount point; then the type.
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].replace("\\040", " ")
            inside = point == "/" or path == point or path.startswith(point + "/")
            if inside and len(point) >= len(found):
                found, kind = point, after.split(" ")[0]
    return kind
