"""Which of a client's requests is its latest, whatever order they arrive in. Layer: core.

A request that was repeated or held up on its way says what was true when it was sent. If it were
heeded after the one that followed it, a server would believe that until the next renewal: that
a station is there which has left, or has no other server although it has one again. Request IDs
tell the order, since those of one client rise (RFC 1982; :mod:`dmevpn.nhrp.request_ids`), over
its restarts, too. RFC 2332 §5.2.0.1 does not promise that. So only what is overtaken within
seconds, and by few requests, is late. A client whose numbers begin anew is hardly taken for that,
and not for longer: it asks again.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from twisted.internet.interfaces import IReactorTime

__all__ = ["LATE", "MOST_RECENT", "Order"]

#: Seconds for which a request may be held up on its way.
LATE: Final = 10.0
#: Clients whose latest request is known, by server; the one silent longest is forgotten first.
MOST_RECENT: Final = 8192

_MODULUS: Final = 1 << 32
#: Requests of all kinds that a client may have made meanwhile.
_FEW: Final = 1 << 16


class Order:
    """Remembers the latest request of each client for a while."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: Request IDs and when they came, by client; the oldest first.
        self._latest: dict[bytes, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def is_late(self, client: bytes, request_id: int) -> bool:
        """Whether a request that followed this one has been here already. If not, it is the latest.

        :param client: whose request it is: nobody else can send in its name.
        """
        latest, now = self._latest, self._clock.seconds()
        last = latest.get(client)
        if last is not None:
            number, when = last
            if now - when < LATE and 0 < (number - request_id) % _MODULUS < _FEW:
                return True
            del latest[client]
        elif latest:
            # Two at most for each that comes, so that no request waits for many.
            for oldest in tuple(islice(latest, 2)):
                if now - latest[oldest][1] >= LATE or len(latest) >= MOST_RECENT:
                    del latest[oldest]
        latest[client] = request_id, now
        return False
