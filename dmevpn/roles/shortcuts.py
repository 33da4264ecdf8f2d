"""Who reaches what without the hub, as rows for operators. Layer: role.

A hub does not see the traffic of shortcuts. But it has answered the questions that they are made
of, and knows for how long each answer is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmevpn.addresses import VTEP
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.prefixes import format_key
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.node import Node
from dmevpn.roles.rows import Row, left, place

__all__ = ["shortcut_rows"]


def shortcut_rows(node: Node) -> Iterator[Row]:
    """Rows of ``shortcut show``: those of our own first."""
    for spoke in list(node.spokes.values()):
        here = spoke.dataplane.local_vtep
        yield from _own(node, spoke.plan.vpn.index, here, spoke.cache.bindings())
    for role in list(node.layer3.values()):
        for station in role.each_station():
            index = None if station.plan.vpn is None else station.plan.vpn.index
            yield from _own(node, index, None, station.cache.bindings())
    for hub in list(node.hubs.values()):
        for index, vpn in sorted(hub.vpns.items()):
            yield from _answered(node, index, vpn)


def _own(node: Node, vpn: int | None, here: VTEP | None, found: Iterable[Binding]) -> Iterator[Row]:
    for binding in found:
        if binding.kind is Kind.CACHED:
            yield _row(node, vpn, here, binding.key, binding.vtep, binding.expires)


def _answered(node: Node, vpn: int, hub: HubVPN) -> Iterator[Row]:
    for key, vteps, station, _, until in hub.server.records():
        asked = hub.cache.lookup(station)
        here = None if asked is None else asked.vtep
        for there in vteps:
            # Who asks for an address of its own side has no shortcut from that.
            if here is not None and here != there:
                yield _row(node, vpn, here, key, there, until)


def _row(
    node: Node,
    vpn: int | None,
    here: VTEP | None,
    key: bytes,
    there: VTEP | None,
    expires: float | None,
) -> Row:
    peer = place(there)
    return {
        "vpn": vpn,
        **place(here),
        "protocol": format_key(key),
        "peer_nbma": peer["nbma"],
        "peer_vni": peer["vni"],
        "expires_in": left(expires, node.clock.seconds()),
    }
