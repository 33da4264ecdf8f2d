"""Lets the operator's script see peers and routes before the kernel does. Layer: role.

It stands between the cache and the forwarding, which sees a binding once the script has ended well:

===============================  ===================================================================
binding                          events
===============================  ===================================================================
``dynamic``, ``cached``          ``peer-up`` about the station that leads there, when the first of
                                 its bindings comes; ``peer-down`` with the last one
``cached``, led to by another    then ``route-up``, and ``route-down`` in the end
others                           none; servers have :mod:`dmevpn.roles.server_gate`
===============================  ===================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from zope.interface import implementer

from dmevpn.interfaces import ICacheListener
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.roles.script_events import StationEvents, Subject

__all__ = ["PeerGate"]

#: Words of OpenNHRP's for why something went down; others are ours.
_REASONS = {"flushed": "user-request"}


@dataclass(eq=False)
class _Peer:
    """A station that bindings lead to."""

    subject: Subject
    bindings: dict[bytes, Binding] = field(default_factory=dict)
    """By key: those that need it."""
    up: bool = False
    silent: bool = False
    """It is a server, whose events are told elsewhere."""
    cancel: Callable[[], None] | None = None


@dataclass(eq=False)
class _Route:
    """A binding that another station leads to."""

    subject: Subject
    up: bool = False
    cancel: Callable[[], None] | None = None


@implementer(ICacheListener)
class PeerGate:
    """Passes on to another listener what the script has seen.

    :param reject: takes the answer about an address for a refusal.
    """

    def __init__(
        self,
        cache: Cache,
        listener: ICacheListener,
        events: StationEvents,
        reject: Callable[[bytes], None],
    ) -> None:
        self._cache = cache
        self._listener = listener
        self._events = events
        self._reject = reject
        self._peers: dict[bytes, _Peer] = {}
        #: Which peer a binding needs, by key.
        self._needs: dict[bytes, bytes] = {}
        self._routes: dict[bytes, _Route] = {}
        #: What the listener has been told, by key.
        self._told: dict[bytes, Binding] = {}

    def close(self) -> None:
        """All of it goes down, since we stop."""
        for key in list(self._routes):
            self._end_route(key, "stopped")
        for address in list(self._peers):
            self._end_peer(address, "stopped")
        self._needs.clear()
        self._told.clear()

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """Let the script see it first."""
        key = binding.key
        if binding.vtep is None or binding.kind not in (Kind.CACHED, Kind.DYNAMIC):
            self._release(key, "replaced")
            self._tell(binding)
            return
        address = binding.next_hop or binding.protocol
        before = self._needs.get(key)
        if before is not None and before != address:
            self._release(key, "moved")
        peer = self._peers.get(address)
        if peer is None or peer.subject.nbma != binding.vtep.nbma:
            peer = self._begin_peer(address, binding, binding.vtep.nbma)
        peer.bindings[key] = binding
        self._needs[key] = address
        if peer.up:
            self._reach(binding)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A refresh is no event."""
        self.binding_added(new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """What it led to goes down with it."""
        self._release(binding.key, _REASONS.get(reason, reason))
        told = self._told.pop(binding.key, None)
        if told is not None:
            self._listener.binding_removed(binding, reason)

    def _tell(self, binding: Binding) -> None:
        before = self._told.get(binding.key)
        self._told[binding.key] = binding
        if before is None:
            self._listener.binding_added(binding)
        else:
            self._listener.binding_changed(before, binding)

    def _release(self, key: bytes, reason: str) -> None:
        """A binding needs its peer no more."""
        self._end_route(key, reason)
        address = self._needs.pop(key, None)
        if address is not None:
            peer = self._peers[address]
            del peer.bindings[key]
            if not peer.bindings:
                self._end_peer(address, reason)

    # --- peers ------------------------------------------------------------------------------

    def _begin_peer(self, address: bytes, binding: Binding, nbma: bytes) -> _Peer:
        """A station that is new, or elsewhere than it was."""
        old = self._peers.get(address)
        if old is not None:
            self._end_peer(address, "moved")
        server = self._cache.lookup(address)
        peer = self._peers[address] = _Peer(
            Subject(
                kind=binding.kind.name.lower(),
                protocol=address,
                bits=8 * len(address),
                nbma=nbma,
                claimed=binding.claimed,
                mtu=binding.mtu,
            ),
            {} if old is None else old.bindings,
        )
        if (
            server is not None
            and server.kind is Kind.STATIC
            and server.vtep is not None
            and server.vtep.nbma == nbma
        ):
            peer.up = peer.silent = True
        else:
            done = partial(self._peer_answered, address)
            peer.cancel = self._events.run("peer-up", peer.subject, done=done)
        return peer

    def _peer_answered(self, address: bytes, accepted: bool) -> None:
        peer = self._peers[address]
        peer.cancel = None
        if accepted:
            peer.up = True
            for binding in list(peer.bindings.values()):
                if binding.vtep is not None and binding.vtep.nbma == peer.subject.nbma:
                    self._reach(binding)
            return
        del self._peers[address]
        for key, binding in peer.bindings.items():
            del self._needs[key]
            self._end_route(key, "refused")
            self._refuse(binding)

    def _end_peer(self, address: bytes, reason: str) -> None:
        peer = self._peers.pop(address)
        if peer.cancel is not None:
            peer.cancel()
        elif not peer.silent:
            self._events.run("peer-down", peer.subject, reason=reason)

    # --- routes ---------------------------------------------------------------------------------

    def _reach(self, binding: Binding) -> None:
        """The station that leads there is up: forward, or let the script see the route first."""
        if binding.kind is not Kind.CACHED or not binding.next_hop:
            self._end_route(binding.key, "replaced")
            self._tell(binding)
            return
        route = self._routes.get(binding.key)
        if route is None:
            route = self._routes[binding.key] = _Route(
                Subject(
                    kind="shortcut-route",
                    protocol=binding.protocol,
                    bits=binding.bits,
                    next_hop=binding.next_hop,
                )
            )
            done = partial(self._route_answered, binding.key)
            route.cancel = self._events.run("route-up", route.subject, done=done)
        elif route.up:
            self._tell(binding)

    def _route_answered(self, key: bytes, accepted: bool) -> None:
        route = self._routes[key]
        route.cancel = None
        peer = self._peers[self._needs[key]]
        binding = peer.bindings[key]
        if accepted:
            route.up = True
            if peer.up:
                self._tell(binding)
        else:
            self._release(key, "refused")
            self._refuse(binding)

    def _end_route(self, key: bytes, reason: str) -> None:
        route = self._routes.pop(key, None)
        if route is None:
            return
        if route.cancel is not None:
            route.cancel()
        elif route.up:
            self._events.run("route-down", route.subject, reason=reason)

    def _refuse(self, binding: Binding) -> None:
        """Do without it. An answer about a network stays in the cache, where it keeps us from
        asking again until it lapses."""
        told = self._told.pop(binding.key, None)
        if told is not None:
            self._listener.binding_removed(told, "refused")
        if binding.kind is Kind.DYNAMIC:
            self._cache.drop(binding, "refused")
        elif binding.prefix_length is None:
            self._reject(binding.protocol)
