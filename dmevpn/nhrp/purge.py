"""What servers and clients both do with a Purge Request (RFC 2332 §5.2.5). Layer: core."""

from __future__ import annotations

from dmevpn.errors import NHRPError
from dmevpn.nhrp.cache import Binding
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import Unknown
from dmevpn.nhrp.packet import Packet
from dmevpn.nhrp.records import CIE, decode_vni

__all__ = ["check_extensions", "names"]


def check_extensions(packet: Packet) -> None:
    """Refuse a packet that is for us and has a compulsory extension unknown to us.

    :raises NHRPError: Unrecognized Extension (RFC 2332 §5.3).
    """
    for extension in packet.extensions:
        if type(extension) is Unknown and extension.compulsory:
            raise NHRPError(
                "unrecognized_extension",
                code=ErrorCode.UNRECOGNIZED_EXTENSION,
                offset=packet.extension_offset(extension),
            )


def names(cie: CIE, binding: Binding) -> bool:
    """Whether a CIE of a Purge Request means a binding of its protocol address.

    NBMA address and subaddress, where given, narrow the purge to that VTEP; a client narrows by
    the address that it knows, even if another was seen outside of its address translation.
    """
    vtep = binding.vtep
    if vtep is None:
        return True
    if cie.nbma and cie.nbma not in (vtep.nbma, binding.claimed):
        return False
    if not cie.subaddress:
        return True
    try:
        return decode_vni(cie.subaddress, Form.RFC) == vtep.vni
    except ValueError:
        return False
