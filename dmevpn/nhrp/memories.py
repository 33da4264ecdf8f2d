"""What the codec has at hand to be faster, and how often it was too much. Layer: core.

Each is bounded, and counted for the whole process. A peer that sends ever new octets has them read
again and again, which costs time but no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dmevpn.metrics import Counter, Metrics
from dmevpn.nhrp import encapsulation, extensions, keyed, multihoming, packet, replies

__all__ = ["FORGOTTEN", "show_forgotten"]


def _of(counter: Counter) -> Callable[[], int]:
    return lambda: counter.value


def _evicted_from(memory: Callable[[], tuple[int, int, int | None, int]]) -> Callable[[], int]:
    """What an ``lru_cache`` has forgotten, by its ``cache_info``."""

    def read() -> int:
        _, misses, _, size = memory()
        return misses - size

    return read


#: How often each has forgotten something: all of it, or the one that was used longest ago.
FORGOTTEN: Final[dict[str, Callable[[], int]]] = {
    "headers": _of(encapsulation.forgotten),
    "extensions": _of(extensions.forgotten),
    "requests": _of(packet.forgotten),
    "replies": _of(replies.forgotten),
    "signatures": _evicted_from(keyed._around.cache_info),
    "hubs": _evicted_from(multihoming._read.cache_info),
}


def show_forgotten(metrics: Metrics) -> None:
    """Have a daemon's metrics tell it."""
    for memory, read in FORGOTTEN.items():
        metrics.share("codec_memories_emptied", read, memory=memory)
