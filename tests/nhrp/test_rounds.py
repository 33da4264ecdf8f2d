"""Keys are looked at when their round is over, on one timer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from dmevpn.nhrp.rounds import ROUND, Rounds
from tests.nhrp.timekeeping import TimekeeperContract


class TestRounds(TimekeeperContract):
    """Not before its moment, and within a round of it."""

    def make(self, clock: Clock, on_due: Callable[[bytes], None]) -> None:
        self.rounds = Rounds(clock, on_due)

    def put(self, key: bytes, when: float) -> float:
        number = Rounds.number(when)
        self.rounds.put(key, number)
        end = (number + 1) * ROUND
        assert when < end <= when + ROUND
        return end

    def take(self, key: bytes, when: float) -> None:
        self.rounds.take(key, Rounds.number(when))

    def close(self) -> None:
        self.rounds.close()


def test_again_in_a_later_round() -> None:
    """Who is asked about a key may put it into another round."""
    clock = Clock()
    asked: list[float] = []

    def on_due(key: bytes) -> None:
        asked.append(clock.seconds())
        if len(asked) < 3:
            rounds.put(key, Rounds.number(clock.seconds()) + 1)

    rounds = Rounds(clock, on_due)
    rounds.put(b"k", 0)
    clock.pump([ROUND / 2] * 20)
    assert asked == [ROUND, 3 * ROUND, 5 * ROUND]
    assert not clock.getDelayedCalls()
