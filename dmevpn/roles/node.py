"""The node: everything that one daemon runs, made and unmade by one method. Layer: role.

``apply(plan)`` is start, reload and stop: it compares the plan with what runs, stops what is
gone, changes what can change while it runs, restarts what cannot and starts what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    gatherResults,
    inlineCallbacks,
    maybeDeferred,
)
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dmevpn.addresses import VPNID, Path
from dmevpn.config.diff import Changes, diff
from dmevpn.config.model import HubPlan, Layer3Plan, NHSPlan, Plan, SpeakerPlan, SpokePlan
from dmevpn.errors import DmevpnError, StartError
from dmevpn.interfaces import IControlDevice
from dmevpn.journal import Journal
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.memories import show_forgotten
from dmevpn.nhrp.packet import Packet
from dmevpn.nhrp.request_ids import RequestIDs
from dmevpn.nhrp.speaker import Speaker
from dmevpn.roles.control import ControlInterface
from dmevpn.roles.drivers import Drivers
from dmevpn.roles.hub import HubRole
from dmevpn.roles.l3 import Layer3Role
from dmevpn.roles.lookup import Addresses, NameWatch, addressed, look_up
from dmevpn.roles.owners import VTEPOwners
from dmevpn.roles.recollection import Keeper, Recollection
from dmevpn.roles.rows import Watchers
from dmevpn.roles.spoke import SpokeRole
from dmevpn.roles.wallclock import WallClock

__all__ = ["STOP_LIMIT", "Drivers", "Node"]

#: Seconds that an orderly stop may take before the daemon ends all the same.
STOP_LIMIT = 2.0


class Node(Service):
    """All speakers and roles of a daemon.

    :ivar plan: what runs.
    :ivar controls: by the names of the control interfaces.
    :ivar leaving: whether a stop leaves what forwards to a successor; None: as
        ``leave-forwarding`` says.
    :param plan: what a start of the service makes true.
    """

    log = Logger()

    def __init__(
        self, *, plan: Plan, clock: IReactorTime, drivers: Drivers, metrics: Metrics
    ) -> None:
        self.clock = clock
        self.metrics = metrics
        self.plan = Plan()
        self.controls: dict[str, ControlInterface] = {}
        self.spokes: dict[str, SpokeRole] = {}
        self.hubs: dict[str, HubRole] = {}
        self.layer3: dict[tuple[str, VPNID | None], Layer3Role] = {}
        self.journal = Journal(clock.seconds, metrics)
        self.watchers = Watchers(self.journal)
        self.wall = WallClock(clock, drivers.wall_clock, self.journal)
        self._wanted = plan
        self._drivers = drivers
        self._ids = RequestIDs(drivers.request_ids)
        self._owners = VTEPOwners(metrics)
        show_forgotten(metrics)
        self._names: dict[str, NameWatch] = {}
        #: Spokes that start when they can, with the addresses of their hubs; why they could not.
        self._put_off: dict[str, tuple[SpokePlan, str]] = {}
        self._keeper = Keeper(self, drivers.state, clock)
        self._recollection = Recollection()
        self._applying = DeferredLock()
        self._stopping = False
        self.leaving: bool | None = None

    @property
    def speakers(self) -> dict[str, Speaker]:
        """By the name of the control interface."""
        return {name: control.speaker for name, control in self.controls.items()}

    @property
    def devices(self) -> dict[str, IControlDevice]:
        """Of the control interfaces that have one, by its name."""
        return {name: each.device for name, each in self.controls.items() if each.device}

    # --- service ------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Start everything.

        :raises StartError: naming what is missing and the cure; ``stopService`` undoes what had
            been started by then.
        """
        self.plan = self._wanted
        self._stopping = False
        self._ids.prepare()
        if self._drivers.scripts is not None:
            self._drivers.scripts.start()
        self.wall.start()
        self._recollection = self._keeper.recall()
        for step in self._steps(diff(Plan(), self.plan), self.plan):
            step()
        self.plan = self._running(self.plan)
        self._keeper.start()

    def startService(self) -> None:
        """Nothing is left to do: sockets and devices want the privileges of the phase before."""
        super().startService()  # type: ignore[no-untyped-call]

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop everything in order; ready after two seconds at the latest.

        What forwards is left to a successor, or not, as :attr:`leaving` says.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        self._keeper.stop()
        if self.plan.leave_forwarding if self.leaving is None else self.leaving:
            self._hand_over()
        self.wall.stop()
        stopping = self.apply(Plan())
        stopping.addTimeout(STOP_LIMIT, self.clock)
        try:
            yield stopping
        except Exception:
            self.log.failure("the stop did not end in order")
        if self._drivers.scripts is not None:
            yield self._drivers.scripts.stop()

    def _hand_over(self) -> None:
        """Have roles stop as if they were killed; what is left then is ours alone."""
        for watch in self._names.values():
            watch.stop()
        self._names.clear()
        self._put_off.clear()
        for roles in (self.spokes, self.layer3, self.hubs):
            for role in roles.values():
                role.hand_over()
            roles.clear()
        self.log.info("forwarding is left to a successor")

    # --- the one way in -------------------------------------------------------------------

    def apply(self, plan: Plan) -> Deferred[None]:
        """Make a plan true, touching only what differs from the running one.

        One plan after the other; none after the one that ends the service.

        :raises StartError: (as a failure) if something of the new plan cannot start: then all is
            as it was before, as far as that can still be had.
        """
        return self._applying.run(self._apply, plan)

    @inlineCallbacks
    def _apply(self, plan: Plan) -> Any:
        if self._stopping and plan != Plan():
            raise DmevpnError("the daemon is stopping")
        before = self.plan
        failures = yield self._turn_to(plan)
        if failures:
            lost = [] if self._stopping else (yield self._turn_to(before))
            for failure in (*failures[1:], *lost):
                self.log.error("{reason}", reason=str(failure))
            raise failures[0]

    @inlineCallbacks
    def _turn_to(self, plan: Plan) -> Any:
        """Stop, change and start what differs; Deferred of why some of it could not be."""
        changes = diff(self.plan, plan)
        yield self._stop_roles(changes)
        failures: list[Exception] = []
        if self._stopping and plan != Plan():
            # Since a moment ago: what is started now would only be taken down.
            changes = Changes()
            failures.append(DmevpnError("the daemon is stopping"))
        for step in self._steps(changes, plan):
            try:
                step()
            except Exception as error:
                failures.append(error)
        self.plan = self._running(plan)
        return failures

    def _running(self, plan: Plan) -> Plan:
        """What of a plan runs, or will when the names of its hubs are known, or our address is."""
        spokes = {*self.spokes, *self._names, *self._put_off}
        return replace(
            plan,
            speakers=tuple(each for each in plan.speakers if each.interface in self.controls),
            hubs=tuple(each for each in plan.hubs if each.interface in self.hubs),
            spokes=tuple(each for each in plan.spokes if each.interface in spokes),
            layer3=tuple(e for e in plan.layer3 if (e.interface, e.vpn) in self.layer3),
        )

    def _steps(self, changes: Changes, plan: Plan) -> Iterator[Callable[[], None]]:
        """How to change what goes on, and to start what is new: speakers, hubs, layer 3, spokes."""
        for _, speaker in changes.speakers.changed:
            yield partial(self._change_speaker, speaker)
        for speaker in changes.speakers.to_start:
            yield partial(self._start_speaker, speaker, plan.oui)
        for _, hub in changes.hubs.changed:
            yield partial(self.hubs[hub.interface].change, hub)
        for hub in changes.hubs.to_start:
            yield partial(self._start_hub, hub, plan.oui)
        for layer3 in changes.layer3.to_start:
            yield partial(self._start_layer3, layer3)
        for _, spoke in changes.spokes.changed:
            yield partial(self._change_spoke, spoke)
        for spoke in changes.spokes.to_start:
            yield partial(self._start_spoke, spoke)

    def _start_speaker(self, plan: SpeakerPlan, oui: bytes) -> None:
        control = ControlInterface(
            plan=plan,
            oui=oui,
            drivers=self._drivers,
            clock=self.clock,
            metrics=self.metrics,
            journal=self.journal,
            unknown_vpn=self._unknown_vpn(plan.interface),
            before_answers=self._keeper.write_answers,
            readdressed=partial(self._readdressed, plan.interface),
        )
        self._recollection.recall_peers(plan.interface, control.peers)
        control.start()
        self.controls[plan.interface] = control

    def _change_speaker(self, plan: SpeakerPlan) -> None:
        """Let a speaker go on by a new plan, which the roles that use it see, too."""
        self.controls[plan.interface].change(plan)
        for spoke in self.spokes.values():
            if spoke.plan.controller == plan.interface:
                spoke.set_holding_time(plan.holding_time)
        for layer3 in self.layer3.values():
            if layer3.plan.interface == plan.interface:
                layer3.set_holding_time(plan.holding_time)

    def _control_of(self, controller: str, interface: str) -> ControlInterface:
        """A control interface.

        :param interface: who wants to use it.
        :raises StartError: if it does not run.
        """
        control = self.controls.get(controller)
        if control is None:
            raise StartError(f"interface {interface}: its controller {controller} does not run")
        return control

    def _start_hub(self, plan: HubPlan, oui: bytes) -> None:
        control = self._control_of(plan.controller, plan.interface)
        speaker_plan = control.plan_now
        hub = HubRole(
            plan=plan,
            oui=oui,
            speaker_plan=speaker_plan,
            speaker=control.speaker,
            dataplane=self._drivers.hub_dataplane(plan, speaker_plan),
            owners=self._owners,
            clock=self.clock,
            jitter=self._drivers.jitter,
            ids=self._ids,
            metrics=self.metrics,
            machine_id=self._drivers.machine_id,
            keepalives=control.keepalives,
            watchers=self.watchers,
            recalled=self._recollection.answers(plan.interface),
            departed=self._recollection.departed(plan.interface),
            exact=self._recollection.exact,
            recorder=self._keeper.recorder,
        )
        self._start(hub)
        self.hubs[plan.interface] = hub

    def _start_layer3(self, plan: Layer3Plan) -> None:
        # Unlike the others, it follows the device itself.
        control = self._control_of(plan.interface, plan.interface)
        layer3 = Layer3Role(
            plan=plan,
            speaker_plan=control.plan,
            speaker=control.speaker,
            dataplane=self._drivers.layer3_dataplane(plan, control.plan, control.device),
            clock=self.clock,
            jitter=self._drivers.jitter,
            ids=self._ids,
            metrics=self.metrics,
            watchers=self.watchers,
            resolve_host=self._drivers.resolve_host,
            events=control.events,
        )
        self._start(layer3)
        self.layer3[plan.interface, plan.vpn] = layer3

    def _start_spoke(self, plan: SpokePlan) -> None:
        if any(server.address is None for server in plan.servers):
            self._watch_names(plan)
        else:
            self._start_known(plan)

    def _change_spoke(self, plan: SpokePlan) -> None:
        """Other servers; until the names of some have addresses, those of before."""
        names = self._names.pop(plan.interface, None)
        if names is not None:
            names.stop()
        spoke = self.spokes.get(plan.interface)
        if spoke is None or any(server.address is None for server in plan.servers):
            self._start_spoke(plan)
        else:
            spoke.set_servers(plan.servers)
            self._know(plan)

    def _know(self, plan: SpokePlan, *, running: bool = True) -> None:
        """The servers of a spoke are no strangers."""
        control = self.controls.get(plan.controller)
        if control is not None:
            servers = [each.address for each in plan.servers if each.address] if running else []
            control.speaker.known.claim(plan.interface, servers)

    def _start_known(self, plan: SpokePlan) -> None:
        """Start a spoke, every server of which has an address."""
        control = self._control_of(plan.controller, plan.interface)
        speaker_plan = control.plan_now
        spoke = SpokeRole(
            plan=plan,
            speaker_plan=speaker_plan,
            speaker=control.speaker,
            keepalives=control.keepalives,
            pace=control.pace,
            dataplane=self._drivers.spoke_dataplane(plan, speaker_plan),
            clock=self.clock,
            jitter=self._drivers.jitter,
            ids=self._ids,
            metrics=self.metrics,
            machine_id=self._drivers.machine_id,
            watchers=self.watchers,
            recalled=self._recollection.registered(plan.interface),
            on_readdressed=partial(self._readdressed, plan.controller, plan.interface),
        )
        self._start(spoke)
        self.spokes[plan.interface] = spoke
        self._put_off.pop(plan.interface, None)
        self._know(plan)

    def _readdressed(self, controller: str, interface: str | None) -> None:
        """Start a spoke, or all of a control interface, at the address that is ours now."""
        done = self._applying.run(self._start_anew, controller, interface)
        done.addErrback(lambda failure: self.log.failure("cannot start at our address", failure))

    def _start_anew(self, controller: str, interface: str | None) -> None:
        plans = [each for each in self.plan.spokes if each.controller == controller]
        if self._stopping or controller not in self.controls:
            return
        for plan in plans:
            if interface in (None, plan.interface) and plan.interface in self.spokes:
                self.log.info("{ifname}: our address has changed", ifname=plan.interface)
                self.journal.note("readdressed", plan.vpn.index, interface=plan.interface)
                spoke = self.spokes.pop(plan.interface)
                spoke.release()
                self._put_off[plan.interface] = spoke.plan, ""
        for plan in plans:
            if plan.interface in self._put_off:
                self._try_to_start(self._put_off[plan.interface][0])

    def _try_to_start(self, plan: SpokePlan) -> None:
        """Start a spoke, or try again in a while: our address, or the way to its hub, may come."""
        try:
            self._start_known(plan)
            return
        except DmevpnError as error:
            reason = str(error)
        _, before = self._put_off.get(plan.interface, (plan, ""))
        self._put_off[plan.interface] = plan, reason
        if reason != before:
            self.log.error("{reason}", reason=reason)
        if plan.controller in self.controls:
            self.controls[plan.controller].readdressing.retry()

    def _watch_names(self, plan: SpokePlan) -> None:
        """Start a spoke once the names of its hubs have addresses, and follow these."""
        speaker_plan = self._control_of(plan.controller, plan.interface).plan_now
        names = [server.host for server in plan.servers if server.address is None]
        # All addresses of a spoke are of one family.
        used = self._servers_in_use(plan.interface) or plan.servers
        known = [server.address for server in used]
        known.append(speaker_plan.nbma_address)
        family = next((len(address) for address in known if address is not None), None)

        def resolve(name: str) -> Deferred[tuple[bytes, ...]]:
            control = self.controls.get(plan.controller)
            device = control.device if control is not None else None
            return look_up(name, device, lambda host: self._drivers.resolve_host(host, family))

        def changed(addresses: Addresses) -> None:
            used = self._servers_in_use(plan.interface)
            found = replace(plan, servers=addressed(plan.servers, addresses, used))
            spoke = self.spokes.get(plan.interface)
            if spoke is not None:
                spoke.set_servers(found.servers)
                self._know(found)
                return
            if plan.interface in self._put_off:
                self._put_off[plan.interface] = found, self._put_off[plan.interface][1]
                return
            self._try_to_start(found)

        watch = self._names[plan.interface] = NameWatch(names, resolve, self.clock, changed)
        watch.start()

    def _servers_in_use(self, interface: str) -> tuple[NHSPlan, ...]:
        """Those of a spoke that runs, or did a moment ago."""
        spoke = self.spokes.get(interface)
        if spoke is not None:
            return spoke.plan.servers
        return self._put_off[interface][0].servers if interface in self._put_off else ()

    @staticmethod
    def _start(role: SpokeRole | HubRole | Layer3Role) -> None:
        try:
            role.start()
        except BaseException:
            role.abandon()
            raise

    def _stop_roles(self, changes: Changes) -> Deferred[Any]:
        """Stop what is gone or changed: roles while their speakers still send for them."""
        roles: list[Deferred[None]] = []
        for spoke_plan in changes.spokes.to_stop:
            names = self._names.pop(spoke_plan.interface, None)
            if names is not None:
                names.stop()
            spoke = self.spokes.pop(spoke_plan.interface, None)
            put_off = self._put_off.pop(spoke_plan.interface, None)
            self._know(spoke_plan, running=False)
            if spoke is not None:
                roles.append(self._ended(spoke.stop))
            elif names is not None or put_off is not None:
                # It waits for its start, while its devices forward as they were left.
                roles.append(self._ended(partial(self._drivers.take_down, spoke_plan)))
        for _, hub in changes.hubs.changed:
            self._ended(partial(self.hubs[hub.interface].leave, hub))
        gone: list[Layer3Role | HubRole | None] = []
        gone += [self.layer3.pop((e.interface, e.vpn), None) for e in changes.layer3.to_stop]
        gone += [self.hubs.pop(e.interface, None) for e in changes.hubs.to_stop]
        roles += [self._ended(role.stop) for role in gone if role is not None]

        def stop_speakers(_: object) -> Deferred[Any]:
            names = [plan.interface for plan in changes.speakers.to_stop]
            gone = [self.controls.pop(name) for name in names if name in self.controls]
            return gatherResults([self._ended(control.stop) for control in gone])

        return gatherResults(roles).addCallback(stop_speakers)

    def _ended(self, stop: Callable[[], Any]) -> Deferred[Any]:
        """Stop something; a fault of it is said, and keeps nothing else from being stopped."""

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, CancelledError):
                self.log.warn("a part takes too long to stop: going on without it")
            elif isinstance(failure.value, DmevpnError):
                self.log.error("{reason}", reason=str(failure.value))
            else:
                self.log.failure("a part did not stop", failure)

        done: Deferred[Any] = maybeDeferred(stop)
        return done.addErrback(failed)

    # --- VPNs on demand ---------------------------------------------------------------------

    def _unknown_vpn(self, controller: str) -> Callable[[VPNID, Packet, Path], bool]:
        """What a speaker asks when a station registers in a VPN that nothing is attached to."""

        def serve(vpn_id: VPNID, packet: Packet, path: Path) -> bool:
            hubs = [hub for hub in self.hubs.values() if hub.plan.controller == controller]
            if any(hub.serve(vpn_id, path.peer) for hub in hubs):
                return True
            for hub in hubs:
                hub.turned_away.note(vpn_id, packet.source_protocol, path)
            return False

        return serve
