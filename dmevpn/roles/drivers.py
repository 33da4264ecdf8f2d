"""What a node takes from outside: the makers of everything that touches the world. Layer: role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from dmevpn.config.model import HubPlan, Layer3Plan, SpeakerPlan, SpokePlan
from dmevpn.interfaces import (
    IControlDevice,
    IDatagramTransport,
    IHubDataplane,
    ILayer3Dataplane,
    IRequestIDStore,
    IScripts,
    ISpokeDataplane,
    IStateStore,
)

__all__ = ["Drivers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    """Makers of everything that touches the world; a test passes fakes.

    Those that open something may raise :class:`~dmevpn.errors.StartError` when started.
    """

    control_device: Callable[[SpeakerPlan], IControlDevice | None]
    """The kernel GRE device of a control interface; None: its transport has none."""
    transport: Callable[[SpeakerPlan, IControlDevice | None], IDatagramTransport]
    spoke_dataplane: Callable[[SpokePlan, SpeakerPlan], ISpokeDataplane]
    take_down: Callable[[SpokePlan], None]
    """Removes what was left for a spoke that does not run.

    Raises :class:`~dmevpn.errors.DmevpnError` if that cannot be."""
    hub_dataplane: Callable[[HubPlan, SpeakerPlan], IHubDataplane]
    layer3_dataplane: Callable[[Layer3Plan, SpeakerPlan, IControlDevice | None], ILayer3Dataplane]
    resolve_host: Callable[[str, int | None], Deferred[tuple[bytes, ...]]]
    """A host name to its underlay addresses; of 4 or 16 octets, if they must be."""
    request_ids: IRequestIDStore
    jitter: Callable[[], float]
    """A number from [0, 1), uniformly."""
    machine_id: bytes
    wall_clock: Callable[[], float]
    """Seconds since 1970, as the system believes."""
    state: IStateStore | None = None
    """Keeps what we know for a successor; None: nothing is kept."""
    scripts: IScripts | None = None
    """Runs the operator's script; None: there is none."""
