"""The layouts that hub_switch.bpf.c and user space share. Layer: edge.

Octet for octet the structures of the C source, which says what their fields mean. A change of
any layout, or of what a field means, needs a new :data:`LAYOUT`: pinned maps of another layout
are never adopted.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from dmevpn.addresses import VTEP

__all__ = [
    "ALL_HUBS",
    "COPIES_PER_FRAME",
    "COUNTERS",
    "EDIT",
    "EVENT",
    "FOREVER",
    "HELD",
    "HOLD",
    "HUB",
    "HUB_KEY",
    "KEEPSAKE",
    "LAYOUT",
    "MAC_ENTRY",
    "MAC_KEY",
    "MAX_FLOODERS",
    "MAX_HELD",
    "MAX_HUBS",
    "MAX_MACS",
    "MAX_MEMBERS",
    "MAX_STICKY",
    "MAX_VPNS",
    "MEMBER",
    "MEMBER_HUB",
    "MEMBER_IPV6",
    "MEMBER_LEFT",
    "NOBODY",
    "NUMBER",
    "PROBE",
    "PROBE_HOPS",
    "PROBE_MAGIC",
    "PROBE_TYPE",
    "PROBING",
    "SENDER",
    "STATE",
    "STATE_COUNTERS",
    "STATE_MACS",
    "STICKY",
    "STICKY_KEY",
    "USAGE",
    "VPN",
    "VPN_STICKY",
    "Edit",
    "Event",
    "pack_address",
    "pack_vtep",
    "unpack_address",
]

#: Version of everything in this module; part of the path of the pins.
LAYOUT = 3

#: Members of all VPNs of one switch. Memory grows with use: about 400 octets each.
MAX_MEMBERS = 131072
#: VPNs of one switch.
MAX_VPNS = 16384
#: Other hubs that one switch knows: a bit each.
MAX_HUBS = 64
#: MACs of all VPNs of one switch, 80 octets each; every VPN has a limit of its own below it.
MAX_MACS = 1 << 20

#: Lines of ``sticky`` of all VPNs of one switch.
MAX_STICKY = 65536
#: Held MACs that are listed; more are held all the same.
MAX_HELD = 16384
#: Underlay addresses whose copies of flooded frames are counted; the longest silent makes room.
MAX_FLOODERS = 16384
#: Copies that those may have, for each frame that `flood-rate` lets pass.
COPIES_PER_FRAME = 10
#: Seconds that a MAC is held which flips; each further hold takes twice as long, six times.
HOLD = 10.0

#: The number of no member.
NOBODY = 0
MEMBER_IPV6, MEMBER_LEFT, MEMBER_HUB = 1, 2, 4
#: ``apart`` of who gets no frame of any hub.
ALL_HUBS = (1 << MAX_HUBS) - 1
VPN_STICKY = 1
#: ``expires`` of a registration that does not run out.
FOREVER = (1 << 64) - 1

NUMBER = Struct("=I")
"""A member's number, a VPN's index, or an index of an array."""
VTEP_KEY = Struct("=16sI")
SENDER = Struct("=IIQ")
MEMBER = Struct("=16sI16sIIIQ6sBxQ")
HUB_KEY = Struct("=16s")
HUB = Struct("=Q")
STATE = Struct("=13Q")
#: Where the counters of a member begin in it.
STATE_COUNTERS = 5
#: Where the number of its MACs is.
STATE_MACS = 12
VPN = Struct("=IIIIQQQQQ")
USAGE = Struct("=I")
MAC_KEY = Struct("=I6s2x")
# Times are signed, so that "long ago" may lie before the boot.
MAC_ENTRY = Struct("=qIIqIHH")
HELD = Struct("=qII")
STICKY_KEY = Struct("=II6s2x")
STICKY = Struct("=16s")
PROBING = Struct("=8sQ")
PROBE = Struct("=II8sQ")
PROBE_MAGIC = 0x706C6D64
#: EtherType of loop probes: Local Experimental 2 of IEEE 802.
PROBE_TYPE = 0x88B6
#: How many other switches may pass one on.
PROBE_HOPS = 3
KEEPSAKE = Struct("=II")
EVENT = Struct("=IIII6sH16sI")
EDIT = Struct("=I6s2xIqII")


class Event(IntEnum):
    """``enum event_type``."""

    LEARNED = 1
    MOVED = 2
    LIMIT = 3
    REFUSED = 4
    HELD = 5
    STICKY = 6
    LOOP = 7
    FLOOD = 8


class Edit(IntEnum):
    """``enum edit_action``."""

    REMOVE = 1
    REFRESH = 2


#: ``enum counter``, in its order.
COUNTERS = (
    "no_tunnel",
    "unregistered",
    "unknown_vpn",
    "bad_source",
    "reflected",
    "link_local",
    "flood_rate",
    "unsendable",
    "events_lost",
    "not_learned",
    "split_horizon",
    "duplicate_mac",
    "sticky_mac",
    "held_flood",
    "loop_probe",
    "loop_flood",
)

_MAPPED = b"\0" * 10 + b"\xff\xff"


def pack_address(address: bytes) -> bytes:
    """Sixteen octets: IPv6 as it is, IPv4 mapped, none at all as zeros."""
    if len(address) == 4:
        return _MAPPED + address
    return address or bytes(16)


def unpack_address(octets: bytes) -> bytes:
    """The address that :func:`pack_address` has packed."""
    if octets.startswith(_MAPPED):
        return octets[12:]
    return octets if any(octets) else b""


def pack_vtep(vtep: VTEP) -> bytes:
    """``struct vtep``: the key of ``senders``."""
    return VTEP_KEY.pack(pack_address(vtep.nbma), vtep.vni or 0)
