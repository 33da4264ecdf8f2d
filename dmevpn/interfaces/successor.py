"""What a daemon keeps for the next run of it. Layer: base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import Attribute, Interface

__all__ = ["IRequestIDStore", "IStateStore"]


class IRequestIDStore(Interface):
    """Reserves request identifiers that no earlier run of the daemon has used.

    RFC 2332 §5.2.3 wants them to rise across restarts.
    """

    def reserve(count: int) -> int:
        """The first of ``count`` consecutive identifiers (modulo 2**32); may wait for the disk."""

    def reserve_ahead(count: int) -> int:
        """The same at once, for later: meanwhile they are made sure of."""


class IStateStore(Interface):
    """Keeps what a daemon knows for its successor: plain values, as JSON has them."""

    boot = Attribute("What tells this run of the machine from others; empty if unknown.")

    def load() -> Any:
        """What an earlier run has saved, a dict; None if there is nothing of use. May wait for the
        disk."""

    def forget() -> bool:
        """Have nothing saved; whether that could be."""

    def save(state: Any, done: Callable[[], None] = ...) -> None:
        """Save some time soon, without waiting; of what is handed in meanwhile, the last.

        :param done: called once it is saved.
        """

    def save_now(state: Any) -> bool:
        """Save, and wait for it; whether that could be."""

    # A journal beside it, in parts, the last two of which are there.

    def parts() -> list[bytes]:
        """The parts of the journal; empty: one that something is missing from."""

    def begin(number: int, octets: bytes) -> bool:
        """Begin a part with some octets. At once, but not made sure of on the disk: it outlives the
        daemon, not the machine's power.

        :return: whether that could be; if not, there is nothing saved any more either.
        """

    def resume(number: int, length: int) -> bool:
        """Go on with a part, of which so many octets are good; whether that can be."""

    def append(octets: bytes) -> bool:
        """Add to the part, likewise; whether that could be. If not, the part is empty."""

    def abandon() -> None:
        """Leave the part empty: something is missing from it."""

    def remove_parts() -> None:
        """Have no part."""
