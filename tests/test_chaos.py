"""What `make chaos` holds a fault responsible for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import cast

from lab.chaos.driver import RECOVERY, Round
from lab.chaos.fault import Fault
from lab.chaos.mesh import Crossings, Stream
from lab.chaos.stage import Site, Stage, Station
from lab.topology import VM


class Here(Fault):
    """It disturbs one station only."""

    kind = "here"
    contained = True
    struck: Station

    def choose(self) -> None:
        """Nothing by chance."""

    def begin(self) -> None:
        """Nothing happens."""

    def end(self) -> None:
        """Nothing did."""

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return self.struck in (one, other)


class Anywhere(Here):
    """It may disturb everybody."""

    contained = False


@dataclass
class Machine:
    """Has a name and a MAC."""

    name: str
    mac: str = "02:00:00:00:00:01"


def station(number: int, *, vpn: int = 1) -> Station:
    """One that need not be anywhere."""
    vm = cast(VM, Machine(f"vm{vpn}s{number}"))
    return Station(vpn, number, vm, cast(Site, None))


def stations() -> list[Station]:
    """Three of a VPN."""
    return [station(number) for number in (3, 4, 5)]


def a_round(kind: type[Here], struck: Station, *, healed: float = 110.0) -> Round:
    """A fault from 100 s on."""
    fault = kind(cast(Stage, None), Random(1))
    fault.struck = struck
    return Round([fault], 100.0, healed)


def test_what_a_fault_excuses() -> None:
    """Losses at those that it disturbs, from its beginning until 5 s after its end."""
    struck, one, other = stations()
    event = a_round(Here, struck)
    stream = Stream(one, [struck, other], to_all=True)
    for time in (100.0, 109.0, 110.0 + RECOVERY):
        assert event.excuses(stream, struck, time)
        assert not event.excuses(stream, other, time)
    for time in (99.9, 110.1 + RECOVERY):
        assert not event.excuses(stream, struck, time)


def test_a_fault_that_may_disturb_everybody() -> None:
    """For as long, and no longer."""
    struck, one, other = stations()
    event = a_round(Anywhere, struck)
    stream = Stream(one, [other], to_all=False)
    assert event.excuses(stream, other, 114.0)
    assert not event.excuses(stream, other, 116.0)


def test_a_fault_that_is_there() -> None:
    """Has no end so far."""
    struck, one, _ = stations()
    event = a_round(Here, struck, healed=float("inf"))
    assert event.excuses(Stream(one, [struck], to_all=False), struck, 1e6)


def test_frames_that_cross() -> None:
    """Are told once, with all that is known of them."""
    one, other, _ = stations()
    stream = Stream(one, [other], to_all=False)
    frames = [stream.next_frame() for _ in range(3)]
    crossings = Crossings()
    assert crossings.take() == []
    foreign = station(3, vpn=2)
    for number in (1, 2):
        crossings.note(stream, foreign, number, frames[number])
    (said,) = crossings.take()
    assert "2 frames of vm1s3 to vm1s4 in VPN 1 at vm2s3 in VPN 2, numbers 1 to 2" in said
    assert frames[1].hex() in said and frames[2].hex() not in said
    assert crossings.take() == []
