"""The layer 3 role: IPv4 and IPv6 of one VPN on a control interface. Layer: role.

It has a station for each family that we have a protocol address of. Addresses are those of the
file and of the kernel's GRE device, which may change at any time; so may those of host names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import Path, format_address
from dmevpn.config.model import Layer3Plan, MapPlan, SpeakerPlan
from dmevpn.interfaces import ILayer3Dataplane, ILayer3Listener
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.speaker import Speaker
from dmevpn.roles.l3_station import Layer3Station
from dmevpn.roles.l3_ways import Server
from dmevpn.roles.lookup import Addresses, NameWatch
from dmevpn.roles.rows import Watchers
from dmevpn.roles.script_events import InterfaceEvents

__all__ = ["Layer3Role"]

#: Seconds until another try to find the way to an NHS that the kernel has no route to.
_RETRY: Final = 10.0


@implementer(ILayer3Listener)
class Layer3Role:
    """Client and server for IPv4 and IPv6 addresses.

    :ivar stations: by the length of their addresses.
    :param resolve_host: a host name to a Deferred of its addresses, of 4 or 16 octets if they
        must be.
    :param events: tells the operator's script; None: there is none.
    """

    log = Logger()

    def __init__(
        self,
        *,
        plan: Layer3Plan,
        speaker_plan: SpeakerPlan,
        speaker: Speaker,
        dataplane: ILayer3Dataplane,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        watchers: Watchers,
        resolve_host: Callable[[str, int | None], Deferred[tuple[bytes, ...]]],
        events: InterfaceEvents | None = None,
    ) -> None:
        self.plan = plan
        self.stations: dict[int, Layer3Station] = {}
        self._dataplane = dataplane
        self._speaker_plan = speaker_plan
        self._clock = clock
        self._found: Addresses = {}
        #: Protocol addresses that the operator has told of servers, by their underlay addresses.
        self._named: dict[bytes, bytes] = {}
        self._names: list[NameWatch] = []
        self._retry: Any = None
        self._resolve_host = resolve_host
        self._make_station = partial(
            Layer3Station,
            plan=plan,
            speaker_plan=speaker_plan,
            speaker=speaker,
            dataplane=dataplane,
            clock=clock,
            jitter=jitter,
            ids=ids,
            metrics=metrics,
            watchers=watchers,
            events=events,
        )

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Take part with every address that we have, look names up.

        :raises StartError: if the data plane cannot start.
        """
        self._dataplane.start(self)
        self._set_stations()
        for name in dict.fromkeys(each.host for each in self.plan.maps if each.address is None):
            watch = NameWatch(
                [name],
                lambda name: self._resolve_host(name, self._dataplane.underlay_octets),
                self._clock,
                self._names_changed,
            )
            self._names.append(watch)
            watch.start()

    def stop(self) -> Deferred[None]:
        """Purge what is registered, take everything of ours out of the kernel."""
        self._end()
        for station in self.stations.values():
            station.stop()
        self.stations.clear()
        return self.abandon()

    def hand_over(self) -> None:
        """Stop, and leave registrations, neighbours and routes to a successor."""
        self._end()
        for station in self.stations.values():
            station.hand_over()
        self.stations.clear()
        self._dataplane.hand_over()

    def _end(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for watch in self._names:
            watch.stop()
        self._names.clear()

    def abandon(self) -> Deferred[None]:
        """Undo a start that failed."""
        stopped: Deferred[None] = self._dataplane.stop()
        return stopped

    def set_holding_time(self, seconds: int) -> None:
        """Ask, and answer about ourselves, with this holding time from now on."""
        self._speaker_plan = replace(self._speaker_plan, holding_time=seconds)
        self._make_station = partial(self._make_station, speaker_plan=self._speaker_plan)
        for station in self.stations.values():
            station.set_holding_time(seconds)

    # --- addresses ----------------------------------------------------------------------------

    def _set_stations(self) -> None:
        """Have a station for each address that we have now, and no other."""
        addresses = {len(each[0]): each for each in reversed(self._dataplane.addresses())}
        addresses.update({len(each[0]): each for each in self.plan.addresses})
        for octets, station in list(self.stations.items()):
            if addresses.get(octets) != station.address:
                del self.stations[octets]
                station.stop()
        for octets, address in addresses.items():
            if octets not in self.stations:
                station = self.stations[octets] = self._make_station(address=address)
                station.start()
        self._set_servers()

    def _names_changed(self, addresses: Addresses) -> None:
        for name, found in addresses.items():
            # The one in use stays in use while the name has it.
            used = self._found.get(name, ())
            self._found[name] = (
                *(each for each in used if each in found),
                *(each for each in found if each not in used),
            )
        self._set_servers()

    def _set_servers(self) -> None:
        """Tell each station of its servers, as far as their addresses are known."""
        lost = []
        for octets, station in self.stations.items():
            servers = []
            for each in self.plan.maps:
                if len(each.protocol) != octets:
                    continue
                for nbma in self._addresses(each):
                    server = self._server(each, nbma)
                    if server is None:
                        lost.append(nbma)
                    else:
                        servers.append(server)
            station.set_servers(servers)
        if lost and self._retry is None:
            self.log.warn(
                "{ifname}: no way to {nbma}: trying again",
                ifname=self.plan.interface,
                nbma=", ".join(map(format_address, sorted(set(lost)))),
            )
            self._retry = self._clock.callLater(_RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._set_servers()

    def _addresses(self, plan: MapPlan) -> tuple[bytes, ...]:
        """Underlay addresses of a map: all of a dynamic one's, else one."""
        if plan.address is not None:
            return (plan.address,)
        found = self._found.get(plan.host, ())
        if plan.dynamic:
            return found
        # The resolver's preference is no use where we have no way to.
        reached = (each for each in found if self._dataplane.local_address(each))
        return (next(reached, found[0]),) if found else ()

    def _server(self, plan: MapPlan, nbma: bytes) -> Server | None:
        """What a map says; None if there is no way to its underlay address."""
        local = self._dataplane.local_address(nbma)
        if len(local) != len(nbma):
            return None
        network = ip_network((plan.protocol, plan.prefix_length), strict=False)
        named = plan.prefix_length == network.max_prefixlen or (
            network.network_address.packed != plan.protocol
        )
        # Whoever serves the network: OpenNHRP takes a registration by its broadcast address, FRR by
        # the client's own, as RFC 2332 §5.2.3 has it, and IPv6 has no broadcast.
        protocol = plan.protocol if named else self._named.get(nbma, b"")
        broadcast = network.version == 4 and plan.peer != "frr"
        anybody = network.broadcast_address.packed if broadcast else b""
        return Server(
            protocol=protocol,
            network=plan.protocol,
            prefix_length=plan.prefix_length,
            path=Path(nbma, local, self._speaker_plan.gre_key),
            register=plan.register,
            unique=plan.unique,
            destination=protocol or anybody,
            peer=plan.peer,
            dynamic=plan.dynamic,
            hostname=plan.host if plan.address is None else "",
        )

    def name_server(self, nbma: bytes, protocol: bytes) -> int:
        """Take the operator's word for the protocol address of a server of a ``dynamic-map``; how
        many servers that concerns."""
        station = self.stations.get(len(protocol))
        servers = [] if station is None else [s for s in station.configured if s.dynamic]
        meant = [
            each
            for each in servers
            if each.path.peer == nbma
            and ip_address(protocol) in ip_network((each.network, each.prefix_length), strict=False)
        ]
        if meant:
            present = {each.path.peer for each in servers}
            self._named = {key: self._named[key] for key in self._named if key in present}
            self._named[nbma] = protocol
            self._set_servers()
        return len(meant)

    # --- the kernel's word (ILayer3Listener) ----------------------------------------------------

    def neighbour_missed(self, protocol: bytes) -> None:
        """Packets wait for a next hop."""
        station = self.stations.get(len(protocol))
        if station is not None:
            station.neighbour_missed(protocol)

    def detour_seen(self, packet: bytes, sender: bytes) -> None:
        """A packet went out where it came in."""
        octets = {4: 4, 6: 16}.get(packet[0] >> 4) if packet else None
        station = None if octets is None else self.stations.get(octets)
        if station is not None and self.plan.redirect:
            station.detour_seen(packet, sender)

    def addresses_changed(self) -> None:
        """Take part with what we have now."""
        self._set_stations()

    def each_station(self) -> Iterator[Layer3Station]:
        """The stations, IPv4 first."""
        return (self.stations[octets] for octets in sorted(self.stations))
