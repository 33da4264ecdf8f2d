"""Whose VTEP it is: which VPN an address and VNI on the wire belong to. Layer: role."""

from __future__ import annotations

from zope.interface import implementer

from dmevpn.addresses import VTEP
from dmevpn.interfaces import IRegistrationPolicy
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode

__all__ = ["MAX_MEMBERS_PER_VPN", "VTEPOwners"]

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
