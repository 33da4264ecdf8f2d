"""The requests of a site in a layer-2 VPN, octet for octet as our own client makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from dmevpn.nhrp.constants import (
    EXACT_PREFIX,
    VPN_AWARE,
    ProtocolType,
    PurgeFlag,
    RegistrationFlag,
    ResolutionFlag,
)
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
)
from dmevpn.nhrp.packet import PurgeRequest, RegistrationRequest, ResolutionRequest
from dmevpn.nhrp.records import CIE, encode_vni

__all__ = ["HOLDING_TIME", "MTU", "Requester"]

#: Seconds for which a site wants to be registered, if nothing is said.
HOLDING_TIME = 7200
#: Octets of the largest frame's payload, as sites state it.
MTU = 1450
_RECORDS = (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord())


class Requester(NamedTuple):
    """Who asks, or says that he does."""

    nbma: bytes
    vni: int
    station: bytes
    extensions: tuple[Extension, ...] = ()
    """Behind those of every request but a keepalive."""

    def _addresses(self, number: int) -> dict[str, Any]:
        return {
            "source_nbma": self.nbma,
            "source_subaddress": encode_vni(self.vni),
            "source_protocol": self.station,
            "destination_protocol": self.station,
            "protocol_type": ProtocolType.MAC,
            "request_id": number,
        }

    def registration(
        self, number: int, cies: Iterable[CIE] = (), *, holding_time: int = HOLDING_TIME
    ) -> RegistrationRequest:
        """A registration of the station, as unique, or of what the CIEs say."""
        said = tuple(cies)
        own = CIE(prefix_length=EXACT_PREFIX, mtu=MTU, holding_time=holding_time)
        return RegistrationRequest(
            **self._addresses(number),
            flags=0 if said else RegistrationFlag.U,
            cies=said or (own,),
            extensions=(*_RECORDS, *self.extensions),
        )

    def resolution(self, target: bytes, number: int) -> ResolutionRequest:
        """A question for a MAC address."""
        return ResolutionRequest(
            **{**self._addresses(number), "destination_protocol": target},
            flags=ResolutionFlag.Q | ResolutionFlag.A,
            cies=(CIE(prefix_length=EXACT_PREFIX, mtu=MTU),),
            extensions=(*_RECORDS, *self.extensions, DeviceCapabilities(VPN_AWARE, 0)),
        )

    def purge(self, number: int, cies: Iterable[CIE]) -> PurgeRequest:
        """It takes back what the CIEs say, and wants no reply."""
        return PurgeRequest(
            **self._addresses(number),
            flags=PurgeFlag.N,
            cies=tuple(cies),
            extensions=(*_RECORDS, *self.extensions),
        )

    def keepalive(self, number: int) -> PurgeRequest:
        """A purge of nothing, which is answered."""
        return PurgeRequest(**self._addresses(number))
