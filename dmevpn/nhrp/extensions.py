"""Extensions of an NHRP packet (RFC 2332 §5.3, RFC 2735 §4.2). Layer: core.

An extension is its octets, and every class here is a way to read them. What we cannot read is
passed on unchanged: unknown types, the unused header bit and reserved fields stay as they came.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import ClassVar, Final, TypeVar

from dmevpn.errors import MalformedPacket
from dmevpn.metrics import Counter
from dmevpn.nhrp.constants import ErrorCode, ExtensionType
from dmevpn.nhrp.records import CIE, decode_cies

__all__ = [
    "CLEARTEXT_SPI",
    "END",
    "Authentication",
    "CIEExtension",
    "DeviceCapabilities",
    "Extension",
    "Extensions",
    "ForwardTransitRecord",
    "NATAddress",
    "ResponderAddress",
    "ReverseTransitRecord",
    "Unknown",
    "VendorPrivate",
    "decode_extensions",
    "forgotten",
]

_COMPULSORY = 0x8000
_TYPE = 0x3FFF

_HEADER = Struct("!HH")
_WORD_PAIR = Struct("!II")

#: Ends every list of extensions.
END = _HEADER.pack(_COMPULSORY | ExtensionType.END, 0)

_E = TypeVar("_E", bound="Extension")
_C = TypeVar("_C", bound="CIEExtension")


class Extension(bytes):
    """One extension: the octets of its header and value, with names for what they mean.

    Being octets, it is compared, hashed and joined to its neighbours without a word of Python.
    """

    __slots__ = ()

    @classmethod
    def of_octets(cls: type[_E], octets: bytes) -> _E:
        """The extension with exactly these octets, its header included."""
        return bytes.__new__(cls, octets)

    @classmethod
    def _make(cls: type[_E], extension_type: int, compulsory: bool, value: bytes) -> _E:
        if len(value) > 0xFFFF:
            raise ValueError("an extension has at most 65535 octets")
        kind = extension_type | (_COMPULSORY if compulsory else 0)
        return bytes.__new__(cls, _HEADER.pack(kind, len(value)) + value)

    @property
    def type(self) -> int:
        """Its number, usually an :class:`~dmevpn.nhrp.constants.ExtensionType`."""
        return int.from_bytes(self[:2], "big") & _TYPE

    @property
    def compulsory(self) -> bool:
        """Whether a responder that does not know the type must refuse the packet."""
        return self[0] & 0x80 != 0

    @property
    def value(self) -> bytes:
        """The octets behind the header."""
        return self[4:]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hex()}>"

    def __str__(self) -> str:
        return repr(self)


class CIEExtension(Extension):
    """An extension whose value is a list of CIEs.

    :ivar cies: those, as a tuple.
    """

    TYPE: ClassVar[ExtensionType]
    COMPULSORY: ClassVar[bool] = True

    cies: tuple[CIE, ...]

    def __new__(cls: type[_C], cies: Iterable[CIE] = ()) -> _C:
        cies = tuple(cies)
        value = b"".join([cie.encode() for cie in cies])
        extension = cls._make(cls.TYPE, cls.COMPULSORY, value)
        extension.cies = cies
        return extension

    @classmethod
    def of_cies(cls: type[_C], octets: bytes, cies: tuple[CIE, ...]) -> _C:
        """The extension with exactly these octets, in which these CIEs were found."""
        extension = cls.of_octets(octets)
        extension.cies = cies
        return extension

    def followed_by(self: _C, cie: CIE) -> _C:
        """The extension with one more CIE; all other octets stay."""
        value = self.value + cie.encode()
        octets = b"%b%b%b" % (self[:2], len(value).to_bytes(2, "big"), value)
        return self.of_cies(octets, (*self.cies, cie))


class ResponderAddress(CIEExtension):
    """Who answers: empty in a request, one CIE in the reply (RFC 2332 §5.3.1)."""

    TYPE = ExtensionType.RESPONDER_ADDRESS


class ForwardTransitRecord(CIEExtension):
    """The servers that a request came through, in order (RFC 2332 §5.3.2)."""

    TYPE = ExtensionType.FORWARD_TRANSIT_RECORD


class ReverseTransitRecord(CIEExtension):
    """The servers that a reply came through, in order (RFC 2332 §5.3.3)."""

    TYPE = ExtensionType.REVERSE_TRANSIT_RECORD


class NATAddress(CIEExtension):
    """Cisco: addresses as they are seen from outside an address translation."""

    TYPE = ExtensionType.NAT_ADDRESS
    COMPULSORY = False


#: Cisco's layout has no source address; read as RFC 2332 has it, its constant 1 is the SPI.
CLEARTEXT_SPI: Final = 1


class Authentication(Extension):
    """Proof that the neighbour who sent this knows the secret (RFC 2332 §5.3.4).

    :param spi: security parameter index, 1 to 65535; 1 is Cisco's cleartext secret.
    :param data: what follows it.
    """

    __slots__ = ()

    def __new__(cls, spi: int, data: bytes) -> Authentication:
        return cls._make(ExtensionType.AUTHENTICATION, True, _HEADER.pack(0, spi) + data)

    def __repr__(self) -> str:
        # The secret stays out of logs.
        return f"<{type(self).__name__} spi {self.spi}>"

    @property
    def spi(self) -> int:
        """Security parameter index; 0, which nobody uses, if the value is too short for one."""
        return int.from_bytes(self[6:8], "big")

    @property
    def data(self) -> bytes:
        """What follows the index."""
        return self[8:]


class VendorPrivate(Extension):
    """Whatever the owner of an OUI puts there (RFC 2332 §5.3.5)."""

    __slots__ = ()

    def __new__(cls, oui: bytes, data: bytes) -> VendorPrivate:
        return cls._make(ExtensionType.VENDOR_PRIVATE, False, oui + data)

    @property
    def oui(self) -> bytes:
        """Three octets."""
        return self[4:7]

    @property
    def data(self) -> bytes:
        """What follows them."""
        return self[7:]


class DeviceCapabilities(Extension):
    """Whether the two ends can name VPNs (RFC 2735 §3.3, §4.2).

    :param source: of the requester, see :data:`~dmevpn.nhrp.constants.VPN_AWARE`.
    :param target: of the station that is asked for.
    """

    __slots__ = ()

    def __new__(cls, source: int, target: int) -> DeviceCapabilities:
        return cls._make(ExtensionType.DEVICE_CAPABILITIES, False, _WORD_PAIR.pack(source, target))

    @property
    def source(self) -> int:
        """Capabilities of the requester."""
        return int.from_bytes(self[4:8], "big")

    @property
    def target(self) -> int:
        """Capabilities of the station that is asked for."""
        return int.from_bytes(self[8:12], "big")


class Unknown(Extension):
    """An extension of a type that we do not know."""

    __slots__ = ()

    def __new__(cls, type: int, compulsory: bool, value: bytes) -> Unknown:
        if not 0 < type <= _TYPE:
            raise ValueError(f"{type} is no extension type")
        return cls._make(type, compulsory, value)


_CLASSES: dict[int, type[Extension]] = {
    int(ExtensionType.RESPONDER_ADDRESS): ResponderAddress,
    int(ExtensionType.FORWARD_TRANSIT_RECORD): ForwardTransitRecord,
    int(ExtensionType.REVERSE_TRANSIT_RECORD): ReverseTransitRecord,
    int(ExtensionType.AUTHENTICATION): Authentication,
    int(ExtensionType.VENDOR_PRIVATE): VendorPrivate,
    int(ExtensionType.DEVICE_CAPABILITIES): DeviceCapabilities,
}

#: Those that have nothing to be read before somebody wants to know.
_PLAIN: dict[int, type[Extension]] = {
    int(ExtensionType.AUTHENTICATION): Authentication,
    int(ExtensionType.VENDOR_PRIVATE): VendorPrivate,
}

#: Extensions without a value by the first half of their header, which is all there is to them.
#: Every request is full of them, so they are made once.
_EMPTY: dict[int, Extension] = {
    int.from_bytes(extension[:2], "big"): extension
    for extension in (
        ResponderAddress(),
        ForwardTransitRecord(),
        ReverseTransitRecord(),
        NATAddress(),
    )
}

#: Length of the IGP Information of draft-ietf-ion-r2r-nhrp, the third meaning of type 9. We do
#: nothing with it, but it may stand beside the other two.
_IGP_LENGTH = 4


class Extensions(tuple[Extension, ...]):
    """The extensions of a packet in their order, without End.

    Nearly all packets have one of a few such lists. So what everybody asks of it is found out once,
    when it is made.

    :ivar first: the first extension of each class.
    :ivar unknown: the first one that must be known and is not (RFC 2332 §5.3); None: there is none.
    :ivar octets: all of them as they stand in a packet, with End.
    :ivar unique: whether no other packet has the same, since it is signed.
    """

    first: dict[type[Extension], Extension]
    unknown: Extension | None
    octets: bytes
    unique: bool

    def __new__(cls, extensions: Iterable[Extension] = ()) -> Extensions:
        self = tuple.__new__(cls, extensions)
        self.first = {type(each): each for each in reversed(self)}
        unknown = [each for each in self if type(each) is Unknown and each.compulsory]
        self.unknown = unknown[0] if unknown else None
        self.octets = b"".join(self) + END
        proof = self.first.get(Authentication)
        self.unique = isinstance(proof, Authentication) and proof.spi != CLEARTEXT_SPI
        return self


#: Extension parts that were read before, by length of NBMA addresses and octets. Nearly all
#: requests have one of a few, and to find it takes a tenth of the time of reading it.
_known: dict[tuple[int, bytes], Extensions] = {}
#: Times that all were forgotten, since they were too many.
forgotten: Final = Counter()
#: How many of them are kept, and how long they may be.
_KNOWN_PARTS: Final = 512
_KNOWN_LENGTH: Final = 128


def decode_extensions(octets: bytes, start: int, nbma_length: int) -> Extensions:
    """Read the extensions from ``start`` up to the End extension; what follows that is ignored.

    The same octets usually yield the same objects again.

    :param octets: the packet from ar$afn to its end.
    :param nbma_length: octets of an NBMA address in the CIEs.
    :raises MalformedPacket: ``missing_end_extension``, ``bad_extension_length``,
        ``duplicate_extension`` or ``bad_cie``.
    """
    key = nbma_length, octets[start:]
    known = _known.get(key)
    if known is not None:
        return known
    extensions = Extensions(_extensions(octets, start, nbma_length))
    if len(octets) - start <= _KNOWN_LENGTH and not extensions.unique:
        if len(_known) >= _KNOWN_PARTS:
            _known.clear()
            forgotten.inc()
        _known[key] = extensions
    return extensions


def _extensions(octets: bytes, start: int, nbma_length: int) -> list[Extension]:
    extensions: list[Extension] = []
    seen: set[int] = set()
    size = len(octets)
    at = start
    while True:
        value_at = at + 4
        if value_at > size:
            raise MalformedPacket("missing_end_extension", code=ErrorCode.PROTOCOL_ERROR, offset=at)
        kind, length = _HEADER.unpack_from(octets, at)
        number = kind & _TYPE
        if not number:
            return extensions
        end = value_at + length
        if end > size:
            raise MalformedPacket(
                "bad_extension_length", code=ErrorCode.PROTOCOL_ERROR, offset=at + 2
            )
        extension = None if length else _EMPTY.get(kind)
        if number in _PLAIN:
            extension = _PLAIN[number].of_octets(octets[at:end])
        elif extension is None:
            extension = _decode_extension(octets, at, end, number, nbma_length)
        if number in seen and _repeats(extension, extensions):
            raise MalformedPacket(
                "duplicate_extension", code=ErrorCode.INVALID_EXTENSION, offset=at
            )
        seen.add(number)
        extensions.append(extension)
        at = end


def _decode_extension(octets: bytes, at: int, end: int, number: int, nbma_length: int) -> Extension:
    extension_class = _CLASSES.get(number, Unknown)
    if extension_class is DeviceCapabilities and end - at - 4 != _WORD_PAIR.size:
        # The other meanings of type 9 are told apart by length: a CIE has at least twelve octets.
        try:
            cies = decode_cies(octets, at + 4, end, nbma_length)
        except MalformedPacket:
            return Unknown.of_octets(octets[at:end])
        return NATAddress.of_cies(octets[at:end], cies)
    if issubclass(extension_class, CIEExtension):
        cies = decode_cies(octets, at + 4, end, nbma_length)
        return extension_class.of_cies(octets[at:end], cies)
    return extension_class.of_octets(octets[at:end])


def _repeats(extension: Extension, earlier: Iterable[Extension]) -> bool:
    """Whether an extension, whose number was seen before, may not stand beside those."""
    if isinstance(extension, VendorPrivate):
        return False
    return any(_meaning(extension) == _meaning(each) for each in earlier)


def _meaning(extension: Extension) -> tuple[int, type[Extension], bool]:
    """What may occur once in a packet: a number, but of type 9 each of its meanings."""
    number = extension.type
    is_igp = number == ExtensionType.NAT_ADDRESS and len(extension) == 4 + _IGP_LENGTH
    return number, type(extension), is_igp
