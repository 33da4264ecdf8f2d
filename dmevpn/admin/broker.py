"""A Perspective Broker connection that survives whatever the other end is. Layer: admin."""

from __future__ import annotations

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
        try:
            super().dataReceived(data)  # type: ignore[no-untyped-call]
        except Exception as error:  # PB raises whatever its parser stumbles over
            self.log.warn("admin connection closed: not our protocol ({reason})", reason=str(error))
            self.transport.abortConnection()
