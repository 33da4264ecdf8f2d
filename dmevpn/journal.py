"""What has changed lately, as a bounded journal in memory. Layer: base; no I/O.

Only changes are noted, never a frame or a request that leaves everything as it was: an entry is one
tuple and one append. Stations and sites come and go by the thousand, hubs and devices hardly ever,
so each sort has room of its own: neither a busy network nor somebody who makes up sites can push
out why a hub was lost, or who it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import merge
from operator import attrgetter
from typing import Final, NamedTuple

from dmevpn.metrics import Metrics

__all__ = ["EVENTS", "ROOM", "SITES", "STATIONS", "Event", "Journal"]

#: Entries kept of each sort, about 250 octets each: days of a quiet network.
ROOM: Final = 4096

#: Every event with its meaning. Those of stations:
STATIONS: Final = {
    "resolved": "a server has answered where an address lives",
    "unresolved": "a server has answered that it does not know, or not at all",
    "shortcut-up": "frames for a MAC are sent straight to its site from now on",
    "shortcut-down": "they go by the hub again",
    "learned": "the switch of a hub has seen a MAC for the first time",
    "aged": "it has not seen it for a while, and has forgotten it",
    "moved": "an address lives at another VTEP than before",
    "held": "a MAC moves too often: it stays where the entry says until the hold ends by itself",
    "move-refused": "a sticky MAC sent frames from another site than its own; they were dropped",
    "home": "a MAC that was at another site is at this one",
    "expired": "a binding has run out",
    "purged": "a binding was taken back by who had given it, or by an operator",
    "withdrawn": "a binding has ended otherwise: the detail says how",
    "not-installed": "the kernel has refused a shortcut",
}
#: Those that other sites cause, and can cause as often as they like:
SITES: Final = {
    "registered": "a station has registered; at a spoke: our hub has our registration",
    "refused": "a registration, packet or frame was turned away: the detail says why",
}
#: And all, with those of everything else:
EVENTS: Final = {
    **STATIONS,
    **SITES,
    "registering": "our hub is asked (again) for our registration",
    "unregistered": "our registration was taken back, as we stop",
    "flooded": "packets were dropped since somebody sends more than `request-rate` allows",
    "unreachable": "our hub does not answer",
    "hub-lost": "the hub that carried our flooding is left for another",
    "hub-back": "a preferred hub carries our flooding again",
    "drain": "a hub is drained: its members are asked to leave",
    "drained": "nobody floods by a hub that is drained any more",
    "undrained": "a hub that was drained serves again",
    "device-up": "a data interface is there and up (again)",
    "device-down": "a data interface is down or gone",
    "repaired": "somebody changed forwarding entries of ours, which were put right",
    "readdressed": "our underlay address is another one; the spoke has started again there",
    "device-mended": "somebody changed devices of ours, which were put right",
    "table-full": "the switch has no room for more MACs of a VPN, or of one site of it",
    "flood-limited": "a site had more frames for all others than its budget; they were dropped",
    "events-lost": "the kernel was faster than we; the tables were compared",
    "loop": "two sites are connected behind the hub: frames go round",
    "loop-ended": "they are not connected any more",
    "clock-stepped": "somebody has set the wall clock",
}


class Event(NamedTuple):
    """One change."""

    serial: int
    """Rises by one from entry to entry."""
    at: float
    """On the clock of the daemon, which no setting of the wall clock moves."""
    event: str
    """One of :data:`EVENTS`."""
    vpn: int | None
    protocol: bytes
    """Protocol address that it is about; empty: none."""
    nbma: bytes
    """Underlay address that it is about; empty: none."""
    vni: int | None
    interface: str
    """Empty: none."""
    detail: str
    """Why, in words; may be empty."""


class Journal:
    """The latest events.

    :param seconds: the clock of the daemon.
    :param room: entries kept of each of the three sorts; older ones are forgotten, and counted.
    """

    def __init__(self, seconds: Callable[[], float], metrics: Metrics, *, room: int = ROOM) -> None:
        self._seconds = seconds
        self._serial = 0
        self._stations: deque[Event] = deque(maxlen=room)
        self._sites: deque[Event] = deque(maxlen=room)
        self._others: deque[Event] = deque(maxlen=room)
        self._forgotten = metrics.counter("journal_forgotten")
        self._listeners: tuple[Callable[[Event], None], ...] = ()

    def note(
        self,
        event: str,
        vpn: int | None = None,
        protocol: bytes = b"",
        nbma: bytes = b"",
        vni: int | None = None,
        *,
        interface: str = "",
        detail: str = "",
    ) -> None:
        """Note that something has changed."""
        self._serial += 1
        entry = Event(
            self._serial, self._seconds(), event, vpn, protocol, nbma, vni, interface, detail
        )
        events = (
            self._stations if event in STATIONS else self._sites if event in SITES else self._others
        )
        if len(events) == events.maxlen:
            self._forgotten.inc()
        events.append(entry)
        for listener in self._listeners:
            listener(entry)

    def __iter__(self) -> Iterator[Event]:
        """All that is kept, in order; the journal may grow while the caller goes through."""
        sorts = self._stations, self._sites, self._others
        return merge(*map(tuple, sorts), key=attrgetter("serial"))

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener``, which never raises, with each event from now on; returns how to end
        that."""
        self._listeners = (*self._listeners, listener)

        def cancel() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return cancel
