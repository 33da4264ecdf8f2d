"""What the answer to a Resolution Request says (RFC 2332 §5.2.2). Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import MAC_LENGTH, VTEP
from dmevpn.nhrp.cache import Binding, Kind
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.nat import outer_address
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.prefixes import SHORTEST_PREFIX, key_of, significant
from dmevpn.nhrp.records import CIE, decode_vni, encode_vni, refusal, refused_with

__all__ = ["UNKNOWN", "AnswerReader", "Outcome", "Said", "is_unknown", "said"]

#: What a server says of an address that it does not know.
UNKNOWN: Final = "does not know it"


class Outcome(Enum):
    """What has come of a question."""

    CACHED = "cached"
    """The server says where the address is."""
    UNKNOWN = "unknown"
    """It does not know, or says nothing at all."""
    REFUSED = "refused"
    """It gives another reason, or an error."""
    UNUSABLE = "unusable"
    """It names no VTEP that we could send to: our own, maybe."""


class Said(NamedTuple):
    """What a server says about an address."""

    server: bytes
    """Its NBMA address; empty: nobody could be asked."""
    vtep: VTEP | None
    """Where it says that the address lives."""
    reason: str = ""
    """Why there is no VTEP, in words."""


def said(packet: RequestOrReply, server: bytes) -> Said:
    """What a reply says, as it stands there.

    :param server: NBMA address of who sent it.
    """
    for cie in packet.cies:
        if not cie.code and cie.nbma:
            with suppress(ValueError):
                return Said(server, VTEP(cie.nbma, decode_vni(cie.subaddress, Form.RFC)))
    code = refused_with(packet.cies) or CIECode.NO_BINDING
    return Said(server, None, UNKNOWN if is_unknown(code) else refusal(code))


def is_unknown(code: int) -> bool:
    """Whether a CIE code says that the server does not know the address."""
    return code in (CIECode.NO_BINDING, CIECode.LEGACY_NO_BINDING)


class AnswerReader:
    """Makes bindings of the answers to one client.

    :param vni: its own VNI; None where the overlay is not VXLAN.
    :param seen_as: its NBMA addresses as servers see them from outside of address translation.
    """

    def __init__(
        self, clock: IReactorTime, vni: int | None, seen_as: Callable[[], Collection[bytes]]
    ) -> None:
        self._clock = clock
        self._vni = vni
        self._seen_as = seen_as

    def best(self, protocol: bytes, packet: RequestOrReply, server: bytes) -> Binding | None:
        """The binding of the highest preference that a reply has; None if none can be used.

        :param protocol: the address that was asked for.
        :param server: NBMA address of who sent it.
        """
        return max(
            filter(None, [self._read(protocol, cie, packet, server) for cie in packet.cies]),
            key=lambda binding: binding.preference,
            default=None,
        )

    def _read(
        self, protocol: bytes, cie: CIE, packet: RequestOrReply, server: bytes
    ) -> Binding | None:
        """What a CIE of an answer says, if it can be used.

        The original daemon states the VNI in place of the one of our request.
        """
        local = packet.source_nbma
        if cie.code or not cie.holding_time or len(cie.nbma) != len(local):
            return None
        next_hop = cie.protocol if cie.protocol != protocol else b""
        if next_hop and len(protocol) == MAC_LENGTH:
            return None
        try:
            vni = decode_vni(cie.subaddress, Form.RFC)
            if vni is None and packet.source_subaddress != encode_vni(self._vni):
                vni = decode_vni(packet.source_subaddress, Form.RFC)
        except ValueError:
            return None
        translated = outer_address(packet, cie.protocol)
        vtep = VTEP(translated or cie.nbma, vni)
        if self._is_our_own(vtep, local) or (vni is None) is not (self._vni is None):
            return None
        network, prefix_length = _prefix(protocol, cie)
        return Binding(
            network,
            vtep,
            Kind.CACHED,
            cie.holding_time,
            self._clock.seconds() + cie.holding_time,
            mtu=cie.mtu,
            preference=cie.preference,
            nat=translated not in (b"", cie.nbma),
            claimed=cie.nbma if translated not in (b"", cie.nbma) else b"",
            prefix_length=prefix_length,
            next_hop=next_hop or (protocol if prefix_length is not None else b""),
            source=server,
        )

    def _is_our_own(self, vtep: VTEP, local: bytes) -> bool:
        return vtep.vni == self._vni and (vtep.nbma == local or vtep.nbma in self._seen_as())


def _prefix(protocol: bytes, cie: CIE) -> tuple[bytes, int | None]:
    """The addresses that an answer is about: the first of them, and the prefix length if it is
    not the one that was asked for alone.

    A network that has the underlay address in it would lead the way there into itself.
    """
    octets = len(protocol)
    bits = significant(cie.prefix_length, octets)
    key = key_of(protocol, bits)
    if not SHORTEST_PREFIX[octets] <= bits < 8 * octets or (
        len(cie.nbma) == octets and key_of(cie.nbma, bits) == key
    ):
        return protocol, None
    return key[:octets], bits
