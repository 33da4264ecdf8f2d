"""How long a listing of a large hub keeps its reactor, and what memory it takes.

A hub has 50,000 registrations, and its switch has learned a MAC at each: 100,000 bindings. It is
asked for them by ``dmevpnctl``, the status page and Prometheus, and told to forget them. A call
that is always due tells how long it had to wait. Filters that refuse everything are the hardest:
they leave nothing to send.
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
from benchmarks.load import VPNS, client
from benchmarks.report import Progress, Report

__all__ = ["run"]

SECTION = "Listing, eBPF switch"
REPETITIONS = 3
#: Milliseconds that no listing may keep the reactor.
LIMIT = 50
#: Seconds after which the switch is shown the learned MACs again; it ages them after 300.
FRESH = 120
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
        learned = time.monotonic()
        for name, (work, expected) in listings(directory).items():
            if time.monotonic() - learned > FRESH:  # before the switch forgets them
                learn_all(hub, LEVEL, "ebpf")
                learned = time.monotonic()
            measure(report, hub, name, work, expected)
            say(name)
        for name in ("cache flush", "cache purge"):
            learn_all(hub, LEVEL, "ebpf")
            work = partial(remove, directory, *name.split())
            # What has been learned at a member goes with it, and is not counted.
            measure(report, hub, f"{name} of {LEVEL:,}", work, LEVEL, repetitions=1)
            say(name)


def listings(directory: Path) -> dict[str, tuple[Callable[[], int], int | None]]:
    """What changes nothing, with the number of rows; None: some."""
    vm, stranger = client(0).vm.hex(":"), ("mac", "02:ff:ff:ff:ff:ff")

    def show(*words: str) -> Callable[[], int]:
        return partial(ask, directory, *words)

    def page(table: str) -> Callable[[], int]:
        return partial(fetch, directory, f"/tables/{table}")

    return {
        "nothing, for 3 s": (nothing, 0),
        "cache show": (show("cache", "show"), 2 * LEVEL),
        "cache show, unknown mac": (show("cache", "show", *stranger), 0),
        "fdb show": (show("fdb", "show"), LEVEL),
        "member show": (show("member", "show"), LEVEL),
        "vpn show": (show("vpn", "show"), VPNS),
        "events": (show("events"), None),
        "explain": (show("explain", vm, "vpn", "1"), None),
        "doctor": (show("doctor"), None),
        "scrape of metrics": (partial(scrape, directory), None),
        "page, bindings": (page("cache"), 2 * LEVEL),
        "page, vain search": (page("cache?search=nowhere"), 0),
        "page, members": (page("member"), LEVEL),
        "page, forwarding entries": (page("fdb"), LEVEL),
        "page, shortcuts": (page("shortcut"), 0),
        "page, state": (partial(state, directory), None),
    }


def measure(
    report: Report,
    hub: Hub,
    name: str,
    work: Callable[[], int],
    expected: int | None,
    repetitions: int = REPETITIONS,
) -> None:
    """Repeat one listing; a few lines of the report."""
    longest, latest, grown, took = [], [], [], []
    for _ in range(repetitions):
        before = hub.ask("watch")["kilobytes"]
        began = time.monotonic()
        rows = work()
        took.append(time.monotonic() - began)
        after = hub.ask("stalls")
        if expected not in (None, rows):
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


def command(directory: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """What dmevpnctl prints as JSON."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "dmevpn.admin.ctl", "--endpoint", f"unix:{directory}/admin"),
            *("--json", *words),
        ],
        cwd=ROOT,
        capture_output=True,
    )


def ask(directory: Path, *words: str) -> int:
    """Rows that dmevpnctl prints; `doctor` fails if it finds something."""
    return entries(command(directory, *words).stdout)


def remove(directory: Path, *words: str) -> int:
    """Bindings that a command takes away."""
    [row] = json.loads(command(directory, *words).stdout)["table"]
    [count] = row.values()
    return int(count)


def get(directory: Path, sock_name: str, path: str, enough: bytes = b"") -> bytes:
    """What a web server answers, or its beginning as far as something is in it."""
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(f"{directory}/{sock_name}")
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        for piece in iter(lambda: sock.recv(1 << 20), b""):
            answer += piece
            if enough and enough in answer and answer.endswith(b"\n\n"):
                break
    return answer.partition(b"\r\n\r\n")[2]


def fetch(directory: Path, path: str) -> int:
    """Rows of a table of the status page."""
    return entries(get(directory, "status", path))


def scrape(directory: Path) -> int:
    """Lines of the metrics."""
    return get(directory, "metrics", "/metrics").count(b"\n")


def state(directory: Path) -> int:
    """The first state that a status page is fed with, whose map is drawn of all tables."""
    return len(get(directory, "status", "/events", b"event: state"))


def entries(document: bytes) -> int:
    """The rows of a listing, counted."""
    listing = json.loads(document)
    count: int = listing["attr"]["entriesCount"]
    if count != len(listing["table"]):
        raise AssertionError(f"{count} rows were promised, {len(listing['table'])} came")
    return count
