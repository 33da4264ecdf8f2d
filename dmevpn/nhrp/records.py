"""Client Information Entries and the VNIs in them (RFC 2332 §5.2.0.1, RFC 7348). Layer: core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Final

from dmevpn.addresses import VNI_MAX
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.constants import CIECode, ErrorCode
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.header import LONGEST_NBMA, TYPE_BITS, address_length

__all__ = ["CIE", "decode_cies", "decode_vni", "encode_vni", "refusal", "refused_with"]

# A member of an enumeration takes longer to look up than a dictionary.
_LITTLE: Final = Form.LEGACY_LITTLE

#: code, prefix length, unused, MTU, holding time, three lengths, preference
_CIE = Struct("!BBHHHBBBB")


@dataclass(slots=True)
class CIE:
    """Client Information Entry: a binding, or what is asked about one. Not to be changed."""

    code: int = 0
    """A :class:`~dmevpn.nhrp.constants.CIECode`, or a refusal without known reason."""
    prefix_length: int = 0
    """Bits of the protocol address that count; 0 and 255: all of them."""
    unused: int = 0
    """Sent as zero; kept from what others send."""
    mtu: int = 0
    """Octets; 0: not stated."""
    holding_time: int = 0
    """Seconds, 0 to 65535."""
    nbma: bytes = b""
    """Address of the VTEP; empty: not stated."""
    subaddress: bytes = b""
    """Its VNI, see :func:`encode_vni`; empty: not stated."""
    protocol: bytes = b""
    """Protocol address of the client; empty: not stated."""
    preference: int = 0
    """Higher is better, 0 to 255."""

    def encode(self) -> bytes:
        """Its octets.

        :raises ValueError: if a field does not fit.
        """
        nbma, subaddress, protocol = self.nbma, self.subaddress, self.protocol
        if len(nbma) > LONGEST_NBMA or len(subaddress) > LONGEST_NBMA:
            raise ValueError(f"an NBMA address has at most {LONGEST_NBMA} octets")
        try:
            fixed = _CIE.pack(
                self.code,
                self.prefix_length,
                self.unused,
                self.mtu,
                self.holding_time,
                len(nbma),
                len(subaddress),
                len(protocol),
                self.preference,
            )
        except StructError as error:
            raise ValueError(f"no valid CIE: {self}") from error
        return fixed + nbma + subaddress + protocol

    def __len__(self) -> int:
        """How many octets it takes."""
        return _CIE.size + len(self.nbma) + len(self.subaddress) + len(self.protocol)


def decode_cies(
    octets: bytes, start: int, end: int, nbma_length: int, protocol_length: int | None = None
) -> tuple[CIE, ...]:
    """Read the CIEs that fill a part of a packet exactly.

    :param nbma_length: octets of an NBMA address; a CIE may also leave its address out.
    :param protocol_length: likewise; None takes any length, as extensions need it: the original
        daemon puts IPv4 addresses of servers into packets about MAC addresses.
    :raises MalformedPacket: ``bad_cie`` with the offset of the CIE that does not fit.
    """
    cies = []
    at = start
    while at < end:
        nbma_at = at + _CIE.size
        if nbma_at > end:
            raise MalformedPacket("bad_cie", code=ErrorCode.PROTOCOL_ERROR, offset=at)
        (
            code,
            prefix_length,
            unused,
            mtu,
            holding_time,
            nbma_size,
            subaddress_size,
            protocol_size,
            preference,
        ) = _CIE.unpack_from(octets, at)
        if (nbma_size | subaddress_size) & TYPE_BITS:
            nbma_size = address_length(nbma_size)
            subaddress_size = address_length(subaddress_size)
        if (
            nbma_size is None
            or subaddress_size is None
            or (nbma_size and nbma_size != nbma_length)
            or (protocol_size and protocol_length and protocol_size != protocol_length)
        ):
            raise MalformedPacket("bad_cie", code=ErrorCode.PROTOCOL_ERROR, offset=at)
        subaddress_at = nbma_at + nbma_size
        protocol_at = subaddress_at + subaddress_size
        following = protocol_at + protocol_size
        if following > end:
            raise MalformedPacket("bad_cie", code=ErrorCode.PROTOCOL_ERROR, offset=at)
        cies.append(
            CIE(
                code,
                prefix_length,
                unused,
                mtu,
                holding_time,
                octets[nbma_at:subaddress_at],
                octets[subaddress_at:protocol_at],
                octets[protocol_at:following],
                preference,
            )
        )
        at = following
    return tuple(cies)


def encode_vni(vni: int | None, form: Form = Form.RFC) -> bytes:
    """The NBMA subaddress that carries a VNI: four octets in network order, or none at all.

    :param form: of the packet; the original daemon reads and writes the order of its host.
    :raises ValueError: if it is no VNI.
    """
    if vni is None:
        return b""
    if not 1 <= vni <= VNI_MAX:
        raise ValueError(f"{vni} is not a VNI from 1 to {VNI_MAX}")
    return vni.to_bytes(4, "little" if form is _LITTLE else "big")


def decode_vni(subaddress: bytes, form: Form) -> int | None:
    """The VNI in an NBMA subaddress; None if it is empty or zero, which both mean "no VNI".

    :param form: of the packet that the subaddress is from.
    :raises ValueError: if it is no VNI.
    """
    if not subaddress:
        return None
    vni = int.from_bytes(subaddress, "little" if form is _LITTLE else "big")
    if len(subaddress) != 4 or vni > VNI_MAX:
        raise ValueError(f"{subaddress.hex()} is not a VNI")
    return vni or None


def refused_with(cies: Iterable[CIE]) -> int:
    """The first CIE code of a reply that refuses; 0: none does."""
    return next((cie.code for cie in cies if cie.code), CIECode.SUCCESS)


def refusal(code: int) -> str:
    """A CIE code that refuses, in words, for logs and operators."""
    try:
        return f"refused with code {code}, {CIECode(code).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"refused with code {code}"
