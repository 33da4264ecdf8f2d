"""Whoever registers IPv4 or IPv6 addresses has a budget of its own. Layer: role."""

from __future__ import annotations

from zope.interface import implementer

from dmevpn.interfaces import ICacheListener
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.known import KnownPeers

__all__ = ["RegisteredPeers"]


@implementer(ICacheListener)
class RegisteredPeers:
    """Claims the senders of the registrations of one cache."""

    def __init__(self, known: KnownPeers) -> None:
        self._known = known
        self._stations: set[bytes] = set()

    def binding_added(self, binding: Binding) -> None:
        """Somebody has registered."""
        if binding.kind is Kind.DYNAMIC and binding.path is not None:
            self._stations.add(binding.protocol)
            self._known.claim((self, binding.protocol), (binding.path.peer,))

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """It may register from elsewhere now."""
        if old.path != new.path or old.kind is not new.kind:
            self.binding_added(new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """It is gone; another registration of the address says so itself."""
        if binding.kind is Kind.DYNAMIC:
            self._stations.discard(binding.protocol)
            self._known.claim((self, binding.protocol), ())

    def close(self) -> None:
        """Give all of them up."""
        for station in self._stations:
            self._known.claim((self, station), ())
        self._stations.clear()
