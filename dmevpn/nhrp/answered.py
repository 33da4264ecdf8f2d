"""Whom the server told what, so that it can be taken back (RFC 2332 §5.2.5). Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import MAC_LENGTH, VTEP, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.keysets import KeySets
from dmevpn.nhrp.prefixes import PrefixIndex, prefix_of
from dmevpn.nhrp.room import SharedRoom
from dmevpn.nhrp.rounds import Rounds

__all__ = ["ANSWERED_LIMIT", "ANSWERED_PER_MAC", "LEARNED_HOLDING_TIME", "Answered"]

#: Seconds that an answer from the switch's table is good for: what a bridge takes for stale, too.
LEARNED_HOLDING_TIME: Final = 300

#: Stations that know the place of one address: as many as a hub has members in one VPN. All of
#: them may talk to the same gateway; a purge costs a packet to each.
ANSWERED_PER_MAC: Final = 4096

#: Answers of one VPN in use at any time. An answer takes about 400 octets of memory.
ANSWERED_LIMIT: Final = 262_144


@dataclass(slots=True)
class _Answers:
    """Answers for one address or prefix; all of them name some of the same VTEPs.

    Most addresses are asked for by one station, who needs no table.
    """

    vteps: tuple[VTEP, ...]
    round: int
    """When those that are no longer believed are looked for (see :mod:`dmevpn.nhrp.rounds`)."""
    station: bytes
    """A requester."""
    until: float
    """The time until which it may believe the answer."""
    path: Path
    """The way to it."""
    others: dict[bytes, tuple[float, Path]] | None
    """The other requesters, each with the same about it; None: there are none."""

    def __len__(self) -> int:
        return 1 if self.others is None else 1 + len(self.others)

    def each(self) -> list[tuple[bytes, float, Path]]:
        """All requesters."""
        answers = [(self.station, self.until, self.path)]
        if self.others is not None:
            answers += [(station, *answer) for station, answer in self.others.items()]
        return answers


class Answered:
    """Answers that are still believed. Those whose holding time is over are forgotten, but not at
    once: to forget them one by one would look at all answers for an address again and again.

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
        self._at = KeySets[VTEP]()
        self._count = 0
        self._rounds = Rounds(clock, self._due)
        self._full = metrics.counter("answered_full")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, tuple[VTEP, ...]]]:
        """Every key that somebody was told VTEPs of, with those."""
        for key, answers in list(self._answers.items()):
            yield key, answers.vteps

    def records(self) -> Iterator[tuple[bytes, tuple[VTEP, ...], bytes, Path, float]]:
        """Every answer that is still believed, as :meth:`add` takes it.

        For who takes his time: answers may come and go meanwhile.
        """
        for key, answers in list(self._answers.items()):
            for station, until, path in answers.each():
                if until > self._clock.seconds():
                    yield key, answers.vteps, station, path, until

    def told(self, key: bytes) -> tuple[VTEP, ...]:
        """The VTEPs that requesters were told; empty if nobody asked."""
        answers = self._answers.get(key)
        return () if answers is None else answers.vteps

    def at(self, vtep: VTEP) -> list[bytes]:
        """The keys of what was said to be at a VTEP."""
        return list(self._at.of(vtep))

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
        *,
        counted: bool = True,
    ) -> bool:
        """Remember an answer. If it lacks a VTEP of before, :meth:`take` those answers first.

        :param until: when its holding time is over.
        :param counted: whether it is counted that there is no room; not where it is tried again.
        :return: False if there is no room.
        """
        answers = self._answers.get(key)
        if answers is None:
            if not self._make_room(0, counted):
                return False
            number = Rounds.number(until)
            self._answers[key] = _Answers(vteps, number, station, until, path, None)
            self._rounds.put(key, number)
            if len(key) != MAC_LENGTH:
                self._index.add(key)
            for vtep in vteps:
                self._at.add(vtep, key)
        else:
            if answers.station == station:
                answers.until = until
                answers.path = path
            else:
                others = answers.others
                if (others is None or station not in others) and not (
                    self._make_room(len(answers), counted)
                ):
                    return False
                if others is None:
                    others = answers.others = {}
                others[station] = until, path
            number = Rounds.number(until)
            if number < answers.round:
                self._rounds.take(key, answers.round)
                self._rounds.put(key, number)
                answers.round = number
            if vteps != answers.vteps:
                answers.vteps = vteps
                for vtep in vteps:
                    self._at.add(vtep, key)
        if self.record is not None:
            self.record(key, vteps, station, path, until)
        return True

    def take(self, key: bytes) -> list[tuple[bytes, Path, float]]:
        """Forget the answers: who believes them, the way there, seconds left."""
        answers = self._answers.get(key)
        if answers is None:
            return []
        self._rounds.take(key, answers.round)
        self._forget(key, answers)
        now = self._clock.seconds()
        return [
            (station, path, until - now) for station, until, path in answers.each() if until > now
        ]

    def close(self) -> None:
        """Forget everything, leave no timer behind."""
        self._rounds.close()
        self._answers.clear()
        self._index.clear()
        self._at.clear()
        self._less(self._count)

    def _make_room(self, many: int, counted: bool) -> bool:
        """Take room for one answer more about what there are so many of; False if there is none.

        :param counted: as of :meth:`add`.
        """
        held, room = self._count, self._room
        if (
            many >= ANSWERED_PER_MAC
            or held >= self._limit
            or (room is not None and not room.fits(held))
        ):
            if counted:
                self._full.inc()
                if room is not None:
                    room.has(held)
            return False
        if room is not None:
            room.added(held)
        self._count = held + 1
        return True

    def _less(self, count: int) -> None:
        if self._room is not None:
            self._room.removed(self._count, count)
        self._count -= count

    def _forget(self, key: bytes, answers: _Answers) -> None:
        del self._answers[key]
        if len(key) != MAC_LENGTH:
            self._index.remove(key)
        self._less(len(answers))
        for vtep in answers.vteps:
            self._at.remove(vtep, key)

    def _due(self, key: bytes) -> None:
        """Forget those of an address or prefix that are no longer believed."""
        answers = self._answers[key]
        now = self._clock.seconds()
        believed = [each for each in answers.each() if each[1] > now]
        if not believed:
            self._forget(key, answers)
            return
        self._less(len(answers) - len(believed))
        (answers.station, answers.until, answers.path), *others = believed
        answers.others = {station: (until, path) for station, until, path in others} or None
        answers.round = Rounds.number(min([until for _, until, _ in believed]))
        self._rounds.put(key, answers.round)
