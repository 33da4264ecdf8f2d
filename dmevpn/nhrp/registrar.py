"""The server's side of registration (RFC 2332 §5.2.4). Layer: core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dmevpn.addresses import MAC_LENGTH, VTEP, Path, format_address, is_station_mac
from dmevpn.errors import NHRPError
from dmevpn.interfaces import Claim, ILink, IRegistrationPolicy
from dmevpn.log import Logger
from dmevpn.metrics import Counters, Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import CIECode, ErrorCode, RegistrationFlag
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import Extension, NATAddress
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.multihoming import apart
from dmevpn.nhrp.nat import nat_address
from dmevpn.nhrp.packet import RegistrationRequest
from dmevpn.nhrp.prefixes import key_of, prefix_of
from dmevpn.nhrp.records import CIE, decode_vni
from dmevpn.nhrp.replies import Replies

__all__ = ["MAX_CIES", "Registrar"]

# A member of an enumeration takes longer to look up than a dictionary: these are used in every
# request.
_SUCCESS: Final = CIECode.SUCCESS
_DYNAMIC: Final = Kind.DYNAMIC
_RFC: Final = Form.RFC
_UNIQUE: Final = RegistrationFlag.U

#: CIEs of one Registration Request: a client that has more addresses sends another one. It bounds
#: what one datagram costs.
MAX_CIES: Final = 64

_FLAGS: Final = RegistrationFlag.U | RegistrationFlag.NAT

#: Bits of a MAC.
_MAC_BITS: Final = 8 * MAC_LENGTH


class Registrar:
    """Keeps the registrations of clients in the cache.

    :param policy: asked about every registration that is otherwise in order.
    :param vpn: the VPN's index; None is the default routing instance.
    :param nat_detection: whether a client is where its packets come from, whatever it says.
    :param multi_binding: whether registrations of one address at several VTEPs stand beside each
        other, unless one is unique; else the latest holds.
    :param complaints: which peers lines were logged about; None: nobody else logs any.
    :param on_refused: called with the protocol address, the underlay address and the CIE code of a
        registration that was refused, at most once a minute for each peer.
    """

    log = Logger()

    def __init__(
        self,
        *,
        cache: Cache,
        link: ILink,
        policy: IRegistrationPolicy,
        identity: Identity,
        replies: Replies,
        vpn: int | None,
        nat_detection: bool,
        multi_binding: bool,
        metrics: Metrics,
        complaints: Complaints | None = None,
        on_refused: Callable[[bytes, bytes, int], None],
    ) -> None:
        self._clock = cache.clock
        self._cache = cache
        self._link = link
        self._policy = policy
        self._on_refused = on_refused
        self._identity = identity
        self._replies = replies
        self._vpn = vpn
        self._nat_detection = nat_detection
        self._multi_binding = multi_binding
        label = "-" if vpn is None else str(vpn)
        self._answers = Counters[int](
            lambda code: metrics.counter("registration_answers", code=str(code), vpn=label)
        )
        # Nobody needs the MAC of a switch, and older daemons expect their own in the answer.
        self._introduces = 8 * identity.octets != _MAC_BITS
        self._complaints = complaints or Complaints(cache.clock, metrics)
        self._bad_vni = metrics.dropped("bad_vni")
        self._bad_nbma = metrics.dropped("bad_nbma")
        self._nat_conflicts = metrics.dropped("nat_conflict")

    def register(self, packet: RegistrationRequest, path: Path) -> None:
        """Register what each CIE says, and reply.

        :raises NHRPError: if there is none, or there are more than a request may have.
        """
        cies = packet.cies
        most = 1 if packet.flags & _UNIQUE else MAX_CIES
        if not 1 <= len(cies) <= most:
            raise NHRPError(
                "bad_cie",
                code=ErrorCode.PROTOCOL_ERROR,
                offset=packet.cie_offset(min(len(cies), most)),
            )
        way = self._replies.way(packet, path)
        # Behind another server, the address that a packet comes from is that server's.
        elsewhere = way is path and path.peer != packet.source_nbma
        translated = elsewhere and self._nat_detection
        answers = []
        for cie in cies:
            code, granted = self._admit(packet, cie, way, path.peer, translated)
            self._answers[code].inc()
            if cie.code != code or cie.holding_time != granted:
                cie = replace(cie, code=code, holding_time=granted)
            answers.append(cie)
            if code:
                self._complain(packet, cie, path)
        extensions = self._replies.extensions(packet, path)
        if elsewhere and packet.flags & RegistrationFlag.NAT:
            extensions = self._with_outer_address(packet, path, extensions)
        reply = packet.reply(tuple(answers), flags=packet.flags & _FLAGS, extensions=extensions)
        if self._introduces and packet.destination_protocol not in self._identity.addresses:
            # Who did not know our address learns it here: FRR's `nhs dynamic` looks nowhere else.
            reply.destination_protocol = self._identity.station
        self._link.send(reply, way)

    def _with_outer_address(
        self, packet: RegistrationRequest, path: Path, extensions: tuple[Extension, ...]
    ) -> tuple[Extension, ...]:
        """Tell a client by which address it is seen, if it wants to know: it has named our own
        address, and its own follows."""
        (seen,) = nat_address(path.peer, packet.source_protocol, self._identity.mtu).cies
        return tuple(
            [each.followed_by(seen) if type(each) is NATAddress else each for each in extensions]
        )

    def _admit(
        self, packet: RegistrationRequest, cie: CIE, path: Path, sender: bytes, translated: bool
    ) -> tuple[int, int]:
        """Register what one CIE says: the code of the answer, and the holding time granted.

        :param path: to the client.
        :param sender: the address that the packet came from, perhaps another server's.
        :param translated: whether the client's packets come from another address than it says.
        """
        protocol = cie.protocol or packet.source_protocol
        nbma = cie.nbma or packet.source_nbma
        claimed = b""
        if translated and nbma == packet.source_nbma:
            claimed = nbma
            nbma = path.peer
        elif nbma != path.peer and not _is_host(nbma):
            self._bad_nbma.inc()
            return CIECode.PROHIBITED, 0
        width = 8 * len(protocol)
        try:
            vni = decode_vni(cie.subaddress or packet.source_subaddress, _RFC)
        except ValueError:
            vni = None
        if vni is None and (width == _MAC_BITS or cie.subaddress or packet.source_subaddress):
            self._bad_vni.inc()
            return CIECode.PROHIBITED, 0
        if (
            width == _MAC_BITS and not is_station_mac(protocol)
        ) or protocol in self._identity.addresses:
            return CIECode.PROHIBITED, 0
        unique = packet.flags & _UNIQUE != 0
        key = protocol
        prefix_length = None
        if 0 < cie.prefix_length < width:
            if unique or width == _MAC_BITS:
                return CIECode.PROHIBITED, 0
            prefix_length = cie.prefix_length
            key = key_of(protocol, prefix_length)
            protocol, _ = prefix_of(key)
        vtep = VTEP(nbma, vni)
        old = self._cache.lookup(key)
        is_there = old is not None and old.kind is _DYNAMIC and old.vtep == vtep
        renews = is_there or (old is not None and self._is_beside(old, vtep))
        claim = Claim(self._vpn or 0, protocol, vtep, sender, packet.spi, prefix_length, renews)
        code = self._policy.decide(claim)
        if code:
            return code, 0
        if old is not None and old.vtep is not None and is_there:
            # A renewal takes up what the registration has: to make all of it anew, and to free
            # what was there, would touch twice the memory in a large table.
            protocol, vtep = old.protocol, old.vtep
            if old.path == path:
                path = old.path
        elif old is not None and old.kind > _DYNAMIC:
            return CIECode.PROHIBITED, 0
        elif old is not None and old.unique:
            # RFC 2332 would also refuse the owner of a unique binding, who only renews it.
            return CIECode.ALREADY_REGISTERED, 0
        elif self._is_taken(vtep, claimed, protocol):
            return CIECode.PROHIBITED, 0
        holding_time = cie.holding_time or self._identity.holding_time
        stored = self._cache.put(
            Binding(
                protocol,
                vtep,
                _DYNAMIC,
                holding_time,
                self._clock.seconds() + holding_time,
                cie.mtu,
                cie.preference,
                unique,
                claimed != b"",
                claimed,
                path,
                prefix_length,
                b"" if prefix_length is None else packet.source_protocol,
                b"",
                packet.spi,
                apart(packet),
            ),
            beside=self._multi_binding and not unique,
        )
        return (_SUCCESS, holding_time) if stored else (CIECode.NO_RESOURCES, 0)

    def _is_beside(self, old: Binding, vtep: VTEP) -> bool:
        """Whether an address is registered at a VTEP, too."""
        if not self._cache.crowded:
            return False
        alternatives = self._cache.alternatives(old)
        return any(each.vtep == vtep and each.kind is _DYNAMIC for each in alternatives)

    def _is_taken(self, vtep: VTEP, claimed: bytes, protocol: bytes) -> bool:
        """Whether another station is seen at a VTEP already, behind the same address translation.

        Frames for the one could not be told from frames for the other.
        """
        for other in self._cache.registrations_of(vtep):
            if other.claimed != claimed and other.protocol != protocol:
                self._nat_conflicts.inc()
                if self._is_due(vtep.nbma):
                    self.log.warn(
                        "vpn {vpn}: {station} at {claimed} and {other} at {other_claimed} are"
                        " both seen as {vtep}: give each site another VNI",
                        vpn=self._vpn,
                        station=format_address(protocol),
                        claimed=format_address(claimed or vtep.nbma),
                        other=format_address(other.protocol),
                        other_claimed=format_address(other.claimed or vtep.nbma),
                        vtep=str(vtep),
                    )
                return True
        return False

    def _is_due(self, peer: bytes) -> bool:
        """Whether to log a line about a peer now."""
        return self._complaints.due(b"%d %b" % (self._vpn or 0, peer))

    def _complain(self, packet: RegistrationRequest, cie: CIE, path: Path) -> None:
        if self._is_due(path.peer):
            self._on_refused(cie.protocol or packet.source_protocol, path.peer, cie.code)
            self.log.warn(
                "vpn {vpn}: registration of {mac} by {nbma} refused: code {code}",
                vpn=self._vpn,
                mac=format_address(cie.protocol or packet.source_protocol),
                nbma=str(path),
                code=cie.code,
            )


def _is_host(nbma: bytes) -> bool:
    """Whether frames may be sent to an address: not unspecified, not multicast or broadcast."""
    if len(nbma) == 4:
        return 0 < nbma[0] < 224
    return nbma[0] != 0xFF and any(nbma)
