"""Sites that disagree about the size of frames. Layer: role.

Each tells its MTU in the CIEs of its requests (RFC 2332 §5.2.0.1), and a hub passes it on in its
answers. Where sites differ, large frames vanish one way: small pings pass, transfers hang.
"""

from __future__ import annotations

from dmevpn.addresses import VTEP
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints

__all__ = ["MTUComparison"]


class MTUComparison:
    """Warns of other sites of a VPN whose MTU is not ours.

    :param complaints: which sites lines were logged about.
    :param interface: our data interface, for the log.
    """

    log = Logger()

    def __init__(self, complaints: Complaints, metrics: Metrics, vpn: int, interface: str) -> None:
        self._vpn = vpn
        self._interface = interface
        self._complaints = complaints
        self._mismatches = metrics.counter("mtu_mismatches", vpn=str(vpn))

    def compare(self, own: int, other: int, vtep: VTEP) -> None:
        """Compare MTUs in octets; 0 is one that nobody told."""
        if not other or other == own:
            return
        self._mismatches.inc()
        if self._complaints.due(b"%d %b" % (self._vpn, vtep.nbma)):
            self.log.warn(
                "vpn {vpn}: {vtep} has MTU {other}, {ifname} here {own}: frames larger than the"
                " smaller of them may be lost; set the MTU of hosts and underlay alike",
                vpn=self._vpn,
                vtep=str(vtep),
                other=other,
                ifname=self._interface,
                own=own,
            )
