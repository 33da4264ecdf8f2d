"""The speaker: NHRP of many VPNs over one control interface. Layer: core.

On the way in: VPN header, packet, authentication, VPN, station. On the way out: the same back.
Whatever arrives, nothing is raised to the transport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, TypeAlias

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VPNID, Path, format_address
from dmevpn.errors import Handshake, NHRPError
from dmevpn.interfaces import (
    IAuthenticator,
    IDatagramReceiver,
    IDatagramTransport,
    ILink,
    IStation,
)
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import ErrorCode, PacketType
from dmevpn.nhrp.echo import AnyEcho, Echoes
from dmevpn.nhrp.encapsulation import LEGACY_FORMS, RFC_LENGTH, Encapsulation, Form, decapsulate
from dmevpn.nhrp.extensions import Authentication
from dmevpn.nhrp.header import PACKET_TYPE
from dmevpn.nhrp.indication import TELLING, ErrorReporter, describe, nobody_wants
from dmevpn.nhrp.known import KnownPeers
from dmevpn.nhrp.link import MAX_PACKET, Tell, VPNLink
from dmevpn.nhrp.naming import Naming
from dmevpn.nhrp.packet import ErrorIndication, Packet, RequestOrReply, decode
from dmevpn.nhrp.peers import Peer, Peers, ours
from dmevpn.nhrp.questions import Question, Questions

__all__ = ["MOST_GATHERED", "Speaker"]

#: Packets that wait until all arrivals are handed on. An arrival that makes us send more, such as
#: purges to all who have asked, has them sent at once.
MOST_GATHERED: Final = 128

#: What a packet is like that came before.
_Known: TypeAlias = AnyEcho | Question

_ERROR_CODES = frozenset(ErrorCode)

# A member of an enumeration takes longer to look up than a dictionary: these are for every packet.
_REGISTRATION: Final = PacketType.REGISTRATION_REQUEST
_INDICATION: Final = PacketType.ERROR_INDICATION
_PLAIN: Final = Form.PLAIN
_RFC: Final = Form.RFC

# Where a payload in RFC form has its type, and the types of what may be known from before.
_TYPE: Final = slice(RFC_LENGTH + PACKET_TYPE, RFC_LENGTH + PACKET_TYPE + 1)
_RESOLUTION: Final = bytes([PacketType.RESOLUTION_REQUEST])
_PURGE: Final = bytes([PacketType.PURGE_REQUEST])


@implementer(IDatagramReceiver)
class Speaker:
    """Moves the packets of many VPNs between one transport and their stations.

    :param interface: name of the control interface, for the log.
    :param naming: which VPN a packet belongs to, and how to say so.
    :param peers: who is not like us.
    :ivar authenticator: makes and checks the Authentication extension; None: there is none. It may
        be replaced at any time.
    :param unknown_vpn: called with a Registration Request for a VPN without a server. True means
        that there is one now.
    :param on_refused: called with the reason, by which it is counted, and the way of a packet that
        was turned away, at most once a minute for each peer and reason.
    :param before_answers: called before the answers to what has arrived are written; never raises.
    :ivar vpn_errors: whether packets of unknown VPNs, of other VPNs than that of their path, and
        for unknown addresses of a VPN are answered with an Error Indication. May change, too.
    """

    log = Logger()

    def __init__(
        self,
        *,
        interface: str,
        transport: IDatagramTransport,
        clock: IReactorTime,
        metrics: Metrics,
        peers: Peers,
        naming: Naming,
        authenticator: IAuthenticator | None = None,
        unknown_vpn: Callable[[VPNID, Packet, Path], bool] = lambda vpn_id, packet, path: False,
        on_refused: Callable[[str, Path], None] = lambda reason, path: None,
        vpn_errors: bool = True,
        before_answers: Callable[[], None] = lambda: None,
    ) -> None:
        self.interface = interface
        self.peers = peers
        self.known = KnownPeers(transport)
        self.naming = naming
        self._transport = transport
        self._metrics = metrics
        self.authenticator = authenticator
        self._unknown_vpn = unknown_vpn
        self._on_refused = on_refused
        self._refusals = Complaints(clock, metrics)
        self.vpn_errors = vpn_errors
        self._before_answers = before_answers
        self._reporter = ErrorReporter(clock, metrics)
        self._complaints = Complaints(clock, metrics)
        self._vpns: dict[VPNID | None, VPNLink] = {}
        self._echoes = Echoes(metrics)
        self._questions = Questions(metrics)
        self._too_large = metrics.dropped("too_large")
        self._incapable = metrics.dropped("peer_incapable")
        self._stopped = False
        #: What waits to be written while arrivals are handed on.
        self._gathered: list[tuple[Packet | bytes, Form, VPNID | None, Path]] | None = None

    def start(self) -> None:
        """Open the transport.

        :raises StartError: if that cannot be done.
        """
        self._stopped = False
        self._transport.start(self)

    def stop(self) -> Any:
        """Close the transport; what it returns."""
        self._stopped = True
        self.peers.close()
        return self._transport.stop()

    def link(self, vpn_id: VPNID | None) -> VPNLink:
        """The way out for stations of a VPN; the same before and after they are attached."""
        vpn = self._vpns.get(vpn_id)
        if vpn is None:
            vpn = self._vpns[vpn_id] = VPNLink(
                vpn_id, self.naming, self.send, self._remember, self._metrics
            )
        return vpn

    def attach(self, vpn_id: VPNID | None, station: IStation) -> ILink:
        """Give a station the packets of a VPN that it lists; its way out.

        :param vpn_id: None is the default routing instance: packets that name no VPN.
        """
        vpn = self.link(vpn_id)
        vpn.attach(station)
        return vpn

    def detach(self, vpn_id: VPNID | None, station: IStation) -> None:
        """Give it no more."""
        vpn = self._vpns.get(vpn_id)
        if vpn is None:
            return
        vpn.detach(station)
        if not vpn.stations:
            del self._vpns[vpn_id]

    # --- out ----------------------------------------------------------------------------------

    def send(self, packet: Packet, vpn_id: VPNID | None, path: Path) -> None:
        """Send a packet of a VPN in the form that the peer understands."""
        peer = self.peers.get(path.peer)
        if peer is None and not self.naming.by_key:
            self._send(packet, _PLAIN if vpn_id is None else _RFC, vpn_id, path)
            return
        form = self.naming.form(vpn_id, path)
        if peer is not None and peer.dialect.legacy and not isinstance(packet, RequestOrReply):
            # The original daemon reads and writes indications in plain form only.
            form = _PLAIN
        self._send_to(peer, packet, form, vpn_id, path)

    def _send_to(
        self, peer: Peer | None, packet: Packet, form: Form | None, vpn_id: VPNID | None, path: Path
    ) -> None:
        """Send a packet in a form, as far as the peer understands it."""
        written = packet if peer is None else peer.write(packet)
        if written is None or form is None:
            self._incapable.inc()
            return
        self._send(written, form, vpn_id, path)
        if peer is not None:
            self.peers.answered(path.peer, written)

    def _send(self, packet: Packet | bytes, form: Form, vpn_id: VPNID | None, path: Path) -> None:
        """Send a packet: at once, or with the others when what has arrived is handed on."""
        if self._gathered is None:
            self._write(packet, form, vpn_id, path)
            return
        self._gathered.append((packet, form, vpn_id, path))
        if len(self._gathered) >= MOST_GATHERED:
            self._write_gathered()

    def _write_gathered(self) -> None:
        self._before_answers()
        gathered, self._gathered = self._gathered or [], []
        for packet, form, vpn_id, path in gathered:
            try:
                self._write(packet, form, vpn_id, path)
            except Exception:
                self._met_a_fault(path)

    def _write(self, packet: Packet | bytes, form: Form, vpn_id: VPNID | None, path: Path) -> None:
        """Sign, encapsulate and send a packet, unless that is done. Authentication is between
        neighbours: what the packet that this one answers had is replaced or taken out."""
        if isinstance(packet, bytes):
            data = packet
        elif self.authenticator is not None:
            station = self._own_address(vpn_id, len(packet.source_protocol))
            data = self.authenticator.sign(packet, form, vpn_id, path, station)
        else:
            if packet.extension(Authentication) is not None:
                others = [each for each in packet.extensions if type(each) is not Authentication]
                packet = replace(packet, extensions=tuple(others))
            data = packet.encode(form, vpn_id)
        if len(data) > MAX_PACKET:
            self._too_large.inc()
            return
        self._transport.send(data, path)

    # --- in (IDatagramReceiver) -----------------------------------------------------------------

    def datagrams_received(self, datagrams: Iterable[tuple[bytes, Path]]) -> None:
        """GRE payloads arrived. Never raises.

        All are read, then all are handed on, then all answers are written: a request takes a third
        less CPU time so, since the code of each step stays in the processor's caches.
        """
        arrivals: list[tuple[Packet | _Known | None, Encapsulation | None, bytes, Path]] = []
        for data, path in datagrams:
            known: _Known | None = None
            kind = data[_TYPE]
            if kind == _RESOLUTION:
                known = self._questions.get(data, path)
            elif kind == _PURGE:
                known = self._echoes.get(data, path)
            if known is not None:
                arrivals.append((known, None, data, path))
                continue
            try:
                encapsulation = decapsulate(data, self.naming.oui)
                arrivals.append((self._read(data, encapsulation, path), encapsulation, data, path))
            except NHRPError:
                # Again in its turn: what came before it may tell more of its sender.
                arrivals.append((None, None, data, path))
        self._gathered = []
        try:
            for packet, packet_encapsulation, data, path in arrivals:
                if self._stopped:
                    break  # by the one before
                if packet is None or isinstance(packet, Packet):
                    self._receive(packet, packet_encapsulation, data, path)
                elif not self._answer(packet, data, path):
                    self._receive(None, None, data, path)
        finally:
            self._write_gathered()
            self._gathered = None

    def _read(self, data: bytes, encapsulation: Encapsulation, path: Path) -> Packet:
        peer = self.peers.get(path.peer)
        left_padded = peer is not None and peer.dialect.old
        return decode(data, encapsulation, left_padded=left_padded)

    def _receive(
        self, packet: Packet | None, encapsulation: Encapsulation | None, data: bytes, path: Path
    ) -> None:
        """Hand on one packet. Never raises.

        :param packet: None: it could not be read so far.
        """
        try:
            if packet is None or encapsulation is None:
                encapsulation = decapsulate(data, self.naming.oui)
                packet = self._read(data, encapsulation, path)
            # An Error Indication proves itself by the request of ours in it: RFC 2332 §5.2.7
            # allows it no extensions, so few authenticate it.
            if self.authenticator is not None and (
                packet.packet_type is not _INDICATION
                or packet.extension(Authentication) is not None
            ):
                self.authenticator.verify(packet, encapsulation, path)
            peer = self.peers.get(path.peer)
            if peer is None and encapsulation.form is _RFC and not self.naming.by_key:
                self._dispatch(packet, encapsulation.vpn_id, path)
            else:
                self._translate(packet, encapsulation, peer, path)
        except Handshake as handshake:
            for answer in handshake.answers:
                self._send(*answer)
        except NHRPError as error:
            self._refuse(error, error.packet or packet, encapsulation, path)
        except Exception:
            self._met_a_fault(path)

    def _answer(self, known: _Known, data: bytes, path: Path) -> bool:
        """Answer a request like one before, if that is right. Never raises."""
        holds = known.authenticator is self.authenticator and self._says_all(path.peer)
        try:
            answer = known.answer(data, path) if holds else None
        except Exception:
            self._met_a_fault(path)
            return True
        if answer is not None:
            self._send(answer, _RFC, None, path)
        return answer is not None

    def _says_all(self, peer: bytes) -> bool:
        """Whether requests of a peer say all in their octets: nothing is to be translated."""
        return self.peers.get(peer) is None and not self.naming.by_key

    def _remember(
        self,
        request: RequestOrReply,
        reply: RequestOrReply,
        vpn: VPNLink,
        path: Path,
        tell: Tell | None,
    ) -> None:
        """Remember how a request of a peer that is known was answered."""
        if vpn.vpn_id is None or path.peer not in self.known or not self._says_all(path.peer):
            return
        if tell is None:
            self._echoes.remember(request, reply, vpn, path, self.authenticator)
        elif self.authenticator is None:
            self._questions.remember(request, reply, path, vpn, tell)

    def _refuse(
        self,
        error: NHRPError,
        packet: Packet | None,
        encapsulation: Encapsulation | None,
        path: Path,
    ) -> None:
        """Count a packet that is not taken, and tell its sender if he is to know."""
        self._metrics.dropped(error.counter).inc()
        if self._refusals.due(path.peer + error.counter.encode()):
            self._on_refused(error.counter, path)
        if error.code is not None and encapsulation is not None and packet is not None:
            self._report(error, packet, encapsulation, path)

    def _met_a_fault(self, path: Path) -> None:
        """Log the exception that is being handled."""
        self._metrics.dropped("internal_error").inc()
        if self._complaints.due(path.peer):
            self.log.failure(
                "{ifname}: a packet from or to {nbma} met a fault of ours",
                ifname=self.interface,
                nbma=str(path),
            )

    def flooded(self, peer: bytes, dropped: int) -> None:
        """The transport has dropped packets of a peer that sends too many, or of strangers."""
        if self._refusals.due(peer + b"flood"):
            self.log.warn(
                "{ifname}: {count} packets of {nbma} were dropped in a second: it sends more than"
                " `request-rate` allows",
                ifname=self.interface,
                count=dropped,
                nbma=format_address(peer) if peer else "strangers",
            )
            self._on_refused("flood", Path(peer))

    def set_rate(self, rate: int) -> None:
        """Take no more packets a second from one peer than this; 0: no limit."""
        self._transport.set_rate(rate)

    def resumed(self) -> None:
        """The transport carries again after an interruption: every station hears of it."""
        for vpn in tuple(self._vpns.values()):
            for station in vpn.stations:
                station.transport_resumed()

    def _translate(
        self, packet: Packet, encapsulation: Encapsulation, peer: Peer | None, path: Path
    ) -> None:
        """Dispatch a packet that is not in RFC form, or from a peer that is not like us.

        :raises NHRPError: if it is in no VPN of its path, and as :meth:`_dispatch`.
        """
        vpn_id = self.naming.vpn_id(packet, encapsulation, peer, path)
        heard = self.naming.heard(packet, encapsulation.form, vpn_id, peer, path)
        if heard is not None:
            packet = heard.read(packet, encapsulation.form)
        if heard is None or heard == peer:
            self._dispatch(packet, vpn_id, path)
        else:
            with self.peers.visit(path.peer, heard):
                self._dispatch(packet, vpn_id, path)

    def _dispatch(self, packet: Packet, vpn_id: VPNID | None, path: Path) -> None:
        """Hand a packet to the stations of its VPN, until one says that it was for it.

        :raises NHRPError: if nobody wants it, and whatever a station raises.
        """
        packet_type = packet.packet_type
        vpn = self._vpns.get(vpn_id)
        if vpn is None or not vpn.stations:
            vpn = self._ask_for_vpn(packet, vpn_id, path)
        vpn.received[packet_type].inc()
        if isinstance(packet, ErrorIndication):
            self._count_error("errors_received", packet.code)
        for station in vpn.by_type[packet_type]:
            if station.packet_received(packet, path):
                return
        if packet_type is _REGISTRATION and vpn_id is not None:
            # Clients of ours are there, or a server of another protocol type; one may come, too.
            earlier = vpn.stations
            self._unknown_vpn(vpn_id, packet, path)
            for station in vpn.by_type[packet_type]:
                if station not in earlier and station.packet_received(packet, path):
                    return
        nobody_wants(packet)

    def _ask_for_vpn(self, packet: Packet, vpn_id: VPNID | None, path: Path) -> VPNLink:
        """The VPN of a packet that has no station, if there is one on demand.

        :raises NHRPError: if there is none.
        """
        if vpn_id is None:
            raise NHRPError("vpn_missing")
        if packet.packet_type is PacketType.REGISTRATION_REQUEST and self._unknown_vpn(
            vpn_id, packet, path
        ):
            vpn = self._vpns.get(vpn_id)
            if vpn is not None and vpn.stations:
                return vpn
        raise NHRPError("vpn_unsupported", code=ErrorCode.VPN_UNSUPPORTED)

    # --- errors -----------------------------------------------------------------------------

    def _report(
        self, error: NHRPError, offending: Packet, encapsulation: Encapsulation, path: Path
    ) -> None:
        """Answer a packet with an Error Indication, in its VPN and form.

        The original daemon reads none but those in plain form.
        """
        assert error.code is not None
        peer = self.peers.get(path.peer)
        vpn_id = encapsulation.vpn_id or self.naming.implied(peer, path)
        if not self.vpn_errors and vpn_id is not None and error.code in TELLING:
            return
        form = Form.RFC if encapsulation.form is Form.RFC else Form.PLAIN
        way: Path = error.path or path
        indication = self._reporter.report(
            offending,
            error.code,
            error.offset,
            path.local or bytes(len(path.peer)),
            self._own_address(encapsulation.vpn_id, len(offending.source_protocol)),
            peer=way.peer,
            overhead=encapsulation.offset if form is Form.RFC else 0,
        )
        if indication is None:
            return
        if self._complaints.due(path.peer):
            self.log.warn(
                "{ifname}: a {packet_type} of {mac} from {nbma} was answered with {reason}",
                ifname=self.interface,
                packet_type=offending.packet_type.name.lower(),
                mac=format_address(offending.source_protocol),
                nbma=str(path),
                reason=describe(error.code),
            )
        self._count_error("errors_sent", error.code)
        if way.peer != path.peer:
            # Not back: in the form that this peer understands.
            vpn_id = self.naming.vpn_id(offending, encapsulation, peer, path)
            self.send(indication, vpn_id, way)
            return
        if encapsulation.form in LEGACY_FORMS:
            peer = ours(encapsulation.form)
        if peer is not None and peer.dialect.old:
            # OpenNHRP and the original daemon believe no Error Indication without the secret.
            # RFC 2332 allows none there, so it is given back to who has shown that he knows it.
            secrets = [each for each in offending.extensions if type(each) is Authentication]
            indication.extensions = tuple(secrets)
        self._send_to(peer, indication, form, encapsulation.vpn_id, path)

    def _count_error(self, name: str, code: int) -> None:
        """Codes that we do not know are counted together: a peer can send any."""
        known = code in _ERROR_CODES
        self._metrics.counter(name, code=str(int(code)) if known else "other").inc()

    def _own_address(self, vpn_id: VPNID | None, length: int) -> bytes:
        """A protocol address of ours to report errors by: of a station of the VPN if there is
        one, else of some other; empty if that has no address of that length."""
        for vpn in (self._vpns.get(vpn_id), next(iter(self._vpns.values()), None)):
            for station in () if vpn is None else vpn.stations:
                if len(station.station) == length:
                    return bytes(station.station)
        return b""
