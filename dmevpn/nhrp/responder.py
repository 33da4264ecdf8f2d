"""The server's side of resolution (RFC 2332 §5.2.2). Layer: core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from dmevpn.addresses import VTEP, Path, is_station_mac
from dmevpn.errors import NHRPError
from dmevpn.interfaces import ILink
from dmevpn.metrics import Counters, Metrics
from dmevpn.nhrp.answered import LEARNED_HOLDING_TIME, Answered
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import VPN_AWARE, CIECode, ErrorCode, ResolutionFlag
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import DeviceCapabilities, Extension, NATAddress
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.link import Place
from dmevpn.nhrp.nat import nat_address
from dmevpn.nhrp.packet import ResolutionRequest
from dmevpn.nhrp.prefixes import SHORTEST_PREFIX, key_of, significant
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.nhrp.replies import Replies

__all__ = ["Responder"]

# A member of an enumeration takes longer to look up than a dictionary: these are used in every
# request.
_SUCCESS: Final = CIECode.SUCCESS
_DYNAMIC: Final = Kind.DYNAMIC
_UNIQUE: Final = ResolutionFlag.U
_AUTHORITATIVE: Final = ResolutionFlag.A
_STABLE: Final = ResolutionFlag.D
_NAT: Final = ResolutionFlag.NAT

#: Of these, the reply to a simple request has the first alone.
_SIMPLE: Final = ResolutionFlag.D | ResolutionFlag.U | ResolutionFlag.NAT
_FLAGS: Final = ResolutionFlag.Q | ResolutionFlag.U | ResolutionFlag.S | ResolutionFlag.NAT


class Responder:
    """Says where addresses are, and remembers whom it told.

    :param answered: whom we told what.
    :param find_mac: where the switch sends frames for a MAC; None if it would flood them.
    :param vpn: the VPN's index; None is the default routing instance.
    :param take_back: makes everybody forget what was told about some keys, since it is not true.
    :param is_open: whether everybody is answered.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        link: ILink,
        answered: Answered,
        identity: Identity,
        replies: Replies,
        find_mac: Callable[[bytes], VTEP | None],
        vpn: int | None,
        take_back: Callable[[Iterable[bytes]], object],
        is_open: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        self._clock = cache.clock
        self._cache = cache
        self._link = link
        self._answered = answered
        self._identity = identity
        self._replies = replies
        self._find_mac = find_mac
        self._vpn = vpn
        self._take_back = take_back
        self._is_open = is_open
        label = "-" if vpn is None else str(vpn)
        self._answers = Counters[int](
            lambda code: metrics.counter("resolution_answers", code=str(code), vpn=label)
        )

    def resolve(self, packet: ResolutionRequest, path: Path) -> None:
        """Answer a request with what we know, or with the reason why there is no answer.

        :raises NHRPError: if the request has more than one CIE.
        """
        if len(packet.cies) > 1:
            raise NHRPError("bad_cie", code=ErrorCode.PROTOCOL_ERROR, offset=packet.cie_offset(1))
        way = self._replies.way(packet, path)
        flags = packet.flags & _FLAGS | _AUTHORITATIVE
        binding = None
        cies: tuple[CIE, ...]
        if self._vpn is not None and not self._can_name_vpn(packet, way):
            cies = (CIE(CIECode.PROHIBITED),)
        else:
            now = self._clock.seconds()
            found = self.find(packet.destination_protocol, now)
            if found is None:
                cies = (CIE(CIECode.NO_BINDING),)
            else:
                binding = found[0]
                if binding.prefix_length is not None or self._cache.crowded:
                    cies = self._answer_at_large(packet, way, now, *found)
                else:
                    cies = (self._answer(packet, way, now, *found),)
        code = cies[0].code
        self._answers[code].inc()
        aware = not code and (binding is None or self._is_aware(binding))
        # What a prefix says is true of many stations, and may change for each of them.
        if not code and binding is not None and binding.prefix_length is None:
            flags |= _STABLE
        extensions = self._replies.extensions(packet, path, VPN_AWARE if aware else 0)
        if packet.flags & _NAT:
            extensions = self._with_translated(extensions, cies, binding)
        reply = packet.reply(cies, flags=flags, extensions=extensions)
        if aware and flags & _SIMPLE == _STABLE and way is path and self._is_simple(binding):
            us = self._identity
            self._link.answer(packet, reply, path, partial(self._tell, us.mtu, us.holding_time))
        else:
            self._link.send(reply, way)

    def _is_simple(self, binding: Binding | None) -> bool:
        """Whether other requests may be answered as one was for whose address a binding vouches:
        everybody is, and with one address, not with a prefix or with one of several bindings."""
        return (
            binding is not None
            and binding.prefix_length is None
            and not self._cache.crowded
            and self._is_open()
        )

    def _tell(
        self, mtu: int, holding_time: int, mac: bytes, station: bytes, path: Path
    ) -> Place | None:
        """Answer a simple request like one before, and remember it.

        :param mtu: what was said of us in the reply to that one; ``holding_time`` likewise.
        :param path: to the requester.
        :return: None if it is not that simple: then nothing has happened.
        """
        us = self._identity
        now = self._clock.seconds()
        found = self.find(mac, now)
        if found is None or us.mtu != mtu or us.holding_time != holding_time:
            return None
        binding, vtep, until = found
        if (
            vtep is None
            or vtep.vni is None
            or len(vtep.nbma) != len(path.peer)
            or not self._is_simple(binding)
            or not self._is_aware(binding)
        ):
            return None
        vteps = (vtep,)
        told = self._answered.told(mac)
        if (told and told != vteps) or not (
            self._answered.add(mac, vteps, station, path, until, counted=False)
        ):
            return None
        self._answers[_SUCCESS].inc()
        return vtep, binding.mtu or mtu, int(until - now), binding.preference

    def refuse(self, packet: ResolutionRequest, path: Path) -> None:
        """Tell a stranger nothing but that he is one, and remember nothing of him.

        :param path: that the request came by; what it says about its way is not believed.
        """
        self._answers[CIECode.PROHIBITED].inc()
        flags = packet.flags & _FLAGS | _AUTHORITATIVE
        extensions = self._replies.extensions(packet, path)
        reply = packet.reply((CIE(CIECode.PROHIBITED),), flags=flags, extensions=extensions)
        self._link.send(reply, path)

    def _can_name_vpn(self, packet: ResolutionRequest, path: Path) -> bool:
        """Whether what the requester sends to the target will name the VPN (RFC 2735 §3.3): it
        says that it can, or the path implies the VPN. The original daemon does not say it."""
        aware = packet.extension(DeviceCapabilities)
        return (aware is not None and aware.source & VPN_AWARE != 0) or self._link.form(
            path
        ) is not Form.RFC

    def _is_aware(self, binding: Binding) -> bool:
        """Whether the station of a binding can name VPNs: it did so when it registered."""
        if self._vpn is None or binding.vtep is None:
            return True
        path = binding.path
        return self._link.names_vpn(Path(binding.vtep.nbma) if path is None else path)

    def knows(self, protocol: bytes) -> bool:
        """Whether anybody here vouches for an address."""
        return self.find(protocol, self._clock.seconds()) is not None

    def find(self, protocol: bytes, now: float) -> tuple[Binding, VTEP | None, float] | None:
        """Who vouches for an address, where it is, and until when that holds.

        Without a VTEP, it is here.

        :param now: the time on our clock.
        """
        binding = self._cache.lookup(protocol)
        if binding is None or binding.kind < _DYNAMIC:
            if is_station_mac(protocol):
                return self._find_learned(protocol, now)
            binding = self._cache.find_around(protocol)
            if binding is None:
                return None
        return binding, binding.vtep, _until(binding, now)

    def _find_learned(self, mac: bytes, now: float) -> tuple[Binding, VTEP, float] | None:
        vtep = self._find_mac(mac)
        if vtep is None:
            return None
        site = self._cache.registration_of(vtep)
        if site is None:
            return None
        until = now + LEARNED_HOLDING_TIME
        if site.expires is not None and site.expires < until:
            until = site.expires
        return site, vtep, until

    def _answer(
        self,
        packet: ResolutionRequest,
        path: Path,
        now: float,
        binding: Binding,
        vtep: VTEP | None,
        until: float,
    ) -> CIE:
        """The CIE of the answer: the binding of one address, or why there is none.

        :param path: to the requester.
        """
        protocol = packet.destination_protocol
        if vtep is None:
            vtep = VTEP(path.local, None)
        if len(vtep.nbma) != len(packet.source_nbma):
            return CIE(CIECode.NO_BINDING)
        if packet.flags & _UNIQUE and not (binding.unique and binding.protocol == protocol):
            return CIE(CIECode.NOT_UNIQUE)
        vteps = (vtep,)
        told = self._answered.told(protocol)
        if told and told != vteps:
            # Somebody still believes another answer: an event of the switch was lost.
            self._take_back((protocol,))
        if not self._answered.add(protocol, vteps, packet.source_protocol, path, until):
            return CIE(CIECode.NO_RESOURCES)
        return CIE(
            _SUCCESS,
            8 * len(protocol),
            0,
            binding.mtu or self._identity.mtu,
            int(until - now),
            vtep.nbma,
            encode_vni(vtep.vni),
            protocol,
            binding.preference,
        )

    def _answer_at_large(
        self,
        packet: ResolutionRequest,
        path: Path,
        now: float,
        binding: Binding,
        vtep: VTEP | None,
        until: float,
    ) -> tuple[CIE, ...]:
        """The same if the answer is about a prefix, or if there are several, best first."""
        if binding.protocol != packet.destination_protocol and binding.prefix_length is None:
            # The switch has seen a MAC at a site, which it is not that has several bindings.
            return (self._answer(packet, path, now, binding, vtep, until),)
        bindings = self._cache.alternatives(binding)
        places = [each.vtep or VTEP(path.local, None) for each in bindings]
        usable = [
            (each, place)
            for each, place in zip(bindings, places, strict=True)
            if len(place.nbma) == len(packet.source_nbma)
        ]
        if not usable:
            return (CIE(CIECode.NO_BINDING),)
        if packet.flags & _UNIQUE and not (binding.unique and binding.prefix_length is None):
            return (CIE(CIECode.NOT_UNIQUE),)
        protocol = packet.destination_protocol
        bits = self._widest(packet, binding)
        key = key_of(protocol, bits)
        told = self._answered.told(key)
        if not set(told) <= set(places):
            self._take_back((key,))
            told = ()
        vteps = (*told, *[place for _, place in usable if place not in told])
        ends = [_until(each, now) for each, _ in usable]
        if not self._answered.add(key, vteps, packet.source_protocol, path, max(ends)):
            return (CIE(CIECode.NO_RESOURCES),)
        return tuple(
            [
                CIE(
                    _SUCCESS,
                    bits,
                    0,
                    each.mtu or self._identity.mtu,
                    int(end - now),
                    place.nbma,
                    encode_vni(place.vni),
                    each.next_hop or protocol,
                    each.preference,
                )
                for (each, place), end in zip(usable, ends, strict=True)
            ]
        )

    def _widest(self, packet: ResolutionRequest, binding: Binding) -> int:
        """The prefix length of the widest set around an address that a binding is the answer to.

        Nothing more specific may lie in it (RFC 2332 §5.2.2). A request may ask for a narrower
        one; what clients say there by habit, nothing or the whole address, is no such wish.
        """
        protocol = packet.destination_protocol
        width = 8 * len(protocol)
        if binding.prefix_length is None:
            return width
        asked = significant(packet.cies[0].prefix_length, len(protocol)) if packet.cies else width
        least = max(binding.bits, SHORTEST_PREFIX[len(protocol)], asked if asked < width else 0)
        return self._cache.index.widest(protocol, least)

    def _with_translated(
        self, extensions: tuple[Extension, ...], cies: tuple[CIE, ...], binding: Binding | None
    ) -> tuple[Extension, ...]:
        """The extensions with the target's translated address in the NAT Address extension; where
        it has none nothing stands there, not even what the requester said about itself."""
        best = cies[0]
        sites = () if binding is None else self._cache.alternatives(binding)
        translated = any(
            each.nat and each.vtep is not None and each.vtep.nbma == best.nbma for each in sites
        )
        nbma = best.nbma if translated else b""
        said = nat_address(nbma, best.protocol, best.mtu)
        return tuple([said if type(each) is NATAddress else each for each in extensions])


def _until(binding: Binding, now: float) -> float:
    """When a binding is over: what is configured, after its holding time from now on."""
    return now + binding.holding_time if binding.expires is None else binding.expires
