"""What a reload has to do: the difference of two plans. Layer: core.

Every change restarts the role or speaker that it touches, but for one of keys and secrets, which
speakers take over while they run; what is equal in both plans is not touched. Stopping a daemon is
the difference to an empty plan, starting it the difference from one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from dmevpn.config.model import HubPlan, Layer3Plan, Plan, SpeakerPlan, SpokePlan

__all__ = ["Changes", "Difference", "diff"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Difference(Generic[T]):
    """What becomes of the parts of one kind."""

    stopped: tuple[T, ...] = ()
    """Parts of the old plan that are gone."""
    restarted: tuple[tuple[T, T], ...] = ()
    """Parts that go on in another form: old, new."""
    started: tuple[T, ...] = ()
    """Parts of the new plan that were not there."""

    def __bool__(self) -> bool:
        return bool(self.stopped or self.restarted or self.started)

    @property
    def to_stop(self) -> tuple[T, ...]:
        """All that must stop: what is gone, and the old form of what is restarted."""
        return (*self.stopped, *(old for old, _ in self.restarted))

    @property
    def to_start(self) -> tuple[T, ...]:
        """All that must start: the new form of what is restarted, and what is new."""
        return (*(new for _, new in self.restarted), *self.started)


@dataclass(frozen=True, slots=True)
class Changes:
    """The way from one plan to another.

    In this order: stop spokes, layer 3, hubs, speakers; start speakers, hubs, layer 3, spokes.
    All that stops does so before anything starts, since devices, ports and VPNs may change hands.
    """

    speakers: Difference[SpeakerPlan] = Difference()
    """By name of the control interface."""
    spokes: Difference[SpokePlan] = Difference()
    """By VPN index."""
    hubs: Difference[HubPlan] = Difference()
    """By name of the data interface."""
    layer3: Difference[Layer3Plan] = Difference()
    """By control interface and VPN."""
    rekeyed: tuple[SpeakerPlan, ...] = ()
    """Control interfaces that go on and only authenticate differently, in their new form."""
    postponed: tuple[str, ...] = ()
    """Keywords whose change waits for the next start of the daemon."""

    def __bool__(self) -> bool:
        roles = self.spokes or self.hubs or self.layer3
        return bool(self.speakers or roles or self.rekeyed or self.postponed)


def diff(old: Plan, new: Plan) -> Changes:
    """What leads from one plan to another; falsy if nothing does."""
    # The OUI is part of every VPN identifier that a speaker reads or writes.
    everything = old.oui != new.oui
    authentication = {speaker.interface: speaker.authentication for speaker in new.speakers}
    speakers = _difference(
        [
            replace(s, authentication=authentication.get(s.interface, s.authentication))
            for s in old.speakers
        ],
        new.speakers,
        lambda s: s.interface,
        lambda speaker: everything,
    )
    touched = {after.interface for _, after in speakers.restarted}
    kept = {s.interface: s.authentication for s in old.speakers if s.interface not in touched}
    postponed = {
        "admin": old.admin != new.admin,
        "metrics": old.metrics != new.metrics,
        "state-dir": old.state_dir != new.state_dir,
        "log-format": old.log_format != new.log_format,
    }
    return Changes(
        speakers=speakers,
        spokes=_difference(
            old.spokes,
            new.spokes,
            lambda spoke: spoke.vpn.index,
            lambda spoke: spoke.controller in touched,
        ),
        hubs=_difference(
            old.hubs,
            new.hubs,
            lambda hub: hub.interface,
            lambda hub: hub.controller in touched,
        ),
        layer3=_difference(
            old.layer3,
            new.layer3,
            lambda layer3: (layer3.interface, layer3.vpn),
            lambda layer3: layer3.interface in touched,
        ),
        rekeyed=tuple(
            s for s in new.speakers if kept.get(s.interface, s.authentication) != s.authentication
        ),
        postponed=tuple(keyword for keyword, changed in postponed.items() if changed),
    )


def _difference(
    old: Iterable[T],
    new: Iterable[T],
    key: Callable[[T], Hashable],
    touched: Callable[[T], bool],
) -> Difference[T]:
    """Compare parts by key.

    :param touched: whether a part that is in both must restart even if it is equal.
    """
    before = {key(part): part for part in old}
    after = {key(part): part for part in new}
    both = [(before[name], after[name]) for name in after if name in before]
    return Difference(
        stopped=tuple(part for name, part in before.items() if name not in after),
        restarted=tuple((a, b) for a, b in both if a != b or touched(b)),
        started=tuple(part for name, part in after.items() if name not in before),
    )
