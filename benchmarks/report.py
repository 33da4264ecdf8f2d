"""Figures: gathered in repetitions, shown as a table, kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Figure", "Progress", "Report", "machine_speed", "percentile"]

RESULTS = Path(__file__).parent / "results"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine_speed() -> list[float]:
    """Milliseconds of CPU time that a fixed piece of work takes, some repetitions.

    Neighbours on the same hardware slow a processor without taking its time, so figures of two
    runs compare only as well as these do.
    """
    figures = []
    for _ in range(5):
        begin, total = time.process_time(), 0
        for number in range(1_000_000):
            total += number & 3
        figures.append((time.process_time() - begin) * 1000)
    return figures


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the report."""

    section: str
    name: str
    value: float
    unit: str
    noise: float | None = None
    """Half the distance between the smallest and the largest repetition, by the median."""
    target: str = ""
    """What is aimed at, such as ``>= 10000``; empty: nothing in particular."""
    met: bool | None = None


@dataclass
class Report:
    """All figures of a run."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        section: str,
        name: str,
        values: Sequence[float],
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> float:
        """Add the median of repetitions; returns it."""
        value = median(values)
        noise = (max(values) - min(values)) / 2 / value if len(values) > 1 and value else None
        target, met = "", None
        if at_least is not None:
            target, met = f">= {at_least:g}", value >= at_least
        elif at_most is not None:
            target, met = f"<= {at_most:g}", value <= at_most
        self.figures.append(
            Figure(
                section=section,
                name=name,
                value=value,
                unit=unit,
                noise=noise,
                target=target,
                met=met,
            )
        )
        return value

    def table(self) -> str:
        """The figures for people, one line each, under the name of their section."""
        lines = []
        section = None
        # One block for each section, wherever its figures were added.
        order = list(dict.fromkeys(figure.section for figure in self.figures))
        for figure in sorted(self.figures, key=lambda figure: order.index(figure.section)):
            if figure.section != section:
                section = figure.section
                lines += ["", section]
            noise = "" if figure.noise is None else f"+-{100 * figure.noise:.0f} %"
            verdict = "" if figure.met is None else ("met" if figure.met else "MISSED")
            value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
            lines.append(
                f"  {figure.name:<52} {value:>10} {figure.unit:<11} {noise:>7}"
                f"  {figure.target:<9} {verdict}".rstrip()
            )
        return "\n".join([*lines, "", *self.notes])

    def save(self) -> Path:
        """Write everything, with what is known of the machine, as JSON; returns the file."""
        RESULTS.mkdir(exist_ok=True)
        document: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "load": os.getloadavg(),
            "figures": [asdict(figure) for figure in self.figures],
            "notes": self.notes,
        }
        path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
        path.write_text(json.dumps(document, indent=1) + "\n")
        return path


class Progress:
    """Tells on standard error what is going on, since most steps take longer than two seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, what: str) -> None:
        """One line, with the time since the beginning."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {what}", file=sys.stderr, flush=True)
