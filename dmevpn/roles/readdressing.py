"""Spokes whose underlay address has become another start again, on what they have. Layer: role.

A VTEP is an address, so a spoke at another one is another site: it takes its registrations back,
and registers anew. The bridge and its ports stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.interfaces import GREDevice, IControlDevice, IControlDeviceListener

__all__ = ["RETRY", "Readdressing"]

#: Seconds until spokes that cannot start at their new address are tried again: it may have to be
#: given to the machine first.
RETRY: Final = 2.0


@implementer(IControlDeviceListener)
class Readdressing:
    """Follows the device of one control interface.

    :param device: None for raw sockets, which have none.
    :param restart: called with the data interface of the spoke that is to start again; None: all of
        them, empty: those that could not.
    """

    def __init__(
        self,
        clock: IReactorTime,
        device: IControlDevice | None,
        restart: Callable[[str | None], None],
    ) -> None:
        self._clock = clock
        self._device = device
        self._restart = restart
        self._call: Any = None
        self._at: tuple[bytes, int | None] | None = None
        if device is not None:
            self._at = _place(device.state)
            device.subscribe(self)

    def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
        """Another address or key is another way; a device that is gone may come back as it was."""
        at = _place(new)
        if at is not None and at != self._at:
            self._at = at
            self._restart(None)

    def retry(self) -> None:
        """Something could not be started: try again in a while."""
        if self._call is None:
            self._call = self._clock.callLater(RETRY, self._again)

    def close(self) -> None:
        """Follow it no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._device is not None:
            self._device.unsubscribe(self)

    def _again(self) -> None:
        self._call = None
        self._restart("")


def _place(state: GREDevice | None) -> tuple[bytes, int | None] | None:
    return None if state is None else (state.local, state.key)
