"""Who may register which IPv4 and IPv6 addresses: `permit-protocol`. Layer: role."""

from __future__ import annotations

from zope.interface import implementer

from dmevpn.config.model import ProtocolPermitPlan
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.traffic import is_host

__all__ = ["ProtocolAdmission"]


@implementer(IRegistrationPolicy)
class ProtocolAdmission:
    """Decides about registrations of protocol addresses in one VPN of a control interface.

    :param permits: one of them has to hold for all of a registration; if there is none, every
        address that a host can have may be registered.
    """

    def __init__(self, permits: tuple[ProtocolPermitPlan, ...], metrics: Metrics) -> None:
        self._permits = permits
        self._refused = metrics.dropped("not_permitted")

    def decide(self, claim: Claim) -> int:
        """Refuse group addresses and their like, and what no line permits."""
        _, station, vtep, sender, spi, bits, _ = claim
        if not is_host(station):
            return CIECode.PROHIBITED
        width = 8 * len(station) if bits is None else bits
        if self._permits and not any(
            width >= each.prefix_length
            and _is_in(station, (each.protocol, each.prefix_length))
            and (each.nbma is None or (_is_in(vtep.nbma, each.nbma) and _is_in(sender, each.nbma)))
            and each.spi in (None, spi)
            for each in self._permits
        ):
            self._refused.inc()
            return CIECode.PROHIBITED
        return CIECode.SUCCESS


def _is_in(address: bytes, network: tuple[bytes, int]) -> bool:
    first, bits = network
    if len(address) != len(first):
        return False
    differing = int.from_bytes(address, "big") ^ int.from_bytes(first, "big")
    return differing >> (8 * len(address) - bits) == 0
