"""What the parts of the protocol ask of each other: stations, bindings, policies. Layer: base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from dmevpn.addresses import VPNID, VTEP, Path

__all__ = ["Claim", "IAuthenticator", "ICacheListener", "ILink", "IRegistrationPolicy", "IStation"]


class ILink(Interface):
    """What a station sees of its speaker: a way to send into one VPN."""

    def send(packet: Any, path: Path) -> None:
        """Encapsulate, authenticate and send a packet to ``path.peer``."""

    def answer(request: Any, reply: Any, path: Path, tell: Any = None) -> None:
        """Send the reply to a request that came by a path.

        Only where a request that differs in its request ID alone has the same reply, but for that,
        as long as the VPN has the same stations: they need not be asked about it then.

        :param tell: of a Resolution Request: says what stands in the CIE of the reply to one that
            differs in its source and destination, too (:data:`dmevpn.nhrp.link.Tell`).
        """

    def names_vpn(path: Path) -> bool:
        """Whether packets to ``path.peer`` name the VPN."""

    def form(path: Path) -> Any:
        """The Form in which packets go to ``path.peer``; plain if it cannot name the VPN."""

    def largest(path: Path) -> int:
        """Octets of the largest NHRP packet that goes to ``path.peer``."""


class IStation(Interface):
    """An NHC or NHS attached to a speaker for one VPN.

    Servers are asked first, then clients, and last who wants to see all types: it forwards what
    is for none of them.
    """

    packet_types = Attribute("The PacketType values that it wants to see.")
    station = Attribute("Its own protocol address, the source of Error Indications.")

    def packet_received(packet: Any, path: Path) -> bool:
        """A packet of the station's VPN arrived; True if it concerned this station.

        :raises NHRPError: to have the packet counted and an Error Indication sent.
        """

    def transport_resumed() -> None:
        """Packets pass again after an interruption (:meth:`IDatagramReceiver.resumed`): renew
        what peers may have forgotten."""


class IAuthenticator(Interface):
    """Makes and checks the Authentication extension of one control interface."""

    def sign(packet: Any, form: Any, vpn_id: VPNID | None, path: Path, station: bytes) -> bytes:
        """The GRE payload of a packet, with its Authentication extension made anew.

        :param form: how it names its VPN.
        :param station: our own protocol address in the VPN; empty if we have none of that type.
        """

    def verify(packet: Any, encapsulation: Any, path: Path) -> None:
        """Accept a packet that arrived, or raise.

        :param encapsulation: what stood before it.
        :raises AuthenticationFailure: if the extension is absent or wrong.
        :raises Handshake: if it is for nobody else, or its sender has to prove first that it is
            new.
        """


class ICacheListener(Interface):
    """Learns what changes in the bindings of one VPN."""

    def binding_added(binding: Any) -> None:
        """A protocol address has its first binding."""

    def binding_changed(old: Any, new: Any) -> None:
        """A binding was replaced or refreshed; both name the same protocol address."""

    def binding_removed(binding: Any, reason: str) -> None:
        """A binding is gone: ``expired``, ``purged``, ``flushed`` or ``stopped``."""


class Claim(NamedTuple):
    """What somebody wants to be registered."""

    vpn: int
    """Index of the VPN; 0: the default routing instance."""
    station: bytes
    """Protocol address."""
    vtep: VTEP
    """Where it is said to be."""
    sender: bytes
    """The underlay address that the request came from."""
    spi: int
    """Of the key that authenticated it; 0: none did."""
    bits: int | None = None
    """Prefix length, if it is a network that is registered, at the address of one."""
    renews: bool = False
    """Whether it is registered there already, by whomever."""


class IRegistrationPolicy(Interface):
    """Decides who may register what."""

    def decide(claim: Claim) -> int:
        """The CIE code (RFC 2332 §5.2.0.1) of the answer: 0 accepts.

        Before it is called, nothing about this VTEP has changed; an exception of it reaches who
        has handed the request to the server.
        """
