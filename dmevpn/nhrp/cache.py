"""All bindings of one VPN: protocol address to VTEP (RFC 2332 §6.2). Layer: core.

There is one binding per protocol address, the strongest. MAC, IPv4 and IPv6 addresses differ in
length, so one table keeps them apart. Who wants to know of changes subscribes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, Path
from dmevpn.interfaces import ICacheListener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.deadlines import Deadlines

__all__ = ["LIMIT", "SHORTEST_LIFE", "Binding", "Cache", "Kind"]

#: Bindings of one VPN, unless its owner says otherwise: twice the 100,000 that a hub is built
#: for. A peer that registers or makes us resolve ever new addresses ends here.
LIMIT: Final = 200_000

#: Registrations of one VTEP that are looked at when one of them is wanted. A site has one or two;
#: a peer that registers all addresses it can think of at one VTEP makes no question dearer.
MOST_REGISTRATIONS: Final = 16

#: Seconds of life below which a binding is as good as gone: a reply states whole seconds.
SHORTEST_LIFE: Final = 1.0


class Kind(IntEnum):
    """Where a binding comes from, weakest first: a weaker one never replaces a stronger one."""

    INCOMPLETE = 0
    """Asked for, no answer yet."""
    NEGATIVE = 1
    """Asked for, and the answer was no."""
    CACHED = 2
    """The answer of a server."""
    LEARNED = 3
    """Seen by the hub's switch."""
    DYNAMIC = 4
    """Registered with us."""
    LOCAL = 5
    """An address of ours."""
    STATIC = 6
    """Configured."""


@dataclass(slots=True)
class Binding:
    """A protocol address with its VTEP. Not to be changed: put a new one instead."""

    protocol: bytes
    vtep: VTEP | None
    """None while incomplete or negative."""
    kind: Kind
    holding_time: int
    """Seconds, as granted; see ``expires`` for what is left."""
    expires: float | None
    """On the cache's clock; None: never."""
    mtu: int = 0
    """Octets that the VTEP takes; 0: not stated."""
    preference: int = 0
    unique: bool = False
    """Registered as unique: nobody else may register the address (RFC 2332 §5.2.3)."""
    nat: bool = False
    """The VTEP's address was translated on the way; ``claimed`` is what the client said."""
    claimed: bytes = b""
    """NBMA address in the registration, where translation changed it."""
    path: Path | None = None
    """How its registrant is reached."""


class Cache:
    """The bindings of one VPN.

    :ivar clock: on which bindings expire.
    :param limit: bindings at most; the oldest negative one gives way, else nothing is added.
    """

    def __init__(self, clock: IReactorTime, metrics: Metrics, limit: int = LIMIT) -> None:
        self.clock = clock
        self._limit = limit
        self._bindings: dict[bytes, Binding] = {}
        #: In the order they came: the first is the first to give way.
        self._negative: dict[bytes, None] = {}
        self._registered: dict[VTEP, set[bytes]] = {}
        self._counts = [0] * len(Kind)
        self._listeners: tuple[ICacheListener, ...] = ()
        self._deadlines = Deadlines(clock, self._due)
        self._full = metrics.counter("cache_full")
        self._evicted = metrics.counter("cache_evictions")
        self._expired = metrics.counter("bindings_expired")

    def __len__(self) -> int:
        return len(self._bindings)

    def count(self, kind: Kind | None = None) -> int:
        """How many bindings there are, of one kind or of all."""
        return len(self._bindings) if kind is None else self._counts[kind]

    def bindings(self) -> Iterator[Binding]:
        """All of them as they are now; the cache may change while the caller goes through."""
        return iter(list(self._bindings.values()))

    def lookup(self, protocol: bytes) -> Binding | None:
        """The binding of an address, if it has at least a second to live."""
        binding = self._bindings.get(protocol)
        if binding is None:
            return None
        expires = binding.expires
        if expires is not None and expires - self.clock.seconds() < SHORTEST_LIFE:
            return None
        return binding

    def is_registered(self, vtep: VTEP) -> bool:
        """Whether a dynamic binding names a VTEP, even if it is about to expire."""
        return vtep in self._registered

    def registrations_of(self, vtep: VTEP) -> list[Binding]:
        """Dynamic bindings of a VTEP that have at least a second to live; MOST_REGISTRATIONS of
        them are looked at."""
        some = islice(self._registered.get(vtep, ()), MOST_REGISTRATIONS)
        found = [self.lookup(protocol) for protocol in some]
        return [binding for binding in found if binding is not None]

    def put(self, binding: Binding, *, overrule: bool = False) -> bool:
        """Add a binding or replace the one that is there.

        :param overrule: also replace a stronger one: the same source has thought better of it.
        :return: False if a stronger one is there, or if the cache is full.
        """
        protocol = binding.protocol
        old = self._bindings.get(protocol)
        if old is None:
            if len(self._bindings) >= self._limit and not self._evict():
                self._full.inc()
                return False
        elif (
            old.kind > binding.kind
            and not overrule
            # One that is as good as gone protects nothing.
            and (old.expires is None or old.expires - self.clock.seconds() >= SHORTEST_LIFE)
        ):
            return False
        self._bindings[protocol] = binding
        if old is None or old.kind is not binding.kind or old.vtep != binding.vtep:
            if old is not None:
                self._unlist(old)
            self._list(binding)
        if binding.expires is None:
            self._deadlines.discard(protocol)
        else:
            self._deadlines.set(protocol, binding.expires)
        if old is None:
            for listener in self._listeners:
                listener.binding_added(binding)
        else:
            for listener in self._listeners:
                listener.binding_changed(old, binding)
        return True

    def remove(self, protocol: bytes, reason: str) -> Binding | None:
        """Take a binding away, whatever its kind; what it was, or None."""
        binding = self._bindings.pop(protocol, None)
        if binding is None:
            return None
        self._unlist(binding)
        self._deadlines.discard(protocol)
        for listener in self._listeners:
            listener.binding_removed(binding, reason)
        return binding

    def remove_if(self, predicate: Callable[[Binding], bool], reason: str) -> int:
        """Take away all bindings that a predicate is true of; how many."""
        doomed = [binding.protocol for binding in self._bindings.values() if predicate(binding)]
        return sum(self.remove(protocol, reason) is not None for protocol in doomed)

    def subscribe(self, listener: ICacheListener) -> None:
        """Tell a listener of all changes from now on; listeners are told in this order."""
        self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: ICacheListener) -> None:
        """Tell it no more."""
        self._listeners = tuple([each for each in self._listeners if each is not listener])

    def close(self) -> None:
        """Forget everything without telling anybody, and leave no timer behind."""
        self._listeners = ()
        self._deadlines.close()
        self._bindings.clear()
        self._negative.clear()
        self._registered.clear()
        self._counts = [0] * len(Kind)

    def _list(self, binding: Binding) -> None:
        kind = binding.kind
        self._counts[kind] += 1
        if kind is Kind.NEGATIVE:
            self._negative[binding.protocol] = None
        elif kind is Kind.DYNAMIC and binding.vtep is not None:
            self._registered.setdefault(binding.vtep, set()).add(binding.protocol)

    def _unlist(self, binding: Binding) -> None:
        kind = binding.kind
        self._counts[kind] -= 1
        if kind is Kind.NEGATIVE:
            del self._negative[binding.protocol]
        elif kind is Kind.DYNAMIC and binding.vtep is not None:
            protocols = self._registered[binding.vtep]
            protocols.discard(binding.protocol)
            if not protocols:
                del self._registered[binding.vtep]

    def _evict(self) -> bool:
        """Make room by forgetting the oldest negative binding: it can be asked for again."""
        oldest = next(iter(self._negative), None)
        if oldest is None:
            return False
        self._evicted.inc()
        self.remove(oldest, "flushed")
        return True

    def _due(self, protocol: bytes) -> float | None:
        expires = self._bindings[protocol].expires
        assert expires is not None, "what never expires has no deadline"
        if expires > self.clock.seconds():
            return expires
        self._expired.inc()
        self.remove(protocol, "expired")
        return None
