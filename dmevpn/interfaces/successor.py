"""What a daemon keeps for the next run of it. Layer: base."""

from __future__ import annotations

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

    def save(state: Any) -> None:
        """Save some time soon, without waiting; of what is handed in meanwhile, the last."""

    def save_now(state: Any) -> None:
        """Save, and wait for it."""
