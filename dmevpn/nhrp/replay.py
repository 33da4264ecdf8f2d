"""Refusing packets that were sent before. Layer: core.

RFC 2332 §5.3.4 proves who made a packet, but not when, for whom, nor in which VPN. We add that as
a Vendor-Private extension (§5.3.5), which the keyed hash covers like everything in the packet:

    OUI 02-00-00 | kind | VPN identifier | run | neighbour's run | number
         3          1          7            8           8             8      octets

A **run** is a random number that a control interface draws when it starts. A packet names the run
that made it and the run that it is for, so it means nothing to anybody else, to its own sender,
or to either of them after a restart. The **number** rises with every packet from one run to the
other; whoever receives it remembers the highest, and which of those just below have been there.
Neither clocks nor files are needed.

A neighbour that does not know our run, because one of us has just started, is told it in a
**challenge**: a Purge Reply that nobody asked for, which others ignore. Its number repeats the
run that was wrongly named, so that a challenge of former times is not heeded either.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.errors import AuthenticationFailure, Handshake
from dmevpn.metrics import Metrics
from dmevpn.nhrp.authentication import failure
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.extensions import VendorPrivate
from dmevpn.nhrp.packet import Packet, PurgeReply, Request, RequestOrReply

__all__ = [
    "CHALLENGES",
    "FIELDS",
    "NUMBER_LENGTH",
    "PROOF_LENGTH",
    "RECENT",
    "RUNS",
    "STATIONS",
    "WINDOW",
    "ReplayGuard",
    "Standing",
    "is_challenge",
    "is_proof",
]

#: Numbers below the highest that may still arrive, once each: packets overtake each other.
WINDOW: Final = 256

#: Runs of neighbours remembered; each start of each neighbour is one. At the bound we draw a new
#: run for ourselves, which makes all that they ever sent worthless, and forget them.
RUNS: Final = 262_144

#: Stations whose run is remembered, and underlay addresses.
STATIONS: Final = 2 * RUNS

#: Challenges a second to all neighbours, and in a row. Each takes about as long as a request.
CHALLENGES: Final = 1000.0

#: Packets that are kept for sending them again when a neighbour tells us its run: our requests, and
#: all to neighbours whose run we do not know; and for how many seconds: after that their owners
#: have repeated them.
RECENT: Final = 256
_PATIENCE: Final = 1.0

# Type, length, OUI and kind of the extension, and where the fields behind them are.
_PROOF: Final = b"\x00\x08\x00\x23" + DEFAULT_OUI + b"\x01"
_CHALLENGE: Final = b"\x00\x08\x00\x23" + DEFAULT_OUI + b"\x02"
_VPN = slice(8, 15)
_FROM = slice(15, 23)
_TO = slice(23, 31)
_NUMBER = slice(31, 39)
#: VPN, run and neighbour's run in the octets of a proof. The number is last.
FIELDS: Final = (_VPN, _FROM, _TO)
NUMBER_LENGTH: Final = 8
PROOF_LENGTH: Final = _NUMBER.stop

# A member of an enumeration takes longer to look up than a global variable.
_PLAIN: Final = Form.PLAIN

_RUN_LENGTH: Final = 8
_UNKNOWN: Final = bytes(_RUN_LENGTH)
_NO_VPN: Final = bytes(7)
_MASK: Final = (1 << WINDOW) - 1


class _Neighbour:
    """One run of a neighbour."""

    __slots__ = ("highest", "run", "seen", "sent")

    def __init__(self, run: bytes) -> None:
        self.run = run
        self.sent = 0
        """The number of the latest packet that we sent it."""
        self.highest = 0
        """The highest that we received."""
        self.seen = 0
        """Bit n: whether the number n below the highest has been there."""

    def take(self, number: int) -> bool:
        """Whether a number is new; it is not from now on."""
        ahead = number - self.highest
        if ahead > 0:
            self.highest = number
            # An ample number must not make us shift for long.
            self.seen = (self.seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or self.seen & bit:
            return False
        self.seen |= bit
        return True

    def retire(self) -> None:
        """The station has started again: what may still come from this run is old."""
        self.highest = 1 << 65


class ReplayGuard:
    """Proves to neighbours that our packets are new, and wants the same of theirs.

    :param random: octets that nobody can guess.
    """

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._clock = clock
        self._random = random
        #: Ours; drawn again when the neighbours are forgotten.
        self._run = random(_RUN_LENGTH)
        self._neighbours: dict[bytes, _Neighbour] = {}
        #: The latest run of each station, by VPN and protocol address.
        self._stations: dict[bytes, _Neighbour] = {}
        #: The run behind each underlay address, as it was last heard or told.
        self._paths: dict[bytes, _Neighbour] = {}
        #: What may have to be sent again, and when it was sent; a reply has a request that will be.
        self._recent: deque[tuple[float, tuple[Packet, Form, VPNID | None, Path]]] = deque(
            maxlen=RECENT
        )
        self._budget = (CHALLENGES, clock.seconds())
        self._unproven = metrics.dropped("unproven")
        self._challenges = metrics.counter("challenges_sent")
        self._suppressed = metrics.counter("challenges_suppressed")
        self._heeded = metrics.counter("challenges_heeded")
        self._forgotten = metrics.counter("replay_runs_forgotten")
        self._lost = metrics.counter("replay_packets_forgotten")

    def standing(self, peer: bytes, proof: bytes) -> Standing | None:
        """How we stand with a neighbour that has just sent a packet which was accepted.

        :param proof: of that packet.
        :return: None if that cannot be.
        """
        neighbour = self._paths.get(peer)
        if neighbour is None or neighbour.run != proof[_FROM] or not is_proof(proof):
            return None
        return Standing(self._paths, peer, neighbour)

    # --- out ----------------------------------------------------------------------------------

    def prove(self, packet: Packet, form: Form, vpn_id: VPNID | None, path: Path) -> bytes:
        """The octets of our proof for a packet; a challenge is its own."""
        if type(packet) is PurgeReply and is_challenge(packet):
            return next(each for each in packet.extensions if is_proof(each))
        neighbour = self._paths.get(path.peer)
        if neighbour is None or isinstance(packet, Request):
            now, recent = self._clock.seconds(), self._recent
            if len(recent) >= RECENT and recent[0][0] > now - _PATIENCE:
                self._lost.inc()
            recent.append((now, (packet, form, vpn_id, path)))
        if neighbour is None:
            run = number = _UNKNOWN
        else:
            run = neighbour.run
            neighbour.sent += 1
            number = neighbour.sent.to_bytes(NUMBER_LENGTH, "big")
        return b"".join((_PROOF, _vpn(form, vpn_id), self._run, run, number))

    # --- in -----------------------------------------------------------------------------------

    def check(
        self, packet: Packet, encapsulation: Encapsulation, path: Path, source: bytes
    ) -> None:
        """Accept a packet whose hash was right, if it is new.

        :param source: protocol address of the neighbour that has sent it.
        :raises AuthenticationFailure: if it is not, or has no proof.
        :raises Handshake: if its sender does not know our run, or tells us its own.
        """
        for proof in packet.extensions:
            if type(proof) is VendorPrivate and is_proof(proof):
                break
        else:
            raise failure(packet, None)
        vpn = proof[_VPN]
        if vpn != _vpn(encapsulation.form, encapsulation.vpn_id):
            raise failure(packet, proof, "replayed")
        run = proof[_FROM]
        if run == self._run and path.peer != path.local:
            # Thrown back at us by somebody else.
            raise AuthenticationFailure("replayed")
        if proof.startswith(_CHALLENGE):
            raise self._challenged(proof, path)
        if proof[_TO] != self._run:
            self._unproven.inc()
            raise self._challenge(packet, encapsulation, path, proof)
        neighbour = self._neighbours.get(run)
        if neighbour is None:
            neighbour = self._add(run)
        if not neighbour.take(int.from_bytes(proof[_NUMBER], "big")):
            # No Error Indication: networks duplicate packets, and that one would end the request
            # of the first copy.
            raise AuthenticationFailure("replayed")
        if self._paths.get(path.peer) is not neighbour:
            self._set_path(path.peer, neighbour)
        station = vpn + source + path.peer
        earlier = self._stations.get(station)
        if earlier is not neighbour:
            if earlier is None and len(self._stations) >= STATIONS:
                self._forget()
                raise Handshake(())
            if earlier is not None and any(source):
                earlier.retire()
            self._stations[station] = neighbour

    def _add(self, run: bytes) -> _Neighbour:
        """Remember one more run of a neighbour."""
        if len(self._neighbours) >= RUNS or len(self._stations) >= STATIONS:
            self._forget()
            raise Handshake(())
        neighbour = self._neighbours[run] = _Neighbour(run)
        return neighbour

    def _forget(self) -> None:
        """Begin as after a restart."""
        self._forgotten.inc()
        self._run = self._random(_RUN_LENGTH)
        self._neighbours.clear()
        self._stations.clear()
        self._paths.clear()

    def _set_path(self, peer: bytes, neighbour: _Neighbour) -> None:
        self._paths.pop(peer, None)
        if len(self._paths) >= RUNS:
            # It will be told again.
            del self._paths[next(iter(self._paths))]
        self._paths[peer] = neighbour

    def _challenge(
        self, packet: Packet, encapsulation: Encapsulation, path: Path, proof: bytes
    ) -> Handshake:
        """Tell a neighbour our run, since it named another."""
        if not self._allow():
            self._suppressed.inc()
            return Handshake(())
        self._challenges.inc()
        form, vpn_id, _ = encapsulation
        told = (_CHALLENGE, proof[_VPN], self._run, proof[_FROM], proof[_TO])
        challenge = PurgeReply(
            source_nbma=packet.source_nbma,
            source_protocol=packet.source_protocol,
            destination_protocol=packet.destination_protocol,
            protocol_type=packet.protocol_type,
            snap=packet.snap,
            request_id=packet.request_id if isinstance(packet, RequestOrReply) else 0,
            extensions=(VendorPrivate.of_octets(b"".join(told)),),
        )
        return Handshake(((challenge, form, vpn_id, path),))

    def _challenged(self, challenge: bytes, path: Path) -> Exception:
        """A neighbour tells us its run: what we sent it in vain goes out again."""
        known = self._paths.get(path.peer)
        recent = [each for each in self._recent if each[1][3].peer == path.peer]
        if known is None:
            expected = challenge[_NUMBER] == _UNKNOWN and bool(recent)
        else:
            expected = challenge[_NUMBER] == known.run
        if challenge[_TO] != self._run or not expected:
            return AuthenticationFailure("replayed")
        self._heeded.inc()
        run = challenge[_FROM]
        self._set_path(path.peer, self._neighbours.get(run) or self._add(run))
        since = self._clock.seconds() - _PATIENCE
        for each in recent:
            self._recent.remove(each)
        return Handshake(tuple([sent for time, sent in recent if time > since]))

    def _allow(self) -> bool:
        now = self._clock.seconds()
        left, counted = self._budget
        left = min(CHALLENGES, left + (now - counted) * CHALLENGES)
        allowed = left >= 1
        self._budget = (left - 1 if allowed else left, now)
        return allowed


class Standing:
    """Who a neighbour is to us, and we to it: one run of either. As long as that is so, all that
    its packets prove is in their numbers.

    :param paths: the run behind each underlay address. All are gone when ours becomes another.
    """

    __slots__ = ("_neighbour", "_paths", "_peer")

    def __init__(self, paths: dict[bytes, _Neighbour], peer: bytes, neighbour: _Neighbour) -> None:
        self._paths = paths
        self._peer = peer
        self._neighbour = neighbour

    def take(self, number: bytes) -> bool:
        """Whether a packet is accepted that differs in its number from the one before.

        :return: False if the number is not new, or somebody else is there, or we are:
            :meth:`ReplayGuard.check` can tell what to do. Nothing has changed then.
        """
        there = self._paths.get(self._peer)
        return there is self._neighbour and there.take(int.from_bytes(number, "big"))

    def next_number(self) -> bytes:
        """Of our next packet to the neighbour."""
        self._neighbour.sent += 1
        return self._neighbour.sent.to_bytes(NUMBER_LENGTH, "big")


def is_proof(extension: bytes) -> bool:
    """Whether an extension is a neighbour's proof or challenge, which goes no further."""
    return extension.startswith((_PROOF, _CHALLENGE))


def is_challenge(packet: Packet) -> bool:
    """Whether a packet of ours is a challenge, which only keys can sign."""
    return any(each.startswith(_CHALLENGE) for each in packet.extensions)


def _vpn(form: Form, vpn_id: VPNID | None) -> bytes:
    """The VPN that a packet names, seven octets."""
    if vpn_id is None or form is _PLAIN:
        return _NO_VPN
    return vpn_id.oui + vpn_id.index.to_bytes(4, "big")
