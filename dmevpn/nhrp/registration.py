"""Registration of our station with one server (RFC 2332 §5.2.3). Layer: core.

What moves the state is in one table, :data:`TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dmevpn.addresses import VTEP, Path, format_address
from dmevpn.interfaces import ILink
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode, PurgeFlag
from dmevpn.nhrp.extensions import ResponderAddress
from dmevpn.nhrp.indication import describe
from dmevpn.nhrp.nat import outer_address
from dmevpn.nhrp.packet import PurgeRequest, RegistrationRequest, RequestOrReply
from dmevpn.nhrp.records import refusal, refused_with
from dmevpn.nhrp.registration_pauses import AFTER_CONFLICT, NO_ROOM, Pauses
from dmevpn.nhrp.registration_state import TRANSITIONS, Input, State
from dmevpn.nhrp.registration_terms import Terms
from dmevpn.nhrp.requests import Backoff, Outstanding

__all__ = ["DOWN_AFTER", "TRANSITIONS", "Input", "RegistrationClient", "State"]

#: Gaps between transmissions, in seconds: doubling up to the longest, without end.
_RETRANSMISSION = Backoff(1.0, 64.0)
#: How much of a gap chance may add or take away, so that clients of a dead hub do not march.
_SPREAD: Final = 0.1
#: Transmissions without a reply after which the server counts as down.
DOWN_AFTER: Final = 3
#: Gaps between the transmissions of a purge by which we leave a server that wants to be left.
_LEAVING: Final = (0.5, 1.0, 2.0)
#: Seconds after a reply for which a registration is not doubted.
_CERTAIN: Final = 60.0
#: Seconds for which what we said of our other servers before may still be on its way.
_LATE: Final = 10.0


class RegistrationClient:
    """Keeps one station registered with one server.

    :ivar path: to the server.
    :ivar nhs: its NBMA address.
    :ivar state: see :class:`State`.
    :ivar expires: when the binding at the server runs out, on the clock; None without one.
    :ivar renew_at: when it will next be renewed or asked for again; None while being asked for.
    :ivar last_error: why the latest request failed, or None.
    :ivar seen_as: our NBMA address as the server sees it from outside of an address translation;
        empty if there is none, or if it has not said so.
    :ivar server: the server's protocol address, as far as it has told us; else empty.
    :ivar told: the other servers of our station that this one knows of; see :meth:`set_others`.
    :param jitter: uniform in [0, 1).
    :param station: this and what is not named here: see :class:`Terms`.
    :param on_change: called after each change of the state, and also when the state stays but
        :attr:`usable` has changed, since the binding has run out, or :attr:`told` or :attr:`there`
        has.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        jitter: Callable[[], float],
        outstanding: Outstanding,
        link: ILink,
        path: Path,
        station: bytes,
        vtep: VTEP,
        holding_time: int,
        mtu: int,
        metrics: Metrics,
        on_change: Callable[[RegistrationClient, State, State], None],
        destination: bytes = b"",
        unique: bool = True,
        keeps_id: bool = False,
        nat_extension: bool = False,
    ) -> None:
        self.path = path
        self.nhs = path.peer
        self.state = State.IDLE
        self.expires: float | None = None
        self.renew_at: float | None = None
        self.last_error: str | None = None
        self.seen_as = b""
        self.server = b""
        self.told: tuple[bytes, ...] = ()
        self._clock = clock
        self._pauses = Pauses(jitter)
        self._outstanding = outstanding
        self._link = link
        self._terms = Terms(
            nhs=path.peer,
            station=station,
            vtep=vtep,
            holding_time=holding_time,
            mtu=mtu,
            destination=destination,
            unique=unique,
            keeps_id=keeps_id,
            nat_extension=nat_extension,
        )
        #: The same as the latest request says.
        self._said = self._terms
        self._others_since = float("-inf")
        #: Whether to say it once more after the request under way.
        self._again = False
        #: Of all our requests, where one is kept.
        self._kept_id: int | None = None
        self._on_change = on_change
        self._request_id: int | None = None
        #: When the server last accepted.
        self._confirmed = float("-inf")
        self._conflict = False
        #: Whether the server has taken our binding back, and we have not asked it again so far.
        self._revoked_since = False
        self._timer: IDelayedCall | None = None
        self._expiry: IDelayedCall | None = None
        self._downs = metrics.counter("registrations_down")
        self._refusals = metrics.counter("registrations_refused")

    @property
    def usable(self) -> bool:
        """Whether the server still has our binding, as far as we know."""
        return self.expires is not None and self.expires > self._clock.seconds()

    @property
    def there(self) -> bool:
        """Whether the server has our binding, or may have it in a moment."""
        return self.state is State.REGISTERED or (
            self.state is State.REGISTERING and not self._revoked_since
        )

    def verify(self, certain: float = _CERTAIN) -> None:
        """Renew now, if the latest reply is older than ``certain`` seconds: the server may have
        lost our binding with its power, or be gone, and the next renewal may be far away."""
        if (
            self.state is State.REGISTERED
            and self._request_id is None
            and self._clock.seconds() - self._confirmed >= certain
        ):
            self.renew()

    # --- what the owner does --------------------------------------------------------------

    def start(self) -> None:
        """Register."""
        self._move(Input.START, self._ask)

    def renew(self) -> None:
        """Register again now, whatever is under way."""
        self._move(Input.RENEW, self._ask)

    def set_holding_time(self, seconds: int) -> None:
        """Ask for another holding time from now on, and if it differs, at once."""
        self._change(replace(self._terms, holding_time=seconds))

    def set_mtu(self, mtu: int) -> None:
        """State another MTU from now on, and if it differs, at once."""
        self._change(replace(self._terms, mtu=mtu))

    def set_terms(self, *, unique: bool, keeps_id: bool, nat_extension: bool) -> None:
        """Register on other terms from now on, and if they differ, at once."""
        self._change(
            replace(self._terms, unique=unique, keeps_id=keeps_id, nat_extension=nat_extension)
        )

    def _change(self, terms: Terms) -> None:
        if terms != self._terms:
            self._terms = terms
            self.renew()

    def set_others(self, others: tuple[bytes, ...], *, leave: bool) -> None:
        """Tell the server that our station is registered with others, too, and if that is news,
        at once.

        :param others: their underlay addresses.
        :param leave: whether what still others flood comes to us by one of them.
        """
        terms = replace(self._terms, others=others, leave=leave)
        if terms != self._terms:
            self._terms = terms
            self._others_since = self._clock.seconds()
            if self.state is State.REGISTERED:
                self.renew()

    def late_reply(self, path: Path) -> None:
        """A reply came to none of our requests under way: one of before may have been repeated on
        the way, and heeded after the latest. If it said something else, say again what is true."""
        if path.peer != self.nhs or self._clock.seconds() - self._others_since >= _LATE:
            return
        if self.state is State.REGISTERED and self._request_id is None:
            self.renew()
        else:
            self._again = True

    def stop(self) -> None:
        """Take our binding back from the server, as far as it has one, and be silent."""
        self._move(Input.STOP, self._end)

    def recall(self, until: float, seen_as: bytes, request_id: int | None) -> None:
        """Have what an earlier run had: the server may be asked things while we make sure of it.

        Before :meth:`start`.

        :param until: when the binding at the server runs out, on the clock.
        :param request_id: of all requests, where one is kept.
        """
        left = until - self._clock.seconds()
        if left > 0:
            self.expires = until
            self.seen_as = seen_as
            self._pauses.served()
            self._expiry = self._clock.callLater(left, self._expired)
            if self._terms.keeps_id:
                self._kept_id = request_id

    @property
    def kept_id(self) -> int | None:
        """The request ID of all our requests, where one is kept."""
        return self._kept_id

    def hand_over(self) -> None:
        """Be silent, and leave our binding at the server to a successor."""
        self._rest()
        self._forget()
        self.state = State.IDLE

    def purge_received(self, packet: PurgeRequest, path: Path, *, leave: bool = False) -> None:
        """A Purge Request arrived: if our server takes our own binding back, register anew.

        Nobody else may; that the address is forged costs us one registration.

        :param leave: whether to take the binding back ourselves first, since another server has it,
            too, and this one may want to be left. Whether it does, it says to our next request.
        """
        if path.peer == self.nhs and any(
            cie.protocol == self._terms.station for cie in packet.cies
        ):
            self._move(Input.REVOKE, self._leave if leave else self._revoked)

    def silent(self) -> None:
        """The server does not answer, as somebody else has found out: ask until it does."""
        self._move(Input.SILENCE, self._unheard)

    def probe(
        self, patience: float, on_answer: Callable[[], None], on_error: Callable[[], None]
    ) -> None:
        """Ask for a sign of life, by a Purge Request that names nothing.

        :param patience: seconds for which an answer is one.
        :param on_answer: called if there is one.
        :param on_error: called if it is an Error Indication.
        """
        self._outstanding.send(
            partial(self._terms.purge, flags=0, cies=()),
            self._link,
            self.path,
            delays=(patience,),
            on_reply=lambda packet, path: on_answer(),
            on_error=lambda code, path: on_error(),
        )

    # --- what the server does -------------------------------------------------------------

    def _replied(self, packet: RequestOrReply, path: Path) -> None:
        self._request_id = None
        self._note_translation(outer_address(packet, self._terms.station))
        code = refused_with(packet.cies)
        if code == CIECode.SUCCESS:
            responder = packet.extension(ResponderAddress)
            if responder is not None and responder.cies:
                self.server = responder.cies[0].protocol
            granted = min([cie.holding_time for cie in packet.cies if cie.holding_time] or [0])
            self._move(Input.ACK, lambda: self._accepted(granted or self._terms.holding_time))
        elif code == CIECode.ALREADY_REGISTERED and not self._conflict:
            self._move(Input.CONFLICT, self._purge_and_retry)
        else:
            self._move(Input.NAK, lambda: self._refused(code))

    def _note_translation(self, seen_as: bytes) -> None:
        if seen_as == self._terms.vtep.nbma:
            seen_as = b""
        if seen_as != self.seen_as:
            self.seen_as = seen_as
            self.log.info(
                "{nbma} sees {own} as {seen_as}",
                nbma=format_address(self.nhs),
                own=format_address(self._terms.vtep.nbma),
                seen_as=format_address(seen_as or self._terms.vtep.nbma),
            )

    def _failed(self, code: int, path: Path) -> None:
        self._request_id = None
        self._move(Input.ERROR, lambda: self._erred(code))

    def _unanswered(self, transmissions: int) -> None:
        if transmissions >= DOWN_AFTER:
            self._move(Input.SILENCE, self._silent)

    # --- effects --------------------------------------------------------------------------

    def _move(self, event: Input, effect: Callable[[], None]) -> None:
        """Take an input: the effect, then the owner is told."""
        old = self.state
        new = TRANSITIONS.get((old, event))
        if new is None:
            return
        there, told = self.there, self.told
        self.state = new
        effect()
        changed = new is not old or self.there is not there or self.told != told
        if changed or event is Input.EXPIRE:
            self._on_change(self, old, new)

    def _ask(self) -> None:
        self._revoked_since = False
        self._rest()
        request_id = self._outstanding.send(
            self._make_request,
            self._link,
            self.path,
            delays=_RETRANSMISSION,
            spread=_SPREAD,
            on_reply=self._replied,
            on_error=self._failed,
            on_unanswered=self._unanswered,
            request_id=self._kept_id,
        )
        if request_id is None:
            self._wait(NO_ROOM, Input.RENEW)
            return
        self._request_id = request_id
        if self._terms.keeps_id:
            self._kept_id = request_id

    def _accepted(self, holding_time: int) -> None:
        self.told = self._said.others
        now = self._confirmed = self._clock.seconds()
        self.expires = now + holding_time
        self.last_error = None
        self._conflict = False
        self._pauses.served()
        if self._expiry is None:
            self._expiry = self._clock.callLater(holding_time, self._expired)
        else:
            self._expiry.reset(holding_time)
        self._wait(self._pauses.before_renewal(holding_time), Input.RENEW)
        if self._said != self._terms or self._again:
            self._again = False
            self.renew()

    def _purge_and_retry(self) -> None:
        """Our address is registered at another VTEP: ours of long ago, before we moved."""
        self._conflict = True
        self._forget()
        self._say("registered at another VTEP")
        self._purge()
        self._wait(AFTER_CONFLICT, Input.RETRY)

    def _revoked(self) -> None:
        self._revoked_since = True
        self._rest()
        self._forget()
        self._say("taken back by the server")
        self._wait(self._pauses.after_revocation(), Input.RETRY)

    def _leave(self) -> None:
        self._rest()
        self._forget()
        self._say("asked to leave")
        self._request_id = self._outstanding.send(
            partial(self._terms.purge, flags=0, cies=self._terms.own),
            self._link,
            self.path,
            delays=_LEAVING,
            on_reply=lambda packet, path: self._left(),
            on_error=lambda code, path: self._left(),
            on_timeout=self._left,
        )
        if self._request_id is None:
            self._left()

    def _left(self) -> None:
        self._request_id = None
        self._wait(self._pauses.after_leaving(), Input.RETRY)

    def _refused(self, code: int) -> None:
        if code == CIECode.ALREADY_REGISTERED:
            self._forget()
        self._conflict = False
        self._refusals.inc()
        self._say(refusal(code))
        self._wait(self._pauses.after_refusal(), Input.RETRY)

    def _erred(self, code: int) -> None:
        self._refusals.inc()
        self._say(describe(code))
        self._wait(self._pauses.after_error(code), Input.RETRY)

    def _silent(self) -> None:
        if self.last_error != "no answer":
            self._downs.inc()
            self._say("no answer")

    def _unheard(self) -> None:
        self._silent()
        if self._request_id is None:
            self._ask()

    def _expired(self) -> None:
        self._expiry = None

        def forget() -> None:
            self.expires = None

        self._move(Input.EXPIRE, forget)

    def _end(self) -> None:
        # A request under way may have been heeded, though we shall never hear of it.
        under_way = self._request_id is not None
        self._rest()
        if self.usable or under_way:
            self._purge()
        self._forget()
        self._conflict = False
        self.last_error = None

    # --- means ----------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing under way, nothing planned."""
        self.renew_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._request_id is not None:
            self._outstanding.cancel(self._request_id)
            self._request_id = None

    def _forget(self) -> None:
        """The server has no binding of ours any more."""
        self.expires = None
        self.told = ()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _wait(self, delay: float, event: Input) -> None:
        self.renew_at = self._clock.seconds() + delay
        self._timer = self._clock.callLater(delay, self._wake, event)

    def _wake(self, event: Input) -> None:
        self._timer = None
        self._move(event, self._ask)

    def _say(self, reason: str) -> None:
        self.last_error = reason
        self.log.warn(
            "station {mac} is not registered with {nbma}: {reason}",
            mac=format_address(self._terms.station),
            nbma=format_address(self.nhs),
            reason=reason,
        )

    def _purge(self) -> None:
        make = partial(self._terms.purge, flags=PurgeFlag.N, cies=self._terms.own)
        self._outstanding.send_once(make, self._link, self.path, self._kept_id)

    def _make_request(self, request_id: int) -> RegistrationRequest:
        self._said = self._terms
        return self._terms.request(request_id)
