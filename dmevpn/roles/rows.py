"""Bindings as rows of plain values, as operators and their scripts see them. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, format_address
from dmevpn.config.diff import Part
from dmevpn.config.model import HubPlan, Layer3Plan, SpeakerPlan, SpokePlan
from dmevpn.interfaces import ICacheListener
from dmevpn.journal import Event, Journal
from dmevpn.log import Logger
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.registration import State

__all__ = [
    "REGISTRATION_EVENTS",
    "CacheWatcher",
    "Row",
    "Watchers",
    "binding_row",
    "event_row",
    "left",
    "part_row",
    "place",
    "vpn_ranges",
]

Row = dict[str, Any]

#: What the journal calls a change of a registration of ours.
REGISTRATION_EVENTS = {
    State.IDLE: "unregistered",
    State.REGISTERING: "registering",
    State.REGISTERED: "registered",
    State.REFUSED: "refused",
    State.DOWN: "unreachable",
}

#: What the journal calls a first binding, and one that has become of another kind.
_ADDED = {
    Kind.CACHED: "resolved",
    Kind.NEGATIVE: "unresolved",
    Kind.DYNAMIC: "registered",
}


def left(expires: float | None, now: float) -> int | None:
    """Whole seconds until ``expires``; None for what never ends."""
    return None if expires is None else max(0, int(expires - now))


def place(vtep: VTEP | None) -> Row:
    """The two columns of a VTEP."""
    if vtep is None:
        return {"nbma": None, "vni": None}
    return {"nbma": format_address(vtep.nbma), "vni": vtep.vni}


def binding_row(binding: Binding, vpn: int | None, interface: str, now: float) -> Row:
    """A row of ``cache show``."""
    return {
        "vpn": vpn,
        "protocol": _protocol(binding),
        "type": binding.kind.name.lower(),
        **place(binding.vtep),
        "expires_in": left(binding.expires, now),
        "flags": [flag for flag in ("unique", "nat") if getattr(binding, flag)],
        "interface": interface,
    }


def part_row(change: str, part: Part | None, keywords: tuple[str, ...]) -> Row:
    """A row of ``config diff``; without a part it is about the daemon."""
    vpn: VPNID | None = part.vpn if isinstance(part, SpokePlan | Layer3Plan) else None
    roles = {SpeakerPlan: "control", SpokePlan: "spoke", HubPlan: "hub", Layer3Plan: "layer3"}
    return {
        "change": change,
        "role": "daemon" if part is None else roles[type(part)],
        "interface": None if part is None else part.interface,
        "vpns": vpn_ranges(part.vpns) if isinstance(part, HubPlan) else vpn and str(vpn.index),
        "keywords": list(keywords),
    }


def vpn_ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    """The VPNs of a hub, as in ``1-3,7``."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _protocol(binding: Binding) -> str:
    address = format_address(binding.protocol)
    length = binding.prefix_length
    return address if length is None else f"{address}/{length}"


def event_row(event: Event, offset: float) -> Row:
    """A row of ``events``.

    :param offset: seconds from the daemon's clock to the wall clock.
    """
    return {
        "serial": event.serial,
        "time": int(event.at + offset),
        "event": event.event,
        "vpn": event.vpn,
        "protocol": format_address(event.protocol) if event.protocol else None,
        "nbma": format_address(event.nbma) if event.nbma else None,
        "vni": event.vni,
        "interface": event.interface or None,
        "detail": event.detail or None,
    }


class Watchers:
    """Whoever wants to hear of every change, wherever it happens.

    :ivar journal: where the changes that matter later are noted, watched or not.
    """

    log = Logger()

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._listeners: list[Callable[[Row], None]] = []

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        """Call ``listener`` with each event from now on; returns how to end that."""
        self._listeners.append(listener)

        def cancel() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return cancel

    def tell(self, event: Row) -> None:
        """One watcher's failure is not another's, and never the daemon's."""
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                self.log.failure("a watcher failed")


@implementer(ICacheListener)
class CacheWatcher:
    """Tells watchers and the journal of the changes of one cache."""

    def __init__(
        self, watchers: Watchers, vpn: int | None, interface: str, clock: IReactorTime
    ) -> None:
        self._watchers = watchers
        self._vpn = vpn
        self._interface = interface
        self._clock = clock

    def binding_added(self, binding: Binding) -> None:
        """A first binding."""
        self._note(_ADDED.get(binding.kind), binding)
        self._tell("added", binding)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A refresh that changes nothing but its expiry is no news."""
        if old.vtep != new.vtep or old.kind is not new.kind:
            moved = old.kind is new.kind is Kind.DYNAMIC
            detail = f"was at {old.vtep}" if moved else ""
            self._note("moved" if moved else _ADDED.get(new.kind), new, detail)
            self._tell("changed", new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """The reason is the event: ``expired``, ``purged``, …"""
        if binding.kind >= Kind.CACHED:
            known = reason in ("expired", "purged")
            self._note(reason if known else "withdrawn", binding, "" if known else reason)
        self._tell(reason, binding)

    def _note(self, event: str | None, binding: Binding, detail: str = "") -> None:
        if event is None:
            return
        if binding.source and not detail:
            detail = f"told by {format_address(binding.source)}"
        vtep = binding.vtep
        self._watchers.journal.note(
            event,
            self._vpn,
            binding.protocol,
            vtep.nbma if vtep is not None else b"",
            vtep.vni if vtep is not None else None,
            interface=self._interface,
            detail=detail,
        )

    def _tell(self, event: str, binding: Binding) -> None:
        if self._watchers:
            row = binding_row(binding, self._vpn, self._interface, self._clock.seconds())
            self._watchers.tell({"event": event, **row})
