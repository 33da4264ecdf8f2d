"""Packets that wait, in turns for each source. Layer: edge; pure.

Used only when more has come than one wake-up can deliver, and one source, or strangers together,
have most of it. Known peers come before strangers, and within both each source has its turn:
whoever floods waits behind itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

__all__ = ["OVERHEAD", "ROOM", "SOURCE_ROOM", "FairQueue"]

T = TypeVar("T")

#: Octets that known peers, and strangers, may each have waiting: what a socket's buffer holds. When
#: it is full, only sources with less than their share may add; so twice this is the bound.
ROOM: Final = 8 << 20
#: Octets that one source may have waiting: 3,000 requests, more than its budget at once.
SOURCE_ROOM: Final = 2 << 20
#: Octets that a packet counts beside its own: what it takes in memory.
OVERHEAD: Final = 512
#: Octets that a turn of a source is good for: a request, be it smaller. Who sends larger packets,
#: which ask for more, saves them up over several turns (deficit round robin).
QUANTUM: Final = 256


def _cost(size: int) -> int:
    return max(size - OVERHEAD, QUANTUM)


class _Waiting(Generic[T]):
    """The packets of one source."""

    __slots__ = ("credit", "octets", "packets")

    def __init__(self, credit: int) -> None:
        self.packets: deque[tuple[T, int]] = deque()
        self.octets = 0
        self.credit = credit


class _Class(Generic[T]):
    """The sources of one class, in the order of their turns."""

    def __init__(self) -> None:
        self.sources: OrderedDict[bytes, _Waiting[T]] = OrderedDict()
        self.octets = 0

    def put(self, source: bytes, item: T, size: int) -> bool:
        """Add a packet; False if there is no room."""
        waiting = self.sources.get(source)
        if waiting is None:
            if self.octets >= 2 * ROOM:
                return False
            waiting = self.sources[source] = _Waiting(QUANTUM)
        elif waiting.octets >= SOURCE_ROOM or (
            self.octets >= ROOM
            and (waiting.octets * len(self.sources) >= ROOM or self.octets >= 2 * ROOM)
        ):
            return False
        waiting.packets.append((item, size))
        waiting.octets += size
        self.octets += size
        return True

    def give_back(self, source: bytes, item: T, size: int) -> None:
        """Put a packet before all others."""
        waiting = self.sources.get(source)
        if waiting is None:
            waiting = self.sources[source] = _Waiting(QUANTUM)
        waiting.packets.appendleft((item, size))
        waiting.octets += size
        self.octets += size
        self.sources.move_to_end(source, last=False)

    def take(self) -> T:
        """The next packet; its source goes to the end, as does who has to save for his."""
        while True:
            source, waiting = next(iter(self.sources.items()))
            item, size = waiting.packets[0]
            if _cost(size) <= waiting.credit:
                break
            waiting.credit += QUANTUM
            self.sources.move_to_end(source)
        waiting.packets.popleft()
        waiting.credit -= _cost(size)
        waiting.octets -= size
        self.octets -= size
        if not waiting.packets:
            del self.sources[source]
        elif waiting.credit < QUANTUM:
            waiting.credit += QUANTUM
            self.sources.move_to_end(source)
        return item


class FairQueue(Generic[T]):
    """Packets of many sources, bounded in octets."""

    def __init__(self) -> None:
        self._known: _Class[T] = _Class()
        self._strangers: _Class[T] = _Class()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def octets(self) -> int:
        """What all of it takes."""
        return self._known.octets + self._strangers.octets

    def put(self, source: bytes, item: T, octets: int, *, known: bool) -> bool:
        """Add a packet at the end of its source's; False if there is no room for it."""
        kind = self._known if known else self._strangers
        if not kind.put(source, item, octets + OVERHEAD):
            return False
        self._count += 1
        return True

    def give_back(self, source: bytes, item: T, octets: int, *, known: bool) -> None:
        """Put a packet before all others of its class, since it was taken too early: the last one
        that was taken first."""
        kind = self._known if known else self._strangers
        kind.give_back(source, item, octets + OVERHEAD)
        self._count += 1

    def take(self, most: int, strangers: int | None = None) -> list[T]:
        """The next packets whose turn it is, so many at most.

        :param strangers: how many of them may be strangers'; None: all.
        """
        taken: list[T] = []
        while len(taken) < most and self._known.sources:
            taken.append(self._known.take())
        if strangers is not None:
            most = min(most, len(taken) + strangers)
        while len(taken) < most and self._strangers.sources:
            taken.append(self._strangers.take())
        self._count -= len(taken)
        return taken

    def clear(self) -> None:
        """Forget all."""
        self.__init__()  # type: ignore[misc]
