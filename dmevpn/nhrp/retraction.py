"""Taking back what a server has answered (RFC 2332 §5.2.5). Layer: core.

Whoever believes an answer that is no longer true gets a Purge Request, again and again while it
may believe it. A site that is lost takes many answers with it: each station is told of as many
of them as a packet takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dmevpn.addresses import Path
from dmevpn.interfaces import ILink
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.nhrp.answered import LEARNED_HOLDING_TIME, Answered
from dmevpn.nhrp.constants import PurgeFlag
from dmevpn.nhrp.packet import PurgeRequest
from dmevpn.nhrp.prefixes import format_key, prefix_of
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.requests import Outstanding, protocol_type_of

__all__ = ["CIES", "Retraction"]

#: Addresses in one Purge Request; they fill half of the largest packet.
CIES: Final = 40

#: Gaps between the transmissions of a Purge Request, in seconds, and the last wait.
_DELAYS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

#: Seconds for which a client that does not reply is asked to leave.
_RECALL: Final = 4.0


@dataclass(slots=True)
class _Belief:
    """What one station is to forget."""

    path: Path
    """To it."""
    keys: list[bytes] = field(default_factory=list)
    """Of addresses and prefixes, see :mod:`dmevpn.nhrp.prefixes`."""
    left: float = 0.0
    """Seconds for which it may believe the answer that lasts longest."""


class Retraction:
    """Sends the Purge Requests of one VPN's server.

    :param answered: whom the server told what.
    :param station: the server's own protocol address.
    :param vpn: for counters and the log.
    """

    log = Logger()

    def __init__(
        self,
        *,
        answered: Answered,
        outstanding: Outstanding,
        link: ILink,
        station: bytes,
        vpn: str,
        metrics: Metrics,
    ) -> None:
        self._answered = answered
        self._outstanding = outstanding
        self._link = link
        self._station = station
        self._vpn = vpn
        self._purges = metrics.counter("purges_sent", vpn=vpn)
        self._purges_lost = metrics.counter("purges_unanswered", vpn=vpn)

    def send(
        self,
        keys: Iterable[bytes],
        reason: str,
        also: Iterable[tuple[bytes, Path]] = (),
        *,
        last: bool = False,
    ) -> int:
        """Take back the answers for addresses and prefixes, given by their keys.

        :param also: stations and the ways to them that may have one that we do not remember.
        :param last: it is said once, since nobody will be here to read replies.
        :return: how many answers were taken back.
        """
        also = tuple(also)
        beliefs: dict[bytes, _Belief] = {}
        total = 0
        for key in keys:
            told = {station: (path, left) for station, path, left in self._answered.take(key)}
            for station, path in also:
                told.setdefault(station, (path, float(LEARNED_HOLDING_TIME)))
            for station, (path, left) in told.items():
                belief = beliefs.get(station)
                if belief is None:
                    belief = beliefs[station] = _Belief(path)
                belief.keys.append(key)
                belief.left = max(belief.left, left)
            if told:
                total += len(told)
                self.log.debug(
                    "vpn {vpn}: {protocol} taken back from {count}: {reason}",
                    vpn=self._vpn,
                    protocol=format_key(key),
                    count=len(told),
                    reason=reason,
                )
        for station, belief in beliefs.items():
            for first in range(0, len(belief.keys), CIES):
                some = belief.keys[first : first + CIES]
                if last:
                    self._purges.inc()
                    self._send_once(some, station, belief.path)
                else:
                    self._purge(some, station, belief.path, belief.left)
        return total

    def dismiss(self, key: bytes, station: bytes, path: Path) -> None:
        """Take a client's own registration back, once and without waiting for a reply.

        :param station: the client's protocol address.
        """
        self._purges.inc()
        self._send_once([key], station, path)

    def recall(self, key: bytes, station: bytes, path: Path) -> None:
        """Ask a client to end its own registration, until it replies.

        :param station: the client's protocol address.
        """
        self._purge([key], station, path, _RECALL)

    def tell(self, keys: Sequence[bytes], nbma: bytes, station: bytes, path: Path) -> None:
        """Take back what another server may know by itself of a site, until it replies.

        :param nbma: of the site.
        :param station: the server's protocol address.
        """
        half = CIES // 2
        for first in range(0, len(keys), half):
            self._purge(list(keys[first : first + half]), station, path, _RECALL, nbma)

    def probe(
        self,
        station: bytes,
        path: Path,
        delays: Iterable[float],
        on_answer: Callable[[], None],
        on_silence: Callable[[], None],
    ) -> int | None:
        """Take nothing back from a client, to see whether it replies.

        :param station: its protocol address.
        :param delays: gaps between transmissions in seconds, the last one before giving up.
        :param on_answer: called when it does, or reports an error.
        :param on_silence: called when it has not.
        :return: the request ID; None if there was no room for it: then nothing is called.
        """
        return self._outstanding.send(
            lambda request_id: self._make(request_id, [], station, path),
            self._link,
            path,
            delays=delays,
            on_reply=lambda packet, path: on_answer(),
            on_error=lambda code, path: on_answer(),
            on_timeout=on_silence,
        )

    def _purge(
        self, keys: list[bytes], station: bytes, path: Path, left: float, nbma: bytes = b""
    ) -> None:
        # At 0, 1, 3, 7, 15 and 31 s, as far as that is before the answer runs out.
        delays = [delay for delay in _DELAYS if delay - 1 < left]
        self._purges.inc()
        request_id = self._outstanding.send(
            lambda request_id: self._make(request_id, keys, station, path, nbma=nbma),
            self._link,
            path,
            delays=delays,
            on_timeout=self._purges_lost.inc,
        )
        if request_id is None:
            # No room to wait for a reply: better once than never.
            self._send_once(keys, station, path, nbma)

    def _send_once(self, keys: list[bytes], station: bytes, path: Path, nbma: bytes = b"") -> None:
        self._outstanding.send_once(
            lambda request_id: self._make(request_id, keys, station, path, PurgeFlag.N, nbma),
            self._link,
            path,
        )

    def _make(
        self,
        request_id: int,
        keys: list[bytes],
        station: bytes,
        path: Path,
        flags: int = 0,
        nbma: bytes = b"",
    ) -> PurgeRequest:
        return PurgeRequest(
            source_nbma=path.local or bytes(len(path.peer)),
            source_protocol=self._station,
            destination_protocol=station,
            protocol_type=protocol_type_of(station),
            flags=flags,
            request_id=request_id,
            cies=tuple(
                [
                    CIE(prefix_length=prefix_length, nbma=nbma, protocol=protocol)
                    for protocol, prefix_length in map(prefix_of, keys)
                ]
            ),
        )
