"""Commands that tell what happened, why a frame goes where it goes, and what is wrong.

Layer: admin. Their rows make no table in text output: a function makes sentences of each.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmevpn.admin.columns import MOST_VNI, MOST_VPN, Column
from dmevpn.admin.command import Answer, Command, Context, Match
from dmevpn.admin.parameters import EVENT, INTERFACE, MAC, NBMA, PROTOCOL, VPN
from dmevpn.interfaces import CHECKS
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


# --- explain ------------------------------------------------------------------------------


async def _explain(context: Context, match: Match) -> Answer:
    return Answer(await context.controller.explain(match))


def _explain_text(cells: Mapping[str, str]) -> str:
    about = f"vpn {cells['vpn']}" if cells["about"] == "verdict" else f"  {cells['about']}"
    since = "" if cells["since"] == "-" else f", since {cells['since']}"
    by = "" if cells["by"] == "-" or cells["by"] in cells["text"] else f", says {cells['by']}"
    if cells["about"] == "event":
        since = f", {cells['since']} ago"
    return f"{about:<17}{cells['text']}{since}{by}"


# --- doctor -------------------------------------------------------------------------------


async def _doctor(context: Context, match: Match) -> Answer:
    rows = await context.controller.doctor()
    number = len(rows)
    return Answer(rows, f"{number} finding{'s' * (number > 1)}" if rows else "")


def _doctor_text(cells: Mapping[str, str]) -> str:
    found = f"{cells['check']:<8} {cells['subject']}: {cells['finding']}"
    return f"{found}\n    cure: {cells['cure']}"


# --- the table ----------------------------------------------------------------------------

#: What a row of ``explain`` tells of, in this order.
_ABOUT = (
    "verdict",
    "bridge",
    "shortcut plane",
    "hub plane",
    "device",
    "switch",
    "cache",
    "registration",
    "answers",
    "hub",
    "event",
    "problem",
)
_EXPLAINED = MAC._replace(meaning="the MAC address")

INSIGHT = (
    Command(
        "events",
        "List what has changed lately: who registered, moved, was refused",
        (VPN, MAC, PROTOCOL, NBMA, INTERFACE, EVENT),
        (
            Column("serial", "rises from event to event", "number"),
            Column("time", "when", "time"),
            Column("event", "what happened", "text", values=tuple(EVENTS)),
            Column("vpn", "index of the VPN", "number", "not of one", most=MOST_VPN),
            Column("protocol", "protocol address that it is about", "address", "of none"),
            Column(
                "nbma", "underlay address: of the site, or of the hub for our own", "ip", "of none"
            ),
            Column(
                "vni", "VXLAN network identifier at that address", "number", "none", most=MOST_VNI
            ),
            Column("interface", "interface that it is about", "text", "of none"),
            Column("detail", "why, in words", "text", "nothing to add"),
        ),
        _events,
        nothing="no events",
        text=_event_text,
        follow=lambda context, listener: context.controller.follow(listener),
    ),
    Command(
        "explain",
        "Tell where frames for a MAC go from here, why, since when, and who said so",
        (_EXPLAINED, VPN._replace(meaning="in this VPN only")),
        (
            Column("vpn", "index of the VPN", "number", most=MOST_VPN),
            Column("about", "which of our sources says it", "text", values=_ABOUT),
            Column("text", "what is known, in words; of a problem also the cure", "text"),
            Column("nbma", "underlay address that it names", "ip", "none"),
            Column(
                "vni", "VXLAN network identifier at that address", "number", "none", most=MOST_VNI
            ),
            Column("interface", "device, or port of the bridge", "text", "none"),
            Column("since", "how long it has been so; of an event: ago", "seconds", "not known"),
            Column("by", "underlay address of who said so", "ip", "nobody else"),
        ),
        _explain,
        text=_explain_text,
        bare=_EXPLAINED,
        required=(_EXPLAINED,),
    ),
    Command(
        "doctor",
        "Check devices, MTU, ports, hubs, clock and tables, and name cures",
        (),
        (
            Column("check", "what was looked at", "text", values=CHECKS),
            Column("subject", "interface, address or VPN that it is about", "text"),
            Column("finding", "what is wrong, in words", "text"),
            Column("cure", "what to do about it", "text"),
        ),
        _doctor,
        nothing="nothing found wrong",
        text=_doctor_text,
    ),
)
