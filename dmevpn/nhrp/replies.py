"""What all replies of a server have in common (RFC 2332 §5.2.0, §5.3). Layer: core."""

from __future__ import annotations

from typing import Final

from dmevpn.addresses import Path
from dmevpn.metrics import Counter
from dmevpn.nhrp.cache import Cache
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    Extension,
    Extensions,
    ForwardTransitRecord,
    ResponderAddress,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.nat import outer_address
from dmevpn.nhrp.packet import Packet

__all__ = ["Replies", "forgotten"]

#: Extensions of a request, our address that was asked, capabilities of the station asked for, and
#: what may change of what we say about ourselves: MTU and holding time.
_Filling = tuple[tuple[Extension, ...], bytes, int, int, int]

#: Extensions of replies that are kept at hand. Peers choose what they send and whom they ask.
_FILLED: Final = 256
#: Times that all were forgotten, since they were too many.
forgotten: Final = Counter()


class Replies:
    """Where replies go, and the extensions that they have.

    :param cache: who is registered.
    """

    def __init__(self, identity: Identity, cache: Cache) -> None:
        self._identity = identity
        self._cache = cache
        self._filled: dict[_Filling, tuple[Extension, ...]] = {}

    def way(self, request: Packet, path: Path) -> Path:
        """The way to a requester: straight, even if other servers have forwarded the request,
        as its Forward Transit NHS Record tells (RFC 2332 §5.3.2).

        Such a requester is where it is registered with us, else where it says that it is seen
        from outside of an address translation, else where it says it is.
        """
        record = request.extension(ForwardTransitRecord)
        if record is None or not record.cies:
            return path
        registered = self._cache.lookup(request.source_protocol)
        if registered is not None and registered.path is not None:
            return registered.path
        nbma = outer_address(request, request.source_protocol) or request.source_nbma
        return Path(nbma, path.local, path.key)

    def extensions(
        self, request: Packet, path: Path, capabilities: int = 0
    ) -> tuple[Extension, ...]:
        """Those of the request in their order, with what a responder fills in.

        Nearly all requests have the same ones, so what was filled in is kept at hand.

        :param capabilities: of the station that was asked for (RFC 2735 §3.3).
        """
        us = self._identity
        key = request.extensions, path.local, capabilities, us.mtu, us.holding_time
        filled = self._filled.get(key)
        if filled is None:
            if len(self._filled) >= _FILLED:
                self._filled.clear()
                forgotten.inc()
            filled = self._filled[key] = Extensions(
                [self._fill(each, path.local, capabilities) for each in request.extensions]
            )
        return filled

    def _fill(self, extension: Extension, nbma: bytes, capabilities: int) -> Extension:
        if type(extension) is ResponderAddress:
            # We, as we are seen at an address of ours (RFC 2332 §5.3.1).
            return ResponderAddress((self._identity.cie(nbma),))
        if type(extension) is DeviceCapabilities and capabilities:
            return DeviceCapabilities(extension.source, capabilities)
        return extension
