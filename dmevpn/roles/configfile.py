"""The configuration file as a daemon holds it, and how it becomes a plan. Layer: role."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from dmevpn.config.model import Plan
from dmevpn.config.parser import mask_secrets
from dmevpn.config.resolve import check

__all__ = ["ConfigFile", "read_key"]

#: A file larger than this is no configuration: reading it must not exhaust the memory.
MAX_SIZE = 16 * 1024 * 1024


#: Largest file of a key that is read; the key itself is far shorter.
MAX_KEY_SIZE = 4096


def read_key(path: str) -> bytes:
    """The key in a file: all of it, but for one line end behind it.

    :raises ValueError: if it cannot be read, or others can read or change it, too.
    """
    try:
        # A FIFO must not make us wait for who writes to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("a key is in a regular file")
            if mode & stat.S_IRWXO:
                raise ValueError(
                    f"everybody may use this file (mode {stat.S_IMODE(mode):04o}):"
                    f" `chmod o= {path}`, and take a new key"
                )
            octets = file.read(MAX_KEY_SIZE)
    except OSError as error:
        raise ValueError(f"the key cannot be read: {error.strerror}") from None
    return octets.removesuffix(b"\n").removesuffix(b"\r")


class ConfigFile:
    """A file, read whenever it is asked for.

    :param path: as the user named it; messages repeat it.
    :param state_dir: overrides the file's ``state-dir``.
    """

    def __init__(self, path: str, state_dir: str | None = None) -> None:
        self.path = path
        self._state_dir = state_dir

    @property
    def name(self) -> str:
        """The daemon's name: the file's base name without its suffix."""
        return os.path.splitext(os.path.basename(self.path))[0]

    def other(self, path: str) -> ConfigFile:
        """Another file, to be checked in our place."""
        return ConfigFile(path, self._state_dir)

    def load(self, *, waiting: bool = False) -> tuple[Plan | None, list[str]]:
        """The plan (None if there is any error), and every error and warning as a line.

        :param waiting: whether it may be a pipe, and take as long as who writes to it.
        """
        try:
            text = self._read(waiting=waiting)
        except OSError as error:
            return None, [f"{self.path}: {error.strerror}"]
        found = check(text, self.path, self.name, read_key)
        plan = found.plan
        if plan is not None and self._state_dir is not None:
            plan = replace(plan, state_dir=self._state_dir)
        return plan, found.messages

    def masked(self) -> str:
        """The text with every secret replaced."""
        try:
            return mask_secrets(self._read())
        except OSError as error:
            return f"# {self.path}: {error.strerror}\n"

    def _read(self, *, waiting: bool = False) -> str:
        def at_once(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NONBLOCK)

        with open(self.path, "rb", opener=None if waiting else at_once) as file:
            if not waiting and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "no regular file")
            octets = file.read(MAX_SIZE + 1)
        if len(octets) > MAX_SIZE:
            # Half a file is another one.
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return octets.decode("utf-8", "surrogateescape")
