"""The seams of dmevpn: what each layer asks of its neighbours. Layer: base.

Methods of zope interfaces have no ``self``. Listener interfaces have a mixin that ignores every
event, for those who want only some of them.
"""

from dmevpn.interfaces.control_device import GREDevice, IControlDevice, IControlDeviceListener
from dmevpn.interfaces.finding import CHECKS, Finding
from dmevpn.interfaces.hub import (
    HeldMAC,
    HubListener,
    IHubDataplane,
    IHubListener,
    LearnedMAC,
    MemberCounters,
    Registration,
    Sticky,
    VPNRules,
)
from dmevpn.interfaces.layer3 import ILayer3Dataplane, ILayer3Listener, Layer3Listener
from dmevpn.interfaces.opennhrp import InterfaceEntry, IPeerTable, PeerEntry
from dmevpn.interfaces.operator import IController, IScripts
from dmevpn.interfaces.protocol import (
    Claim,
    IAuthenticator,
    ICacheListener,
    ILink,
    IRegistrationPolicy,
    IStation,
)
from dmevpn.interfaces.spoke import (
    FDBEntry,
    ISpokeDataplane,
    ISpokeListener,
    Placement,
    PlaneCounters,
    SpokeListener,
)
from dmevpn.interfaces.successor import IRequestIDStore, IStateStore
from dmevpn.interfaces.transport import (
    IDatagramReceiver,
    IDatagramTransport,
    IPacketFilter,
    PacketLimits,
)

__all__ = [
    "CHECKS",
    "Claim",
    "FDBEntry",
    "Finding",
    "GREDevice",
    "HeldMAC",
    "HubListener",
    "IAuthenticator",
    "ICacheListener",
    "IControlDevice",
    "IControlDeviceListener",
    "IController",
    "IDatagramReceiver",
    "IDatagramTransport",
    "IHubDataplane",
    "IHubListener",
    "ILayer3Dataplane",
    "ILayer3Listener",
    "ILink",
    "IPacketFilter",
    "IPeerTable",
    "IRegistrationPolicy",
    "IRequestIDStore",
    "IScripts",
    "ISpokeDataplane",
    "ISpokeListener",
    "IStateStore",
    "IStation",
    "InterfaceEntry",
    "Layer3Listener",
    "LearnedMAC",
    "MemberCounters",
    "PacketLimits",
    "PeerEntry",
    "Placement",
    "PlaneCounters",
    "Registration",
    "SpokeListener",
    "Sticky",
    "VPNRules",
]
