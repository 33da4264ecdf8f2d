"""Peers that are not like us: what they understand, and in which form we write to them.

Layer: core. Stations know RFC packets only: VNIs in network order, that of an answer in its CIE.
A :class:`Peer` turns what another daemon sends into that, and what a station sends into what the
other daemon understands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VPNID
from dmevpn.metrics import Metrics
from dmevpn.nhrp.deadlines import Deadlines
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import DeviceCapabilities, Extension
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    RegistrationReply,
    RegistrationRequest,
    RequestOrReply,
    ResolutionReply,
)

__all__ = ["DIALECTS", "LIMIT", "Dialect", "Peer", "Peers", "ours", "peer_of", "recognise"]

#: Peers that are remembered for what they sent, as long as an answer of ours is in use there. Each
#: takes about 500 octets of memory. Further ones are answered and then taken for ours again.
LIMIT: Final = 16_384

#: Longest addresses, in octets, that OpenNHRP's decoder has room for: it does not look.
_ROOM: Final = 8
#: Highest extension type that it has a place for, likewise.
_HIGHEST_EXTENSION: Final = 9


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a kind of daemon understands."""

    name: str
    """The word of the configuration."""
    form: Form
    """How it names a VPN; plain: not at all, it is not VPN-aware (RFC 2735 §2)."""
    vnis: bool
    """Whether an NBMA address may have a subaddress."""
    capabilities: bool
    """Whether it knows the Device Capabilities extension."""
    old: bool
    """Whether it has the decoder of OpenNHRP: of fixed room, with checksums padded on the left,
    and no Error Indication is believed without authentication."""

    @property
    def little_endian(self) -> bool:
        """Whether VNIs are in the order of a little-endian host."""
        return self.form is Form.LEGACY_LITTLE

    @property
    def legacy(self) -> bool:
        """Whether it is the original dmevpn."""
        return self.old and self.vnis


_RFC: Final = Dialect("rfc", Form.RFC, vnis=True, capabilities=True, old=False)

#: By the word of the configuration.
DIALECTS: Final = {
    dialect.name: dialect
    for dialect in (
        _RFC,
        Dialect("legacy", Form.LEGACY_LITTLE, vnis=True, capabilities=False, old=True),
        Dialect("legacy-big-endian", Form.LEGACY_BIG, vnis=True, capabilities=False, old=True),
        Dialect("opennhrp", Form.PLAIN, vnis=False, capabilities=False, old=True),
        Dialect("frr", Form.PLAIN, vnis=False, capabilities=False, old=False),
        Dialect("cisco", Form.PLAIN, vnis=False, capabilities=False, old=False),
    )
}
_OF_FORM: Final = {d.form: d for d in DIALECTS.values() if d.form is not Form.PLAIN}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that has another dialect, or is on a path that implies its VPN."""

    dialect: Dialect
    form: Form
    """Of what we send it in a VPN."""
    vpn_id: VPNID | None = None
    """The VPN of packets from it and to it that name none; None: the peer implies none."""

    def heard(self, form: Form) -> Peer:
        """What the peer is after a request or reply of a VPN that came in a form."""
        if form is self.form:
            return self
        if form is Form.PLAIN:
            return replace(self, form=form)
        if form is Form.RFC and self.vpn_id is not None and not self.dialect.legacy:
            # It may name the VPN that its path implies; we do not.
            return self
        return Peer(_OF_FORM[form], form, self.vpn_id)

    def read(self, packet: Packet, form: Form) -> Packet:
        """A packet from this peer, as one of ours would have sent it.

        :param form: that it came in; the RFC form is in network order whoever sent it.
        """
        dialect = self.dialect
        if not dialect.legacy or form is Form.RFC:
            return packet
        if dialect.little_endian:
            packet = _with_subaddresses(packet, _reversed)
        if isinstance(packet, ResolutionReply):
            packet = _vni_to_cies(packet)
        return packet

    def write(self, packet: Packet) -> Packet | None:
        """A packet to this peer, as it understands it; None if it must not have it."""
        dialect = self.dialect
        if dialect is _RFC:
            return packet
        unwanted = [each for each in packet.extensions if self._unwanted(each)]
        if unwanted:
            rest = tuple([each for each in packet.extensions if each not in unwanted])
            packet = replace(packet, extensions=rest)
        if not dialect.vnis:
            packet = _with_subaddresses(packet, lambda subaddress: b"")
        elif dialect.legacy:
            if isinstance(packet, ResolutionReply):
                packet = _vni_to_header(packet)
            if dialect.little_endian:
                packet = _with_subaddresses(packet, _reversed)
        if dialect.old:
            if not _has_room(packet):
                return None
            if isinstance(packet, ErrorIndication) and packet.extensions_offset & 1:
                # Its reader would pad an odd length on the other side, see wire.py.
                packet = replace(packet, contents=packet.contents[:-1])
        return packet

    def _unwanted(self, extension: Extension) -> bool:
        dialect = self.dialect
        if type(extension) is DeviceCapabilities:
            return not dialect.capabilities
        return dialect.old and extension.type > _HIGHEST_EXTENSION


def peer_of(daemon: str, vpn_id: VPNID | None = None) -> Peer:
    """A peer as it is configured.

    :param daemon: a name from :data:`DIALECTS`.
    :param vpn_id: the VPN of its packets that name none.
    """
    dialect = DIALECTS[daemon]
    return Peer(dialect, dialect.form if vpn_id is None else Form.PLAIN, vpn_id)


#: A peer like us.
_OURS: Final = Peer(_RFC, Form.RFC)


class Peers:
    """The peers of a control interface that are not like us, by NBMA address.

    Some are configured. The others tell by the packets that they send: they are known while they
    get their answer, and remembered as long as that answer holds, such as a registration.

    :ivar get: the :class:`Peer` at an address; None for one like us. One look into a table.
    :param limit: peers remembered at most.
    """

    def __init__(self, clock: IReactorTime, metrics: Metrics, limit: int = LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._claims: dict[Hashable, Mapping[bytes, Peer]] = {}
        self._configured: dict[bytes, Peer] = {}
        self._known: dict[bytes, Peer] = {}
        #: Until when a peer is remembered for what it sent.
        self._until: dict[bytes, float] = {}
        self._deadlines = Deadlines(clock, self._due)
        #: Whose packet is being answered, until the answer makes us remember it.
        self._visitor: bytes | None = None
        self._full = metrics.counter("peers_full")
        self.get: Callable[[bytes], Peer | None] = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def claim(self, owner: Hashable, peers: Mapping[bytes, Peer]) -> None:
        """Say what peers are, in place of what the same owner said before.

        :param owner: a part of the configuration. Of several that disagree the latest counts.
        """
        before = self._claims.pop(owner, {})
        if peers:
            self._claims[owner] = peers
        for nbma in {**before, **peers}:
            said = [each[nbma] for each in self._claims.values() if nbma in each]
            old = self._configured.pop(nbma, None)
            if said:
                self._configured[nbma] = said[-1]
            # What an unchanged peer has told by its packets since then is still true.
            if self._configured.get(nbma) != old:
                self._forget(nbma)

    def close(self) -> None:
        """Forget all, leave no timer behind."""
        self._deadlines.close()
        self._known.clear()
        self._until.clear()

    @contextmanager
    def visit(self, nbma: bytes, peer: Peer) -> Iterator[None]:
        """Take a peer for what its packet says while that is being answered."""
        before = self._known.get(nbma)
        self._known[nbma] = peer
        self._visitor = nbma
        try:
            yield
        finally:
            if self._visitor is not None:
                self._visitor = None
                self._put(nbma, before)

    def answered(self, nbma: bytes, packet: Packet) -> None:
        """A packet went to a peer that is not like us: remember it as long as that holds."""
        if not isinstance(packet, (RegistrationReply, ResolutionReply)):
            return
        holding_time = max([cie.holding_time for cie in packet.cies if not cie.code], default=0)
        if not holding_time:
            return
        if self._known.get(nbma) == self._configured.get(nbma, _OURS):
            self._forget(nbma)
        elif nbma not in self._until and len(self._until) >= self._limit:
            self._full.inc()
            return
        else:
            until = self._clock.seconds() + holding_time
            self._until[nbma] = max(until, self._until.get(nbma, until))
            self._deadlines.set(nbma, until)
        if self._visitor == nbma:
            self._visitor = None

    def remembered(self) -> Iterator[tuple[bytes, Peer, float]]:
        """Those that are remembered for what they sent: address, peer, until when."""
        for nbma, until in list(self._until.items()):
            peer = self._known.get(nbma)
            if peer is not None:
                yield nbma, peer, until

    def recall(self, nbma: bytes, peer: Peer, until: float) -> None:
        """Remember a peer as an earlier run did, unless more is known about it by now.

        :param until: on the clock.
        """
        room = len(self._until) < self._limit
        if nbma not in self._known and room and until > self._clock.seconds():
            self._put(nbma, peer)
            self._until[nbma] = until
            self._deadlines.set(nbma, until)

    def _due(self, nbma: bytes) -> float | None:
        until = self._until[nbma]
        if until > self._clock.seconds():
            return until
        self._forget(nbma)
        return None

    def _forget(self, nbma: bytes) -> None:
        """Take a peer for what it is configured to be, or else for one like us."""
        if self._until.pop(nbma, None) is not None:
            self._deadlines.discard(nbma)
        self._put(nbma, self._configured.get(nbma))

    def _put(self, nbma: bytes, peer: Peer | None) -> None:
        if peer is None:
            self._known.pop(nbma, None)
        else:
            self._known[nbma] = peer


def recognise(packet: Packet, peer: Peer | None) -> Peer | None:
    """The original daemon, told by a registration without VPN header: its VNIs make sense in
    little-endian order only. In network order the first of the four octets is zero.

    :param peer: what is known so far; it stays if the packet tells nothing.
    """
    if not isinstance(packet, RegistrationRequest) or (peer and peer.dialect is not _RFC):
        return peer
    subaddresses = [packet.source_subaddress, *[cie.subaddress for cie in packet.cies]]
    stated = [each for each in subaddresses if each]
    if stated and all([len(each) == 4 and each[0] and not each[3] for each in stated]):
        return Peer(DIALECTS["legacy"], Form.PLAIN, peer.vpn_id if peer else None)
    return peer


def ours(form: Form) -> Peer:
    """A peer that nothing is known of but the form of its packet in a VPN."""
    return _OURS.heard(form)


def _reversed(subaddress: bytes) -> bytes:
    return subaddress[::-1]


def _with_subaddresses(packet: Packet, change: Callable[[bytes], bytes]) -> Packet:
    """The packet with its NBMA subaddresses changed."""
    if isinstance(packet, RequestOrReply) and any([cie.subaddress for cie in packet.cies]):
        cies = [replace(cie, subaddress=change(cie.subaddress)) for cie in packet.cies]
        packet = replace(packet, cies=tuple(cies))
    if packet.source_subaddress:
        packet = replace(packet, source_subaddress=change(packet.source_subaddress))
    return packet


def _vni_to_cies(reply: ResolutionReply) -> ResolutionReply:
    """The original daemon states the VNI of its answer in place of the requester's own."""
    vni = reply.source_subaddress
    cies = [
        replace(cie, subaddress=vni) if cie.nbma and not cie.subaddress else cie
        for cie in reply.cies
    ]
    return replace(reply, source_subaddress=b"", cies=tuple(cies))


def _vni_to_header(reply: ResolutionReply) -> ResolutionReply:
    """The other way; of several answers those remain that the one VNI is true of."""
    stated = [cie.subaddress for cie in reply.cies if cie.subaddress]
    if not stated:
        return reply
    cies = [replace(cie, subaddress=b"") for cie in reply.cies if cie.subaddress == stated[0]]
    return replace(reply, source_subaddress=stated[0], cies=tuple(cies))


def _has_room(packet: Packet) -> bool:
    """Whether OpenNHRP's decoder has room for all addresses."""
    places: list[tuple[bytes, bytes, bytes]] = [
        (packet.source_nbma, packet.source_subaddress, packet.source_protocol),
        (b"", b"", packet.destination_protocol),
    ]
    if isinstance(packet, RequestOrReply):
        places += [(cie.nbma, cie.subaddress, cie.protocol) for cie in packet.cies]
    return all(
        len(nbma) + len(subaddress) <= _ROOM and len(protocol) <= _ROOM
        for nbma, subaddress, protocol in places
    )
