"""Taking a hub out of service without losing a frame. Layer: role.

A hub that is drained asks each client, by a Purge Request of its registration (RFC 2332 §5.2.5)
that wants a reply, to go elsewhere. A spoke that another hub has registered floods by that one
from now on, and withdraws its registration; one that knows no other hub registers again, and is
let stay. Whoever has left may not come back, and stays a member in the switch: others may still
flood by us, and their frames are for all. (Where hubs send each other what is flooded, that is
until its other hub knows that it has left.) When nobody is registered any more, and what was under
way has arrived, the hub is drained: it may be stopped and taken away.

It ends with the daemon: the next one serves, and calls back those who had left, as far as it knows
them (see :mod:`dmevpn.roles.recollection`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.log import Logger
from dmevpn.nhrp.constants import CIECode
from dmevpn.roles.turns import Turns

if TYPE_CHECKING:
    from dmevpn.roles.admission import Admission
    from dmevpn.roles.hub_vpn import HubVPN

__all__ = ["LINGER", "SETTLE", "Drain"]

#: Seconds that the last client has been away before the hub counts as drained: as long as frames
#: that it sent before may be under way.
SETTLE: Final = 1.0
#: Seconds after the beginning at which whoever is still there is asked again. Clients that know no
#: other hub register again each time, so it is not done for ever.
_ASKED_AGAIN: Final = (5.0, 15.0)
#: Seconds after the end of a drain at which those who have not come back are called once more: one
#: that has not heard it tries again by itself, but after 30 to 90 s.
_CALLED_AGAIN: Final = (2.5, 10.0)
#: Seconds between two looks at who is left.
_LOOK: Final = 0.25
#: Seconds after the end of a drain, at most, for which those who had left stay members: by then
#: every one of them has tried to register again.
LINGER: Final = 120.0


@implementer(IRegistrationPolicy)
class Drain:
    """Whether one hub is drained, and how far that is.

    :ivar active: whether it is drained, or being so.
    :ivar drained: whether nobody is left.
    :param vpns: the hub's, by index; it may change.
    :param admission: who may register; it asks us first while the hub is drained.
    :param note: told ``drain``, ``drained`` and ``undrained``, with a detail.
    """

    log = Logger()

    def __init__(
        self,
        *,
        interface: str,
        vpns: dict[int, HubVPN],
        admission: Admission,
        clock: IReactorTime,
        turns: Turns,
        note: Callable[[str, str], None],
    ) -> None:
        self.active = False
        self.drained = False
        self._interface = interface
        self._vpns = vpns
        self._admission = admission
        self._then = admission.then
        self._clock = clock
        self._turns = turns
        self._note = note
        self._since = 0.0
        #: Since when nobody has been left; None: somebody is.
        self._empty_since: float | None = None
        self._rounds: list[float] = []
        #: Sites whose other hubs know that they have left us, by VPN and VTEP, and from when on we
        #: need not give them anything. Some of those that linger.
        self._known_to_have_left: dict[tuple[int, VTEP], float] = {}
        self._call: IDelayedCall | None = None
        #: When those who had left are called, and until when they stay members; then it is over.
        self._calls_due: list[float] = []
        self._lingering_until = 0.0
        self._end: IDelayedCall | None = None
        self._waiting: list[Deferred[bool]] = []

    # --- what operators ask -----------------------------------------------------------------

    @property
    def state(self) -> str:
        """``serving``, ``draining`` or ``drained``."""
        if not self.active:
            return "serving"
        return "drained" if self.drained else "draining"

    @property
    def since(self) -> float | None:
        """When it began, on the clock; None: it has not."""
        return self._since if self.active else None

    @property
    def registered(self) -> int:
        """Sites that still flood by this hub, or may."""
        return sum(vpn.sites for vpn in self._vpns.values())

    @property
    def left(self) -> int:
        """Sites that have left, and that frames are still delivered to."""
        return sum(len(vpn.lingering) for vpn in self._vpns.values())

    def begin(self) -> None:
        """Ask all clients to leave, and admit nobody who has. Again: ask those who are left."""
        now = self._clock.seconds()
        if not self.active:
            self._stop_lingering()
            self.active, self.drained, self._empty_since = True, False, None
            self._since = now
            self._admission.then = self
            for vpn in self._vpns.values():
                vpn.lingering.open = True
            self._note("drain", f"{self.registered} members are asked to leave")
            self.log.info("{ifname}: draining", ifname=self._interface)
        if not self.drained:
            self._rounds = [now, *(now + each for each in _ASKED_AGAIN)]
            self._look()

    def end(self) -> None:
        """Serve again, and tell those who had left."""
        if not self.active:
            return
        self._close()
        self.active = self.drained = False
        self._admission.then = self._then
        self.log.info("{ifname}: serving again", ifname=self._interface)
        self.call_back()

    def call_back(self) -> None:
        """Tell those who have left that they may come back, and give up after a while."""
        self._note("undrained", f"{self.left} members may come back")
        now = self._clock.seconds()
        self._calls_due = [now, *(now + each for each in _CALLED_AGAIN)]
        self._lingering_until = now + LINGER
        self._call_round()

    def _call_round(self) -> None:
        self._end = None
        now = self._clock.seconds()
        if now >= self._lingering_until:
            self._stop_lingering()
            return
        if self._calls_due and now >= self._calls_due[0]:
            del self._calls_due[0]
            self._turns.run(self._calling())
        due = self._calls_due[0] if self._calls_due else self._lingering_until
        self._end = self._clock.callLater(due - now, self._call_round)

    def _calling(self) -> Iterator[None]:
        for vpn in list(self._vpns.values()):
            yield from vpn.lingering.call_back()

    def wait(self, seconds: float) -> Deferred[bool]:
        """Whether the hub is drained, once it is or when this time is over."""
        waiting: Deferred[bool] = Deferred()
        if self.drained or not self.active:
            waiting.callback(self.drained)
            return waiting
        self._waiting.append(waiting)
        call = self._clock.callLater(seconds, self._tell, waiting)

        def told(result: bool) -> bool:
            if call.active():
                call.cancel()
            return result

        return waiting.addCallback(told)

    def close(self) -> None:
        """The hub stops: no timer is left."""
        self._close()
        if self._end is not None:
            self._end.cancel()
            self._end = None

    # --- who may register (IRegistrationPolicy) ---------------------------------------------

    def decide(self, claim: Claim) -> int:
        """Refuse whoever is not registered, and is no hub."""
        vpn, _, vtep = claim[:3]
        hub = self._vpns.get(vpn)
        if hub is None or not (claim.renews or vtep in hub.trunks.vteps):
            if hub is not None and hub.trunks.vteps and vtep in hub.lingering:
                # Its other hub hears of it now, and gives it what is flooded by us from then on.
                self._known_to_have_left.setdefault((vpn, vtep), self._clock.seconds() + SETTLE)
            return CIECode.PROHIBITED
        code: int = self._then.decide(claim)
        return code

    # --- how it goes on ---------------------------------------------------------------------

    def _look(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        now = self._clock.seconds()
        if self._rounds and now >= self._rounds[0]:
            del self._rounds[0]
            self._turns.run(self._ask())
        for site in [site for site, due in self._known_to_have_left.items() if now >= due]:
            del self._known_to_have_left[site]
            vpn, vtep = site
            if vpn in self._vpns:
                self._vpns[vpn].lingering.let_go(vtep)
        if self.registered:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since >= SETTLE:
            self._finish()
            return
        self._call = self._clock.callLater(_LOOK, self._look)

    def _ask(self) -> Iterator[None]:
        for vpn in list(self._vpns.values()):
            yield from vpn.recall()

    def _finish(self) -> None:
        self.drained = True
        self._note("drained", f"{self.left} members have left")
        self.log.info("{ifname}: drained, nobody floods by it", ifname=self._interface)
        for waiting in list(self._waiting):
            self._tell(waiting)

    def _tell(self, waiting: Deferred[bool]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            waiting.callback(self.drained)

    def _stop_lingering(self) -> None:
        if self._end is not None and self._end.active():
            self._end.cancel()
        self._end = None
        for vpn in self._vpns.values():
            vpn.lingering.end()

    def _close(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._rounds.clear()
        self._known_to_have_left.clear()
        for waiting in list(self._waiting):
            self._tell(waiting)
