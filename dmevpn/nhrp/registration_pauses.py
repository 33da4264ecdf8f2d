"""How long a client waits until it asks its server again to register it. Layer: core.

RFC 2332 §5.2.3 says when to renew, and leaves all other times to the client. Chance varies most of
them, so that clients to whom the same has happened do not all come back in the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dmevpn.nhrp.constants import ErrorCode

__all__ = ["AFTER_CONFLICT", "NO_ROOM", "Pauses"]

#: Seconds between purging somebody's old registration of our address and trying again.
AFTER_CONFLICT: Final = 2.0
#: Seconds until another try when there are too many requests already.
NO_ROOM: Final = 10.0

#: Shortest time between a reply and the renewal, in seconds.
_SHORTEST_RENEWAL: Final = 10.0
#: How much of a pause chance may take away.
_EARLIER: Final = 0.1
#: At most so long after the server took our binding back, by chance: all its clients lost theirs
#: in the same moment.
_AFTER_REVOCATION: Final = 2.0
#: At most so long after a purge by which we left a server that wants to be left, by chance, until
#: we ask whether we may come back. Short, since whoever forged the wish of a server that has other
#: clients keeps us from what these flood until then.
_AFTER_LEAVING: Final = 0.5
#: From, and how much more at most, in seconds, until we ask again after a refusal and an Error
#: Indication.
_AFTER_REFUSAL: Final = (30.0, 60.0)
_AFTER_ERROR: Final = (60.0, 120.0)
#: Seconds until we ask again after one that says that the server does not serve our VPN.
_AFTER_VPN_UNSUPPORTED: Final = 600.0
#: The same if it has served it to us before, doubling up to the second: then somebody is at work
#: on its configuration, and a site that waits is cut off from those that do not.
_AFTER_VPN_GIVEN_UP: Final = (2.0, 64.0)


class Pauses:
    """The pauses of one registration, all in seconds.

    :param jitter: uniform in [0, 1).
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        #: The next one if the server does not serve our VPN.
        self._unserved = _AFTER_VPN_UNSUPPORTED

    def served(self) -> None:
        """The server serves our VPN, or did so in an earlier run: if it says that it does not,
        that may soon change."""
        self._unserved = _AFTER_VPN_GIVEN_UP[0]

    def before_renewal(self, holding_time: float) -> float:
        """Until a registration is renewed: a third of its holding time (RFC 2332 §5.2.3), but not
        too short a one.

        :param holding_time: as granted.
        """
        return self._sooner(max(_SHORTEST_RENEWAL, holding_time / 3))

    def after_revocation(self) -> float:
        """After the server has taken our binding back."""
        return _AFTER_REVOCATION * self._jitter()

    def after_leaving(self) -> float:
        """After we have taken our binding back from a server that wants to be left."""
        return _AFTER_LEAVING * self._jitter()

    def after_refusal(self) -> float:
        """After a reply that refuses."""
        return self._within(_AFTER_REFUSAL)

    def after_error(self, code: int) -> float:
        """After an Error Indication about our request.

        :param code: of it.
        """
        if code != ErrorCode.VPN_UNSUPPORTED:
            return self._within(_AFTER_ERROR)
        pause = self._unserved
        if pause == _AFTER_VPN_UNSUPPORTED:
            return pause
        longer = 2 * pause
        self._unserved = longer if longer <= _AFTER_VPN_GIVEN_UP[1] else _AFTER_VPN_UNSUPPORTED
        return self._sooner(pause)

    def _within(self, times: tuple[float, float]) -> float:
        shortest, more = times
        return shortest + more * self._jitter()

    def _sooner(self, pause: float) -> float:
        return pause * (1 - _EARLIER * self._jitter())
