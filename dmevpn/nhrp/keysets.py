"""Sets of keys by their owner, most of which have one key. Layer: core.

A set takes 216 octets and two looks at memory that is rarely near. So one key stands for itself,
and only several have a set.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

__all__ = ["KeySets"]

_O = TypeVar("_O", bound=Hashable)


class KeySets(Generic[_O]):
    """Keys by owner. Who has none is not there."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[_O, bytes | set[bytes]] = {}

    def __contains__(self, owner: _O) -> bool:
        return owner in self._keys

    def of(self, owner: _O) -> Collection[bytes]:
        """The keys of an owner, empty if there are none; not to be changed, nor kept."""
        keys = self._keys.get(owner, ())
        return (keys,) if isinstance(keys, bytes) else keys

    def add(self, owner: _O, key: bytes) -> None:
        """Give an owner a key; harmless if it has it."""
        keys = self._keys.get(owner)
        if keys is None:
            self._keys[owner] = key
        elif isinstance(keys, set):
            keys.add(key)
        elif keys != key:
            self._keys[owner] = {keys, key}

    def remove(self, owner: _O, key: bytes) -> None:
        """Take a key from its owner."""
        keys = self._keys[owner]
        if isinstance(keys, set):
            keys.discard(key)
        if not keys or keys == key:
            del self._keys[owner]

    def clear(self) -> None:
        """Take all keys from all."""
        self._keys.clear()
