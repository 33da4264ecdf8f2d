"""The hub role: next hop server and switch of many VPNs. Layer: role.

The switch learns, floods and forwards by itself. This module tells it who is a member (whoever
is registered), and tells clients that were given an answer when the answer is no longer true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path, format_address
from dmevpn.config.model import HubPlan, SpeakerPlan
from dmevpn.interfaces import (
    ICacheListener,
    IHubDataplane,
    IHubListener,
    IRegistrationPolicy,
    LearnedMAC,
    Registration,
)
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.registration import refusal
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.transit import Transit
from dmevpn.roles.admission import Admission
from dmevpn.roles.mtu import MTUComparison
from dmevpn.roles.rows import CacheWatcher, Watchers, place

__all__ = ["FRAMES_REFUSED", "HubRole", "HubVPN", "VTEPOwners"]

#: Seconds without a frame after which a MAC that nobody has asked for is forgotten; also what
#: the switch itself takes for stale. The same 300 s as of a Linux bridge.
AGEING_TIME = 300.0
#: Seconds between two rounds of ageing and comparing with the switch's table.
AGEING_INTERVAL = 30.0
#: Seconds after a restart during which a MAC that has moved, or whose site is lost, is purged at
#: every member: the longest time that an answer of the run before, which is forgotten, can still
#: be in use.
AMNESIA = 300.0
#: A registration that the switch keeps for our successor may end this part of its holding time
#: too early: noting every renewal would be half of what a renewal costs.
_NOTE_SLACK = 8
#: MACs of one VPN that are purged like that, each of them once: what the switch's table holds.
AMNESIA_MACS = 16384
#: VPNs of a hub interface that are made at start; those of wider ranges when first registered, and
#: they go when nobody is registered any more.
EAGER_VPNS = 1024
#: VPNs that one hub interface serves, however many its ranges name: each takes kernel memory.
MAX_VPNS = 4096
#: What the journal says of frames of somebody who is no member.
FRAMES_REFUSED = "frames of somebody who has not registered"
#: Members of one VPN, and so the copies that one broadcast frame can cost.
MAX_MEMBERS_PER_VPN = 4096


@implementer(IRegistrationPolicy)
class VTEPOwners:
    """Which VPN each VTEP belongs to: (address, VNI) on the wire can mean one VPN only."""

    def __init__(self, metrics: Metrics) -> None:
        self._vpn: dict[VTEP, int] = {}
        self._members: dict[int, int] = {}
        self._conflicts = metrics.dropped("vtep_conflict")
        self._full = metrics.dropped("members_full")

    def decide(self, vpn: int, station: bytes, vtep: VTEP, sender: bytes, spi: int) -> int:
        """Refuse what is no VXLAN site, a VTEP of another VPN, and a member too many."""
        if vtep.vni is None or len(station) != 6:
            return CIECode.PROHIBITED
        owner = self._vpn.get(vtep)
        if owner is None:
            if self._members.get(vpn, 0) >= MAX_MEMBERS_PER_VPN:
                self._full.inc()
                return CIECode.NO_RESOURCES
        elif owner != vpn:
            self._conflicts.inc()
            return CIECode.PROHIBITED
        return CIECode.SUCCESS

    def claim(self, vpn: int, vtep: VTEP) -> None:
        """A VTEP became a member of a VPN."""
        if self._vpn.setdefault(vtep, vpn) == vpn:
            self._members[vpn] = self._members.get(vpn, 0) + 1

    def release(self, vpn: int, vtep: VTEP) -> None:
        """It is no longer one."""
        if self._vpn.get(vtep) == vpn:
            del self._vpn[vtep]
            self._members[vpn] -= 1
            if not self._members[vpn]:
                del self._members[vpn]


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
        dataplane.add_vpn(vpn_id.index)
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


@implementer(IHubListener)
class HubRole:
    """Owns a hub data interface: one switch, and a HubVPN for each VPN that it serves."""

    log = Logger()

    def __init__(
        self,
        *,
        plan: HubPlan,
        oui: bytes,
        speaker_plan: SpeakerPlan,
        speaker: Speaker,
        dataplane: IHubDataplane,
        owners: VTEPOwners,
        clock: IReactorTime,
        jitter: Callable[[], float],
        ids: RequestIDs,
        metrics: Metrics,
        watchers: Watchers,
    ) -> None:
        self.plan = plan
        self.dataplane = dataplane
        self.vpns: dict[int, HubVPN] = {}
        self._oui = oui
        self._speaker_plan = speaker_plan
        self._speaker = speaker
        self._owners = owners
        self._admission = Admission(plan.admission, owners, metrics)
        self._clock = clock
        self._jitter = jitter
        self._ids = ids
        self._metrics = metrics
        self._watchers = watchers
        self._journal = watchers.journal
        self._ageing: Any = None
        self._cooperator = Cooperator(scheduler=lambda call: clock.callLater(0, call))
        self._comparing = self._compare_again = False
        self._complaints = Complaints(clock)
        self._learned = metrics.counter("macs_learned", interface=plan.interface)
        self._moved = metrics.counter("macs_moved", interface=plan.interface)
        self._aged = metrics.counter("macs_aged", interface=plan.interface)
        self._limited = metrics.counter("mac_limit_reached", interface=plan.interface)
        self._refused = metrics.counter("senders_refused", interface=plan.interface)
        self._lost = metrics.counter("switch_events_lost", interface=plan.interface)

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Load or adopt the switch, serve the VPNs, take up the members it has kept.

        :raises StartError: if the data plane cannot start.
        """
        self.dataplane.start(self)
        self._serve_all()
        adopted = 0
        for index, vtep, local, registration in self.dataplane.adopted():
            left = registration.expires - self._clock.seconds()
            permitted = self._admission.permits(index, vtep, vtep.nbma, None)
            if left >= 1 and permitted and self.serve(VPNID(self._oui, index)):
                self.vpns[index].adopt(vtep, local, registration)
                adopted += 1
            else:
                self.dataplane.remove_member(index, vtep)
        if adopted:
            self.log.info(
                "{ifname}: adopted {count} members of an earlier run",
                ifname=self.plan.interface,
                count=adopted,
            )
        self._ageing = self._clock.callLater(AGEING_INTERVAL, self._age)

    def stop(self) -> Deferred[None]:
        """Answer no more, detach the switch, take the device down if it is ours."""
        if self._ageing is not None:
            self._ageing.cancel()
            self._ageing = None
        self._cooperator.stop()
        for vpn in self.vpns.values():
            vpn.close(remove=False)
        self.vpns.clear()
        stopped: Deferred[None] = self.dataplane.stop()
        return stopped

    abandon = stop

    def leave(self, plan: HubPlan) -> None:
        """Serve the VPNs no more that a new plan does not name: others may serve them then."""
        for index in [index for index in self.vpns if not _named(plan, index)]:
            self.vpns.pop(index).close(remove=True)

    def change(self, plan: HubPlan) -> None:
        """Serve other VPNs, by other servers, and admit others, from now on; who stays is not
        touched.

        :param plan: differs in nothing else.
        :raises DataplaneError: if there is no room for a VPN.
        """
        self.leave(plan)
        self._admission.set(plan.admission)
        if plan.admission != self.plan.admission:
            self._expel()
        self.plan = plan
        for index, vpn in self.vpns.items():
            vpn.set_routes(self._routes(index))
        self._serve_all()

    def _expel(self) -> None:
        ended = sum(vpn.expel() for vpn in self.vpns.values())
        if ended:
            self.log.info(
                "{ifname}: {count} registrations are no longer permitted",
                ifname=self.plan.interface,
                count=ended,
            )

    @property
    def _eager(self) -> bool:
        return sum(last - first + 1 for first, last in self.plan.vpns) <= EAGER_VPNS

    def _serve_all(self) -> None:
        """Serve every VPN at once that need not wait until it is asked for."""
        if self._eager:
            for first, last in self.plan.vpns:
                for index in range(first, last + 1):
                    if index not in self.vpns:
                        self._serve(index)

    def serve(self, vpn_id: VPNID) -> bool:
        """Whether this hub serves a VPN; one of a wide range is made when first asked for."""
        index = vpn_id.index
        if vpn_id.oui != self._oui or not _named(self.plan, index):
            return False
        if index in self.vpns:
            return True
        if len(self.vpns) >= MAX_VPNS:
            self._metrics.dropped("vpns_full").inc()
            return False
        self._serve(index)
        return True

    def _serve(self, index: int) -> None:
        self.vpns[index] = HubVPN(
            vpn_id=VPNID(self._oui, index),
            speaker_plan=self._speaker_plan,
            speaker=self._speaker,
            dataplane=self.dataplane,
            owners=self._owners,
            admission=self._admission,
            clock=self._clock,
            jitter=self._jitter,
            ids=self._ids,
            metrics=self._metrics,
            watcher=CacheWatcher(self._watchers, index, self.plan.interface, self._clock),
            routes=self._routes(index),
            on_refused=partial(self._registration_refused, index),
        )

    def _routes(self, index: int) -> PrefixTable[bytes]:
        """The servers to ask about MACs of a VPN."""
        return PrefixTable(
            (each.protocol, each.prefix_length, each.nhs)
            for each in self.plan.routes
            if each.vpns is None or each.vpns[0] <= index <= each.vpns[1]
        )

    def _registration_refused(self, vpn: int, station: bytes, nbma: bytes, code: int) -> None:
        self._journal.note(
            "refused", vpn, station, nbma, interface=self.plan.interface, detail=refusal(code)
        )

    def _age(self) -> None:
        self._ageing = self._clock.callLater(AGEING_INTERVAL, self._age)
        if not self._eager:
            self._retire()
        answered = {
            index: [mac for mac, _ in vpn.server.answered()] for index, vpn in self.vpns.items()
        }
        self.dataplane.age(AGEING_TIME, {index: macs for index, macs in answered.items() if macs})
        self._reconcile()

    def _retire(self) -> None:
        """Let go of VPNs made on demand that nobody is registered in: there is room for few."""
        for index in [index for index, vpn in self.vpns.items() if not len(vpn.cache)]:
            self.vpns.pop(index).close(remove=True)

    def _reconcile(self) -> None:
        """Compare all answers with the switch's table, in slices that leave the reactor free.

        One comparison at a time, and once more after it if more was lost meanwhile: however many
        events are lost, every answer gets its turn.
        """
        self._compare_again = True
        if not self._comparing:
            self._comparing = True
            self._cooperator.cooperate(self._comparison())

    def _comparison(self) -> Iterator[None]:
        try:
            while self._compare_again:
                self._compare_again = False
                for vpn in list(self.vpns.values()):
                    yield from vpn.reconcile()
        finally:
            self._comparing = False

    # --- events of the switch (IHubListener) --------------------------------------------------

    def mac_learned(self, vpn: int, mac: bytes, vtep: VTEP) -> None:
        """Counted and told to watchers; the binding itself lives in the switch only."""
        self._learned.inc()
        self._note("learned", vpn, mac, vtep)
        self._tell("learned", vpn, mac, vtep)

    def mac_moved(self, vpn: int, mac: bytes, old: VTEP | None, new: VTEP) -> None:
        """Whoever was told the old place must hear of it now."""
        self._moved.inc()
        self._note("moved", vpn, mac, new, "" if old is None else f"was at {old}")
        self._tell("moved", vpn, mac, new)
        hub_vpn = self.vpns.get(vpn)
        if hub_vpn is not None:
            hub_vpn.moved(mac)
            if self._complaints.due(mac):
                self.log.info(
                    "vpn {vpn}: {mac} moved to {vtep}",
                    vpn=vpn,
                    mac=format_address(mac),
                    vtep=str(new),
                )

    def _note(
        self,
        event: str,
        vpn: int | None = None,
        mac: bytes = b"",
        vtep: VTEP | None = None,
        why: str = "",
    ) -> None:
        nbma, vni = (vtep.nbma, vtep.vni) if vtep is not None else (b"", None)
        self._journal.note(event, vpn, mac, nbma, vni, interface=self.plan.interface, detail=why)

    def _tell(self, event: str, vpn: int, mac: bytes, vtep: VTEP) -> None:
        if self._watchers:
            self._watchers.tell(
                {
                    "event": event,
                    "vpn": vpn,
                    "protocol": format_address(mac),
                    "type": "learned",
                    **place(vtep),
                    "expires_in": int(AGEING_TIME),
                    "flags": [],
                    "interface": self.plan.interface,
                }
            )

    def mac_aged(self, vpn: int, mac: bytes) -> None:
        """Nobody had been answered for it, so nobody is told."""
        self._aged.inc()
        self._note("aged", vpn, mac)

    def limit_reached(self, vpn: int) -> None:
        """The VPN's table is full: more MACs are flooded, not learned."""
        self._limited.inc()
        self._note("table-full", vpn)
        self.log.warn("vpn {vpn}: the table of learned MACs is full", vpn=vpn)

    def sender_refused(self, vtep: VTEP) -> None:
        """Somebody who is not registered sends us frames."""
        self._refused.inc()
        if self._complaints.due(vtep.nbma):
            self._note("refused", vtep=vtep, why=FRAMES_REFUSED)
            self.log.warn(
                "{ifname}: frames of {vtep} dropped: it has not registered",
                ifname=self.plan.interface,
                vtep=str(vtep),
            )

    def events_lost(self) -> None:
        """The table is the truth: compare what we have answered with it."""
        self._lost.inc()
        self._note("events-lost")
        self._reconcile()


def _named(plan: HubPlan, index: int) -> bool:
    """Whether a hub serves a VPN."""
    return any(first <= index <= last for first, last in plan.vpns)
