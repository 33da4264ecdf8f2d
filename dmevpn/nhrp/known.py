"""Which peers have a budget of their own at the transport. Layer: core."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from dmevpn.interfaces import IDatagramTransport

__all__ = ["KnownPeers"]


class KnownPeers:
    """Whoever is registered, or named in the file: strangers share one budget.

    One peer may be known for many reasons, as a site of many VPNs is.
    """

    def __init__(self, transport: IDatagramTransport) -> None:
        self._transport = transport
        self._claims: dict[Hashable, frozenset[bytes]] = {}
        #: How many claims name each peer.
        self._count: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._count)

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._count

    def claim(self, owner: Hashable, peers: Iterable[bytes]) -> None:
        """Know these peers, for a reason, instead of those that were known for it before.

        :param peers: underlay addresses; none at all gives the reason up.
        """
        before = self._claims.pop(owner, frozenset())
        now = frozenset(peers)
        if now:
            self._claims[owner] = now
        for peer in now - before:
            count = self._count[peer] = self._count.get(peer, 0) + 1
            if count == 1:
                self._transport.know(peer)
        for peer in before - now:
            count = self._count[peer] = self._count[peer] - 1
            if not count:
                del self._count[peer]
                self._transport.forget(peer)
