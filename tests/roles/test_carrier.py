"""Which hub carries: preference, loss, probation."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dmevpn.roles.carrier import (
    HESITATION,
    LONG_HESITATION,
    LONGEST_PROBATION,
    PROBATION,
    Carrier,
    Standing,
)

ONE, TWO, THREE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
NONE, DOUBTFUL, GOOD = Standing.NONE, Standing.DOUBTFUL, Standing.GOOD


class World:
    """A carrier and how its hubs stand."""

    def __init__(self, *hubs: bytes) -> None:
        self.clock = Clock()
        self.changes: list[tuple[bytes | None, bytes | None]] = []
        self.answering: set[bytes] = set()
        self.carrier = Carrier(
            self.clock,
            lambda old, new: self.changes.append((old, new)),
            self.answering.__contains__,
        )
        self.standings = dict.fromkeys(hubs, NONE)
        self.set({})

    def set(self, standings: dict[bytes, Standing]) -> bytes | None:
        self.standings |= standings
        self.carrier.choose(tuple(self.standings.items()))
        return self.carrier.current

    def wait(self, seconds: float) -> bytes | None:
        self.clock.pump([0.25] * round(4 * seconds))
        return self.carrier.current


@pytest.fixture
def world() -> World:
    """Two hubs that both have us."""
    world = World(ONE, TWO)
    world.set({ONE: GOOD, TWO: GOOD})
    world.wait(1)
    return world


def test_the_first_before_anybody_knows_us() -> None:
    """And whoever knows us first until the first of the file does, which need not prove itself."""
    world = World(ONE, TWO)
    assert world.carrier.current == ONE
    assert world.set({TWO: GOOD}) == TWO
    assert world.set({ONE: GOOD}) == ONE
    assert not world.clock.getDelayedCalls()


def test_what_an_earlier_run_has_left() -> None:
    """Stays, until somebody else has us."""
    clock = Clock()
    changes: list[tuple[bytes | None, bytes | None]] = []
    carrier = Carrier(clock, lambda old, new: changes.append((old, new)), lambda nhs: False)
    carrier.current = TWO
    carrier.choose(((ONE, NONE), (TWO, NONE)))
    assert carrier.current == TWO
    carrier.choose(((ONE, NONE), (TWO, GOOD)))
    assert not changes
    carrier.choose(((ONE, GOOD), (TWO, GOOD)))
    assert changes == [(TWO, ONE)]


@pytest.mark.parametrize("how", [NONE, DOUBTFUL])
def test_a_hub_is_left_at_once(world: World, how: Standing) -> None:
    """Whether it is silent, refuses us or has taken our registration back."""
    assert world.set({ONE: how}) == TWO


def test_back_after_a_probation(world: World) -> None:
    """Five seconds after it has us again, and not sooner."""
    world.set({ONE: NONE})
    world.wait(100)
    assert world.set({ONE: GOOD}) == TWO
    assert world.carrier.trusted_in(ONE) == PROBATION
    assert world.wait(PROBATION - 0.5) == TWO
    assert world.wait(1) == ONE
    assert world.carrier.trusted_in(ONE) is None
    assert world.changes == [(None, ONE), (ONE, TWO), (TWO, ONE)]
    assert not world.clock.getDelayedCalls()


def test_lost_again_during_the_probation(world: World) -> None:
    """It begins anew, and is longer; its length has a bound."""
    expected = PROBATION
    for _ in range(10):
        world.set({ONE: NONE})
        world.set({ONE: GOOD})
        assert world.carrier.trusted_in(ONE) == expected
        world.wait(1)
        expected = min(2 * expected, LONGEST_PROBATION)
    assert expected == LONGEST_PROBATION
    assert world.wait(LONGEST_PROBATION - 2) == TWO
    assert world.wait(3) == ONE


def test_a_hub_that_comes_and_goes_moves_hardly_anything(world: World) -> None:
    """One that is lost every ten seconds for an hour costs a handful of changes, not 720."""
    for _ in range(360):
        world.set({ONE: DOUBTFUL})
        world.wait(2)
        world.set({ONE: GOOD})
        world.wait(8)
    assert len(world.changes) <= 4
    assert world.carrier.current == TWO


def test_losses_are_forgotten(world: World) -> None:
    """After ten quiet minutes the next probation is a short one again."""
    for _ in range(6):
        world.set({ONE: NONE})
        world.set({ONE: GOOD})
    world.wait(700)
    world.set({ONE: NONE})
    world.set({ONE: GOOD})
    assert world.carrier.trusted_in(ONE) == PROBATION


def test_better_one_on_probation_than_none(world: World) -> None:
    """If the other fails, too, the one that has us carries at once."""
    world.set({ONE: NONE})
    world.set({ONE: GOOD})
    assert world.set({TWO: NONE}) == ONE


def test_packets_are_lost_on_the_way(world: World) -> None:
    """Where both hubs are doubted again and again, one of them carries all the while; one that
    stays silent is left for the other soon all the same."""
    world.set({ONE: DOUBTFUL})
    assert world.set({ONE: GOOD}) == TWO
    changes = len(world.changes)
    for _ in range(10):
        for hub in (TWO, ONE):
            world.set({hub: DOUBTFUL})
            world.wait(0.75)
            world.set({hub: GOOD})
    assert len(world.changes) == changes
    world.set({TWO: DOUBTFUL})
    assert world.wait(HESITATION - 0.25) == TWO
    assert world.wait(0.5) == ONE


def test_one_that_answers_is_not_left_for_one_that_has_just_come_back(world: World) -> None:
    """Packets to the hub that carries are lost, and the other one is back with nobody but us."""
    world.set({TWO: NONE})
    world.wait(100)
    changes = len(world.changes)
    world.set({ONE: DOUBTFUL})
    world.answering.add(ONE)
    world.wait(1.5)
    world.set({TWO: GOOD})
    world.wait(LONG_HESITATION - 1.5 - 0.25)
    world.set({ONE: GOOD})
    world.wait(100)
    assert len(world.changes) == changes


@pytest.mark.parametrize("silent_again", [True, False])
def test_the_patience_with_one_that_answers_ends(world: World, silent_again: bool) -> None:
    """After two seconds if it falls silent, else after five."""
    world.set({TWO: NONE})
    world.set({ONE: DOUBTFUL})
    world.answering.add(ONE)
    world.set({TWO: GOOD})
    world.wait(HESITATION - 0.5)
    if silent_again:
        world.answering.clear()
        assert world.wait(1) == TWO
    else:
        assert world.wait(LONG_HESITATION - HESITATION) == ONE
        assert world.wait(1) == TWO


def test_nobody_has_us_any_more(world: World) -> None:
    """Where all are silent, nothing moves; one that may still have us is better than one that
    has not."""
    world.set({ONE: DOUBTFUL})
    assert world.set({TWO: DOUBTFUL}) == TWO
    assert world.set({TWO: NONE}) == ONE
    assert world.set({ONE: NONE}) == ONE


def test_spokes_with_one_hub_stay() -> None:
    """Whatever it does."""
    world = World(ONE)
    for standing in (GOOD, DOUBTFUL, NONE, GOOD, NONE):
        assert world.set({ONE: standing}) == ONE
        world.wait(10)


def test_the_order_may_change(world: World) -> None:
    """A reload may add, remove and reorder hubs: what carries goes on until a better one has us."""
    world.standings = {THREE: NONE, ONE: GOOD}
    assert world.set({}) == ONE
    assert world.set({THREE: GOOD}) == THREE
    world.standings = {TWO: NONE}
    assert world.set({}) == TWO
    world.standings = {}
    assert world.set({}) is None


def test_unequal_probations() -> None:
    """Of two that are preferred and on probation, the first whose time is over comes, and then
    the better one."""
    world = World(ONE, TWO, THREE)
    world.set({ONE: GOOD, TWO: GOOD, THREE: GOOD})
    for _ in range(3):
        world.set({ONE: NONE})
        world.set({ONE: GOOD})
    assert world.set({TWO: NONE}) == THREE
    assert world.set({TWO: GOOD}) == THREE
    assert world.wait(PROBATION + 0.5) == TWO
    assert world.wait(20) == ONE


def test_nothing_is_left(world: World) -> None:
    """After its end there is no timer."""
    world.set({ONE: NONE})
    world.set({ONE: GOOD})
    world.carrier.close()
    assert not world.clock.getDelayedCalls()
