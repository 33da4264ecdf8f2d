"""Whose VTEP it is: which VPN an address and VNI on the wire belong to. Layer: role."""

from __future__ import annotations

from zope.interface import implementer

from dmevpn.addresses import VTEP
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode

__all__ = ["MAX_MEMBERS_PER_VPN", "MAX_REGISTRATIONS_PER_ADDRESS", "VTEPOwners"]

#: Members of one VPN, and so the copies that one broadcast frame can cost.
MAX_MEMBERS_PER_VPN = 4096
#: Registrations at one underlay address, in all VPNs together: two in each that a hub can serve. A
#: site has one in each of its VPNs; whoever makes up more takes no more than that of the hub's
#: memory, and of the room of other sites.
MAX_REGISTRATIONS_PER_ADDRESS = 8192


@implementer(IRegistrationPolicy)
class VTEPOwners:
    """Which VPN each VTEP belongs to: (address, VNI) on the wire can mean one VPN only."""

    def __init__(self, metrics: Metrics) -> None:
        self._vpn: dict[VTEP, int] = {}
        self._members: dict[int, int] = {}
        #: How many registrations there are at each underlay address.
        self._registrations: dict[bytes, int] = {}
        self._too_many = metrics.dropped("registrations_full")
        self._conflicts = metrics.dropped("vtep_conflict")
        self._full = metrics.dropped("members_full")

    def decide(self, claim: Claim) -> int:
        """Refuse what is no VXLAN site, a VTEP of another VPN, and what is too many; of what is
        registered none is that."""
        if claim.renews:
            return CIECode.SUCCESS
        vpn, station, vtep = claim[:3]
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
        if self._registrations.get(vtep.nbma, 0) >= MAX_REGISTRATIONS_PER_ADDRESS:
            self._too_many.inc()
            return CIECode.NO_RESOURCES
        return CIECode.SUCCESS

    def claim(self, vpn: int, vtep: VTEP) -> None:
        """A VTEP became a member of a VPN."""
        if self._vpn.setdefault(vtep, vpn) == vpn:
            self._members[vpn] = self._members.get(vpn, 0) + 1

    def registered(self, vtep: VTEP) -> None:
        """One more station registered at a VTEP."""
        self._registrations[vtep.nbma] = self._registrations.get(vtep.nbma, 0) + 1

    def unregistered(self, vtep: VTEP, count: int = 1) -> None:
        """So many have ended."""
        left = self._registrations[vtep.nbma] = self._registrations[vtep.nbma] - count
        if not left:
            del self._registrations[vtep.nbma]

    def release(self, vpn: int, vtep: VTEP) -> None:
        """It is no longer one."""
        if self._vpn.get(vtep) == vpn:
            del self._vpn[vtep]
            self._members[vpn] -= 1
            if not self._members[vpn]:
                del self._members[vpn]
