"""How many packets each peer may send us, and whose turn it is. Layer: edge.

Peers that are known (whoever is registered, and servers) have a budget each. So has every other
source, and all of those together have one more: senders can be forged, and then there are as many
sources as packets. A filter in the kernel keeps to that before a packet is queued, if one can be
had; else it is done here, and sources that go on are refused by the socket's filter for a while.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IReactorTime

from dmevpn import sockfilter
from dmevpn.errors import StartError
from dmevpn.interfaces import IPacketFilter, PacketLimits
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.transport import gre

__all__ = [
    "BURST_SECONDS",
    "KNOWN_PEERS",
    "REFUSED_SOURCES",
    "STRANGERS",
    "STRANGER_SHARE",
    "Flood",
    "PeerLimits",
    "limits_of",
]

#: Seconds' worth of packets that may come at once: with the default rate a spoke of 1,000 VPNs that
#: starts, and asks for as many addresses.
BURST_SECONDS: Final = 2
#: All strangers together may send as much as this many peers, with the default rate half of what a
#: hub can answer; and at once, what the receive buffer of a socket holds.
STRANGER_SHARE: Final = 5
#: Peers with a budget of their own; MAX_KNOWN of peer_filter.bpf.c.
KNOWN_PEERS: Final = 131_072
#: Other sources whose budgets are remembered here; who has been silent longest makes room.
STRANGERS: Final = 4096
#: Sources that the socket's filter refuses at a time, where there is none that counts: each is one
#: more comparison for every packet.
REFUSED_SOURCES: Final = 32
#: Packets above its budget in a second after which a source is refused by the socket's filter.
_PATIENCE: Final = 200
#: Seconds between two looks at what was dropped.
_INTERVAL: Final = 1.0

#: What is counted, in the order of ``enum reason`` in peer_filter.bpf.c.
REASONS: Final = ("peer_rate", "stranger_rate", "strangers_rate")
_NANOSECONDS: Final = 1e9


class Flood(NamedTuple):
    """Who has sent more than he may."""

    peer: bytes
    """Underlay address; empty: strangers together, who may all be one."""
    dropped: int
    """Packets in the last second."""


def limits_of(rate: int) -> PacketLimits:
    """The limits that follow from the packets a second of one peer; 0: none."""
    if not rate:
        return PacketLimits(0, 0, 0, 0)
    gap = int(_NANOSECONDS / rate)
    share = gap // STRANGER_SHARE
    second = int(_NANOSECONDS)
    return PacketLimits(gap, BURST_SECONDS * second, share, BURST_SECONDS * second)


class PeerLimits:
    """The limits of one control interface.

    :param rate: packets a second that one peer may send; 0: no limit.
    :param packet_filter: keeps to the limits in the kernel; None: we do it.
    :ivar on_flood: called once a second with each source that was stopped.
    :ivar knows: whether a peer has a budget of its own. One look into a table.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        rate: int,
        packet_filter: IPacketFilter | None = None,
    ) -> None:
        self.limits = limits_of(rate)
        self.on_flood: Callable[[Flood], None] = lambda flood: None
        self.in_kernel = False
        self._clock = clock
        self._filter = packet_filter
        self._known: dict[bytes, float] = {}
        self.knows: Callable[[bytes], bool] = self._known.__contains__
        self._strangers: OrderedDict[bytes, float] = OrderedDict()
        self._together = 0.0
        self._counters = [metrics.dropped(reason) for reason in REASONS]
        self._full = metrics.counter("known_peers_full")
        self._boxed = metrics.counter("sources_refused")
        self._counted = [0] * len(REASONS)
        self._blamed: dict[bytes, int] = {}
        self._sockets: list[tuple[socket.socket, bool]] = []
        self._refused: list[bytes] = []
        self._call: Any = None

    def start(self, interface: str = "") -> None:
        """Load the filter, if there is one that can be had."""
        if self._filter is not None:
            try:
                self._filter.open(self.limits)
            except StartError as error:
                self.log.warn(
                    "{ifname}: packets of floods are counted and dropped by the daemon, not by the"
                    " kernel: {reason}",
                    ifname=interface,
                    reason=str(error),
                )
                self._filter = None
            else:
                self.in_kernel = True
                for peer in self._known:
                    self._filter.know(peer)
        self._call = self._clock.callLater(_INTERVAL, self._look)

    def stop(self) -> None:
        """Forget all; the sockets go on without limits until they are closed."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._filter is not None and self.in_kernel:
            self._filter.close()
        self.in_kernel = False
        self._sockets.clear()

    def attach(self, sock: socket.socket) -> None:
        """Limit what a raw GRE socket receives, which lets nothing but NHRP pass already."""
        ipv4 = sock.family == socket.AF_INET
        if self.in_kernel and self._filter is not None:
            self._filter.attach(sock, ipv4=ipv4)
        else:
            self._sockets.append((sock, ipv4))

    def set_rate(self, rate: int) -> None:
        """Other limits from now on."""
        self.limits = limits_of(rate)
        if self._filter is not None and self.in_kernel:
            self._filter.set_limits(self.limits)

    def know(self, peer: bytes) -> None:
        """A peer has a budget of its own from now on; beyond KNOWN_PEERS it stays a stranger."""
        if peer in self._known:
            return
        if len(self._known) >= KNOWN_PEERS:
            self._full.inc()
            return
        self._known[peer] = 0.0
        if self._filter is not None and self.in_kernel:
            self._filter.know(peer)

    def forget(self, peer: bytes) -> None:
        """It is a stranger again."""
        if self._known.pop(peer, None) is not None and self._filter is not None and self.in_kernel:
            self._filter.forget(peer)

    def admits(self, peer: bytes) -> bool:
        """Whether a packet of a peer may pass; only asked where the kernel does not decide."""
        gap, burst, all_gap, all_burst = self.limits
        if not gap:
            return True
        now = self._clock.seconds() * _NANOSECONDS
        arrival = self._known.get(peer)
        if arrival is not None:
            due = max(arrival, now) + gap
            if due - now > burst:
                return self._refuse(0, peer)
            self._known[peer] = due
            return True
        strangers = self._strangers
        arrival = strangers.get(peer)
        if arrival is None:
            if len(strangers) >= STRANGERS:
                strangers.popitem(last=False)
            arrival = 0.0
        else:
            strangers.move_to_end(peer)
        due = max(arrival, now) + gap
        if due - now > burst:
            return self._refuse(1, peer)
        strangers[peer] = due
        due = max(self._together, now) + all_gap
        if due - now > all_burst:
            return self._refuse(2, b"")
        self._together = due
        return True

    def _refuse(self, reason: int, peer: bytes) -> bool:
        self._counters[reason].inc()
        if peer and (peer in self._blamed or len(self._blamed) < STRANGERS):
            count = self._blamed[peer] = self._blamed.get(peer, 0) + 1
            if (
                count == _PATIENCE
                and self._sockets
                and peer not in self._refused
                and len(self._refused) < REFUSED_SOURCES
            ):
                self._boxed.inc()
                self._refused.append(peer)
                self._set_filters()
        return False

    def _set_filters(self) -> None:
        for sock, ipv4 in self._sockets:
            size = 4 if ipv4 else 16
            program = sockfilter.gre_protocol(
                gre.NHRP_PROTOCOL,
                ipv4_header=ipv4,
                refused=[peer for peer in self._refused if len(peer) == size],
            )
            if sock.fileno() >= 0:
                sockfilter.attach(sock, program)

    # --- who it was ---------------------------------------------------------------------------

    def _look(self) -> None:
        self._call = self._clock.callLater(_INTERVAL, self._look)
        if self._filter is not None and self.in_kernel:
            self._look_into(self._filter)
            return
        floods = [
            Flood(peer, count) for peer, count in self._blamed.items() if peer not in self._refused
        ]
        # What the socket's filter drops is not counted. Who goes on is refused again at once.
        floods += [Flood(peer, self._blamed.get(peer, 0)) for peer in self._refused]
        self._blamed.clear()
        if self._refused:
            self._refused.clear()
            self._set_filters()
        for flood in floods:
            self.on_flood(flood)
        self._tell_of_strangers(self._counters[2].value)

    def _look_into(self, packet_filter: IPacketFilter) -> None:
        drops = packet_filter.drops()
        if drops == self._counted:
            return
        for counter, now, before in zip(self._counters, drops, self._counted, strict=True):
            counter.inc(now - before)
        strangers = drops[2]
        changed = drops[:2] != self._counted[:2]
        self._counted = [*drops[:2], self._counted[2]]
        if changed:
            blamed = packet_filter.offenders()
            for peer, count in blamed.items():
                if count > self._blamed.get(peer, 0):
                    self.on_flood(Flood(peer, count - self._blamed.get(peer, 0)))
            self._blamed = blamed
        self._tell_of_strangers(strangers)

    def _tell_of_strangers(self, count: int) -> None:
        more, self._counted[2] = count - self._counted[2], count
        if more:
            self.on_flood(Flood(b"", more))
