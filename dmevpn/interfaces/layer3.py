"""The data plane of IPv4 and IPv6. Layer: base."""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute, Interface, implementer

__all__ = ["ILayer3Dataplane", "ILayer3Listener", "Layer3Listener"]


class ILayer3Dataplane(Interface):
    """The kernel's IPv4 and IPv6 forwarding over the GRE device of a control interface.

    Declarative like ISpokeDataplane. Where there is no such device, nothing is forwarded: the
    methods have no effect, and what NHRP knows serves others.
    """

    mtu = Attribute("MTU of the device in octets; 0: not known. Valid after start.")
    underlay_octets = Attribute("4 or 16: of the underlay addresses that it takes; None: either.")

    def start(listener: ILayer3Listener) -> None:
        """Prepare the device, remove what an earlier run left, and report misses.

        :raises StartError: if the kernel refuses.
        """

    def addresses() -> tuple[tuple[bytes, int], ...]:
        """Our protocol addresses on the device with their prefix lengths, without link-local
        ones; empty without a device."""

    def local_address(peer: bytes) -> bytes:
        """Our underlay address towards a peer; empty if there is no way to it."""

    def set_neighbour(protocol: bytes, nbma: bytes) -> None:
        """Send packets for a next hop to an underlay address; again confirms that it is there."""

    def remove_neighbour(protocol: bytes) -> None:
        """Forget a next hop."""

    def set_route(protocol: bytes, prefix_length: int, next_hop: bytes) -> None:
        """Send packets for a network by a next hop; replaces only a route of ours."""

    def remove_route(protocol: bytes, prefix_length: int) -> None:
        """Forget a route of ours."""

    def next_hop(protocol: bytes) -> bytes | None:
        """The next hop on the device by which the kernel would send packets for an address; the
        address itself if it is on the device's network, None if it goes elsewhere."""

    def idle_times() -> dict[bytes, float]:
        """Seconds since each next hop was last known to carry a packet."""

    def stop() -> Any:
        """Remove every neighbour and route of ours, restore the device's settings; returns a
        Deferred."""

    def hand_over() -> None:
        """Stop, and leave all that as it is until a successor starts."""


class ILayer3Listener(Interface):
    """What a layer 3 data plane reports."""

    def neighbour_missed(protocol: bytes) -> None:
        """The kernel has packets for a next hop and wants to know, or to have confirmed, where
        it is."""

    def detour_seen(packet: bytes, sender: bytes) -> None:
        """A packet goes out by the device by which it came in.

        :param packet: its beginning, from the IP header on.
        :param sender: underlay address that it came from; empty if unknown.
        """

    def addresses_changed() -> None:
        """The device has other addresses, another underlay address, or is there again."""


@implementer(ILayer3Listener)
class Layer3Listener:
    """Ignores every event of a layer 3 data plane."""

    def neighbour_missed(self, protocol: bytes) -> None: ...
    def detour_seen(self, packet: bytes, sender: bytes) -> None: ...
    def addresses_changed(self) -> None: ...
