"""Whom the server told what, so that it can be taken back (RFC 2332 §5.2.5). Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.deadlines import Deadlines
from dmevpn.nhrp.prefixes import PrefixIndex, prefix_of
from dmevpn.nhrp.room import SharedRoom

__all__ = ["ANSWERED_LIMIT", "ANSWERED_PER_MAC", "LEARNED_HOLDING_TIME", "Answered"]

#: Seconds that an answer from the switch's table is good for: what a bridge takes for stale, too.
LEARNED_HOLDING_TIME: Final = 300

#: Stations that know the place of one address: as many as a hub has members in one VPN. All of
#: them may talk to the same gateway; a purge costs a packet to each.
ANSWERED_PER_MAC: Final = 4096

#: Octets of a MAC.
_MAC: Final = 6

#: Answers of one VPN in use at any time. An answer takes about 200 octets of memory.
ANSWERED_LIMIT: Final = 262_144

#: Seconds for which an answer may be remembered beyond its holding time: forgetting them one by
#: one would look at all answers for an address again and again.
_SWEEP: Final = 30.0


@dataclass(slots=True)
class _Answers:
    """Answers for one address or prefix; all of them name some of the same VTEPs."""

    vteps: tuple[VTEP, ...]
    due: float
    """When those that are no longer believed are looked for, or sooner."""
    stations: dict[bytes, tuple[float, Path]] = field(default_factory=dict)
    """Requester to the time until which it may believe the answer, and the way to it."""


class Answered:
    """Answers that are still believed. Those whose holding time is over are forgotten.

    An answer is about an address or a prefix, and known by its key (see
    :mod:`dmevpn.nhrp.prefixes`).

    :param limit: answers at most.
    :param room: what the servers of all VPNs share.
    :ivar record: told of each, as it is given to :meth:`add`; may be replaced.
    """

    record: Callable[[bytes, tuple[VTEP, ...], bytes, Path, float], None] | None = None

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        limit: int = ANSWERED_LIMIT,
        room: SharedRoom | None = None,
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._room = room
        self._answers: dict[bytes, _Answers] = {}
        #: All keys but MACs, which have no prefixes.
        self._index = PrefixIndex()
        self._at: dict[VTEP, set[bytes]] = {}
        self._count = 0
        self._deadlines = Deadlines(clock, self._due)
        self._full = metrics.counter("answered_full")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, tuple[VTEP, ...]]]:
        """Every key that somebody was told VTEPs of, with those."""
        for key, answers in list(self._answers.items()):
            yield key, answers.vteps

    def each(self) -> Iterator[tuple[bytes, bytes, tuple[VTEP, ...], float]]:
        """Every answer that is still believed: station, key, VTEPs, until when.

        For who takes his time: answers may come and go meanwhile.
        """
        for key, answers in list(self._answers.items()):
            for station, (until, _) in list(answers.stations.items()):
                if until > self._clock.seconds():
                    yield station, key, answers.vteps, until

    def records(self) -> Iterator[tuple[bytes, tuple[VTEP, ...], bytes, Path, float]]:
        """The same, for who is to remember it: key, VTEPs, station, the way to it, until when."""
        for key, answers in list(self._answers.items()):
            for station, (until, path) in list(answers.stations.items()):
                if until > self._clock.seconds():
                    yield key, answers.vteps, station, path, until

    def told(self, key: bytes) -> tuple[VTEP, ...]:
        """The VTEPs that requesters were told; empty if nobody asked."""
        answers = self._answers.get(key)
        return () if answers is None else answers.vteps

    def at(self, vtep: VTEP) -> list[bytes]:
        """The keys of what was said to be at a VTEP."""
        return list(self._at.get(vtep, ()))

    def inside(self, protocol: bytes, prefix_length: int) -> list[bytes]:
        """The keys of answers about what lies in a set of IPv4 or IPv6 addresses."""
        return list(self._index.inside(protocol, prefix_length))

    def around(self, protocol: bytes, prefix_length: int) -> list[bytes]:
        """The keys of answers about more than a set of addresses, which they contain."""
        return [key for key in self._index.covering(protocol) if prefix_of(key)[1] < prefix_length]

    def add(
        self,
        key: bytes,
        vteps: tuple[VTEP, ...],
        station: bytes,
        path: Path,
        until: float,
    ) -> bool:
        """Remember an answer. If it lacks a VTEP of before, :meth:`take` those answers first.

        :param until: when its holding time is over.
        :return: False if there is no room, which is counted.
        """
        answers = self._answers.get(key)
        if answers is None or station not in answers.stations:
            many = 0 if answers is None else len(answers.stations)
            held, room = self._count, self._room
            if (
                many >= ANSWERED_PER_MAC
                or held >= self._limit
                or (room is not None and not room.has(held))
            ):
                self._full.inc()
                return False
            if room is not None:
                room.added(held)
            self._count = held + 1
        due = until + _SWEEP
        if answers is None:
            answers = self._answers[key] = _Answers(vteps, due)
            self._deadlines.set(key, due)
            if len(key) != _MAC:
                self._index.add(key)
            for vtep in vteps:
                self._say(key, vtep)
        else:
            if due < answers.due:
                answers.due = due
                self._deadlines.set(key, due)
            if vteps != answers.vteps:
                answers.vteps = vteps
                for vtep in vteps:
                    self._say(key, vtep)
        answers.stations[station] = until, path
        if self.record is not None:
            self.record(key, vteps, station, path, until)
        return True

    def take(self, key: bytes) -> list[tuple[bytes, Path, float]]:
        """Forget the answers: who believes them, the way there, seconds left."""
        answers = self._answers.get(key)
        if answers is None:
            return []
        self._forget(key, answers)
        self._deadlines.discard(key)
        now = self._clock.seconds()
        return [
            (station, path, until - now)
            for station, (until, path) in answers.stations.items()
            if until > now
        ]

    def close(self) -> None:
        """Forget everything, leave no timer behind."""
        self._deadlines.close()
        self._answers.clear()
        self._index.clear()
        self._at.clear()
        self._less(self._count)

    def _less(self, count: int) -> None:
        if self._room is not None:
            self._room.removed(self._count, count)
        self._count -= count

    def _say(self, key: bytes, vtep: VTEP) -> None:
        at = self._at.get(vtep)
        if at is None:
            self._at[vtep] = {key}
        else:
            at.add(key)

    def _forget(self, key: bytes, answers: _Answers) -> None:
        del self._answers[key]
        if len(key) != _MAC:
            self._index.remove(key)
        self._less(len(answers.stations))
        for vtep in answers.vteps:
            at = self._at[vtep]
            at.discard(key)
            if not at:
                del self._at[vtep]

    def _due(self, key: bytes) -> float | None:
        answers = self._answers[key]
        now = self._clock.seconds()
        over = [station for station, (until, _) in answers.stations.items() if until <= now]
        for station in over:
            del answers.stations[station]
        self._less(len(over))
        if answers.stations:
            answers.due = now + _SWEEP
            return answers.due
        self._forget(key, answers)
        return None
