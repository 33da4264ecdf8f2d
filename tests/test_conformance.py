"""What docs/conformance.md claims is shown by tests that exist and run."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.conformance import DOCUMENT, exists, names, rows, unshown

TEXT = DOCUMENT.read_text()
ROWS = list(rows(TEXT))

#: Sections that ask for something of an implementation.
NUMBERS_2332 = (
    *("2.2", "3", "4", "5", "5.1", "5.2.0.1", "5.2.1", "5.2.2", "5.2.3", "5.2.4", "5.2.5"),
    *("5.2.6", "5.2.7", "5.3", "5.3.1", "5.3.2", "5.3.3", "5.3.4", "5.3.5"),
    *("6.1", "6.2", "6.3", "6.4"),
)
NUMBERS_2735 = ("3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "5")


def test_every_test_named_exists() -> None:
    """Whoever follows the table finds the test."""
    assert [test for test in sorted(names(TEXT)) if not exists(test)] == []


def test_every_clause_is_shown() -> None:
    """A row has a test, or says why the clause does not concern us or cannot be tested."""
    excuses = ("Does not apply:", "Not done:", "By construction:")
    assert len(ROWS) > 200
    for row in ROWS:
        assert row.clause and row.ours
        assert bool(row.tests) is not row.ours.startswith(excuses), row


def test_both_documents_are_there() -> None:
    """Every chapter that asks for something has rows, and no clause is there twice."""
    sections = {tuple(re.findall(r"RFC (\d+) §([\d.]+)", row.section)) for row in ROWS}
    wanted = {("2332", number) for number in NUMBERS_2332}
    wanted |= {("2735", number) for number in NUMBERS_2735}
    assert {each for section in sections for each in section} >= wanted
    doubles = Counter((row.section, row.clause) for row in ROWS)
    assert not [clause for clause, number in doubles.items() if number > 1]


def test_what_does_not_exist() -> None:
    """A function, a class or a file that was renamed is noticed."""
    assert exists("tests/test_conformance.py::test_what_does_not_exist")
    for test in (
        "tests/test_conformance.py::test_gone",
        "tests/test_conformance.py::names",
        "tests/test_gone.py::test_gone",
        "tests/nhrp/test_requests.py::TestFile::test_gone",
    ):
        assert not exists(test)


@pytest.mark.parametrize("line", ["| SHALL | a | b | c |", "| MUST | a | b |", "| MUST | a |"])
def test_a_row_that_is_none(line: str) -> None:
    """A row is not passed over because of a slip."""
    with pytest.raises(ValueError):
        list(rows(line))


def test_what_was_not_shown() -> None:
    """One that was skipped, failed once or did not run is reported, one that passed is not."""
    outcomes = {
        "a.py::test_a": ["passed", "passed"],
        "a.py::test_b": ["passed", "skipped"],
        "a.py::test_c": ["failed"],
    }
    tests = {"a.py::test_a", "a.py::test_b", "a.py::test_c", "a.py::test_d"}
    assert unshown(tests, outcomes) == [
        "a.py::test_b: skipped",
        "a.py::test_c: failed",
        "a.py::test_d did not run",
    ]
