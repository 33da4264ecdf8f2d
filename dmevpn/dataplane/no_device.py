"""Layer 3 that the kernel does not forward: without a GRE device, or in a VPN. Layer: edge."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from dmevpn.dataplane.underlay import source_address
from dmevpn.interfaces import GREDevice, IControlDevice, ILayer3Dataplane, ILayer3Listener

__all__ = ["NoDevice"]


@implementer(ILayer3Dataplane)
class NoDevice:
    """The bindings of NHRP stay with NHRP: they serve others, as answers and as ways on.

    :param nbma_address: our underlay address; None: the device's, or the kernel's choice.
    :param device: the GRE device that NHRP is spoken over, if there is one.
    """

    mtu = 0

    def __init__(self, nbma_address: bytes | None, device: IControlDevice | None) -> None:
        self._nbma_address = nbma_address
        self._device = device

    @property
    def underlay_octets(self) -> int | None:
        """Those of our own underlay address, if it is given."""
        return len(self._own()) or None

    def _own(self) -> bytes:
        state: GREDevice | None = self._device.state if self._device is not None else None
        return (state.local if state is not None else b"") or self._nbma_address or b""

    def start(self, listener: ILayer3Listener) -> None:
        """There is nothing to report."""

    def addresses(self) -> tuple[tuple[bytes, int], ...]:
        """The file alone says what we are."""
        return ()

    def local_address(self, peer: bytes) -> bytes:
        """Our underlay address towards a peer."""
        return self._own() or source_address(peer)

    def set_neighbour(self, protocol: bytes, nbma: bytes) -> None:
        """No device has neighbours."""

    def remove_neighbour(self, protocol: bytes) -> None:
        """No device has neighbours."""

    def set_route(self, protocol: bytes, prefix_length: int, next_hop: bytes) -> None:
        """No device is a way."""

    def remove_route(self, protocol: bytes, prefix_length: int) -> None:
        """No device is a way."""

    def next_hop(self, protocol: bytes) -> bytes | None:
        """No device is a way."""
        return None

    def idle_times(self) -> dict[bytes, float]:
        """Nothing carries packets."""
        return {}

    def hand_over(self) -> None:
        """Nothing is ours."""
        self.stop()

    def stop(self) -> Deferred[None]:
        """There is nothing to undo."""
        return succeed(None)
