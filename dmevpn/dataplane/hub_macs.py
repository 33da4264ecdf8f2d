"""The MAC table of a hub's switch, as user space reads and tends it. Layer: edge.

One map holds the MACs of all VPNs. Reading it whole costs about a microsecond a MAC, so it
is read in pieces, one a reactor turn, except where somebody asks for the entries of one VPN.

Entries are changed by the program ``edit_macs`` in the kernel only: it compares before it
writes, so that a MAC seen or moved since we read it is left alone, and it keeps each VPN's count.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP
from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.layout import EDIT, NOBODY, NUMBER, Edit
from dmevpn.dataplane.ebpf.libbpf import Map, Program
from dmevpn.dataplane.hub_members import Member
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import HeldMAC, LearnedMAC
from dmevpn.log import Logger

__all__ = ["EDITS_PER_RUN", "MACS_PER_TURN", "SWEEP_DELAY", "MACTable"]

#: Edits in one run of the program: its input is a frame, at most a page with its headroom.
EDITS_PER_RUN = 96
#: Octets of the shortest input: an edit and an empty one, which does nothing. The kernel reads an
#: Ethernet header in an input, and where the number of a member looks like the EtherType of IPv4 or
#: IPv6, it refuses what is too short for that (seen on 6.18.44).
_LEAST_FRAME = 2 * EDIT.size
#: MACs read and judged in one reactor turn: some two milliseconds.
MACS_PER_TURN = 4096
#: Seconds from the departure of a member to the sweep for its MACs, so that one sweep serves many.
SWEEP_DELAY = 1.0
#: The delay is as many times the time that the last sweep took, if that is more: sites that come
#: and go all the time do not keep the daemon busy with sweeping.
_SWEEP_SHARE = 20
#: Nanoseconds for which one reading of the table serves the entries of every VPN, so that asking
#: for one VPN after the other does not read it as many times; longer if reading took long.
_SNAPSHOT_NS = 100_000_000
#: What a listing notes of an entry: MAC, nanoseconds when it was last seen, number of the member.
_NOTE = struct.Struct("=6sqI")


class MACTable:
    """Finds, lists, ages and removes MACs.

    :param reactor: spreads the work over its turns.
    :param members: every member by its number; kept by the member table.
    :param ageing: seconds of silence after which the switch takes a MAC for unknown.
    :param aged: told of each MAC that was removed for silence.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        maps: dict[str, Map],
        editor: Program,
        members: Mapping[int, Member],
        *,
        ageing: float,
        aged: Callable[[int, bytes], None],
    ) -> None:
        self._reactor = reactor
        self._macs = maps["macs"]
        self._usage = maps["usage"]
        self._held = maps["held"]
        self._vpns = maps["vpns"]
        self._editor = editor
        self._members = members
        self._ageing_ns = int(ageing * 1e9)
        self._aged = aged
        self._work: Iterator[None] | None = None
        self._call: Any = None
        self._sweep_call: Any = None
        self._spent_ns = 0
        self._waiting: dict[float | None, set[tuple[int, bytes]]] = {}
        self._snapshot: dict[int, list[tuple[bytes, int, int]]] | None = None
        self._snapshot_until = 0

    # --- reading ------------------------------------------------------------------------

    def lookup(self, vpn: int, mac: bytes) -> VTEP | None:
        """Where the switch sends frames for a MAC; None if it floods them. One system call."""
        if len(mac) != 6 or not self._macs.find(layout.MAC_KEY.pack(vpn, mac)):
            return None
        seen, number, *_ = layout.MAC_ENTRY.unpack_from(self._macs.value)
        member = self._members.get(number)
        if member is None or time.monotonic_ns() - seen > self._ageing_ns:
            return None
        return member.vtep

    def entry(self, vpn: int, mac: bytes) -> LearnedMAC | None:
        """What the table has of a MAC, aged or not. One system call."""
        if len(mac) != 6 or not self._macs.find(layout.MAC_KEY.pack(vpn, mac)):
            return None
        seen, number, *_ = layout.MAC_ENTRY.unpack_from(self._macs.value)
        member = self._members.get(number)
        if member is None:
            return None
        return LearnedMAC(mac, member.vtep, max(time.monotonic_ns() - seen, 0) / 1e9, False)

    def entries(self, vpn: int) -> Iterator[LearnedMAC]:
        """The MACs of a VPN that are at a member, aged ones included."""
        now = time.monotonic_ns()
        for mac, seen, number in self._grouped(now).get(vpn, ()):
            member = self._members.get(number)
            if member is not None:
                yield LearnedMAC(mac, member.vtep, max(now - seen, 0) / 1e9, False)

    def tables(self, vpn: int | None) -> Iterator[tuple[int, LearnedMAC] | None]:
        """The MACs of a VPN or of all, by VPN; None after each piece of the map that was read.

        What was read is kept packed meanwhile, 18 octets a MAC.
        """
        now = time.monotonic_ns()
        tables: defaultdict[int, bytearray] = defaultdict(bytearray)
        for piece in self._pieces():
            for (index, mac), (seen, number, *_) in piece:
                if vpn is None or index == vpn:
                    tables[index] += _NOTE.pack(mac, seen, number)
            yield None
        for index in sorted(tables):
            for mac, seen, number in _NOTE.iter_unpack(tables.pop(index)):
                member = self._members.get(number)
                if member is not None:
                    yield index, LearnedMAC(mac, member.vtep, max(now - seen, 0) / 1e9, False)

    def count(self, vpn: int) -> int:
        """How many MACs a VPN has, those not yet swept included. One system call."""
        if not self._usage.find(NUMBER.pack(vpn)):
            return 0
        macs: int = layout.USAGE.unpack_from(self._usage.value)[0]
        return macs

    def _grouped(self, now: int) -> dict[int, list[tuple[bytes, int, int]]]:
        if self._snapshot is None or now > self._snapshot_until:
            snapshot: dict[int, list[tuple[bytes, int, int]]] = {}
            for piece in self._pieces():
                for (vpn, mac), (seen, number, *_) in piece:
                    group = snapshot.get(vpn)
                    if group is None:
                        group = snapshot[vpn] = []
                    group.append((mac, seen, number))
            took = time.monotonic_ns() - now
            self._snapshot = snapshot
            self._snapshot_until = now + took + max(_SNAPSHOT_NS, 4 * took)
        return self._snapshot

    def held(self) -> Iterator[HeldMAC]:
        """The MACs that are held now."""
        now = time.monotonic_ns()
        for _, keys, values in self._held.batches():
            for (vpn, mac), (until, number, other) in zip(
                layout.MAC_KEY.iter_unpack(keys), layout.HELD.iter_unpack(values), strict=True
            ):
                member, elsewhere = self._members.get(number), self._members.get(other)
                if until > now and member is not None and self.lookup(vpn, mac) == member.vtep:
                    yield HeldMAC(
                        vpn,
                        mac,
                        member.vtep,
                        None if elsewhere is None else elsewhere.vtep,
                        (until - now) / 1e9,
                    )

    def _pieces(self) -> Iterator[Iterable[tuple[tuple[int, bytes], tuple[int, ...]]]]:
        """The table in pieces, each of VPN and MAC with last seen, member, and more."""
        for _, keys, values in self._macs.batches(MACS_PER_TURN):
            yield zip(
                layout.MAC_KEY.iter_unpack(keys),
                layout.MAC_ENTRY.iter_unpack(values),
                strict=True,
            )

    def changed(self) -> None:
        """The table differs from what was read last."""
        self._snapshot = None

    # --- changing -----------------------------------------------------------------------

    def forget(self, vpn: int, mac: bytes) -> None:
        """Remove one MAC wherever it is."""
        self._edit([(vpn, mac, NOBODY, 0, Edit.REMOVE)])
        self._held.delete(layout.MAC_KEY.pack(vpn, mac))

    def _edit(self, edits: Sequence[tuple[int, bytes, int, int, int]]) -> list[bool]:
        """Run edits: VPN, MAC, only at this member, only if not seen later, what to do."""
        done: list[bool] = []
        for start in range(0, len(edits), EDITS_PER_RUN):
            frame = b"".join(EDIT.pack(*edit, 0) for edit in edits[start : start + EDITS_PER_RUN])
            result = self._editor.run(frame.ljust(_LEAST_FRAME, b"\0"))
            done += [bool(fields[5]) for fields in EDIT.iter_unpack(result[: len(frame)])]
        self.changed()
        return done

    # --- sweeping -----------------------------------------------------------------------

    def age(self, max_idle: float, keep: Mapping[int, Iterable[bytes]]) -> None:
        """Remove MACs that were silent for longer, and refresh those to be kept.

        :param max_idle: seconds.
        :param keep: MACs by VPN.
        """
        self._begin(max_idle, {(vpn, mac) for vpn, macs in keep.items() for mac in macs})

    def sweep(self) -> None:
        """Remove the MACs of members and VPNs that are gone, soon."""
        if self._sweep_call is None:
            delay = max(SWEEP_DELAY, _SWEEP_SHARE * self._spent_ns / 1e9)
            self._sweep_call = self._reactor.callLater(delay, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep_call = None
        self._begin(None, set())

    @property
    def busy(self) -> bool:
        """Whether a sweep is under way."""
        return self._work is not None

    def stop(self) -> None:
        """Leave the rest as it is."""
        for call in (self._call, self._sweep_call):
            if call is not None:
                call.cancel()
        self._call = self._sweep_call = self._work = None
        self._waiting.clear()

    def _begin(self, max_idle: float | None, keep: set[tuple[int, bytes]]) -> None:
        if self._work is not None:
            self._waiting[max_idle] = keep  # the newest wish of each kind is enough
            return
        self._work = self._sweep(max_idle, keep)
        self._spent_ns = 0
        self._call = self._reactor.callLater(0, self._step)

    def _step(self) -> None:
        assert self._work is not None
        began = time.thread_time_ns()
        try:
            more = any(True for _ in self._work)
        except DataplaneError as error:
            # The next sweep tries again; what is left until then counts as unknown anyway.
            self.log.error("sweeping MACs: {reason}", reason=str(error))
            more = False
        self._spent_ns += time.thread_time_ns() - began
        if more:
            self._call = self._reactor.callLater(0, self._step)
            return
        self._work = self._call = None
        if self._waiting:
            self._begin(*self._waiting.popitem())

    def _sweep(self, max_idle: float | None, keep: set[tuple[int, bytes]]) -> Iterator[None]:
        """The work of one sweep; each step is bounded."""
        kept = deque(keep)
        while kept:
            self._edit(
                [
                    (*kept.popleft(), NOBODY, 0, Edit.REFRESH)
                    for _ in range(min(len(kept), MACS_PER_TURN // 2))
                ]
            )
            yield
        oldest = 0 if max_idle is None else time.monotonic_ns() - int(max_idle * 1e9)
        for piece in self._pieces():
            self._judge(piece, oldest, keep)
            yield
        self._forget_usage()
        yield
        self._forget_holds()

    def _judge(
        self,
        piece: Iterable[tuple[tuple[int, bytes], tuple[int, ...]]],
        oldest: int,
        keep: set[tuple[int, bytes]],
    ) -> None:
        members = self._members
        edits: list[tuple[int, bytes, int, int, int]] = []
        silent: list[bool] = []
        for (vpn, mac), (seen, number, *_) in piece:
            if number not in members:
                edits.append((vpn, mac, number, 0, Edit.REMOVE))
                silent.append(False)
            elif seen < oldest and (vpn, mac) not in keep:
                edits.append((vpn, mac, number, seen, Edit.REMOVE))
                silent.append(True)
        if not edits:
            return
        for edit, done, aged in zip(edits, self._edit(edits), silent, strict=True):
            if done and aged:
                self._aged(edit[0], edit[1])

    def _forget_holds(self) -> None:
        """Drop the holds that are over."""
        now = time.monotonic_ns()
        over = [
            layout.MAC_KEY.pack(*key)
            for _, keys, values in self._held.batches()
            for key, (until, *_) in zip(
                layout.MAC_KEY.iter_unpack(keys), layout.HELD.iter_unpack(values), strict=True
            )
            if until <= now
        ]
        for packed in over:
            self._held.delete(packed)

    def _forget_usage(self) -> None:
        """Drop the counts of VPNs that are gone with their last MAC."""
        empty = [
            vpn
            for _, keys, values in self._usage.batches()
            for (vpn,), (macs,) in zip(
                NUMBER.iter_unpack(keys), layout.USAGE.iter_unpack(values), strict=True
            )
            if not macs and not self._vpns.find(NUMBER.pack(vpn))
        ]
        for vpn in empty:
            self._usage.delete(NUMBER.pack(vpn))
