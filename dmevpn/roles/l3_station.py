"""Client and server for the protocol addresses of one family. Layer: role.

One station has one cache: what it learnt as a client it need not ask for as a server, and what is
registered with it needs no question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_interface

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, Path, format_address
from dmevpn.config.model import Layer3Plan, SpeakerPlan
from dmevpn.config.peers import UNAWARE, takes_nat_extension
from dmevpn.interfaces import ILayer3Dataplane, IRegistrationPolicy, IStation
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import Packet, PurgeRequest, RegistrationRequest, TrafficIndication
from dmevpn.nhrp.peers import Peer, peer_of
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.resolution import ResolutionClient
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.traffic import Redirector, data_addresses, is_host, target
from dmevpn.nhrp.transit import Transit
from dmevpn.roles.l3_admission import ProtocolAdmission
from dmevpn.roles.l3_forwarding import Layer3Forwarding
from dmevpn.roles.l3_ways import Server, Ways
from dmevpn.roles.peer_gate import PeerGate
from dmevpn.roles.registered import RegisteredPeers
from dmevpn.roles.registration_gate import RegistrationGate
from dmevpn.roles.rows import CacheWatcher, Watchers
from dmevpn.roles.script_events import InterfaceEvents, StationEvents
from dmevpn.roles.server_gate import ServerGate

__all__ = ["Layer3Station"]


@implementer(IStation)
class Layer3Station:
    """We, as others know us by one protocol address.

    :ivar address: our protocol address with the prefix length of its network.
    :ivar station: our protocol address.
    :ivar configured: the servers and stations of the file.
    :ivar registrations: with our servers, in their order of preference.
    """

    log = Logger()

    packet_types = frozenset(PacketType)

    def __init__(
        self,
        *,
        plan: Layer3Plan,
        address: tuple[bytes, int],
        speaker_plan: SpeakerPlan,
        speaker: Speaker,
        dataplane: ILayer3Dataplane,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        watchers: Watchers,
        events: InterfaceEvents | None = None,
    ) -> None:
        self.plan = plan
        self.address = address
        self.station, prefix_length = address
        self.registrations: list[RegistrationClient] = []
        self.configured: tuple[Server, ...] = ()
        self._speaker_plan = speaker_plan
        self._speaker = speaker
        self._dataplane = dataplane
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        index = None if plan.vpn is None else plan.vpn.index
        self.cache = Cache(clock, metrics)
        self._outstanding = Outstanding(clock, jitter, ids, metrics)
        self._link = link = speaker.link(plan.vpn)
        self._ways = Ways(len(self.station), dataplane, self.cache)
        policy: IRegistrationPolicy = ProtocolAdmission(plan.permits, metrics)
        self._registration_gate: RegistrationGate | None = None
        script = None
        if events is not None:
            script = StationEvents(events, self.station, index, dataplane.local_address)
            policy = self._registration_gate = RegistrationGate(
                policy, script, self._serve, metrics
            )
        self._identity = identity = Identity(
            self.station,
            prefix_length,
            mtu=dataplane.mtu,
            holding_time=speaker_plan.holding_time,
        )
        self.server = NextHopServer(
            clock=clock,
            cache=self.cache,
            outstanding=self._outstanding,
            link=link,
            policy=policy,
            find_mac=lambda mac: None,
            vpn=index,
            identity=identity,
            nat_detection=speaker_plan.nat_detection,
            multi_binding=speaker_plan.multi_binding,
            passes_on=self._ways.may_lead_to,
            metrics=metrics,
        )
        self._transit = Transit(
            identity=identity,
            cache=self.cache,
            link=link,
            routes=self._ways.servers_for,
            vpn="-" if index is None else str(index),
            metrics=metrics,
        )
        self.resolution = ResolutionClient(
            clock=clock,
            jitter=jitter,
            cache=self.cache,
            outstanding=self._outstanding,
            link=link,
            station=self.station,
            vni=None,
            mtu=dataplane.mtu,
            metrics=metrics,
            servers=self.way_to_server,
            on_renewal_due=self._renewal_due,
            capabilities=plan.vpn is not None,
            seen_as=self.seen_as,
            nat_extension=self._takes_nat_extension,
        )
        self._redirector = Redirector(clock, link, metrics)
        self._forwarding = Layer3Forwarding(
            dataplane=dataplane,
            network=ip_interface((self.station, prefix_length)).network,
            detour=self._detour,
        )
        self._indications = metrics.counter("traffic_indications_received")
        self._peer_gate: PeerGate | None = None
        self.server_gate: ServerGate | None = None
        if script is None:
            self.cache.subscribe(self._forwarding)
        else:
            self._peer_gate = PeerGate(self.cache, self._forwarding, script, self.resolution.reject)
            self.cache.subscribe(self._peer_gate)
            self.server_gate = ServerGate(clock, jitter, script, self._use)
        self.cache.subscribe(CacheWatcher(watchers, index, plan.interface, clock))
        self._registered = RegisteredPeers(speaker.known)
        self.cache.subscribe(self._registered)

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Answer from now on for ourselves and the networks behind us."""
        self._put(self.station, None, Kind.LOCAL, self._identity.holding_time, b"")
        for each in self.plan.targets:
            if len(each.protocol) == len(self.station):
                bits = each.prefix_length
                length = bits if bits < 8 * len(self.station) else None
                self._put(each.protocol, length, Kind.LOCAL, each.holding_time, self.station)
        self._speaker.attach(self.plan.vpn, self)
        self.log.info(
            "{ifname}: station {station} of {vpn}",
            ifname=self.plan.interface,
            station=format_address(self.station),
            vpn="no VPN" if self.plan.vpn is None else f"VPN {self.plan.vpn.index}",
        )

    def stop(self) -> None:
        """Purge our registrations, tell our clients, and take what is ours out of the kernel."""
        for client in self.registrations:
            client.stop()
        self._close_gates()
        # Whoever was told of us or of the networks behind us is told that they are gone.
        self.cache.remove_if(lambda binding: binding.kind is Kind.LOCAL, "stopped")
        self.server.dismiss()
        self._forwarding.close()
        self._end()

    def hand_over(self) -> None:
        """Stop, and leave registrations, clients and the kernel as they are to a successor."""
        for client in self.registrations:
            client.hand_over()
        self._close_gates()
        self._end()

    def _close_gates(self) -> None:
        for gate in (self.server_gate, self._peer_gate, self._registration_gate):
            if gate is not None:
                gate.close()

    def _end(self) -> None:
        self._speaker.peers.claim(self, {})
        self._speaker.known.claim(self, ())
        self._registered.close()
        self._speaker.detach(self.plan.vpn, self)
        self.resolution.close()
        self.server.close()
        self._outstanding.close()
        self.cache.close()

    def _put(
        self,
        protocol: bytes,
        prefix_length: int | None,
        kind: Kind,
        holding_time: int,
        next_hop: bytes,
        nbma: bytes = b"",
    ) -> None:
        """Put what is configured; it does not expire."""
        self.cache.put(
            Binding(
                protocol,
                VTEP(nbma, None) if nbma else None,
                kind,
                holding_time,
                None,
                prefix_length=prefix_length,
                next_hop=next_hop,
            ),
            overrule=True,
        )

    def set_holding_time(self, seconds: int) -> None:
        """Ask, and answer about ourselves, with this holding time from now on."""
        self._identity.holding_time = seconds
        self._put(self.station, None, Kind.LOCAL, seconds, b"")
        self._put_static()
        for client in self.registrations:
            client.set_holding_time(seconds)

    # --- servers ------------------------------------------------------------------------------

    def set_servers(self, servers: Iterable[Server]) -> None:
        """Know these servers and stations, and no others, as soon as the operator's script has
        nothing against them."""
        self.configured = tuple(servers)
        if self.server_gate is not None:
            self.server_gate.set(self.configured)
        else:
            self._use(self.configured)

    def _use(self, servers: Iterable[Server]) -> None:
        """Register with those that want it. A registration that is wanted still goes on."""
        self._ways.set(servers)
        known = {client.path: client for client in self.registrations}
        wanted = {each.path: each for each in self._ways.servers if each.register}
        added = {path: self._client(each) for path, each in wanted.items() if path not in known}
        self.registrations = [{**known, **added}[path] for path in wanted]
        for path, client in known.items():
            if path not in wanted:
                client.stop()
        self._speaker.peers.claim(self, self._peers())
        self._speaker.known.claim(self, [each.path.peer for each in self._ways.servers])
        self._put_static()
        for client in added.values():
            client.start()

    def _peers(self) -> dict[bytes, Peer]:
        """Those of the stations that are said to be other daemons."""
        return {
            each.path.peer: peer_of(each.peer, self.plan.vpn if each.peer in UNAWARE else None)
            for each in self._ways.servers
            if each.peer != "rfc"
        }

    def _put_static(self) -> None:
        """Bind the addresses of servers and stations that are known."""
        stations = self._ways.stations(self.registrations)
        for binding in self.cache.bindings():
            if binding.kind is Kind.STATIC and binding.protocol not in stations:
                self.cache.remove(binding.key, "configured")
        for protocol, nbma in stations.items():
            if protocol != self.station:
                holding_time = self._identity.holding_time
                self._put(protocol, None, Kind.STATIC, holding_time, b"", nbma)

    def _client(self, server: Server) -> RegistrationClient:
        return RegistrationClient(
            clock=self._clock,
            jitter=self._jitter,
            outstanding=self._outstanding,
            link=self._link,
            path=server.path,
            station=self.station,
            vtep=VTEP(server.path.local, None),
            destination=server.destination,
            unique=server.unique,
            keeps_id=server.peer == "cisco",
            nat_extension=takes_nat_extension(self._speaker_plan, server.peer),
            holding_time=self._identity.holding_time,
            mtu=self._dataplane.mtu,
            metrics=self._metrics,
            on_change=self._registration_changed,
        )

    def _registration_changed(self, client: RegistrationClient, old: State, new: State) -> None:
        self.log.info(
            "{ifname}: registration of {station} with {nbma}: {state}{reason}",
            ifname=self.plan.interface,
            station=format_address(self.station),
            nbma=format_address(client.nhs),
            state=new.name.lower(),
            reason=f" ({client.last_error})" if client.last_error else "",
        )
        if self.server_gate is not None:
            self.server_gate.registration_changed(client)
        if new is State.REGISTERED and old is not State.REGISTERED:
            self._put_static()
            self.resolution.forget_negatives()

    def restart(self, select: Callable[[Server], bool], reason: str) -> None:
        """Take servers down and up again, as far as the script is concerned, and register anew."""
        if self.server_gate is not None:
            self.server_gate.restart(select, reason)
            return
        paths = {each.path for each in self.configured if select(each)}
        for client in self.registrations:
            if client.path in paths:
                client.renew()

    def forget_redirects(self, protocol: bytes, bits: int) -> int:
        """Let detours be told anew; see :meth:`dmevpn.nhrp.traffic.Redirector.forget`."""
        return self._redirector.forget(protocol, bits)

    def seen_as(self) -> set[bytes]:
        """Our addresses outside of an address translation, as our servers say."""
        return {client.seen_as for client in self.registrations if client.seen_as}

    def _takes_nat_extension(self, nbma: bytes) -> bool:
        """Whether a server gets the NAT Address extension in place of Device Capabilities."""
        return any(
            each.path.peer == nbma
            and each.peer in UNAWARE
            and takes_nat_extension(self._speaker_plan, each.peer)
            for each in self._ways.servers
        )

    def way_to_server(self, protocol: bytes) -> Path | None:
        """The way to the server to ask for an address: of those that know our registration, the
        one whose network it is in, else the first."""
        usable = [client.path for client in self.registrations if client.usable]
        for nbma in self._ways.servers_for(protocol):
            for path in usable:
                if path.peer == nbma:
                    return path
        return usable[0] if usable else None

    def _detour(self, protocol: bytes) -> bytes | None:
        path = self.way_to_server(protocol)
        return None if path is None else path.peer

    @property
    def interface(self) -> str:
        """Name of the control interface."""
        return self.plan.interface

    def forwards(self, binding: Binding) -> bool:
        """Whether the kernel forwards by a binding."""
        return self._forwarding.next_hop(binding) is not None

    # --- the kernel's word --------------------------------------------------------------------

    def neighbour_missed(self, protocol: bytes) -> None:
        """The kernel asks for a next hop: tell it, or ask for it."""
        if not self._forwarding.confirm(protocol) and is_host(protocol):
            self.resolution.resolve(protocol)

    def detour_seen(self, packet: bytes, sender: bytes) -> None:
        """Tell a client of ours that there may be a direct way for its packets."""
        addresses = data_addresses(packet, len(self.station))
        if addresses is None or not all(map(is_host, addresses)):
            return
        source, destination = addresses
        client = self._ways.client(source, sender)
        if client is not None and self._redirector.due(source, destination):
            self._redirector.tell(packet, source, self.station, client)

    def _renewal_due(self, key: bytes) -> None:
        """Renew what carried a packet in its lifetime; the rest may lapse."""
        binding = self.cache.lookup(key)
        if binding is None or binding.expires is None:
            return
        next_hop = self._forwarding.next_hop(binding)
        lived = binding.holding_time - (binding.expires - self._clock.seconds())
        idle = self._dataplane.idle_times()
        # What the kernel was told when the binding came is no use.
        if next_hop is not None and idle.get(next_hop, lived) < lived - 1:
            self.resolution.renew(key)

    # --- wire (IStation) ------------------------------------------------------------------

    def packet_received(self, packet: Packet, path: Path) -> bool:
        """Whatever is for us, or comes through us."""
        protocol = packet.destination_protocol or packet.source_protocol
        if len(protocol) != len(self.station):
            return False
        if isinstance(packet, TrafficIndication) and self._is_for_us(packet):
            self._indications.inc()
            self._redirected(packet)
            return True
        if isinstance(packet, PurgeRequest):
            for client in self.registrations:
                client.purge_received(packet, path)
            self.resolution.take_back(packet)
        if self._registration_gate is not None and isinstance(packet, RegistrationRequest):
            return self._registration_gate.admit(packet, path)
        return self._serve(packet, path)

    def _serve(self, packet: Packet, path: Path) -> bool:
        return self.server.packet_received(packet, path) or self._transit.packet_received(
            packet, path
        )

    def _is_for_us(self, indication: TrafficIndication) -> bool:
        """Whether the packet that took a detour came from us or a network behind us."""
        binding = self.cache.find(indication.destination_protocol)
        return binding is None or binding.kind is Kind.LOCAL

    def _redirected(self, indication: TrafficIndication) -> None:
        destination = target(indication)
        if destination is None or not self.plan.shortcut:
            return
        known = self.cache.find(destination)
        if known is None or known.kind is not Kind.LOCAL:
            self.resolution.resolve(destination)

    def transport_resumed(self) -> None:
        """Packets pass again after an interruption: register anew."""
        for client in self.registrations:
            client.renew()
