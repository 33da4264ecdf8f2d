"""The captures of tests/data/captures: NHRP between real daemons, over kernel GRE devices.

=====================  ==========================================================================
dmevpn-c               the original daemon: hub .10, s1 (VPN 1, VNI 100), s2 (1, 101), s3 (2, 777)
frr844-basic           FRR 8.4.4: hub .10, s1, s2
opennhrp-basic         OpenNHRP 0.14.1: hub .10, s1, s2
opennhrp-auth-key      the same with GRE key 1234 and the secret ``secret``; s2 has a wrong one
=====================  ==========================================================================

Underlay 10.99.0.0/24, s1 being .11; on the tunnel 10.255.255.0/24, the hub being .1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dmevpn.transport import gre

__all__ = ["CAPTURES", "Datagram", "read"]

#: How many NHRP packets are in each.
CAPTURES = {
    "dmevpn-c": 21,
    "frr844-basic": 32,
    "opennhrp-basic": 46,
    "opennhrp-auth-key": 13,
}
_KEYS = (None, 1234)
_GRE = 47


class Datagram(NamedTuple):
    """A GRE payload of NHRP."""

    time: float
    """Seconds since the capture began."""
    source: bytes
    destination: bytes
    key: int | None
    payload: bytes


def read(name: str) -> Iterator[Datagram]:
    """The NHRP of a capture (Ethernet, microseconds, little-endian)."""
    octets = (Path(__file__).parent / "data" / "captures" / f"{name}.pcap").read_bytes()
    assert octets[:4] == b"\xd4\xc3\xb2\xa1"
    at, began = 24, None
    while at < len(octets):
        seconds, microseconds, size, _ = struct.unpack_from("<IIII", octets, at)
        time = seconds + microseconds / 1e6
        began = time if began is None else began
        frame = octets[at + 16 : at + 16 + size]
        at += 16 + size
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or packet[9] != _GRE:
            continue
        header = 4 * (packet[0] & 15)
        end = int.from_bytes(packet[2:4], "big")
        if packet[header + 2 : header + 4] == gre.NHRP_PROTOCOL.to_bytes(2, "big"):
            payload, key = gre.decode(packet[header:end], _KEYS)
            yield Datagram(time - began, packet[12:16], packet[16:20], key, payload)
