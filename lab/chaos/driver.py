"""Rounds of faults, and what is measured and must hold after each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from lab.chaos.fault import Fault
from lab.chaos.growth import Sample, grown, sample
from lab.chaos.machine import dropped
from lab.chaos.mesh import RATE, Mesh, Stream
from lab.chaos.stage import Stage, Station
from lab.wait import Timeout, eventually

__all__ = ["RECOVERY", "BrokenPromise", "Chaos", "Kind", "Round"]

#: Seconds after a fault within which everything must be as before.
RECOVERY = 5.0
#: Seconds that are waited all the same, to say how long it took.
PATIENCE = 90.0
#: Seconds without loss after which a round is over.
CALM = 0.5
#: How often another fault comes before the first is over.
AGAIN = 0.3
#: What the kernel, for one frame that it is flooding while its path changes, may deliver twice.
DOUBLED = 1
#: Signs of a fault in a log.
SIGNS = ("Traceback (most recent call last)", "Unhandled", "[critical]")


class BrokenPromise(AssertionError):
    """Something is not as it should be."""


@dataclass
class Kind:
    """What was measured of all faults of a kind; those that came together are one kind."""

    recoveries: list[float] = field(default_factory=list)
    lost: int = 0
    """Frames that paths lost which the fault may disturb."""
    elsewhere: int = 0
    """Frames that all other paths lost."""
    doubled: int = 0

    def p99(self) -> float:
        """The recovery that 99 % are no longer than."""
        ordered = sorted(self.recoveries)
        return ordered[int(0.99 * (len(ordered) - 1) + 0.5)]


@dataclass
class Round:
    """A fault, or several at once."""

    faults: list[Fault]
    began: float
    healed: float = float("inf")
    """When the last of them was over."""

    @property
    def kind(self) -> str:
        """What it is counted as."""
        return self.faults[0].kind if len(self.faults) == 1 else "several at once"

    @property
    def text(self) -> str:
        """What happened where."""
        return " + ".join(
            f"{fault.kind} ({fault.where}, {fault.seconds:g} s{fault.seen})"
            for fault in self.faults
        )

    @property
    def contained(self) -> bool:
        """Whether only what it disturbs may lose frames on its account."""
        return all(fault.contained for fault in self.faults)

    def disturbs(self, stream: Stream, receiver: Station) -> bool:
        """Whether a stream may lose frames on its account."""
        return any(
            fault.disturbs(stream.sender, receiver, to_all=stream.to_all) for fault in self.faults
        )

    def excuses(self, stream: Stream, receiver: Station, time: float) -> bool:
        """Whether a frame that was sent at a time may be lost on its account."""
        return self.lasts(time) and (not self.contained or self.disturbs(stream, receiver))

    def lasts(self, time: float) -> bool:
        """Whether it was there at a time, or was over for less than the promised time."""
        return self.began <= time <= self.healed + RECOVERY


class Chaos:
    """The driver.

    :param stage: the network, built.
    :param mesh: its streams, running.
    :param kinds: of the faults.
    :param seed: decides which faults come, where, and for how long.
    :param keep_going: whether to go on after a broken promise.
    """

    def __init__(
        self,
        stage: Stage,
        mesh: Mesh,
        kinds: Sequence[type[Fault]],
        *,
        seed: int,
        keep_going: bool = False,
    ) -> None:
        self.stage = stage
        self.mesh = mesh
        self.table: dict[str, Kind] = {}
        self.broken: list[str] = []
        self.before: dict[str, Sample] = {}
        self.after: dict[str, Sample] = {}
        self.faults = 0
        self.frames = 0
        self._kinds = list(kinds)
        self._deck: list[type[Fault]] = []
        self._chance = Random(seed)
        self._keep_going = keep_going
        self._begin = time.monotonic()
        self._looked: dict[str, int] = {}
        self._quiet = self._begin
        self._dropped = dropped()
        self._recent: list[Round] = []
        """Those on whose account frames may be lost or doubled still."""
        self._late: list[str] = []
        """Paths that recovered too late, after the latest round."""

    def run(self, seconds: float, *, most: int | None = None) -> None:
        """Let faults befall the network for a time.

        :param most: rounds that are enough, however soon they are over.
        :raises BrokenPromise: something did not hold.
        """
        self._begin = time.monotonic()
        self._await_calm(self._begin, 60)
        eventually("shortcuts between all sites", self.stage.direct, timeout=30, interval=0.2)
        self._quiet = time.monotonic()
        # Each kind once is the warm-up, if there is time for that in the first half.
        warm_up = min(len(self._kinds), max(1, round(seconds / 12)), most or len(self._kinds))
        rounds = 0
        while time.monotonic() < self._begin + seconds and rounds != most:
            self._round()
            rounds += 1
            half = time.monotonic() > self._begin + seconds / 2
            if not self.before and (rounds == warm_up or half):
                self.before = sample(self.stage)
        eventually(
            "end of what hubs say of loops", lambda: not self.stage.loops(), timeout=20, interval=1
        )
        self.after = sample(self.stage)
        self._hold("nothing grows", grown(self.stage, self.before, self.after))
        self._check_daemons()

    # --- a round ---------------------------------------------------------------------------------

    def _round(self) -> None:
        faults = [self._draw()]
        while len(faults) < 3 and self._chance.random() < AGAIN:
            another = self._draw()
            if not any(another.targets & each.targets for each in faults):
                faults.append(another)
        self._check_quiet()
        event = Round(faults, time.monotonic())
        self._recent = [each for each in self._recent if each.lasts(self._quiet)] + [event]
        self._befall(faults)
        event.healed = time.monotonic()
        self.faults += len(faults)
        took = self._await_calm(event.healed, PATIENCE)
        self._account(event, took)
        if self.stage.held:
            self._release(set(self.stage.held))

    def _release(self, held: set[Station]) -> None:
        """Have hubs forget who is held. They learn it anew from the next frames, which may cost a
        path to them or from them one frame."""
        began = time.monotonic()
        self.stage.release()
        self._await_calm(began, PATIENCE)
        end = time.monotonic()
        self.frames += self.mesh.sent(self._quiet, end)
        lost = {
            (stream, receiver): times
            for (stream, receiver), times in self.mesh.lost(self._quiet, end).items()
            if len(times) > 1 or not held.intersection((stream.sender, receiver))
        }
        self._quiet = end
        self._check_losses("a release of held MACs costs a path one frame", lost)

    def _draw(self) -> Fault:
        """The next fault: each kind comes once before any comes again."""
        if not self._deck:
            self._deck = self._kinds.copy()
            self._chance.shuffle(self._deck)
        return self._deck.pop()(self.stage, self._chance)

    def _befall(self, faults: list[Fault]) -> None:
        """Let all begin, and end each when its time is over."""
        ends: dict[Fault, float] = {}
        for fault in faults:
            fault.begin()
            ends[fault] = time.monotonic() + fault.seconds
        for fault in sorted(faults, key=ends.__getitem__):
            time.sleep(max(0.0, ends[fault] - time.monotonic()))
            fault.end()

    def _await_calm(self, healed: float, patience: float) -> float:
        """Wait until no frame is lost and no shortcut is stale; seconds from ``healed`` on."""
        stale: list[str] = []
        fresh = healed

        def calm() -> bool:
            nonlocal stale, fresh
            now = time.monotonic()
            if now < healed + CALM or self._wrong(now - CALM - 0.3):
                return False
            stale = self.stage.stale()
            if stale:
                fresh = now
            return not stale

        try:
            eventually("calm", calm, timeout=patience, interval=0.1)
        except Timeout:
            wrong = self._wrong(time.monotonic() - 2)
            paths = ", ".join(sorted(f"{stream} at {where}" for stream, where in wrong))
            raise BrokenPromise(
                f"not recovered after {patience:g} s: frames are lost or doubled on {len(wrong)} "
                f"paths ({paths}); stale: {stale}"
            ) from None
        # The frame after the last that was lost is the first that came.
        came = {path: max(times) + 1 / RATE - healed for path, times in self._wrong(healed).items()}
        self._late = [
            f"{stream} at {receiver} {took:.1f} s"
            for (stream, receiver), took in came.items()
            if took > RECOVERY
        ]
        return max([fresh - healed, *came.values()])

    def _wrong(self, begin: float) -> dict[tuple[Stream, Station], list[float]]:
        """Frames sent since then that were lost, or of which more were doubled than may be."""
        now = time.monotonic()
        found = dict(self.mesh.lost(begin, now))
        for path, times in self.mesh.doubled(begin, now).items():
            if len(times) > DOUBLED:
                found[path] = sorted([*found.get(path, []), *times])
        return found

    def _account(self, event: Round, took: float) -> None:
        end = time.monotonic()
        lost = elsewhere = 0
        others = {}
        for (stream, receiver), times in self.mesh.lost(event.began, end).items():
            if event.disturbs(stream, receiver):
                lost += len(times)
            else:
                elsewhere += len(times)
                others[stream, receiver] = times
        doubled = sum(map(len, self.mesh.doubled(event.began, end).values()))
        self.frames += self.mesh.sent(self._quiet, end)
        kind = self.table.setdefault(event.kind, Kind())
        kind.recoveries.append(took)
        kind.lost += lost
        kind.elsewhere += elsewhere
        kind.doubled += doubled
        print(
            f"[{event.began - self._begin:6.1f} s] {event.text}: recovered in {took:.2f} s; "
            f"lost {lost}, elsewhere {elsewhere}; doubled {doubled}",
            flush=True,
        )
        self._quiet = end
        problems = []
        if took > RECOVERY:
            problems.append(f"{took:.1f} s after {event.text} ({', '.join(self._late)})")
        self._hold(f"all is as before within {RECOVERY:g} s", problems)
        self._check_losses("no frame is lost where a fault has no business", others, event.text)
        self._hold("no frame crosses VPNs", self.mesh.crossings.take())
        self._check_daemons()

    def _check_losses(
        self, promise: str, lost: dict[tuple[Stream, Station], list[float]], event: str = ""
    ) -> None:
        """Whether frames were lost that nothing may cost. What a processor of this machine had no
        room for is not the network's fault: a cable can make that much, where daemons take the
        processor from what delivers frames."""
        problems = []
        count = 0
        for (stream, receiver), each in lost.items():
            times = [
                time
                for time in each
                if not any(event.excuses(stream, receiver, time) for event in self._recent)
            ]
            if times:
                count += len(times)
                first, last = times[0] - self._begin, times[-1] - self._begin
                problems.append(
                    f"{stream} at {receiver}: {len(times)} from {first:.2f} to {last:.2f} s"
                )
        before, self._dropped = self._dropped, dropped()
        if 0 < count <= self._dropped - before:
            print(
                f"           {count} more lost: this machine had no room for "
                f"{self._dropped - before} packets"
            )
        elif problems:
            self._hold(f"{promise}{event and f' ({event})'}", problems)

    # --- what holds at any time ------------------------------------------------------------------

    def _check_quiet(self) -> None:
        """What came and what did not since the last round was over."""
        time.sleep(0.5)
        now = time.monotonic()
        self.frames += self.mesh.sent(self._quiet, now)
        self._check_losses("no frame is lost in quiet times", self.mesh.lost(self._quiet, now))
        doubled = []
        for (stream, receiver), times in self.mesh.doubled(self._quiet, now).items():
            late = [each for each in times if not any(event.lasts(each) for event in self._recent)]
            if len(late) > DOUBLED:
                doubled.append(f"{stream} at {receiver}: {len(late)}")
        self._hold("no frame comes twice in quiet times, or one of a path", doubled)

    def _check_daemons(self) -> None:
        """All run, and say nothing that hints at a mistake of ours."""
        dead = [f"{node} has ended" for node in self.stage.nodes if not node.daemon.running]
        self._hold("daemons live", dead)
        for node in self.stage.nodes:
            log, looked = node.daemon.log, self._looked.get(node.name, 0)
            self._looked[node.name] = len(log)
            new = log[looked:]
            signs = [f"{node}:\n{new[-3000:]}" for sign in SIGNS if sign in new]
            self._hold("logs have no traceback", signs[:1])

    def _hold(self, promise: str, problems: Sequence[str]) -> None:
        if not problems:
            return
        text = f"{promise}: {'; '.join(problems)}"
        self.broken.append(text)
        if not self._keep_going:
            raise BrokenPromise(text)
        print(f"           BROKEN: {text}", flush=True)
