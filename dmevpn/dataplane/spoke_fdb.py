"""The spoke's data plane on the kernel: devices, misses, changes by others. Layer: edge.

:class:`VXLANFDB` joins the devices, the entry table and the kernel's notifications. What should
be is noted in the table and written once a turn of the reactor. After a link that bounced, lost
notifications, or a removal by somebody else, the kernel's tables are read, and the difference is
repaired by the same writing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, format_address, is_station_mac
from dmevpn.config.model import SpokePlan
from dmevpn.dataplane.links import parse_links, parse_ports
from dmevpn.dataplane.neighbours import (
    RTM_DELNEIGH,
    is_about_addresses,
    parse_entries,
)
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.pending import PendingCalls
from dmevpn.dataplane.spoke_checks import Inspection
from dmevpn.dataplane.spoke_devices import SpokeDevices, hub_address
from dmevpn.dataplane.spoke_drift import LOOK_DELAY, Drift
from dmevpn.dataplane.spoke_layout import Layout
from dmevpn.dataplane.spoke_mending import Mending
from dmevpn.dataplane.spoke_notices import Misses, Notices
from dmevpn.dataplane.spoke_reading import Reading
from dmevpn.dataplane.spoke_readings import READ_PAUSE, READ_STEP, Readings
from dmevpn.dataplane.spoke_table import EntryTable
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import (
    FDBEntry,
    Finding,
    ISpokeDataplane,
    ISpokeListener,
    Placement,
    PlaneCounters,
)
from dmevpn.log import Logger
from dmevpn.metrics import Counter, Metrics

__all__ = ["VXLANFDB"]

#: Seconds between a change of this machine's addresses and the look for ours: one is often replaced
#: by removing it first.
ADDRESS_DELAY = 0.5


class _Run:
    """What lives from one start to its stop."""

    def __init__(
        self, devices: SpokeDevices, requests: NetlinkRequests, calls: PendingCalls
    ) -> None:
        self.devices = devices
        self.requests = requests
        self.calls = calls
        self.table: EntryTable
        self.drift: Drift
        self.inspection: Inspection
        self.readings: Readings
        self.mending: Mending
        self.dumps: NetlinkRequests
        self.notices: Notices
        self.closers: list[Callable[[], None]] = []
        self.adopted: list[tuple[bytes, VTEP | None]] = []
        self.up = True
        self.present = True
        """Whether the devices are there and where they belong."""
        self.attached = True
        """Whether the table's belief was read from them, so that it may be acted upon."""


@implementer(ISpokeDataplane)
class VXLANFDB:
    """Drives the vxlan devices of one VPN.

    Its sockets belong to the network namespace that the thread calling ``start`` is in.
    ``device_down`` and ``device_up`` report changes: after a start the devices count as up.

    :param reactor: provides IReactorTime and IReactorFDSet.
    :param plan: at least one server has an address; the first decides the address family.
    :param nbma_address: our underlay address as configured; None: the device's own, else the
        kernel's choice towards the hub.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, metrics: Metrics, plan: SpokePlan, nbma_address: bytes | None = None
    ) -> None:
        self.interface = plan.interface
        self.local_vtep = VTEP(b"", plan.vni)
        self.mtu = 0
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._metrics = metrics
        self._plan = plan
        self._nbma_address = nbma_address
        self._listener: ISpokeListener
        self._active: _Run | None = None
        self._misses = Misses(
            is_known=lambda mac: mac in self._running.table.wanted,
            report=lambda mac: self._listener.fdb_missed(mac),
            late=self._counter("fdb_misses_late"),
            lost=self._counter("fdb_misses_lost"),
        )

    def _counter(self, name: str) -> Counter:
        return self._metrics.counter(name, vpn=str(self._plan.vpn.index))

    @property
    def _running(self) -> _Run:
        assert self._active is not None, "not started"
        return self._active

    # --- life -----------------------------------------------------------------------------

    def start(self, listener: ISpokeListener) -> None:
        """Make or check the devices, adopt our entries, and report misses from now on."""
        assert self._active is None, "started already"
        self._listener = listener
        hub = hub_address(self._plan)
        try:
            requests = NetlinkRequests()
        except OSError as error:
            raise StartError(f"interface {self.interface}: netlink: {error.strerror}") from None
        devices = SpokeDevices(requests, self._plan, hub, self._nbma_address)
        run = _Run(devices, requests, PendingCalls(self._clock))
        try:
            state = run.devices.open()
            if state.layout is None:
                raise StartError(f"interface {self.interface}: changed by somebody at the start")
            run.table = EntryTable(
                self._clock,
                requests,
                state.layout,
                listener,
                self._counter,
                self._schedule_flush,
            )
            run.drift = Drift(run.table, self._counter("fdb_changes_too_many"))
            run.inspection = Inspection(self._plan, run.devices, run.table)
            self._open_sockets(run, state.layout)
            self._watch_over(run)
            reading = run.table.begin_reading(run.dumps)
            while not reading.advance(READ_STEP):
                pass
        except BaseException as error:
            self._close(run)
            run.devices.abandon()
            requests.close()
            if isinstance(error, DataplaneError | OSError):
                raise StartError(f"interface {self.interface}: {error}") from None
            raise
        self._active = run
        self.local_vtep = VTEP(run.devices.local, self._plan.vni)
        self.mtu = state.mtu
        run.adopted = run.table.adopt(reading)
        self._warn_of_defaults(reading)
        vpn = str(self._plan.vpn.index)
        for name, read in (("hold", self._hold_count), ("shortcut", self._shortcut_count)):
            self._metrics.gauge("fdb_entries", read, vpn=vpn, state=name)
        self._metrics.gauge("fdb_entries_by_hand", lambda: run.readings.by_hand, vpn=vpn)
        # Reports a device that is down, once the caller is ready to hear it.
        self._later("links", 0, self._check_links)

    def stop(self) -> Deferred[None]:
        """Withdraw every entry of ours and remove every device of ours; again is harmless."""
        run = self._end()
        if run is None:
            return succeed(None)
        try:
            if run.devices.stay():
                run.table.remove_all()
            run.devices.remove()
        except DataplaneError as error:
            self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))
        finally:
            run.requests.close()
        return succeed(None)

    def hand_over(self) -> None:
        """Leave every entry and device as it is; again is harmless."""
        run = self._end()
        if run is not None:
            run.devices.hand_over()
            run.requests.close()

    def _end(self) -> _Run | None:
        """Have nothing more to do with what was started; None if nothing was."""
        run, self._active = self._active, None
        if run is not None:
            vpn = str(self._plan.vpn.index)
            for name in ("hold", "shortcut"):
                self._metrics.remove_gauge("fdb_entries", vpn=vpn, state=name)
            self._metrics.remove_gauge("fdb_entries_by_hand", vpn=vpn)
            self._close(run)
        return run

    def _open_sockets(self, run: _Run, layout: Layout) -> None:
        run.dumps = NetlinkRequests()
        run.closers.append(run.dumps.close)
        run.notices = Notices(
            self._reactor,
            layout,
            misses=self._misses,
            changed=self._change_received,
            edited=self._edit_received,
            changes_lost=self._changes_lost,
        )
        run.closers.append(run.notices.close)

    def _watch_over(self, run: _Run) -> None:
        run.readings = Readings(
            self._clock,
            run.table,
            run.dumps,
            self._later,
            finished=self._reading_finished,
            failed=self._reading_failed,
        )
        run.closers.append(run.readings.close)
        run.mending = Mending(
            self.interface,
            run.devices,
            self._metrics,
            self._later,
            look=self._check_links,
            mended=lambda faults: self._listener.devices_repaired(faults),
        )

    def _close(self, run: _Run) -> None:
        """Close all but the socket that is still needed to remove what is ours."""
        run.calls.cancel()
        for close in run.closers:
            close()

    def _warn_of_defaults(self, reading: Reading) -> None:
        for nbma in reading.defaults:
            self.log.warn(
                "{ifname}: an all-zeros entry keeps the device from reporting misses; {command}",
                ifname=self.interface,
                command=f"bridge fdb del 00:00:00:00:00:00 dev {self.interface}"
                f" dst {format_address(nbma)}",
            )

    # --- what should be (ISpokeDataplane) ----------------------------------------------------

    def hold(self, mac: bytes) -> None:
        """Silence misses for a MAC; beyond MAX_HOLDS the oldest hold is given up, counted."""
        self._running.table.hold(self._checked(mac))

    def install(self, mac: bytes, vtep: VTEP) -> None:
        """Send frames for a MAC straight to a VTEP; one of the other family stays with the hub."""
        table = self._running.table
        self._checked(mac)
        if len(vtep.nbma) == len(table.layout.hold):
            table.install(mac, vtep)
            return
        table.hold(mac)
        error = DataplaneError(errno.EAFNOSUPPORT, f"shortcut to {vtep}")
        self._clock.callLater(0, self._report_failure, mac, error)

    def withdraw(self, mac: bytes) -> None:
        """Forget a MAC; nothing happens for one that is not there."""
        self._running.table.withdraw(mac)

    def set_flood(self, vteps: Iterable[bytes]) -> None:
        """Send frames without an entry to these addresses; those of the other family are left out.

        A device made by hand keeps a broadcast entry of the operator's.
        """
        table = self._running.table
        wanted = tuple(vteps)
        usable = tuple(nbma for nbma in wanted if len(nbma) == len(table.layout.hold))
        for nbma in wanted:
            if nbma not in usable:
                self.log.warn(
                    "{ifname}: hub {nbma} is not of the devices' address family",
                    ifname=self.interface,
                    nbma=format_address(nbma),
                )
        table.set_flood(usable)

    def _report_failure(self, mac: bytes, error: DataplaneError) -> None:
        if self._active is not None:
            self._listener.install_failed(mac, error)

    @staticmethod
    def _checked(mac: bytes) -> bytes:
        if not is_station_mac(mac):
            raise ValueError(f"{format_address(mac)} names no station")
        return mac

    # --- what is (ISpokeDataplane) -----------------------------------------------------------

    def entries(self) -> Iterator[FDBEntry]:
        """Where the rest goes, under the MAC of the flood entry; then holds and shortcuts."""
        if self._active is not None:
            yield from self._active.table.entries()

    def adopted(self) -> list[tuple[bytes, VTEP | None]]:
        """What start found; the caller withdraws what it does not want to keep."""
        return list(self._running.adopted)

    def idle_times(self) -> Deferred[dict[bytes, float]]:
        """Read the kernel's ages, spread over turns; callers that come meanwhile share a reading.

        Seconds count from the installation where no frame was sent yet. A reading that fails, as
        when the device is gone, yields nothing.
        """
        return self._running.readings.ages()

    def traffic(self) -> dict[str, PlaneCounters]:
        """What each plane has carried; nothing if the kernel does not say."""
        return self._active.inspection.traffic() if self._active else {}

    def placements(self, mac: bytes) -> list[Placement]:
        """Ask the bridge and the devices about a MAC."""
        return self._active.inspection.placements(mac) if self._active else []

    def local_macs(self) -> Iterator[bytes | None]:
        """Those of the bridge's table, read a piece at a time."""
        return self._active.inspection.local_macs() if self._active else iter(())

    def examine(self) -> Deferred[list[Finding]]:
        """Look at the devices after a reading of the tables."""
        return self.idle_times().addCallback(lambda _: self._findings())

    def _findings(self) -> list[Finding]:
        run = self._active
        return [] if run is None else run.inspection.findings(run.readings.latest)

    def _hold_count(self) -> float:
        return len(self._running.table.holds)

    def _shortcut_count(self) -> float:
        table = self._running.table
        return len(table.wanted) - len(table.holds)

    # --- turns of the reactor ---------------------------------------------------------------

    def _later(self, name: str, delay: float, function: Callable[[], None]) -> None:
        """Have something done once, however often it is asked for."""
        self._running.calls.later(name, delay, function)

    def _schedule_flush(self) -> None:
        # A table that is being filled by start has nobody to schedule for yet.
        if self._active is not None:
            self._later("flush", 0, self._flush)

    def _flush(self) -> None:
        run = self._running
        if not run.attached:
            return  # The reading that follows ends with a flush.
        try:
            with run.notices.deaf_to_edits():
                more = run.table.flush()
            if more is not None:
                self._later("flush" if more <= 0 else "drain", more, self._flush)
        except DataplaneError as error:
            self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))
            self._running.readings.soon()

    def _reading_finished(self, reading: Reading) -> None:
        run = self._running
        # The dump of a device that is gone is empty, and no error.
        run.attached = run.present
        run.drift.clear()
        self._note_repairs(run.table.apply(reading))
        self._schedule_flush()

    def _reading_failed(self, error: DataplaneError) -> None:
        self.log.warn("{ifname}: {reason}", ifname=self.interface, reason=str(error))
        self._running.attached = False
        self._later("links", READ_PAUSE, self._check_links)

    def _note_repairs(self, count: int) -> None:
        if count:
            self.log.info(
                "{ifname}: {count} entries differ from what they should be",
                ifname=self.interface,
                count=count,
            )
            self._listener.entries_repaired(count)

    # --- notifications ------------------------------------------------------------------------

    def _change_received(self, data: bytes) -> None:
        run = self._running
        layout = run.table.layout
        if is_about_addresses(data):
            self._later("address", ADDRESS_DELAY, self._check_address)
            return
        changed = [run.devices.concerns(link.ifindex, link.name) for _, link in parse_links(data)]
        if any(changed) or any(port in layout.devices for port in parse_ports(data)):
            self._later("links", 0, self._check_links)
        for entry in parse_entries(data):
            if entry.type == RTM_DELNEIGH:
                run.drift.notice(entry)
                self._look_soon(run)
            elif layout.bridge and entry.master == layout.bridge and run.table.moved(entry):
                self.log.info(
                    "{ifname}: {mac} is at this site now",
                    ifname=self.interface,
                    mac=format_address(entry.mac),
                )
                self._listener.mac_local(entry.mac)

    def _check_address(self) -> None:
        try:
            if self._running.devices.readdressed():
                self._listener.address_changed()
        except DataplaneError as error:
            self.log.warn("{ifname}: {reason}", ifname=self.interface, reason=str(error))

    def _edit_received(self, data: bytes) -> None:
        run = self._running
        for entry in parse_entries(data):
            run.drift.notice(entry)
        self._look_soon(run)

    def _look_soon(self, run: _Run) -> None:
        if run.drift.overflown:
            self._running.readings.soon()
        elif run.drift:
            self._later("look", LOOK_DELAY, self._look)

    def _look(self) -> None:
        """See what somebody has done to single entries."""
        run = self._running
        if run.drift.overflown or not run.attached:
            return  # The reading that follows sees it.
        try:
            self._note_repairs(run.drift.look())
        except DataplaneError as error:
            self.log.warn("{ifname}: {reason}", ifname=self.interface, reason=str(error))
            self._running.readings.soon()
            return
        self._look_soon(run)

    def _changes_lost(self) -> None:
        self._counter("fdb_changes_lost").inc()
        self._later("links", 0, self._check_links)
        self._running.readings.soon()

    # --- links ------------------------------------------------------------------------------

    def _check_links(self) -> None:
        run = self._running
        try:
            state = run.devices.look()
        except DataplaneError as error:
            self.log.error("{ifname}: {reason}", ifname=self.interface, reason=str(error))
            self._later("links", READ_PAUSE, self._check_links)
            return
        run.mending.note(state)
        run.present = state.layout is not None
        if state.layout is None:
            run.attached = False
        else:
            if self.mtu != state.mtu:
                self.mtu = state.mtu
                self._listener.mtu_changed(state.mtu)
            known = run.table.layout
            if (state.layout.devices, state.layout.bridge) != (known.devices, known.bridge):
                self._attach(run, state.layout)
            elif not run.attached:
                run.readings.begin()
        was_up, run.up = run.up, state.up
        if run.up and not was_up:
            # Leaving the bridge or going down may have cost entries, unseen.
            run.readings.begin()
            self._listener.device_up()
        elif was_up and not run.up:
            self._listener.device_down()

    def _attach(self, run: _Run, layout: Layout) -> None:
        """Turn to devices that may be others than before."""
        run.attached = False
        run.table.attach(layout)
        run.notices.attach(layout)
        run.readings.begin_elsewhere()
