"""Registrations that would take what is another site's. Layer: role."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VTEP, format_address
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import CIECode
from dmevpn.roles.owners import MAX_MEMBERS_PER_VPN

__all__ = ["MOST_HEARD", "TakeoverGuard"]

#: VTEPs that are kept until those that have left are forgotten: twice as many as there can be
#: members, so that this is seldom.
MOST_HEARD: Final = 2 * MAX_MEMBERS_PER_VPN
_NOBODY: Final[frozenset[bytes]] = frozenset()


@implementer(IRegistrationPolicy)
class TakeoverGuard:
    """Refuses, in one VPN of a hub, a MAC that is at another site, and to speak for a site that
    speaks for itself: to register there, to renew what it has registered, or to take it back.

    :param then: asked about what is nobody else's.
    :param complaints: which senders lines were logged about.
    :param members: the stations that are registered at each VTEP.
    :param trunks: VTEPs of other hubs; what is behind them is for them to say.
    :param find_mac: where the switch sends frames for a MAC; None if it floods them.
    """

    log = Logger()

    def __init__(
        self,
        then: IRegistrationPolicy,
        complaints: Complaints,
        metrics: Metrics,
        *,
        members: Mapping[VTEP, set[bytes]],
        trunks: Callable[[], Container[VTEP]],
        find_mac: Callable[[bytes], VTEP | None],
    ) -> None:
        self._then = then
        self._members = members
        self._trunks = trunks
        self._find_mac = find_mac
        self._complaints = complaints
        #: VTEPs that have registered themselves, some of which may have left.
        self._own_word: set[VTEP] = set()
        self._elsewhere = metrics.dropped("station_elsewhere")
        self._forgotten = metrics.counter("left_sites_forgotten")
        self._taken = metrics.dropped("vtep_taken")

    def decide(self, claim: Claim) -> int:
        """The code for what would take over; else what the next policy says."""
        code: int = self._then.decide(claim)
        if code:
            return code
        vpn, station, vtep, sender = claim[:4]
        known = claim.renews
        if sender == vtep.nbma:
            self._believe(vtep)
        else:
            stations = self._members.get(vtep, _NOBODY)
            known = known or station in stations
            if stations and (not known or vtep in self._own_word):
                # Who speaks for another site would get, or keep, or end its place.
                self._taken.inc()
                self._say(vpn, station, vtep, sender, "the site speaks for itself")
                return CIECode.PROHIBITED
        if known:
            return CIECode.SUCCESS
        place = self._find_mac(station)
        if place in (None, vtep) or place in self._trunks():
            return CIECode.SUCCESS
        if station in self._members.get(place, _NOBODY):
            return CIECode.SUCCESS  # it comes from there: whether it may, its registration says
        self._elsewhere.inc()
        self._say(vpn, station, vtep, sender, f"this MAC sends frames from {place}")
        return CIECode.ALREADY_REGISTERED

    def _believe(self, vtep: VTEP) -> None:
        if vtep not in self._own_word:
            if len(self._own_word) >= MOST_HEARD:
                self._own_word.intersection_update(self._members)
                self._forgotten.inc()
            self._own_word.add(vtep)

    def _say(self, vpn: int, station: bytes, vtep: VTEP, sender: bytes, why: str) -> None:
        if self._complaints.due(b"%d %b" % (vpn, sender)):
            self.log.warn(
                "vpn {vpn}: {sender} may not register {mac} at {vtep}: {why}",
                vpn=vpn,
                sender=format_address(sender),
                mac=format_address(station),
                vtep=str(vtep),
                why=why,
            )
