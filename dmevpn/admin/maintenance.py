"""Commands that take a hub out of service, and into it again. Layer: admin.

``dmevpnctl`` imports it before it needs a reactor, so nothing of Twisted is imported at its top.
"""

from __future__ import annotations

from collections.abc import Iterable

from dmevpn.admin.columns import Column
from dmevpn.admin.command import Answer, Command, Context, Match, Row
from dmevpn.admin.parameters import INTERFACE, WAIT

__all__ = ["MAINTENANCE"]


def _hub_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.hubs(match))


async def _hub_drain(context: Context, match: Match) -> Answer:
    rows = await context.controller.drain(match)
    return Answer(rows, _not_drained(rows))


def _hub_undrain(context: Context, match: Match) -> Answer:
    return Answer(context.controller.undrain(match))


def _not_drained(rows: Iterable[Row]) -> str:
    """Why a hub cannot be stopped yet."""
    members = sum(row["members"] for row in rows if row["state"] != "drained")
    if members:
        return f"{members} members still flood by this hub; it goes on forwarding, and asking them"
    if any(row["state"] != "drained" for row in rows):
        return "frames may still be under way: ask again"
    return ""


_STATES = ("serving", "draining", "drained")
_COLUMNS = (
    Column("interface", "data interface of the hub", "text"),
    Column("state", "drained: nobody floods by it", "text", values=_STATES),
    Column("members", "registered, in all VPNs: they flood by this hub, or may", "number"),
    Column("left", "that have left while it was drained, and still get frames", "number"),
    Column("since", "since it is being drained", "seconds", "it is not"),
)

MAINTENANCE = (
    Command(
        "hub show",
        "Show whether this hub serves or is drained, and who is left",
        (INTERFACE,),
        _COLUMNS,
        _hub_show,
        nothing="no hub",
    ),
    Command(
        "hub drain",
        "Ask members to flood by their other hubs, and wait until they do",
        (INTERFACE, WAIT),
        _COLUMNS,
        _hub_drain,
        nothing="no hub",
        changes=True,
    ),
    Command(
        "hub undrain",
        "Serve again, and call back who has left",
        (INTERFACE,),
        _COLUMNS,
        _hub_undrain,
        nothing="no hub",
        changes=True,
    ),
)
