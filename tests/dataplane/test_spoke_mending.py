"""Putting devices of a spoke right, where the kernel does not play along at once."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel

from dmevpn.dataplane.pending import PendingCalls
from dmevpn.dataplane.spoke_devices import DeviceState
from dmevpn.dataplane.spoke_mending import RESTORE_DELAY, RESTORE_RETRY, Mending
from dmevpn.errors import DataplaneError, StartError
from dmevpn.metrics import Metrics
from tests.dataplane.test_provision import texts_of

#: How the devices are when somebody has removed one of them.
GONE = DeviceState(None, False, 0, ("vx1 is gone",))


class Devices:
    """Devices that cannot be had at first."""

    provisioned = True

    def __init__(self, refusals: list[Exception]) -> None:
        self.refusals = refusals

    def restore(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.mark.parametrize(
    "refusal",
    [
        StartError("interface vx1: no room"),
        DataplaneError(errno.ENOBUFS, "asking the kernel"),
    ],
)
def test_devices_that_cannot_be_had_at_once(refusal: Exception) -> None:
    """It is tried again, whatever the kernel says, and said once."""
    clock = MemoryReactorClock()
    calls = PendingCalls(clock)
    looks: list[float] = []
    mending = Mending(
        "vx1",
        Devices([refusal, refusal]),  # type: ignore[arg-type]
        Metrics(),
        calls.later,
        look=lambda: looks.append(clock.seconds()),
        mended=lambda faults: None,
    )
    with texts_of(LogLevel.error) as said:
        mending.note(GONE)
        clock.pump([RESTORE_DELAY, RESTORE_RETRY])
        assert looks == []
        clock.pump([RESTORE_RETRY, 0])
    assert len(looks) == 1
    assert said == [f"vx1: {refusal}"]
