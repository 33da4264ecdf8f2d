"""Commands that tell what happened, why a frame goes where it goes, and what is wrong.

Layer: admin. Their rows make no table in text output: a function makes sentences of each.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmevpn.admin.command import Answer, Column, Command, Context, Match
from dmevpn.admin.parameters import EVENT, INTERFACE, MAC, NBMA, PROTOCOL, VPN
from dmevpn.journal import EVENTS

__all__ = ["INSIGHT"]

#: Width of the longest name of an event.
_EVENT = max(map(len, EVENTS))


def _place(cells: Mapping[str, str]) -> str:
    """Where an address lives, in words; nothing if it does not say."""
    nbma, vni = cells["nbma"], cells["vni"]
    return "" if nbma == "-" else nbma if vni == "-" else f"{nbma} VNI {vni}"


# --- events -------------------------------------------------------------------------------


def _events(context: Context, match: Match) -> Answer:
    return Answer(context.controller.events(match))


def _event_text(cells: Mapping[str, str]) -> str:
    # The interface says no more than the VPN, where there is one.
    vpn = f"on {cells['interface']}" if cells["vpn"] == "-" else f"vpn {cells['vpn']}"
    what = " at ".join(part for part in (cells["protocol"], _place(cells)) if part not in ("-", ""))
    why = "" if cells["detail"] == "-" else f"({cells['detail']})"
    words = [part for part in (vpn, what, why) if part not in ("", "on -")]
    return " ".join([cells["time"], cells["event"].ljust(_EVENT), *words])


# --- the table ----------------------------------------------------------------------------

INSIGHT = (
    Command(
        "events",
        "List what has changed lately: who registered, moved, was refused",
        (VPN, MAC, PROTOCOL, NBMA, INTERFACE, EVENT),
        (
            Column("serial", "rises from event to event", "number"),
            Column("time", "when, in seconds since 1970 (UTC)", "time"),
            Column("event", "what happened; docs/admin.md has them all"),
            Column("vpn", "index of the VPN; null: not of one", "number"),
            Column("protocol", "protocol address that it is about", "address"),
            Column("nbma", "underlay address: of the site, or of the hub for our own", "address"),
            Column("vni", "VXLAN network identifier at that address", "number"),
            Column("interface", "interface that it is about"),
            Column("detail", "why, in words"),
        ),
        _events,
        nothing="no events",
        text=_event_text,
        follow=lambda context, listener: context.controller.follow(listener),
    ),
)
