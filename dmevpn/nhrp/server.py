"""The next hop server of one VPN (RFC 2332 §5.2.2, §5.2.4 to §5.2.6). Layer: core.

It answers from what is registered and configured (the cache) and from what the hub's switch has
seen, remembers whom it answered, and takes an answer back from all of them when it is no longer
true. It serves one type of protocol address, MAC, IPv4 or IPv6; a VPN may have a server for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, Path, format_address, is_station_mac
from dmevpn.errors import NHRPError
from dmevpn.interfaces import ICacheListener, ILink, IRegistrationPolicy, IStation
from dmevpn.log import Logger
from dmevpn.metrics import Counter, Metrics
from dmevpn.nhrp.answered import ANSWERED_LIMIT, LEARNED_HOLDING_TIME, Answered
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import (
    VPN_AWARE,
    CIECode,
    ErrorCode,
    PacketType,
    PurgeFlag,
    RegistrationFlag,
    ResolutionFlag,
)
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    ResponderAddress,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.packet import (
    Packet,
    PurgeRequest,
    RegistrationRequest,
    Request,
    ResolutionRequest,
)
from dmevpn.nhrp.purge import check_extensions, names
from dmevpn.nhrp.records import CIE, decode_vni, encode_vni
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.retraction import Retraction

__all__ = ["NextHopServer"]

# A member of an enumeration takes longer to look up than a dictionary: these are used in every
# request.
_SUCCESS: Final = CIECode.SUCCESS
_DYNAMIC: Final = Kind.DYNAMIC
_RFC: Final = Form.RFC
_UNIQUE: Final = RegistrationFlag.U
_WANT_UNIQUE: Final = ResolutionFlag.U
_AUTHORITATIVE: Final = ResolutionFlag.A
_STABLE: Final = ResolutionFlag.D

#: Extensions of a request, our address that was asked, capabilities of the station asked for.
_Filling = tuple[tuple[Extension, ...], bytes, int]

#: Extensions of replies that are kept at hand. Peers choose what they send and whom they ask.
_FILLED: Final = 256

#: CIEs of one Registration Request: a client that has more addresses sends another one. It bounds
#: what one datagram costs.
MAX_CIES: Final = 64

_REGISTRATION_FLAGS: Final = RegistrationFlag.U | RegistrationFlag.NAT
_RESOLUTION_FLAGS: Final = (
    ResolutionFlag.Q | ResolutionFlag.U | ResolutionFlag.S | ResolutionFlag.NAT
)


class _Codes(dict[int, Counter]):
    """Counters of answers by CIE code, each made when first needed."""

    def __init__(self, metrics: Metrics, name: str, vpn: str) -> None:
        super().__init__()
        self._metrics = metrics
        self._name = name
        self._vpn = vpn

    def __missing__(self, code: int) -> Counter:
        counter = self[code] = self._metrics.counter(self._name, code=str(code), vpn=self._vpn)
        return counter


@implementer(IStation, ICacheListener)
class NextHopServer:
    """Registers clients and answers them.

    :param policy: asked about every registration that is otherwise in order.
    :param find_mac: where the switch sends frames for a MAC; None if it would flood them.
    :param vpn: the VPN's index; None is the default routing instance.
    :param identity: our own protocol addresses, which tell the type, and what we say about us.
        Its holding time is also for who asks for none, and for configured bindings.
    :param nat_detection: whether a client is where its packets come from, whatever it says.
    :param authoritative: whether an address that we do not know is nowhere in the VPN. Else its
        request is left to who forwards (:class:`~dmevpn.nhrp.transit.Transit`).
    :param answered_limit: answers remembered at most; beyond it the answer is: no resources.
    """

    log = Logger()

    packet_types = frozenset(
        {
            PacketType.REGISTRATION_REQUEST,
            PacketType.RESOLUTION_REQUEST,
            PacketType.PURGE_REQUEST,
            PacketType.PURGE_REPLY,
            PacketType.ERROR_INDICATION,
        }
    )

    def __init__(
        self,
        *,
        clock: IReactorTime,
        cache: Cache,
        outstanding: Outstanding,
        link: ILink,
        policy: IRegistrationPolicy,
        find_mac: Callable[[bytes], VTEP | None],
        vpn: int | None,
        identity: Identity,
        nat_detection: bool,
        authoritative: bool = True,
        metrics: Metrics,
        answered_limit: int = ANSWERED_LIMIT,
    ) -> None:
        self.station = identity.station
        self._identity = identity
        self._authoritative = authoritative
        self._clock = clock
        self._cache = cache
        self._outstanding = outstanding
        self._link = link
        self._policy = policy
        self._find_mac = find_mac
        self._vpn = vpn
        self._mtu = identity.mtu
        self._nat_detection = nat_detection
        self._holding_time = identity.holding_time
        self._answered = Answered(clock, metrics, answered_limit)
        self._filled: dict[_Filling, tuple[Extension, ...]] = {}
        name = "-" if vpn is None else str(vpn)
        self._registered = _Codes(metrics, "registration_answers", name)
        self._resolved = _Codes(metrics, "resolution_answers", name)
        self._bad_vni = metrics.dropped("bad_vni")
        self._complaints = Complaints(clock)
        self._bad_nbma = metrics.dropped("bad_nbma")
        self._retraction = Retraction(
            answered=self._answered,
            outstanding=outstanding,
            link=link,
            station=identity.station,
            vpn=name,
            metrics=metrics,
        )
        cache.subscribe(self)

    def close(self) -> None:
        """Forget whom we answered. Answers in use stay true while the switch goes on."""
        self._cache.unsubscribe(self)
        self._answered.close()

    # --- wire (IStation) ------------------------------------------------------------------

    def transport_resumed(self) -> None:
        """A server has nothing to renew: its clients do."""

    def packet_received(self, packet: Packet, path: Path) -> bool:
        """Answer a request that is for us; match what answers ours.

        :raises NHRPError: if the packet deserves an Error Indication.
        """
        if not isinstance(packet, Request):
            return self._outstanding.reply_received(packet, path)
        protocol = packet.destination_protocol
        if len(protocol) != self._identity.octets:
            return False
        if isinstance(packet, ResolutionRequest):
            if not self._authoritative and self._find(protocol) is None:
                return False
            check_extensions(packet)
            self._resolve(packet, path)
            return True
        # A client that does not know us names itself instead (RFC 2332 §5.2.3).
        if protocol != packet.source_protocol and not self._identity.is_asked(protocol):
            return False
        check_extensions(packet)
        if isinstance(packet, RegistrationRequest):
            self._register(packet, path)
        else:
            assert isinstance(packet, PurgeRequest)
            self._purge(packet, path)
        return True

    def _back(self, request: Packet, path: Path) -> Path:
        """The way to a requester: straight, even if other servers have forwarded the request,
        as its Forward Transit NHS Record tells (RFC 2332 §5.3.2)."""
        record = request.extension(ForwardTransitRecord)
        if record is None or not record.cies:
            return path
        return Path(request.source_nbma, path.local, path.key)

    def _reply_extensions(
        self, request: Packet, path: Path, capabilities: int
    ) -> tuple[Extension, ...]:
        """Those of the request in their order, with what a responder fills in.

        Nearly all requests have the same ones, so what was filled in is kept at hand.

        :param capabilities: of the station that was asked for (RFC 2735 §3.3).
        """
        key = request.extensions, path.local, capabilities
        filled = self._filled.get(key)
        if filled is None:
            if len(self._filled) >= _FILLED:
                self._filled.clear()
            filled = self._filled[key] = tuple(
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

    # --- registration (RFC 2332 §5.2.4) -----------------------------------------------------

    def _register(self, packet: RegistrationRequest, path: Path) -> None:
        cies = packet.cies
        most = 1 if packet.flags & _UNIQUE else MAX_CIES
        if not 1 <= len(cies) <= most:
            raise NHRPError(
                "bad_cie",
                code=ErrorCode.PROTOCOL_ERROR,
                offset=packet.cie_offset(min(len(cies), most)),
            )
        back = self._back(packet, path)
        # Behind another server, the address that a packet comes from is that server's.
        translated = self._nat_detection and back is path and path.peer != packet.source_nbma
        answers = []
        for cie in cies:
            code, granted = self._admit(packet, cie, back, translated)
            self._registered[code].inc()
            if cie.code != code or cie.holding_time != granted:
                cie = replace(cie, code=code, holding_time=granted)
            answers.append(cie)
            if code:
                self._complain(packet, cie, path)
        reply = packet.reply(
            answers,
            flags=packet.flags & _REGISTRATION_FLAGS,
            extensions=self._reply_extensions(packet, path, 0),
        )
        self._link.send(reply, back)

    def _admit(
        self, packet: RegistrationRequest, cie: CIE, path: Path, translated: bool
    ) -> tuple[int, int]:
        """Register what one CIE says: the code of the answer, and the holding time granted.

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
        if vni is None and (width == 48 or cie.subaddress or packet.source_subaddress):
            self._bad_vni.inc()
            return CIECode.PROHIBITED, 0
        if (
            (width == 48 and not is_station_mac(protocol))
            or 0 < cie.prefix_length < width
            or protocol in self._identity.addresses
        ):
            return CIECode.PROHIBITED, 0
        vtep = VTEP(nbma, vni)
        code = self._policy.decide(self._vpn or 0, protocol, vtep)
        if code:
            return code, 0
        old = self._cache.lookup(protocol)
        if old is not None:
            if old.kind > _DYNAMIC:
                return CIECode.PROHIBITED, 0
            if old.vtep == vtep:
                # A renewal takes up what the registration has: to make all of it anew, and to free
                # what was there, would touch twice the memory in a large table.
                protocol, vtep = old.protocol, old.vtep
                if old.path == path:
                    path = old.path
            elif old.unique:
                # RFC 2332 would also refuse the owner of a unique binding, who only renews it.
                return CIECode.ALREADY_REGISTERED, 0
        holding_time = cie.holding_time or self._holding_time
        stored = self._cache.put(
            Binding(
                protocol,
                vtep,
                _DYNAMIC,
                holding_time,
                self._clock.seconds() + holding_time,
                cie.mtu,
                cie.preference,
                packet.flags & _UNIQUE != 0,
                translated and claimed != b"",
                claimed,
                path,
            )
        )
        return (_SUCCESS, holding_time) if stored else (CIECode.NO_RESOURCES, 0)

    def _complain(self, packet: RegistrationRequest, cie: CIE, path: Path) -> None:
        if self._complaints.due(path.peer):
            self.log.warn(
                "vpn {vpn}: registration of {mac} by {nbma} refused: code {code}",
                vpn=self._vpn,
                mac=format_address(cie.protocol or packet.source_protocol),
                nbma=str(path),
                code=cie.code,
            )

    # --- resolution (RFC 2332 §5.2.2) ---------------------------------------------------------

    def _resolve(self, packet: ResolutionRequest, path: Path) -> None:
        if len(packet.cies) > 1:
            raise NHRPError("bad_cie", code=ErrorCode.PROTOCOL_ERROR, offset=packet.cie_offset(1))
        back = self._back(packet, path)
        cie = self._answer(packet, back)
        self._resolved[cie.code].inc()
        flags = packet.flags & _RESOLUTION_FLAGS | _AUTHORITATIVE
        if not cie.code:
            flags |= _STABLE
        # Whoever can be named here registered under a VPN header, so it is VPN-aware.
        extensions = self._reply_extensions(packet, path, 0 if cie.code else VPN_AWARE)
        reply = packet.reply((cie,), flags=flags, extensions=extensions)
        self._link.send(reply, back)

    def _answer(self, packet: ResolutionRequest, path: Path) -> CIE:
        """The CIE of the answer: a binding, or a code that says why there is none.

        :param path: to the requester.
        """
        if self._vpn is not None:
            # RFC 2735 §3.3: what the requester sends to the target must name the VPN, unless the
            # path implies it. The original daemon names it without saying that it can.
            aware = packet.extension(DeviceCapabilities)
            if (aware is None or not aware.source & VPN_AWARE) and self._link.form(
                path
            ) is Form.RFC:
                return CIE(CIECode.PROHIBITED)
        protocol = packet.destination_protocol
        found = self._find(protocol)
        if found is None:
            return CIE(CIECode.NO_BINDING)
        binding, vtep, holding_time = found
        if len(vtep.nbma) != len(packet.source_nbma):
            return CIE(CIECode.NO_BINDING)
        if packet.flags & _WANT_UNIQUE and not (binding.unique and binding.protocol == protocol):
            return CIE(CIECode.NOT_UNIQUE)
        told = self._answered.vtep(protocol)
        if told is not None and told != vtep:
            # Somebody still believes another answer: an event of the switch was lost.
            self.invalidate(protocol, "moved")
        if not self._answered.add(protocol, vtep, packet.source_protocol, path, holding_time):
            return CIE(CIECode.NO_RESOURCES)
        return CIE(
            _SUCCESS,
            8 * len(protocol),
            0,
            binding.mtu or self._mtu,
            holding_time,
            vtep.nbma,
            encode_vni(vtep.vni),
            protocol,
            binding.preference,
        )

    def _find(self, protocol: bytes) -> tuple[Binding, VTEP, int] | None:
        """Who vouches for an address, where it is, and for how many seconds that holds."""
        binding = self._cache.lookup(protocol)
        if binding is not None and binding.kind >= _DYNAMIC and binding.vtep is not None:
            return binding, binding.vtep, self._left(binding)
        if not is_station_mac(protocol):
            return None
        vtep = self._find_mac(protocol)
        if vtep is None:
            return None
        site = self._cache.registration_of(vtep)
        if site is None:
            return None
        return site, vtep, min(LEARNED_HOLDING_TIME, self._left(site))

    def _left(self, binding: Binding) -> int:
        if binding.expires is None:
            return self._holding_time
        return int(binding.expires - self._clock.seconds())

    # --- purge (RFC 2332 §5.2.6) --------------------------------------------------------------

    def _purge(self, packet: PurgeRequest, path: Path) -> None:
        for cie in packet.cies:
            binding = self._cache.lookup(cie.protocol)
            if (
                binding is not None
                and binding.kind <= Kind.DYNAMIC
                and _is_registrant(packet, binding)
                and names(cie, binding)
            ):
                self._cache.remove(cie.protocol, "purged")
        if not packet.flags & PurgeFlag.N:
            reply = packet.reply(extensions=self._reply_extensions(packet, path, 0))
            self._link.send(reply, self._back(packet, path))

    def answered(self) -> Iterator[tuple[bytes, VTEP]]:
        """Every address that somebody was told the VTEP of, with that VTEP."""
        return iter(self._answered)

    def invalidate(
        self, protocol: bytes, reason: str, also: Iterable[tuple[bytes, Path]] = ()
    ) -> int:
        """Take back our answers for an address.

        :param also: stations and the ways to them that may have one that we do not remember.
        :return: how many answers were taken back.
        """
        return self.invalidate_all((protocol,), reason, also)

    def invalidate_vtep(self, vtep: VTEP, reason: str) -> int:
        """Take back every answer that names a VTEP; how many were taken back."""
        return self.invalidate_all(self._answered.at(vtep), reason)

    def invalidate_all(
        self, protocols: Iterable[bytes], reason: str, also: Iterable[tuple[bytes, Path]] = ()
    ) -> int:
        """The same for several addresses, with as few packets as they fit in."""
        return self._retraction.send(protocols, reason, also)

    def dismiss(self) -> None:
        """Tell every client that its registration ends here, since we stop.

        Without it, they would learn that from the reply that their next renewal does not get. It
        is said once, and no reply is wanted: nobody will be here to read it.
        """
        for binding in self._cache.bindings():
            if binding.kind is Kind.DYNAMIC and binding.path is not None:
                self._retraction.dismiss(binding.protocol, binding.path)

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """What is registered or configured overrules what the switch had seen."""
        if binding.kind >= Kind.DYNAMIC and self._answered.vtep(binding.protocol) != binding.vtep:
            self.invalidate(binding.protocol, "moved")

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A registration that names another VTEP makes the old answers wrong."""
        if old.vtep != new.vtep:
            self._lost(old, "moved")

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """So does its end, and with a site's last registration all answers about the site."""
        self._lost(binding, reason)

    def _lost(self, binding: Binding, reason: str) -> None:
        if binding.kind < Kind.DYNAMIC or binding.vtep is None:
            return
        self.invalidate(binding.protocol, reason)
        if not self._cache.is_registered(binding.vtep):
            self.invalidate_vtep(binding.vtep, reason)


def _is_host(nbma: bytes) -> bool:
    """Whether frames may be sent to an address: not unspecified, not multicast or broadcast."""
    if len(nbma) == 4:
        return 0 < nbma[0] < 224
    return nbma[0] != 0xFF and any(nbma)


def _is_registrant(packet: Packet, binding: Binding) -> bool:
    """Whether a purge comes from whoever registered a binding.

    RFC 2332 knows no such limit, but one site shall not end another's registration. One that has
    moved is known by its protocol address, and so can end its own of before.
    """
    vtep = binding.vtep
    return (
        binding.kind is not Kind.DYNAMIC
        or packet.source_protocol == binding.protocol
        or (vtep is not None and packet.source_nbma in (vtep.nbma, binding.claimed))
    )
