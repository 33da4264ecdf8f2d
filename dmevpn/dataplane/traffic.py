"""How much went through a device. Layer: edge.

Source: Linux ``uapi/linux/if_link.h`` (``struct rtnl_link_stats64``).
"""

from __future__ import annotations

import socket
import struct

from dmevpn.dataplane.netlink import Message, NetlinkRequests, attribute, parse_attributes
from dmevpn.interfaces import PlaneCounters

__all__ = ["device_traffic"]

_RTM_GETLINK = 18
_IFLA_IFNAME = 3
_IFLA_STATS64 = 23
# struct ifinfomsg: family, type, index, flags, change.
_INFO = struct.Struct("=BxHiII")
_HEADERS = 16 + _INFO.size
# Its first fields: packets received and sent, octets received and sent.
_STATS = struct.Struct("=QQQQ")


def device_traffic(requests: NetlinkRequests, name: str) -> PlaneCounters | None:
    """What a device has carried since it was made; None if there is none of that name.

    :raises DataplaneError: if the kernel does not say.
    """
    body = _INFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(_IFLA_IFNAME, name.encode() + b"\0")
    data = requests.get(Message(_RTM_GETLINK, 0, body))
    stats = parse_attributes(data, _HEADERS).get(_IFLA_STATS64, b"") if data else b""
    if len(stats) < _STATS.size:
        return None
    rx_packets, tx_packets, rx_bytes, tx_bytes = _STATS.unpack_from(stats)
    return PlaneCounters(rx_packets, rx_bytes, tx_packets, tx_bytes)
