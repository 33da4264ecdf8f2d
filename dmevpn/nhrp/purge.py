"""What servers and clients both do with a Purge Request (RFC 2332 §5.2.5). Layer: core."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from dmevpn.errors import NHRPError
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import Extensions
from dmevpn.nhrp.packet import Packet, PurgeRequest
from dmevpn.nhrp.prefixes import key_of, significant
from dmevpn.nhrp.records import CIE, decode_vni

__all__ = ["check_extensions", "names", "registrations"]

#: Comparisons of a registration with a prefix that one Purge Request may cost: two milliseconds.
#: What is not found within them runs out by itself.
_COMPARISONS: Final = 2048


def check_extensions(packet: Packet) -> None:
    """Refuse a packet that is for us and has a compulsory extension unknown to us.

    :raises NHRPError: Unrecognized Extension (RFC 2332 §5.3).
    """
    extensions = packet.extensions
    if type(extensions) is not Extensions:
        extensions = Extensions(extensions)
    if extensions.unknown is not None:
        raise NHRPError(
            "unrecognized_extension",
            code=ErrorCode.UNRECOGNIZED_EXTENSION,
            offset=packet.extension_offset(extensions.unknown),
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


def registrations(packet: PurgeRequest, cache: Cache) -> list[Binding]:
    """The registrations, and the weaker bindings, that a Purge Request takes away at a server.

    RFC 2332 knows no limit to that, but one site shall not end another's registration: a purge
    must come from the protocol address or the NBMA address that registered. A site that has moved
    is known by its protocol address, and so can end its own of before.
    """
    found = []
    sets = []
    for cie in packet.cies:
        if significant(cie.prefix_length, len(cie.protocol)) < 8 * len(cie.protocol):
            sets.append(cie)
            continue
        first = cache.lookup(cie.protocol)
        if first is not None and first.kind <= Kind.DYNAMIC:
            some = cache.alternatives(first)
            found += [each for each in some if _may_end(packet, each) and names(cie, each)]
    if sets:
        own = list(islice(cache.registered_by(packet.source_nbma), _COMPARISONS))
        registered = cache.lookup(packet.source_protocol)
        if registered is not None and registered.kind is Kind.DYNAMIC:
            own += cache.alternatives(registered)
        for cie, binding in islice(_pairs(sets, own), _COMPARISONS):
            if _is_inside(binding, cie) and names(cie, binding):
                found.append(binding)
    return found


def _may_end(packet: PurgeRequest, binding: Binding) -> bool:
    """Whether a purge comes from whoever registered a binding; anybody may end the others."""
    vtep = binding.vtep
    return (
        binding.kind is not Kind.DYNAMIC
        or packet.source_protocol == binding.protocol
        or (vtep is not None and packet.source_nbma in (vtep.nbma, binding.claimed))
    )


def _pairs(cies: list[CIE], bindings: list[Binding]) -> Iterator[tuple[CIE, Binding]]:
    return ((cie, binding) for cie in cies for binding in bindings)


def _is_inside(binding: Binding, cie: CIE) -> bool:
    """Whether a binding is about nothing that is not in the set of a CIE."""
    return (
        len(binding.protocol) == len(cie.protocol)
        and binding.bits >= cie.prefix_length
        and key_of(binding.protocol, cie.prefix_length) == key_of(cie.protocol, cie.prefix_length)
    )
