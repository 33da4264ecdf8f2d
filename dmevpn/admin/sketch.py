"""What the map of the status page is drawn from, gathered a few rows at a time. Layer: admin."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import Any

from dmevpn.interfaces import IController

__all__ = ["LINKS", "SITES", "STEP", "VPNS", "sketch"]

#: Rows looked at in one step: some two milliseconds.
STEP = 200
#: What a map has room for; the tables have the rest, and the page says how much that is.
SITES, LINKS, VPNS = 256, 1024, 1024

Row = dict[str, Any]
#: Steps of work, and what they have found.
Work = Generator[None, None, Row]

_PLANE = "dmevpn_plane_"


def sketch(controller: IController, match: Row) -> Work:
    """Gather the state of one VPN or of all, yielding where others should get their turn.

    :param match: ``vpn`` or nothing.
    :returns: ``vpns`` (of the daemon, rows of ``vpn show``), ``here`` (``interface show``),
        ``registrations``, ``sites`` (``member show``), ``links`` (which sites reach how many
        ``addresses`` at which other one directly), ``planes`` (what a spoke has carried by hub and
        by shortcut, by VPN), ``left_out`` (how many VPNs, sites and links there is no room for).
    """
    vpns: list[Row] = []
    for row in _steps(controller.vpns({})):
        if row is None:
            yield
        else:
            vpns.append(row)
    here = list(islice(controller.interfaces({}), SITES))
    yield
    registrations = yield from _first(SITES, controller.registrations(match))
    sites = yield from _first(SITES, controller.members(match))
    links = yield from _links(controller.shortcuts(match))
    planes = {}
    if any("spoke" in row["roles"] for row in vpns):
        planes = _planes(controller.metrics(), match)
    return {
        "vpns": vpns[:VPNS],
        "here": here,
        "registrations": registrations["rows"],
        "sites": sites["rows"],
        "links": links["rows"],
        "planes": planes,
        "left_out": {
            "vpns": max(0, len(vpns) - VPNS),
            "sites": sites["left_out"],
            "links": links["left_out"],
        },
    }


def _steps(rows: Iterable[Row]) -> Iterator[Row | None]:
    """Rows, with None where others should get their turn."""
    for number, row in enumerate(rows, 1):
        yield row or None
        if number % STEP == 0:
            yield None


def _first(room: int, rows: Iterable[Row]) -> Work:
    kept: list[Row] = []
    left_out = 0
    for row in _steps(rows):
        if row is None:
            yield
        elif len(kept) < room:
            kept.append(row)
        else:
            left_out += 1
    return {"rows": kept, "left_out": left_out}


def _links(rows: Iterable[Row]) -> Work:
    """Count shortcuts by the sites at their ends."""
    links: dict[tuple[Any, ...], int] = {}
    left_out = 0
    for row in _steps(rows):
        if row is None:
            yield
            continue
        ends = row["vpn"], row["nbma"], row["vni"], row["peer_nbma"], row["peer_vni"]
        if ends in links or len(links) < LINKS:
            links[ends] = links.get(ends, 0) + 1
        else:
            left_out += 1
    names = ("vpn", "nbma", "vni", "peer_nbma", "peer_vni", "addresses")
    found = [dict(zip(names, (*ends, many), strict=True)) for ends, many in links.items()]
    return {"rows": found, "left_out": left_out}


def _planes(samples: Iterable[Row], match: Row) -> Row:
    """Octets and packets that a spoke has sent and received, by VPN and plane."""
    planes: dict[str, dict[str, dict[str, float]]] = {}
    for sample in samples:
        if sample["name"].startswith(_PLANE):
            vpn, plane = sample["labels"]["vpn"], sample["labels"]["plane"]
            if vpn == str(match.get("vpn", vpn)):
                field = sample["name"].removeprefix(_PLANE).removesuffix("_total")
                planes.setdefault(vpn, {}).setdefault(plane, {})[field] = sample["value"]
    return planes
