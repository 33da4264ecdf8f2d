"""How far a client may send ahead of the answers that it takes. Layer: admin.

Perspective Broker works on everything as it comes and writes answers to a buffer without end, so
one client could have the daemon do as much at once, and hold as many answers, as it asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from dmevpn.metrics import Counter

__all__ = ["ClientPace"]

#: Calls of one client that are worked on at once, and begun in one reactor turn: each may hold a
#: page of a listing, and makes its first rows at once, which takes two milliseconds.
CALLS = 8


@implementer(IPushProducer)
class ClientPace:
    """Lets what a client sends wait while it is too far ahead; nothing is lost or overtaken.

    It is too far ahead with CALLS calls that are not answered, or answers that it has not read.
    Then no more is read from its socket. What of that was read already waits here: 64 KiB, as many
    as Twisted reads in one go.

    :param reactor: gives other work its turn in between.
    :param transport: of the client; produces answers for it from now on.
    :param take: works on something that the client has sent.
    :param delayed: counts what had to wait.
    """

    def __init__(
        self, reactor: Any, transport: Any, take: Callable[[Any], None], delayed: Counter
    ) -> None:
        self._reactor = reactor
        self._transport = transport
        self._take = take
        self._delayed = delayed
        self._waiting: deque[Any] = deque()
        self._under_way = 0
        self._ended = 0
        self._unread = False
        self._closed = False
        self._turn: Any = None
        transport.registerProducer(self, True)

    def received(self, expression: Any) -> None:
        """The client has sent something: a call, or word about an earlier one."""
        if self._closed:
            return
        if not self._waiting and self._keeps_up():
            self._take(expression)
            return
        self._delayed.inc()
        self._waiting.append(expression)
        self._transport.pauseProducing()

    def begun(self) -> None:
        """What was taken is a call."""
        self._under_way += 1

    def ended(self) -> None:
        """A call is being answered. It makes room in the next turn only: others have theirs."""
        self._ended += 1
        if self._turn is None and not self._closed:
            self._turn = self._reactor.callLater(0, self._next_turn)

    def close(self) -> None:
        """The connection ends, or shall: nothing more is taken."""
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        # Twisted does not close in order while somebody is to write.
        self._transport.unregisterProducer()

    def _keeps_up(self) -> bool:
        return self._under_way < CALLS and not self._unread

    def _next_turn(self) -> None:
        self._turn = None
        self._under_way -= self._ended
        self._ended = 0
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._keeps_up():
            self._take(self._waiting.popleft())
        if not self._waiting and not self._closed:
            self._transport.resumeProducing()

    # --- told by the transport ----------------------------------------------------------

    def pauseProducing(self) -> None:
        """The client reads more slowly than it asks."""
        self._unread = True

    def resumeProducing(self) -> None:
        """It has read everything."""
        self._unread = False
        if self._closed:
            return
        # One that shall be closed, for the other end has, waits for a producer that it had paused.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)
        self._go_on()

    def stopProducing(self) -> None:
        """The connection is gone; the broker says so, too."""
