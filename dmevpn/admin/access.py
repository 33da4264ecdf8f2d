"""Which operator may do what. Layer: admin.

On a UNIX socket the kernel says who has connected; over TLS it is the client's certificate. Whoever
is not known may nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final, NamedTuple

from dmevpn.errors import StartError

__all__ = ["Access", "Grant", "Level", "is_tls"]

_UCRED: Final = struct.Struct("iII")
#: asm-generic/socket.h: the supplementary groups of the peer; the socket module does not name it.
_SO_PEERGROUPS: Final = 59
#: As much as Python reads of a socket option: 256 groups. Who has more is known by his first only.
_GROUPS_SIZE: Final = 1024


class Level(IntEnum):
    """What a client may do."""

    NONE = 0
    READ = 1
    """Look at everything; secrets are never shown."""
    FULL = 2
    """Also change things, and have files read with the daemon's rights."""


class Grant(NamedTuple):
    """A line of the configuration: who may do what."""

    level: str
    """``full`` or ``read-only``."""
    kind: str
    """``user``, ``group`` or ``certificate``."""
    name: str
    """Of the user or group, or a DNS name or IP address in the certificate."""


class Access:
    """Knows clients by what their connection proves.

    Without a grant for users or groups, whoever can open a UNIX socket may do everything: its mode
    decides. With one, the daemon's own user and root may, and the others as they are named.

    :raises StartError: for a user or group that does not exist.
    """

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._users: dict[int, Level] = {}
        self._groups: dict[int, Level] = {}
        self._certificates: list[tuple[str, Level]] = []
        for grant in grants:
            level = Level.FULL if grant.level == "full" else Level.READ
            if grant.kind == "user":
                _raise_to(self._users, _user(grant.name), level)
            elif grant.kind == "group":
                _raise_to(self._groups, _group(grant.name), level)
            else:
                self._certificates.append((grant.name, level))
        self._by_mode = not self._users and not self._groups
        for uid in () if self._by_mode else (0, os.getuid()):
            self._users[uid] = Level.FULL

    def of_transport(self, transport: Any) -> Level:
        """What a client may do whose connection is up, and over TLS its handshake complete."""
        if is_tls(transport):
            return self._of_certificate(transport.getPeerCertificate())
        handle = transport.getHandle()
        if handle.family == socket.AF_UNIX:
            return Level.FULL if self._by_mode else self._of_peer(handle)
        # Nothing shows who that is. As long as nobody is named, who can connect is trusted.
        return Level.FULL if self._by_mode and not self._certificates else Level.NONE

    def _of_peer(self, handle: socket.socket) -> Level:
        data = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, gid = _UCRED.unpack(data)
        level = max(self._users.get(uid, Level.NONE), self._groups.get(gid, Level.NONE))
        try:
            more = handle.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
        except OSError:
            return level
        groups = struct.unpack(f"{len(more) // 4}I", more)
        return max([level, *(self._groups.get(group, Level.NONE) for group in groups)])

    def _of_certificate(self, certificate: Any) -> Level:
        from dmevpn.admin.tls import is_of

        if certificate is None:
            return Level.NONE
        return max(
            (level for name, level in self._certificates if is_of(certificate, name)),
            default=Level.NONE,
        )


def is_tls(transport: Any) -> bool:
    """Whether a connection is one of TLS."""
    return hasattr(transport, "getPeerCertificate")


def _raise_to(levels: dict[int, Level], key: int, level: Level) -> None:
    levels[key] = max(level, levels.get(key, Level.NONE))


def _user(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise StartError(f"admin-allow user {name}: there is no such user") from None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"admin-allow group {name}: there is no such group") from None
