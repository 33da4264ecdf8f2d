"""Taking down the devices of a spoke that does not run. Layer: edge."""

from __future__ import annotations

import contextlib

from twisted.internet.interfaces import IReactorTime

from dmevpn.config.model import SpokePlan
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.spoke_devices import SpokeDevices
from dmevpn.dataplane.spoke_layout import Layout
from dmevpn.dataplane.spoke_readings import READ_STEP
from dmevpn.dataplane.spoke_table import EntryTable
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import SpokeListener
from dmevpn.metrics import Metrics

__all__ = ["take_down"]


def take_down(clock: IReactorTime, plan: SpokePlan) -> None:
    """Remove what was left for a spoke: our devices, and our entries in those of others.

    In the network namespace of the devices. Nothing is asked of the underlay: our address, and the
    way to the hub, may be gone.

    :raises StartError: if we may not.
    :raises DataplaneError: if the kernel refuses.
    """
    # Only the family matters, and that only for what entries are on their way to their removal.
    hub = next((server.address for server in plan.servers if server.address), bytes(4))
    try:
        requests = NetlinkRequests()
    except OSError as error:
        raise DataplaneError(error.errno or 0, f"interface {plan.interface}: netlink") from None
    with contextlib.closing(requests):
        devices = SpokeDevices(requests, plan, hub, None)
        try:
            state = devices.find()
            if state.layout is not None and devices.stay():
                _remove_entries(clock, requests, state.layout)
            devices.remove()
        finally:
            devices.hand_over()


def _remove_entries(clock: IReactorTime, requests: NetlinkRequests, layout: Layout) -> None:
    """What a successor would adopt is what is ours."""
    counter = Metrics().counter
    table = EntryTable(clock, requests, layout, SpokeListener(), counter, lambda: None)
    reading = table.begin_reading(requests)
    while not reading.advance(READ_STEP):
        pass
    table.adopt(reading)
    table.remove_all()
