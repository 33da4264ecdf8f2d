"""What a daemon knows that the kernel cannot hold, kept for its successor. Layer: role.

Four things, none of them secret: whom a hub has told what, so that its successor can take exactly
that back; who has left it since it is drained, so that its successor can call them; how a spoke
stands with its hubs, so that it can use and end those registrations; and which peers speak another
dialect. It is gathered every few seconds, a slice in each turn of the reactor, and written if it
differs: no request waits for it. What is answered meanwhile is written down as it is sent
(:mod:`dmevpn.roles.answer_journal`). What the kernel holds (members, MACs, shortcuts, the hub that
carries the flooding) is not in it.

What is read is a hint. Each part is checked when it is used: answers against the switch's table,
registrations with the hub itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VPNID, VTEP, Path
from dmevpn.interfaces import IStateStore
from dmevpn.log import Logger
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.peers import DIALECTS, Peer, Peers
from dmevpn.roles.answer_journal import Answer, AnswerJournal, Record, latest
from dmevpn.roles.turns import Turns

__all__ = [
    "ANSWERS_KEPT",
    "SAVE_INTERVAL",
    "Answer",
    "Departed",
    "Keeper",
    "Recollection",
    "Registered",
]

#: Seconds between two gatherings.
SAVE_INTERVAL: Final = 5.0
#: Answers of all VPNs that are kept: 2 MB. Of a hub with more, the successor behaves as if it knew
#: none.
ANSWERS_KEPT: Final = 20_000
#: Peers of a control interface that are kept.
_PEERS_KEPT: Final = 4096
#: Rows gathered in one turn of the reactor, about a millisecond.
_SLICE: Final = 200

_Row = list[Any]


class Departed(NamedTuple):
    """Who has left a hub that is drained, and would come back."""

    vtep: VTEP
    station: bytes
    path: Path
    """The way there."""


class Registered(NamedTuple):
    """How a spoke stood with a hub."""

    nhs: bytes
    until: float
    """When the registration runs out, on the clock."""
    seen_as: bytes
    request_id: int | None
    """Of all requests, where one is kept."""
    station: bytes
    vtep: VTEP


class Recollection:
    """What an earlier run has written; each part is handed out once.

    :ivar exact: whether it is all that the run knew at its end.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self._answers: dict[str, dict[int, list[Answer]]] = {}
        self._departed: dict[str, dict[int, list[Departed]]] = {}
        self._registered: dict[str, list[Registered]] = {}
        self._peers: dict[str, list[tuple[bytes, Peer, float]]] = {}

    def add(self, answers: Iterable[tuple[str, int, Answer]], now: float) -> None:
        """What was answered later, in its order, each with hub interface and index of the VPN."""
        before = [
            (interface, vpn, answer)
            for interface, vpns in self._answers.items()
            for vpn, some in vpns.items()
            for answer in some
        ]
        self._answers.clear()
        for interface, vpn, answer in latest([*before, *answers]):
            if answer.until > now:
                self._answers.setdefault(interface, {}).setdefault(vpn, []).append(answer)

    def answers(self, interface: str) -> dict[int, list[Answer]]:
        """What the hub on an interface has told whom, by the index of the VPN."""
        return self._answers.pop(interface, {})

    def departed(self, interface: str) -> dict[int, list[Departed]]:
        """Who had left the hub on an interface, by the index of the VPN."""
        return self._departed.pop(interface, {})

    def registered(self, interface: str) -> list[Registered]:
        """How the spoke on an interface stood with its hubs."""
        return self._registered.pop(interface, [])

    def recall_peers(self, interface: str, peers: Peers) -> None:
        """Tell a control interface which peers it had found out about."""
        for nbma, peer, until in self._peers.pop(interface, ()):
            peers.recall(nbma, peer, until)

    @classmethod
    def read(cls, state: Mapping[str, Any], boot: str, now: float) -> Recollection:
        """Understand what was written.

        After a boot of the machine the clock has begun anew: then times count from now, as nobody
        knows how long it was off.

        :raises ValueError: if it is not what we write.
        """
        try:
            same = boot != "" and state["boot"] == boot
            shift = 0.0 if same else now - float(state["at"])
            found = cls(exact=(same or state["clean"] is True) and state["complete"] is True)
            for interface, vpns in state["answers"].items():
                found._answers[interface] = {
                    int(vpn): list(_live((_answer(row, shift) for row in rows.split(";")), now))
                    for vpn, rows in vpns.items()
                }
            for interface, vpns in state.get("departed", {}).items():
                found._departed[interface] = {
                    int(vpn): [_departed(row) for row in rows] for vpn, rows in vpns.items()
                }
            for interface, rows in state["registered"].items():
                found._registered[interface] = list(
                    _live((_registered(row, shift) for row in rows), now)
                )
            for interface, rows in state["peers"].items():
                found._peers[interface] = [_peer(row, shift) for row in rows]
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"not what we write: {error!r}") from None
        return found


def _live(rows: Iterable[Any], now: float) -> Iterator[Any]:
    return (row for row in rows if row.until > now)


def _vtep(row: _Row) -> VTEP:
    return VTEP(bytes.fromhex(row[0]), None if row[1] is None else int(row[1]))


def _answer(row: str, shift: float) -> Answer:
    key, places, station, peer, local, gre_key, until = row.split(",")
    vteps = []
    for place in places.split("|"):
        nbma, _, vni = place.partition("/")
        vteps.append(VTEP(bytes.fromhex(nbma), int(vni) if vni else None))
    path = Path(bytes.fromhex(peer), bytes.fromhex(local), int(gre_key) if gre_key else None)
    return Answer(
        bytes.fromhex(key), tuple(vteps), bytes.fromhex(station), path, float(until) + shift
    )


def _departed(row: _Row) -> Departed:
    vtep, station, peer, local, gre_key = row
    path = Path(
        bytes.fromhex(peer), bytes.fromhex(local), None if gre_key is None else int(gre_key)
    )
    return Departed(_vtep(vtep), bytes.fromhex(station), path)


def _registered(row: _Row, shift: float) -> Registered:
    nhs, until, seen_as, request_id, station, vtep = row
    return Registered(
        bytes.fromhex(nhs),
        until + shift,
        bytes.fromhex(seen_as),
        None if request_id is None else int(request_id),
        bytes.fromhex(station),
        _vtep(vtep),
    )


def _peer(row: _Row, shift: float) -> tuple[bytes, Peer, float]:
    nbma, dialect, form, vpn, until = row
    vpn_id = None if vpn is None else VPNID(bytes.fromhex(vpn[0]), int(vpn[1]))
    return bytes.fromhex(nbma), Peer(DIALECTS[dialect], Form[form], vpn_id), until + shift


class Keeper:
    """Writes down what speakers and roles know, and reads what an earlier run wrote.

    :param node: has ``speakers``, ``hubs`` and ``spokes`` by their interfaces.
    :param store: None: nothing is kept.
    """

    log = Logger()

    def __init__(self, node: Any, store: IStateStore | None, clock: IReactorTime) -> None:
        self._node = node
        self._store = store
        self._clock = clock
        self._journal = None if store is None else AnswerJournal(store)
        self._call: Any = None
        self._written: Any = None
        #: Whether the latest that was gathered is on the disk.
        self._saved = True
        self._turns = Turns(clock)

    def recall(self) -> Recollection:
        """What an earlier run has left; empty if there is nothing of use."""
        if self._store is None or self._journal is None:
            return Recollection()
        state = self._store.load() or {}
        found = Recollection()
        now = self._clock.seconds()
        try:
            if state:
                found = Recollection.read(state, self._store.boot, now)
        except ValueError as error:
            self.log.warn("the state of an earlier run is of no use: {reason}", reason=str(error))
            state = {}
        first = state.get("journal")
        first = first if type(first) is int and first > 0 else None
        whole, answers = self._journal.resume(first, str(state.get("boot")))
        self._saved = first is None or self._journal.number == first
        found.exact = found.exact and whole
        found.add(answers, now)
        return found

    def recorder(self, interface: str, vpn: int) -> Record | None:
        """What takes the answers of a hub in a VPN, to be written down before they are sent."""
        return None if self._journal is None else self._journal.recorder(interface, vpn)

    def write_answers(self) -> None:
        """Write down what was answered: it is about to be sent. Never raises."""
        if self._journal is not None:
            try:
                self._journal.write()
            except Exception:
                self.log.failure("cannot write down what was answered")
                self._journal.abandon()

    def start(self) -> None:
        """Write what there is, and what changes from now on.

        What there is has to be written even if it is nothing: a successor that finds no file does
        not know whether anything was answered.
        """
        if self._store is not None and self._call is None:
            self._call = self._clock.callLater(0, self._gather_now)

    def stop(self) -> None:
        """Write all that is known, for the last time; everything still has to be there."""
        if self._store is None or self._journal is None or self._call is None:
            return
        self._call.cancel() if self._call.active() else None
        self._call = None
        self._turns.stop()
        try:
            parts = _drained(self._gather())
        except Exception:
            # Whatever it was, the stop goes on.
            self.log.failure("cannot gather what a successor should know")
            return
        number = self._journal.next_number
        if self._store.save_now(self._whole(parts, number, clean=True)):
            self._journal.close()

    def _gather_now(self) -> None:
        self._turns.run(self._gathering())

    def _gathering(self) -> Iterator[None]:
        assert self._journal is not None
        # What comes from now on may be missing in what is gathered.
        if self._saved or self._journal.number is None:
            self._journal.begin()
        number = self._journal.number
        try:
            parts = yield from self._gather()
        except Exception:
            self.log.failure("cannot gather what a successor should know")
            parts = self._written
        if self._call is None or self._store is None:
            return
        if parts is not None and not parts["complete"]:
            self._journal.abandon()
        if self._journal.number != number:
            number = None
        if (parts, number) != self._written or not self._saved:
            self._written = parts, number
            self._saved = False
            self._store.save(self._whole(parts, number, clean=False), self._is_saved)
        self._call = self._clock.callLater(SAVE_INTERVAL, self._gather_now)

    def _is_saved(self) -> None:
        self._saved = True

    def _whole(self, parts: dict[str, Any], number: int | None, *, clean: bool) -> dict[str, Any]:
        assert self._store is not None
        return {
            "boot": self._store.boot,
            "at": self._clock.seconds(),
            "clean": clean,
            "journal": number,
            **parts,
        }

    def _gather(self) -> Generator[None, None, dict[str, Any]]:
        """All that is worth keeping, as plain values."""
        node = self._node
        peers: dict[str, list[_Row]] = {}
        answers: dict[str, dict[str, str]] = {}
        for interface, speaker in list(node.speakers.items()):
            found = [_peer_row(*each) for each in islice(speaker.peers.remembered(), _PEERS_KEPT)]
            if found:
                peers[interface] = found
            yield
        left = ANSWERS_KEPT
        servers = [vpn.server for hub in node.hubs.values() for vpn in hub.vpns.values()]
        # Of too many, none has to be looked at.
        fits = sum([server.told_count for server in servers]) <= left
        exact = True
        for interface, hub in list(node.hubs.items()):
            for vpn, hub_vpn in list(hub.vpns.items()):
                exact = exact and not hub_vpn.amnesia
                source = hub_vpn.server.records()
                rows = list[str]()
                while fits and (some := [_answer_row(*x) for x in islice(source, _SLICE)]):
                    rows += some
                    left -= len(some)
                    fits = left >= 0
                    yield
                if rows:
                    answers.setdefault(interface, {})[str(vpn)] = ";".join(rows)
        departed = dict[str, dict[str, list[_Row]]]()
        for interface, hub in list(node.hubs.items()):
            for vpn, hub_vpn in list(hub.vpns.items()):
                if away := [_departed_row(each) for each in hub_vpn.lingering]:
                    departed.setdefault(interface, {})[str(vpn)] = away
                    yield
        registered = {
            interface: standing
            for interface, spoke in list(node.spokes.items())
            if (standing := [_registered_row(each) for each in spoke.remembered()])
        }
        if not fits:
            answers = {}
        return {
            "complete": fits and exact,
            "answers": answers,
            "departed": departed,
            "registered": registered,
            "peers": peers,
        }


def _drained(parts: Generator[None, None, dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            next(parts)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            return found


def _vtep_row(vtep: VTEP) -> _Row:
    return [vtep.nbma.hex(), vtep.vni]


def _answer_row(
    key: bytes, vteps: tuple[VTEP, ...], station: bytes, path: Path, until: float
) -> str:
    """As text: there may be many, and a long string is written faster than many short ones."""
    places = "|".join(
        [f"{each.nbma.hex()}/{'' if each.vni is None else each.vni}" for each in vteps]
    )
    gre_key = "" if path.key is None else path.key
    return (
        f"{key.hex()},{places},{station.hex()},{path.peer.hex()},{path.local.hex()},{gre_key},"
        f"{until:.1f}"
    )


def _departed_row(each: Departed) -> _Row:
    path = each.path
    return [_vtep_row(each.vtep), each.station.hex(), path.peer.hex(), path.local.hex(), path.key]


def _registered_row(each: Registered) -> _Row:
    return [
        each.nhs.hex(),
        round(each.until, 1),
        each.seen_as.hex(),
        each.request_id,
        each.station.hex(),
        _vtep_row(each.vtep),
    ]


def _peer_row(nbma: bytes, peer: Peer, until: float) -> _Row:
    vpn = None if peer.vpn_id is None else [peer.vpn_id.oui.hex(), peer.vpn_id.index]
    return [nbma.hex(), peer.dialect.name, peer.form.name, vpn, round(until, 1)]
