"""A Perspective Broker connection that survives whatever the other end is. Layer: admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.spread import pb

from dmevpn.log import Logger

__all__ = ["CarefulBroker"]


#: Octets of a message: four of the largest pages. Perspective Broker bounds each of its lists and
#: strings, but not how many are within each other.
MESSAGE_OCTETS = 1 << 20


class CarefulBroker(pb.Broker):
    """Closes the connection on octets that are no Perspective Broker, instead of a traceback.

    A message without end is none, either.

    Errors in remote methods do not come by here: they are answered.
    """

    log = Logger()
    transport: Any
    #: Octets since the last whole message, of the pieces that had not the end of one.
    _octets = 0

    def dataReceived(self, data: bytes) -> None:
        """Octets from the other end."""
        self._octets += len(data)
        self.carefully(super().dataReceived, data)
        if self._octets > MESSAGE_OCTETS:
            self.give_up(f"a message of more than {MESSAGE_OCTETS} octets")

    def callExpressionReceived(self, expression: Any) -> None:
        """A whole message."""
        self._octets = 0
        super().callExpressionReceived(expression)  # type: ignore[no-untyped-call]

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
