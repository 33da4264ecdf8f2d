"""Authentication by a keyed hash (RFC 2332 §5.3.4). Layer: core.

The extension has a Security Parameter Index, which selects key and algorithm, the protocol
address of the neighbour that sends this hop, and an HMAC (RFC 2104) over the packet from ar$afn
to ar$pktsz. The octets of the HMAC count as zero in it, and so does ar$chksum, which covers the
HMAC itself: RFC 2332 does not say so, but nothing else can be computed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VPNID, Path
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.authentication import CiscoAuthentication, failure
from dmevpn.nhrp.constants import ExtensionType
from dmevpn.nhrp.encapsulation import LEGACY_LENGTH, RFC_LENGTH, Encapsulation, Form
from dmevpn.nhrp.extensions import (
    CLEARTEXT_SPI,
    END,
    Authentication,
    Extension,
    VendorPrivate,
)
from dmevpn.nhrp.header import CHECKSUM, EXTENSIONS_OFFSET
from dmevpn.nhrp.packet import ErrorIndication, Packet, seal
from dmevpn.nhrp.replay import ReplayGuard, is_challenge, is_proof

__all__ = [
    "ALGORITHMS",
    "AUTHENTICATION_LENGTH",
    "LARGEST_SPI",
    "EitherAuthentication",
    "Key",
    "KeyedAuthentication",
]

#: What a key can be for, by the name that users write: the hash of the HMAC.
ALGORITHMS: Final = {"hmac-sha-256": "sha256", "hmac-md5": "md5"}

#: SPIs are 16 bits; 0 means nothing and 1 is the cleartext secret.
LARGEST_SPI: Final = 0xFFFF

_AUTHENTICATION = Struct("!HHHH")
_TYPE: Final = 0x8000 | ExtensionType.AUTHENTICATION
#: How the extensions begin before which it has its place.
_NINE: Final = ExtensionType.NAT_ADDRESS.to_bytes(2, "big")
#: Octets of the extension before the source address: header, two reserved octets, SPI.
AUTHENTICATION_LENGTH: Final = _AUTHENTICATION.size

# A member of an enumeration takes longer to look up than a global variable.
_RFC: Final = Form.RFC
_PLAIN: Final = Form.PLAIN

#: Lists of extensions whose octets are kept at hand; nearly all packets have one of a few.
_KNOWN: Final = 512


class Key:
    """A secret, and what it is for.

    The two states in which an HMAC begins depend on the key alone. They are computed once and
    copied for each packet, which takes less than half the time of a new HMAC.

    :ivar spi: its index.
    :ivar size: octets of a hash.
    :param spi: 2 to 65535, the same at all neighbours.
    :param algorithm: a name of :data:`ALGORITHMS`.
    :raises ValueError: for another index or algorithm, or an empty secret.
    """

    __slots__ = ("_inner", "_outer", "blank", "size", "spi")

    def __init__(self, spi: int, algorithm: str, secret: bytes) -> None:
        name = ALGORITHMS.get(algorithm)
        if name is None or not CLEARTEXT_SPI < spi <= LARGEST_SPI or not secret:
            raise ValueError("no key can be like that")
        plain = hashlib.new(name)
        if len(secret) > plain.block_size:
            secret = hashlib.new(name, secret).digest()
        padded = secret.ljust(plain.block_size, b"\0")
        self.spi = spi
        self.size = plain.digest_size
        #: What stands in the place of a hash while it is computed.
        self.blank = bytes(self.size)
        self._inner = hashlib.new(name, bytes([octet ^ 0x36 for octet in padded]))
        self._outer = hashlib.new(name, bytes([octet ^ 0x5C for octet in padded]))

    def header(self, width: int) -> bytes:
        """The octets of the extension before a source address of ``width`` octets."""
        return _AUTHENTICATION.pack(
            _TYPE, AUTHENTICATION_LENGTH - 4 + width + self.size, 0, self.spi
        )

    def hash(self, octets: bytes | bytearray) -> bytes:
        """The HMAC (RFC 2104) of octets."""
        inner = self._inner.copy()
        inner.update(octets)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def __repr__(self) -> str:
        # The secret stays out of logs.
        return f"<{type(self).__name__} spi {self.spi}>"


@implementer(IAuthenticator)
class KeyedAuthentication:
    """Every packet has the hash of one of our keys.

    :ivar signer: the key of what we send.
    :ivar guard: refuses what was sent before; None: nobody does, as in RFC 2332.
    :param keys: the others that we accept, each with an SPI of its own.
    """

    def __init__(
        self, signer: Key, keys: Iterable[Key] = (), guard: ReplayGuard | None = None
    ) -> None:
        self.signer = signer
        self.guard = guard
        self._keys = {key.spi: key for key in (*keys, signer)}

    def key(self, spi: int) -> Key | None:
        """The key with an index, if there is one."""
        return self._keys.get(spi)

    def sign(
        self, packet: Packet, form: Form, vpn_id: VPNID | None, path: Path, station: bytes
    ) -> bytes:
        """The payload with a hash in the place of what authenticated the packet before.

        Error Indications stay as they are, RFC 2332 §5.2.7 allows no extensions there.
        """
        if isinstance(packet, ErrorIndication):
            return packet.encode(form, vpn_id)
        key = self.signer
        width = len(packet.source_protocol)
        before, after = _around(packet.extensions)
        extensions = b"".join(
            (
                before,
                b"" if self.guard is None else self.guard.prove(packet, form, vpn_id, path),
                key.header(width),
                station if len(station) == width else bytes(width),
                key.blank,
                after,
            )
        )
        front, fixed, variable = packet.write(form, vpn_id, extensions)
        end = len(variable) - len(after)
        digest = key.hash(fixed + variable)
        return seal(front, fixed, variable[: end - key.size] + digest + variable[end:])

    def verify(self, packet: Packet, encapsulation: Encapsulation, path: Path) -> None:
        """Accept the packet if its hash is that of a key of ours, and it is a new packet.

        What proved that is taken out of it.

        :raises AuthenticationFailure: if it is not.
        :raises Handshake: if the neighbour has to show first that it is.
        """
        raw = packet.raw
        offset = (raw[EXTENSIONS_OFFSET] << 8) + raw[EXTENSIONS_OFFSET + 1]
        offset -= _start(encapsulation.form)[1]
        extensions = packet.extensions
        for index, extension in enumerate(extensions):  # noqa: B007 -- used behind the loop
            if type(extension) is Authentication:
                break
            offset += len(extension)
        else:
            raise failure(packet, None)
        key = self._keys.get(int.from_bytes(extension[6:AUTHENTICATION_LENGTH], "big"))
        start = AUTHENTICATION_LENGTH + len(packet.source_protocol)
        if key is None or len(extension) != start + key.size:
            raise failure(packet, extension)
        begin = offset + start
        end = begin + key.size
        covered = (raw[:CHECKSUM], b"\0\0", raw[CHECKSUM + 2 : begin], key.blank, raw[end:])
        expected = key.hash(b"".join(covered))
        if not hmac.compare_digest(extension[start:], expected):
            raise failure(packet, extension)
        packet.spi = key.spi
        if self.guard is not None:
            self.guard.check(packet, encapsulation, path, extension[AUTHENTICATION_LENGTH:start])
        if index + 1 == len(extensions) or extensions[index + 1][:2] == _NINE:
            # It is removed, like the proof before it: they concern nobody else. Where we would not
            # put it ourselves, it stays, to keep its place.
            first = index - 1 if index and is_proof(extensions[index - 1]) else index
            packet.extensions = extensions[:first] + extensions[index + 1 :]


def _start(form: Form) -> tuple[int, int]:
    """Where ar$afn is, and how many octets before it the lengths and the checksum count."""
    if form is _RFC:
        return RFC_LENGTH, 0
    if form is _PLAIN:
        return 0, 0
    return LEGACY_LENGTH, LEGACY_LENGTH


@lru_cache(_KNOWN)
def _around(extensions: tuple[Extension, ...]) -> tuple[bytes, bytes]:
    """The octets of extensions before and behind the place of Authentication, without proofs.

    Its place is kept; where it had none, it is before type 9, or last.
    """
    place = None
    others: list[bytes] = []
    for extension in extensions:
        if type(extension) is Authentication:
            place = len(others)
        elif type(extension) is not VendorPrivate or not is_proof(extension):
            others.append(extension)
    if place is None:
        nines = [index for index, each in enumerate(others) if each[:2] == _NINE]
        place = nines[0] if nines else len(others)
    return b"".join(others[:place]), b"".join(others[place:]) + END


@implementer(IAuthenticator)
class EitherAuthentication:
    """A network that changes from the cleartext secret to keys: both are accepted.

    Until the secret is gone, whoever has read it on the wire is accepted, too.

    :param signs: whether what we send is signed with a key already.
    """

    def __init__(
        self, cleartext: CiscoAuthentication, keyed: KeyedAuthentication, *, signs: bool
    ) -> None:
        self._cleartext = cleartext
        self._keyed = keyed
        self._signs = signs

    def sign(
        self, packet: Packet, form: Form, vpn_id: VPNID | None, path: Path, station: bytes
    ) -> bytes:
        """The payload with the one or the other. A challenge answers a neighbour that signs."""
        signs = self._signs or is_challenge(packet)
        signer = self._keyed if signs else self._cleartext
        return signer.sign(packet, form, vpn_id, path, station)

    def verify(self, packet: Packet, encapsulation: Encapsulation, path: Path) -> None:
        """Accept what one of the two accepts; the SPI says which is asked.

        :raises AuthenticationFailure: if it does not.
        :raises Handshake: if the neighbour has to show first that the packet is new.
        """
        present = packet.extension(Authentication)
        if present is not None and present.spi == CLEARTEXT_SPI:
            self._cleartext.verify(packet, encapsulation, path)
        else:
            self._keyed.verify(packet, encapsulation, path)
