"""docs/state-machines.md says what the code does."""

from __future__ import annotations

import re

from dmevpn.nhrp.registration import TRANSITIONS, Input, State
from lab.daemons import ROOT

PAGE = (ROOT / "docs" / "state-machines.md").read_text()


def cells(line: str) -> list[str]:
    """A line of a table without its marks."""
    return [cell.strip().strip("`") for cell in line.strip("|\n").split("|")]


def test_registration() -> None:
    """The page's table is the table of the code, cell by cell; an input that changes nothing may
    have an empty cell."""
    found = re.search(r"^\| input \| idle \|.*\n\|---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None
    head = cells(found[0].splitlines()[0])[1:]
    assert head == [state.name.lower() for state in State]
    said: dict[tuple[State, Input], State] = {}
    for line in found[1].splitlines():
        words, *targets = cells(line)
        for state, target in zip(State, targets, strict=True):
            if target:
                said[state, Input[words.upper()]] = State[target.upper()]
    assert said == TRANSITIONS


def test_every_input_is_explained() -> None:
    """The second table says of each what it is."""
    _, _, after = PAGE.partition("| input | what it is | what happens |")
    rows = after.partition("\n\n")[0].splitlines()[2:]
    explained = {word.strip(" `") for row in rows for word in cells(row)[0].split(",")}
    assert {each.strip("`") for each in explained} == {each.name.lower() for each in Input}
