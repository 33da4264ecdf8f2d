"""The tests that documents name as a proof exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
#: `test_something`, or `tests/path.py`, with or without a name behind `::`.
NAMED = re.compile(r"`(?:(tests/[\w/]+\.py)(?:::)?)?(?:([\w.]*::)?(test_\w+))?`")


@cache
def functions() -> set[str]:
    """Names of all test functions and methods, and of modules of tests."""
    found = set()
    for path in (ROOT / "tests").rglob("*.py"):
        found.add(path.stem)
        tree = ast.parse(path.read_text())
        found |= {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_tests_exist(document: Path) -> None:
    """Who renames a test finds the documents that name it."""
    known = functions()
    missing = []
    for match in NAMED.finditer(document.read_text()):
        path, _, name = match.groups()
        if path and not (ROOT / path).exists():
            missing.append(path)
        if name and name not in known:
            missing.append(name)
    assert not missing


def test_guarantees_name_what_shows_them() -> None:
    """Each row of the table of guarantees names a test or a command."""
    rows = [
        line
        for line in (ROOT / "docs/guarantees.md").read_text().splitlines()
        if line.startswith("|") and not set(line) <= set("|- ")
    ]
    assert len(rows) > 8
    for row in rows[1:]:
        assert re.search(r"`(tests/|test_|make )", row.rsplit("|", 2)[1]), row
