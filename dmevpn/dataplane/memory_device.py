"""A control interface's device in memory, changed by whoever plays the kernel. Layer: edge."""

from __future__ import annotations

from zope.interface import implementer

from dmevpn.errors import StartError
from dmevpn.interfaces import GREDevice, IControlDevice, IControlDeviceListener

__all__ = ["MemoryControlDevice"]


@implementer(IControlDevice)
class MemoryControlDevice:
    """The in-memory counterpart of :class:`~dmevpn.dataplane.gre_device.KernelGREDevice`.

    :param state: how the device is; None: there is none.
    :ivar started: whether it is followed.
    :ivar neighbours: the kernel's neighbour table, protocol to underlay address.
    """

    def __init__(self, name: str, state: GREDevice | None) -> None:
        self.name = name
        self.state = state
        self.started = False
        self.neighbours: dict[bytes, bytes] = {}
        self.listeners: list[IControlDeviceListener] = []

    def start(self) -> None:
        """Refuse to start without a device."""
        if self.state is None:
            raise StartError(f"interface {self.name}: no such device")
        self.started = True

    def neighbour(self, protocol: bytes) -> bytes | None:
        """What the table says."""
        return None if self.state is None else self.neighbours.get(protocol)

    def subscribe(self, listener: IControlDeviceListener) -> None:
        """Tell a listener of every change from now on."""
        self.listeners.append(listener)

    def unsubscribe(self, listener: IControlDeviceListener) -> None:
        """Tell it no more; harmless if it was never told."""
        if listener in self.listeners:
            self.listeners.remove(listener)

    def stop(self) -> None:
        """Not followed any more."""
        self.started = False

    def change(self, state: GREDevice | None) -> None:
        """Let the device be another, or go."""
        old, self.state = self.state, state
        for listener in tuple(self.listeners):
            listener.device_changed(old, state)
