"""A control interface that runs: its device, its speaker, and what goes with them. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VPNID, Path
from dmevpn.config.model import SpeakerPlan
from dmevpn.journal import Journal
from dmevpn.metrics import Metrics
from dmevpn.nhrp.keepalive import Keepalives
from dmevpn.nhrp.naming import Naming
from dmevpn.nhrp.packet import Packet
from dmevpn.nhrp.peers import Peer, Peers, peer_of
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.nhrp.speaker import Speaker
from dmevpn.roles.authentication import make_authenticator
from dmevpn.roles.drivers import Drivers
from dmevpn.roles.pace import Pace
from dmevpn.roles.readdressing import Readdressing
from dmevpn.roles.script_events import InterfaceEvents

__all__ = ["ControlInterface"]


class ControlInterface:
    """Speaks NHRP for the roles that name it.

    :ivar plan: as the file says.
    :ivar device: the kernel GRE device; None: its transport has none.
    :ivar events: tells the operator's script; None: there is none.
    :ivar peers: who is not like us. To be filled with what is recalled before the start.
    :param unknown_vpn: asked when a station registers in a VPN that nothing is attached to.
    :param before_answers: see :class:`~dmevpn.nhrp.speaker.Speaker`.
    :param readdressed: see :class:`~dmevpn.roles.readdressing.Readdressing`.
    """

    def __init__(
        self,
        *,
        plan: SpeakerPlan,
        oui: bytes,
        drivers: Drivers,
        clock: IReactorTime,
        metrics: Metrics,
        journal: Journal,
        unknown_vpn: Callable[[VPNID, Packet, Path], bool],
        before_answers: Callable[[], None],
        readdressed: Callable[[str | None], None],
    ) -> None:
        self.plan = plan
        self.device = drivers.control_device(plan)
        self.keepalives = Keepalives(clock, drivers.jitter, metrics, *_keepalive(plan))
        self.pace = Pace(clock)
        self.peers = Peers(clock, metrics)
        self.peers.claim(self, _peers(plan))
        self.events: InterfaceEvents | None = None
        if drivers.scripts is not None:
            self.events = InterfaceEvents(drivers.scripts, plan.interface, plan.gre_key)
        self._oui = oui
        self._drivers = drivers
        self._clock = clock
        self._metrics = metrics
        self._journal = journal
        self._guard = ReplayGuard(clock, metrics)
        self._unknown_vpn = unknown_vpn
        self._before_answers = before_answers
        self._readdressed = readdressed

    @property
    def plan_now(self) -> SpeakerPlan:
        """The plan, with what the device says in place of the file."""
        if self.device is None or self.device.state is None:
            return self.plan
        state = self.device.state
        return replace(
            self.plan, nbma_address=state.local or self.plan.nbma_address, gre_key=state.key
        )

    def start(self) -> None:
        """Open the device and the transport.

        :raises StartError: with the reason why it cannot; then nothing is open.
        """
        try:
            if self.device is not None:
                self.device.start()
            self.speaker = self._open_speaker()
        except BaseException:
            if self.device is not None:
                self.device.stop()
            self.peers.close()
            raise
        self.readdressing = Readdressing(self._clock, self.device, self._readdressed)
        if self.events is None:
            return
        if self.device is None:
            self.events.up()
        else:
            self.events.device_changed(None, self.device.state)
            self.device.subscribe(self.events)

    def _open_speaker(self) -> Speaker:
        plan = self.plan
        speaker = Speaker(
            interface=plan.interface,
            transport=self._drivers.transport(plan, self.device),
            clock=self._clock,
            metrics=self._metrics,
            peers=self.peers,
            naming=Naming(
                self.peers,
                oui=self._oui,
                by_key=dict(plan.vpn_of_key),
                plain_vpn=plan.plain_vpn,
                plain=plan.plain,
                legacy_detection=plan.legacy_detection,
            ),
            authenticator=make_authenticator(plan.authentication, self._guard),
            unknown_vpn=self._unknown_vpn,
            on_refused=self._packet_refused,
            vpn_errors=plan.vpn_errors,
            before_answers=self._before_answers,
        )
        speaker.start()
        return speaker

    def change(self, plan: SpeakerPlan) -> None:
        """Go on by another plan, as far as that is possible without a restart."""
        speaker = self.speaker
        speaker.authenticator = make_authenticator(plan.authentication, self._guard)
        speaker.vpn_errors = plan.vpn_errors
        self.peers.claim(self, _peers(plan))
        self.keepalives.set(*_keepalive(plan))
        speaker.set_rate(plan.request_rate)
        self.plan = plan

    def stop(self) -> Deferred[None]:
        """Close all; fires when nothing is delivered any more."""
        stopped: Deferred[None] = self.speaker.stop()
        self.readdressing.close()
        if self.device is not None:
            if self.events is not None:
                self.device.unsubscribe(self.events)
            self.device.stop()
        return stopped

    def _packet_refused(self, reason: str, path: Path) -> None:
        interface = self.plan.interface
        if reason == "flood":
            self._journal.note("flooded", nbma=path.peer, interface=interface)
            return
        detail = f"a packet: {reason.replace('_', ' ')}"
        self._journal.note("refused", nbma=path.peer, interface=interface, detail=detail)


def _peers(plan: SpeakerPlan) -> dict[bytes, Peer]:
    """What the file says about peers that are not like us."""
    return {each.address: peer_of(each.daemon, each.vpn) for each in plan.peers}


def _keepalive(plan: SpeakerPlan) -> tuple[float, int]:
    """Seconds between keepalives, 0 for none, and how many times that is silence."""
    keepalive = plan.keepalive
    return (keepalive.interval / 1000, keepalive.multiplier) if keepalive else (0.0, 0)
