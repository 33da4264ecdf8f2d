"""Tells twistd about ``twistd dmevpn``."""

from twisted.application.service import ServiceMaker

dmevpn = ServiceMaker(
    "dmevpn", "dmevpn.tap", "Layer-2 VPNs between sites: NHRP and VXLAN shortcuts", "dmevpn"
)
