"""What the VPNs of a hub have in common. Layer: role."""

from __future__ import annotations

from typing import NamedTuple, Self

from twisted.internet.interfaces import IReactorTime

from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.room import SharedRoom

__all__ = ["Shared"]


class Shared(NamedTuple):
    """What the VPNs of a hub share, so that a peer of many of them does not take it all."""

    bindings: SharedRoom
    answers: SharedRoom
    joined: Complaints
    """So that sites that come and go in many VPNs cannot fill the log."""
    left: Complaints
    mtus: Complaints
    takeovers: Complaints
    refusals: Complaints

    @classmethod
    def among_vpns(cls, clock: IReactorTime, metrics: Metrics) -> Self:
        """For a hub that has no VPN yet."""
        return cls(
            SharedRoom(metrics, "bindings"),
            SharedRoom(metrics, "answers"),
            *(Complaints(clock, metrics) for _ in range(5)),
        )
