"""The spoke role: one VPN at one site. Layer: role.

Misses of the data plane become Resolution Requests, bindings become shortcuts, and a
registration with each hub keeps us on its flood list. Every effect on the data plane follows
from a change of the cache, so that there is one place to look for why an entry stands:

========================  ==============================================
binding                   data plane
========================  ==============================================
``incomplete negative``   hold: frames go by the hub, misses are silent
``cached``                shortcut to the binding's VTEP
removed                   withdrawn: the next frame misses afresh
========================  ==============================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path, format_address
from dmevpn.config.model import NHSPlan, SpeakerPlan, SpokePlan
from dmevpn.config.peers import UNAWARE, takes_nat_extension
from dmevpn.interfaces import ICacheListener, ISpokeDataplane, ISpokeListener, IStation
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import PacketType, PurgeFlag
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.packet import Packet, PurgeRequest, RegistrationReply, TrafficIndication
from dmevpn.nhrp.peers import Peer, peer_of
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.resolution import ResolutionClient
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.traffic import target
from dmevpn.roles.carrier import Carrier, Standing
from dmevpn.roles.mtu import MTUComparison
from dmevpn.roles.multihoming import introduce, is_expected
from dmevpn.roles.recollection import Registered
from dmevpn.roles.rows import REGISTRATION_EVENTS, CacheWatcher, Watchers

__all__ = ["SpokeRole", "derive_station"]

#: Seconds for which renewals are gathered before the kernel is asked, once for all of them,
#: which shortcuts are in use.
RENEWAL_BATCH = 1.0


def derive_station(machine_id: bytes, vpn: VPNID, vtep: VTEP) -> bytes:
    """The station MAC of a site that was given none: stable over restarts, unlike any other.

    A locally administered unicast address made of the machine, the VPN and the VTEP.
    """
    digest = hashlib.sha256(b"%b|%b|%b" % (machine_id, str(vpn).encode(), str(vtep).encode()))
    octets = bytearray(digest.digest()[:6])
    octets[0] = octets[0] & 0xFE | 0x02
    return bytes(octets)


@implementer(IStation, ISpokeListener, ICacheListener)
class SpokeRole:
    """Owns the data interface of one VPN at a site.

    :param plan: what the file says; every server in it has an address.
    :param keepalives: of the control interface: they tell when a hub falls silent.
    :param ids: the daemon's request identifiers.
    :param machine_id: what tells this machine from others, for the derived station MAC.
    :param recalled: how an earlier run stood with its hubs.
    :param on_readdressed: called when our underlay address is ours no more and there is another:
        who owns us starts us again.
    """

    log = Logger()

    packet_types = frozenset(
        {
            PacketType.RESOLUTION_REPLY,
            PacketType.REGISTRATION_REPLY,
            PacketType.PURGE_REQUEST,
            PacketType.PURGE_REPLY,
            PacketType.ERROR_INDICATION,
            PacketType.TRAFFIC_INDICATION,
        }
    )

    def __init__(
        self,
        *,
        plan: SpokePlan,
        speaker_plan: SpeakerPlan,
        speaker: Speaker,
        keepalives: Keepalives,
        dataplane: ISpokeDataplane,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        machine_id: bytes,
        watchers: Watchers,
        recalled: Iterable[Registered] = (),
        on_readdressed: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.dataplane = dataplane
        self.cache = Cache(clock, metrics)
        self.cache.subscribe(CacheWatcher(watchers, plan.vpn.index, plan.interface, clock))
        self.registrations: list[RegistrationClient] = []
        self._speaker_plan = speaker_plan
        self._speaker = speaker
        self._keepalives = keepalives
        self._carrier = Carrier(clock, self._carrier_changed)
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        self._machine_id = machine_id
        self._outstanding = Outstanding(clock, jitter, ids, metrics)
        self._journal = watchers.journal
        self._on_readdressed = on_readdressed
        self._recalled = {each.nhs: each for each in recalled}
        self._due: set[bytes] = set()
        self._due_call: Any = None
        self._mtus = MTUComparison(clock, metrics, plan.vpn.index, plan.interface)
        self._misses = metrics.counter("fdb_misses", vpn=str(plan.vpn.index))

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Bring up the devices, adopt what an earlier run left in them, and register.

        :raises StartError: if the data plane cannot start.
        """
        plan = self.plan
        self.dataplane.start(self)
        vtep: VTEP = self.dataplane.local_vtep
        self.station = plan.station or derive_station(self._machine_id, plan.vpn, vtep)
        self._link = self._speaker.attach(plan.vpn, self)
        self.resolution = ResolutionClient(
            clock=self._clock,
            jitter=self._jitter,
            cache=self.cache,
            outstanding=self._outstanding,
            link=self._link,
            station=self.station,
            vni=vtep.vni,
            mtu=self.dataplane.mtu,
            metrics=self._metrics,
            servers=self.way_to_server,
            on_renewal_due=self._renewal_due,
            seen_as=self._seen_as,
        )
        self.cache.subscribe(self)
        for mac, shortcut in self.dataplane.adopted():
            if shortcut is None:
                self.dataplane.withdraw(mac)
            else:
                self.resolution.adopt(mac, shortcut)
        flooding = [each.vtep for each in self.dataplane.entries() if each.state == "flood"]
        self._carrier.current = next((each.nbma for each in flooding if each is not None), None)
        self.set_servers(plan.servers)
        self._end_recalled()
        self._flood()
        self.log.info(
            "vpn {vpn}: spoke at {vtep}, station {mac}, on {ifname}",
            vpn=plan.vpn.index,
            vtep=str(vtep),
            mac=format_address(self.station),
            ifname=plan.interface,
        )

    def stop(self) -> Deferred[None]:
        """Purge our registrations, withdraw every shortcut and take the devices down."""
        for client in self.registrations:
            self._keepalives.remove(client)
            client.stop()
        self._end()
        stopped: Deferred[None] = self.dataplane.stop()
        return stopped

    def release(self) -> None:
        """Stop and purge our registrations, but leave the devices to whom starts on them next."""
        for client in self.registrations:
            self._keepalives.remove(client)
            client.stop()
        self._end()
        self.dataplane.hand_over()

    def hand_over(self) -> None:
        """Stop, and leave registrations, devices and shortcuts as they are to a successor."""
        for client in self.registrations:
            self._keepalives.remove(client)
            client.hand_over()
        self._end()
        self.dataplane.hand_over()

    def _end(self) -> None:
        """Let go of all that is not the data plane's."""
        if self._due_call is not None:
            self._due_call.cancel()
            self._due_call = None
        self._carrier.close()
        self._speaker.peers.claim(self, {})
        self.resolution.close()
        self._outstanding.close()
        self.cache.unsubscribe(self)
        self.cache.close()
        self._speaker.detach(self.plan.vpn, self)

    def abandon(self) -> Deferred[None]:
        """Undo a start that failed: nothing was registered, only devices may be there."""
        stopped: Deferred[None] = self.dataplane.stop()
        return stopped

    # --- hubs ---------------------------------------------------------------------------

    def set_servers(self, servers: tuple[NHSPlan, ...]) -> None:
        """Register with these hubs, in this order of preference, and with no others.

        A registration with a hub that is still among them goes on.

        :param servers: each has an address.
        """
        self.plan = replace(self.plan, servers=servers)
        wanted = {each.address: each for each in servers if each.register and each.address}
        known = {client.nhs: client for client in self.registrations}
        added = {
            nbma: self._client(nbma, each) for nbma, each in wanted.items() if nbma not in known
        }
        self.registrations = [{**known, **added}[nbma] for nbma in wanted]
        self._choose_carrier()
        for nbma, client in known.items():
            if nbma not in wanted:
                self._keepalives.remove(client)
                client.stop()
            else:
                server = wanted[nbma]
                client.set_terms(
                    unique=server.unique,
                    keeps_id=server.peer == "cisco",
                    nat_extension=takes_nat_extension(self._speaker_plan, server.peer),
                )
        self._speaker.peers.claim(self, self._peers(servers))
        for client in added.values():
            self._recall(client)
            self._keepalives.add(client)
            client.start()
        introduce(self._multihomed())

    def _multihomed(self) -> list[RegistrationClient]:
        """Our registrations with hubs that may hear of each other: those of this daemon."""
        ours = {server.address for server in self.plan.servers if server.peer == "rfc"}
        return [client for client in self.registrations if client.nhs in ours]

    def _peers(self, servers: tuple[NHSPlan, ...]) -> dict[bytes, Peer]:
        """Those of the servers that are said to be other daemons."""
        return {
            server.address: peer_of(server.peer, self.plan.vpn if server.peer in UNAWARE else None)
            for server in servers
            if server.address and server.peer != "rfc"
        }

    def remembered(self) -> Iterator[Registered]:
        """How we stand with our hubs, for a successor."""
        vtep: VTEP = self.dataplane.local_vtep
        for client in self.registrations:
            if client.usable and client.expires is not None:
                yield Registered(
                    client.nhs, client.expires, client.seen_as, client.kept_id, self.station, vtep
                )

    def _recall(self, client: RegistrationClient) -> None:
        """Go on where an earlier run has left, if we are who that was."""
        known = self._recalled.pop(client.nhs, None)
        if known is not None and (known.station, known.vtep) == (
            self.station,
            self.dataplane.local_vtep,
        ):
            client.recall(known.until, known.seen_as, known.request_id)

    def _end_recalled(self) -> None:
        """Take registrations back that an earlier run had with hubs that are ours no more."""
        family = len(self.dataplane.local_vtep.nbma)
        for nhs in [nhs for nhs in self._recalled if len(nhs) == family]:
            client = self._client(nhs, NHSPlan(host=format_address(nhs), address=nhs))
            self._recall(client)
            client.start()
            client.stop()

    def set_holding_time(self, seconds: int) -> None:
        """Ask for this holding time from now on."""
        self._speaker_plan = replace(self._speaker_plan, holding_time=seconds)
        for client in self.registrations:
            client.set_holding_time(seconds)

    def _client(self, nbma: bytes, server: NHSPlan) -> RegistrationClient:
        vtep: VTEP = self.dataplane.local_vtep
        return RegistrationClient(
            clock=self._clock,
            jitter=self._jitter,
            outstanding=self._outstanding,
            link=self._link,
            path=Path(nbma, vtep.nbma, self._speaker_plan.gre_key),
            station=self.station,
            vtep=vtep,
            unique=server.unique,
            keeps_id=server.peer == "cisco",
            nat_extension=takes_nat_extension(self._speaker_plan, server.peer),
            holding_time=self._speaker_plan.holding_time,
            mtu=self.dataplane.mtu,
            metrics=self._metrics,
            on_change=self._registration_changed,
        )

    def _seen_as(self) -> set[bytes]:
        """Our addresses outside of an address translation, as our servers say."""
        return {client.seen_as for client in self.registrations if client.seen_as}

    @property
    def carrier(self) -> bytes | None:
        """Underlay address of the hub that carries our flooding."""
        return self._carrier.current

    @property
    def passed_over(self) -> str:
        """Why the hub that is preferred does not carry our flooding; empty if it does."""
        for client in self.registrations:
            if client.nhs in self._carrier:
                if client.nhs == self._carrier.current:
                    return ""
                left = self._carrier.trusted_in(client.nhs)
                why = client.last_error or f"its registration is {client.state.value}"
                if left is not None:
                    why = f"it was lost, and has to stand for {left:.0f} s more"
                return f"{format_address(client.nhs)} is passed over: {why}"
        return ""

    def _standing(self, client: RegistrationClient) -> Standing:
        if not client.usable:
            return Standing.NONE
        expected = is_expected(client, self._multihomed())
        good = client.state is State.REGISTERED and expected
        return Standing.GOOD if good else Standing.DOUBTFUL

    def _has_other(self, hub: RegistrationClient) -> bool:
        """Whether another hub could carry our flooding at once."""
        return any(
            self._standing(client) is Standing.GOOD and client.nhs in self._carrier
            for client in self.registrations
            if client is not hub
        )

    def _serving(self) -> list[RegistrationClient]:
        """The hubs that know our registration. First the one that carries our flooding: its switch
        has seen the most. The others by preference; those that are silent or refuse us come last.
        """
        usable = [client for client in self.registrations if client.usable]
        return sorted(
            usable,
            key=lambda client: (-self._standing(client), client.nhs != self._carrier.current),
        )

    def way_to_server(self, mac: bytes) -> Path | None:
        """The way to the NHS to ask."""
        serving = self._serving()
        return serving[0].path if serving else None

    def _verify(self) -> None:
        """Make sure of the registration with the hub that serves us."""
        for client in self._serving()[:1]:
            client.verify()

    def _choose_carrier(self) -> None:
        """Flood to one hub only, so that nothing arrives twice.

        While none has us, it is the first of the file; its switch will know us in a moment.
        """
        standings = {
            server.address: Standing.NONE
            for server in self.plan.servers
            if server.flood and server.address
        }
        for client in self.registrations:
            if client.nhs in standings:
                standings[client.nhs] = self._standing(client)
        self._carrier.choose(tuple(standings.items()))

    def _flood(self) -> None:
        carrier = self._carrier.current
        self.dataplane.set_flood([] if carrier is None else [carrier])

    def _carrier_changed(self, old: bytes | None, new: bytes | None) -> None:
        """Another hub carries our flooding. This is the one place that says so."""
        self._flood()
        if old is None or new is None:
            return
        before = next((each for each in self.registrations if each.nhs == old), None)
        why = ""
        if before is None:
            why = "no longer configured"
        elif self._standing(before) is not Standing.GOOD:
            why = before.last_error or "lost"
        self._metrics.counter("carrier_changes", vpn=str(self.plan.vpn.index)).inc()
        self._journal.note(
            "hub-lost" if why else "hub-back",
            self.plan.vpn.index,
            nbma=old if why else new,
            interface=self.interface,
            detail=f"flooding goes by {format_address(new)}{why and f': {why}'}",
        )
        self.log.info(
            "vpn {vpn}: flooding goes by {new} instead of {old}{why}",
            vpn=self.plan.vpn.index,
            why=why and f": {why}",
            new=format_address(new),
            old=format_address(old),
        )

    def _registration_changed(self, client: RegistrationClient, old: State, new: State) -> None:
        self.log.info(
            "vpn {vpn}: registration with {nbma}: {state}{reason}",
            vpn=self.plan.vpn.index,
            nbma=format_address(client.nhs),
            state=new.name.lower(),
            reason=f" ({client.last_error})" if client.last_error else "",
        )
        if new is not old:
            self._journal.note(
                REGISTRATION_EVENTS[new],
                self.plan.vpn.index,
                self.station,
                client.nhs,
                interface=self.interface,
                detail=client.last_error or "",
            )
        self._keepalives.changed(client)
        if new is not State.IDLE:  # then we stop, and what is in the kernel is not ours to change
            introduce(self._multihomed())
            self._choose_carrier()
        if new is State.REGISTERED and old is not State.REGISTERED:
            self.resolution.forget_negatives()

    # --- data plane to protocol (ISpokeListener) ------------------------------------------

    def fdb_missed(self, mac: bytes) -> None:
        """A frame went by the hub for want of an entry: ask where its destination lives."""
        self._misses.inc()
        self.resolution.resolve(mac)

    def mac_local(self, mac: bytes) -> None:
        """A remote station came home: its shortcut must go before it is believed again."""
        self._note("home", mac)
        self.cache.remove(mac, "local")

    def mtu_changed(self, mtu: int) -> None:
        """Tell our hubs, and whoever we ask from now on."""
        self.resolution.mtu = mtu
        for client in self.registrations:
            client.set_mtu(mtu)

    def address_changed(self) -> None:
        """Our underlay address has become another."""
        self._on_readdressed()

    def device_up(self) -> None:
        """The data interface is back; the driver has restored its entries itself."""
        self._note("device-up")
        self.log.info("vpn {vpn}: {ifname} is up", vpn=self.plan.vpn.index, ifname=self.interface)

    def device_down(self) -> None:
        """The data interface went away; registrations go on, frames wait for the operator."""
        self._note("device-down")
        self.log.warn("vpn {vpn}: {ifname} is down", vpn=self.plan.vpn.index, ifname=self.interface)

    def entries_repaired(self, count: int) -> None:
        """Somebody changed what we had written; the driver has it put right."""
        self._note("repaired", why=f"{count} entries differed from what they should be")

    def devices_repaired(self, faults: str) -> None:
        """Somebody changed devices of ours; the driver has put them right."""
        self.log.info("vpn {vpn}: put right: {faults}", vpn=self.plan.vpn.index, faults=faults)
        self._note("device-mended", why=faults)

    def _note(self, event: str, mac: bytes = b"", vtep: VTEP | None = None, why: str = "") -> None:
        nbma, vni = (vtep.nbma, vtep.vni) if vtep is not None else (b"", None)
        index = self.plan.vpn.index
        self._journal.note(event, index, mac, nbma, vni, interface=self.interface, detail=why)

    def install_failed(self, mac: bytes, error: Exception) -> None:
        """The kernel refused a shortcut: keep the MAC with the hub, and do not ask for it with
        every frame, since the answer would be refused again."""
        self._metrics.counter("install_failures", vpn=str(self.plan.vpn.index)).inc()
        self._note("not-installed", mac, why=str(error))
        self.log.warn(
            "vpn {vpn}: no shortcut for {mac}: {reason}",
            vpn=self.plan.vpn.index,
            mac=format_address(mac),
            reason=str(error),
        )
        self.resolution.reject(mac)

    @property
    def interface(self) -> str:
        """Name of the data interface."""
        return self.plan.interface

    # --- cache to data plane (ICacheListener) ----------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """Hold while we ask, shortcut when we know.

        A hub that knows nothing, or is silent, may have lost our registration.
        """
        if binding.kind is Kind.CACHED and binding.vtep is not None:
            self.dataplane.install(binding.protocol, binding.vtep)
            self._mtus.compare(self.dataplane.mtu, binding.mtu, binding.vtep)
            self._note("shortcut-up", binding.protocol, binding.vtep)
        else:
            self.dataplane.hold(binding.protocol)
            if binding.kind is Kind.NEGATIVE:
                self._verify()

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A renewal that confirms the VTEP writes nothing to the kernel."""
        if (old.kind, old.vtep) != (new.kind, new.vtep):
            self.binding_added(new)
            if old.kind is Kind.CACHED and new.kind is not Kind.CACHED:
                self._note("shortcut-down", old.protocol, old.vtep, new.kind.name.lower())

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """Back to the hub."""
        self._due.discard(binding.protocol)
        self.dataplane.withdraw(binding.protocol)
        if binding.kind is Kind.CACHED:
            self._note("shortcut-down", binding.protocol, binding.vtep, reason)

    # --- renewal ------------------------------------------------------------------------

    def _renewal_due(self, protocol: bytes) -> None:
        self._due.add(protocol)
        if self._due_call is None:
            self._due_call = self._clock.callLater(RENEWAL_BATCH, self._check_use)

    def _check_use(self) -> None:
        self._due_call = None
        due, self._due = self._due, set()
        reading: Deferred[dict[bytes, float]] = self.dataplane.idle_times()
        reading.addCallback(self._renew_used, due)
        reading.addErrback(lambda failure: self.log.failure("idle times", failure))

    def _renew_used(self, idle: dict[bytes, float], due: set[bytes]) -> None:
        """Renew the shortcuts that carried a frame in this lifetime; the others may lapse."""
        now = self._clock.seconds()
        for mac in due:
            binding = self.cache.lookup(mac)
            if binding is None or binding.expires is None:
                continue
            lived = binding.holding_time - (binding.expires - now)
            if idle.get(mac, float("inf")) < lived:
                self.resolution.renew(mac)
                self._verify()

    # --- wire (IStation) ------------------------------------------------------------------

    def packet_received(self, packet: Packet, path: Path) -> bool:
        """Replies and errors go to whoever asked, purges to the cache, detours make us ask."""
        if len(packet.destination_protocol or packet.source_protocol) != len(self.station):
            return False  # of IPv4 or IPv6 in the same VPN
        if isinstance(packet, TrafficIndication):
            mac = target(packet)
            if mac is not None:
                self.resolution.resolve(mac)
            return True
        if isinstance(packet, PurgeRequest):
            for client in self.registrations:
                # One that says farewell wants no reply; one that wants to be left does.
                leave = not packet.flags & PurgeFlag.N and self._has_other(client)
                client.purge_received(packet, path, leave=leave)
            return self.resolution.purge_received(packet, path)
        if self._outstanding.reply_received(packet, path):
            return True
        if isinstance(packet, RegistrationReply):
            for client in self.registrations:
                client.late_reply(path)
        return False

    def transport_resumed(self) -> None:
        """Hubs may have forgotten us, or lost what we sent: register anew at once."""
        for client in self.registrations:
            client.renew()
