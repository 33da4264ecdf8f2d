"""Sites that are connected behind the hub's back. Layer: role.

A broadcast that goes from the hub into one site and comes back from another goes round for ever.
To find out, the hub sends each site a small broadcast of its own every now and then (a probe,
which the switch knows again), at once where something looks like a loop, and every few seconds
where there is one, until it is gone. Other sites of the VPN have their turn earlier then, too: a
part of the way may lead through another hub, so that what we see of it does not tell which two
sites it is that are connected. The switch limits what a site floods while probes come back from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP
from dmevpn.interfaces import IHubDataplane
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["Loop", "LoopWatch"]

#: Probes sent in one second at most, whatever the number of sites: each takes some ten
#: microseconds of CPU, and wakes a site's stations as any broadcast does.
MAX_PROBES: Final = 200
#: Of these, those to sites where something looks like a loop.
MAX_SUSPECTS: Final = 50
#: Probes sent in one second, besides, to all sites of VPNs where something looks like a loop.
MAX_SEARCHED: Final = 100
#: Loops that are watched at a time; more of them are named when these are gone.
MAX_LOOPS: Final = 64
#: Seconds between two probes of the sites of a loop, and of all sites of its VPN at least. The
#: switch takes a site for part of a loop for one and a half of these.
RECHECK: Final = 3.0
#: A loop is over when so many seconds have passed without a probe that came back.
OVER: Final = 3.5 * RECHECK


class Loop(NamedTuple):
    """Two sites that are connected, or one whose frames come back from itself."""

    vpn: int
    sites: tuple[VTEP, ...]
    """One or two, sorted."""

    def __str__(self) -> str:
        if len(self.sites) == 1:
            return f"frames for {self.sites[0]} come back from there"
        return f"{self.sites[0]} and {self.sites[1]} are connected behind this hub"


class LoopWatch:
    """Probes the sites of one hub interface.

    :param vpns: those that are served.
    :param members: the members of a VPN; read over many turns.
    :param count: how many there are in all VPNs.
    :param found: told of each loop once, when it is found.
    :param over: told when it is gone.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        dataplane: IHubDataplane,
        metrics: Metrics,
        *,
        vpns: Callable[[], Iterable[int]],
        members: Callable[[int], Iterator[VTEP]],
        count: Callable[[], int],
        found: Callable[[Loop], None],
        over: Callable[[Loop], None],
    ) -> None:
        self._clock = clock
        self._dataplane = dataplane
        self._metrics = metrics
        self._vpns = vpns
        self._members = members
        self._count = count
        self._tell_found = found
        self._tell_over = over
        self._interval = 0
        self._round: Iterator[tuple[int, VTEP]] = iter(())
        self._due = 0.0
        self._suspects = 0
        #: VPNs all of whose members are probed: since when, and those that still are to be.
        self._searches: dict[int, tuple[float, Iterator[VTEP]]] = {}
        self._call: Any = None
        #: When a probe of each loop has last come back, and when it was probed.
        self._loops: dict[Loop, tuple[float, float]] = {}
        self._found = metrics.counter("loops_found", interface=dataplane.interface)
        self._sent = metrics.counter("loop_probes_sent", interface=dataplane.interface)

    def start(self, interval: int) -> None:
        """Probe every site once in so many seconds.

        :param interval: 0: only where something looks like a loop.
        """
        self._interval = interval
        if self._call is None:
            self._metrics.gauge("loops", self.__len__, interface=self._dataplane.interface)
            self._call = self._clock.callLater(1, self._tick)

    def stop(self) -> None:
        """Send no more."""
        if self._call is not None:
            self._metrics.remove_gauge("loops", interface=self._dataplane.interface)
            self._call.cancel()
            self._call = None
        self._loops.clear()
        self._searches.clear()

    def __len__(self) -> int:
        return len(self._loops)

    def __iter__(self) -> Iterator[Loop]:
        """The loops that there are."""
        return iter(tuple(self._loops))

    def suspect(self, vpn: int, *sites: VTEP | None) -> None:
        """Something looks like a loop through these sites: probe them at once, and all others of
        their VPN soon."""
        if not self._interval:
            return
        for site in sites:
            if site is not None and self._suspects < MAX_SUSPECTS:
                self._suspects += 1
                self._probe(vpn, site)
        self._search(vpn)

    def seen(self, vpn: int, origin: VTEP | None, site: VTEP) -> None:
        """A probe to a site, which may have left since, came back from a site."""
        if origin is None:
            return
        loop = Loop(vpn, tuple(sorted({origin, site})))
        now = self._clock.seconds()
        known = self._loops.get(loop)
        if known is not None:
            self._loops[loop] = now, known[1]
        elif len(self._loops) < MAX_LOOPS:
            self._loops[loop] = now, now
            self._found.inc()
            self._tell_found(loop)

    def _search(self, vpn: int) -> None:
        if vpn not in self._searches:
            self._searches[vpn] = self._clock.seconds(), self._members(vpn)

    def _probe(self, vpn: int, site: VTEP) -> None:
        self._sent.inc()
        self._dataplane.probe(vpn, site)

    def _tick(self) -> None:
        self._call = self._clock.callLater(1, self._tick)
        self._suspects = 0
        now = self._clock.seconds()
        for loop, (seen, probed) in list(self._loops.items()):
            if now - seen > OVER:
                del self._loops[loop]
                self._tell_over(loop)
            elif now - probed >= RECHECK:
                self._loops[loop] = seen, now
                for site in loop.sites:
                    self._probe(loop.vpn, site)
                self._search(loop.vpn)
        self._go_on(now)
        if self._interval:
            # What is not a whole probe is due later.
            self._due = min(self._due + self._count() / self._interval, MAX_PROBES)
            whole = int(self._due)
            self._due -= whole
            for vpn, site in self._next(whole):
                self._probe(vpn, site)

    def _go_on(self, now: float) -> None:
        """Probe the next members of VPNs that are searched, each VPN in its turn."""
        left, number = MAX_SEARCHED, len(self._searches)
        for vpn, (begun, members) in list(self._searches.items())[:MAX_SEARCHED]:
            share = max(1, left // number)
            some = list(islice(members, share))
            for site in some:
                self._probe(vpn, site)
            left, number = left - len(some), number - 1
            del self._searches[vpn]
            # Not again before its time; and behind those that may not have had a turn.
            if len(some) == share or now - begun < RECHECK:
                self._searches[vpn] = begun, members

    def _next(self, number: int) -> list[tuple[int, VTEP]]:
        """The next sites, the first again after the last."""
        some = list(islice(self._round, number))
        if len(some) < number:
            self._round = ((vpn, site) for vpn in self._vpns() for site in self._members(vpn))
            some += islice(self._round, number - len(some))
        return some
