"""Everything that reads octets from outside, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

from fuzz.nodes import Hub, Keyed, Layer3, Spoke
from fuzz.readers import Config, Netlink

__all__ = ["TARGETS", "Target"]


class Target(Protocol):
    """One reader of octets."""

    name: ClassVar[str]
    tokens: ClassVar[tuple[bytes, ...]]
    """Octets that mean something to it, for the fuzzer's dictionary."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with."""

    def run(self, data: bytes) -> int:
        """Read an input; how many packets it was.

        :raises Exception: what is found.
        """

    def history(self) -> bytes:
        """The input that has the same effect on a new target as all since this one was new."""

    def renew(self) -> None:
        """Forget the history."""


TARGETS: dict[str, Callable[[], Target]] = {
    "hub": Hub,
    "spoke": Spoke,
    "layer3": Layer3,
    "keyed": Keyed,
    "config": Config,
    "netlink": Netlink,
}
