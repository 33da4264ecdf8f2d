"""Keywords of OpenNHRP and the original dmevpn that have no effect here. Layer: core."""

from __future__ import annotations

from dmevpn.config import arguments as a
from dmevpn.config.keyword import Argument, Keyword
from dmevpn.config.keywords.shared import ANY, TARGET_HOLDING_TIME, VNI

__all__ = ["IDLE_KEYWORDS"]

#: In the order of the documentation.
IDLE_KEYWORDS = (
    Keyword(
        name="shortcut-vnid",
        help="A VNI that the original dmevpn answers resolution requests with.",
        contexts=ANY,
        arguments=(VNI,),
        options=(TARGET_HOLDING_TIME,),
        repeatable=True,
        inherited=True,
        no_effect="the VNI of default-vni is the answer",
    ),
    Keyword(
        name="shortcut-destination",
        help="Answer for the addresses of this interface.",
        contexts=ANY,
        inherited=True,
        no_effect="name the interface's networks with shortcut-target",
    ),
    Keyword(
        name="multicast",
        help="Where layer-3 multicast is copied to; frames are flooded by the hub.",
        contexts=ANY,
        arguments=(Argument(name="dynamic|nhs|ADDR", convert=a.multicast, example="dynamic"),),
        repeatable=True,
        inherited=True,
        no_effect="packets to groups are not copied in this release",
    ),
)
