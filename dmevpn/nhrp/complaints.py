"""How often a peer's fault is logged. Layer: core."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.metrics import Metrics

__all__ = ["PEERS", "Complaints"]

#: Seconds between two log lines about the same peer; what happens meanwhile is only counted.
_INTERVAL: Final = 60.0

#: Peers remembered for that. Beyond it nothing is logged about further ones until the oldest
#: entry's time is over, so that forged addresses cannot fill the log.
PEERS: Final = 1024


class Complaints:
    """Says whether a line about a peer is due."""

    def __init__(self, clock: IReactorTime, metrics: Metrics) -> None:
        self._clock = clock
        self._full = metrics.counter("complaints_full")
        #: When each was last logged about; the oldest first.
        self._logged: dict[bytes, float] = {}

    def due(self, peer: bytes) -> bool:
        """Whether to log about a peer now; the caller does so if it is."""
        now = self._clock.seconds()
        logged = self._logged.get(peer)
        if logged is not None:
            if now - logged < _INTERVAL:
                return False
            del self._logged[peer]
        elif len(self._logged) >= PEERS:
            oldest = next(iter(self._logged))
            if now - self._logged[oldest] < _INTERVAL:
                self._full.inc()
                return False
            del self._logged[oldest]
        self._logged[peer] = now
        return True
