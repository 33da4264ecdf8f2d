"""Whose a device is, and whether somebody else's is what we would have made. Layer: edge, no I/O.

What we make carries our mark in its alias (``ip -d link show``). A device without it that has the
right name is taken up if every parameter that is fixed for its life is as we would have made it;
what may be changed while it runs (MTU, bridge, port of the bridge, state) is set as on our own.
It stays when we stop: who made it removes it.
"""

from __future__ import annotations

from typing import NamedTuple

from dmevpn.addresses import format_address
from dmevpn.dataplane.links import Link, VXLANParameters

__all__ = [
    "BRIDGE_ALIAS",
    "HUB_ALIAS",
    "HUB_PLANE_ALIAS",
    "SHORTCUT_PLANE_ALIAS",
    "Difference",
    "differences",
    "is_ours",
    "refusal",
]

#: Aliases of what we make.
BRIDGE_ALIAS = "dmevpn bridge"
HUB_PLANE_ALIAS = "dmevpn hub plane"
SHORTCUT_PLANE_ALIAS = "dmevpn shortcut plane"
HUB_ALIAS = "dmevpn hub"
_ALIASES = frozenset((BRIDGE_ALIAS, HUB_PLANE_ALIAS, SHORTCUT_PLANE_ALIAS, HUB_ALIAS))


class Difference(NamedTuple):
    """A parameter of a device that is not what we need."""

    parameter: str
    """By the word that ``ip link`` has for it."""
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.parameter} is {self.found}, not {self.wanted}"


def is_ours(link: Link) -> bool:
    """Whether we have made a device, in this run or an earlier one."""
    return link.alias in _ALIASES


def differences(link: Link, wanted: VXLANParameters, *, remote: bool = True) -> list[Difference]:
    """What keeps a device from being used as a vxlan device of ours; empty: nothing.

    An external device takes VNI and addresses from each packet, whatever it was made with.

    :param remote: whether its default destination matters: while we run it is an entry.
    """
    if link.vxlan is None:
        return [Difference("kind", link.kind or "hardware", "vxlan")]
    found = link.vxlan
    if found.external != wanted.external:
        return [Difference("external", _switch(found.external), _switch(wanted.external))]
    rows = [] if wanted.external else _addressing(found, wanted, remote)
    rows.append(("dstport", str(found.port), str(wanted.port)))
    rows.append(("learning", _switch(found.learning), _switch(wanted.learning)))
    rows.append(("l2miss", _switch(found.l2miss), _switch(wanted.l2miss)))
    rows += [(name, "on", "off") for name in sorted(found.extras)]
    return [Difference(*row) for row in rows if row[1] != row[2]]


def _addressing(
    found: VXLANParameters, wanted: VXLANParameters, remote: bool
) -> list[tuple[str, str, str]]:
    rows = [
        ("id", str(found.vni), str(wanted.vni)),
        ("local", _address(found.local), _address(wanted.local)),
    ]
    if remote:
        rows.append(("remote", _address(found.remote), _address(wanted.remote)))
    return rows


def refusal(link: Link, found: list[Difference], master: Difference | None = None) -> str:
    """Why a device of somebody else's cannot be used, and the cure; in one line.

    :param found: as :func:`differences` has it.
    :param master: if it is a port of a bridge that is not ours to take it out of.
    """
    name = link.name
    said = ", ".join(map(str, [*found, *([master] if master else [])]))
    cure = f"remove it (`ip link delete {name}`) to have it made"
    if not found:
        cure = f"`ip link set {name} nomaster`"
    elif master is None and [each.parameter for each in found] == ["learning"]:
        cure = _without_learning(link) or cure
    return (
        f"interface {name}: a device of that name exists and is not ours: {said};"
        f" {cure}, or configure it without `provision`"
    )


def _without_learning(link: Link) -> str:
    """How it is told not to learn; empty for an external device, which the kernel never changes."""
    if link.vxlan is None or link.vxlan.external:
        return ""
    return f"`ip link set {link.name} type vxlan id {link.vxlan.vni} nolearning`"


def _switch(value: bool) -> str:
    return "on" if value else "off"


def _address(octets: bytes) -> str:
    return format_address(octets) if octets else "none"
