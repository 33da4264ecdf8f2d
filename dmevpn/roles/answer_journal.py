"""What a hub answers, written down before it is sent. Layer: role.

What a successor should know is gathered every few seconds (:mod:`dmevpn.roles.recollection`). Each
answer since then is appended to a part of a journal, all those of a turn by one write before they
are sent. It is not made sure of on the disk, so it outlives the daemon, not the machine's power;
and a batch that was cut short by a kill was not sent, so that nobody has to know it.

A part begins when gathering does, and has a number: what was gathered says of which part on the
journal has to be read with it. Two are kept, this one and the one before, since the file with what
was gathered may not be there yet, and takes their turns in two files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from dmevpn.addresses import VTEP, Path
from dmevpn.interfaces import IStateStore

__all__ = ["Answer", "AnswerJournal", "Part", "Record", "latest", "read_part"]

#: Takes an answer: key, VTEPs, station, the way to it, until when.
Record = Callable[[bytes, tuple[VTEP, ...], bytes, Path, float], None]
#: The same with the hub interface and VPN before it.
_Fresh = tuple[bytes, bytes, tuple[VTEP, ...], bytes, Path, float]

_MAGIC: Final = b"dmevpn-answers"
_VERSION: Final = 1
#: Octets of a batch, and its CRC-32.
_BATCH: Final = struct.Struct("!II")
#: Octets of a batch that is believed to have been cut short; of a longer one the length is wrong.
_LARGEST_BATCH: Final = 1 << 20
#: How many more VTEPs of the same answer follow; the octets of what comes behind this: its hub
#: interface and VPN, key, station, VTEP, and the way to the station, there and from here; then VNI
#: and GRE key, with -1 for none, and until when it is believed.
_ROW: Final = struct.Struct("!7Biqd")


class Answer(NamedTuple):
    """What a hub has told somebody."""

    key: bytes
    """Of an address or prefix (:mod:`dmevpn.nhrp.prefixes`)."""
    vteps: tuple[VTEP, ...]
    station: bytes
    """Who was told."""
    path: Path
    """The way there."""
    until: float
    """When it is no longer believed, on the clock."""


class Part(NamedTuple):
    """A part of a journal, as it is read."""

    number: int
    boot: str
    """Of the machine, when it was written."""
    answers: list[tuple[str, int, Answer]]
    """In their order, each with the hub interface and the index of the VPN."""
    length: int
    """Octets that are good."""
    whole: bool
    """Whether nothing is missing but a batch that was not sent."""


def _write(fresh: list[_Fresh]) -> bytes:
    """Answers as a batch: a row for each VTEP."""
    pieces = list[bytes]()
    for where, key, vteps, station, (peer, local, gre_key), until in fresh:
        many = len(vteps)
        for nbma, vni in vteps:
            many -= 1
            row = _ROW.pack(
                many,
                len(where),
                len(key),
                len(station),
                len(nbma),
                len(peer),
                len(local),
                -1 if vni is None else vni,
                -1 if gre_key is None else gre_key,
                until,
            )
            pieces += (row, where, key, station, nbma, peer, local)
    rows = b"".join(pieces)
    return _BATCH.pack(len(rows), zlib.crc32(rows)) + rows


def _read(batch: bytes) -> list[tuple[str, int, Answer]]:
    """The answers of a batch.

    :raises ValueError: if it is not what we write. :raises struct.error: likewise.
    """
    found = []
    vteps: list[VTEP] = []
    at = 0
    while at < len(batch):
        many, *lengths, vni, gre_key, until = _ROW.unpack_from(batch, at)
        at += _ROW.size
        values = []
        for length in lengths:
            values.append(batch[at : at + length])
            at += length
        where, key, station, nbma, peer, local = values
        vteps.append(VTEP(nbma, None if vni < 0 else vni))
        if many:
            continue
        interface, _, vpn = where.decode().rpartition("/")
        path = Path(peer, local, None if gre_key < 0 else gre_key)
        found.append((interface, int(vpn), Answer(key, tuple(vteps), station, path, until)))
        vteps.clear()
    if vteps or at > len(batch):
        raise ValueError("an answer is incomplete")
    return found


def read_part(octets: bytes) -> Part:
    """Understand a part of a journal, as far as it goes.

    :raises ValueError: if it is none of ours.
    """
    head, newline, _ = octets.partition(b"\n")
    words = head.split(b" ")
    if (
        not newline
        or words[0] != _MAGIC
        or len(words) != 4
        or words[1] != b"%d" % _VERSION
        or not words[2].isdigit()
    ):
        raise ValueError("no answers of ours")
    answers = list[tuple[str, int, Answer]]()
    at = len(head) + 1
    whole = True
    while len(octets) - at >= _BATCH.size:
        length, checksum = _BATCH.unpack_from(octets, at)
        end = at + _BATCH.size + length
        if end > len(octets):
            whole = length <= _LARGEST_BATCH
            break
        batch = octets[at + _BATCH.size : end]
        try:
            if zlib.crc32(batch) != checksum or not batch:
                raise ValueError("spoilt")
            answers += _read(batch)
        except (ValueError, struct.error):
            whole = False
            break
        at = end
    return Part(int(words[2]), words[3].decode("ascii", "replace"), answers, at, whole)


class AnswerJournal:
    """Writes answers down, part by part.

    :ivar number: of the part that is being written; None: there is none, what is answered is lost
        with the daemon.
    """

    def __init__(self, store: IStateStore) -> None:
        self.number: int | None = None
        self._store = store
        self._last = 0
        #: Whether anything stands in this part; there is no file before.
        self._empty = True
        #: Answers that are not written yet.
        self._fresh: list[_Fresh] = []

    @property
    def next_number(self) -> int:
        """Of the part that another run may begin, if this one ends in order."""
        return self._last + 1

    def recorder(self, interface: str, vpn: int) -> Record:
        """What takes the answers of a hub in a VPN."""
        where = b"%b/%d" % (interface.encode(), vpn)
        append = self._fresh.append

        def record(
            key: bytes, vteps: tuple[VTEP, ...], station: bytes, path: Path, until: float
        ) -> None:
            append((where, key, vteps, station, path, until))

        return record

    def write(self) -> None:
        """Write down what is new: before it is sent."""
        fresh = self._fresh
        if not fresh:
            return
        if self.number is not None:
            batch = _write(fresh)
            done = self._store.append(batch) if not self._empty else self._open(batch)
            self._empty = False
            if not done:
                self.number = None
        fresh.clear()

    def _open(self, batch: bytes) -> bool:
        """Make the file of this part, with a first batch."""
        boot = self._store.boot.encode() or b"-"
        head = b"%b %d %d %b\n" % (_MAGIC, _VERSION, self._last, boot)
        return self._store.begin(self._last, head + batch)

    def begin(self) -> None:
        """Begin a new part, unless nothing stands in this one."""
        if self.number is None or not self._empty:
            self._last += 1
            self.number = self._last
            self._empty = True

    def abandon(self) -> None:
        """Write no more into this part, since the answers of before are not known either."""
        if not self._empty:
            self._store.abandon()
        self.number = None

    def close(self) -> None:
        """All that was answered is written elsewhere: leave no part."""
        self._store.remove_parts()
        self.number = None

    def resume(self, first: int | None, boot: str) -> tuple[bool, list[tuple[str, int, Answer]]]:
        """Read what an earlier run has written, and go on there if it was in the same boot.

        :param first: the part to begin with, as what was gathered says; None: it does not say so.
        :param boot: of the machine when that was gathered.
        :return: whether all that was answered since is there; and the answers, in their order.
        """
        parts = list[Part]()
        whole = first is not None
        for octets in self._store.parts():
            try:
                parts.append(read_part(octets))
            except ValueError:
                whole = False
        parts.sort()
        self._last = max([(first or 1) - 1, *(part.number for part in parts)])
        parts = [part for part in parts if part.number >= (first or 0)]
        here = self._store.boot
        same = boot == here != ""
        wanted = range(first or 0, (first or 0) + len(parts))
        whole = whole and (same or not parts) and [part.number for part in parts] == list(wanted)
        whole = whole and all(part.whole and part.boot == here for part in parts)
        if whole and parts and self._store.resume(parts[-1].number, parts[-1].length):
            self.number, self._empty = parts[-1].number, False
        else:
            self.begin()
        return whole, [each for part in parts if part.boot == here != "" for each in part.answers]


def latest(answers: Iterable[tuple[str, int, Answer]]) -> list[tuple[str, int, Answer]]:
    """The last answer that each station had about each key, in their order."""
    found = dict[tuple[str, int, bytes, bytes], tuple[str, int, Answer]]()
    for each in answers:
        interface, vpn, answer = each
        known = interface, vpn, answer.key, answer.station
        found.pop(known, None)
        found[known] = each
    return list(found.values())
