"""Draining the hubs of a node, as operators ask for it. Layer: role."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import Deferred, gatherResults

from dmevpn.errors import CommandError
from dmevpn.roles.hub import HubRole
from dmevpn.roles.matching import Match
from dmevpn.roles.node import Node
from dmevpn.roles.rows import Row

__all__ = ["drain", "hub_rows", "undrain"]

#: Seconds that a command waits for members to leave, if it does not say. They need less than one,
#: and those that have to be asked again, five.
PATIENCE = 10


def hub_rows(node: Node, match: Match) -> Iterator[Row]:
    """Rows of ``hub show``."""
    now = node.clock.seconds()
    for interface, hub in list(node.hubs.items()):
        if interface == match.get("interface", interface):
            since = hub.drain.since
            yield {
                "interface": interface,
                "state": hub.drain.state,
                "members": hub.drain.registered,
                "left": hub.drain.left,
                "since": None if since is None else int(now - since),
            }


def drain(node: Node, match: Match) -> Deferred[list[Row]]:
    """Rows of ``hub drain``, once all is drained or the time is over.

    :raises CommandError: if there is no such hub.
    """
    hubs = _chosen(node, match)
    for hub in hubs:
        hub.drain.begin()
    waiting = gatherResults([hub.drain.wait(match.get("wait", PATIENCE)) for hub in hubs])
    return waiting.addCallback(lambda _: list(hub_rows(node, match)))


def undrain(node: Node, match: Match) -> list[Row]:
    """Rows of ``hub undrain``.

    :raises CommandError: if there is no such hub.
    """
    for hub in _chosen(node, match):
        hub.drain.end()
    return list(hub_rows(node, match))


def _chosen(node: Node, match: Match) -> list[HubRole]:
    hubs = [hub for name, hub in node.hubs.items() if name == match.get("interface", name)]
    if not hubs:
        raise CommandError("no such hub is here: see `dmevpnctl interface show`")
    return hubs
