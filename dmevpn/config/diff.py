"""What a reload has to do: the difference of two plans. Layer: core.

A part that is equal in both plans is not touched. One that differs in what :data:`_LIVE` names goes
on and changes while it runs; in anything else, it restarts. Stopping a daemon is the difference to
an empty plan, starting it the difference from one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final, Generic, TypeVar

from dmevpn.config.model import HubPlan, Layer3Plan, Plan, SpeakerPlan, SpokePlan

__all__ = ["Changes", "Difference", "Part", "describe", "diff"]

Part = SpeakerPlan | SpokePlan | HubPlan | Layer3Plan
T = TypeVar("T", bound=Part)

#: Fields of a plan that its part takes over while it runs.
_LIVE: Final[dict[type, frozenset[str]]] = {
    SpeakerPlan: frozenset(
        {"authentication", "holding_time", "keepalive", "peers", "request_rate", "vpn_errors"}
    ),
    SpokePlan: frozenset({"servers"}),
    HubPlan: frozenset({"admission", "routes", "switch", "trunks", "vpns"}),
    Layer3Plan: frozenset(),
}
#: The keywords that a field comes from, where its name does not say so.
_KEYWORDS: Final[dict[str, tuple[str, ...]]] = {
    "admission": ("permit", "members-only"),
    "addresses": ("protocol-address",),
    "bridge": ("provision",),
    "maps": ("map", "dynamic-map"),
    "peers": ("map", "implied-vpn"),
    "permits": ("permit-protocol",),
    "plain": ("implied-vpn",),
    "plain_vpn": ("implied-vpn",),
    "port": ("vxlan-port",),
    "routes": ("map",),
    "servers": ("default-vni", "map-vni", "map"),
    "station": ("map-vni",),
    "switch": ("mac-limit", "flood-rate", "duplicate-mac", "sticky", "loop-probe"),
    "targets": ("shortcut-target",),
    "trunks": ("other-hub",),
    "vni": ("default-vni",),
    "vpn_of_key": ("implied-vpn",),
    "vpns": ("vpn-id",),
}


@dataclass(frozen=True, slots=True)
class Difference(Generic[T]):
    """What becomes of the parts of one kind."""

    stopped: tuple[T, ...] = ()
    """Parts of the old plan that are gone."""
    restarted: tuple[tuple[T, T], ...] = ()
    """Parts that stop and start again in another form: old, new."""
    changed: tuple[tuple[T, T], ...] = ()
    """Parts that go on and change while they run: old, new."""
    started: tuple[T, ...] = ()
    """Parts of the new plan that were not there."""

    def __bool__(self) -> bool:
        return bool(self.stopped or self.restarted or self.changed or self.started)

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

    In this order: stop spokes, layer 3, hubs, speakers; change or start speakers, hubs, layer 3,
    spokes. All that stops does so before anything starts, since devices, ports and VPNs may change
    hands.
    """

    speakers: Difference[SpeakerPlan] = Difference()
    """By name of the control interface."""
    spokes: Difference[SpokePlan] = Difference()
    """By VPN index."""
    hubs: Difference[HubPlan] = Difference()
    """By name of the data interface."""
    layer3: Difference[Layer3Plan] = Difference()
    """By control interface and VPN."""
    at_once: tuple[str, ...] = ()
    """Keywords of the daemon as a whole whose change takes effect at once."""
    postponed: tuple[str, ...] = ()
    """Keywords whose change waits for the next start of the daemon."""

    def __bool__(self) -> bool:
        roles = self.spokes or self.hubs or self.layer3
        return bool(self.speakers or roles or self.at_once or self.postponed)


def diff(old: Plan, new: Plan) -> Changes:
    """What leads from one plan to another; falsy if nothing does."""
    # The OUI is part of every VPN identifier that a speaker reads or writes.
    everything = old.oui != new.oui
    speakers = _difference(
        old.speakers, new.speakers, lambda speaker: speaker.interface, lambda speaker: everything
    )
    touched = {after.interface for _, after in speakers.restarted}
    postponed = {
        "admin": old.admin != new.admin,
        "admin-allow": old.admin_allow != new.admin_allow,
        "metrics": old.metrics != new.metrics,
        "opennhrp-script": old.opennhrp_script != new.opennhrp_script,
        "opennhrp-socket": old.opennhrp_socket != new.opennhrp_socket,
        "status": old.status != new.status,
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
        at_once=("leave-forwarding",) if old.leave_forwarding != new.leave_forwarding else (),
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
    must_restart = [touched(b) or not _goes_on(a, b) for a, b in both]
    return Difference(
        stopped=tuple(part for name, part in before.items() if name not in after),
        restarted=tuple(pair for pair, must in zip(both, must_restart, strict=True) if must),
        changed=tuple(
            (a, b) for (a, b), must in zip(both, must_restart, strict=True) if a != b and not must
        ),
        started=tuple(part for name, part in after.items() if name not in before),
    )


def _differing(old: Part, new: Part) -> list[str]:
    """The fields of a part that differ."""
    return [each.name for each in fields(new) if getattr(old, each.name) != getattr(new, each.name)]


def _goes_on(old: Part, new: Part) -> bool:
    """Whether a part can take over its new plan while it runs."""
    if isinstance(old, SpokePlan) and isinstance(new, SpokePlan):
        # A vxlan device is of one address family for its life. Names are looked up in it.
        known = [server.address for server in (*old.servers, *new.servers)]
        if len({len(address) for address in known if address is not None}) > 1:
            return False
    return _LIVE[type(new)].issuperset(_differing(old, new))


def describe(changes: Changes) -> Iterator[tuple[str, Part, tuple[str, ...]]]:
    """What becomes of each part that is touched: ``stop``, ``restart``, ``change`` or ``start``,
    the part (in its new form, if it has one), and the keywords that make the difference.

    A part that restarts for want of any has a control interface that does.
    """
    for kind in (changes.speakers, changes.hubs, changes.layer3, changes.spokes):
        yield from (("stop", part, ()) for part in kind.stopped)
        for word, pairs in (("restart", kind.restarted), ("change", kind.changed)):
            for old, new in pairs:
                names = [
                    _KEYWORDS.get(each, (each.replace("_", "-"),)) for each in _differing(old, new)
                ]
                yield word, new, tuple(dict.fromkeys(name for group in names for name in group))
        yield from (("start", part, ()) for part in kind.started)
