"""One VPN at a hub: its registrations, its next hop server, its members. Layer: role.

The switch learns, floods and forwards by itself. This module tells it who is a member (whoever
is registered), and tells clients that were given an answer when the answer is no longer true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path, format_address
from dmevpn.config.model import SpeakerPlan
from dmevpn.interfaces import (
    ICacheListener,
    IHubDataplane,
    LearnedMAC,
    Registration,
    VPNRules,
)
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.answered import LEARNED_HOLDING_TIME
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.nhrp.transit import Transit
from dmevpn.roles.absence import Absences, macs_at
from dmevpn.roles.admission import Admission
from dmevpn.roles.amnesia import Amnesia
from dmevpn.roles.answer_journal import Answer, Record
from dmevpn.roles.lingering import Lingering
from dmevpn.roles.mtu import MTUComparison
from dmevpn.roles.owners import VTEPOwners
from dmevpn.roles.recollection import Departed
from dmevpn.roles.rows import CacheWatcher
from dmevpn.roles.shared import Shared
from dmevpn.roles.takeover import TakeoverGuard
from dmevpn.roles.trunks import Trunks

__all__ = ["HubVPN"]

#: A registration that the switch keeps for our successor may end this part of its holding time
#: too early: noting every renewal would be half of what a renewal costs.
_NOTE_SLACK = 8
#: MACs of one VPN behind other hubs that are kept from ageing: what the switch's table holds.
#: One more only ages, and is flooded for until it speaks.
PASSED_MACS = 16384


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
        shared: Shared,
        watcher: CacheWatcher,
        routes: PrefixTable[bytes],
        rules: VPNRules,
        trunks: dict[bytes, int],
        machine_id: bytes,
        keepalives: Keepalives,
        on_refused: Callable[[bytes, bytes, int], None],
        on_trunk: Callable[[RegistrationClient, State, State], None],
    ) -> None:
        self.vpn_id = vpn_id
        self.cache = Cache(clock, metrics, room=shared.bindings)
        self.members: dict[VTEP, set[bytes]] = {}
        #: The registration of each member that the switch keeps for our successor.
        self._kept: dict[VTEP, Registration] = {}
        #: So that one that comes and goes cannot fill the log.
        self._joined, self._left = shared.joined, shared.left
        self._mtus = MTUComparison(shared.mtus, metrics, vpn_id.index, dataplane.interface)
        self._exact = False
        self.amnesia = Amnesia(
            clock,
            lambda macs, reason: self.server.invalidate_all(macs, reason, self._stations()),
            metrics.counter("amnesia_full", vpn=str(vpn_id.index)),
        )
        self._speaker = speaker
        self._speaker_plan = speaker_plan
        self._dataplane = dataplane
        self._owners = owners
        self._admission = admission
        self._on_trunk = on_trunk
        #: MACs behind other hubs that we have passed requests on about, and until when an answer
        #: may be in use: their traffic takes shortcuts that the switch does not see.
        self._passed: dict[bytes, float] = {}
        self._passed_full = metrics.counter("passed_on_full", vpn=str(vpn_id.index))
        self._outstanding = Outstanding(clock, jitter, ids, metrics)
        self._link = speaker.link(vpn_id)
        self.identity = identity = Identity(dataplane.station_mac, mtu=dataplane.mtu)
        self.server = NextHopServer(
            clock=clock,
            cache=self.cache,
            outstanding=self._outstanding,
            link=self._link,
            policy=TakeoverGuard(
                admission,
                shared.takeovers,
                metrics,
                members=self.members,
                trunks=lambda: self.trunks.vteps,
                find_mac=self._find_mac,
            ),
            find_mac=self._find_mac,
            vpn=vpn_id.index,
            identity=identity,
            nat_detection=speaker_plan.nat_detection,
            multi_binding=speaker_plan.multi_binding,
            metrics=metrics,
            on_refused=on_refused,
            answered_room=shared.answers,
            complaints=shared.refusals,
        )
        self.lingering = Lingering(self.server.call_back, self._remove_member)
        self._absences = Absences(
            vpn=vpn_id.index,
            clock=clock,
            cache=self.cache,
            server=self.server,
            trunks=lambda: self.trunks,
            dataplane=dataplane,
        )
        self._transit = Transit(
            identity=identity,
            cache=self.cache,
            link=self._link,
            routes=self._servers_for,
            vpn=str(vpn_id.index),
            metrics=metrics,
        )
        self.trunks = Trunks(
            vpn_id=vpn_id,
            station=identity.station,
            machine_id=machine_id,
            keepalives=keepalives,
            speaker_plan=speaker_plan,
            dataplane=dataplane,
            link=self._link,
            outstanding=self._outstanding,
            clock=clock,
            jitter=jitter,
            metrics=metrics,
            on_change=self._trunk_changed,
            on_purge=self._taken_back,
        )
        self.cache.subscribe(self)
        self.cache.subscribe(watcher)
        dataplane.add_vpn(vpn_id.index, rules)
        speaker.attach(vpn_id, self.server)
        speaker.attach(vpn_id, self._transit)
        speaker.attach(vpn_id, self.trunks)
        self.set_servers(routes, trunks)

    def set_servers(self, routes: PrefixTable[bytes], trunks: dict[bytes, int]) -> None:
        """Have these servers and hubs from now on.

        :param routes: whom to pass requests on to which we cannot answer.
        :param trunks: the other hubs of the VPN, and the VNI between us and each.
        """
        self._routes = routes
        before = self.trunks.vteps
        self.trunks.set(trunks)
        self.server.passes_on = self._passes_on if routes or trunks else None
        self.server.servers = self._admission.servers([*routes.values(), *trunks])
        others = before ^ self.trunks.vteps
        if others:
            # Who has become a hub, or is none any more, registers anew; sites are told apart anew.
            self.server.expel(lambda binding: binding.vtep in others)
            for vtep in list(self.members):
                binding = self.cache.registration_of(vtep)
                if binding is not None:
                    self._join(binding, vtep)

    def close(self, *, remove: bool) -> None:
        """Stop answering, and tell every client that it is not registered any more.

        :param remove: take the VPN out of the switch too (its hub interface goes on). What was
            answered is taken back then: no successor will know of it when a station moves.
        """
        self.trunks.close()
        if remove:
            self.server.give_up()
        self.server.dismiss()
        self._end()
        if remove:
            self._dataplane.remove_vpn(self.vpn_id.index)

    def hand_over(self) -> None:
        """Stop answering, and leave clients and members to a successor."""
        self.trunks.hand_over()
        self._end()

    def _end(self) -> None:
        self._speaker.detach(self.vpn_id, self.trunks)
        self._speaker.detach(self.vpn_id, self.server)
        self._speaker.detach(self.vpn_id, self._transit)
        self.cache.unsubscribe(self)
        self._absences.close()
        self.server.close()
        self._outstanding.close()
        self.cache.close()
        for vtep, stations in self.members.items():
            self._owners.unregistered(vtep, len(stations))
            self._owners.release(self.vpn_id.index, vtep)
            self._speaker.known.claim((self.vpn_id, vtep), ())

    def expel(self) -> int:
        """End the registrations that are no longer permitted; how many."""
        return self.server.expel(lambda binding: not self._is_permitted(binding))

    def _is_permitted(self, binding: Binding) -> bool:
        vtep, path = binding.vtep, binding.path
        if vtep is None or path is None:
            return True
        return self._admission.permits(self.vpn_id.index, vtep, path.peer, binding.spi)

    def remember(
        self, answers: Iterable[Answer], *, exact: bool, record: Record | None = None
    ) -> None:
        """Remember what an earlier run has told its clients.

        :param exact: whether that is all that it has.
        :param record: takes what is answered from now on.
        """
        for answer in answers:
            self.server.remember(*answer)
        self._exact = exact
        self.server.record_answers(record)

    def learned(self, mac: bytes) -> None:
        """Purge what an earlier run has answered about a MAC that is found elsewhere now."""
        told = self.server.told(mac)
        if told and self._seen_at(mac) not in (None, *told):
            self.server.invalidate(mac, "moved")

    def adopt(self, vtep: VTEP, local: bytes, registration: Registration) -> None:
        """Take up a member that the switch has kept over our own death."""
        now = self.cache.clock.seconds()
        if not self._exact:
            self.amnesia.begin()
        self.cache.put(
            Binding(
                protocol=registration.station,
                vtep=vtep,
                kind=Kind.DYNAMIC,
                holding_time=int(registration.expires - now),
                expires=registration.expires,
                unique=registration.unique,
                path=Path(vtep.nbma, local, self._speaker_plan.gre_key),
                apart=registration.apart,
            )
        )

    # --- registrations make members (ICacheListener) ----------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """A site registered: admit its frames and flood to it."""
        if binding.kind is Kind.DYNAMIC and binding.vtep is not None:
            self._join(binding, binding.vtep)
            if binding.vtep in self.trunks.vteps:
                self.trunks.heard(binding.vtep.nbma)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A site renewed its registration, or moved to another VTEP."""
        if old.vtep != new.vtep:
            if old.vtep is not None:
                self._leave(old, old.vtep, "moved")
        else:
            if old.kind is new.kind and old.path == new.path and self._noted(new):
                if new.vtep in self.trunks.vteps:
                    self.trunks.heard(new.vtep.nbma)
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
            and kept.apart == self._apart(new)
            and new.expires is not None
            and 0 <= new.expires - kept.expires < new.holding_time / _NOTE_SLACK
        )

    def _join(self, binding: Binding, vtep: VTEP) -> None:
        stations = self.members.get(vtep)
        if stations is None:
            stations = self.members[vtep] = set()
            self._owners.claim(self.vpn_id.index, vtep)
            self._mtus.compare(self._dataplane.mtu, binding.mtu, vtep)
            if self._joined.due(b"%d %b" % (self.vpn_id.index, vtep.nbma)):
                self.log.info(
                    "vpn {vpn}: member {vtep}, station {mac}",
                    vpn=self.vpn_id.index,
                    vtep=str(vtep),
                    mac=format_address(binding.protocol),
                )
            self.lingering.back(vtep)
        if binding.protocol not in stations:
            stations.add(binding.protocol)
            self._owners.registered(vtep)
        expires = binding.expires if binding.expires is not None else float("inf")
        registration = Registration(
            binding.protocol,
            binding.unique,
            expires,
            vtep in self.trunks.vteps,
            self._apart(binding),
        )
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
        if stations is None or binding.protocol not in stations:
            return
        stations.remove(binding.protocol)
        self._owners.unregistered(vtep)
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
        # What was answered about MACs behind another hub names their sites, which are as they were.
        forgetful = self.amnesia and vtep not in self.trunks.vteps
        behind = macs_at(self._dataplane, self.vpn_id.index, vtep) if forgetful else []
        if self.lingering.open and vtep not in self.trunks.vteps:
            path = binding.path or Path(vtep.nbma)
            self.lingering.add(Departed(vtep, binding.protocol, path))
        else:
            self._remove_member(vtep)
        self.server.invalidate_vtep(vtep, reason)
        self.amnesia.tell_everyone(behind, reason)
        if self._left.due(b"%d %b" % (self.vpn_id.index, vtep.nbma)):
            self.log.info(
                "vpn {vpn}: member {vtep} left: {reason}",
                vpn=self.vpn_id.index,
                vtep=str(vtep),
                reason=reason,
            )

    def _remove_member(self, vtep: VTEP) -> None:
        """Give a member no more frames, and forget what was learnt there."""
        self._absences.leaves(vtep)
        self._dataplane.remove_member(self.vpn_id.index, vtep)

    @property
    def sites(self) -> int:
        """Members that are no hubs."""
        return sum(vtep not in self.trunks.vteps for vtep in self.members)

    def recall(self) -> Iterator[None]:
        """Ask the sites to leave, one at each step."""
        return self.server.recall(lambda binding: binding.vtep not in self.trunks.vteps)

    def _apart(self, binding: Binding) -> frozenset[bytes] | None:
        """The hubs whose floods a member has from themselves, of those that there are."""
        if binding.vtep in self.trunks.vteps:
            return None
        return None if binding.apart is None else binding.apart & self.trunks.addresses

    # --- other hubs -------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """Whether no site is registered."""
        return not self.sites and not len(self.lingering)

    def hub_of(self, mac: bytes) -> bytes | None:
        """The underlay address of the hub that a MAC is behind; None: of none, or unknown."""
        vtep = self._seen_at(mac)
        return vtep.nbma if vtep is not None and vtep in self.trunks.vteps else None

    def _seen_at(self, mac: bytes) -> VTEP | None:
        vtep: VTEP | None = self._dataplane.lookup(self.vpn_id.index, mac)
        return vtep

    def _find_mac(self, mac: bytes) -> VTEP | None:
        """Where the NHS says that a MAC is. What is behind another hub, that one may say."""
        vtep = self._seen_at(mac)
        hubs = self.trunks.vteps
        return None if hubs and vtep in hubs else vtep

    def _passes_on(self, mac: bytes) -> bool:
        return bool(self._routes) or self.hub_of(mac) is not None

    def _servers_for(self, mac: bytes) -> list[bytes]:
        """Whom to pass a request on to: the hub that the MAC is behind, else as configured."""
        hub = self.hub_of(mac) if self.trunks.vteps else None
        if hub is None:
            return self._routes.longest(mac)
        if mac in self._passed or len(self._passed) < PASSED_MACS:
            self._passed[mac] = self.cache.clock.seconds() + LEARNED_HOLDING_TIME
        else:
            self._passed_full.inc()
        return [hub]

    def in_use(self) -> list[bytes]:
        """The MACs that somebody may reach by shortcut, as we or another hub have answered."""
        now = self.cache.clock.seconds()
        self._passed = {mac: until for mac, until in self._passed.items() if until > now}
        return [*(mac for mac, _ in self.server.answered()), *self._passed]

    def _trunk_changed(self, client: RegistrationClient, old: State, new: State) -> None:
        """A hub that does not answer is not sent to: its sites, as far as they are ours as well,
        are flooded to instead of it."""
        if new is State.DOWN and old is State.REGISTERED:
            for vtep in self.trunks.vteps:
                if vtep.nbma == client.nhs:
                    for binding in self.cache.registrations_of(vtep):
                        self.cache.drop(binding, "silent")
        self._on_trunk(client, old, new)

    def _taken_back(self, hub: bytes, cies: tuple[CIE, ...]) -> None:
        """A hub that does not know any more whom it has answered tells everybody; our sites may
        have asked it by way of us. And one that has a site tells who may have lost it."""
        self._absences.told(hub, [cie for cie in cies if cie.nbma])
        macs = [cie.protocol for cie in cies]
        passed = [mac for mac in macs if self._passed.pop(mac, None) is not None]
        if passed:
            self.server.invalidate_all(passed, "moved", self._stations())

    def forget(self, entry: LearnedMAC, reason: str) -> None:
        """Have the switch forget where a MAC is, and whoever was told so."""
        self._absences.forgotten(entry.vtep, [entry.mac])
        self._dataplane.forget(self.vpn_id.index, entry.mac)
        self.server.invalidate(entry.mac, reason)

    # --- the switch's word ----------------------------------------------------------------

    def moved(self, mac: bytes) -> None:
        """Purge the old answer for a MAC that now sends from elsewhere."""
        if self.amnesia:
            self.amnesia.tell_everyone([mac], "moved")
        self.server.invalidate(mac, "moved")

    def reconcile(self) -> Iterator[None]:
        """Purge every answer that the switch's table no longer bears out, one at each step."""
        for mac, vteps in self.server.answered():
            found = self._seen_at(mac)
            if found is not None and found not in vteps:
                self.server.invalidate(mac, "moved")
            yield

    def _stations(self) -> Iterator[tuple[bytes, Path]]:
        for binding in self.cache.bindings():
            if binding.kind is Kind.DYNAMIC and binding.path is not None:
                yield binding.protocol, binding.path
