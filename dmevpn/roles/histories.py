"""What the journal says about the recent past, as explanations need it. Layer: role."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from dmevpn.addresses import VTEP
from dmevpn.interfaces import Finding
from dmevpn.journal import Event, Journal

__all__ = ["RECENT", "History"]
#: Seconds for which something that is over still counts as found.
RECENT: Final = 600.0
#: Seconds in which a MAC that has come to another place so often lives at two places at once.
_FLAPPING: Final = 60.0
_FLAPS: Final = 3


class History:
    """The journal as of one moment."""

    def __init__(self, journal: Journal, now: float) -> None:
        self.now = now
        self._events = list(journal)

    def recent(self, event: str, seconds: float = RECENT) -> list[Event]:
        """Events of a name that are no older."""
        return [e for e in self._events if e.event == event and self.now - e.at <= seconds]

    def of(self, mac: bytes, vpn: int) -> list[Event]:
        """The events of a MAC, in order."""
        return [e for e in self._events if e.protocol == mac and e.vpn == vpn]

    def since(self, mac: bytes, vpn: int, vtep: VTEP | None, *names: str) -> Event | None:
        """The latest event of those names that brought a MAC to a VTEP."""
        for event in reversed(self.of(mac, vpn)):
            if event.event in names:
                at = (event.nbma, event.vni)
                return event if vtep is None or at == (vtep.nbma, vtep.vni) else None
        return None

    def duplicates(self) -> Iterator[tuple[int | None, bytes, Finding]]:
        """MACs that were at several places in turn, with what is to be said about each."""
        moves: Counter[tuple[int | None, bytes]] = Counter()
        places: defaultdict[tuple[int | None, bytes], set[str]] = defaultdict(set)
        for event in self._events:
            if event.event not in ("moved", "home", "resolved", "learned") or not event.protocol:
                continue
            if self.now - event.at > _FLAPPING:
                continue
            key = event.vpn, event.protocol
            here = event.event == "home"
            places[key].add("this site" if here else str(VTEP(event.nbma, event.vni)))
            moves[key] += event.event != "learned"
        for (vpn, mac), count in moves.items():
            where = sorted(places[vpn, mac])
            if count >= _FLAPS and len(where) > 1:
                yield (
                    vpn,
                    mac,
                    Finding(
                        "mac",
                        mac.hex(":"),
                        f"the same MAC is at {' and '.join(where[:3])}:"
                        f" it changed place {count} times within a minute",
                        "give one of them another MAC, or remove the loop between the sites",
                    ),
                )
