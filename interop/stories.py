"""The stories that ``make interop`` tells inside the guest: ``python -m interop.stories``."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dmevpn import __version__
from interop import frr
from interop.report import Report
from interop.stage import Stage
from interop.with_frr import frr_alone, frr_hub, our_hub
from interop.with_us import all_ours

__all__ = ["STORIES", "main", "title"]

#: By name. The first line of its docstring is the title.
STORIES: dict[str, Callable[[Stage, Report], None]] = {
    "frr": frr_alone,
    "our-hub-raw": functools.partial(our_hub, device=False),
    "our-hub-device": functools.partial(our_hub, device=True),
    "frr-hub-raw": functools.partial(frr_hub, device=False),
    "frr-hub-device": functools.partial(frr_hub, device=True),
    "ours-device": all_ours,
}

#: Where the machine keeps what the guest leaves.
KEEP = Path("/run/keep")

#: What ends a story: something is not as it should be, or the guest refuses.
FAILURES = (AssertionError, OSError, ValueError, json.JSONDecodeError, subprocess.SubprocessError)

#: Characters of each daemon's log that are shown when a story fails.
LOG_TAIL = 2000


def title(name: str) -> str:
    """Who speaks with whom in a story, and by which transport of ours."""
    story = STORIES[name]
    text = inspect.getdoc(getattr(story, "func", story)) or name
    transport = next((f" (transport {each})" for each in ("raw", "device") if each in name), "")
    return text.splitlines()[0] + transport


def _tell(name: str, report: Report) -> None:
    """Tell one story; its failure is reported, and the next one can follow."""
    report.begin(title(name))
    stage = Stage(KEEP / f"{name}.pcap")
    try:
        with stage:
            try:
                STORIES[name](stage, report)
            except FAILURES:
                for daemon, log in stage.logs().items():
                    print(f"--- the end of {daemon}'s log\n{log[-LOG_TAIL:]}", file=sys.stderr)
                raise
            report.show("NHRP packets on the wire, read by our codec", stage.wiretap.summary())
    except FAILURES as error:
        report.fail(str(error))


def main() -> int:
    """The command line: ``python -m interop.stories [NAME...]``, all stories by default."""
    parser = argparse.ArgumentParser(prog="python -m interop.stories", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(STORIES)}")
    names = parser.parse_args().name or list(STORIES)
    frr.prepare()
    report = Report()
    report.say(f"FRR {frr.version()} and dmevpn {__version__}")
    for name in names:
        _tell(name, report)
    report.print_table()
    outcome = f"{report.shown} statements, {len(names)} stories, {report.elapsed:.0f} s"
    if report.failures:
        print(f"\ninterop: failed: {report.failures} of {len(names)} stories; {outcome}")
        return 1
    print(f"\ninterop: ok: {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
