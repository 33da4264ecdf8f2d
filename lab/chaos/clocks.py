"""What may befall the wall clock of one daemon; the monotonic clock goes on as ever."""

from __future__ import annotations

from datetime import datetime

from lab.chaos.fault import Fault

__all__ = ["CLOCK_FAULTS"]


class WallClockSet(Fault):
    """Somebody sets the wall clock hours ahead or back, and right later. The daemon is told to
    reload meanwhile, or is killed and started, so that it has something to date."""

    kind = "wall clock set"
    contained = True
    longest = 6.0
    #: Seconds by which what it has dated last may be behind.
    tolerance = 60.0

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)
        self.hours = self.chance.randint(1, 48) * self.chance.choice((-1, 1))
        self.killed = self.chance.random() < 0.5

    @property
    def where(self) -> str:
        return f"{super().where}, by {self.hours:+} h{', killed' if self.killed else ''}"

    def change(self) -> None:
        """Do to the clock what is to be done."""
        self.node.clock.set(3600 * self.hours)

    def begin(self) -> None:
        self.change()
        if self.killed:
            self.node.daemon.kill()
            self.node.daemon.start()

    def end(self) -> None:
        self.node.reload()
        shown, dated = self.node.clock.now(), self._dated()
        assert shown - self.tolerance <= dated <= shown, (
            f"{self.node} has another wall clock than it should: it wrote {dated:.0f}, and the "
            f"clock shows {shown:.0f}"
        )
        self.node.clock.set(0)

    def _dated(self) -> float:
        """The time of the latest line in the log, in whole seconds since 1970."""
        for line in reversed(self.node.daemon.log.splitlines()):
            date = line.partition(" ")[0]
            if date.endswith("+0000"):
                return datetime.fromisoformat(date).timestamp()
        raise AssertionError(f"the log of {self.node} has no dates")


class WallClockStopped(WallClockSet):
    """The wall clock stands still, and is set right later."""

    kind = "wall clock stopped"
    shortest = 2.5
    tolerance = 1.0

    @property
    def where(self) -> str:
        return f"{self.node}{', killed' if self.killed else ''}"

    def change(self) -> None:
        self.node.clock.stop()


CLOCK_FAULTS = (WallClockSet, WallClockStopped)
