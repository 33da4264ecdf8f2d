"""What the machine that all of it runs on may do to frames by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["dropped", "room_for_packets"]

_BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")
_STATISTICS = Path("/proc/net/softnet_stat")
#: Packets that may wait for one processor. All links here are veth, which put what they deliver
#: into that queue. A cable between two sites makes thousands a second, and Linux's 1000 are too few
#: then where daemons keep the processor for a moment: frames of everybody would be lost.
ROOM = 50_000


@contextmanager
def room_for_packets() -> Iterator[None]:
    """Have room for what waits, in all of the machine; afterwards it is as before."""
    before = int(_BACKLOG.read_text())
    _BACKLOG.write_text(str(max(before, ROOM)))
    try:
        yield
    finally:
        _BACKLOG.write_text(str(before))


def dropped() -> int:
    """Packets that a processor had no room for, in any namespace, since the machine was started."""
    # linux/net/core/net-procfs.c: the second column, in each processor's row.
    return sum(int(row.split()[1], 16) for row in _STATISTICS.read_text().splitlines())
