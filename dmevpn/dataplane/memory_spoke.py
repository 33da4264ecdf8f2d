"""A site without a kernel: forwarding tables in memory, and the spoke's data plane on them.

Layer: edge. For tests of whole nodes on one clock: :class:`MemorySite` forwards as a bridge with
both planes does and outlives a data plane that was killed; :class:`MemorySpokeDataplane` behaves
as :class:`~dmevpn.dataplane.spoke_fdb.VXLANFDB` does, effects after a turn included.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from dmevpn.addresses import VTEP, format_address, is_station_mac
from dmevpn.dataplane.neighbours import ZERO_MAC
from dmevpn.dataplane.spoke_table import MAX_HOLDS
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import (
    FDBEntry,
    Finding,
    ISpokeDataplane,
    ISpokeListener,
    Placement,
    PlaneCounters,
)
from dmevpn.metrics import Metrics

__all__ = ["MemorySite", "MemorySpokeDataplane", "Row"]


class Row(NamedTuple):
    """One entry of a site's table."""

    vtep: VTEP | None
    """None: held, frames go by the hub."""
    ours: bool
    """False: an operator's, not to be touched."""


class MemorySite:
    """What the kernel of a site knows: entries, default, local stations, whether it is up."""

    def __init__(self, clock: IReactorTime) -> None:
        self.rows: dict[bytes, Row] = {}
        self.local: set[bytes] = set()
        """MACs that the bridge has learnt at its local ports."""
        self.flood: tuple[bytes, ...] = ()
        self.up = True
        self.used: dict[bytes, float] = {}
        self.carried = {"hub": 0, "shortcut": 0}
        """Frames sent by each plane."""
        self._clock = clock
        self.driver: MemorySpokeDataplane | None = None
        """Who hears of misses and changes; None while no daemon runs."""

    def send(self, mac: bytes) -> VTEP | bytes | None:
        """Where a frame of a local station goes: a VTEP, the hub's address, or None (not out).

        Without an entry it goes to the hub and is reported.
        """
        if not self.up or mac in self.local:
            return None
        hub = self.flood[0] if self.flood else None
        if not is_station_mac(mac):
            return hub
        row = self.rows.get(mac)
        if row is None:
            if self.driver is not None:
                self.driver.frame_missed(mac)
            self.carried["hub"] += 1
            return hub
        self.used[mac] = self._clock.seconds()
        self.carried["hub" if row.vtep is None else "shortcut"] += 1
        return hub if row.vtep is None else row.vtep

    def speak(self, mac: bytes) -> None:
        """A station of this site sends a frame, and the bridge learns where it is."""
        row = self.rows.get(mac)
        self.local.add(mac)
        if row is not None and row.ours and self.driver is not None:
            self.driver.station_came_home(mac)

    def remove_row(self, mac: bytes) -> None:
        """Somebody removes an entry."""
        del self.rows[mac]
        if self.driver is not None:
            self.driver.row_removed(mac)

    def edit_row(self, mac: bytes, row: Row) -> None:
        """Somebody replaces an entry."""
        self.rows[mac] = row
        if self.driver is not None:
            self.driver.row_edited(mac)

    def take_down(self) -> None:
        """Remove what is ours, as :func:`~dmevpn.dataplane.spoke_removal.take_down` does."""
        for mac in [mac for mac, row in self.rows.items() if row.ours]:
            del self.rows[mac]
        self.flood = ()

    def set_up(self, up: bool) -> None:
        """The devices go down or come up."""
        if up != self.up:
            self.up = up
            if self.driver is not None:
                self.driver.link_changed()


@implementer(ISpokeDataplane)
class MemorySpokeDataplane:
    """The spoke's data plane on a :class:`MemorySite`."""

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        site: MemorySite,
        *,
        local_vtep: VTEP,
        mtu: int = 1450,
        interface: str = "vx1",
    ) -> None:
        self.site = site
        self.local_vtep = local_vtep
        self.mtu = mtu
        self.interface = interface
        self._clock = clock
        self._metrics = metrics
        self._listener: ISpokeListener | None = None
        self._wanted: dict[bytes, VTEP | None] = {}
        self._holds: dict[bytes, None] = {}
        self._dirty: dict[bytes, None] = {}
        self._adopted: list[tuple[bytes, VTEP | None]] = []
        self._calls: set[IDelayedCall] = set()
        self._missed: set[bytes] = set()

    # --- life -----------------------------------------------------------------------------

    def start(self, listener: ISpokeListener) -> None:
        """Adopt what is marked as ours, and report misses from now on."""
        assert self._listener is None, "started already"
        self._listener = listener
        self.site.driver = self
        self._adopted = [(mac, row.vtep) for mac, row in self.site.rows.items() if row.ours]
        for mac, vtep in self._adopted:
            self._wanted[mac] = vtep
            if vtep is None:
                self._holds[mac] = None
        if not self.site.up:
            self._soon(self._report_down)

    def stop(self) -> Deferred[None]:
        """Withdraw every entry of ours; again is harmless."""
        if self._listener is not None:
            self.site.take_down()
            self.kill()
        return succeed(None)

    def hand_over(self) -> None:
        """Leave what stands; again is harmless."""
        if self._listener is not None:
            self.kill()

    def kill(self) -> None:
        """Be gone as after SIGKILL: the site keeps forwarding as it did."""
        for call in self._calls:
            call.cancel()
        self._listener = None
        self.site.driver = None
        for table in (self._calls, self._wanted, self._holds, self._dirty, self._missed):
            table.clear()

    # --- what should be ----------------------------------------------------------------------

    def hold(self, mac: bytes) -> None:
        """Silence misses for a MAC; beyond MAX_HOLDS the oldest hold is given up, counted."""
        self._check(mac)
        if mac in self._holds:
            return
        if len(self._holds) >= MAX_HOLDS:
            self._metrics.counter("fdb_holds_evicted").inc()
            self.withdraw(next(iter(self._holds)))
        self._wanted[mac] = self._holds[mac] = None
        self._changed(mac)

    def install(self, mac: bytes, vtep: VTEP) -> None:
        """Send frames for a MAC straight to a VTEP; one of the other family stays with the hub."""
        self._check(mac)
        if len(vtep.nbma) != len(self.local_vtep.nbma):
            self.hold(mac)
            self._fail(mac, errno.EAFNOSUPPORT, vtep)
            return
        self._holds.pop(mac, None)
        self._wanted[mac] = vtep
        self._changed(mac)

    def withdraw(self, mac: bytes) -> None:
        """Forget a MAC; nothing happens for one that is not there."""
        if mac in self._wanted:
            del self._wanted[mac]
            self._holds.pop(mac, None)
            self._changed(mac)

    def set_flood(self, vteps: Iterable[bytes]) -> None:
        """Send frames without an entry to these addresses, those of our family."""
        family = len(self.local_vtep.nbma)
        self.site.flood = tuple(nbma for nbma in vteps if len(nbma) == family)

    @staticmethod
    def _check(mac: bytes) -> None:
        if not is_station_mac(mac):
            raise ValueError(f"{format_address(mac)} names no station")

    # --- what is ---------------------------------------------------------------------------

    def entries(self) -> Iterator[FDBEntry]:
        """Where the rest goes, under the all-zeros MAC; then holds and shortcuts."""
        if self._listener is None:
            return
        for nbma in self.site.flood:
            yield FDBEntry(ZERO_MAC, VTEP(nbma, self.local_vtep.vni), "flood", None)
        for mac, vtep in list(self._wanted.items()):
            yield FDBEntry(mac, vtep, "hold" if vtep is None else "shortcut", self._age(mac))

    def adopted(self) -> list[tuple[bytes, VTEP | None]]:
        """What start found; the caller withdraws what it does not want to keep."""
        return list(self._adopted)

    def idle_times(self) -> Deferred[dict[bytes, float]]:
        """Ages of the shortcuts in the site's table, a turn later."""
        result: Deferred[dict[bytes, float]] = Deferred()
        self._soon(lambda: result.callback(self._ages()))
        return result

    def _ages(self) -> dict[bytes, float]:
        ages = {}
        for mac, vtep in self._wanted.items():
            age = self._age(mac)
            if vtep is not None and age is not None:
                ages[mac] = age
        return ages

    def _age(self, mac: bytes) -> float | None:
        used = self.site.used.get(mac)
        return None if used is None else self._clock.seconds() - used

    def traffic(self) -> dict[str, PlaneCounters]:
        """What each plane has carried, in frames of the least size."""
        return {
            plane: PlaneCounters(0, 0, count, count * 60)
            for plane, count in self.site.carried.items()
        }

    def placements(self, mac: bytes) -> list[Placement]:
        """The bridge's word on a local station, and the table's on any."""
        found = []
        if mac in self.site.local:
            found.append(Placement("bridge", "port1", None, "learned"))
        row = self.site.rows.get(mac)
        if row is not None:
            origin = "ours" if row.ours else "by hand"
            found.append(Placement("shortcut plane", self.interface, row.vtep, origin))
        return found

    def local_macs(self) -> Iterator[bytes | None]:
        """Some of the stations that have spoken here."""
        yield None
        yield from sorted(self.site.local)[:3]

    def examine(self) -> Deferred[list[Finding]]:
        """The devices, and what somebody else has put into the table, a turn later."""
        found: Deferred[list[Finding]] = Deferred()
        self._soon(lambda: found.callback(self._findings()))
        return found

    def _findings(self) -> list[Finding]:
        findings = []
        if not self.site.up:
            cure = f"ip link set {self.interface} up"
            findings.append(Finding("device", self.interface, f"{self.interface} is down", cure))
        for mac, row in self.site.rows.items():
            if not row.ours:
                text = format_address(mac)
                problem = f"an entry made by hand sends frames for {text} to {row.vtep}"
                cure = f"bridge fdb del {text} dev {self.interface} self"
                findings.append(Finding("entries", text, problem, cure))
        return findings

    def send(self, mac: bytes) -> VTEP | bytes | None:
        """Where a frame of a local station goes; see :meth:`MemorySite.send`."""
        return self.site.send(mac)

    # --- what the site tells -------------------------------------------------------------------

    def frame_missed(self, mac: bytes) -> None:
        """A frame found no entry: reported once a turn, unless we have learnt better by then."""
        if mac not in self._missed:
            self._missed.add(mac)
            self._soon(lambda: self._report_miss(mac))

    def _report_miss(self, mac: bytes) -> None:
        self._missed.discard(mac)
        if mac not in self._wanted and self._listener is not None:
            self._listener.fdb_missed(mac)

    def station_came_home(self, mac: bytes) -> None:
        """A MAC of ours was heard at a local port; holds do not matter, nothing is behind them."""
        if self._wanted.get(mac) is not None:
            self.withdraw(mac)
            self._tell_local(mac)

    def row_edited(self, mac: bytes) -> None:
        """An entry of ours stays ours, whoever replaces it and by what."""
        if mac in self._wanted:
            self.site.rows[mac] = self.site.rows[mac]._replace(ours=True)
            self.row_removed(mac)

    def row_removed(self, mac: bytes) -> None:
        """Repair, if it should be there."""
        if mac in self._wanted:
            self._metrics.counter("fdb_repairs").inc()
            self._changed(mac)
            if self._listener is not None:
                self._listener.entries_repaired(1)

    def set_mtu(self, mtu: int) -> None:
        """The devices get another MTU: reported a turn later."""
        self.mtu = mtu
        listener = self._listener
        if listener is not None:
            self._soon(lambda: listener.mtu_changed(mtu))

    def link_changed(self) -> None:
        """Report what the devices are after a turn."""
        self._soon(self._report_up if self.site.up else self._report_down)

    # --- turns -----------------------------------------------------------------------------

    def _soon(self, function: Callable[[], None]) -> None:
        def run() -> None:
            self._calls.discard(call)
            function()

        call = self._clock.callLater(0, run)
        self._calls.add(call)

    def _changed(self, mac: bytes) -> None:
        if not self._dirty:
            self._soon(self._flush)
        self._dirty[mac] = None

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for mac in dirty:
            row = self.site.rows.get(mac)
            vtep = self._wanted.get(mac)
            if row is not None and not row.ours:
                if mac in self._wanted:
                    self.withdraw(mac)
                    if vtep is not None:
                        self._fail(mac, errno.EEXIST, vtep)
            elif mac not in self._wanted:
                self.site.rows.pop(mac, None)
                self.site.used.pop(mac, None)
            else:
                if vtep is not None and mac in self.site.local:
                    self.hold(mac)
                    self._tell_local(mac)
                    vtep = None
                self.site.rows[mac] = Row(vtep, True)
                self.site.used.setdefault(mac, self._clock.seconds())

    def _tell_local(self, mac: bytes) -> None:
        listener = self._listener
        if listener is not None:
            self._soon(lambda: listener.mac_local(mac))

    def _fail(self, mac: bytes, code: int, vtep: VTEP) -> None:
        listener = self._listener
        error = DataplaneError(code, f"shortcut to {vtep}")
        if listener is not None:
            self._soon(lambda: listener.install_failed(mac, error))

    def _report_up(self) -> None:
        if self._listener is not None:
            self._listener.device_up()

    def _report_down(self) -> None:
        if self._listener is not None:
            self._listener.device_down()
