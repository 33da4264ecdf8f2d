"""What stands before ar$afn in a GRE payload: nothing, or LLC/SNAP headers (RFC 2735 §4.1).

Layer: core. RFC 2735 puts an eight-octet LLC/SNAP header, the VPN identifier and a second
LLC/SNAP header before the packet. The original dmevpn daemon meant to do the same, but wrote its
own variant, the legacy form; its OUI field is the number 1 in the byte order of the host, so it
tells in which order that host writes VNIs.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from dmevpn.addresses import VPNID
from dmevpn.errors import MalformedPacket
from dmevpn.metrics import Counter
from dmevpn.nhrp.header import CHECKSUM, REQUEST_ID

__all__ = [
    "CHECKSUM_BEGIN",
    "CHECKSUM_END",
    "LEGACY_FORMS",
    "LEGACY_LENGTH",
    "REQUEST_ID_BEGIN",
    "REQUEST_ID_END",
    "RFC_LENGTH",
    "Encapsulation",
    "Form",
    "decapsulate",
    "forgotten",
    "header",
]

#: LLC (SNAP follows), SNAP OUI of IANA.
_IANA = b"\xaa\xaa\x03\x00\x00\x5e"
#: SNAP header before a VPN identifier (RFC 2684 §8).
_VPN = _IANA + b"\x00\x08"
#: SNAP header before NHRP (RFC 2332 §5.1).
_NHRP = _IANA + b"\x00\x03"
#: What the legacy form has in the place of the latter.
_LEGACY = _VPN + bytes(8)

_VPN_LENGTH: Final = 16
#: Octets before ar$afn in the RFC form.
RFC_LENGTH: Final = _VPN_LENGTH + len(_NHRP)
# Where checksum and request ID begin and end in a payload in RFC form.
CHECKSUM_BEGIN: Final = RFC_LENGTH + CHECKSUM
CHECKSUM_END: Final = CHECKSUM_BEGIN + 2
REQUEST_ID_BEGIN: Final = RFC_LENGTH + REQUEST_ID
REQUEST_ID_END: Final = REQUEST_ID_BEGIN + 4

#: Octets before ar$afn in the legacy form. Its lengths, offsets and checksum include them.
LEGACY_LENGTH: Final = _VPN_LENGTH + len(_LEGACY)

#: Fixed header of NHRP and the fixed part of the mandatory part (RFC 2332 §5.1, §5.2.0).
_SHORTEST_PACKET: Final = 28


class Form(Enum):
    """How a packet names its VPN."""

    PLAIN = "plain"
    """Not at all: the path implies it, or it is the default routing instance."""
    RFC = "rfc"
    """By the header of RFC 2735."""
    LEGACY_LITTLE = "legacy, little-endian"
    """As the original daemon does on a little-endian host."""
    LEGACY_BIG = "legacy, big-endian"
    """As the original daemon does on a big-endian host."""


#: Those of the original daemon.
LEGACY_FORMS: Final = (Form.LEGACY_LITTLE, Form.LEGACY_BIG)

_MARKS = {Form.LEGACY_LITTLE: b"\x00\x01\x00", Form.LEGACY_BIG: b"\x00\x00\x01"}
_FORM_OF_MARK = {mark: form for form, mark in _MARKS.items()}


class Encapsulation(NamedTuple):
    """What was found before ar$afn."""

    form: Form
    """How the packet names its VPN."""
    vpn_id: VPNID | None
    """None if the packet names no VPN."""
    offset: int
    """Where ar$afn is in the payload."""


# A member of an enumeration takes longer to look up than a dictionary.
_PLAIN_FORM: Final = Form.PLAIN
_RFC_FORM: Final = Form.RFC

_PLAIN = Encapsulation(Form.PLAIN, None, 0)
_PLAIN_AFTER_SNAP = Encapsulation(Form.PLAIN, None, len(_NHRP))

#: Headers in RFC form that were read before. They say everything themselves, so the same octets
#: always mean the same.
_known: dict[bytes, Encapsulation] = {}
#: Times that all were forgotten, since they were too many.
forgotten: Final = Counter()
#: How many of them are kept: more than most hubs have VPNs.
_KNOWN_HEADERS: Final = 4096


def decapsulate(payload: bytes, oui: bytes) -> Encapsulation:
    """Recognise the form of a GRE payload.

    :param oui: three octets; legacy packets carry none of their own.
    :raises MalformedPacket: with the counter ``vpn_bad_inner`` or ``vpn_truncated``.
    """
    if payload[:3] != b"\xaa\xaa\x03":
        # ar$afn is 1 or 2, so it cannot be mistaken for LLC.
        return _PLAIN
    known = _known.get(payload[:RFC_LENGTH])
    if known is not None:
        return known
    found = _decapsulate(payload, oui)
    if found.form is _RFC_FORM:
        if len(_known) >= _KNOWN_HEADERS:
            _known.clear()
            forgotten.inc()
        _known[payload[:RFC_LENGTH]] = found
    return found


def _decapsulate(payload: bytes, oui: bytes) -> Encapsulation:
    snap = payload[:8]
    if snap == _NHRP:
        return _PLAIN_AFTER_SNAP
    if snap != _VPN:
        raise MalformedPacket("vpn_bad_inner")
    if len(payload) < RFC_LENGTH:
        raise MalformedPacket("vpn_truncated")
    # Octet 8 is padding, ignored on receipt.
    index = int.from_bytes(payload[12:16], "big")
    if payload[16:24] == _NHRP:
        return Encapsulation(Form.RFC, VPNID(payload[9:12], index), RFC_LENGTH)
    form = _FORM_OF_MARK.get(payload[9:12])
    if form is None or payload[16:32] != _LEGACY:
        raise MalformedPacket("vpn_bad_inner")
    if len(payload) < LEGACY_LENGTH + _SHORTEST_PACKET:
        raise MalformedPacket("vpn_truncated")
    return Encapsulation(form, VPNID(oui, index), LEGACY_LENGTH)


def header(form: Form, vpn_id: VPNID | None) -> bytes:
    """The octets to send before ar$afn.

    :param vpn_id: disregarded for the plain form, where the path implies it.
    :raises ValueError: if the form needs a VPN and there is none.
    """
    if form is _RFC_FORM and vpn_id is not None:
        return _rfc_header(vpn_id)
    if form is _PLAIN_FORM:
        return b""
    if vpn_id is None:
        raise ValueError(f"the {form.value} form names a VPN, but there is none")
    return b"%b\x00%b%b%b" % (_VPN, _MARKS[form], vpn_id.index.to_bytes(4, "big"), _LEGACY)


@lru_cache(_KNOWN_HEADERS)
def _rfc_header(vpn_id: VPNID) -> bytes:
    return b"%b\x00%b%b%b" % (_VPN, vpn_id.oui, vpn_id.index.to_bytes(4, "big"), _NHRP)
