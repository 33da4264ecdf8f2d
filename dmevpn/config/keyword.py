"""What a keyword is: the row type of the keyword table. Layer: core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dmevpn.config import arguments as a

__all__ = ["Argument", "Context", "Keyword", "Option", "Reload"]


class Context(Enum):
    """Where a keyword belongs; the value is how users are told."""

    TOP = "the file as a whole"
    CONTROL = "a control interface"
    SPOKE = "a spoke's data interface"
    HUB = "a hub's data interface"


class Reload(Enum):
    """What a change of the keyword does to a running daemon on reload."""

    NOTHING = "nothing"
    ROLE = "restarts the VPNs of the data interface"
    LAYER_3 = "restarts IPv4 and IPv6 of the control interface"
    MAP = "takes effect at once; IPv4 and IPv6 of the control interface are restarted"
    SERVER = "takes effect at once; another VNI or station MAC restarts the VPN"
    VPN = "takes effect at once at a hub; restarts the VPN of a spoke"
    SPEAKER = "restarts the control interface and its VPNs"
    DAEMON = "takes effect when the daemon is started again"
    AT_ONCE = "takes effect at once; nothing is restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One word after a keyword."""

    name: str
    """As the documentation writes it."""
    convert: a.Convert
    example: str
    wanted: Callable[[str], bool] | None = None
    """For an optional argument: whether a word that follows is meant for it."""
    free: bool = False
    """Whether any word on the keyword's line is taken, even one that is a keyword."""
    secret: bool = False
    """Whether the word must never be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A word that may follow the arguments."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    no_effect: str = ""
    """Why it has no effect in this release; empty if it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """A row of the table."""

    name: str
    help: str
    contexts: frozenset[Context]
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    repeatable: bool = False
    inherited: bool = False
    """Whether OpenNHRP or the original dmevpn has it: misplaced, it draws a warning, no error."""
    no_effect: str = ""
    """Why it has no effect in this release; empty if it has."""
    reload: Reload = Reload.NOTHING

    @property
    def usage(self) -> str:
        """How it is written, in one line."""
        words = [self.name]
        words += [f"[{g.name}]" if g.wanted else g.name for g in self.arguments]
        for option in self.options:
            words.append(f"[{' '.join([option.name, *(g.name for g in option.arguments)])}]")
        return " ".join(words)
