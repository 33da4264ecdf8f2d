"""Virtual days of a tortured world in a few minutes, and whether its memory stays flat.

What is counted is blocks of Python's allocator, after all faults were healed and everything that
was learnt meanwhile has run out; the process's resident memory is shown beside it.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from tests.torture import DAMAGES, TorturedWorld

__all__ = ["GROWTH", "Soak", "main"]

#: By how much more than after the warm-up may be in use at the end.
GROWTH = 0.05
#: The part of the time that is warm-up.
WARM_UP = 0.2
#: Seconds after which nothing is left of what happened before: answers live for 300 at most.
QUIET = 400


#: The first that a daemon has logged with a traceback.
_failures: list[LogEvent] = []


class Soak:
    """A world in which something happens every few seconds."""

    def __init__(self, seed: int) -> None:
        self.world = TorturedWorld(seed)
        self.faults = 0

    def live(self, seconds: float) -> None:
        """Let time pass, with traffic and faults, and check what must hold all the while."""
        world, end = self.world, self.world.clock.seconds() + seconds
        while world.clock.seconds() < end:
            if world.chance.random() < 0.1:
                self._fault()
            if world.chance.random() < 0.05:
                world.heal()
            stations = list(world.homes)
            world.say(world.chance.choice(stations))
            one, other = world.chance.sample(stations, 2)
            if one[0] == other[0]:
                world.say(one, other[1])
            world.run(5, step=1)
            world.check()
            self._clear()

    def _fault(self) -> None:
        world, chance = self.world, self.world.chance
        self.faults += 1
        machine = chance.choice(list(world.machines.values()))
        hub, site = chance.choice(world.hubs), chance.choice(world.places)
        station = chance.choice(list(world.homes))
        sites = world.sites_of(station[0])
        fault = chance.randrange(18)
        if fault == 0 and machine.node is not None:
            world.kill(machine)
        elif fault == 1:
            world.stop(machine, leaving=chance.random() < 0.5)
        elif fault == 2:
            world.lose_power(machine)
        elif fault == 3:
            world.move(station, chance.choice(sites))
        elif fault == 4:
            world.network.loss, world.network.duplication = 0.3, 0.1
            world.network.delay_variation = 1.0
        elif fault == 5:
            world.network.isolate(machine.address)
        elif fault == 6:
            chance.choice(sites).kernel.set_up(False)
        elif fault == 7:
            world.drain(hub, over=chance.random() < 0.5)
        elif fault == 8:
            world.damage(machine, chance.choice(DAMAGES))
        elif fault == 9:
            world.duplicate(station, chance.choice(sites), 8)
        elif fault == 10:
            world.change_speaker(machine, request_rate=chance.choice((1, 4)))
        elif fault == 11:
            world.pester(site, hub, 30)
        elif fault == 12:
            world.wall += chance.choice((-86400, -5, 5, 86400))
        elif fault == 13:
            world.serve(hub, (chance.choice(((1, 1), (2, 2))),))
        elif fault == 14:
            world.know(site)
        elif fault == 15:
            world.assign(site)
        elif fault == 16:
            world.empty(machine)
        else:
            world.restart(machine)

    def _clear(self) -> None:
        """Forget what only tests want to know."""
        self.world.network.transmissions.clear()
        for site in self.world.places:
            site.received.clear()

    def blocks(self) -> int:
        """What is in use when everything works and is quiet."""
        world = self.world
        world.heal()
        world.wait()
        world.run(QUIET, step=1)
        for station in world.homes:
            world.say(station)
        world.run(5, step=1)
        assert world.wrong() == []
        world.run(5, step=1)
        self._clear()
        gc.collect()
        return sys.getallocatedblocks()


@provider(ILogObserver)
def _observe(event: LogEvent) -> None:
    if "log_failure" in event and not _failures:
        _failures.append(event)


def _resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def main() -> int:
    """Run it; 1 if memory has grown."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--days", type=float, default=2.0, help="virtual days (2)")
    parser.add_argument("--steps", type=int, default=10, help="how often to look (10)")
    parser.add_argument("--seed", type=int, default=1, help="what chance follows (1)")
    options = parser.parse_args()
    soak, began = Soak(options.seed), time.monotonic()
    warm = 0
    steps = options.steps
    globalLogPublisher.addObserver(_observe)
    print("   hours  faults   blocks  MiB resident  seconds")
    for step in range(1, steps + 1):
        soak.live(options.days * 86400 / steps)
        blocks = soak.blocks()
        if _failures:
            print(_failures[0]["log_failure"].getTraceback())
            return 1
        if step == round(WARM_UP * steps):
            warm = blocks
        hours, took = soak.world.clock.seconds() / 3600, time.monotonic() - began
        figures = f"{hours:8.1f} {soak.faults:7d} {blocks:8d} {_resident():13.1f} {took:8.0f}"
        print(figures, flush=True)
    growth = blocks / warm - 1
    print(f"growth after the warm-up: {growth:.2%} (at most {GROWTH:.0%})")
    return 0 if growth <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
