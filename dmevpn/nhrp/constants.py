"""Numbers of NHRP: RFC 2332, RFC 2735 and what deployed daemons add. Layer: core.

Flags are masks in an ``IntEnum``, not an ``IntFlag``: they are tested in every packet, and the
``&`` of an ``IntFlag`` makes an object each time, which costs as much as reading a whole CIE.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "DEFAULT_HOP_COUNT",
    "EXACT_PREFIX",
    "NBMA_LENGTHS",
    "PROTOCOL_LENGTHS",
    "REPLIES",
    "VERSION",
    "VPN_AWARE",
    "AddressFamily",
    "CIECode",
    "ErrorCode",
    "ExtensionType",
    "PacketType",
    "ProtocolType",
    "PurgeFlag",
    "RegistrationFlag",
    "ResolutionFlag",
]

#: ar$op.version of NHRP; 0 is MARS, which shares the number space (RFC 2332 §5.1).
VERSION = 1

#: Servers that may still forward a packet we send (ar$hopcnt, RFC 2332 §5.1).
DEFAULT_HOP_COUNT = 16

#: Prefix length of exactly one protocol address (RFC 2332 §5.2.0.1).
EXACT_PREFIX = 0xFF

#: The V bit of Device Capabilities: the station can name VPNs (RFC 2735 §3.3).
VPN_AWARE = 0x00000001


class PacketType(IntEnum):
    """ar$op.type (RFC 2332 §5.1)."""

    RESOLUTION_REQUEST = 1
    RESOLUTION_REPLY = 2
    REGISTRATION_REQUEST = 3
    REGISTRATION_REPLY = 4
    PURGE_REQUEST = 5
    PURGE_REPLY = 6
    ERROR_INDICATION = 7
    TRAFFIC_INDICATION = 8
    """Not in RFC 2332; Cisco, OpenNHRP and FRR tell a client by it that a shortcut would help."""


#: Types that answer a request.
REPLIES = frozenset(
    {PacketType.RESOLUTION_REPLY, PacketType.REGISTRATION_REPLY, PacketType.PURGE_REPLY}
)


class AddressFamily(IntEnum):
    """ar$afn: the family of the NBMA addresses (IANA address family numbers)."""

    IPV4 = 1
    IPV6 = 2


class ProtocolType(IntEnum):
    """ar$pro.type: what the protocol addresses are (RFC 2332 §5.1)."""

    SNAP = 0x0080
    """The NLPID that says: look into ar$pro.snap."""
    IPV4 = 0x0800
    BRIDGED = 0x6558
    """Transparent Ethernet bridging; a synonym of MAC."""
    MAC = 0x8100
    """No number is assigned for MAC addresses; dmevpn has always used the one of 802.1Q tags."""
    IPV6 = 0x86DD


#: Octets of an NBMA address by ar$afn.
NBMA_LENGTHS: dict[int, int] = {int(AddressFamily.IPV4): 4, int(AddressFamily.IPV6): 16}

#: Octets of a protocol address by Ethertype.
PROTOCOL_LENGTHS: dict[int, int] = {
    int(ProtocolType.IPV4): 4,
    int(ProtocolType.IPV6): 16,
    int(ProtocolType.MAC): 6,
    int(ProtocolType.BRIDGED): 6,
}


class ResolutionFlag(IntEnum):
    """Flags of Resolution Request and Reply (RFC 2332 §5.2.1)."""

    Q = 0x8000
    """The requester is a router."""
    A = 0x4000
    """Request: only authoritative answers are wanted; reply: the answer is authoritative."""
    D = 0x2000
    """Reply: the binding is stable for its holding time."""
    U = 0x1000
    """Only unique bindings are wanted."""
    S = 0x0800
    """The requester's own binding is stable."""
    NAT = 0x0002
    """Cisco: the sender understands the NAT Address extension."""


class RegistrationFlag(IntEnum):
    """Flags of Registration Request and Reply (RFC 2332 §5.2.3)."""

    U = 0x8000
    """Register as unique: nobody else may register the address."""
    NAT = 0x0002
    """Cisco: the sender understands the NAT Address extension."""


class PurgeFlag(IntEnum):
    """Flags of Purge Request and Reply (RFC 2332 §5.2.5)."""

    N = 0x8000
    """No Purge Reply is wanted."""
    NAT = 0x0002
    """Cisco: the sender understands the NAT Address extension."""


class CIECode(IntEnum):
    """Code of a Client Information Entry (RFC 2332 §5.2.0.1). Others: refused, reason unknown."""

    SUCCESS = 0
    PROHIBITED = 4
    NO_RESOURCES = 5
    LEGACY_NO_BINDING = 11
    """What OpenNHRP and FRR have for NO_BINDING; never sent."""
    NO_BINDING = 12
    NOT_UNIQUE = 13
    ALREADY_REGISTERED = 14


class ErrorCode(IntEnum):
    """Code of an Error Indication (RFC 2332 §5.2.7, RFC 2735 §4.3)."""

    UNRECOGNIZED_EXTENSION = 1
    LEGACY_LOOP_DETECTED = 2
    """What OpenNHRP and FRR have for LOOP_DETECTED; never sent."""
    LOOP_DETECTED = 3
    UNREACHABLE = 6
    PROTOCOL_ERROR = 7
    SIZE_EXCEEDED = 8
    INVALID_EXTENSION = 9
    INVALID_REPLY = 10
    AUTHENTICATION_FAILURE = 11
    HOP_COUNT_EXCEEDED = 15
    VPN_MISMATCH = 16
    VPN_UNSUPPORTED = 17


class ExtensionType(IntEnum):
    """Type of an extension (RFC 2332 §5.3)."""

    END = 0
    RESPONDER_ADDRESS = 3
    FORWARD_TRANSIT_RECORD = 4
    REVERSE_TRANSIT_RECORD = 5
    AUTHENTICATION = 7
    VENDOR_PRIVATE = 8
    DEVICE_CAPABILITIES = 9
    NAT_ADDRESS = 9
    """Cisco's use of the number that RFC 2735 gives to Device Capabilities."""
