"""Taking bindings away at an operator's word, over as many reactor turns as it takes. Layer: role.

What is there at the beginning goes, if the filters accept it when its turn comes. So a registration
that is renewed meanwhile goes, too, and one that is made meanwhile stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dmevpn.addresses import format_address
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.roles.matching import Match, accepts, index_of, learned_at
from dmevpn.roles.node import Node
from dmevpn.roles.rows import binding_row, place
from dmevpn.roles.turns import STEP

__all__ = ["withdrawing"]


def withdrawing(node: Node, match: Match, strongest: Kind, reason: str) -> Iterator[bool | None]:
    """True for each binding that was taken away, and None after each step.

    :param strongest: those of a stronger kind stay.
    :param reason: what watchers and clients are told.
    """
    for cache, vpn, interface in _caches(node):
        for number, removed in enumerate(
            cache.removing(_wanted(node, vpn, interface, match, strongest), reason), 1
        ):
            if removed:
                yield True
            if removed or number % STEP == 0:
                yield None
    yield from _forgetting(node, match, reason)


def _caches(node: Node) -> list[tuple[Cache, int | None, str]]:
    """Every cache, with its VPN and interface."""
    stations = [each for role in node.layer3.values() for each in role.each_station()]
    return [
        *((each.cache, each.plan.vpn.index, each.interface) for each in node.spokes.values()),
        *((each.cache, index_of(each), each.plan.interface) for each in stations),
        *(
            (vpn.cache, index, hub.plan.interface)
            for hub in node.hubs.values()
            for index, vpn in hub.vpns.items()
        ),
    ]


def _wanted(
    node: Node, vpn: int | None, interface: str, match: Match, strongest: Kind
) -> Callable[[Binding], bool]:
    """Whether a binding of one cache is meant."""
    now = node.clock.seconds
    return lambda binding: (
        binding.kind <= strongest and accepts(match, binding_row(binding, vpn, interface, now()))
    )


def _forgetting(node: Node, match: Match, reason: str) -> Iterator[bool | None]:
    """Take away what switches have learned."""
    for hub in list(node.hubs.values()):
        for learned in learned_at(hub, match):
            if learned is None:
                yield None
                continue
            index, entry = learned
            row = {
                "vpn": index,
                "protocol": format_address(entry.mac),
                "type": "learned",
                **place(entry.vtep),
                "interface": hub.plan.interface,
            }
            vpn = hub.vpns.get(index)
            if vpn is not None and accepts(match, row):
                vpn.forget(entry, reason)
                yield True
                yield None
