"""The next hop server of one VPN (RFC 2332 §5.2.2, §5.2.4 to §5.2.6). Layer: core.

It answers from what is registered and configured (the cache) and from what the hub's switch has
seen, remembers whom it answered, and takes an answer back from all of them when it is no longer
true. It serves one type of protocol address, MAC, IPv4 or IPv6; a VPN may have a server for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, Path
from dmevpn.interfaces import Claim, ICacheListener, ILink, IRegistrationPolicy, IStation
from dmevpn.metrics import Metrics
from dmevpn.nhrp.answered import ANSWERED_LIMIT, Answered
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.complaints import Complaints
from dmevpn.nhrp.constants import PacketType, PurgeFlag
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.order import Order
from dmevpn.nhrp.packet import (
    Packet,
    PurgeRequest,
    RegistrationRequest,
    Request,
    RequestOrReply,
    ResolutionRequest,
)
from dmevpn.nhrp.purge import check_extensions, registrations
from dmevpn.nhrp.registrar import Registrar
from dmevpn.nhrp.replies import Replies
from dmevpn.nhrp.requests import Outstanding
from dmevpn.nhrp.responder import Responder
from dmevpn.nhrp.retraction import Retraction
from dmevpn.nhrp.room import SharedRoom

__all__ = ["ENDED_AT_ONCE", "MOST_DOOMED", "NextHopServer"]

#: Registrations that end in one turn of the reactor: with each one's membership, ten milliseconds.
ENDED_AT_ONCE: Final = 64
#: Registrations that wait for that; when there are more, what another purge names runs out by
#: itself.
MOST_DOOMED: Final = 2048


@implementer(IStation, ICacheListener)
class NextHopServer:
    """Registers clients and answers them.

    :param policy: asked about every registration that is otherwise in order.
    :param find_mac: where the switch sends frames for a MAC; None if it would flood them.
    :param vpn: the VPN's index; None is the default routing instance.
    :param identity: our own protocol addresses, which tell the type, and what we say about us.
        Its holding time is also for who asks for none.
    :param nat_detection: whether a client is where its packets come from, whatever it says.
    :param multi_binding: whether several VTEPs may be registered for one address.
    :ivar passes_on: whether a request about an address that we do not know is left to who forwards
        (:class:`~dmevpn.nhrp.transit.Transit`); None: never, what we do not know is nowhere in the
        VPN. May be replaced.
    :param on_refused: called with the protocol address, the underlay address and the CIE code of a
        registration that was refused, at most once a minute for each peer.
    :param servers: underlay addresses of the servers that ask us for their own stations, if nobody
        else but registered stations is to be answered; None: everybody is. May be replaced.
    :param answered_limit: answers remembered at most; beyond it the answer is: no resources.
    :param answered_room: what the servers of all VPNs share; where that is full, likewise.
    :param complaints: which peers lines were logged about; None: nobody else logs any.
    """

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
        multi_binding: bool = False,
        passes_on: Callable[[bytes], bool] | None = None,
        servers: frozenset[bytes] | None = None,
        metrics: Metrics,
        on_refused: Callable[[bytes, bytes, int], None] = lambda station, nbma, code: None,
        answered_limit: int = ANSWERED_LIMIT,
        answered_room: SharedRoom | None = None,
        complaints: Complaints | None = None,
    ) -> None:
        self.station = identity.station
        self._clock = clock
        #: Registrations that were purged and have not ended yet, and who has purged them.
        self._doomed: deque[tuple[Binding, PurgeRequest, Path]] = deque()
        self._doom: IDelayedCall | None = None
        self._purges_full = metrics.dropped("purges_full")
        self.servers = servers
        self._identity = identity
        self.passes_on = passes_on
        self._cache = cache
        self._policy = policy
        self._vpn = vpn
        self._outstanding = outstanding
        self._link = link
        self._strangers = metrics.dropped("not_registered")
        self._order = Order(clock)
        self._overtaken = metrics.dropped("overtaken")
        self._answered = Answered(clock, metrics, answered_limit, answered_room)
        self._replies = Replies(identity, cache)
        self._registrar = Registrar(
            cache=cache,
            link=link,
            policy=policy,
            identity=identity,
            replies=self._replies,
            vpn=vpn,
            nat_detection=nat_detection,
            multi_binding=multi_binding,
            metrics=metrics,
            complaints=complaints,
            on_refused=on_refused,
        )
        self._responder = Responder(
            cache=cache,
            link=link,
            answered=self._answered,
            identity=identity,
            replies=self._replies,
            find_mac=find_mac,
            vpn=vpn,
            take_back=lambda keys: self.invalidate_all(keys, "moved"),
            is_open=lambda: self.servers is None,
            metrics=metrics,
        )
        self._retraction = Retraction(
            answered=self._answered,
            outstanding=outstanding,
            link=link,
            station=identity.station,
            vpn="-" if vpn is None else str(vpn),
            metrics=metrics,
        )
        cache.subscribe(self)

    def close(self) -> None:
        """Forget whom we answered. Answers in use stay true while the switch goes on."""
        self._cache.unsubscribe(self)
        self._answered.close()
        self._doomed.clear()
        if self._doom is not None:
            self._doom.cancel()
            self._doom = None

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
            if self.servers is not None and not self._may_ask(packet, path, self.servers):
                self._strangers.inc()
                check_extensions(packet)
                self._responder.refuse(packet, path)
                return True
            if (
                self.passes_on is not None
                and not self._responder.knows(protocol)
                and self.passes_on(protocol)
            ):
                return False
            check_extensions(packet)
            self._responder.resolve(packet, path)
            return True
        # A client that does not know us names itself instead (RFC 2332 §5.2.3).
        if protocol != packet.source_protocol and not self._identity.is_asked(protocol):
            return False
        check_extensions(packet)
        if self._is_overtaken(packet, path):
            self._overtaken.inc()
        elif isinstance(packet, RegistrationRequest):
            self._registrar.register(packet, path)
        else:
            assert isinstance(packet, PurgeRequest)
            self._purge(packet, path)
        return True

    def _is_overtaken(self, packet: RequestOrReply, path: Path) -> bool:
        """Whether what a client says of its own registration is out of date. It has said something
        else since then, and does not wait for an answer to this."""
        client = packet.source_protocol
        if isinstance(packet, PurgeRequest) and all(cie.protocol != client for cie in packet.cies):
            return False
        return self._order.is_late(path.peer + client, packet.request_id)

    def _may_ask(self, packet: ResolutionRequest, path: Path, servers: frozenset[bytes]) -> bool:
        """Whether a request is of a station that is registered where it comes from, or passed on
        by a server that we know. What the packet says about its way proves nothing."""
        if path.peer in servers:
            return True
        registered = self._cache.lookup(packet.source_protocol)
        if registered is None or registered.kind is not Kind.DYNAMIC:
            return False
        return any(
            each.path is not None and each.path.peer == path.peer
            for each in self._cache.alternatives(registered)
        )

    def _purge(self, packet: PurgeRequest, path: Path) -> None:
        idle = not self._doomed
        if len(self._doomed) < MOST_DOOMED:
            self._doomed.extend((each, packet, path) for each in registrations(packet, self._cache))
        else:
            self._purges_full.inc()
        if idle:
            self._end_some()
        if not packet.flags & PurgeFlag.N:
            reply = packet.reply(extensions=self._replies.extensions(packet, path))
            if packet.cies or packet.extensions:
                self._link.send(reply, self._replies.way(packet, path))
            else:
                # A keepalive, which says nothing and is told nothing.
                self._link.answer(packet, reply, path)

    def _end_some(self) -> None:
        """End purged registrations; what one packet names may be more than one turn's work."""
        self._doom = None
        for _ in range(min(len(self._doomed), ENDED_AT_ONCE)):
            binding, packet, path = self._doomed.popleft()
            there = any(each is binding for each in self._cache.alternatives(binding))
            if there and self._may_end(binding, packet, path):
                self._cache.drop(binding, "purged")
        if self._doomed:
            self._doom = self._clock.callLater(0, self._end_some)

    def _may_end(self, binding: Binding, packet: PurgeRequest, path: Path) -> bool:
        """Whether who purges a registration could also make it."""
        if binding.kind is not Kind.DYNAMIC or binding.vtep is None:
            return True
        claim = Claim(
            self._vpn or 0, binding.protocol, binding.vtep, path.peer, packet.spi, renews=True
        )
        return not self._policy.decide(claim)

    # --- taking answers back (RFC 2332 §5.2.5) ----------------------------------------------

    def answered(self) -> Iterator[tuple[bytes, tuple[VTEP, ...]]]:
        """Every address (or key of a prefix) that somebody was told VTEPs of, with those."""
        return iter(self._answered)

    @property
    def told_count(self) -> int:
        """How many answers are remembered, a few of which may have run out."""
        return len(self._answered)

    def told(self, key: bytes) -> tuple[VTEP, ...]:
        """The VTEPs that somebody was told of an address or prefix, by its key."""
        return self._answered.told(key)

    def records(self) -> Iterator[tuple[bytes, tuple[VTEP, ...], bytes, Path, float]]:
        """Every answer that is still believed, as :meth:`remember` takes it."""
        return self._answered.records()

    def remember(
        self, key: bytes, vteps: tuple[VTEP, ...], station: bytes, path: Path, until: float
    ) -> None:
        """Remember what an earlier run has answered.

        :param until: when it is no longer believed, on the clock.
        """
        if not set(self._answered.told(key)) <= set(vteps):
            # It was taken back, but perhaps not from everybody: packets are lost.
            self.invalidate(key, "moved")
        self._answered.add(key, vteps, station, path, until)

    def record_answers(
        self, record: Callable[[bytes, tuple[VTEP, ...], bytes, Path, float], None] | None
    ) -> None:
        """Tell somebody of each answer from now on, as :meth:`remember` takes it, before it is
        sent."""
        self._answered.record = record

    def invalidate(self, key: bytes, reason: str, also: Iterable[tuple[bytes, Path]] = ()) -> int:
        """Take back our answers for an address or a prefix.

        :param also: stations and the ways to them that may have one that we do not remember.
        :return: how many answers were taken back.
        """
        return self.invalidate_all((key,), reason, also)

    def invalidate_vtep(self, vtep: VTEP, reason: str) -> int:
        """Take back every answer that names a VTEP; how many were taken back."""
        return self.invalidate_all(self._answered.at(vtep), reason)

    def invalidate_all(
        self, keys: Iterable[bytes], reason: str, also: Iterable[tuple[bytes, Path]] = ()
    ) -> int:
        """The same for several addresses, with as few packets as they fit in."""
        return self._retraction.send(keys, reason, also)

    def expel(self, unwanted: Callable[[Binding], bool]) -> int:
        """End registrations, and tell their clients, which may try again.

        :param unwanted: asked about every one.
        :return: how many were ended.
        """
        doomed = [
            binding
            for binding in self._cache.bindings()
            if binding.kind is Kind.DYNAMIC and unwanted(binding)
        ]
        for binding in doomed:
            self._dismiss(binding)
            self._cache.drop(binding, "not permitted")
        return len(doomed)

    def give_up(self) -> None:
        """Take every answer back, once: nobody here will see whether it is still true."""
        self._retraction.send([key for key, _ in self._answered], "given up", last=True)

    def dismiss(self) -> None:
        """Tell every client that its registration ends here, since we stop.

        Without it, they would learn that from the reply that their next renewal does not get. It
        is said once, and no reply is wanted: nobody will be here to read it.
        """
        for binding in self._cache.bindings():
            if binding.kind is Kind.DYNAMIC:
                self._dismiss(binding)

    def recall(self, wanted: Callable[[Binding], bool]) -> Iterator[None]:
        """Ask clients to end their registrations, if another server has them too; one at each
        step. A client that does not understand it, or has no other, registers again.

        :param wanted: asked about every one.
        """
        for binding in list(self._cache.bindings()):
            if binding.kind is Kind.DYNAMIC and binding.path is not None and wanted(binding):
                station = binding.next_hop or binding.protocol
                self._retraction.recall(binding.key, station, binding.path)
                yield

    def tell(self, keys: Sequence[bytes], nbma: bytes, station: bytes, path: Path) -> None:
        """Tell another server, until it replies, that what it knows of a site is not true any more.

        :param keys: of addresses that are at the site.
        :param nbma: of the site.
        :param station: the server's protocol address as our client.
        """
        self._retraction.tell(keys, nbma, station, path)

    def probe(
        self,
        station: bytes,
        path: Path,
        delays: Iterable[float],
        on_answer: Callable[[], None],
        on_silence: Callable[[], None],
    ) -> int | None:
        """Ask a client for a sign of life, by a Purge Request that names nothing.

        :param delays: gaps between transmissions in seconds, the last one before giving up.
        :return: the request ID; None if there was no room for it: then nothing is called.
        """
        return self._retraction.probe(station, path, delays, on_answer, on_silence)

    def forget(self, request_id: int) -> None:
        """Wait no more for the reply to what :meth:`probe` asked."""
        self._outstanding.cancel(request_id)

    def call_back(self, station: bytes, path: Path) -> None:
        """Tell a client that would like to be registered to try again now, unless it is."""
        if self._cache.lookup(station) is None:
            self._retraction.dismiss(station, station, path)

    def disown(self, station: bytes, path: Path) -> None:
        """Tell a client, until it replies, that it is not registered any more; it may try again."""
        self._retraction.recall(station, station, path)

    def _dismiss(self, binding: Binding) -> None:
        if binding.path is not None:
            station = binding.next_hop or binding.protocol
            self._retraction.dismiss(binding.key, station, binding.path)

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """What is registered or configured overrules what the switch had seen, and what was said
        about more addresses than its own."""
        if binding.kind < Kind.DYNAMIC:
            return
        key = binding.key
        told = self._answered.told(key)
        if told and binding.vtep not in told and self._cache.lookup(key) is binding:
            self.invalidate(key, "moved")
        displaced = self._answered.around(binding.protocol, binding.bits)
        if binding.prefix_length is not None:
            wider = self._cache.find_around(binding.protocol, binding.bits)
            if wider is not None:
                displaced += self._told_inside(binding, wider.vtep)
        if displaced:
            self.invalidate_all(displaced, "moved")

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """A registration that names another VTEP makes the old answers wrong."""
        if old.vtep != new.vtep:
            self._lost(old, "moved")

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """So does its end, and with a site's last registration all answers about the site."""
        self._lost(binding, reason)

    def _lost(self, binding: Binding, reason: str) -> None:
        if binding.kind < Kind.DYNAMIC:
            return
        if binding.prefix_length is None:
            self.invalidate(binding.key, reason)
        else:
            self.invalidate_all(self._told_inside(binding, binding.vtep), reason)
        if binding.vtep is not None and not self._cache.is_registered(binding.vtep):
            self.invalidate_vtep(binding.vtep, reason)

    def _told_inside(self, binding: Binding, vtep: VTEP | None) -> list[bytes]:
        """The keys of answers inside of a binding's prefix that name a VTEP; None: any."""
        return [
            key
            for key in self._answered.inside(binding.protocol, binding.bits)
            if vtep is None or vtep in self._answered.told(key)
        ]
