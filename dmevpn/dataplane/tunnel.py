"""The kernel's IPv4 and IPv6 forwarding over a GRE device. Layer: edge.

On a GRE device with many peers a neighbour's link-layer address is an underlay address, and the
kernel has nobody to ask for it but a daemon: with ``app_solicit`` it sends an RTM_GETNEIGH when a
packet waits for a next hop, and again when one that is in use was not confirmed for a while
(``net/core/neighbour.c``, ``neigh_app_ns``). That is what OpenNHRP and FRR go by, too.

Entries of ours carry our number as their protocol; no other is changed or removed.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from dmevpn.dataplane import ip_messages as ip
from dmevpn.dataplane.detours import DetourTap
from dmevpn.dataplane.neighbours import RTNLGRP_NEIGH
from dmevpn.dataplane.netlink import Message, NetlinkReader, NetlinkRequests
from dmevpn.dataplane.underlay import source_address
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import (
    GREDevice,
    IControlDevice,
    IControlDeviceListener,
    ILayer3Dataplane,
    ILayer3Listener,
    Layer3Listener,
)
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.sockfilter import neighbour_messages

__all__ = ["KernelTunnel"]

#: Octets of questions of the kernel that may wait: some hundreds.
_BUFFER: Final = 1 << 18

#: Ask the daemon three times, a second apart, and nobody else.
_ASK_DAEMON: Final = ip.Probes(3, 0, 0)
#: What the kernel starts with. A device that is found with ours was left so by a run of us that
#: was killed; GRE devices with many peers start with NOARP, too.
_ASK_PEERS: Final = ip.Probes(0, 3, 3)

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

#: A network by its first address and prefix length.
_Network = tuple[bytes, int]


@implementer(ILayer3Dataplane, IControlDeviceListener)
class KernelTunnel:
    """Neighbours and routes of one GRE device.

    :param device: followed by its owner.
    :param table: the routing table of our routes.
    :param redirect: whether to report packets that go out by the device by which they came in.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, metrics: Metrics, device: IControlDevice, *, table: int, redirect: bool
    ) -> None:
        self._reactor = reactor
        self._device = device
        self._table = table
        self._listener: ILayer3Listener = Layer3Listener()
        self._neighbours: dict[bytes, bytes] = {}
        self._routes: dict[_Network, bytes] = {}
        self._pending: dict[bytes | _Network, list[Message]] = {}
        self._flush_call: Any = None
        self._requests: NetlinkRequests | None = None
        self._reader: NetlinkReader | None = None
        self._tap = DetourTap(reactor, metrics, self._detour_seen) if redirect else None
        #: What the device's settings were before we came, by family, and NOARP.
        self._probes: dict[int, ip.Probes] = {}
        self._noarp = False
        self._misses = metrics.counter("neighbour_misses", interface=device.name)
        self._failures = metrics.counter("forwarding_failures", interface=device.name)
        self._overruns = metrics.counter("netlink_overruns", interface=device.name)

    @property
    def mtu(self) -> int:
        """MTU of the device; 0 while there is none."""
        state: GREDevice | None = self._device.state
        return 0 if state is None else state.mtu

    @property
    def underlay_octets(self) -> int | None:
        """Those of the device's ends; one without either is of IPv4."""
        state: GREDevice | None = self._device.state
        return None if state is None else len(state.local or state.remote) or 4

    # --- life ---------------------------------------------------------------------------------

    def start(self, listener: ILayer3Listener) -> None:
        """Use the device of the calling thread's network namespace.

        :raises StartError: if the kernel refuses.
        """
        self._listener = listener
        state: GREDevice | None = self._device.state
        try:
            self._requests = NetlinkRequests()
            self._reader = NetlinkReader(
                self._reactor,
                groups=[RTNLGRP_NEIGH],
                program=neighbour_messages(ip.RTM_GETNEIGH, _index(state)),
                received=self._asked,
                drained=lambda: None,
                overrun=self._overruns.inc,
                buffer=_BUFFER,
            )
            if state is not None:
                self._prepare(state)
        except (DataplaneError, OSError) as error:
            self.stop()
            raise StartError(f"interface {self._device.name}: {error}") from None
        self._device.subscribe(self)

    def stop(self) -> Deferred[None]:
        """Remove what is ours, and restore the device; harmless if nothing was started."""
        state: GREDevice | None = self._device.state
        try:
            if self._requests is not None and state is not None:
                self._remove_ours(state.ifindex)
                self._restore(state.ifindex)
        except DataplaneError as error:
            self.log.error("{ifname}: {reason}", ifname=self._device.name, reason=str(error))
        self.hand_over()
        return succeed(None)

    def hand_over(self) -> None:
        """Leave all that as it is; harmless if nothing was started."""
        self._device.unsubscribe(self)
        self._listener = Layer3Listener()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        self._pending.clear()
        if self._tap is not None:
            self._tap.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def _prepare(self, state: GREDevice) -> None:
        """Make the kernel ask us, and remove what an earlier run left.

        :raises DataplaneError: if the kernel refuses.
        """
        assert self._requests is not None
        self._remove_ours(state.ifindex)
        if not state.remote:
            # A device with one peer has no neighbours to ask for.
            for family in _FAMILIES:
                self._ask_daemon(state.ifindex, family)
            if ip.has_noarp(self._requests, state.ifindex):
                self._noarp = True
                self._requests.request(ip.set_noarp(state.ifindex, False), "asking for neighbours")
        if self._tap is not None:
            self._tap.open(state.name)

    def _ask_daemon(self, ifindex: int, family: int) -> None:
        assert self._requests is not None
        for data in self._requests.dump(ip.probes_dump(family)):
            found = ip.parse_probes(data, ifindex)
            if found == _ASK_DAEMON:
                self._probes[family] = _ASK_PEERS
                self._noarp = True
            elif found is not None:
                self._probes[family] = found
        if family in self._probes:
            message = ip.probes_set(ifindex, family, _ASK_DAEMON)
            self._requests.request(message, "asking for neighbours")

    def _restore(self, ifindex: int) -> None:
        assert self._requests is not None
        messages = [ip.probes_set(ifindex, family, p) for family, p in self._probes.items()]
        if self._noarp:
            messages.append(ip.set_noarp(ifindex, True))
        self._probes.clear()
        self._noarp = False
        self._do(messages)

    def _remove_ours(self, ifindex: int) -> None:
        """Neighbours and routes with our mark, of this run and earlier ones."""
        assert self._requests is not None
        messages: list[Message] = []
        for octets in (4, 16):
            for neighbour in self._listed(ifindex, octets):
                if neighbour.ours:
                    messages.append(ip.neighbour_delete(ifindex, neighbour.protocol))
            for data in self._requests.dump(ip.route_dump(octets)):
                for each in ip.parse_routes(data):
                    if each.ours and each.ifindex == ifindex:
                        messages.append(
                            ip.route_delete(ifindex, each.protocol, each.prefix_length, each.table)
                        )
        self._do(messages)

    # --- what should be true --------------------------------------------------------------------

    def addresses(self) -> tuple[_Network, ...]:
        """Those of the device that others can know us by."""
        state: GREDevice | None = self._device.state
        if state is None:
            return ()
        return tuple(
            each for each in state.addresses if not ipaddress.ip_address(each[0]).is_link_local
        )

    def local_address(self, peer: bytes) -> bytes:
        """The device's own, or what the kernel would choose."""
        state: GREDevice | None = self._device.state
        return (state.local if state is not None else b"") or source_address(peer)

    def set_neighbour(self, protocol: bytes, nbma: bytes) -> None:
        """Send packets for a next hop to an underlay address."""
        self._neighbours[protocol] = nbma
        self._plan_neighbour(protocol)

    def remove_neighbour(self, protocol: bytes) -> None:
        """Forget a next hop."""
        if self._neighbours.pop(protocol, None) is not None:
            self._plan_neighbour(protocol)

    def set_route(self, protocol: bytes, prefix_length: int, next_hop: bytes) -> None:
        """Send packets for a network by a next hop."""
        self._routes[protocol, prefix_length] = next_hop
        self._plan_route((protocol, prefix_length))

    def remove_route(self, protocol: bytes, prefix_length: int) -> None:
        """Forget a route."""
        if self._routes.pop((protocol, prefix_length), None) is not None:
            self._plan_route((protocol, prefix_length))

    def _plan_neighbour(self, protocol: bytes) -> None:
        state: GREDevice | None = self._device.state
        if state is None or state.remote:
            return
        nbma = self._neighbours.get(protocol)
        message = (
            ip.neighbour_delete(state.ifindex, protocol)
            if nbma is None
            else ip.neighbour_set(state.ifindex, protocol, nbma)
        )
        self._plan(protocol, [message])

    def _plan_route(self, network: _Network) -> None:
        state: GREDevice | None = self._device.state
        if state is None:
            return
        messages = [ip.route_delete(state.ifindex, *network, self._table)]
        next_hop = self._routes.get(network)
        if next_hop is not None:
            messages.append(ip.route_add(state.ifindex, *network, next_hop, self._table))
        self._plan(network, messages)

    def _plan(self, key: bytes | _Network, messages: list[Message]) -> None:
        """Do this at the end of the turn, in place of what was planned for the same."""
        self._pending.pop(key, None)
        self._pending[key] = messages
        if self._flush_call is None:
            self._flush_call = self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        pending, self._pending = self._pending, {}
        self._do([message for messages in pending.values() for message in messages])

    def _do(self, messages: list[Message]) -> None:
        """Have things done; what fails is counted, said, and made good with the next event."""
        if self._requests is None or not messages:
            return
        try:
            failed = self._requests.batch(messages)
        except DataplaneError as error:
            self._failures.inc()
            self.log.error("{ifname}: {reason}", ifname=self._device.name, reason=str(error))
            return
        for index, code in failed:
            if code == errno.EEXIST:
                self.log.warn(
                    "{ifname}: {what}: there is such a route already, and it stays: packets go its"
                    " way",
                    ifname=self._device.name,
                    what=ip.describe(messages[index]),
                )
            # To remove what is not there is no failure.
            elif code not in (errno.ENOENT, errno.ESRCH):
                self._failures.inc()
                self.log.warn(
                    "{ifname}: {what}: {reason}",
                    ifname=self._device.name,
                    what=ip.describe(messages[index]),
                    reason=errno.errorcode.get(code, str(code)),
                )

    # --- what is true -------------------------------------------------------------------------

    def next_hop(self, protocol: bytes) -> bytes | None:
        """As the kernel routes now; None if not over the device."""
        state: GREDevice | None = self._device.state
        if self._requests is None or state is None:
            return None
        try:
            data = self._requests.get(ip.route_get(protocol))
        except DataplaneError:
            return None  # ENETUNREACH and its like: there is no way at all
        route = next(ip.parse_routes(data), None) if data is not None else None
        if route is None or not route.unicast or route.ifindex != state.ifindex:
            return None
        return route.next_hop or protocol

    def idle_times(self) -> dict[bytes, float]:
        """As the kernel's neighbour tables have it."""
        state: GREDevice | None = self._device.state
        if self._requests is None or state is None:
            return {}
        try:
            return {
                neighbour.protocol: neighbour.idle
                for octets in (4, 16)
                for neighbour in self._listed(state.ifindex, octets)
            }
        except DataplaneError as error:
            self.log.error("{ifname}: {reason}", ifname=self._device.name, reason=str(error))
            return {}

    def _listed(self, ifindex: int, octets: int) -> Iterator[ip.Neighbour]:
        assert self._requests is not None
        for data in list(self._requests.dump(ip.neighbour_dump(ifindex, octets))):
            for neighbour in ip.parse_neighbours(data):
                if neighbour.ifindex == ifindex:
                    yield neighbour

    # --- events -------------------------------------------------------------------------------

    def _asked(self, data: bytes) -> None:
        protocol = ip.parse_question(data)
        if protocol is not None:
            self._misses.inc()
            self._listener.neighbour_missed(protocol)

    def _detour_seen(self, packet: bytes, sender: bytes) -> None:
        """A packet came in by the device; if it goes out by it, that is a detour."""
        place = {4: slice(16, 20), 6: slice(24, 40)}.get(packet[0] >> 4 if packet else 0)
        destination = packet[place] if place is not None else b""
        if len(destination) in (4, 16) and self.next_hop(destination) is not None:
            self._listener.detour_seen(packet, sender)

    def device_changed(self, old: GREDevice | None, new: GREDevice | None) -> None:
        """A device that is there again, or up again, has lost its entries and its settings."""
        if self._reader is not None and _index(old) != _index(new):
            self._reader.set_filter(neighbour_messages(ip.RTM_GETNEIGH, _index(new)))
        if new is None:
            self._probes.clear()
            self._noarp = False
        elif new.up and (old is None or not old.up or old.ifindex != new.ifindex):
            self._repair(new, made_again=_index(old) != _index(new))
        if old is None or new is None or (old.addresses, old.local) != (new.addresses, new.local):
            self._listener.addresses_changed()

    def _repair(self, state: GREDevice, *, made_again: bool) -> None:
        if made_again:
            try:
                self._prepare(state)
            except (DataplaneError, OSError) as error:
                self.log.error("{ifname}: {reason}", ifname=state.name, reason=str(error))
        for protocol in self._neighbours:
            self._plan_neighbour(protocol)
        for network in self._routes:
            self._plan_route(network)


def _index(state: GREDevice | None) -> list[int]:
    return [] if state is None else [state.ifindex]
