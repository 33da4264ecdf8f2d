"""The transit server: passes on what is for others (RFC 2332 §5.2, §5.3.2, §5.3.3). Layer: core.

Requests and indications go towards their destination protocol address, replies towards the
source. A station that is registered here gets everything directly; all else goes the way that is
configured. What is passed on stays as it came but for the hop count, the transit record, and the
authentication, which is between neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from zope.interface import implementer

from dmevpn.addresses import Path
from dmevpn.errors import NHRPError
from dmevpn.interfaces import ILink, IStation
from dmevpn.metrics import Metrics
from dmevpn.nhrp.cache import Cache
from dmevpn.nhrp.constants import REPLIES, ErrorCode, PacketType
from dmevpn.nhrp.extensions import (
    CIEExtension,
    Extension,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
)
from dmevpn.nhrp.header import HOP_COUNT, PACKET_SIZE
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import ErrorIndication, Packet, Request

__all__ = ["Transit"]


@implementer(IStation)
class Transit:
    """Passes on what no other station of the VPN has taken.

    :param identity: of the server that this belongs to.
    :param cache: who is registered with it.
    :ivar routes: NBMA addresses of the servers that lead to an address, the preferred one first;
        may be replaced.
    :param vpn: for the counter.
    """

    #: All of them. The speaker asks last who takes everything.
    packet_types = frozenset(PacketType)

    def __init__(
        self,
        *,
        identity: Identity,
        cache: Cache,
        link: ILink,
        routes: Callable[[bytes], list[bytes]],
        vpn: str,
        metrics: Metrics,
    ) -> None:
        self.station = identity.station
        self._identity = identity
        self._cache = cache
        self._link = link
        self.routes = routes
        self._forwarded = metrics.counter("packets_forwarded", vpn=vpn)

    def transport_resumed(self) -> None:
        """Whose packets pass here renew what they need themselves."""

    def packet_received(self, packet: Packet, path: Path) -> bool:
        """Pass a packet on; False if it is for us, or a reply or indication for nobody we know.

        :raises NHRPError: if it cannot go on, and its sender should know.
        """
        is_reply = packet.packet_type in REPLIES
        towards = packet.source_protocol if is_reply else packet.destination_protocol
        if len(towards) != self._identity.octets or towards in self._identity.addresses:
            return False
        if isinstance(packet, ErrorIndication) and self._is_from_us(packet, path):
            raise NHRPError("error_returned")
        try:
            way = self._way(towards, path)
            if way is None:
                return self._give_up(packet)
            self._pass_on(packet, path, way)
        except NHRPError as error:
            error.path = self._way_to_sender(packet, path)
            raise
        return True

    def _is_from_us(self, indication: ErrorIndication, path: Path) -> bool:
        """Whether an Error Indication is one of ours that has come back (RFC 2332 §5.2.7)."""
        return (
            indication.source_nbma == path.local
            and indication.source_protocol in self._identity.addresses
        )

    # --- where to -----------------------------------------------------------------------------

    def _way(self, towards: bytes, path: Path) -> Path | None:
        """The next hop towards an address; never the one that the packet came from."""
        binding = self._cache.find(towards)
        if binding is not None:
            for each in self._cache.alternatives(binding):
                way = each.path
                if way is None and each.vtep is not None:
                    way = self._to(each.vtep.nbma, path)
                if way is not None and way.peer != path.peer:
                    return way
            return None
        for server in self.routes(towards):
            if server != path.peer:
                return self._to(server, path)
        return None

    @staticmethod
    def _to(nbma: bytes, path: Path) -> Path:
        local = path.local if len(path.local) == len(nbma) else b""
        return Path(nbma, local, path.key)

    def _way_to_sender(self, packet: Packet, path: Path) -> Path | None:
        """The way for an Error Indication, if it is another than back.

        To a client of ours directly. A request that other servers have passed on is answered
        straight to its sender, as it is by whoever answers it: those servers know the way to its
        destination, but need not know one back.
        """
        if packet.packet_type in REPLIES:
            return self._way(packet.destination_protocol, path)
        binding = self._cache.find(packet.source_protocol)
        if binding is not None and binding.path is not None:
            return binding.path
        record = packet.extension(ForwardTransitRecord)
        return self._to(packet.source_nbma, path) if record is not None and record.cies else None

    @staticmethod
    def _give_up(packet: Packet) -> bool:
        """Nobody is known to pass a packet on to.

        :raises NHRPError: with an error code, if it is a request.
        """
        if isinstance(packet, Request):
            raise NHRPError(
                "unreachable", code=ErrorCode.UNREACHABLE, offset=packet.destination_offset
            )
        if packet.packet_type is PacketType.RESOLUTION_REPLY:
            raise NHRPError("unsolicited_reply")
        return False

    # --- what changes on the way ------------------------------------------------------------

    def _pass_on(self, packet: Packet, path: Path, way: Path) -> None:
        extensions = packet.extensions
        # Who does not know a compulsory extension stays out of the records (RFC 2332 §5.3).
        if not any(type(each) is Unknown and each.compulsory for each in extensions):
            extensions = self._record(packet, path, way)
        else:
            self._check_size(packet, way)
        if not packet.hop_count:
            raise NHRPError(
                "hop_count_exceeded", code=ErrorCode.HOP_COUNT_EXCEEDED, offset=HOP_COUNT
            )
        self._forwarded.inc()
        self._link.send(
            replace(packet, hop_count=packet.hop_count - 1, extensions=extensions, raw=b""), way
        )

    def _record(self, packet: Packet, path: Path, way: Path) -> tuple[Extension, ...]:
        """The extensions with ourselves in the transit record, if there is one.

        :raises NHRPError: if we are there already: the packet goes round in circles.
        """
        if packet.packet_type is PacketType.RESOLUTION_REPLY:
            responder = packet.extension(ResponderAddress)
            if responder is not None:
                self._check_loop(packet, responder, path)
        if packet.packet_type in REPLIES:
            record: CIEExtension | None = packet.extension(ReverseTransitRecord)
        else:
            record = packet.extension(ForwardTransitRecord)
        if record is None:
            self._check_size(packet, way)
            return packet.extensions
        self._check_loop(packet, record, path)
        nbma = path.local if len(path.local) == len(packet.source_nbma) else b""
        ourselves = self._identity.cie(nbma)
        self._check_size(packet, way, len(ourselves))
        longer = record.followed_by(ourselves)
        return tuple([longer if each is record else each for each in packet.extensions])

    def _check_size(self, packet: Packet, way: Path, more: int = 0) -> None:
        if len(packet.raw) + more > self._link.largest(way):
            raise NHRPError("too_large", code=ErrorCode.SIZE_EXCEEDED, offset=PACKET_SIZE)

    def _check_loop(self, packet: Packet, extension: CIEExtension, path: Path) -> None:
        for cie in extension.cies:
            if cie.protocol:
                is_ours = cie.protocol in self._identity.addresses
            else:
                is_ours = cie.nbma == path.local != b""
            if is_ours:
                raise NHRPError(
                    "loop_detected",
                    code=ErrorCode.LOOP_DETECTED,
                    offset=packet.extension_offset(extension),
                )
