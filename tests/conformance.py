"""docs/conformance.md as data: which tests it names, and whether a run has shown them.

``tests/conftest.py`` collects the outcomes of a run and asks :func:`unshown` at its end.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCUMENT", "Row", "exists", "names", "rows", "unshown"]

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "conformance.md"

_LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"}
_TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")


class Row(NamedTuple):
    """One clause."""

    section: str
    """The heading above it."""
    level: str
    """MUST, SHOULD, MAY and their like; in small letters where the RFC writes so."""
    clause: str
    ours: str
    """What we do, and why if that is something else."""
    tests: tuple[str, ...]
    """Node paths of pytest, without parameters."""


def rows(text: str) -> Iterator[Row]:
    """The rows of all tables.

    :raises ValueError: for a row that has no level, or not four columns.
    """
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        if line.startswith("|") and not line.startswith(("| |", "|---")):
            level, clause, ours, shown = (cell.strip() for cell in line.strip("|").split("|"))
            if level.upper() not in _LEVELS:
                raise ValueError(f"no level: {line}")
            yield Row(section, level, clause, ours, tuple(_TEST.findall(shown)))


def names(text: str) -> set[str]:
    """Every test that is named anywhere in a text."""
    return set(_TEST.findall(text))


@cache
def _parsed(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text()).body


def exists(test: str) -> bool:
    """Whether there is a test function of that node path."""
    path, *parts = test.split("::")
    file = ROOT / path
    if not file.is_file():
        return False
    body = _parsed(file)
    for part in parts:
        found = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.name == part
        ]
        if not found:
            return False
        body = found[0].body
    return parts[-1].startswith("test")


def unshown(tests: Iterable[str], outcomes: Mapping[str, Iterable[str]]) -> list[str]:
    """What a whole run has not shown, a line each.

    :param outcomes: by node path without parameters, what became of each of its calls:
        ``passed``, ``failed`` or ``skipped``.
    """
    lines = []
    for test in sorted(tests):
        seen = set(outcomes.get(test, ()))
        if not seen:
            lines.append(f"{test} did not run")
        elif seen != {"passed"}:
            lines.append(f"{test}: {', '.join(sorted(seen - {'passed'}))}")
    return lines
