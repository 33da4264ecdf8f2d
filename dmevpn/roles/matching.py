"""Which rows an operator asks for. Layer: role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dmevpn.addresses import format_address
from dmevpn.interfaces import LearnedMAC
from dmevpn.roles.hub import HubRole
from dmevpn.roles.l3_station import Layer3Station
from dmevpn.roles.rows import Row

__all__ = ["REFUSED", "Match", "accepts", "index_of", "learned_at", "selected"]

Match = dict[str, Any]

#: Rows that the filters may refuse before others get their turn: some two milliseconds.
REFUSED = 200


def accepts(match: Match, row: Row) -> bool:
    """Whether a row passes every filter; a row without the column passes none for it."""
    for name, wanted in match.items():
        if name == "mac":
            have = row.get("mac", row.get("protocol"))
            wanted = format_address(wanted)
        elif name == "nbma":
            have = row.get("nbma", row.get("nhs"))
            wanted = format_address(wanted)
        else:
            have = row.get(name)
        if have != wanted:
            return False
    return True


def selected(match: Match, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows that pass, and an empty one whenever many have not."""
    refused = 0
    for row in rows:
        if not row or accepts(match, row):
            yield row
        else:
            refused += 1
            if refused % REFUSED == 0:
                yield {}


def learned_at(hub: HubRole, match: Match) -> Iterator[tuple[int, LearnedMAC] | None]:
    """What the switch has learned in the VPNs that are wanted; None: after a piece of work."""
    return (
        each
        for each in hub.dataplane.tables(match.get("vpn"))
        if each is None or each[0] in hub.vpns
    )


def index_of(station: Layer3Station) -> int | None:
    return None if station.plan.vpn is None else station.plan.vpn.index
