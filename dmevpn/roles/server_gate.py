"""Lets the operator's script see servers before we register with them. Layer: role."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import Path
from dmevpn.nhrp.registration import RegistrationClient, State
from dmevpn.roles.l3_ways import Server
from dmevpn.roles.script_events import StationEvents, Subject

__all__ = ["RESTART", "ServerGate"]

#: Seconds until a server that the script refused is shown to it again: so many, and up to so many
#: more (OpenNHRP has the same).
_AFTER_REFUSAL: Final = (60.0, 120.0)
#: Seconds between the down and the up of a server that is started anew.
RESTART: Final = 5.0

_Key = tuple[bytes, bytes, int]


@dataclass(eq=False)
class _Peer:
    """A configured station."""

    server: Server
    up: bool = False
    cancel: Callable[[], None] | None = None
    retry: Any = None


class ServerGate:
    """Shows which of the configured stations are to be used.

    :param jitter: uniform in [0, 1).
    :param use: is given those that the script has let pass, in their order.
    """

    def __init__(
        self,
        clock: IReactorTime,
        jitter: Callable[[], float],
        events: StationEvents,
        use: Callable[[list[Server]], None],
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._use = use
        self._peers: dict[_Key, _Peer] = {}
        #: Ways to servers that are known to be up.
        self._registered: dict[Path, Subject] = {}

    def set(self, servers: Iterable[Server]) -> None:
        """These are configured."""
        wanted = {_key(each): each for each in servers}
        gone = [peer for key, peer in self._peers.items() if key not in wanted]
        self._peers = {key: self._peers.get(key) or _Peer(each) for key, each in wanted.items()}
        for key, server in wanted.items():
            self._peers[key].server = server
        self._take_down(gone, "stopped")
        for key, peer in self._peers.items():
            if not peer.up and peer.cancel is None and peer.retry is None:
                self._begin(key)

    def restart(self, select: Callable[[Server], bool], reason: str) -> None:
        """Take some down, and up again a little later."""
        chosen = {key: peer for key, peer in self._peers.items() if select(peer.server)}
        self._take_down(chosen.values(), reason)
        for key, peer in chosen.items():
            peer.retry = self._clock.callLater(RESTART, self._begin, key)

    def is_up(self, server: Server) -> bool:
        """Whether the script has let it pass."""
        peer = self._peers.get(_key(server))
        return peer is not None and peer.up

    def registration_changed(self, client: RegistrationClient) -> None:
        """A registration of ours is there, or is not any more."""
        if client.state is State.REGISTERED and client.path not in self._registered:
            found = next(p.server for p in self._peers.values() if p.server.path == client.path)
            subject = self._registered[client.path] = _subject(found, client.server)
            self._events.run("nhs-up", subject)
        elif not client.usable:
            known = self._registered.pop(client.path, None)
            if known is not None:
                reason = client.last_error or "stopped"
                self._events.run("nhs-down", known, reason=reason)

    def close(self) -> None:
        """All of them go down, since we stop."""
        peers, self._peers = self._peers, {}
        self._take_down(peers.values(), "stopped")

    def _begin(self, key: _Key) -> None:
        peer = self._peers[key]
        peer.retry = None
        subject = _subject(peer.server)
        peer.cancel = self._events.run("peer-up", subject, done=partial(self._answered, key))

    def _answered(self, key: _Key, accepted: bool) -> None:
        peer = self._peers[key]
        peer.cancel = None
        if accepted:
            peer.up = True
            self._show()
        else:
            shortest, more = _AFTER_REFUSAL
            delay = shortest + more * self._jitter()
            peer.retry = self._clock.callLater(delay, self._begin, key)

    def _take_down(self, peers: Collection[_Peer], reason: str) -> None:
        """Their registrations end before they do."""
        were_up = [peer for peer in peers if peer.up]
        for peer in peers:
            peer.up = False
            if peer.cancel is not None:
                peer.cancel()
                peer.cancel = None
            if peer.retry is not None:
                peer.retry.cancel()
                peer.retry = None
        self._show()
        for peer in were_up:
            self._events.run("peer-down", _subject(peer.server), reason=reason)

    def _show(self) -> None:
        self._use([peer.server for peer in self._peers.values() if peer.up])


def _key(server: Server) -> _Key:
    return server.path.peer, server.network, server.prefix_length


def _subject(server: Server, told: bytes = b"") -> Subject:
    """A server as the script knows it: by its protocol address, or else by its network's.

    :param told: the address that it has told us.
    """
    return Subject(
        kind="dynamic-nhs" if server.dynamic else "static",
        protocol=server.protocol or told or server.network,
        bits=server.prefix_length,
        nbma=server.path.peer,
    )
