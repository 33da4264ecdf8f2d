"""Keepalives: whether a server still answers, known within a second. Layer: core.

RFC 2332 has no packet for that alone. The lightest exchange that every server has to answer is a
Purge Request that names nothing (§5.2.5): it takes nothing away, leaves nothing behind, needs no
registration, and its reply is the same packet with another type.

One server is asked once, however many VPNs register with it: a :class:`ServerWatch` for each
server of a control interface, in the VPN of any registration that the server has. A server that
has never answered is not called silent for it; its registrations have to tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.addresses import format_address
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.registration import RegistrationClient, State

__all__ = ["REPEATED_AFTER", "UNSUPPORTED_AFTER", "Keepalives", "ServerWatch", "Status"]

#: What is unanswered is repeated after this part of the interval: while all is well few packets are
#: sent, and a server that falls silent is known soon all the same.
REPEATED_AFTER: Final = 1 / 6
#: And from then on in half of that. Where each third packet is lost, every second keepalive has no
#: answer: three in a row are found each few seconds, five once in 30 intervals.
_HURRIED: Final = REPEATED_AFTER / 2
#: Keepalives in a row that a server has to leave unanswered, when it has answered none so far,
#: until it is asked no more: it may be another daemon, FRR does not answer any purge.
UNSUPPORTED_AFTER: Final = 10
#: How much of an interval chance may take away, so that clients do not march in step.
_EARLIER: Final = 0.1
#: Seconds over which the registrations with a server that is back are renewed.
_RETURN: Final = 1.0
#: Seconds by which a keepalive has to be late to show that this daemon was kept from its work,
#: or its machine suspended: what servers did meanwhile, nobody has seen.
_STALLED: Final = 1.0
#: States of registrations that a server does not have, but may want when it is back.
_UNSERVED: Final = (State.DOWN, State.REFUSED)
#: The same of a server that has said nothing so far.
_UNHEARD: Final = (State.DOWN,)
#: Seconds at least between two doubts about registrations because of errors in place of answers.
_DOUBT: Final = 10.0


class Status(Enum):
    """What keepalives say of a server."""

    UNKNOWN = "unknown"
    """Not asked so far, or without an answer so far."""
    UP = "up"
    """It answers."""
    SILENT = "silent"
    """It has answered, and does no longer."""
    UNSUPPORTED = "unsupported"
    """It has a registration of ours, but answers no keepalives."""


class ServerWatch:
    """Asks one server again and again whether it is there.

    :ivar status: see :class:`Status`.
    :param nhs: its underlay address.
    :param interval: seconds between keepalives that are answered.
    :param multiplier: sixths of the interval without an answer to any keepalive after which the
        server is silent. One that is lost, or a daemon that was kept from its work, says nothing:
        2 at least, for three keepalives.
    :param jitter: uniform in [0, 1).
    """

    log = Logger()

    def __init__(
        self,
        nhs: bytes,
        *,
        clock: IReactorTime,
        jitter: Callable[[], float],
        metrics: Metrics,
        interval: float,
        multiplier: int,
    ) -> None:
        self.nhs = nhs
        self.status = Status.UNKNOWN
        self.interval = interval
        self.multiplier = multiplier
        self._clock = clock
        self._jitter = jitter
        self._clients: list[RegistrationClient] = []
        self._next: IDelayedCall | None = None
        #: When the latest keepalive was sent, and how many have had no answer by then.
        self._sent = 0.0
        self._unanswered = 0
        #: When the next one is to be sent.
        self._due = 0.0
        self._returning: list[RegistrationClient] = []
        self._return: IDelayedCall | None = None
        self._doubted = float("-inf")
        self._count = metrics.counter("keepalives_sent")
        self._silences = metrics.counter("servers_silent")

    # --- who registers with it --------------------------------------------------------------

    def add(self, client: RegistrationClient) -> None:
        """A registration with the server, which is told what becomes of it."""
        self._clients.append(client)

    def remove(self, client: RegistrationClient) -> bool:
        """It is none any more; whether there is none left."""
        self._clients.remove(client)
        if client in self._returning:
            self._returning.remove(client)
        if not self._clients:
            self.close()
        return not self._clients

    def changed(self, client: RegistrationClient) -> None:
        """The state of a registration has changed."""
        if client.state is State.REGISTERED:
            if self.status is Status.UNSUPPORTED:
                self.status = Status.UNKNOWN
            elif self.status is Status.SILENT:
                self._answered()
        if self._next is None and self._asker() is not None:
            self._unanswered = 0
            # Soon: until it has answered, its silence says nothing.
            self._wait(self.interval * REPEATED_AFTER * self._jitter())

    def close(self) -> None:
        """Ask no more."""
        for call in (self._next, self._return):
            if call is not None:
                call.cancel()
        self._next = self._return = None
        self._returning.clear()

    # --- asking -----------------------------------------------------------------------------

    def _asker(self) -> RegistrationClient | None:
        """The registration in whose VPN the server is asked: one that it has, or had before it
        fell silent or would have it no more (it may be drained: once it has been away, it serves).
        None: there is none, or it does not answer keepalives. One that has never answered is asked
        in the VPN of a registration that it has not answered, either: it may come back long before
        that is repeated."""
        if self.status is Status.UNSUPPORTED:
            return None
        for client in self._clients:
            if client.state is State.REGISTERED:
                return client
        wanted = _UNHEARD if self.status is Status.UNKNOWN else _UNSERVED
        return next((each for each in self._clients if each.state in wanted), None)

    def _wait(self, delay: float) -> None:
        self._due = self._clock.seconds() + delay
        self._next = self._clock.callLater(delay, self._ask)

    def _ask(self) -> None:
        self._next = None
        now = self._clock.seconds()
        if now - self._due > _STALLED:
            # A server may have been started anew in the time, and have forgotten us.
            self._unanswered = 0
            self._renew_all((State.REGISTERED,))
        if self._unanswered >= self._limit:
            self._unheard()
        asker = self._asker()
        if asker is None or self._next is not None:
            # Nobody is left to ask for, or that we ask on has just been seen to.
            return
        self._count.inc()
        if self.status is Status.UNKNOWN and asker.state is not State.REGISTERED:
            # That it is away does not mean that it knows no keepalives.
            self._unanswered = 0
        self._unanswered += 1
        self._sent = now
        # A late answer is an answer, too.
        asker.probe(2 * self.interval, self._answered, self._erred)
        self._wait(self._gap())

    def _gap(self) -> float:
        """Seconds from one keepalive to the next if it stays unanswered."""
        if self.status is not Status.UP:
            return self._in_turn()
        return self.interval * (REPEATED_AFTER if self._unanswered == 1 else _HURRIED)

    def _in_turn(self) -> float:
        """Seconds from one keepalive to the next while all is as it was."""
        return self.interval * (1 - _EARLIER * self._jitter())

    @property
    def _limit(self) -> int:
        """Keepalives in a row without an answer that mean something."""
        if self.status is Status.UP:
            return 2 * self.multiplier - 1
        return UNSUPPORTED_AFTER if self.status is Status.UNKNOWN else sys.maxsize

    @property
    def patience(self) -> float:
        """Seconds of silence after which the server is left, at the most."""
        return self.interval * (1 + self.multiplier * REPEATED_AFTER)

    def _unheard(self) -> None:
        if self.status is Status.UNKNOWN:
            self.status = Status.UNSUPPORTED
            self.log.info(
                "{nbma} does not answer keepalives: registrations have to tell whether it is there",
                nbma=format_address(self.nhs),
            )
            return
        self.status = Status.SILENT
        self._silences.inc()
        self.log.warn(
            "{nbma} has been silent for {time:.0f} ms",
            nbma=format_address(self.nhs),
            time=self.patience * 1000,
        )
        self._returning.clear()
        for client in tuple(self._clients):
            client.silent()

    # --- hearing ----------------------------------------------------------------------------

    def _answered(self) -> None:
        missed = self._unanswered > 1
        self._unanswered = 0
        if self._next is not None and self._next.active():
            now = self._clock.seconds()
            self._due = max(now, self._sent + self._in_turn())
            self._next.reset(self._due - now)
        if self.status is Status.SILENT:
            self.log.info("{nbma} answers again", nbma=format_address(self.nhs))
            # It may have forgotten us: first of all, register anew.
            self._renew_all(_UNSERVED)
        elif self.status is Status.UNKNOWN:
            # One that has left some unanswered may have been away since it registered us.
            self._renew_all((*_UNHEARD, State.REGISTERED) if missed else _UNHEARD)
        self.status = Status.UP

    def _renew_all(self, states: tuple[State, ...]) -> None:
        """Renew the registrations that are in one of these states."""
        self._returning = [each for each in self._clients if each.state in states]
        self._renew_next()

    def _renew_next(self) -> None:
        """Renew the registrations one after the other, since the server has as many clients as
        all its spokes have VPNs, and each would be there at once."""
        if self._return is not None and self._return.active():
            self._return.cancel()
        self._return = None
        if self._returning:
            client = self._returning.pop()
            gap = _RETURN / (len(self._returning) + 1)
            self._return = self._clock.callLater(gap, self._renew_next)
            client.renew()

    def _erred(self) -> None:
        """It is there, but will not have us in this VPN: perhaps it has lost that. If it has
        refused us there, too, it is not asked any more."""
        self._answered()
        now = self._clock.seconds()
        asker = self._asker()
        if asker is None:
            return
        if asker.state is State.REFUSED:
            if self._next is not None and self._next.active():
                self._next.cancel()
            self._next = None
        elif now - self._doubted >= _DOUBT:
            self._doubted = now
            asker.renew()


class Keepalives:
    """The servers of one control interface, each asked whether it is there.

    :ivar interval: seconds between keepalives; 0: there are none.
    :param multiplier: as of :class:`ServerWatch`.
    :param jitter: uniform in [0, 1).
    """

    def __init__(
        self,
        clock: IReactorTime,
        jitter: Callable[[], float],
        metrics: Metrics,
        interval: float,
        multiplier: int,
    ) -> None:
        self.interval = interval
        self._multiplier = multiplier
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        self._watches: dict[bytes, ServerWatch] = {}
        self._clients: list[RegistrationClient] = []

    def set(self, interval: float, multiplier: int) -> None:
        """Ask in these intervals from now on."""
        if (interval, multiplier) == (self.interval, self._multiplier):
            return
        self.interval, self._multiplier = interval, multiplier
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        for client in self._clients:
            self._watch(client)

    def add(self, client: RegistrationClient) -> None:
        """Tell a registration when its server falls silent, and when it is back."""
        self._clients.append(client)
        self._watch(client)

    def remove(self, client: RegistrationClient) -> None:
        """Tell it no more; unknown ones are ignored."""
        if client not in self._clients:
            return
        self._clients.remove(client)
        watch = self._watches.get(client.nhs)
        if watch is not None and watch.remove(client):
            del self._watches[client.nhs]

    def changed(self, client: RegistrationClient) -> None:
        """The state of a registration has changed."""
        watch = self._watches.get(client.nhs)
        if watch is not None:
            watch.changed(client)

    def status(self, nhs: bytes) -> Status | None:
        """What is known of a server; None: it is not asked."""
        watch = self._watches.get(nhs)
        return None if watch is None else watch.status

    def _watch(self, client: RegistrationClient) -> None:
        if not self.interval:
            return
        watch = self._watches.get(client.nhs)
        if watch is None:
            watch = self._watches[client.nhs] = ServerWatch(
                client.nhs,
                clock=self._clock,
                jitter=self._jitter,
                metrics=self._metrics,
                interval=self.interval,
                multiplier=self._multiplier,
            )
        watch.add(client)
        watch.changed(client)
