"""The hub role: a switch and the next hop servers of the VPNs on it. Layer: role.

Here is what a hub interface does for all its VPNs: it makes and retires them, adopts what an
earlier run left in the switch, ages MACs, and hears the switch's events. `hub_vpn` is one VPN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, format_address
from dmevpn.config.model import HubPlan, SpeakerPlan
from dmevpn.config.switch import rules
from dmevpn.interfaces import IHubDataplane, IHubListener
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.prefixes import PrefixTable
from dmevpn.nhrp.records import refusal
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.server import NextHopServer
from dmevpn.nhrp.speaker import Speaker
from dmevpn.roles.admission import Admission
from dmevpn.roles.amnesia import AMNESIA
from dmevpn.roles.answer_journal import Answer, Record
from dmevpn.roles.comparison import Comparison
from dmevpn.roles.drain import Drain
from dmevpn.roles.hub_vpn import HubVPN
from dmevpn.roles.loops import LoopWatch
from dmevpn.roles.owners import VTEPOwners
from dmevpn.roles.recollection import Departed
from dmevpn.roles.rows import REGISTRATION_EVENTS, CacheWatcher, Watchers, place
from dmevpn.roles.shared import Shared
from dmevpn.roles.troubles import Troubles
from dmevpn.roles.trunks import TrunkTable
from dmevpn.roles.turned_away import TurnedAway
from dmevpn.roles.turns import Turns

__all__ = ["HubRole"]

#: Seconds without a frame after which a MAC that nobody has asked for is forgotten; also what
#: the switch itself takes for stale. The same 300 s as of a Linux bridge.
AGEING_TIME = 300.0
#: Seconds between two rounds of ageing and comparing with the switch's table.
AGEING_INTERVAL = 30.0
#: VPNs of a hub interface that are made at start; those of wider ranges when first registered, and
#: they go when nobody is registered any more.
EAGER_VPNS = 1024
#: VPNs that one hub interface serves, however many its ranges name: each takes kernel memory.
MAX_VPNS = 4096


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
        machine_id: bytes,
        keepalives: Keepalives,
        watchers: Watchers,
        recalled: dict[int, list[Answer]] | None = None,
        departed: dict[int, list[Departed]] | None = None,
        exact: bool = False,
        recorder: Callable[[str, int], Record | None] = lambda interface, vpn: None,
    ) -> None:
        self.plan = plan
        self.dataplane = dataplane
        self.vpns: dict[int, HubVPN] = {}
        self._oui = oui
        self._speaker_plan = speaker_plan
        self._speaker = speaker
        self._owners = owners
        self._machine_id = machine_id
        self._keepalives = keepalives
        self._trunks = TrunkTable(plan.trunks)
        self._admission = Admission(plan.admission, owners, clock, metrics, self._trunks)
        self._turns = Turns(clock)
        self._comparison = Comparison(self._turns, self.vpns)
        self.drain = Drain(
            interface=plan.interface,
            vpns=self.vpns,
            admission=self._admission,
            clock=clock,
            turns=self._turns,
            note=lambda event, why: self._note(event, why=why),
        )
        self._clock = clock
        self._jitter = jitter
        self._ids = ids
        self._metrics = metrics
        self._shared = Shared.among_vpns(clock, metrics)
        self._watchers = watchers
        self._journal = watchers.journal
        self._recalled = recalled or {}
        #: Who had left our predecessor when it was drained.
        self._departed = {
            (index, each.vtep): each for index, some in (departed or {}).items() for each in some
        }
        self._exact = exact
        self._recorder = recorder
        self._recalled_until = clock.seconds() + AMNESIA if recalled else 0.0
        self._ageing: Any = None
        self.turned_away = TurnedAway(clock, metrics, oui, self._server_of)
        self._complaints = Complaints(clock, metrics)
        self._learned = metrics.counter("macs_learned", interface=plan.interface)
        self._moved = metrics.counter("macs_moved", interface=plan.interface)
        self._aged = metrics.counter("macs_aged", interface=plan.interface)
        self._troubles = Troubles(clock, self._journal, metrics, plan.interface)
        self.loops = LoopWatch(
            clock,
            dataplane,
            metrics,
            vpns=lambda: tuple(self.vpns),
            members=self._members,
            count=lambda: sum(len(vpn.members) for vpn in self.vpns.values()),
            found=self._troubles.loop_found,
            over=self._troubles.loop_over,
        )
        self._lost = metrics.counter("switch_events_lost", interface=plan.interface)

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Load or adopt the switch, serve the VPNs, take up the members it has kept.

        :raises StartError: if the data plane cannot start.
        """
        self.dataplane.start(self)
        self._know()
        self._serve_all()
        adopted = 0
        for index, vtep, local, registration in self.dataplane.adopted():
            left = registration.expires - self._clock.seconds()
            vni = self._trunks.vni(index, vtep.nbma)
            permitted = (
                self._admission.permits(index, vtep, vtep.nbma, None)
                # Somebody may have become a hub, or be none any more.
                and (vni is None or vni == vtep.vni)
                and registration.hub is (vni is not None)
            )
            if left >= 1 and permitted and self.serve(VPNID(self._oui, index)):
                departed = self._departed.pop((index, vtep), None)
                if departed is not None:
                    self.vpns[index].lingering.add(departed)
                else:
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
        self._call_back()
        if self._recalled_until:
            self._comparison.begin()
        self._ageing = self._clock.callLater(AGEING_INTERVAL, self._age)
        self.loops.start(self.plan.switch.loop_probe)

    def _call_back(self) -> None:
        """Tell those who had left our predecessor that there is a hub again."""
        for (index, vtep), departed in self._departed.items():
            is_site = self._trunks.vni(index, vtep.nbma) is None
            if is_site and self.serve(VPNID(self._oui, index)):
                self.vpns[index].lingering.add(departed, member=False)
        self._departed.clear()
        if self.drain.left:
            self.drain.call_back()

    def _members(self, index: int) -> Iterator[VTEP]:
        """The members of a VPN, which may change while it is read."""
        vpn = self.vpns.get(index)
        if vpn is not None:
            for vtep in list(vpn.members):
                if vtep in vpn.members:
                    yield vtep

    def stop(self) -> Deferred[None]:
        """Answer no more, detach the switch, take the device down if it is ours."""
        self._end()
        for vpn in self.vpns.values():
            vpn.close(remove=False)
        self.vpns.clear()
        self._speaker.known.claim(self, ())
        stopped: Deferred[None] = self.dataplane.stop()
        return stopped

    def hand_over(self) -> None:
        """Answer no more, and leave the switch with its members as it is to a successor."""
        self._end()
        for vpn in self.vpns.values():
            vpn.hand_over()
        self.vpns.clear()
        self.dataplane.hand_over()

    def _end(self) -> None:
        if self._ageing is not None:
            self._ageing.cancel()
            self._ageing = None
        self.loops.stop()
        self.drain.close()
        self._turns.stop()

    abandon = stop

    def leave(self, plan: HubPlan) -> None:
        """Serve the VPNs no more that a new plan does not name: others may serve them then."""
        for index in [index for index in self.vpns if not _named(plan, index)]:
            self.vpns.pop(index).close(remove=True)

    def change(self, plan: HubPlan) -> None:
        """Serve other VPNs, by other servers and rules, and admit others, from now on; who stays
        is not touched.

        :param plan: differs in nothing else.
        :raises DataplaneError: if there is no room for a VPN.
        """
        self.leave(plan)
        self._trunks = TrunkTable(plan.trunks)
        self._admission.set(plan.admission, self._trunks)
        if plan.admission != self.plan.admission:
            self._expel()
        old, self.plan = self.plan, plan
        self._know()
        for index, vpn in self.vpns.items():
            vpn.set_servers(self._routes(index), self._trunks.of(index))
            if plan.switch != old.switch:
                self.dataplane.add_vpn(index, rules(plan.switch, index))
        self.loops.start(plan.switch.loop_probe)
        self._serve_all()
        self._turns.run(self.turned_away.call())

    def _know(self) -> None:
        """Sites that the file names by their address, and servers, need not register to be more
        than strangers."""
        sites = [each.nbma for each in self.plan.admission.permits if each.nbma is not None]
        peers = [nbma for nbma, bits in sites if bits == 8 * len(nbma)]
        servers = [each.nhs for each in self.plan.routes]
        hubs = [each.address for each in self.plan.trunks]
        self._speaker.known.claim(self, [*peers, *servers, *hubs])

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

    def serve(self, vpn_id: VPNID, asker: bytes = b"") -> bool:
        """Whether this hub serves a VPN; one of a wide range is made when first asked for.

        :param asker: underlay address of who wants to register. For another hub alone no VPN is
            made: a trunk without sites is good for nothing, and would keep itself alive.
        """
        index = vpn_id.index
        if vpn_id.oui != self._oui or not _named(self.plan, index):
            return False
        if index in self.vpns:
            return True
        if self._trunks.vni(index, asker) is not None:
            return False
        if len(self.vpns) >= MAX_VPNS:
            self._metrics.dropped("vpns_full").inc()
            return False
        self._serve(index)
        return True

    def _server_of(self, vpn_id: VPNID, asker: bytes) -> NextHopServer | None:
        return self.vpns[vpn_id.index].server if self.serve(vpn_id, asker) else None

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
            shared=self._shared,
            watcher=CacheWatcher(self._watchers, index, self.plan.interface, self._clock),
            routes=self._routes(index),
            rules=rules(self.plan.switch, index),
            trunks=self._trunks.of(index),
            machine_id=self._machine_id,
            keepalives=self._keepalives,
            on_refused=partial(self._registration_refused, index),
            on_trunk=partial(self._trunk_changed, index),
        )
        self.vpns[index].remember(
            self._recalled.pop(index, ()),
            exact=self._exact,
            record=self._recorder(self.plan.interface, index),
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

    def _trunk_changed(self, vpn: int, client: RegistrationClient, old: State, new: State) -> None:
        if new is not old:
            self._journal.note(
                REGISTRATION_EVENTS[new],
                vpn,
                nbma=client.nhs,
                interface=self.plan.interface,
                detail=client.last_error or "",
            )

    def _age(self) -> None:
        self._ageing = self._clock.callLater(AGEING_INTERVAL, self._age)
        if not self._eager:
            self._retire()
        answered = {index: vpn.in_use() for index, vpn in self.vpns.items()}
        self.dataplane.age(AGEING_TIME, {index: macs for index, macs in answered.items() if macs})
        self._turns.run(self.turned_away.call())
        self._comparison.begin()

    def _retire(self) -> None:
        """Let go of VPNs made on demand that nobody is registered in: there is room for few."""
        for index in [index for index, vpn in self.vpns.items() if vpn.is_idle()]:
            self.vpns.pop(index).close(remove=True)

    # --- events of the switch (IHubListener) --------------------------------------------------

    def mac_learned(self, vpn: int, mac: bytes, vtep: VTEP) -> None:
        """Counted and told to watchers; the binding itself lives in the switch only."""
        self._learned.inc()
        if self._recalled_until and vpn in self.vpns:
            self._compare_recalled(vpn, mac)
        self._note("learned", vpn, mac, vtep)
        self._tell("learned", vpn, mac, vtep)

    def _compare_recalled(self, vpn: int, mac: bytes) -> None:
        """A switch that was made anew learns as new what has moved since the answers were given."""
        if self._clock.seconds() < self._recalled_until:
            self.vpns[vpn].learned(mac)
        else:
            self._recalled_until = 0.0

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

    def mac_held(
        self, vpn: int, mac: bytes, vtep: VTEP, other: VTEP | None, seconds: float
    ) -> None:
        """It stays where it is held: whoever was told another place hears of it, once."""
        self._troubles.held(vpn, mac, vtep, other, seconds)
        self._tell("held", vpn, mac, vtep)
        hub_vpn = self.vpns.get(vpn)
        if hub_vpn is not None:
            hub_vpn.moved(mac)
        self.loops.suspect(vpn, vtep, other)

    def move_refused(self, vpn: int, mac: bytes, owner: VTEP | None, vtep: VTEP) -> None:
        """A sticky MAC sends from another site than its own."""
        self._troubles.move_refused(vpn, mac, owner, vtep)

    def flood_limited(self, vpn: int, vtep: VTEP) -> None:
        """A site has more to flood than it may."""
        self._troubles.flood_limited(vpn, vtep)
        self.loops.suspect(vpn, vtep)

    def limit_reached(self, vpn: int, vtep: VTEP | None) -> None:
        """A table is full: more MACs are flooded, not learned."""
        self._troubles.limit_reached(vpn, vtep)

    def loop_seen(self, vpn: int, origin: VTEP | None, vtep: VTEP) -> None:
        """A probe of ours came back."""
        self.loops.seen(vpn, origin, vtep)

    def sender_refused(self, vtep: VTEP) -> None:
        """Somebody who is not registered sends us frames."""
        self._troubles.stranger(vtep)

    def mtu_changed(self, mtu: int) -> None:
        """Say so in what we answer from now on."""
        for vpn in self.vpns.values():
            vpn.identity.mtu = mtu

    def entries_repaired(self, count: int) -> None:
        """Somebody changed what the switch knows of members; the driver has put it right."""
        self._note("repaired", why=f"{count} entries differed from what they should be")

    def devices_repaired(self, faults: str) -> None:
        """Somebody changed the device; the driver has put it right."""
        self._note("device-mended", why=faults)

    def events_lost(self) -> None:
        """The table is the truth: compare what we have answered with it."""
        self._lost.inc()
        self._note("events-lost")
        self._comparison.begin()


def _named(plan: HubPlan, index: int) -> bool:
    """Whether a hub serves a VPN."""
    return any(first <= index <= last for first, last in plan.vpns)
