"""Who uses a state directory: one daemon at a time, or who takes down what one left. Layer: top.

Every daemon has one, while its admin endpoint may be of another kind than a socket of this machine.
A lock of the kernel's ends with its process, however that ends; a file with its number would stay.
"""

from __future__ import annotations

import fcntl
import os

from dmevpn.errors import StartError

__all__ = ["StateLock"]


class StateLock:
    """The lock of one directory.

    :param directory: may be missing or none: then there is nothing to lock, and nobody is kept out.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._descriptor = -1

    def take(self) -> None:
        """Hold it until :meth:`free`, or the end of the process.

        :raises StartError: if another process does.
        """
        if not self._directory or self._descriptor >= 0:
            return
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return  # a daemon goes on without; what keeps its request identifiers says so
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StartError(
                f"a daemon is running that has its state in {self._directory}: stop it first"
            ) from None
        except OSError:  # not every file system can
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def free(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
