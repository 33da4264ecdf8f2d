"""Between the speaker and the wire: transports, and limits to what they take. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zope.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmevpn.addresses import Path

__all__ = ["IDatagramReceiver", "IDatagramTransport", "IPacketFilter", "PacketLimits"]


class IDatagramReceiver(Interface):
    """Who takes datagrams from a transport."""

    def datagrams_received(datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """GRE payloads of protocol type 0x2001 arrived, in this order; never raises."""

    def flooded(peer: bytes, dropped: int) -> None:
        """Packets of a peer were dropped in the last second since it sends too many; an empty
        address stands for strangers together."""

    def resumed() -> None:
        """The transport carries again after it did not for a while: in both directions anything
        may have been lost, and our address may be another. Called once per interruption."""


class IDatagramTransport(Interface):
    """Carries GRE payloads (NHRP with its VPN headers) to and from peers."""

    def start(receiver: IDatagramReceiver) -> None:
        """Open what is needed and deliver from now on.

        :raises StartError: without the privilege, or if an address is not ours.
        """

    def send(data: bytes, path: Path) -> None:
        """Send one payload to ``path.peer`` from ``path.local`` (empty: the kernel's choice).

        Losing it is no error, as on any datagram network; it is counted.
        """

    def know(peer: bytes) -> None:
        """Give an underlay address a budget of its own: strangers share one."""

    def forget(peer: bytes) -> None:
        """It is a stranger again."""

    def set_rate(rate: int) -> None:
        """Take no more packets a second from one peer than this; 0: no limit."""

    def stop() -> Any:
        """Close; returns a Deferred that fires when nothing is delivered any more."""


class PacketLimits(NamedTuple):
    """How many packets may come, as nanoseconds (GCRA)."""

    gap: int
    """Between two packets of one source; 0: there are no limits."""
    burst: int
    """How much of that may be due at once."""
    strangers_gap: int
    """The same of all sources together that are not known."""
    strangers_burst: int


class IPacketFilter(Interface):
    """Keeps to limits before packets are queued: in the kernel."""

    def open(limits: PacketLimits) -> None:
        """Get ready.

        :raises StartError: with the reason why there is none.
        """

    def attach(sock: Any, *, ipv4: bool) -> None:
        """Filter what a raw GRE socket receives from now on: NHRP only, within the limits."""

    def set_limits(limits: PacketLimits) -> None:
        """Keep to other limits."""

    def know(peer: bytes) -> None:
        """Give an underlay address a budget of its own."""

    def forget(peer: bytes) -> None:
        """Take it back; it counts as a stranger."""

    def drops() -> list[int]:
        """Packets dropped so far: above a known peer's budget, above a stranger's, above that of
        strangers together."""

    def offenders() -> dict[bytes, int]:
        """Packets dropped so far, of those who exceed a budget of their own."""

    def close() -> None:
        """Give everything back."""
