"""Lets the operator's script refuse registrations. Layer: role.

The server decides about a registration at once, and a script takes its time. So the request waits
outside of the server, and is handed in again when the script has spoken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VTEP, Path
from dmevpn.errors import NHRPError
from dmevpn.interfaces import Claim, IRegistrationPolicy
from dmevpn.metrics import Metrics
from dmevpn.nhrp.constants import CIECode
from dmevpn.nhrp.packet import RegistrationRequest
from dmevpn.roles.script_events import StationEvents, Subject

__all__ = ["MOST_HELD", "RegistrationGate"]

#: Requests that wait for the script. Whoever finds no room is told that there are no resources,
#: and asks again.
MOST_HELD: Final = 256

_Verdicts = dict[tuple[bytes, VTEP], int]
_Process = Callable[[RegistrationRequest, Path], bool]


class _Undecided(Exception):
    """The script has not been asked yet."""

    def __init__(self, station: bytes, vtep: VTEP) -> None:
        self.station = station
        self.vtep = vtep


@dataclass(eq=False)
class _Held:
    """A request, and what the script said about what it registers."""

    packet: RegistrationRequest
    path: Path
    verdicts: _Verdicts = field(default_factory=dict)
    cancel: Callable[[], None] = lambda: None


@implementer(IRegistrationPolicy)
class RegistrationGate:
    """Asks another policy, then the script.

    :param process: hands a request to the server; whether it was for it.
    """

    def __init__(
        self,
        policy: IRegistrationPolicy,
        events: StationEvents,
        process: _Process,
        metrics: Metrics,
    ) -> None:
        self._policy = policy
        self._events = events
        self._process = process
        #: By who registers; a request that is sent again takes the place of the former one.
        self._held: dict[tuple[bytes, bytes], _Held] = {}
        self._current: _Held | None = None
        self._full = metrics.counter("registrations_not_held")

    def decide(self, claim: Claim) -> int:
        """What the script said of it; raises to have it asked."""
        code: int = self._policy.decide(claim)
        if code or self._current is None:
            return code
        verdict = self._current.verdicts.get((claim.station, claim.vtep))
        if verdict is not None:
            return verdict
        if len(self._held) >= MOST_HELD:
            self._full.inc()
            return CIECode.NO_RESOURCES
        raise _Undecided(claim.station, claim.vtep)

    def admit(self, packet: RegistrationRequest, path: Path) -> bool:
        """Have a request processed, now or later; whether it was for us."""
        waiting = self._held.get((path.peer, packet.source_protocol))
        if waiting is not None:
            waiting.packet, waiting.path = packet, path
            return True
        return self._try(_Held(packet, path))

    def close(self) -> None:
        """Forget all that waits."""
        for held in self._held.values():
            held.cancel()
        self._held.clear()

    def _try(self, held: _Held) -> bool:
        key = held.path.peer, held.packet.source_protocol
        self._current = held
        try:
            return self._process(held.packet, held.path)
        except _Undecided as question:
            self._held[key] = held
            subject = Subject(
                kind="dynamic",
                protocol=question.station,
                bits=8 * len(question.station),
                nbma=question.vtep.nbma,
                claimed=_claimed(held.packet, question.vtep.nbma),
                mtu=held.packet.cies[0].mtu,
            )
            done = partial(self._answered, key, (question.station, question.vtep))
            held.cancel = self._events.run("peer-register", subject, done=done)
            return True
        finally:
            self._current = None

    def _answered(
        self, key: tuple[bytes, bytes], about: tuple[bytes, VTEP], accepted: bool
    ) -> None:
        held = self._held.pop(key)
        held.verdicts[about] = CIECode.SUCCESS if accepted else CIECode.PROHIBITED
        try:
            self._try(held)
        except NHRPError:
            # A request that took its place and is not well-formed: its sender will see no answer.
            return


def _claimed(packet: RegistrationRequest, nbma: bytes) -> bytes:
    return b"" if packet.source_nbma == nbma else packet.source_nbma
