"""All bindings of one VPN: protocol address to VTEP (RFC 2332 §6.2). Layer: core.

There is one binding per protocol address or prefix, the strongest; where it is wanted, others of
the same strength that name other VTEPs stand beside it. MAC, IPv4 and IPv6 addresses differ in
length, so one table keeps them apart. Who wants to know of changes subscribes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import MAC_LENGTH, VTEP, Path
from dmevpn.interfaces import ICacheListener
from dmevpn.metrics import Metrics
from dmevpn.nhrp.deadlines import Deadlines
from dmevpn.nhrp.keysets import KeySets
from dmevpn.nhrp.prefixes import PrefixIndex, key_of
from dmevpn.nhrp.room import SharedRoom

__all__ = ["LIMIT", "MOST_BESIDE", "SHORTEST_LIFE", "Binding", "Cache", "Kind"]

#: Bindings of one VPN, unless its owner says otherwise: twice the 100,000 that a hub is built
#: for. A peer that registers or makes us resolve ever new addresses ends here.
LIMIT: Final = 200_000

#: Registrations of one VTEP that are looked at when one of them is wanted. A site has one or two;
#: a peer that registers all addresses it can think of at one VTEP makes no question dearer.
_MOST_REGISTRATIONS: Final = 16

#: Bindings that stand beside the first one of an address: an answer has to name them all.
MOST_BESIDE: Final = 15

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
    """A MAC, IPv4 or IPv6 address; of a prefix, the first one in it."""
    vtep: VTEP | None
    """None while incomplete or negative."""
    kind: Kind
    """Where we have it from."""
    holding_time: int
    """Seconds, as granted; see ``expires`` for what is left."""
    expires: float | None
    """On the cache's clock; None: never."""
    mtu: int = 0
    """Octets that the VTEP takes; 0: not stated."""
    preference: int = 0
    """0 to 255: of several, the highest is to be used (RFC 2332 §5.2.0.1)."""
    unique: bool = False
    """Registered as unique: nobody else may register the address (RFC 2332 §5.2.3)."""
    nat: bool = False
    """The VTEP's address was translated on the way; ``claimed`` is what the client said."""
    claimed: bytes = b""
    """NBMA address in the registration, where translation changed it."""
    path: Path | None = None
    """How its registrant is reached."""
    prefix_length: int | None = None
    """Bits of the protocol address that count, the others being zero; None: exactly this one."""
    next_hop: bytes = b""
    """Protocol address of the station that leads there; empty: it is the address itself."""
    source: bytes = b""
    """NBMA address of the server whose answer it is; empty: it is no answer."""
    spi: int | None = None
    """Of the key that authenticated its registration, 0 if none did; None: not known."""
    apart: frozenset[bytes] | None = frozenset()
    """Underlay addresses of the servers whose floods its registrant has from themselves; None:
    of all (see :mod:`dmevpn.nhrp.multihoming`)."""

    @property
    def key(self) -> bytes:
        """What the cache knows the address or prefix by."""
        length = self.prefix_length
        return self.protocol if length is None else key_of(self.protocol, length)

    @property
    def bits(self) -> int:
        """How many bits of the protocol address count."""
        length = self.prefix_length
        return 8 * len(self.protocol) if length is None else length


class Cache:
    """The bindings of one VPN.

    :ivar clock: on which bindings expire.
    :ivar index: the keys of all bindings but MACs, which have no prefixes.
    :ivar crowded: whether any binding stands beside another one (its truth is meant).
    :param limit: bindings at most; the oldest negative one gives way, else nothing is added.
    :param room: what the caches of all VPNs share; the same is done where it is full.
    """

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        limit: int = LIMIT,
        room: SharedRoom | None = None,
    ) -> None:
        self.clock = clock
        self.index = PrefixIndex()
        self._limit = limit
        self._room = room
        #: By key; those beside the first one of a key by :func:`_place_beside`.
        self._bindings: dict[bytes, Binding] = {}
        #: The places of those beside the first, by key, in the order they came.
        self._beside: dict[bytes, dict[bytes, None]] = {}
        self.crowded: Sized = self._beside
        #: In the order they came: the first is the first to give way.
        self._negative: dict[bytes, None] = {}
        #: The places of dynamic bindings by VTEP, and by the NBMA addresses of their registrant.
        self._registered = KeySets[VTEP]()
        self._registrants = KeySets[bytes]()
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

    def lookup(self, key: bytes) -> Binding | None:
        """The first binding of an address or of the key of a prefix (see
        :mod:`dmevpn.nhrp.prefixes`), if it has at least a second to live."""
        binding = self._bindings.get(key)
        if binding is None:
            return None
        expires = binding.expires
        if expires is not None and expires - self.clock.seconds() < SHORTEST_LIFE:
            return None
        return binding

    def standing(self, keys: Iterable[bytes]) -> list[Binding]:
        """The first bindings of addresses or of keys of prefixes, even if they are about to
        expire: so long, what follows from them stands."""
        return [self._bindings[key] for key in keys if key in self._bindings]

    def find(self, protocol: bytes) -> Binding | None:
        """What is registered or configured for an address: its own binding, or that of the
        longest prefix that covers it."""
        binding = self.lookup(protocol)
        if binding is not None and binding.kind >= Kind.DYNAMIC:
            return binding
        return self.find_around(protocol)

    def find_around(self, protocol: bytes, shorter_than: int | None = None) -> Binding | None:
        """What is registered or configured for the longest prefix that covers an address.

        :param shorter_than: bits that the prefix has at least one less of; None: any prefix.
        """
        for key in self.index.covering(protocol):
            binding = self.lookup(key)
            if (
                binding is not None
                and binding.kind >= Kind.DYNAMIC
                and (shorter_than is None or binding.bits < shorter_than)
            ):
                return binding
        return None

    def inside(self, protocol: bytes, prefix_length: int) -> list[Binding]:
        """The first bindings of all addresses and prefixes in a set. Of a set of MACs, which
        nobody has a use for, every binding is looked at."""
        if len(protocol) != MAC_LENGTH:
            keys = self.index.inside(protocol, prefix_length)
            return [self._bindings[key] for key in keys]
        network = key_of(protocol, prefix_length)
        return [
            binding
            for binding in self._bindings.values()
            if len(binding.protocol) == MAC_LENGTH
            and key_of(binding.protocol, prefix_length) == network
        ]

    def alternatives(self, binding: Binding) -> list[Binding]:
        """A binding with those of the same address beside it, the preferred one first."""
        key = binding.key
        places = self._beside.get(key)
        if places is None:
            return [binding]
        found = [each for each in map(self.lookup, (key, *places)) if each is not None]
        return sorted(found, key=lambda each: -each.preference)

    def is_registered(self, vtep: VTEP) -> bool:
        """Whether a dynamic binding names a VTEP, even if it is about to expire."""
        return vtep in self._registered

    def registrations_of(self, vtep: VTEP) -> list[Binding]:
        """Dynamic bindings of a VTEP that have at least a second to live: of very many, some."""
        some = islice(self._registered.of(vtep), _MOST_REGISTRATIONS)
        return [binding for binding in map(self.lookup, some) if binding is not None]

    def registration_of(self, vtep: VTEP) -> Binding | None:
        """The one of those that lives longest."""
        places = self._registered.of(vtep)
        if len(places) == 1:
            for place in places:
                return self.lookup(place)
        best, longest = None, self.clock.seconds() + SHORTEST_LIFE
        for place in islice(places, _MOST_REGISTRATIONS):
            binding = self._bindings[place]
            if binding.expires is None or binding.expires >= longest:
                best, longest = binding, binding.expires or float("inf")
        return best

    def registered_by(self, nbma: bytes) -> Iterator[Binding]:
        """Dynamic bindings whose registrant has an NBMA address, be it as it says or as it is
        seen. The cache must not change before the caller is through."""
        return (self._bindings[place] for place in self._registrants.of(nbma))

    def put(self, binding: Binding, *, overrule: bool = False, beside: bool = False) -> bool:
        """Add a binding or replace the one that is there.

        :param overrule: also replace a stronger one: the same source has thought better of it.
        :param beside: let bindings of the same kind that name other VTEPs stand.
        :return: False if a stronger one is there, or if there is no room.
        """
        length = binding.prefix_length
        key = binding.protocol if length is None else key_of(binding.protocol, length)
        place = key
        old = self._bindings.get(place)
        if (
            beside
            and old is not None
            and old.kind is binding.kind
            and binding.vtep is not None
            and old.vtep != binding.vtep
        ):
            place = _place_beside(key, binding.vtep)
            old = self._bindings.get(place)
            if old is None and len(self._beside.get(key, ())) >= MOST_BESIDE:
                self._full.inc()
                return False
        if old is None:
            held, room = len(self._bindings), self._room
            if (held >= self._limit or (room is not None and not room.has(held))) and not (
                self._evict()
            ):
                self._full.inc()
                return False
            if room is not None:
                room.added(len(self._bindings))
        elif (
            old.kind > binding.kind
            and not overrule
            # One that is as good as gone protects nothing.
            and (old.expires is None or old.expires - self.clock.seconds() >= SHORTEST_LIFE)
        ):
            return False
        if not beside and self._beside:
            for other in list(self._beside.get(key, ())):
                self.remove(other, "moved")
        self._bindings[place] = binding
        if old is None:
            if place is key:
                if len(key) != MAC_LENGTH:
                    self.index.add(key)
            else:
                self._beside.setdefault(key, {})[place] = None
            self._list(place, binding)
        elif (
            old.kind is not binding.kind
            or old.vtep != binding.vtep
            or old.claimed != binding.claimed
        ):
            self._unlist(place, old)
            self._list(place, binding)
        expires = binding.expires
        if expires is None:
            self._deadlines.discard(place)
        elif old is None or old.expires is None or expires < old.expires:
            self._deadlines.set(place, expires)
        # Else the deadline that the old one has is early enough.
        if old is None:
            for listener in self._listeners:
                listener.binding_added(binding)
        else:
            for listener in self._listeners:
                listener.binding_changed(old, binding)
        return True

    def remove(self, place: bytes, reason: str) -> Binding | None:
        """Take the first binding of a key away, whatever its kind; what it was, or None. If there
        are others beside it, the one that came first takes its place."""
        binding = self._bindings.pop(place, None)
        if binding is None:
            return None
        if self._room is not None:
            self._room.removed(len(self._bindings) + 1)
        self._unlist(place, binding)
        self._deadlines.discard(place)
        key = binding.key
        if place != key:
            self._forget_beside(key, place)
        elif key in self._beside:
            self._promote(key)
        elif len(key) != MAC_LENGTH:
            self.index.remove(key)
        for listener in self._listeners:
            listener.binding_removed(binding, reason)
        return binding

    def drop(self, binding: Binding, reason: str) -> None:
        """Take one binding away, be it the first of its key or one beside it, if it is there."""
        key = binding.key
        if self._bindings.get(key) is binding:
            self.remove(key, reason)
        elif binding.vtep is not None:
            self.remove(_place_beside(key, binding.vtep), reason)

    def remove_if(self, predicate: Callable[[Binding], bool], reason: str) -> int:
        """Take away all bindings that a predicate is true of; how many."""
        doomed = [binding for binding in self._bindings.values() if predicate(binding)]
        for binding in doomed:
            self.drop(binding, reason)
        return len(doomed)

    def removing(self, predicate: Callable[[Binding], bool], reason: str) -> Iterator[bool]:
        """Take away, one at each step, the bindings that are there now, if the predicate is true of
        what stands in their place when their turn comes; whether one went."""
        for place in list(self._bindings):
            # The place of one that others stand beside is taken by the next of them.
            for _ in range(1 + MOST_BESIDE):
                binding = self._bindings.get(place)
                if binding is None or not predicate(binding):
                    break
                self.remove(place, reason)
                yield True
            else:
                continue
            yield False

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
        self.index.clear()
        if self._room is not None:
            self._room.removed(len(self._bindings), len(self._bindings))
        self._bindings.clear()
        self._beside.clear()
        self._negative.clear()
        self._registered.clear()
        self._registrants.clear()
        self._counts = [0] * len(Kind)

    def _list(self, place: bytes, binding: Binding) -> None:
        kind = binding.kind
        self._counts[kind] += 1
        if kind is Kind.NEGATIVE:
            self._negative[place] = None
        elif kind is Kind.DYNAMIC and binding.vtep is not None:
            self._registered.add(binding.vtep, place)
            self._registrants.add(binding.vtep.nbma, place)
            if binding.claimed:
                self._registrants.add(binding.claimed, place)

    def _unlist(self, place: bytes, binding: Binding) -> None:
        kind = binding.kind
        self._counts[kind] -= 1
        if kind is Kind.NEGATIVE:
            del self._negative[place]
        elif kind is Kind.DYNAMIC and binding.vtep is not None:
            self._registered.remove(binding.vtep, place)
            self._registrants.remove(binding.vtep.nbma, place)
            if binding.claimed:
                self._registrants.remove(binding.claimed, place)

    def _forget_beside(self, key: bytes, place: bytes) -> None:
        places = self._beside[key]
        del places[place]
        if not places:
            del self._beside[key]

    def _promote(self, key: bytes) -> None:
        """Give the first place of a key, which is free, to the binding beside it that came
        first. To everybody else that binding stays what it is."""
        place = next(iter(self._beside[key]))
        self._forget_beside(key, place)
        binding = self._bindings.pop(place)
        self._unlist(place, binding)
        self._deadlines.discard(place)
        self._bindings[key] = binding
        self._list(key, binding)
        if binding.expires is not None:
            self._deadlines.set(key, binding.expires)

    def _evict(self) -> bool:
        """Make room by forgetting the oldest negative binding: it can be asked for again."""
        oldest = next(iter(self._negative), None)
        if oldest is None:
            return False
        self._evicted.inc()
        self.remove(oldest, "flushed")
        return True

    def _due(self, place: bytes) -> float | None:
        expires = self._bindings[place].expires
        assert expires is not None, "what never expires has no deadline"
        if expires > self.clock.seconds():
            return expires
        self._expired.inc()
        self.remove(place, "expired")
        # Another binding may have moved up into the place, with its own deadline.
        return None


def _place_beside(key: bytes, vtep: VTEP) -> bytes:
    """Where a binding stands that is not the first of its key; no key has this length."""
    vni = (vtep.vni or 0).to_bytes(4, "big")
    return b"%b%b%c%b" % (key, vtep.nbma.ljust(16, b"\0"), len(vtep.nbma), vni)
