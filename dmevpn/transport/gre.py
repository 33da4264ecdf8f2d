"""The GRE header around NHRP (RFC 2784, with the key and sequence number of RFC 2890). Layer: edge.

Pure: octets in, octets out.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from dmevpn.errors import MalformedPacket

__all__ = ["KEY_MAX", "MAX_PAYLOAD", "NHRP_PROTOCOL", "decode", "encode"]

#: GRE protocol type of NHRP (RFC 2332 §5.3 names the Ethernet type; RFC 2784 §2.4 reuses it).
NHRP_PROTOCOL = 0x2001
#: Largest GRE key (RFC 2890 §2.1).
KEY_MAX = 0xFFFFFFFF
#: Largest payload sent, in octets: with all headers it passes an Ethernet of 1500 unfragmented.
MAX_PAYLOAD = 1400

_CHECKSUM = 0x8000
_KEY = 0x2000
_SEQUENCE = 0x1000
# RFC 2784 §2.3: a set bit among bits 1 to 5 means a header of RFC 1701, to be discarded. RFC 2890
# gave bits 2 (K) and 3 (S) their meaning back; 1 (routing), 4 (strict route) and 5 remain.
_REFUSED = 0x4C00
_VERSION = 0x0007

_PLAIN = struct.pack("!HH", 0, NHRP_PROTOCOL)


def decode(data: bytes, keys: Container[int | None]) -> tuple[bytes, int | None]:
    """The payload of a GRE packet, and its key (None: it carries none).

    :param keys: the keys that are ours; None among them admits packets without a key.
    :raises MalformedPacket: with the counter of the first check that fails, as RFC 2784 §2.3 and
        RFC 2890 §2 ask for; a GRE packet is never answered.
    """
    if data[:4] == _PLAIN and None in keys:
        return data[4:], None
    if len(data) < 4:
        raise MalformedPacket("gre_truncated")
    flags, protocol = struct.unpack_from("!HH", data)
    checked, keyed = flags & _CHECKSUM, flags & _KEY
    header = 4 + 4 * (bool(checked) + bool(keyed) + bool(flags & _SEQUENCE))
    if len(data) < header:
        raise MalformedPacket("gre_truncated")
    if flags & _VERSION:
        raise MalformedPacket("gre_bad_version")
    if flags & _REFUSED:
        raise MalformedPacket("gre_bad_flags")
    if protocol != NHRP_PROTOCOL:
        raise MalformedPacket("gre_other_protocol")
    if checked and _checksum(data) != 0:
        raise MalformedPacket("gre_bad_checksum")
    key = None
    if keyed:
        (key,) = struct.unpack_from("!I", data, 8 if checked else 4)
    if key not in keys:
        raise MalformedPacket("gre_key_mismatch")
    # A sequence number needs no look: NHRP bears reordering, and request ids show duplicates.
    return data[header:], key


def encode(payload: bytes, key: int | None, *, checksum: bool = False) -> bytes:
    """A GRE packet around an NHRP payload.

    :param key: 0 to KEY_MAX, or None for a packet without a key.
    """
    if key is None and not checksum:
        return _PLAIN + payload
    flags = (_CHECKSUM if checksum else 0) | (0 if key is None else _KEY)
    parts = [struct.pack("!HH", flags, NHRP_PROTOCOL)]
    if checksum:
        parts.append(bytes(4))
    if key is not None:
        parts.append(struct.pack("!I", key))
    parts.append(payload)
    packet = b"".join(parts)
    if checksum:
        packet = packet[:4] + _checksum(packet).to_bytes(2, "big") + packet[6:]
    return packet


def _checksum(packet: bytes) -> int:
    """The Internet checksum (RFC 1071) of a GRE packet; 0 if it holds the right one already."""
    if len(packet) & 1:
        packet += b"\0"
    # 2**16 is 1 modulo 65535, so the remainder of the whole number is the ones'-complement sum of
    # its words. A sum of 65535 also leaves 0; a sum of 0 cannot be, as the protocol type is not 0.
    return 0xFFFF - (int.from_bytes(packet, "big") % 0xFFFF or 0xFFFF)
