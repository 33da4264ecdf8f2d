"""What a hub's switch reports of frames that are not as they should be. Layer: role.

Each is counted, and noted and logged once a minute for each MAC or site that it is about.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP, format_address
from dmevpn.journal import Journal
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.roles.loops import Loop

__all__ = ["FRAMES_REFUSED", "Troubles"]

#: What the journal says of frames of somebody who is no member.
FRAMES_REFUSED = "frames of somebody who has not registered"


class Troubles:
    """The troubles of one hub interface."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, journal: Journal, metrics: Metrics, interface: str
    ) -> None:
        self._journal = journal
        self._interface = interface
        self._complaints = Complaints(clock, metrics)
        self._full = metrics.counter("mac_limit_reached", interface=interface)
        self._held = metrics.counter("macs_held", interface=interface)
        self._stuck = metrics.counter("mac_moves_refused", interface=interface)
        self._flooding = metrics.counter("floods_limited", interface=interface)
        self._strangers = metrics.counter("senders_refused", interface=interface)

    def _note(
        self, event: str, vpn: int | None, mac: bytes, vtep: VTEP | None, why: str = ""
    ) -> None:
        nbma, vni = (vtep.nbma, vtep.vni) if vtep is not None else (b"", None)
        self._journal.note(event, vpn, mac, nbma, vni, interface=self._interface, detail=why)

    def held(self, vpn: int, mac: bytes, vtep: VTEP, other: VTEP | None, seconds: float) -> None:
        """A MAC moves too often."""
        self._held.inc()
        why = f"for {seconds:.0f} s" + ("" if other is None else f"; it sends from {other}, too")
        self._note("held", vpn, mac, vtep, why)
        if self._complaints.due(b"held%d" % vpn + mac):
            self.log.warn(
                "vpn {vpn}: {mac} is held at {vtep} {why}",
                vpn=vpn,
                mac=format_address(mac),
                vtep=str(vtep),
                why=why,
            )

    def move_refused(self, vpn: int, mac: bytes, owner: VTEP | None, vtep: VTEP) -> None:
        """A sticky MAC sends from another site than its own."""
        self._stuck.inc()
        if self._complaints.due(b"sticky%d" % vpn + mac):
            why = "it belongs to another site" if owner is None else f"it is at {owner}"
            self._note("move-refused", vpn, mac, vtep, why)
            self.log.warn(
                "vpn {vpn}: frames of the sticky {mac} from {vtep} are dropped: {why}",
                vpn=vpn,
                mac=format_address(mac),
                vtep=str(vtep),
                why=why,
            )

    def flood_limited(self, vpn: int, vtep: VTEP) -> None:
        """A site has more to flood than it may: a storm, or a loop."""
        self._flooding.inc()
        if self._complaints.due(f"flood {vtep}".encode()):
            self._note("flood-limited", vpn, b"", vtep)
            self.log.warn(
                "vpn {vpn}: {vtep} floods more than its budget: the rest is dropped",
                vpn=vpn,
                vtep=str(vtep),
            )

    def limit_reached(self, vpn: int, vtep: VTEP | None) -> None:
        """A table is full: more MACs are flooded, not learned."""
        self._full.inc()
        if self._complaints.due(f"full {vpn} {vtep}".encode()):
            self._note("table-full", vpn, b"", vtep)
            whose = "the table" if vtep is None else f"the share of {vtep} in the table"
            self.log.warn("vpn {vpn}: {whose} of learned MACs is full", vpn=vpn, whose=whose)

    def stranger(self, vtep: VTEP) -> None:
        """Somebody who is not registered sends us frames."""
        self._strangers.inc()
        if self._complaints.due(vtep.nbma):
            self._note("refused", None, b"", vtep, FRAMES_REFUSED)
            self.log.warn(
                "{ifname}: frames of {vtep} dropped: it has not registered",
                ifname=self._interface,
                vtep=str(vtep),
            )

    def loop_found(self, loop: Loop) -> None:
        """Two sites are connected behind our back."""
        self._note("loop", loop.vpn, b"", loop.sites[0], str(loop))
        self.log.warn("vpn {vpn}: loop: {loop}", vpn=loop.vpn, loop=str(loop))

    def loop_over(self, loop: Loop) -> None:
        """They are not any more."""
        self._note("loop-ended", loop.vpn, b"", loop.sites[0], str(loop.sites[-1]))
        sites = " and ".join(map(str, loop.sites))
        self.log.info("vpn {vpn}: the loop of {sites} is gone", vpn=loop.vpn, sites=sites)
