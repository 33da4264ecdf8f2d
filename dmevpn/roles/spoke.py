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
from dmevpn.interfaces import ICacheListener, ISpokeDataplane, ISpokeListener, IStation
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.packet import Packet, PurgeRequest, RegistrationReply, TrafficIndication
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.resolution import ResolutionClient
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.traffic import target
from dmevpn.roles.confirmation import Confirmation
from dmevpn.roles.mtu import MTUComparison
from dmevpn.roles.pace import Pace
from dmevpn.roles.recollection import Registered
from dmevpn.roles.rows import CacheWatcher, Watchers
from dmevpn.roles.spoke_hubs import SpokeHubs

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
    :param pace: of the control interface: of what we ask for without need.
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
        pace: Pace,
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
        self._speaker_plan = speaker_plan
        self._speaker = speaker
        self._keepalives = keepalives
        self._pace = pace
        self._clock = clock
        self._jitter = jitter
        self._metrics = metrics
        self._machine_id = machine_id
        self._outstanding = Outstanding(clock, jitter, ids, metrics)
        self._journal = watchers.journal
        self._on_readdressed = on_readdressed
        self._recalled = tuple(recalled)
        self._due: set[bytes] = set()
        self._due_call: Any = None
        self._mtus = MTUComparison(
            Complaints(clock, metrics), metrics, plan.vpn.index, plan.interface
        )
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
        self.hubs = SpokeHubs(
            plan=plan,
            speaker_plan=self._speaker_plan,
            peers=self._speaker.peers,
            keepalives=self._keepalives,
            dataplane=self.dataplane,
            station=self.station,
            link=self._link,
            outstanding=self._outstanding,
            clock=self._clock,
            jitter=self._jitter,
            metrics=self._metrics,
            journal=self._journal,
            recalled=self._recalled,
            on_registered=self._registered,
            on_asked=self._asked_at,
        )
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
            servers=self.hubs.way_to_server,
            on_renewal_due=self._renewal_due,
            seen_as=self.hubs.seen_as,
        )
        self.confirmation = Confirmation(
            vpn=plan.vpn.index,
            clock=self._clock,
            jitter=self._jitter,
            cache=self.cache,
            resolution=self.resolution,
            dataplane=self.dataplane,
            pace=self._pace,
            metrics=self._metrics,
            succeeds=bool(self._recalled),
        )
        self.cache.subscribe(self)
        for mac, shortcut in self.dataplane.adopted():
            if shortcut is None:
                self.dataplane.withdraw(mac)
            else:
                self.resolution.adopt(mac, shortcut)
        self.hubs.start()
        self.log.info(
            "vpn {vpn}: spoke at {vtep}, station {mac}, on {ifname}",
            vpn=plan.vpn.index,
            vtep=str(vtep),
            mac=format_address(self.station),
            ifname=plan.interface,
        )

    def stop(self) -> Deferred[None]:
        """Purge our registrations, withdraw every shortcut and take the devices down."""
        self.hubs.stop()
        self._end()
        stopped: Deferred[None] = self.dataplane.stop()
        return stopped

    def release(self) -> None:
        """Stop and purge our registrations, but leave the devices to whom starts on them next."""
        self.hubs.stop()
        self._end()
        self.dataplane.hand_over()

    def hand_over(self) -> None:
        """Stop, and leave registrations, devices and shortcuts as they are to a successor."""
        self.hubs.hand_over()
        self._end()
        self.dataplane.hand_over()

    def _end(self) -> None:
        """Let go of all that is not the data plane's."""
        if self._due_call is not None:
            self._due_call.cancel()
            self._due_call = None
        self.confirmation.close()
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
        """Register with these hubs from now on; see :meth:`SpokeHubs.set_servers`."""
        self.plan = replace(self.plan, servers=servers)
        self.hubs.set_servers(servers)

    def set_holding_time(self, seconds: int) -> None:
        """Ask for this holding time from now on."""
        self.hubs.set_holding_time(seconds)

    def _registered(self) -> None:
        """What was refused, or could not be asked, may be known there."""
        self.resolution.forget_negatives()

    def _asked_at(self, hub: bytes | None) -> None:
        silent = {each.nhs for each in self.registrations if each.state is State.DOWN}
        self.confirmation.ask_at(hub, silent)

    def remembered(self) -> Iterator[Registered]:
        """How we stand with our hubs, for a successor."""
        return self.hubs.remembered()

    def way_to_server(self, mac: bytes) -> Path | None:
        """The way to the NHS to ask."""
        return self.hubs.way_to_server(mac)

    @property
    def registrations(self) -> list[RegistrationClient]:
        """Ours with the hubs, by preference."""
        return self.hubs.registrations

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
        self.hubs.set_mtu(mtu)

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
                self.hubs.verify()

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
                self.hubs.verify()

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
            self.hubs.purge_received(packet, path)
            return self.resolution.purge_received(packet, path)
        if self._outstanding.reply_received(packet, path):
            return True
        if isinstance(packet, RegistrationReply):
            self.hubs.late_reply(path)
        return False

    def transport_resumed(self) -> None:
        """Hubs may have forgotten us, or lost what we sent: register anew at once."""
        self.hubs.transport_resumed()
