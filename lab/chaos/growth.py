"""What could grow: memory, open files, sockets and tables of each daemon."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.chaos.stage import VPNS, Hub, Node, Site, Stage

__all__ = ["ALLOWED", "Sample", "grown", "sample"]

#: By how much more than after the warm-up a daemon may have in memory at the end.
ALLOWED = 0.05
#: MiB of difference that are no growth: an arena of Python's allocator, and what starts differ by.
SLACK = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemons of one role have, the most that any of them has."""

    resident: float
    """MiB in memory."""
    files: int
    """Open file descriptors."""
    netlink: int
    """Netlink sockets among them."""
    entries: int
    """Forwarding entries of the kernel at a site; MACs and members of a hub's switch."""

    def __str__(self) -> str:
        return (
            f"{self.resident:.1f} MiB, {self.files} files, {self.netlink} netlink sockets, "
            f"{self.entries} entries"
        )


def _sample(stage: Stage, node: Node) -> Sample:
    process = Path("/proc", str(node.daemon.pid))
    resident = 0.0
    for line in (process / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1]) / 1024
    descriptors = []
    for path in (process / "fd").iterdir():
        try:
            descriptors.append(os.readlink(path))
        except FileNotFoundError:
            continue  # Closed meanwhile.
    rows = (process / "net" / "netlink").read_text().splitlines()[1:]
    inodes = {f"socket:[{row.split()[-1]}]" for row in rows}
    if isinstance(node, Hub):
        control = node.daemon.ctl
        entries = len(control.rows("fdb", "show")) + len(control.rows("member", "show"))
    else:
        assert isinstance(node, Site)
        entries = stage.entries(node)
    return Sample(resident, len(descriptors), len(inodes.intersection(descriptors)), entries)


def sample(stage: Stage) -> dict[str, Sample]:
    """By role, the most that any of its daemons has of each."""
    found = {}
    for role, nodes in (("hub", stage.hubs), ("site", stage.sites)):
        samples = [_sample(stage, node) for node in nodes]
        found[role] = Sample(
            max(each.resident for each in samples),
            max(each.files for each in samples),
            max(each.netlink for each in samples),
            max(each.entries for each in samples),
        )
    return found


def grown(stage: Stage, before: dict[str, Sample], after: dict[str, Sample]) -> list[str]:
    """What has grown between two samples, in words; empty if nothing has."""
    found = []
    # A station has two entries at a site, one for each table, and one at a hub, which also has
    # a member for each, and the other hub in each VPN.
    most = 2 * len(stage.stations) + len(VPNS)
    for role, old in before.items():
        new = after[role]
        if new.resident > old.resident * (1 + ALLOWED) + SLACK:
            found.append(f"{role}: {old.resident:.1f} MiB in memory became {new.resident:.1f}")
        for name in ("files", "netlink"):
            was, now = getattr(old, name), getattr(new, name)
            if now > was:
                found.append(f"{role}: {was} {name} became {now}")
        if new.entries > most:
            found.append(
                f"{role}: {new.entries} entries, and {most} are the most for so few stations"
            )
    return found
