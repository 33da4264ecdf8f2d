"""A Perspective Broker connection that survives whatever the other end is. Layer: admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.spread import pb

from dmevpn.log import Logger

__all__ = ["CarefulBroker"]


class CarefulBroker(pb.Broker):
    """Closes the connection on octets that are no Perspective Broker, instead of a traceback.

    Errors in remote methods do not come by here: they are answered.
    """

    log = Logger()
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        """Octets from the other end."""
        self.carefully(super().dataReceived, data)

    def carefully(self, take: Callable[[Any], None], received: Any) -> None:
        """Work on what was received; the connection ends if it makes no sense."""
        try:
            take(received)
        except Exception as error:  # PB raises whatever its parser stumbles over
            self.give_up(str(error))

    def give_up(self, reason: str) -> None:
        """End the connection: what comes makes no sense."""
        self.log.warn("admin connection closed: not our protocol ({reason})", reason=reason)
        self.transport.abortConnection()
