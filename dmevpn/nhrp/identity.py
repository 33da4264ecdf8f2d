"""Who a next hop server is to the stations of its VPN. Layer: core."""

from __future__ import annotations

from collections.abc import Iterable

from dmevpn.nhrp.prefixes import key_of
from dmevpn.nhrp.records import CIE

__all__ = ["Identity"]

#: IPv4 networks with prefixes of at most so many bits have a broadcast address (RFC 3021).
_LONGEST_WITH_BROADCAST = 30


class Identity:
    """Our protocol addresses of one type, and what we tell others about ourselves.

    :ivar station: the address that we give.
    :ivar octets: length of it, which tells the type: MAC, IPv4 or IPv6.
    :param prefix_length: bits of the network of ``station``; None: it has none.
    :param more: further addresses of ours of the type, with the prefix lengths of their networks.
    :param mtu: of our data interface, in octets.
    :param holding_time: seconds for which others may rely on all of this.
    """

    def __init__(
        self,
        station: bytes,
        prefix_length: int | None = None,
        more: Iterable[tuple[bytes, int]] = (),
        *,
        mtu: int,
        holding_time: int = 7200,
    ) -> None:
        self.station = station
        self.octets = len(station)
        self.mtu = mtu
        self.holding_time = holding_time
        width = 8 * self.octets
        networks = [(station, width if prefix_length is None else prefix_length), *more]
        self.addresses = frozenset(address for address, _ in networks)
        self._broadcast = frozenset(
            _broadcast(address, length)
            for address, length in networks
            if self.octets == 4 and length <= _LONGEST_WITH_BROADCAST
        )

    def is_asked(self, protocol: bytes) -> bool:
        """Whether a packet for an address is for us: it is ours, or the broadcast address of a
        network of ours, which a client uses that does not know its server."""
        return protocol in self.addresses or protocol in self._broadcast

    def cie(self, nbma: bytes) -> CIE:
        """We, as others reach us at an NBMA address; empty: at one that we do not tell. For the
        Responder Address and both transit records (RFC 2332 §5.3.1 to §5.3.3)."""
        return CIE(mtu=self.mtu, holding_time=self.holding_time, nbma=nbma, protocol=self.station)


def _broadcast(address: bytes, prefix_length: int) -> bytes:
    network = int.from_bytes(key_of(address, prefix_length)[:4], "big")
    return (network | (1 << 32 - prefix_length) - 1).to_bytes(4, "big")
