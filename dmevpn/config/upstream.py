"""The servers that a hub asks about MACs it does not know, from ``map``. Layer: core.

``map MAC[/P] NBMA`` on a control interface is a route for its hubs: requests about MACs with that
prefix go on to the NHS at NBMA. ``00:00:00:00:00:00/0`` is all MACs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from dmevpn.addresses import MAC_LENGTH
from dmevpn.config.arguments import Host
from dmevpn.config.model import HubPlan, InterfaceConfig, RoutePlan, Statement
from dmevpn.config.statements import Findings

__all__ = ["upstream"]


def upstream(
    found: Findings, block: InterfaceConfig, hubs: Iterable[HubPlan]
) -> tuple[list[HubPlan], set[Statement]]:
    """The hubs, with the routes that a control interface gives to its own.

    :param block: of the control interface.
    :return: all hubs, and the statements (``vpn-id`` too) that have an effect here.
    """
    hubs = list(hubs)
    used: set[Statement] = set()
    if not any(hub.controller == block.name for hub in hubs):
        return hubs, used
    routes = []
    governor: Statement | None = None
    for statement in block.statements:
        if statement.keyword == "vpn-id":
            governor = statement
        if statement.keyword != "map":
            continue
        (protocol, bits), host = cast("tuple[tuple[bytes, int], Host]", statement.arguments)
        if len(protocol) != MAC_LENGTH:
            continue
        used.add(statement)
        for option in statement.options:
            message = f"{option.keyword} has no effect: a hub only asks this server"
            found.warn(option, option.keyword, message)
        if host.address is None:
            message = "a hub's upstream server is given by its underlay address"
            found.error(statement, host.text, message)
            continue
        vpns = None
        if governor is not None:
            used.add(governor)
            vpns = cast(tuple[int, int], governor.arguments[0])
        routes.append(RoutePlan(protocol=protocol, prefix_length=bits, nhs=host.address, vpns=vpns))
    return [
        replace(hub, routes=tuple(routes)) if hub.controller == block.name else hub for hub in hubs
    ], used
