"""The kernel GRE device of a control interface. Layer: base."""

from __future__ import annotations

from typing import NamedTuple

from zope.interface import Attribute, Interface

__all__ = ["GREDevice", "IControlDevice", "IControlDeviceListener"]


class GREDevice(NamedTuple):
    """A kernel GRE device as it is at one moment."""

    ifindex: int
    name: str
    up: bool
    """Administratively up."""
    mtu: int
    """Largest protocol packet that it takes, in octets."""
    key: int | None
    """GRE key that packets must carry to reach it; None: none."""
    local: bytes
    """NBMA address that it sends from and hears; empty: any of the host's."""
    remote: bytes
    """NBMA address of its only peer; empty for a multipoint device."""
    addresses: tuple[tuple[bytes, int], ...] = ()
    """Our protocol addresses on it with their prefix lengths, IPv4 and IPv6, sorted; link-local
    ones too."""


class IControlDevice(Interface):
    """The kernel GRE device of a control interface, found by its name and followed from then on:
    through changes, and when it is removed and made again."""

    name = Attribute("Its name.")
    state = Attribute("The GREDevice as last read; None while there is none. Valid after start.")

    def start() -> None:
        """Read the device, and follow it.

        :raises StartError: if there is no such device, or it cannot carry NHRP.
        """

    def neighbour(protocol: bytes) -> bytes | None:
        """The underlay address that the kernel's neighbour table has for a protocol address on the
        device; None if it has none.

        :raises DataplaneError: if the kernel does not say.
        """

    def subscribe(listener: IControlDeviceListener) -> None:
        """Tell a listener of every change from now on."""

    def unsubscribe(listener: IControlDeviceListener) -> None:
        """Tell it no more; harmless if it was never told."""

    def stop() -> None:
        """Follow it no more; harmless if it was not."""


class IControlDeviceListener(Interface):
    """Who wants to know how a control device changes."""

    def device_changed(old: GREDevice | None, new: GREDevice | None) -> None:
        """The device differs from before; None: it was not, or is not, there."""
