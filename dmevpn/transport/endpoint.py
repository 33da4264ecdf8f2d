"""What every GRE transport does alike: wrap, unwrap, count, deliver. Layer: edge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmevpn.addresses import Path
from dmevpn.errors import MalformedPacket
from dmevpn.interfaces import IDatagramReceiver
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.transport import gre
from dmevpn.transport.limits import Flood, PeerLimits

__all__ = ["GREEndpoint"]


class GREEndpoint:
    """The common part of real and in-memory GRE transports.

    :param key: the GRE key that packets carry and must carry; None: they carry none.
    :param further_keys: keys that packets may carry as well; an answer carries that of its request.
    :param limits: of peers.
    """

    log = Logger()

    def __init__(
        self,
        metrics: Metrics,
        key: int | None,
        further_keys: Iterable[int],
        limits: PeerLimits,
    ) -> None:
        self._keys = frozenset({key, *further_keys})
        for each in self._keys:
            if each is not None and not 0 <= each <= gre.KEY_MAX:
                raise ValueError(f"no GRE key: {each}")
        self.metrics = metrics
        self.key = key
        self.limits = limits
        limits.on_flood = self._flooded
        self._receiver: IDatagramReceiver | None = None
        self._received = metrics.counter("datagrams_received")
        self._sent = metrics.counter("datagrams_sent")
        self._too_large = metrics.dropped("too_large")

    def wrap(self, data: bytes, path: Path) -> bytes | None:
        """The GRE packet to send for a payload; None if that is too large, which is counted."""
        if not self.fits(data):
            return None
        return gre.encode(data, path.key if path.key in self._keys else self.key)

    def fits(self, data: bytes) -> bool:
        """Whether a payload is not too large to be sent; one that is, is counted."""
        if len(data) <= gre.MAX_PAYLOAD:
            return True
        self._too_large.inc()
        return False

    def packets_received(self, packets: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Hand the payloads of GRE packets to the receiver; never raises.

        :param packets: each with the peer's address, and ours that the peer used; the latter is
            empty if it is no source for an answer.
        """
        datagrams = []
        for packet, peer, local in packets:
            try:
                payload, key = gre.decode(packet, self._keys)
            except MalformedPacket as error:
                self.metrics.dropped(error.counter).inc()
            else:
                datagrams.append((payload, Path(peer, local, key)))
        self.payloads_received(datagrams)

    def payloads_received(self, datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """Hand payloads to the receiver; never raises."""
        if self._receiver is None or not datagrams:
            return
        self._received.inc(len(datagrams))
        try:
            self._receiver.datagrams_received(datagrams)
        except Exception:
            self.log.failure("a datagram raised")

    def know(self, peer: bytes) -> None:
        """Give an underlay address a budget of its own."""
        self.limits.know(peer)

    def forget(self, peer: bytes) -> None:
        """It is a stranger again."""
        self.limits.forget(peer)

    def set_rate(self, rate: int) -> None:
        """Take no more packets a second from one peer."""
        self.limits.set_rate(rate)

    def _flooded(self, flood: Flood) -> None:
        if self._receiver is not None:
            self._receiver.flooded(flood.peer, flood.dropped)

    def packet_sent(self) -> None:
        """Count a packet that is on its way."""
        self._sent.inc()

    def packet_lost(self, error: str) -> None:
        """Count a packet that could not be sent.

        :param error: the name of the error number, such as ``ENETUNREACH``.
        """
        if error == "EMSGSIZE":
            self._too_large.inc()
        else:
            self.metrics.counter("datagrams_lost", error=error).inc()
