"""Every exception that dmevpn raises on purpose. Layer: base.

What a peer, a file or the kernel can get wrong is one of these; what we get wrong ourselves is
``ValueError``, ``TypeError`` or a failed assertion, and ends in the log with a traceback.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = [
    "AuthenticationFailure",
    "CommandError",
    "ConfigError",
    "DataplaneError",
    "DmevpnError",
    "Handshake",
    "MalformedPacket",
    "NHRPError",
    "StartError",
]


class DmevpnError(Exception):
    """The root of all of them; its text is one line that a user can act on."""


class NHRPError(DmevpnError):
    """A packet that is not to be processed any further.

    :ivar counter: the name under which it is counted among the drops.
    :ivar code: the error code for an Error Indication (RFC 2332 §5.2.7), or None: drop in silence.
    :ivar offset: the octet, counted from ar$afn, that the Error Indication points at.
    :ivar packet: the packet as far as it was read (its header and addresses), or None.
    :ivar path: where the Error Indication goes, if not back to where the packet came from.
    """

    def __init__(
        self, counter: str, *, code: int | None = None, offset: int = 0, packet: Any = None
    ) -> None:
        super().__init__(counter if code is None else f"{counter} (error {code} at {offset})")
        self.counter = counter
        self.code = code
        self.offset = offset
        self.packet = packet
        self.path: Any = None


class MalformedPacket(NHRPError):
    """Octets from the network that are no NHRP packet, or not a well-formed one."""


class AuthenticationFailure(NHRPError):
    """A packet whose Authentication extension is absent or wrong (RFC 2332 §5.3.4)."""


class Handshake(DmevpnError):
    """A packet that only concerns how two neighbours authenticate each other.

    :ivar answers: what to send now: packets, each with form, VPN and path.
    """

    def __init__(self, answers: tuple[tuple[Any, Any, Any, Any], ...]) -> None:
        super().__init__("a handshake of neighbours")
        self.answers = answers


class ConfigError(DmevpnError):
    """A mistake in a configuration file.

    :ivar path: the file as the user named it.
    :ivar line: its line, from 1; 0 when the mistake concerns the file as a whole.
    :ivar word: the word at fault, or "" at the end of the file.
    """

    def __init__(self, path: str, line: int, word: str, message: str) -> None:
        near = f" near '{word}'" if word else ""
        super().__init__(f"{path}:{line}: {message}{near}")
        self.path = path
        self.line = line
        self.word = word
        self.message = message


class StartError(DmevpnError):
    """The daemon cannot start; the text names what is missing and the cure."""


class DataplaneError(DmevpnError):
    """The kernel refused an operation.

    :ivar errno: its error number, positive.
    :ivar operation: what was asked of it, in words.
    """

    def __init__(self, errno: int, operation: str) -> None:
        super().__init__(f"{operation}: {os.strerror(errno)}")
        self.errno = errno
        self.operation = operation


class CommandError(DmevpnError):
    """An admin command that is refused or finds nothing to do; the text goes to the operator."""
