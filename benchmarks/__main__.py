"""Run the benchmarks: ``python -m benchmarks [SECTION ...]``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from benchmarks import authentication, codec, flood, hub, keepalives, listing, spoke, switch
from benchmarks.report import Progress, Report, machine_speed

SECTIONS: dict[str, Callable[[Report, Progress], None]] = {
    "codec": codec.run,
    "authentication": authentication.run,
    "hub-memory": lambda report, progress: hub.run(report, progress, "memory"),
    "hub-ebpf": lambda report, progress: hub.run(report, progress, "ebpf"),
    "hub-keyed": hub.run_keyed,
    "keepalives": keepalives.run,
    "spoke": spoke.run,
    "listing": listing.run,
    "flood": flood.run,
    "switch": switch.run,
}

UNPRIVILEGED = ("codec", "authentication")

NOTE = (
    "us: microseconds of CPU time, user and kernel mode. Medians; the percentage is half the\n"
    "distance between the smallest and the largest repetition. Other work on the machine shows\n"
    "in these figures: repeat a run before concluding anything from a difference below 30 %."
)


def main() -> None:
    """Run the sections named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    sections = parser.parse_args().sections or list(SECTIONS)
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    if os.geteuid() != 0 and set(sections) - set(UNPRIVILEGED):
        parser.error(
            f"network namespaces need root: run as root, or only: {', '.join(UNPRIVILEGED)}"
        )
    report, progress = Report(), Progress()
    for section in sections:
        SECTIONS[section](report, progress)
        report.add("Machine", f"1,000,000 additions, after {section}", machine_speed(), "ms")
    report.notes.append(NOTE)
    path = report.save()
    progress.say(f"done; all of it as JSON: {path}")
    print(report.table())


if __name__ == "__main__":
    main()
