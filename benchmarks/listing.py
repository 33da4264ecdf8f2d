"""How long a listing of a large hub keeps its reactor, and what memory it takes.

A hub has 50,000 registrations, and its switch has learned a MAC at each: 100,000 bindings. It is
asked for them by ``dmevpnctl`` and by the status page, while a call that is always due tells how
long it had to wait. Filters that refuse everything are the hardest: they leave nothing to send.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.hub import LEVELS, ROOT, Hub, hubs, learn_all, register_all
from benchmarks.report import Progress, Report

__all__ = ["run"]

SECTION = "Listing, eBPF switch"
REPETITIONS = 3
#: Milliseconds that no listing may keep the reactor.
LIMIT = 50
#: Sites that register; the switch learns a MAC at each, so a listing has twice as many rows.
LEVEL = LEVELS[-1] // 2


def run(report: Report, progress: Progress) -> None:
    """Listings of registered and learned bindings."""
    with hubs("ebpf", [""]) as (hub,):
        directory = hub.log.parent

        def say(text: str) -> None:
            progress.say(f"{SECTION}: {text}")

        hub.ask("watch")
        register_all(hub, LEVEL, say)
        longest = hub.ask("stalls")["longest"] * 1000
        name = f"{LEVEL:,} sites register: CPU time of the longest turn"
        report.add(SECTION, name, [longest], "ms", at_most=LIMIT)
        say(f"{LEVEL:,} MAC addresses are learned")
        learn_all(hub, LEVEL, "ebpf")
        hub.ask(f"serve {directory}")
        mac = ("mac", "02:ff:ff:ff:ff:ff")
        listings: dict[str, tuple[Callable[[], int], int]] = {
            "nothing, for 3 s": (nothing, 0),
            "cache show": (partial(ask, directory, "cache", "show"), 2 * LEVEL),
            "cache show, unknown mac": (partial(ask, directory, "cache", "show", *mac), 0),
            "page, bindings": (partial(fetch, directory, "/tables/cache"), 2 * LEVEL),
            "page, vain search": (partial(fetch, directory, "/tables/cache?search=nowhere"), 0),
            "page, members": (partial(fetch, directory, "/tables/member"), LEVEL),
        }
        for name, (work, expected) in listings.items():
            measure(report, hub, name, work, expected)
            say(name)


def measure(report: Report, hub: Hub, name: str, work: Callable[[], int], expected: int) -> None:
    """Repeat one listing; a few lines of the report."""
    longest, latest, grown, took = [], [], [], []
    for _ in range(REPETITIONS):
        before = hub.ask("watch")["kilobytes"]
        began = time.monotonic()
        rows = work()
        took.append(time.monotonic() - began)
        after = hub.ask("stalls")
        if rows != expected:
            raise AssertionError(f"{name}: {rows} rows, not {expected}")
        longest.append(after["longest"] * 1000)
        latest.append(after["latest"] * 1000)
        grown.append((after["kilobytes"] - before) / 1024)
    # The worst of all, since one long wait is one too many.
    report.add(
        SECTION, f"{name}: CPU time of the longest turn", [max(longest)], "ms", at_most=LIMIT
    )
    report.add(SECTION, f"{name}: most lateness by the clock", latest, "ms")
    report.add(SECTION, f"{name}: memory at the peak, above before", grown, "MiB")
    report.add(SECTION, f"{name}: time", took, "s")


def nothing() -> int:
    """Wait: what the machine itself keeps the reactor."""
    time.sleep(3)
    return 0


def ask(directory: Path, *words: str) -> int:
    """Rows that dmevpnctl prints."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dmevpn.admin.ctl", "--endpoint", f"unix:{directory}/admin"),
            *("--json", *words),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return entries(done.stdout)


def fetch(directory: Path, path: str) -> int:
    """Rows of a table of the status page."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(f"{directory}/status")
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        pieces = list(iter(lambda: sock.recv(1 << 20), b""))
    return entries(b"".join(pieces).partition(b"\r\n\r\n")[2])


def entries(document: bytes) -> int:
    """The rows of a listing, counted."""
    listing = json.loads(document)
    count: int = listing["attr"]["entriesCount"]
    if count != len(listing["table"]):
        raise AssertionError(f"{count} rows were promised, {len(listing['table'])} came")
    return count
