"""Resolution: asking servers where addresses live (RFC 2332 §5.2.1, §5.2.2). Layer: core.

The state of an address is the kind of its binding: absent, ``incomplete``, ``cached`` or
``negative``. Nothing is queued here: frames take the way by the hub until there is a shortcut.
docs/state-machines.md draws the states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import MAC_LENGTH, VTEP, Path, is_station_mac
from dmevpn.interfaces import ICacheListener, ILink
from dmevpn.metrics import Counter, Metrics
from dmevpn.nhrp.cache import Binding, Cache, Kind
from dmevpn.nhrp.constants import (
    EXACT_PREFIX,
    VPN_AWARE,
    ErrorCode,
    PurgeFlag,
    ResolutionFlag,
)
from dmevpn.nhrp.deadlines import Deadlines
from dmevpn.nhrp.extensions import (
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
)
from dmevpn.nhrp.indication import describe
from dmevpn.nhrp.nat import nat_address
from dmevpn.nhrp.packet import PurgeRequest, RequestOrReply, ResolutionRequest
from dmevpn.nhrp.prefixes import significant
from dmevpn.nhrp.purge import check_extensions, names
from dmevpn.nhrp.records import CIE, encode_vni, refused_with
from dmevpn.nhrp.requests import Outstanding, protocol_type_of
from dmevpn.nhrp.resolution_reply import UNKNOWN, AnswerReader, Outcome, Said, is_unknown, said

__all__ = ["LIMIT", "UNKNOWN", "Judge", "Outcome", "ResolutionClient", "Said"]

#: Addresses of one VPN that are being asked for at any time; beyond it frames just go by the hub.
LIMIT: Final = 1000

#: Seconds after each transmission: it is repeated after 1, 3 and 7 s and has failed after 15 s.
_DELAYS: Final = (1.0, 2.0, 4.0, 8.0)

#: The same for an operator, who waits.
_ENQUIRY: Final = (1.0, 2.0)

#: Seconds for which a refused address is not asked for again.
_NEGATIVE: Final = 180
#: The same for a MAC that the server does not know: the hub may learn it with the next frame.
_UNKNOWN_MAC: Final = 10
#: The same without an answer, or without a server to ask.
_PAUSE: Final = 10

#: The part of its lifetime after which an answer in use is asked for again.
_RENEWAL: Final = 2 / 3

#: Life in seconds that a shortcut of an earlier run is given to be confirmed, and the time over
#: which the requests for all of them are spread.
_ADOPTED: Final = 60
_ADOPTION_SPREAD: Final = 10.0
#: Bounds in seconds of the histogram of resolution times: from a hub next door to retransmissions.
_LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: What a request carries, in the default routing instance and in a VPN.
_EXTENSIONS: Final = (ResponderAddress(), ForwardTransitRecord(), ReverseTransitRecord())
_VPN_EXTENSIONS: Final = (*_EXTENSIONS, DeviceCapabilities(VPN_AWARE, 0))


#: Whether an answer takes the place of the binding that it was to renew.
Judge = Callable[[Binding, Outcome], bool]


@dataclass(slots=True)
class _Question:
    """An address that is being asked for."""

    request_id: int
    renewed: bytes | None
    """Key of the binding that is to be replaced by the answer; None if there is none."""
    done: list[Callable[[Binding], None]]
    """Whoever waits for the outcome."""
    asked: float
    """When, by the clock."""
    server: bytes
    """NBMA address of who is asked."""
    judge: Judge | None
    """Who decides about the answer; None: it is believed."""


@implementer(ICacheListener)
class ResolutionClient:
    """Fills the cache of one VPN with answers, and empties it when a server says so.

    :param jitter: uniform in [0, 1).
    :param station: our protocol address.
    :param vni: our own VNI; None where the overlay is not VXLAN. An answer that names our own VTEP
        is negative: a bridge floods us frames for its own side, too.
    :param servers: the path from our NBMA address to the server to ask for an address now; None
        if no server would answer.
    :param on_renewal_due: called with the key of a binding when two thirds of its lifetime have
        passed; :meth:`renew` it if it is in use, else it will expire.
    :ivar mtu: of our data interface in octets; may be changed.
    :param capabilities: whether requests say that we are VPN-aware (RFC 2735 §3.3).
    :param seen_as: our NBMA addresses as servers see them from outside of address translation.
    :param nat_extension: whether the server at an NBMA address is asked for translated addresses.
    :param limit: addresses being asked for at most.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        jitter: Callable[[], float],
        cache: Cache,
        outstanding: Outstanding,
        link: ILink,
        station: bytes,
        vni: int | None,
        mtu: int,
        metrics: Metrics,
        servers: Callable[[bytes], Path | None],
        on_renewal_due: Callable[[bytes], None],
        capabilities: bool = True,
        seen_as: Callable[[], Collection[bytes]] = tuple,
        nat_extension: Callable[[bytes], bool] = lambda nbma: False,
        limit: int = LIMIT,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._cache = cache
        self._outstanding = outstanding
        self._link = link
        self._station = station
        self._vni = vni
        self.mtu = mtu
        self._capabilities = capabilities
        self._seen_as = seen_as
        self._nat_extension = nat_extension
        self._servers = servers
        self._reader = AnswerReader(clock, vni, seen_as)
        self._on_renewal_due = on_renewal_due
        self._limit = limit
        self._questions: dict[bytes, _Question] = {}
        self._renewals = Deadlines(clock, self._renewal_due)
        #: When the renewal of a cached binding is due, by its key.
        self._due: dict[bytes, float] = {}
        #: The address that was asked for when a prefix was the answer, by its key.
        self._asked_for: dict[bytes, bytes] = {}
        self._asked = metrics.counter("resolutions_asked")
        self._not_asked: dict[Kind, Counter] = {
            kind: metrics.counter("resolutions_not_asked", reason=kind.name.lower())
            for kind in Kind
        }
        self._full = metrics.counter("resolutions_not_asked", reason="full")
        self._no_server = metrics.counter("resolutions_not_asked", reason="no_server")
        self._group = metrics.counter("resolutions_not_asked", reason="no_station")
        self._answers = {
            outcome: metrics.counter("resolutions_answered", outcome=outcome)
            for outcome in ("cached", "negative", "error", "timeout")
        }
        self._latency = metrics.histogram("resolution_seconds", _LATENCIES)
        cache.subscribe(self)

    # --- asking -----------------------------------------------------------------------------

    def resolve(self, protocol: bytes, on_done: Callable[[Binding], None] | None = None) -> bool:
        """Ask where an address lives, unless that is known, being asked or was refused just now.

        :param on_done: called once with the outcome, at once if it is there already. It may be a
            negative binding that never was in the cache, when nobody could be asked.
        :return: whether a request went out.
        """
        binding = self._known(protocol)
        if binding is not None:
            self._not_asked[binding.kind].inc()
            if on_done is None:
                pass
            elif binding.kind is Kind.INCOMPLETE:
                self._questions[protocol].done.append(on_done)
            else:
                on_done(binding)
            return False
        if len(protocol) == MAC_LENGTH and not is_station_mac(protocol):
            self._group.inc()
            return self._unasked(protocol, on_done)
        if len(self._questions) >= self._limit or self._outstanding.full:
            self._full.inc()
            return self._unasked(protocol, on_done)
        path = self._servers(protocol)
        if path is None:
            self._no_server.inc()
            # So that the misses of every frame meanwhile do not all end here.
            self._cache.put(self._negative(protocol, _PAUSE))
            return self._unasked(protocol, on_done)
        if not self._cache.put(Binding(protocol, None, Kind.INCOMPLETE, 0, None)):
            return self._unasked(protocol, on_done)
        self._ask(protocol, [] if on_done is None else [on_done], path)
        return True

    def _known(self, protocol: bytes) -> Binding | None:
        """What is known of an address, by its own binding or that of a prefix."""
        binding = self._cache.lookup(protocol)
        if binding is None:
            for key in self._cache.index.covering(protocol):
                around = self._cache.lookup(key)
                if around is not None and around.kind >= Kind.CACHED:
                    return around
        return binding

    @property
    def asking(self) -> int:
        """How many addresses are being asked for."""
        return len(self._questions)

    def renew(self, key: bytes, judge: Judge | None = None) -> None:
        """Ask again for an address or prefix while its shortcut stays, unless that is under way at
        the same server.

        :param judge: decides about the answer: what it does not believe changes nothing. Without
            an answer it is not asked. None: any answer is believed.
        """
        binding = self._cache.lookup(key)
        protocol = self._asked_for.get(key, key)
        if binding is None or binding.kind is not Kind.CACHED:
            return
        path = self._servers(protocol)
        question = self._questions.get(protocol)
        if path is None or (question is not None and question.server == path.peer):
            return
        if len(self._questions) >= self._limit or self._outstanding.full:
            self._full.inc()
            return
        self._ask(protocol, [], path, key, judge)

    def adopt(self, protocol: bytes, vtep: VTEP) -> None:
        """Take up a shortcut of an earlier run: as if cached, and soon due for renewal."""
        now = self._clock.seconds()
        if self._cache.put(Binding(protocol, vtep, Kind.CACHED, _ADOPTED, now + _ADOPTED)):
            self._due[protocol] = due = now + _ADOPTION_SPREAD * self._jitter()
            self._renewals.set(protocol, due)

    def reject(self, protocol: bytes) -> None:
        """Take an answer that turned out to be of no use for a refusal."""
        if self._is_ours(protocol):
            self._cache.put(self._negative(protocol, _NEGATIVE), overrule=True)

    def forget_negatives(self) -> None:
        """Let every refused address be asked for again."""
        self._cache.remove_if(lambda binding: binding.kind is Kind.NEGATIVE, "flushed")

    def close(self) -> None:
        """Ask no more; whoever waits for an outcome is not called."""
        self._cache.unsubscribe(self)
        for question in self._questions.values():
            self._outstanding.cancel(question.request_id)
        self._questions.clear()
        self._renewals.close()
        self._due.clear()

    def _unasked(self, protocol: bytes, on_done: Callable[[Binding], None] | None) -> bool:
        if on_done is not None:
            on_done(self._negative(protocol, _PAUSE))
        return False

    def _ask(
        self,
        protocol: bytes,
        done: list[Callable[[Binding], None]],
        path: Path,
        renewed: bytes | None = None,
        judge: Judge | None = None,
    ) -> None:
        """Send a request. If one is under way, for a renewal of what has run out by now, for an
        answer that may be the one that was taken back, or to another server, this one replaces
        it."""
        earlier = self._questions.get(protocol)
        if earlier is not None:
            self._outstanding.cancel(earlier.request_id)
            done = earlier.done + done
        self._asked.inc()
        request_id = self._outstanding.send(
            lambda request_id: self._make_request(protocol, request_id, path),
            self._link,
            path,
            delays=_DELAYS,
            on_reply=lambda packet, path: self._replied(protocol, packet, path.peer),
            on_error=lambda code, path: self._failed(protocol, code),
            on_timeout=lambda: self._timed_out(protocol),
        )
        assert request_id is not None, "the caller has looked for room"
        now = self._clock.seconds()
        question = _Question(request_id, renewed, done, now, path.peer, judge)
        self._questions[protocol] = question

    def _make_request(self, protocol: bytes, request_id: int, path: Path) -> ResolutionRequest:
        """Authoritative answers only, so that no server that knows nothing of VPNs answers from
        its cache (RFC 2735 §3.3)."""
        flags = ResolutionFlag.Q | ResolutionFlag.A
        extensions: tuple[Extension, ...] = _VPN_EXTENSIONS if self._capabilities else _EXTENSIONS
        if self._nat_extension(path.peer):
            flags |= ResolutionFlag.NAT
            ours = next(iter(self._seen_as()), b"")
            extensions = (*extensions, nat_address(ours, self._station, self.mtu))
        return ResolutionRequest(
            source_nbma=path.local,
            source_subaddress=encode_vni(self._vni),
            source_protocol=self._station,
            destination_protocol=protocol,
            protocol_type=protocol_type_of(protocol),
            flags=flags,
            request_id=request_id,
            cies=(CIE(prefix_length=EXACT_PREFIX, mtu=self.mtu),),
            extensions=extensions,
        )

    def enquire(self, protocol: bytes, on_said: Callable[[Said], None]) -> None:
        """Ask what the server says about an address, and leave everything here as it is.

        :param on_said: called once, at once if nobody can be asked.
        """
        path = self._servers(protocol)
        if path is None or self._outstanding.full:
            on_said(Said(b"", None, "no hub can be asked"))
            return
        server = path.peer

        self._outstanding.send(
            lambda request_id: self._make_request(protocol, request_id, path),
            self._link,
            path,
            delays=_ENQUIRY,
            on_reply=lambda packet, _: on_said(said(packet, server)),
            on_error=lambda code, _: on_said(
                Said(server, None, UNKNOWN if code == ErrorCode.UNREACHABLE else describe(code))
            ),
            on_timeout=lambda: on_said(Said(server, None, "no answer")),
        )

    # --- answers ----------------------------------------------------------------------------

    def _replied(self, protocol: bytes, packet: RequestOrReply, server: bytes) -> None:
        self._latency.observe(self._clock.seconds() - self._questions[protocol].asked)
        best = self._reader.best(protocol, packet, server)
        if best is not None:
            self._answers["cached"].inc()
            self._settle(protocol, best, Outcome.CACHED)
            return
        self._answers["negative"].inc()
        if code := refused_with(packet.cies):
            self._refuse(protocol, is_unknown(code))
        else:
            # Nothing that we could use; when that changes, the server will purge its answer.
            stated = max([cie.holding_time for cie in packet.cies], default=0)
            pause = min(_NEGATIVE, max(_PAUSE, stated))
            self._settle(protocol, self._negative(protocol, pause), Outcome.UNUSABLE)

    def _failed(self, protocol: bytes, code: int) -> None:
        self._answers["error"].inc()
        self._refuse(protocol, code == ErrorCode.UNREACHABLE)

    def _refuse(self, protocol: bytes, unknown: bool) -> None:
        pause = _UNKNOWN_MAC if unknown and len(protocol) == MAC_LENGTH else _NEGATIVE
        outcome = Outcome.UNKNOWN if unknown else Outcome.REFUSED
        self._settle(protocol, self._negative(protocol, pause), outcome)

    def _timed_out(self, protocol: bytes) -> None:
        self._answers["timeout"].inc()
        renewed = self._questions[protocol].renewed
        if renewed is not None and self._cache.lookup(renewed) is not None:
            # A renewal: what we have is true until it expires.
            del self._questions[protocol]
            return
        self._settle(protocol, self._negative(protocol, _PAUSE), Outcome.UNKNOWN)

    def _settle(self, protocol: bytes, answer: Binding, outcome: Outcome) -> None:
        """The question has an answer, which may be about more than the address."""
        question = self._questions.pop(protocol)
        if question.judge is not None and not question.judge(answer, outcome):
            return
        key = answer.key
        for replaced in (protocol, question.renewed or key):
            if replaced != key and self._is_ours(replaced):
                self._cache.remove(replaced, "replaced")
        if key != protocol:
            self._asked_for[key] = protocol
        self._cache.put(answer, overrule=self._is_ours(key))
        for on_done in question.done:
            on_done(answer)

    def _is_ours(self, key: bytes) -> bool:
        """Whether what is cached came from a server, so that its newer word replaces it."""
        binding = self._cache.lookup(key)
        return binding is not None and binding.kind <= Kind.CACHED

    def _negative(self, protocol: bytes, pause: int) -> Binding:
        return Binding(protocol, None, Kind.NEGATIVE, pause, self._clock.seconds() + pause)

    # --- purges -----------------------------------------------------------------------------

    def purge_received(self, packet: PurgeRequest, path: Path) -> bool:
        """Forget what a server takes back (RFC 2332 §5.2.5), and say so unless it does not care.

        :return: True: whatever it names, a purge that reaches us concerns us.
        :raises NHRPError: for a compulsory extension that we do not know.
        """
        check_extensions(packet)
        self.take_back(packet)
        if not packet.flags & PurgeFlag.N:
            self._link.send(packet.reply(), path)
        return True

    def take_back(self, packet: PurgeRequest) -> None:
        """Forget the answers that a Purge Request names."""
        # An answer that is on its way may be the one that is taken back. Asked for once, however
        # often the packet names it.
        asked: dict[bytes, None] = {}
        for cie in packet.cies:
            for binding in self._named(cie):
                if binding.kind is Kind.INCOMPLETE:
                    asked[binding.protocol] = None
                elif binding.kind <= Kind.CACHED and names(cie, binding):
                    self._cache.remove(binding.key, "purged")
        for protocol in asked:
            server = self._servers(protocol)
            if server is not None:
                self._ask(protocol, [], server)

    def _named(self, cie: CIE) -> list[Binding]:
        """The bindings in the set of addresses that a CIE names, or around a single one."""
        protocol = cie.protocol
        if len(protocol) != len(self._station):
            return []
        prefix_length = significant(cie.prefix_length, len(protocol))
        if prefix_length < 8 * len(protocol):
            return self._cache.inside(protocol, prefix_length)
        # The answer about an address may have been that of a prefix around it.
        keys = (protocol, *self._cache.index.covering(protocol))
        return self._cache.standing(keys)

    # --- the cache's word (ICacheListener) ----------------------------------------------------

    def binding_added(self, binding: Binding) -> None:
        """A new answer will want renewal."""
        if binding.kind is Kind.CACHED and binding.expires is not None:
            due = binding.expires - (1 - _RENEWAL) * binding.holding_time
            self._due[binding.key] = due
            self._renewals.set(binding.key, due)

    def binding_changed(self, old: Binding, new: Binding) -> None:
        """The same for a newer answer."""
        self._due.pop(new.key, None)
        if new.kind > Kind.CACHED:
            self._drop(new)
        self.binding_added(new)

    def binding_removed(self, binding: Binding, reason: str) -> None:
        """Whoever took it away does not want the answer that may be on its way."""
        self._due.pop(binding.key, None)
        self._renewals.discard(binding.key)
        self._drop(self._negative(self._asked_for.pop(binding.key, binding.protocol), _PAUSE))

    def _drop(self, outcome: Binding) -> None:
        """Nobody needs an answer any more."""
        question = self._questions.pop(outcome.protocol, None)
        if question is not None:
            self._outstanding.cancel(question.request_id)
            for on_done in question.done:
                on_done(outcome)

    def _renewal_due(self, key: bytes) -> float | None:
        due = self._due.get(key)
        if due is None or due > self._clock.seconds():
            return due
        del self._due[key]
        self._on_renewal_due(key)
        return None
