"""Whom the server told what, so that it can be taken back (RFC 2332 §5.2.5). Layer: core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.deadlines import Deadlines

__all__ = ["ANSWERED_LIMIT", "ANSWERED_PER_MAC", "LEARNED_HOLDING_TIME", "Answered"]

#: Seconds that an answer from the switch's table is good for: what a bridge takes for stale, too.
LEARNED_HOLDING_TIME: Final = 300

#: Stations that know the place of one address: as many as a hub has members in one VPN. All of
#: them may talk to the same gateway; a purge costs a packet to each.
ANSWERED_PER_MAC: Final = 4096

#: Answers of one VPN in use at any time. An answer takes about 200 octets of memory.
ANSWERED_LIMIT: Final = 262_144

#: Seconds for which an answer may be remembered beyond its holding time: forgetting them one by
#: one would look at all answers for an address again and again.
_SWEEP: Final = 30.0


@dataclass(slots=True)
class _Answers:
    """Answers for one address; all of them name the same VTEP."""

    vtep: VTEP
    due: float
    """When those that are no longer believed are looked for, or sooner."""
    stations: dict[bytes, tuple[float, Path]] = field(default_factory=dict)
    """Requester to the time until which it may believe the answer, and the way to it."""


class Answered:
    """Answers that are still believed. Those whose holding time is over are forgotten.

    :param limit: answers at most.
    """

    def __init__(self, clock: IReactorTime, metrics: Metrics, limit: int = ANSWERED_LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._answers: dict[bytes, _Answers] = {}
        self._at: dict[VTEP, set[bytes]] = {}
        self._count = 0
        self._deadlines = Deadlines(clock, self._due)
        self._full = metrics.counter("answered_full")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, VTEP]]:
        """Every address that somebody was told the VTEP of, with that VTEP."""
        for protocol, answers in list(self._answers.items()):
            yield protocol, answers.vtep

    def vtep(self, protocol: bytes) -> VTEP | None:
        """The VTEP that requesters of an address were told; None if nobody asked."""
        answers = self._answers.get(protocol)
        return None if answers is None else answers.vtep

    def at(self, vtep: VTEP) -> list[bytes]:
        """The addresses that were said to be at a VTEP."""
        return list(self._at.get(vtep, ()))

    def add(
        self, protocol: bytes, vtep: VTEP, station: bytes, path: Path, holding_time: int
    ) -> bool:
        """Remember an answer. Another VTEP than before may be told only after :meth:`take`.

        :return: False if there is no room, which is counted.
        """
        answers = self._answers.get(protocol)
        if answers is None or station not in answers.stations:
            many = 0 if answers is None else len(answers.stations)
            if many >= ANSWERED_PER_MAC or self._count >= self._limit:
                self._full.inc()
                return False
            self._count += 1
        until = self._clock.seconds() + holding_time
        due = until + _SWEEP
        if answers is None:
            answers = self._answers[protocol] = _Answers(vtep, due)
            self._deadlines.set(protocol, due)
            at = self._at.get(vtep)
            if at is None:
                at = self._at[vtep] = set()
            at.add(protocol)
        elif due < answers.due:
            answers.due = due
            self._deadlines.set(protocol, due)
        answers.stations[station] = until, path
        return True

    def take(self, protocol: bytes) -> list[tuple[bytes, Path, float]]:
        """Forget the answers for an address: who believes them, the way there, seconds left."""
        answers = self._answers.get(protocol)
        if answers is None:
            return []
        self._forget(protocol, answers)
        self._deadlines.discard(protocol)
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
        self._at.clear()
        self._count = 0

    def _forget(self, protocol: bytes, answers: _Answers) -> None:
        del self._answers[protocol]
        self._count -= len(answers.stations)
        at = self._at[answers.vtep]
        at.discard(protocol)
        if not at:
            del self._at[answers.vtep]

    def _due(self, protocol: bytes) -> float | None:
        answers = self._answers[protocol]
        now = self._clock.seconds()
        over = [station for station, (until, _) in answers.stations.items() if until <= now]
        for station in over:
            del answers.stations[station]
        self._count -= len(over)
        if answers.stations:
            answers.due = now + _SWEEP
            return answers.due
        self._forget(protocol, answers)
        return None
