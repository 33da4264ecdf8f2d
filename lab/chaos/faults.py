"""All kinds of faults."""

from __future__ import annotations

from lab.chaos.at_daemons import DAEMON_FAULTS
from lab.chaos.at_hubs import HUB_FAULTS
from lab.chaos.at_sites import SITE_FAULTS
from lab.chaos.at_underlay import UNDERLAY_FAULTS
from lab.chaos.behind import FAULTS_BEHIND
from lab.chaos.clocks import CLOCK_FAULTS
from lab.chaos.fault import Fault

__all__ = ["FAULTS"]

FAULTS: tuple[type[Fault], ...] = (
    *DAEMON_FAULTS,
    *CLOCK_FAULTS,
    *UNDERLAY_FAULTS,
    *SITE_FAULTS,
    *FAULTS_BEHIND,
    *HUB_FAULTS,
)
