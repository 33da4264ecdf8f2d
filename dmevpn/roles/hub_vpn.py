"""One VPN at a hub: its registrations, its next hop server, its members. Layer: role.

The switch learns, floods and forwards by itself. This module tells it who is a member (whoever
is registered), and tells clients that were given an answer when the answer is no longer true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path, format_address
from dmevpn.config.model import SpeakerPlan
from dmevpn.interfaces import ICacheListener, IHubDataplane, LearnedMAC, Registration, VPNRules
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.transit import Transit
from dmevpn.roles.admission import Admission
from dmevpn.roles.mtu import MTUComparison
from dmevpn.roles.owners import VTEPOwners
from dmevpn.roles.rows import CacheWatcher

__all__ = ["HubVPN"]

#: Seconds after a restart during which a MAC that has moved, or whose site is lost, is purged at
#: every member: the longest time that an answer of the run before, which is forgotten, can still
#: be in use.
AMNESIA = 300.0
#: A registration that the switch keeps for our successor may end this part of its holding time
#: too early: noting every renewal would be half of what a renewal costs.
_NOTE_SLACK = 8
#: MACs of one VPN that are purged like that, each of them once: what the switch's table holds.
AMNESIA_MACS = 16384


@implementer(ICacheListener)
class HubVPN:
    """One VPN at a hub: its registrations, its NHS, its members in the switch."""

    log = Logger()

    def __init__(
        self,
        *,
        vpn_id: VPNID,
        speaker_plan: SpeakerPlan,
        speaker: Speaker,
        dataplane: IHubDataplane,
        owners: VTEPOwners,
        admission: Admission,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        watcher: CacheWatcher,
        routes: PrefixTable[bytes],
        rules: VPNRules,
        on_refused: Callable[[bytes, bytes, int], None],
    ) -> None:
        self.vpn_id = vpn_id
        self.cache = Cache(clock, metrics)
        self.members: dict[VTEP, set[bytes]] = {}
        #: The registration of each member that the switch keeps for our successor.
        self._kept: dict[VTEP, Registration] = {}
        #: So that one that comes and goes cannot fill the log.
        self._joined = Complaints(clock)
        self._mtus = MTUComparison(clock, metrics, vpn_id.index, dataplane.interface)
        self._left = Complaints(clock)
        self._amnesia_ends = 0.0
        self._told_everyone: set[bytes] = set()
        self._not_told = metrics.counter("amnesia_full", vpn=str(vpn_id.index))
        self._speaker = speaker
        self._speaker_plan = speaker_plan
        self._dataplane = dataplane
        self._owners = owners
        self._admission = admission
        self._outstanding = Outstanding(clock, jitter, ids, metrics)
        self._link = speaker.link(vpn_id)
        identity = Identity(dataplane.station_mac, mtu=dataplane.mtu)
        self.server = NextHopServer(
            clock=clock,
            cache=self.cache,
            outstanding=self._outstanding,
            link=self._link,
            policy=admission,
            find_mac=self._find_mac,
            vpn=vpn_id.index,
            identity=identity,
            nat_detection=speaker_plan.nat_detection,
            multi_binding=speaker_plan.multi_binding,
            authoritative=not routes,
            servers=admission.servers(routes.values()),
            metrics=metrics,
            on_refused=on_refused,
        )
        self._transit = Transit(
            identity=identity,
            cache=self.cache,
            link=self._link,
            routes=routes.longest,
            vpn=str(vpn_id.index),
            metrics=metrics,
        )
        self.cache.subscribe(self)
        self.cache.subscribe(watcher)
        dataplane.add_vpn(vpn_id.index, rules)
        speaker.attach(vpn_id, self.server)
        speaker.attach(vpn_id, self._transit)

    def _find_mac(self, mac: bytes) -> VTEP | None:
        vtep: VTEP | None = self._dataplane.lookup(self.vpn_id.index, mac)
        return vtep

    def set_routes(self, routes: PrefixTable[bytes]) -> None:
        """Pass on what we do not know to these servers from now on."""
        self._transit.routes = routes.longest
        self.server.authoritative = not routes
        self.server.servers = self._admission.servers(routes.values())

    def close(self, *, remove: bool) -> None:
        """Stop answering, and tell every client that it is not registered any more.

        :param remove: take the VPN out of the switch too (its hub interface goes on).
        """
        self.server.dismiss()
        self._speaker.detach(self.vpn_id, self.server)
        self._speaker.detach(self.vpn_id, self._transit)
        self.cache.unsubscribe(self)
        self.server.close()
        self._outstanding.close()
        self.cache.close()
        for vtep in self.members:
            self._owners.release(self.vpn_id.index, vtep)
            self._speaker.known.claim((self.vpn_id, vtep), ())
        if remove:
            self._dataplane.remove_vpn(self.vpn_id.index)

    def expel(self) -> int:
        """End the registrations that are no longer permitted; how many."""
        return self.server.expel(lambda binding: not self._is_permitted(binding))

    def _is_permitted(self, binding: Binding) -> bool:
        vtep, path = binding.vtep, binding.path
        if vtep is None or path is None:
            return True
        return self._admission.permits(self.vpn_id.index, vtep, path.peer, binding.spi)

    def adopt(self, vtep: VTEP, local: bytes, registration: Registration) -> None:
        """Take up a member that the switch has kept over our own death."""
        now = self.cache.clock.seconds()
        self._amnesia_ends = now + AMNESIA
        self.cache.put(
            Binding(
                protocol=registration.station,
                vtep=vtep,
                kind=Kind.DYNAMIC,
                holding_time=int(registration.expires - now),
                expires=registration.expires,
                unique=registration.unique,
                path=Path(vtep.nbma, local, self._speaker_plan.gre_key),
            )
        )

    # --- registrations make members (ICacheListener) ----------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """A site registered: admit its frames and flood to it."""
        if binding.kind is Kind.DYNAMIC and binding.vtep is not None:
            self._join(binding, binding.vtep)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A site renewed its registration, or moved to another VTEP."""
        if old.vtep != new.vtep:
            if old.vtep is not None:
                self._leave(old, old.vtep, "moved")
        elif old.kind is new.kind and old.path == new.path and self._noted(new):
            return
        self.binding_added(new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """A registration ended; with the last one of a VTEP its membership does."""
        if binding.kind is Kind.DYNAMIC and binding.vtep is not None:
            self._leave(binding, binding.vtep, reason)

    def _noted(self, new: Binding) -> bool:
        """Whether what the switch keeps of a registration is still good enough for our successor:
        it may end a little too early there."""
        kept = self._kept.get(new.vtep) if new.vtep is not None else None
        return (
            kept is not None
            and kept.station == new.protocol
            and kept.unique is new.unique
            and new.expires is not None
            and 0 <= new.expires - kept.expires < new.holding_time / _NOTE_SLACK
        )

    def _join(self, binding: Binding, vtep: VTEP) -> None:
        stations = self.members.get(vtep)
        if stations is None:
            stations = self.members[vtep] = set()
            self._owners.claim(self.vpn_id.index, vtep)
            self._mtus.compare(self._dataplane.mtu, binding.mtu, vtep)
            if self._joined.due(str(vtep).encode()):
                self.log.info(
                    "vpn {vpn}: member {vtep}, station {mac}",
                    vpn=self.vpn_id.index,
                    vtep=str(vtep),
                    mac=format_address(binding.protocol),
                )
        stations.add(binding.protocol)
        expires = binding.expires if binding.expires is not None else float("inf")
        registration = Registration(binding.protocol, binding.unique, expires)
        kept = self._kept.get(vtep)
        if kept is not None and kept.station != binding.protocol and kept.expires > expires:
            return
        self._kept[vtep] = registration
        if binding.path is not None:
            self._speaker.known.claim((self.vpn_id, vtep), (binding.path.peer,))
        local = binding.path.local if binding.path is not None else b""
        self._dataplane.add_member(self.vpn_id.index, vtep, local, registration)

    def _leave(self, binding: Binding, vtep: VTEP, reason: str) -> None:
        stations = self.members.get(vtep)
        if stations is None:
            return
        stations.discard(binding.protocol)
        if stations:
            if self._kept[vtep].station == binding.protocol:
                other = self.cache.registration_of(vtep)
                if other is not None:
                    del self._kept[vtep]
                    self._join(other, vtep)
            return
        del self.members[vtep], self._kept[vtep]
        self._speaker.known.claim((self.vpn_id, vtep), ())
        self._owners.release(self.vpn_id.index, vtep)
        behind = self._macs_at(vtep) if self._forgetful() else []
        self._dataplane.remove_member(self.vpn_id.index, vtep)
        self.server.invalidate_vtep(vtep, reason)
        self._tell_everyone(behind, reason)
        if self._left.due(str(vtep).encode()):
            self.log.info(
                "vpn {vpn}: member {vtep} left: {reason}",
                vpn=self.vpn_id.index,
                vtep=str(vtep),
                reason=reason,
            )

    # --- the switch's word ----------------------------------------------------------------

    def moved(self, mac: bytes) -> None:
        """Purge the old answer for a MAC that now sends from elsewhere."""
        if self._forgetful():
            self._tell_everyone([mac], "moved")
        self.server.invalidate(mac, "moved")

    def _forgetful(self) -> bool:
        """Whether answers of an earlier run, which we do not know, may be in use."""
        return self.cache.clock.seconds() < self._amnesia_ends

    def _tell_everyone(self, macs: list[bytes], reason: str) -> None:
        """Purge MACs at all members, unless that was done: later answers are known again."""
        macs = [mac for mac in macs if mac not in self._told_everyone]
        room = AMNESIA_MACS - len(self._told_everyone)
        self._not_told.inc(max(0, len(macs) - room))
        if macs[:room]:
            self._told_everyone.update(macs[:room])
            self.server.invalidate_all(macs[:room], reason, self._stations())

    def _macs_at(self, vtep: VTEP) -> list[bytes]:
        entries: Iterator[LearnedMAC] = self._dataplane.entries(self.vpn_id.index)
        return [entry.mac for entry in entries if entry.vtep == vtep]

    def reconcile(self) -> Iterator[None]:
        """Purge every answer that the switch's table no longer bears out, one at each step."""
        for mac, vteps in self.server.answered():
            found = self._find_mac(mac)
            if found is not None and found not in vteps:
                self.server.invalidate(mac, "moved")
            yield

    def _stations(self) -> Iterator[tuple[bytes, Path]]:
        for binding in self.cache.bindings():
            if binding.kind is Kind.DYNAMIC and binding.path is not None:
                yield binding.protocol, binding.path
