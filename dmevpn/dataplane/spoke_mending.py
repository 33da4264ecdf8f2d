"""What somebody does to the devices of a spoke is said, counted, and put right. Layer: edge."""

from __future__ import annotations

from collections.abc import Callable

from dmevpn.dataplane.pending import Later
from dmevpn.dataplane.spoke_devices import DeviceState, SpokeDevices
from dmevpn.errors import DmevpnError
from dmevpn.log import Logger
from dmevpn.metrics import Metrics

__all__ = ["Mending"]

#: Seconds until devices of ours that somebody changed or removed are put right, so that a change of
#: several steps costs one repair, and between attempts.
RESTORE_DELAY = 0.25
RESTORE_RETRY = 5.0


class Mending:
    """Puts devices right that are ours; what is wrong with others is only said.

    :param interface: the data interface, for the log and counters.
    :param look: called when they may be right again.
    :param mended: called with what was wrong when it is right.
    """

    log = Logger()

    def __init__(
        self,
        interface: str,
        devices: SpokeDevices,
        metrics: Metrics,
        later: Later,
        *,
        look: Callable[[], None],
        mended: Callable[[str], None],
    ) -> None:
        self._interface = interface
        self._devices = devices
        self._later = later
        self._look = look
        self._mended = mended
        self._known: frozenset[str] = frozenset()
        """What is not as it should be."""
        self._repairing = ""
        """What was not when they were last put right."""
        self._refusal = ""
        """Why they cannot be put right."""
        self._faults = metrics.counter("device_faults", interface=interface)
        self._repairs = metrics.counter("device_repairs", interface=interface)

    def note(self, state: DeviceState) -> None:
        """Say and count what is new, and have it put right."""
        faults = frozenset((*state.faults, *(f"{name} is down" for name in state.down)))
        new = faults - self._known
        self._known = faults
        self._faults.inc(len(new))
        for fault in sorted(new):
            self.log.warn("{ifname}: {reason}", ifname=self._interface, reason=fault)
        if state.faults:
            if self._devices.provisioned:
                self._later("restore", RESTORE_DELAY if new else RESTORE_RETRY, self._restore)
            return
        if self._repairing:
            self._repairs.inc()
            self._mended(self._repairing)
        self._repairing = self._refusal = ""

    def _restore(self) -> None:
        try:
            self._devices.restore()
        except DmevpnError as error:
            if self._refusal != str(error):
                self._refusal = str(error)
                self.log.error("{ifname}: {reason}", ifname=self._interface, reason=self._refusal)
            self._later("restore", RESTORE_RETRY, self._restore)
        else:
            self._repairing = "; ".join(sorted(self._known))
            self._later("links", 0, self._look)
