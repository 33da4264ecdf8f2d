"""What a hub has told is asked for at another one when that takes its place. Layer: role.

Who has answered takes the answer back when the station moves (RFC 2332 §5.2.5). A hub that is gone
takes nothing back, and one that sites have left for another hears no more where stations are. So
what it has told, asked by us or by another hub of ours, is asked for at the hub that is asked now,
which answers for it from then on:

=============================  =====================================================
the hub that is asked now      shortcut
=============================  =====================================================
says the same                  stays
names another place            leads there
does not know the MAC          stays while it is in use, and the hub is asked again:
                               it has heard nothing of the station so far, wherever
                               that is
the same, and it is not used   goes: the next frame asks afresh
refuses                        goes
is silent                      stays, and the hub is asked again
=============================  =====================================================

While a shortcut stays nothing is lost. What nobody has confirmed is good for no longer than
before, and renewed when that was due.

A hub that was asked before, not long ago, may know a station where it was then. If it names
another place than who was asked since, that is not believed: it takes that back itself when it
hears the station.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.addresses import format_address
from dmevpn.interfaces import ISpokeDataplane
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.resolution import Outcome, ResolutionClient
from dmevpn.roles.pace import Pace

__all__ = ["AGAIN", "SETTLE", "UNDER_WAY", "UNUSED", "Confirmation"]

#: Seconds until we begin, and as many more at most, by chance: all sites have left the hub at the
#: same time, and their stations are just being heard by the other one.
SETTLE: Final = 1.0
#: Seconds after all were asked for until those are asked for again that the hub does not know.
AGAIN: Final = 5.0
#: Questions of the VPN under way beyond which we wait: misses go first, and a hub that is slow to
#: answer is asked less.
UNDER_WAY: Final = 16
#: Seconds without a frame after which nobody needs a shortcut that the hub does not know.
UNUSED: Final = 30.0
#: Seconds since a hub was asked last after which what its switch knows is not of then: it forgets
#: MACs after 300 s, and answers that keep them from that are good for 300 s.
_FORGOTTEN: Final = 600.0


class Confirmation:
    """Asks for what hubs have told that we ask no more.

    :param jitter: uniform in [0, 1).
    :param pace: of all VPNs of the control interface.
    :param succeeds: whether there was an earlier run just now, which may have asked any hub.
    """

    log = Logger()

    def __init__(
        self,
        *,
        vpn: int,
        clock: IReactorTime,
        jitter: Callable[[], float],
        cache: Cache,
        resolution: ResolutionClient,
        dataplane: ISpokeDataplane,
        pace: Pace,
        metrics: Metrics,
        succeeds: bool,
    ) -> None:
        self._vpn = vpn
        self._clock = clock
        self._jitter = jitter
        self._cache = cache
        self._resolution = resolution
        self._dataplane = dataplane
        self._pace = pace
        #: The hub that is asked; None: none that would answer. And the latest that there was.
        self._asked: bytes | None = None
        self._latest: bytes | None = None
        #: When those before it were asked last, and until when any may have been.
        self._left: dict[bytes, float] = {}
        self._before = clock.seconds() if succeeds else float("-inf")
        #: Until when what the latest knows may be of a time when it was asked before.
        self._remembers = float("-inf")
        #: Hubs of ours that are silent. They may have told what was asked for at another one.
        self._silent: frozenset[bytes] = frozenset()
        #: MACs that we are not sure of; those of them to be asked for, the next one last; seconds
        #: since each was used.
        self._doubted: set[bytes] = set()
        self._queue: list[bytes] = []
        self._idle: dict[bytes, float] = {}
        self._reading: Deferred[dict[bytes, float]] | None = None
        self._call: IDelayedCall | None = None
        self._outcomes = {
            outcome: metrics.counter("answers_confirmed", outcome=outcome)
            for outcome in ("same", "moved", "refused", "unknown", "unused", "not_believed")
        }

    def ask_at(self, hub: bytes | None, silent: Collection[bytes] = ()) -> None:
        """Take notice of which hub is asked from now on, and which of ours are silent, if it is
        another one or there is one more of those.

        :param hub: its underlay address; None: there is none that would answer.
        :param silent: theirs.
        """
        fallen_silent = frozenset(silent) - self._silent
        self._silent = frozenset(silent)
        if hub == self._asked and not fallen_silent:
            return
        self._rest()
        self._asked = hub
        if hub is None:
            return
        if hub != self._latest:
            now = self._clock.seconds()
            if self._latest is not None:
                self._left[self._latest] = now
            self._remembers = self._left.pop(hub, self._before) + _FORGOTTEN
            self._latest = hub
        if self._left or self._silent:
            self._wait(self._begin, SETTLE * (1 + self._jitter()))

    def close(self) -> None:
        """Ask no more."""
        self._rest()
        self._left.clear()

    def _rest(self) -> None:
        self._pace.remove(self._step)
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._reading = None
        self._doubted.clear()
        self._queue.clear()
        self._idle.clear()

    def _wait(self, then: Callable[[], None], seconds: float) -> None:
        self._call = self._clock.callLater(seconds, then)

    def _is_doubted(self, binding: Binding | None) -> bool:
        return (
            binding is not None
            and binding.kind is Kind.CACHED
            and (binding.source in self._left or binding.source in self._silent)
        )

    def _begin(self) -> None:
        """Look for what was told by who is asked no more."""
        bindings = list(self._cache.bindings())
        sources = {binding.source for binding in bindings}
        now = self._clock.seconds()
        self._left = {
            hub: when
            for hub, when in self._left.items()
            if hub in sources or now - when < _FORGOTTEN
        }
        self._doubted = {binding.key for binding in bindings if self._is_doubted(binding)}
        if self._doubted:
            self.log.info(
                "vpn {vpn}: {count} shortcuts are asked for at {nbma}",
                vpn=self._vpn,
                count=len(self._doubted),
                nbma=format_address(self._latest or b""),
            )
        self._next_round()

    def _next_round(self) -> None:
        """Ask the kernel, once for all that is left, which are in use."""
        self._call = None
        self._doubted = {mac for mac in self._doubted if self._is_doubted(self._cache.lookup(mac))}
        if self._doubted:
            reading = self._reading = self._dataplane.idle_times()
            reading.addCallback(partial(self._ask, reading))
            reading.addErrback(lambda failure: self.log.failure("idle times", failure))

    def _ask(self, reading: Deferred[dict[bytes, float]], idle: dict[bytes, float]) -> None:
        """Ask for those first that are used most."""
        if self._reading is not reading:
            return
        self._reading = None
        self._idle = idle
        never = float("inf")
        self._queue = sorted(self._doubted, key=lambda mac: idle.get(mac, never), reverse=True)
        self._pace.add(self._step)

    def _step(self) -> bool:
        """Ask for one; whether there are more."""
        while self._queue:
            if self._resolution.asking >= UNDER_WAY:
                return True
            mac = self._queue.pop()
            if self._is_doubted(self._cache.lookup(mac)):
                self._resolution.renew(mac, partial(self._judge, mac))
                return True
        self._wait(self._next_round, AGAIN)
        return False

    def _judge(self, mac: bytes, answer: Binding, outcome: Outcome) -> bool:
        """Whether to believe what the hub says of a MAC."""
        binding = self._cache.lookup(mac)
        if binding is None:
            return True
        if outcome is Outcome.UNKNOWN:
            # What the kernel did not tell, as when it could not be read, may be in use.
            unused = self._idle.get(mac, 0.0) >= UNUSED
            self._outcomes["unused" if unused else "unknown"].inc()
            if unused:
                self._cache.remove(mac, "unused")
            return False
        self._doubted.discard(mac)
        if outcome is Outcome.REFUSED:
            self._outcomes["refused"].inc()
            return True
        if outcome is Outcome.CACHED and answer.vtep == binding.vtep:
            self._outcomes["same"].inc()
            return True
        is_believed = self._clock.seconds() >= self._remembers
        self._outcomes["moved" if is_believed else "not_believed"].inc()
        return is_believed
