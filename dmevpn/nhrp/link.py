"""One VPN at a speaker: its stations, and their way out. Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VPNID, VTEP, Path
from dmevpn.interfaces import ILink, IStation
from dmevpn.metrics import Counters, Metrics
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import Form, header
from dmevpn.nhrp.naming import Naming
from dmevpn.nhrp.packet import Packet, RequestOrReply

__all__ = ["MAX_PACKET", "Place", "Tell", "VPNLink"]

# A member of an enumeration takes longer to look up than a dictionary.
_PLAIN: Final = Form.PLAIN

#: Where a MAC is, as somebody was told: VTEP, MTU, holding time and preference.
Place = tuple[VTEP, int, int, int]
#: Says, and remembers to have said, where a MAC is: asked for a MAC by a station (its protocol
#: address), on a path. None: nothing was said, for the answer is not of the usual kind.
Tell = Callable[[bytes, bytes, Path], Place | None]

#: Largest GRE payload that is sent, in octets; everything of ours is far below.
MAX_PACKET: Final = 1400


@implementer(ILink)
class VPNLink:
    """The stations of one VPN, and their way out.

    :ivar stations: in the order in which they are asked whether a packet is for them.
    :ivar by_type: those that take packets of a type.
    :ivar changes: how often they have changed.
    :ivar received: counters of packets by type; ``sent`` likewise.
    :param vpn_id: None is the default routing instance.
    :param naming: how packets to a peer name the VPN.
    :param send: of the speaker.
    :param remember: a request that came by a path, its reply, which is true as long as the
        stations are the same, and what gives the replies to others like it; of the speaker.
    """

    def __init__(
        self,
        vpn_id: VPNID | None,
        naming: Naming,
        send: Callable[[Packet, VPNID | None, Path], None],
        remember: Callable[[RequestOrReply, RequestOrReply, VPNLink, Path, Tell | None], None],
        metrics: Metrics,
    ) -> None:
        self.vpn_id = vpn_id
        self.stations: tuple[IStation, ...] = ()
        self.by_type: dict[PacketType, tuple[IStation, ...]] = {}
        self.changes = 0
        self.received = _by_type(metrics, vpn_id, "received")
        self.sent = _by_type(metrics, vpn_id, "sent")
        self._naming = naming
        self._send = send
        self._remember = remember

    def attach(self, station: IStation) -> None:
        """Give a station the packets that it lists."""
        self._set((*self.stations, station))

    def detach(self, station: IStation) -> None:
        """Give it no more."""
        self._set([each for each in self.stations if each is not station])

    def _set(self, stations: Iterable[IStation]) -> None:
        self.changes += 1
        self.stations = tuple(sorted(stations, key=_turn))
        self.by_type = {
            packet_type: tuple([each for each in self.stations if packet_type in each.packet_types])
            for packet_type in PacketType
        }

    # --- the way out (ILink) ------------------------------------------------------------------

    def send(self, packet: Packet, path: Path) -> None:
        """Sign, encapsulate and send."""
        self.sent[packet.packet_type].inc()
        self._send(packet, self.vpn_id, path)

    def answer(
        self,
        request: RequestOrReply,
        reply: RequestOrReply,
        path: Path,
        tell: Tell | None = None,
    ) -> None:
        """Send a reply, and the same to the request when it comes again, or what ``tell`` says."""
        self.send(reply, path)
        self._remember(request, reply, self, path, tell)

    def names_vpn(self, path: Path) -> bool:
        """Whether packets to ``path.peer`` name the VPN."""
        form = self._naming.form(self.vpn_id, path)
        return form is not None and form is not _PLAIN

    def form(self, path: Path) -> Form | None:
        """The form in which packets go to ``path.peer``; None: it cannot have any."""
        return self._naming.form(self.vpn_id, path)

    def largest(self, path: Path) -> int:
        """Octets of the largest NHRP packet that goes to ``path.peer``."""
        return MAX_PACKET - len(header(self.form(path) or Form.PLAIN, self.vpn_id))


def _by_type(metrics: Metrics, vpn_id: VPNID | None, direction: str) -> Counters[PacketType]:
    vpn = "-" if vpn_id is None else str(vpn_id.index)
    return Counters(
        lambda packet_type: metrics.counter(
            "packets", direction=direction, type=packet_type.name.lower(), vpn=vpn
        )
    )


def _turn(station: IStation) -> int:
    """When a station is asked whether a packet is for it."""
    if len(station.packet_types) == len(PacketType):
        # It forwards whatever nobody else has taken.
        return 2
    # A client takes every purge for its own, a server only those for it.
    return 0 if PacketType.REGISTRATION_REQUEST in station.packet_types else 1
