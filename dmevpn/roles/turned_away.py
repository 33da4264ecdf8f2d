"""Who was told that its VPN is not served, and would be called back if it is. Layer: role.

A client that gets error 17 asks again after ten minutes, if it is one that we have never had. A hub
that begins to serve the VPN meanwhile tells it by a Purge Request of its registration, as one does
that takes registrations back: clients of ours register anew then (docs/state-machines.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VPNID, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp.server import NextHopServer

__all__ = ["LIMIT", "TurnedAway"]

#: Clients that are remembered; whoever was turned away longest ago gives way: the members of a VPN.
LIMIT: Final = 4096
#: Seconds for which one is remembered: it has asked again by then.
_REMEMBERED: Final = 660.0
#: How often one is called, since a call may be lost.
_CALLS: Final = 3


@dataclass(slots=True)
class _Client:
    path: Path
    """The way to it."""
    until: float
    calls: int = _CALLS
    """How many are left."""


class TurnedAway:
    """The clients of a hub that registered in VPNs which it does not serve.

    :param oui: of the VPNs that it might serve.
    :param serve: the server of a VPN, given its identifier and the underlay address of who asks;
        None: it is still not served, or not to this one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        oui: bytes,
        serve: Callable[[VPNID, bytes], NextHopServer | None],
    ) -> None:
        self._clock = clock
        self._oui = oui
        self._serve = serve
        #: By VPN and station; the one that asked last is the last.
        self._clients: dict[tuple[VPNID, bytes], _Client] = {}
        self._forgotten = metrics.counter("turned_away_forgotten")

    def __len__(self) -> int:
        return len(self._clients)

    def note(self, vpn_id: VPNID, station: bytes, path: Path) -> None:
        """A client was turned away, perhaps again."""
        if vpn_id.oui != self._oui:
            return
        self._clients.pop((vpn_id, station), None)
        if len(self._clients) >= LIMIT:
            self._forgotten.inc()
            del self._clients[next(iter(self._clients))]
        self._clients[vpn_id, station] = _Client(path, self._clock.seconds() + _REMEMBERED)

    def call(self) -> Iterator[None]:
        """Call those whose VPN is served by now, and who are not registered; one at each step."""
        for key, client in list(self._clients.items()):
            vpn_id, station = key
            if self._clients.get(key) is not client:
                continue
            if self._clock.seconds() >= client.until or not client.calls:
                del self._clients[key]
            elif (server := self._serve(vpn_id, client.path.peer)) is not None:
                client.calls -= 1
                server.call_back(station, client.path)
            yield
