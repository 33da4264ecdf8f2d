"""Who may register with a hub: what ``permit`` says, and then whose VTEP it is. Layer: role."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, format_address
from dmevpn.config.model import AdmissionPlan, PermitPlan
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import CIECode
from dmevpn.roles.trunks import TrunkTable

__all__ = ["Admission"]

#: Octets of the addresses that ``any`` means.
_FAMILIES: Final = (4, 16)


class _Permits:
    """The lines, found by address: a hub of a thousand sites may have one for each.

    A registration is permitted if one line holds for all of it. It must hold for the address that
    the request came from and for that of the VTEP: else whoever may register himself could do it
    in the name of any other site.
    """

    def __init__(self, plans: Iterable[PermitPlan]) -> None:
        #: Octets and prefix length, then what is left of an address, to the lines.
        self._lines: dict[tuple[int, int], dict[int, list[PermitPlan]]] = {}
        for plan in plans:
            nets = (
                [(bytes(octets), 0) for octets in _FAMILIES] if plan.nbma is None else [plan.nbma]
            )
            for address, bits in nets:
                lines = self._lines.setdefault((len(address), bits), {})
                lines.setdefault(_significant(address, bits), []).append(plan)

    def permit(self, vpn: int, vtep: VTEP, sender: bytes, spi: int | None) -> bool:
        """Whether some line holds.

        :param spi: None if the key is not known: then it is not asked for.
        """
        for (octets, bits), lines in self._lines.items():
            if octets != len(sender) or octets != len(vtep.nbma):
                continue
            network = _significant(vtep.nbma, bits)
            if network in lines and network == _significant(sender, bits):
                for line in lines[network]:
                    if (
                        line.vpns[0] <= vpn <= line.vpns[1]
                        and (line.spi is None or spi is None or line.spi == spi)
                        and (line.vnis is None or line.vnis[0] <= (vtep.vni or 0) <= line.vnis[1])
                    ):
                        return True
        return False


def _significant(address: bytes, bits: int) -> int:
    return int.from_bytes(address, "big") >> (8 * len(address) - bits)


@implementer(IRegistrationPolicy)
class Admission:
    """Decides about the registrations of one hub.

    :ivar then: asked about what is permitted. May be replaced.
    :param trunks: the other hubs.
    """

    log = Logger()

    def __init__(
        self,
        plan: AdmissionPlan,
        then: IRegistrationPolicy,
        clock: IReactorTime,
        metrics: Metrics,
        trunks: TrunkTable,
    ) -> None:
        self.then = then
        self._refused = metrics.dropped("not_permitted")
        self._no_trunk = metrics.dropped("trunk_mismatch")
        self._complaints = Complaints(clock, metrics)
        self.set(plan, trunks)

    def set(self, plan: AdmissionPlan, trunks: TrunkTable) -> None:
        """Decide by another plan, with other hubs, from now on."""
        self._trunks = trunks
        self._permits = _Permits(plan.permits) if plan.permits else None
        self._members_only = plan.members_only

    def servers(self, known: Iterable[bytes]) -> frozenset[bytes] | None:
        """The servers that are answered for stations of theirs, if strangers are not; else None.

        :param known: the servers that we ask ourselves.
        """
        return frozenset(known) if self._members_only else None

    def permits(self, vpn: int, vtep: VTEP, sender: bytes, spi: int | None) -> bool:
        """Whether the file permits a registration.

        :param spi: None if it is not known any more which key signed it.
        """
        return self._permits is None or self._permits.permit(vpn, vtep, sender, spi)

    def decide(self, claim: Claim) -> int:
        """Refuse what is not permitted, and what the next policy refuses."""
        vpn, _, vtep, sender, spi = claim[:5]
        if self._permits is not None and not self._permits.permit(vpn, vtep, sender, spi):
            self._refused.inc()
            return CIECode.PROHIBITED
        if self._trunks and not self._is_trunk_or_site(vpn, vtep, sender):
            self._no_trunk.inc()
            return CIECode.PROHIBITED
        code: int = self.then.decide(claim)
        return code

    def _is_trunk_or_site(self, vpn: int, vtep: VTEP, sender: bytes) -> bool:
        """Whether a VTEP is that of a trunk, and its hub says so itself, or not at a hub's address:
        nobody but a hub is believed to be one, and hubs that disagree about the VNI would not get
        each other's frames."""
        vni = self._trunks.vni(vpn, vtep.nbma)
        if vni is None or (vtep.vni == vni and sender == vtep.nbma):
            return True
        if self._complaints.due(sender):
            self.log.warn(
                "vpn {vpn}: {sender} wants to register {vtep}, but `other-hub` has a hub there, in"
                " VNI {vni}: let both hubs name each other with the same VNI",
                vpn=vpn,
                sender=format_address(sender),
                vtep=str(vtep),
                vni=vni,
            )
        return False
