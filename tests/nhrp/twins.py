"""Two speakers to which the same happens. One remembers how it has answered and so leaves packets
unread, the other reads them all: nobody can tell which is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import strategies as st

from dmevpn.addresses import Path
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.encapsulation import CHECKSUM_BEGIN, CHECKSUM_END, RFC_LENGTH
from dmevpn.nhrp.packet import PurgeRequest, seal
from dmevpn.nhrp.peers import peer_of
from tests.nhrp.neighbours import SITE_A, VPN7, VPN8
from tests.nhrp.speaking import SECRET, World

__all__ = [
    "EVENTS",
    "SECRETS",
    "Reading",
    "Twins",
    "flipped",
    "keepalive",
    "lives",
    "noises",
    "resealed",
]

_W = TypeVar("_W", bound=World)
_Datagram = tuple[bytes, Path]

#: What happens between packets.
EVENTS: dict[str, Callable[[World], object]] = {
    "another station": lambda world: world.serve(VPN7, b"\x0a\0\0\1"),
    "another dialect": lambda world: world.speaker.peers.claim("file", {SITE_A: peer_of("legacy")}),
    "our dialect": lambda world: world.speaker.peers.claim("file", {}),
    "a key": lambda world: world.speaker.naming.by_key.update({3: VPN8}),
    "no key": lambda world: world.speaker.naming.by_key.clear(),
}
#: The same where nobody signs.
SECRETS: dict[str, Callable[[World], object]] = {
    "a secret": lambda world: setattr(world.speaker, "authenticator", CiscoAuthentication(SECRET)),
    "no secret": lambda world: setattr(world.speaker, "authenticator", None),
}


class Twins(Generic[_W]):
    """Two worlds that differ in what they remember.

    :ivar worlds: the first remembers what it has answered to sites.
    :param make: makes either.
    :param sites: their underlay addresses.
    """

    def __init__(self, make: Callable[[], _W], sites: Iterable[bytes]) -> None:
        self.worlds = make(), make()
        self.worlds[0].speaker.known.claim("registered", sites)

    def receive(self, *datagrams: _Datagram) -> list[bytes]:
        """What both send for datagrams that arrive together."""

        def arrive(world: _W) -> None:
            world.speaker.datagrams_received(datagrams)

        self.undergo(arrive)
        return [data for data, _ in self.worlds[0].transport.sent]

    def undergo(self, event: Callable[[_W], object]) -> None:
        """Something happens to both, and they are alike after it: what they have sent, octet by
        octet, what they keep, and what they count."""
        for world in self.worlds:
            world.transport.sent.clear()
            event(world)
        one, other = (world.state() for world in self.worlds)
        assert one == other

    def live(
        self,
        steps: Iterable[str | list[_Datagram]],
        events: Mapping[str, Callable[[_W], object]],
    ) -> None:
        """Events, by their names, and arrivals, one after the other."""
        for step in steps:
            if isinstance(step, str):
                self.undergo(events[step])
            else:
                self.receive(*step)


class Reading:
    """Counts the packets that a speaker reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self._packets = 0
        read = world.speaker._read

        def counted(*arguments: Any) -> Any:
            self._packets += 1
            return read(*arguments)

        monkeypatch.setattr(world.speaker, "_read", counted)

    def taken(self) -> bool:
        """Whether any was read since the last time."""
        packets, self._packets = self._packets, 0
        return packets > 0


def keepalive(path: Path, station: bytes, request_id: int, **fields: object) -> PurgeRequest:
    """A keepalive as a client of ours makes it, but for the fields.

    :param path: to the client.
    """
    return PurgeRequest(
        **{  # type: ignore[arg-type]
            "source_nbma": path.peer,
            "source_subaddress": b"\0\0\x01\x02",
            "source_protocol": station,
            "destination_protocol": station,
            "request_id": request_id,
        }
        | fields
    )


def flipped(payload: bytes, at: int, bit: int) -> bytes:
    """A payload with one bit changed, counted round and round."""
    at %= len(payload)
    return payload[:at] + bytes([payload[at] ^ 1 << bit]) + payload[at + 1 :]


def resealed(payload: bytes) -> bytes:
    """A payload with its checksum right."""
    before = payload[RFC_LENGTH:CHECKSUM_BEGIN] + b"\0\0"
    return seal(payload[:RFC_LENGTH], before, payload[CHECKSUM_END:])


#: What becomes of a payload on its way.
noises: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.just(lambda payload: payload),
    st.just(lambda payload: payload),
    st.just(lambda payload: payload),
    st.builds(
        lambda at, bit, repair: lambda payload: repair(flipped(payload, at, bit)),
        st.integers(0, 160),
        st.integers(0, 7),
        st.sampled_from([bytes, resealed]),
    ),
    st.sampled_from([lambda payload: payload + b"\0", lambda payload: payload[:-1]]),
    st.just(lambda payload: payload[RFC_LENGTH:]),
    st.builds(lambda length: lambda payload: payload[:length], st.integers(0, 160)),
)


def lives(
    arrivals: st.SearchStrategy[_Datagram], events: Iterable[str]
) -> st.SearchStrategy[list[str | list[_Datagram]]]:
    """What :meth:`Twins.live` takes: bursts of arrivals, and names of events between them."""
    bursts = st.lists(arrivals, min_size=1, max_size=5)
    return st.lists(st.one_of(bursts, st.sampled_from(sorted(events))), max_size=20)
