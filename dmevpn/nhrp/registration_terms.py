"""What a client wants to be registered as, and the packets that say so (RFC 2332 §5.2.3, §5.2.5).

Layer: core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dmevpn.addresses import VTEP
from dmevpn.nhrp.constants import EXACT_PREFIX, RegistrationFlag
from dmevpn.nhrp.extensions import (
    Extension,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    ReverseTransitRecord,
)
from dmevpn.nhrp.multihoming import other_servers
from dmevpn.nhrp.nat import nat_address
from dmevpn.nhrp.packet import PurgeRequest, RegistrationRequest
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.requests import protocol_type_of

__all__ = ["Terms"]

#: What every request carries.
_EXTENSIONS: Final[tuple[Extension, ...]] = (
    ResponderAddress(),
    ForwardTransitRecord(),
    ReverseTransitRecord(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a station is registered with one server."""

    nhs: bytes
    """NBMA address of the server."""
    station: bytes
    """The protocol address that is registered, and the source of the requests."""
    vtep: VTEP
    """Where it is."""
    holding_time: int
    """Seconds asked for."""
    mtu: int
    """Of the station, in octets."""
    destination: bytes = b""
    """Protocol address of the server, or of its network's broadcast; empty if neither is known: the
    server knows its clients by their own (RFC 2332 §5.2.3)."""
    unique: bool = True
    """Whether nobody else may take the address over."""
    keeps_id: bool = False
    """Whether all our requests have one request ID: a Cisco router heeds a purge of a registration
    by no other than the registration's."""
    nat_extension: bool = False
    """Whether we ask how the server sees us from outside of an address translation."""
    others: tuple[bytes, ...] = ()
    """Underlay addresses of the station's other servers."""
    leave: bool = False
    """Whether what still others flood comes to us by one of them."""

    def request(self, request_id: int) -> RegistrationRequest:
        """One CIE without addresses: those of the header are meant (RFC 2332 §5.2.3)."""
        width = 8 * len(self.station)
        prefix_length, flags = (EXACT_PREFIX, RegistrationFlag.U) if self.unique else (width, 0)
        cie = CIE(prefix_length=prefix_length, mtu=self.mtu, holding_time=self.holding_time)
        extensions = _EXTENSIONS
        if self.nat_extension:
            flags |= RegistrationFlag.NAT
            extensions = (*_EXTENSIONS, self._nat_address())
        if self.others:
            extensions = (*extensions, other_servers(self.others, leave=self.leave))
        return RegistrationRequest(
            source_nbma=self.vtep.nbma,
            source_subaddress=encode_vni(self.vtep.vni),
            source_protocol=self.station,
            destination_protocol=self.destination or self.station,
            protocol_type=protocol_type_of(self.station),
            flags=flags,
            request_id=request_id,
            cies=(cie,),
            extensions=extensions,
        )

    def _nat_address(self) -> NATAddress:
        """The server as we know it. One that sees us by another address adds that."""
        known = self.destination not in (b"", self.station)
        return nat_address(
            self.nhs, self.destination if known else bytes(len(self.station)), self.mtu
        )

    @property
    def own(self) -> tuple[CIE, ...]:
        """What a purge of the registration names."""
        return (CIE(prefix_length=8 * len(self.station), protocol=self.station),)

    def purge(self, request_id: int, *, flags: int, cies: tuple[CIE, ...]) -> PurgeRequest:
        """Not narrowed to our VTEP: the server may know that by its translated address, and
        after a conflict it is another one that must go."""
        return PurgeRequest(
            source_nbma=self.vtep.nbma,
            source_subaddress=encode_vni(self.vtep.vni),
            source_protocol=self.station,
            destination_protocol=self.destination or self.station,
            protocol_type=protocol_type_of(self.station),
            flags=flags,
            request_id=request_id,
            cies=cies,
        )
