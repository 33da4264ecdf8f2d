"""A little of `make chaos`, so that it keeps working."""

from __future__ import annotations

import pytest

from lab.chaos.__main__ import run
from tests.system.network import PREFIX

pytestmark = pytest.mark.system


def test_a_short_run() -> None:
    """All promises are kept, and the faults were real: a clock that is not set, and a MAC at two
    places that is not named, end a run, and the station with that MAC misses frames."""
    kinds = "wall clock set|MAC at two sites"
    chaos, problem = run(seed=11, seconds=60, only=kinds, most=2, prefix=PREFIX)
    assert not problem, problem
    assert chaos is not None
    assert chaos.faults >= 2
    assert chaos.frames > 3_000
    assert sum(kind.lost for kind in chaos.table.values()) > 0
