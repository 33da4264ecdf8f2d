"""Sets of protocol addresses that one prefix names (RFC 2332 §5.2.0.1). Layer: core.

A *key* names such a set in a table: a single address is its own key; any other set is the first
address in it, followed by one octet with the prefix length. No two sets share a key, because
MAC, IPv4 and IPv6 addresses have 6, 4 and 16 octets, and keys of sets have one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Generic, TypeVar

from sortedcontainers import SortedList

from dmevpn.addresses import format_address

__all__ = [
    "SHORTEST_PREFIX",
    "PrefixIndex",
    "PrefixTable",
    "format_key",
    "key_of",
    "prefix_of",
    "significant",
]

_T = TypeVar("_T")

#: Bits of the prefix of an answer at least, by the octets of an address: clients take nobody's
#: word for more of the world than that, and MACs have no prefixes.
SHORTEST_PREFIX: Final = {4: 8, 6: 48, 16: 16}

#: Octets of an address by the length of a key.
_OCTETS: Final = {4: 4, 5: 4, 6: 6, 7: 6, 16: 16, 17: 16}


def significant(prefix_length: int, octets: int) -> int:
    """How many bits of an address count, as a CIE says it: 0, and more than there are, mean all.

    :param octets: length of the address.
    """
    return prefix_length if 0 < prefix_length < 8 * octets else 8 * octets


def key_of(protocol: bytes, prefix_length: int) -> bytes:
    """The key of the set that has the first bits of an address.

    :param prefix_length: bits, 0 to the width of the address.
    """
    octets = len(protocol)
    spare = 8 * octets - prefix_length
    if not spare:
        return protocol
    number = int.from_bytes(protocol, "big") >> spare << spare
    return number.to_bytes(octets, "big") + bytes((prefix_length,))


def prefix_of(key: bytes) -> tuple[bytes, int]:
    """The first address of a set, and its prefix length."""
    octets = _OCTETS[len(key)]
    return (key, 8 * octets) if len(key) == octets else (key[:octets], key[octets])


def format_key(key: bytes) -> str:
    """A key as text: an address, or a prefix."""
    protocol, prefix_length = prefix_of(key)
    text = format_address(protocol)
    return text if protocol is key else f"{text}/{prefix_length}"


def _last(protocol: bytes, prefix_length: int) -> bytes:
    """The last address of a set."""
    octets = len(protocol)
    hosts = (1 << 8 * octets - prefix_length) - 1
    return (int.from_bytes(protocol, "big") | hosts).to_bytes(octets, "big")


def _common(one: bytes, other: bytes) -> int:
    """How many leading bits two addresses share."""
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return 8 * len(one) - difference.bit_length()


class _Lengths:
    """The keys of sets that are present, found by length: only lengths that occur are tried."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}
        #: Octets of the address to prefix length to how many keys have it.
        self._counts: dict[int, dict[int, int]] = {}
        #: Octets of the address to the lengths that occur, longest first.
        self._lengths: dict[int, tuple[int, ...]] = {}

    def add(self, key: bytes) -> None:
        if key in self._keys:
            return
        self._keys[key] = None
        protocol, length = prefix_of(key)
        counts = self._counts.setdefault(len(protocol), {})
        counts[length] = counts.get(length, 0) + 1
        if counts[length] == 1:
            self._lengths[len(protocol)] = tuple(sorted(counts, reverse=True))

    def discard(self, key: bytes) -> None:
        if key not in self._keys:
            return
        del self._keys[key]
        protocol, length = prefix_of(key)
        counts = self._counts[len(protocol)]
        counts[length] -= 1
        if not counts[length]:
            del counts[length]
            self._lengths[len(protocol)] = tuple(sorted(counts, reverse=True))

    def covering(self, protocol: bytes) -> Iterator[bytes]:
        for length in self._lengths.get(len(protocol), ()):
            key = key_of(protocol, length)
            if key in self._keys:
                yield key


class PrefixTable(Generic[_T]):
    """What is said about prefixes, as a routing table has it; it does not change.

    :param rows: address, prefix length, and what is said; of one prefix, in order.
    """

    def __init__(self, rows: Iterable[tuple[bytes, int, _T]] = ()) -> None:
        self._values: dict[bytes, list[_T]] = {}
        self._lengths = _Lengths()
        for protocol, prefix_length, value in rows:
            key = key_of(protocol, prefix_length)
            self._lengths.add(key)
            self._values.setdefault(key, []).append(value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def values(self) -> Iterator[_T]:
        """All that is said."""
        return chain.from_iterable(self._values.values())

    def longest(self, protocol: bytes) -> list[_T]:
        """What is said about the longest prefix that an address has; nothing without one."""
        key = next(self._lengths.covering(protocol), None)
        return [] if key is None else self._values[key]


class PrefixIndex:
    """Keys, and which of them lie around or inside of a set.

    Every question costs about the same however many keys there are: the time goes with the
    prefix lengths that occur and with the keys that are found.
    """

    def __init__(self) -> None:
        self._sorted: dict[int, SortedList] = {octets: SortedList() for octets in (4, 6, 16)}
        self._sets = _Lengths()

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        octets = _OCTETS[len(key)]
        self._sorted[octets].add(key)
        if len(key) != octets:
            self._sets.add(key)

    def remove(self, key: bytes) -> None:
        """Take out a key that is there."""
        octets = _OCTETS[len(key)]
        self._sorted[octets].remove(key)
        if len(key) != octets:
            self._sets.discard(key)

    def clear(self) -> None:
        """Take out all of them."""
        for keys in self._sorted.values():
            keys.clear()
        self._sets = _Lengths()

    def covering(self, protocol: bytes) -> Iterator[bytes]:
        """The keys of sets that an address is in, smallest set first; not its own key."""
        return self._sets.covering(protocol)

    def inside(self, protocol: bytes, prefix_length: int) -> Iterator[bytes]:
        """The keys of all that lies in a set, the set itself included.

        The index must not change before the caller is through.
        """
        first, _ = prefix_of(key_of(protocol, prefix_length))
        # A set sorts behind its first address, and before the next one.
        keys = self._sorted[len(protocol)].irange(first, _last(protocol, prefix_length) + b"\xff")
        return (key for key in keys if prefix_of(key)[1] >= prefix_length)

    def widest(self, protocol: bytes, prefix_length: int) -> int:
        """The length of the shortest prefix of an address that no other key lies inside of.

        Sets that the address is in do not count.

        :param prefix_length: bits that the answer has at least.
        """
        keys = self._sorted[len(protocol)]
        at = keys.bisect_left(protocol)
        # What shares most bits with the address is its neighbour on one side or the other.
        for places in (range(at - 1, -1, -1), range(at, len(keys))):
            for place in places:
                first, length = prefix_of(keys[place])
                common = _common(first, protocol)
                if common < length:
                    prefix_length = max(prefix_length, common + 1)
                    break
        return prefix_length
