"""What the machine that all of it runs on does to frames by itself."""

from __future__ import annotations

from pathlib import Path

__all__ = ["dropped"]

_STATISTICS = Path("/proc/net/softnet_stat")


def dropped() -> int:
    """Packets that a processor had no room for, in any namespace, since the machine was started.

    All links of the laboratory are veth, which put what they deliver into a queue of the processor,
    of 1000 packets by default.
    """
    # linux/net/core/net-procfs.c: the second column, in each processor's row.
    return sum(int(row.split()[1], 16) for row in _STATISTICS.read_text().splitlines())
