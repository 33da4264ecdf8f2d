"""The types of NHRP packets: one class for each, and how it is written (RFC 2332 §5). Layer: core.

Packets are values: nobody changes one that somebody else may hold. They are not frozen, because a
frozen dataclass takes twice as long to make, and one is made per datagram. Those of a datagram and
of its reply are even made without calling their class, which takes a third of the time: all their
fields are set by hand.

Numbers and addresses are kept as they stand on the wire; lengths, offsets and the checksum are
derived when a packet is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import error as StructError
from typing import ClassVar, Generic, TypeVar

from dmevpn.addresses import VPNID
from dmevpn.nhrp.constants import (
    DEFAULT_HOP_COUNT,
    NBMA_LENGTHS,
    VERSION,
    PacketType,
    ProtocolType,
)
from dmevpn.nhrp.encapsulation import LEGACY_LENGTH, Form, header
from dmevpn.nhrp.extensions import END, Extension, Extensions
from dmevpn.nhrp.header import (
    ADDRESSES,
    CHECKSUM,
    FIXED,
    LONGEST_NBMA,
    ethertype,
)
from dmevpn.nhrp.records import CIE, decode_cies
from dmevpn.nhrp.wire import checksum

__all__ = [
    "ErrorIndication",
    "Packet",
    "PurgeReply",
    "PurgeRequest",
    "RegistrationReply",
    "RegistrationRequest",
    "Request",
    "RequestOrReply",
    "ResolutionReply",
    "ResolutionRequest",
    "TrafficIndication",
    "seal",
]

_FAMILIES = {length: family for family, length in NBMA_LENGTHS.items()}
_NO_SNAP = bytes(5)

_E = TypeVar("_E", bound=Extension)
_R = TypeVar("_R", bound="RequestOrReply")


def seal(front: bytes, fixed: bytes, variable: bytes) -> bytes:
    """A payload out of what :meth:`Packet.write` has made, with its checksum.

    The legacy form counts its headers in lengths, offsets and checksum.
    """
    counted = front + fixed if len(front) == LEGACY_LENGTH else fixed
    total = checksum(counted + variable).to_bytes(2, "big")
    return b"".join((front, fixed[:CHECKSUM], total, fixed[CHECKSUM + 2 :], variable))


@dataclass(slots=True, kw_only=True)
class Packet:
    """What all types have in common."""

    packet_type: ClassVar[PacketType]

    source_nbma: bytes
    """Underlay address of the station that made the request or indication."""
    source_subaddress: bytes = b""
    """Its VNI, see :func:`dmevpn.nhrp.records.encode_vni`; empty: not stated."""
    source_protocol: bytes
    """Its protocol address."""
    destination_protocol: bytes
    """The protocol address asked for, registered with, or told."""
    protocol_type: int = ProtocolType.MAC
    """ar$pro.type as it stands on the wire; :attr:`ethertype` is what it means."""
    snap: bytes = _NO_SNAP
    """ar$pro.snap, five octets; means something with :attr:`ProtocolType.SNAP` only."""
    hop_count: int = DEFAULT_HOP_COUNT
    """How many servers may still forward the packet, 0 to 255."""
    extensions: tuple[Extension, ...] = ()
    """In the order of the packet, without End."""
    bare_end: bool = False
    """Whether End is there although there are no extensions."""
    raw: bytes = field(default=b"", compare=False, repr=False)
    """The packet as received, from ar$afn on, ar$pktsz octets; empty for one of our own."""
    spi: int = field(default=0, compare=False, repr=False)
    """Index of the key that authenticated it when it was received; 0: none did."""

    @property
    def ethertype(self) -> int:
        """The protocol type in its short form; MAC addresses have two, see ProtocolType."""
        return ethertype(self.protocol_type, self.snap)

    @property
    def header_end(self) -> int:
        """Offset of the octet behind the four addresses."""
        return (
            ADDRESSES
            + len(self.source_nbma)
            + len(self.source_subaddress)
            + len(self.source_protocol)
            + len(self.destination_protocol)
        )

    @property
    def destination_offset(self) -> int:
        """Offset of the destination protocol address."""
        return self.header_end - len(self.destination_protocol)

    @property
    def extensions_offset(self) -> int:
        """Offset of the first extension, or where it would be."""
        return self.header_end + len(self._encode_rest()[2])

    def extension(self, extension_class: type[_E]) -> _E | None:
        """The first extension of a class, or None."""
        extensions = self.extensions
        if type(extensions) is Extensions:
            return extensions.first.get(extension_class)  # type: ignore[return-value]
        for extension in extensions:
            if type(extension) is extension_class:
                return extension
        return None

    def extension_offset(self, extension: Extension) -> int:
        """Offset of the header of one of our extensions.

        Of a packet that was received it is looked for there: what authenticated it may have been
        taken out since.
        """
        at = self.extensions_offset
        if not self.raw:
            before = self.extensions[: self.extensions.index(extension)]
            return at + sum([len(each) for each in before])
        while at < len(self.raw) and not self.raw.startswith(extension, at):
            at += 4 + int.from_bytes(self.raw[at + 2 : at + 4], "big")
        return at

    def encode(self, form: Form = Form.PLAIN, vpn_id: VPNID | None = None) -> bytes:
        """The whole GRE payload.

        :param vpn_id: the VPN to name; every form but the plain one needs it.
        :raises ValueError: if a field does not fit.
        """
        extensions = self.extensions
        if type(extensions) is Extensions and (extensions or self.bare_end):
            octets = extensions.octets
        elif extensions or self.bare_end:
            octets = b"".join(extensions) + END
        else:
            octets = b""
        return seal(*self.write(form, vpn_id, octets))

    def write(
        self, form: Form, vpn_id: VPNID | None, extensions: bytes
    ) -> tuple[bytes, bytes, bytes]:
        """The payload before its checksum is known: what stands before ar$afn, the fixed part
        with a checksum of zero, and all behind it.

        :param extensions: their octets with End; empty: there is no extension part.
        :raises ValueError: if a field does not fit.
        """
        nbma = self.source_nbma
        subaddress = self.source_subaddress
        source = self.source_protocol
        destination = self.destination_protocol
        family = _FAMILIES.get(len(nbma))
        if family is None or len(subaddress) > LONGEST_NBMA or len(self.snap) != 5:
            raise ValueError(f"no valid packet: {self}")
        front = header(form, vpn_id)
        flags, number, rest = self._encode_rest()
        variable = b"".join((nbma, subaddress, source, destination, rest, extensions))
        size = ADDRESSES + len(variable)
        if len(front) == LEGACY_LENGTH:
            size += LEGACY_LENGTH
        try:
            fixed = FIXED.pack(
                family,
                self.protocol_type,
                self.snap,
                self.hop_count,
                size,
                0,
                size - len(extensions) if extensions else 0,
                VERSION,
                self.packet_type,
                len(nbma),
                len(subaddress),
                len(source),
                len(destination),
                flags,
                number,
            )
        except StructError as error:
            raise ValueError(f"no valid packet: {self}") from error
        return front, fixed, variable

    def _encode_rest(self) -> tuple[int, int, bytes]:
        """The sixteen bits of flags, the thirty-two bits behind them, and the mandatory part behind
        the addresses."""
        raise NotImplementedError

    def decode_rest(self, flags: int, number: int, start: int, end: int) -> None:
        """Take the words, and from ``raw`` the mandatory part behind the addresses.

        :param flags: sixteen bits.
        :param number: thirty-two bits: the request ID, or code and offset of an indication.
        :param start: where that part begins in ``raw``; ``end``: behind it.
        :raises MalformedPacket: ``bad_cie``.
        """
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class RequestOrReply(Packet):
    """The six types that have a request ID and CIEs (RFC 2332 §5.2.1 to §5.2.6).

    All four addresses of a reply are those of its request.
    """

    # Odd packets that end in zeros have the same checksum by either reading, see wire.py.
    bare_end: bool = True
    flags: int = 0
    """Masks of ResolutionFlag, RegistrationFlag or PurgeFlag; unknown bits are kept."""
    request_id: int = 0
    """32 bits; with the source protocol address it identifies the request."""
    cies: tuple[CIE, ...] = ()
    """In the order of the packet."""

    def cie_offset(self, index: int) -> int:
        """Offset of a CIE; one more than the last: where the next would be."""
        return self.header_end + sum([len(cie) for cie in self.cies[:index]])

    def _encode_rest(self) -> tuple[int, int, bytes]:
        cies = self.cies
        if len(cies) == 1:
            return self.flags, self.request_id, cies[0].encode()
        return self.flags, self.request_id, b"".join([cie.encode() for cie in cies])

    def decode_rest(self, flags: int, number: int, start: int, end: int) -> None:
        self.flags = flags
        self.request_id = number
        self.cies = ()
        nbma_length, width = len(self.source_nbma), len(self.source_protocol)
        self.cies = decode_cies(self.raw, start, end, nbma_length, width)


@dataclass(slots=True, kw_only=True)
class Request(RequestOrReply, Generic[_R]):
    """A request, which knows its reply."""

    reply_class: ClassVar[type[RequestOrReply]]

    def reply(
        self,
        cies: tuple[CIE, ...] | None = None,
        *,
        flags: int | None = None,
        extensions: tuple[Extension, ...] | None = None,
        hop_count: int = DEFAULT_HOP_COUNT,
    ) -> _R:
        """The reply: addresses, request ID and protocol type are those of the request.

        What is left out is taken from the request, too.
        """
        reply = self.reply_class.__new__(self.reply_class)
        reply.source_nbma = self.source_nbma
        reply.source_subaddress = self.source_subaddress
        reply.source_protocol = self.source_protocol
        reply.destination_protocol = self.destination_protocol
        reply.protocol_type = self.protocol_type
        reply.snap = self.snap
        reply.hop_count = hop_count
        reply.extensions = self.extensions if extensions is None else extensions
        reply.bare_end = self.bare_end
        reply.raw = b""
        reply.spi = 0
        reply.flags = self.flags if flags is None else flags
        reply.request_id = self.request_id
        reply.cies = self.cies if cies is None else cies
        return reply  # type: ignore[return-value]


class ResolutionReply(RequestOrReply):
    """Bindings, best first, or one CIE whose code says why there is none (RFC 2332 §5.2.2)."""

    __slots__ = ()
    packet_type = PacketType.RESOLUTION_REPLY


class ResolutionRequest(Request[ResolutionReply]):
    """Where is the destination protocol address? (RFC 2332 §5.2.1)"""

    __slots__ = ()
    packet_type = PacketType.RESOLUTION_REQUEST
    reply_class = ResolutionReply


class RegistrationReply(RequestOrReply):
    """The CIEs of the request, each with its code (RFC 2332 §5.2.4)."""

    __slots__ = ()
    packet_type = PacketType.REGISTRATION_REPLY


class RegistrationRequest(Request[RegistrationReply]):
    """A client's bindings, for a server to keep (RFC 2332 §5.2.3)."""

    __slots__ = ()
    packet_type = PacketType.REGISTRATION_REQUEST
    reply_class = RegistrationReply


class PurgeReply(RequestOrReply):
    """The request was heeded (RFC 2332 §5.2.6)."""

    __slots__ = ()
    packet_type = PacketType.PURGE_REPLY


class PurgeRequest(Request[PurgeReply]):
    """Bindings that are no longer true (RFC 2332 §5.2.5)."""

    __slots__ = ()
    packet_type = PacketType.PURGE_REQUEST
    reply_class = PurgeReply


@dataclass(slots=True, kw_only=True)
class ErrorIndication(Packet):
    """A packet could not be processed (RFC 2332 §5.2.7); the source is who could not."""

    packet_type = PacketType.ERROR_INDICATION

    code: int = 0
    """An :class:`~dmevpn.nhrp.constants.ErrorCode`, or one we do not know."""
    offset: int = 0
    """The octet of the offending packet that is at fault."""
    unused: int = 0
    """Sent as zero; FRR puts the flags of the offending packet there."""
    contents: bytes = b""
    """As much of the offending packet as fits, see :func:`decode_embedded`."""

    def _encode_rest(self) -> tuple[int, int, bytes]:
        return self.unused, _join(self.code, self.offset), self.contents

    def decode_rest(self, flags: int, number: int, start: int, end: int) -> None:
        self.unused = flags
        self.code, self.offset = divmod(number, 0x10000)
        self.contents = self.raw[start:end]


@dataclass(slots=True, kw_only=True)
class TrafficIndication(Packet):
    """A data packet took a detour through the source; a shortcut would help."""

    packet_type = PacketType.TRAFFIC_INDICATION

    code: int = 0
    """0, redirect, is the only one known."""
    unused: tuple[int, int] = (0, 0)
    """Sent as zero; kept from what others send."""
    contents: bytes = b""
    """The beginning of the data packet, from its network (or Ethernet) header on."""

    def _encode_rest(self) -> tuple[int, int, bytes]:
        return self.unused[0], _join(self.code, self.unused[1]), self.contents

    def decode_rest(self, flags: int, number: int, start: int, end: int) -> None:
        self.code, low = divmod(number, 0x10000)
        self.unused = flags, low
        self.contents = self.raw[start:end]


def _join(high: int, low: int) -> int:
    """Two fields of sixteen bits, which stand where the others have the request ID."""
    if not 0 <= low <= 0xFFFF:
        raise ValueError(f"{low} does not fit sixteen bits")
    return high << 16 | low
