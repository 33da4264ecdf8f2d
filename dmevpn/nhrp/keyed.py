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
from dataclasses import replace
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VPNID, Path
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.authentication import (
    CLEARTEXT_SPI,
    CiscoAuthentication,
    failure,
    with_authentication,
)
from dmevpn.nhrp.encapsulation import LEGACY_LENGTH, Encapsulation, Form, header
from dmevpn.nhrp.extensions import END, Authentication
from dmevpn.nhrp.header import CHECKSUM, EXTENSIONS_OFFSET
from dmevpn.nhrp.packet import ErrorIndication, Packet
from dmevpn.nhrp.replay import ReplayGuard, is_challenge
from dmevpn.nhrp.wire import checksum

__all__ = ["ALGORITHMS", "LARGEST_SPI", "EitherAuthentication", "Key", "KeyedAuthentication"]

#: What a key can be for, by the name that users write: the hash of the HMAC.
ALGORITHMS: Final = {"hmac-sha-256": "sha256", "hmac-md5": "md5"}

#: SPIs are 16 bits; 0 means nothing and 1 is the cleartext secret.
LARGEST_SPI: Final = 0xFFFF

#: Octets of the extension before the source address: header, two reserved octets, SPI.
_SOURCE: Final = 8


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

    def hash(self, octets: bytes | bytearray) -> bytes:
        """The HMAC of octets."""
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

    :param signer: the key of what we send.
    :param keys: the others that we accept, each with an SPI of its own.
    :param guard: refuses what was sent before; None: nobody does, as in RFC 2332.
    """

    def __init__(
        self, signer: Key, keys: Iterable[Key] = (), guard: ReplayGuard | None = None
    ) -> None:
        self._signer = signer
        self._keys = {key.spi: key for key in (*keys, signer)}
        self._guard = guard

    def sign(
        self, packet: Packet, form: Form, vpn_id: VPNID | None, path: Path, station: bytes
    ) -> bytes:
        """The payload with a hash in the place of what authenticated the packet before.

        Error Indications stay as they are, RFC 2332 §5.2.7 allows no extensions there.
        """
        if isinstance(packet, ErrorIndication):
            return packet.encode(form, vpn_id)
        key = self._signer
        width = len(packet.source_protocol)
        source = station if len(station) == width else bytes(width)
        blank = Authentication(key.spi, source + key.blank)
        extensions = with_authentication(packet.extensions, blank)
        if self._guard is not None:
            extensions = self._guard.prove(extensions, packet, form, vpn_id, path)
        data = bytearray(replace(packet, extensions=tuple(extensions)).encode(form, vpn_id))
        start = len(header(form, vpn_id))
        at_checksum = start + CHECKSUM
        behind = extensions[extensions.index(blank) + 1 :]
        end = len(data) - len(END) - sum([len(each.octets) for each in behind])
        data[at_checksum : at_checksum + 2] = b"\0\0"
        data[end - key.size : end] = key.hash(data[start:])
        # The legacy form counts its headers in lengths, offsets and checksum.
        total = checksum(bytes(data[0 if start == LEGACY_LENGTH else start :]))
        data[at_checksum : at_checksum + 2] = total.to_bytes(2, "big")
        return bytes(data)

    def verify(self, packet: Packet, encapsulation: Encapsulation, path: Path) -> None:
        """Accept the packet if its hash is that of a key of ours, and it is a new packet.

        :raises AuthenticationFailure: if it is not.
        :raises Handshake: if the neighbour has to show first that it is.
        """
        raw = packet.raw
        offset = int.from_bytes(raw[EXTENSIONS_OFFSET : EXTENSIONS_OFFSET + 2], "big")
        if encapsulation.offset == LEGACY_LENGTH:
            offset -= LEGACY_LENGTH
        for extension in packet.extensions:
            if type(extension) is Authentication:
                break
            offset += len(extension.octets)
        else:
            raise failure(packet, None)
        octets = extension.octets
        key = self._keys.get(extension.spi)
        start = _SOURCE + len(packet.source_protocol)
        if key is None or len(octets) != start + key.size:
            raise failure(packet, extension)
        begin = offset + start
        expected = key.hash(
            b"%b\0\0%b%b%b"
            % (
                raw[:CHECKSUM],
                raw[CHECKSUM + 2 : begin],
                key.blank,
                raw[begin + key.size :],
            )
        )
        if not hmac.compare_digest(octets[start:], expected):
            raise failure(packet, extension)
        if self._guard is not None:
            self._guard.check(packet, encapsulation, path, octets[_SOURCE:start])


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
