"""What is wrong with the frames that a hub's switch gets, and the cure. Layer: role."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from dmevpn.addresses import VTEP, format_address
from dmevpn.interfaces import Finding, HeldMAC, MemberCounters
from dmevpn.journal import Event
from dmevpn.roles.histories import History
from dmevpn.roles.hub import HubRole

__all__ = ["held_finding", "switch_findings"]

#: Held MACs that are named; with a loop there may be as many as there are stations.
_NAMED: Final = 20


def switch_findings(hub: HubRole, history: History) -> Iterator[Finding]:
    """Loops, duplicate and sticky MACs, storms, and full tables."""
    for loop in hub.loops:
        yield Finding(
            "loop",
            f"vpn {loop.vpn}",
            str(loop),
            "take away the cable, bridge or tunnel between them, or let only one of them register",
        )
    held = hub.dataplane.held()
    yield from map(held_finding, islice(held, _NAMED))
    more = sum(1 for _ in held)
    if more:
        problem = f"{more} more MACs are held"
        yield Finding("mac", hub.plan.interface, problem, "look for a loop between sites")
    for event in islice(_latest(hub, history, "move-refused"), _NAMED):
        yield Finding(
            "mac",
            format_address(event.protocol),
            f"frames with this sticky MAC from {_site(event)} were dropped: {event.detail}",
            "find who uses it there; if it has moved for good, change `sticky`, or"
            f" dmevpnctl cache flush vpn {event.vpn} mac {format_address(event.protocol)}",
        )
    for event in _latest(hub, history, "flood-limited"):
        counters = _counters(hub, event)
        dropped = "" if counters is None else f": {counters.limited} frames were dropped so far"
        yield Finding(
            "flood",
            f"vpn {event.vpn}",
            f"{_site(event)} had more to flood than its budget{dropped}",
            "look for a loop or a broken network card there; else raise `flood-rate`",
        )
    for event in _latest(hub, history, "table-full"):
        whose = "the switch has"
        if event.nbma:
            counters = _counters(hub, event)
            some = "many" if counters is None else str(counters.macs)
            whose = f"{_site(event)} has {some} MACs, its share: there is"
        yield Finding(
            "room",
            f"vpn {event.vpn}",
            f"{whose} no room for more MACs: they are flooded",
            "find who makes up MACs; else raise `mac-limit`",
        )


def held_finding(held: HeldMAC) -> Finding:
    """A MAC that flipped between two sites."""
    other = "" if held.other is None else f"; it sends from {held.other}, too"
    return Finding(
        "mac",
        format_address(held.mac),
        f"the same MAC is at several places: held at {held.vtep} for {held.seconds:.0f} s more"
        f"{other}",
        "give one of them another MAC, or remove the loop between the sites",
    )


def _latest(hub: HubRole, history: History, name: str) -> Iterator[Event]:
    """The latest event about each VPN and site, station by station."""
    yield from {
        (event.vpn, event.protocol, event.nbma, event.vni): event
        for event in history.recent(name)
        if event.interface == hub.plan.interface
    }.values()


def _counters(hub: HubRole, event: Event) -> MemberCounters | None:
    counters: MemberCounters | None = hub.dataplane.member_counters(
        event.vpn or 0, VTEP(event.nbma, event.vni)
    )
    return counters


def _site(event: Event) -> str:
    return str(VTEP(event.nbma, event.vni))
