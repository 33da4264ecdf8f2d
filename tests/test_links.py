"""Links of the documentation lead somewhere, and everything in docs is within reach of README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.daemons import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")],
    key=lambda page: page.as_posix(),
)

_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def prose(page: Path) -> str:
    """A page without its code, whose brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """The targets of a page's links, those of other hosts left out."""
    # The text of a link may be code, so only its brackets count here.
    found = _LINK.findall(prose(page))
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its headings as GitHub writes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", page.read_text(), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return set(found)


def test_anchors_are_those_of_github() -> None:
    """Punctuation goes, spaces become hyphens."""
    page = ROOT / "README.md"
    assert {"two-commands", "a-ten-minute-lab", "honest-limits"} <= anchors(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    """Each leads to a file, and to a heading of it if it names one."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {target.name} has no heading {anchor}"


@pytest.mark.parametrize("first", ["README.md", "docs/README.md"])
def test_everything_can_be_reached(first: str) -> None:
    """A reader of either README comes by every page of docs, link by link."""
    reached: set[Path] = set()
    waiting = [ROOT / first]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [target for target in targets if target.suffix == ".md" and target.exists()]
    assert {page for page in PAGES if page.parent == ROOT / "docs"} <= reached
