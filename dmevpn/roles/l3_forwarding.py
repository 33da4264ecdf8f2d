"""From bindings of IPv4 and IPv6 addresses to the kernel's neighbours and routes. Layer: role.

Every effect on the kernel follows from a change of the cache, so that there is one place to look
for why an entry stands:

==============================  ==================================================================
binding                         data plane
==============================  ==================================================================
``incomplete negative``         neighbour at the NHS, if the address is on our network: packets
                                take the detour by it and are not lost
``dynamic``                     neighbour at the binding's NBMA address, if on our network: what
                                a station claims shall not change other routes of this machine
``cached static``               neighbour at the binding's NBMA address; for a prefix, and for
                                what is not on our network, a route by the next hop as well
``local``                       nothing: that is our own
==============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address

from zope.interface import implementer

from dmevpn.interfaces import ICacheListener, ILayer3Dataplane
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.prefixes import prefix_of

__all__ = ["Layer3Forwarding"]


@implementer(ICacheListener)
class Layer3Forwarding:
    """Makes the kernel forward as the cache says.

    :param network: ours; its addresses are next hops of their own.
    :param detour: underlay address of the server that carries packets for an address while no
        way to it is known; None without one.
    """

    def __init__(
        self,
        *,
        dataplane: ILayer3Dataplane,
        network: IPv4Network | IPv6Network,
        detour: Callable[[bytes], bytes | None],
    ) -> None:
        self._dataplane = dataplane
        self._network = network
        self._detour = detour
        #: What each next hop is needed for, by the key of the binding, and where it then is.
        self._neighbours: dict[bytes, dict[bytes, bytes]] = {}
        #: Next hop of each binding that has an effect, and whether it has a route.
        self._effects: dict[bytes, tuple[bytes, bool]] = {}

    def next_hop(self, binding: Binding) -> bytes | None:
        """The next hop that a binding has an entry for; None if it has none."""
        effect = self._effects.get(binding.key)
        return None if effect is None else effect[0]

    def confirm(self, next_hop: bytes) -> bool:
        """Answer the kernel's question about a next hop; False if nothing is known of it."""
        uses = self._neighbours.get(next_hop)
        if not uses:
            return False
        self._dataplane.set_neighbour(next_hop, _latest(uses))
        return True

    def close(self) -> None:
        """Take everything of ours out of the kernel."""
        for key in list(self._effects):
            self._withdraw(key)

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """Forward by it."""
        self._apply(binding)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A refresh that confirms all of it writes nothing to the kernel."""
        if (old.kind, old.vtep, old.next_hop) != (new.kind, new.vtep, new.next_hop):
            self._apply(new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """Back to the way that the kernel's other routes give."""
        self._withdraw(binding.key)

    # --- effects ------------------------------------------------------------------------------

    def _apply(self, binding: Binding) -> None:
        """Make the entries of a binding, in place of those that it had."""
        key = binding.key
        wanted = self._wanted(binding)
        if wanted is None:
            self._withdraw(key)
            return
        next_hop, nbma, routed = wanted
        before = self._effects.get(key)
        if before is not None and before != (next_hop, routed):
            self._withdraw(key)
        self._effects[key] = (next_hop, routed)
        uses = self._neighbours.setdefault(next_hop, {})
        uses.pop(key, None)
        uses[key] = nbma
        self._dataplane.set_neighbour(next_hop, nbma)
        if routed:
            self._dataplane.set_route(binding.protocol, binding.bits, next_hop)

    def _wanted(self, binding: Binding) -> tuple[bytes, bytes, bool] | None:
        """Next hop, its underlay address, and whether a route is needed."""
        protocol = binding.protocol
        near = binding.bits == 8 * len(protocol) and ip_address(protocol) in self._network
        if binding.vtep is None:
            # Also our own addresses, which have none.
            nbma = self._detour(protocol) if near and binding.kind <= Kind.NEGATIVE else None
            return None if nbma is None else (protocol, nbma, False)
        nbma = binding.vtep.nbma
        if binding.kind is Kind.DYNAMIC:
            return (protocol, nbma, False) if near else None
        next_hop = binding.next_hop or protocol
        return next_hop, nbma, not near or next_hop != protocol

    def _withdraw(self, key: bytes) -> None:
        effect = self._effects.pop(key, None)
        if effect is None:
            return
        next_hop, routed = effect
        if routed:
            self._dataplane.remove_route(*prefix_of(key))
        uses = self._neighbours[next_hop]
        nbma = _latest(uses)
        del uses[key]
        if not uses:
            del self._neighbours[next_hop]
            self._dataplane.remove_neighbour(next_hop)
        elif _latest(uses) != nbma:
            self._dataplane.set_neighbour(next_hop, _latest(uses))


def _latest(uses: dict[bytes, bytes]) -> bytes:
    return next(reversed(uses.values()))
