"""Which of several hubs carries the flooding of a VPN. Layer: role.

One hub at a time, so that nothing arrives twice: the first, by preference, that knows us and
answers. It is left at once for the next that does; if there is none, it is stayed with. A hub that
was lost has to stand for a while before it is believed again, each time for longer: by then the
other sites have registered with it too, and a hub that comes and goes moves nobody's traffic. Where
control packets are lost on the way, all hubs seem to come and go: then nobody is left in a hurry,
since switches take stations that go back and forth for duplicates. A hub that answers keepalives
again, though our registration with it is not confirmed so far, is left in no hurry at all for one
that has come back just now: that one may have nobody else to send frames to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = [
    "HESITATION",
    "LONGEST_PROBATION",
    "LONG_HESITATION",
    "PROBATION",
    "Carrier",
    "Standing",
]

#: Seconds for which a hub that was lost must have our registration before it carries again, and the
#: most that this grows to, doubling with each loss. All sites that watch a hub by keepalives have
#: registered anew after two seconds.
PROBATION: Final = 5.0
LONGEST_PROBATION: Final = 60.0
#: Seconds for which a hub has to be doubtful until it is left for one that is not believed yet, and
#: if it answers keepalives: as long as the other one would have to stand at least.
HESITATION: Final = 2.0
LONG_HESITATION: Final = PROBATION
#: Seconds of good standing after which earlier losses are forgotten.
_FORGIVEN: Final = 600.0


class Standing(IntEnum):
    """What a hub can do for us."""

    NONE = 0
    """It does not have us: what we send is dropped."""
    DOUBTFUL = 1
    """It may still have us, but is silent, or has refused us since."""
    GOOD = 2
    """It has us, as far as is known."""


@dataclass(slots=True)
class _Record:
    """What has become of a hub so far."""

    good_since: float | None = None
    trusted_at: float = 0.0
    """When its probation ends."""
    probation: float = 0.0
    """Seconds of the next one; 0: it was never lost."""
    doubted_since: float | None = None
    """Since when it has been doubtful."""


class Carrier:
    """Chooses a hub, and says when it is another one.

    :ivar current: underlay address of the hub that carries; None: there is none. May be set before
        the first choice, to the one that an earlier run has left.
    :param on_change: called with the hub before and the hub now.
    :param answers: whether a hub that is doubtful answers keepalives.
    """

    def __init__(
        self,
        clock: IReactorTime,
        on_change: Callable[[bytes | None, bytes | None], None],
        answers: Callable[[bytes], bool],
    ) -> None:
        self.current: bytes | None = None
        self._clock = clock
        self._on_change = on_change
        self._answers = answers
        self._hubs: dict[bytes, _Record] = {}
        self._standings: tuple[tuple[bytes, Standing], ...] = ()
        self._call: IDelayedCall | None = None

    def choose(self, standings: Sequence[tuple[bytes, Standing]]) -> None:
        """Take notice of how all hubs stand, in the order of preference."""
        now = self._clock.seconds()
        self._standings = tuple(standings)
        self._hubs = {nhs: self._hubs.get(nhs) or _Record() for nhs, _ in standings}
        for nhs, standing in standings:
            _keep(self._hubs[nhs], standing, now)
        self._decide()

    def __contains__(self, nhs: bytes) -> bool:
        """Whether a hub may carry at all."""
        return nhs in self._hubs

    def trusted_in(self, nhs: bytes) -> float | None:
        """Seconds until a hub that was lost is believed again; None if it is, or is not back."""
        record = self._hubs.get(nhs)
        if record is None or record.good_since is None:
            return None
        left = record.trusted_at - self._clock.seconds()
        return left if left > 0 else None

    def close(self) -> None:
        """Choose no more."""
        self._standings = ()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _decide(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        best = self._best()
        before = self.current
        if best != before:
            self.current = best
            self._on_change(before, best)
        self._watch()

    def _best(self) -> bytes | None:
        standing = dict(self._standings)
        good = [nhs for nhs, each in self._standings if each is Standing.GOOD]
        trusted = [nhs for nhs in good if self.trusted_in(nhs) is None]
        current = self.current
        if current is not None and current in good:
            # Only a hub that is preferred to it, and believed, takes its place.
            return next((nhs for nhs in trusted if _precedes(standing, nhs, current)), current)
        if good and not trusted and self._hesitates_for(current) > 0:
            return current
        for found in (trusted, good):
            if found:
                return found[0]
        doubtful = [nhs for nhs, each in self._standings if each is Standing.DOUBTFUL]
        stays = [nhs for nhs in (doubtful or standing) if nhs == current]
        return next(iter([*stays, *doubtful, *standing]), None)

    def _hesitates_for(self, nhs: bytes | None) -> float:
        """Seconds left of the time for which it is doubtful, but not left for just anybody."""
        record = None if nhs is None else self._hubs.get(nhs)
        if nhs is None or record is None or record.doubted_since is None:
            return 0.0
        time = LONG_HESITATION if self._answers(nhs) else HESITATION
        return record.doubted_since + time - self._clock.seconds()

    def _watch(self) -> None:
        """Look again when a probation ends, or a hesitation."""
        waits = [self.trusted_in(nhs) for nhs, each in self._standings if each is Standing.GOOD]
        pending = [each for each in waits if each is not None]
        hesitation = self._hesitates_for(self.current)
        if pending and hesitation > 0:
            # Not later, since it may fall silent again meanwhile.
            pending.append(min(hesitation, HESITATION))
        if pending:
            self._call = self._clock.callLater(min(pending), self._look_again)

    def _look_again(self) -> None:
        self._call = None
        self._decide()


def _precedes(order: dict[bytes, Standing], one: bytes, other: bytes) -> bool:
    preference = list(order)
    return preference.index(one) < preference.index(other)


def _keep(record: _Record, standing: Standing, now: float) -> None:
    """Keep a hub's record up to date."""
    if standing is not Standing.DOUBTFUL:
        record.doubted_since = None
    elif record.doubted_since is None:
        record.doubted_since = now
    if standing is Standing.GOOD:
        if record.good_since is None:
            record.good_since = now
            record.trusted_at = now + record.probation
    elif record.good_since is not None:
        stood = now - record.good_since
        record.good_since = None
        if not record.probation or stood >= _FORGIVEN:
            record.probation = PROBATION
        else:
            record.probation = min(2 * record.probation, LONGEST_PROBATION)
