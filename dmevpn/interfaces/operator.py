"""What operators see and may do, and their script. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


__all__ = ["IController", "IScripts"]


class IController(Interface):
    """What admin commands see of the node. Rows are dicts of plain values.

    ``match`` is a dict of filters, each optional: ``vpn`` (int), ``mac`` (bytes),
    ``nbma`` (bytes), ``vni`` (int), ``type`` (str), ``interface`` (str).

    An iterator of rows may be read over many reactor turns, and left unfinished: it must stand
    changes of the tables underneath. An empty row is none: some milliseconds of work have found
    nothing to show, and others should get their turn.
    """

    def vpns(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``vpn show``."""

    def bindings(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``cache show``."""

    def members(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``member show``."""

    def shortcuts(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``shortcut show``."""

    def registrations(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``registration show``."""

    def fdb(match: dict[str, Any]) -> Any:
        """Deferred of the rows of ``fdb show`` (it reads the kernel's ages first)."""

    def interfaces(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``interface show``."""

    def purge(match: dict[str, Any]) -> Any:
        """Withdraw bindings as if their source had purged them: those that are there now, and
        pass the filters when their turn comes. Deferred of how many."""

    def flush(match: dict[str, Any]) -> Any:
        """Forget bindings that can be asked for again (cached, negative, learned), in the same way;
        Deferred of how many."""

    def resolve(match: dict[str, Any]) -> Any:
        """Ask the NHS for ``mac`` in ``vpn`` now; Deferred of the row of ``cache show``.

        :raises CommandError: if there is no spoke role for the VPN, or the answer is no.
        """

    def renew(match: dict[str, Any]) -> int:
        """Send Registration Requests now; how many."""

    def hubs(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``hub show``, of ``interface`` or all."""

    def drain(match: dict[str, Any]) -> Any:
        """Begin to drain hubs; Deferred of the rows of ``hub drain``, once they are drained or
        ``wait`` (int) seconds are over.

        :raises CommandError: if there is no hub of that interface.
        """

    def undrain(match: dict[str, Any]) -> list[dict[str, Any]]:
        """Have drained hubs serve again: rows of ``hub undrain``.

        :raises CommandError: if there is no hub of that interface.
        """

    def config_show() -> str:
        """The text of the running configuration file, secrets masked."""

    def config_check(path: str | None) -> dict[str, Any]:
        """Check a file (None: our own): ``{"ok": bool, "messages": [str, ...]}``."""

    def config_diff(path: str | None) -> Iterator[dict[str, Any]]:
        """Rows of ``config diff``: what a reload with a file (None: our own) would do.

        :raises CommandError: if the file has errors, with the first of them.
        """

    def shutdown() -> None:
        """End the daemon and take down everything of it, a moment after this returns."""

    def reload() -> Any:
        """Deferred of ``{"ok": bool, "messages": [str, ...]}`` after reading the file again."""

    def metrics() -> Iterator[dict[str, Any]]:
        """Rows of ``metrics show``: ``name``, ``labels`` (dict), ``kind``, ``value``."""

    def explain(match: dict[str, Any]) -> Any:
        """Deferred of the rows of ``explain`` for ``mac``, in ``vpn`` or all that are here.

        :raises CommandError: if no VPN of that index is here.
        """

    def doctor() -> Any:
        """Deferred of the rows of ``doctor``."""

    def events(match: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of ``events``, in order of time."""

    def follow(listener: Any) -> Any:
        """Call ``listener(row: dict)`` for every event that the journal has, in order and over
        some reactor turns, and then for each that it gets; returns a cancel()."""

    def subscribe(listener: Any) -> Any:
        """Call ``listener(event: dict)`` for every change in any cache; returns a cancel().

        An event is a row of ``cache show`` with ``event``: ``added``, ``changed``, or the reason
        why the binding went.
        """


class IScripts(Interface):
    """Runs the operator's script on events."""

    def start() -> None:
        """Make sure that it can be run.

        :raises StartError: if it cannot.
        """

    def run(
        subject: str,
        event: str,
        environment: Mapping[str, str],
        done: Callable[[bool], None] | None = None,
    ) -> Callable[[], None]:
        """Run it some time soon.

        :param subject: what the event is about; runs about one subject keep their order.
        :param event: its only argument.
        :param environment: all that it is told about the event.
        :param done: called later with whether it ended well, and in time.
        :return: ends or forgets the run; ``done`` is not called then.
        """

    def stop() -> Any:
        """Take no more runs, and end those that are left; a Deferred."""
