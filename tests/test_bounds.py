"""Every bound of docs/bounds.md is as it says: the constant, the metric, the test."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from dmevpn.admin.metric_table import METRICS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "bounds.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| what |")
]
#: Reasons of dmevpn_drops_total that are documented.
_DROPPED = (ROOT / "docs" / "operations.md").read_text().split("## What was dropped")[1]
REASONS = set(re.findall(r"`(\w+)`", _DROPPED))


def ids(row: list[str]) -> str:
    return row[0]


def test_there_are_rows() -> None:
    """The table is read as it is written."""
    assert len(ROWS) > 50
    assert {len(row) for row in ROWS} == {8}


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_constant(row: list[str]) -> None:
    """The bound is what the program says."""
    module, _, name = row[3].strip("`").rpartition(".")
    module, _, owner = module.rpartition(".") if ".VPNRules" in module else (module, "", "")
    place = importlib.import_module(f"dmevpn.{module}")
    value = getattr(getattr(place, owner)() if owner else place, name)
    assert int(value) == int(row[2].split()[0])


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_metric(row: list[str]) -> None:
    """It is counted, and the metric is described."""
    name, _, label = row[6].strip("`").partition("{")
    assert name in METRICS
    if name == "dmevpn_drops_total" and label:
        [reason] = re.findall(r'reason="(\w+)"', label)
        assert reason in REASONS


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_test(row: list[str]) -> None:
    """There is a test that goes there."""
    path, _, name = row[-1].strip("`").partition("::")
    assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


SECURITY = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/.:]+)`", SECURITY))))
def test_what_security_rests_on(named: str) -> None:
    """Each claim of docs/security.md names a test that is there."""
    path, _, name = named.partition("::")
    text = (ROOT / path).read_text()
    assert not name or re.search(rf"^\s*(async )?def {name}\(", text, re.MULTILINE)
