"""What should stand in a spoke's forwarding tables, what is believed to, and the way there.

Layer: edge. Changes are gathered and written in batches, only the last state of each MAC. Every
reading of the kernel's tables corrects the belief, and the next batch then repairs whatever
differs from what should be. Only entries with our mark are changed or removed: where we believe
to have nothing, entries are made with NLM_F_EXCL, and an operator's entry wins.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from dmevpn.addresses import VTEP, format_address, is_station_mac
from dmevpn.dataplane.neighbours import (
    Entry,
    bridge_delete,
    bridge_get,
    dump_request,
    flood_append,
    parse_entries,
    self_delete,
    self_get,
)
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.spoke_layout import NOTHING, Action, Layout, State, Step
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import FDBEntry, ISpokeListener
from dmevpn.log import Logger
from dmevpn.metrics import Counter

__all__ = ["MAX_HOLDS", "EntryTable", "Reading"]

#: Hold entries per VPN. A site that sends to random MACs makes one for each; beyond this the
#: oldest goes. It is above the number of questions that a VPN may have open, and the kernel
#: finds an entry among so many as fast as among few.
MAX_HOLDS = 4096
#: MACs written in one turn of the reactor, about 10 ms of work; the rest follows in the next.
FLUSH_MACS = 2000


class Reading:
    """The kernel's entries of a spoke's devices, read step by step.

    :ivar own: holds and shortcuts with our mark, by MAC.
    :ivar bridged: MACs that the bridge sends to our device.
    :ivar flood: destinations of the flood entry; True if it is for us to change them.
    :ivar defaults: destinations of an all-zeros entry on the device that should report misses.
    """

    def __init__(self, requests: NetlinkRequests, layout: Layout) -> None:
        self.own: dict[bytes, Entry] = {}
        self.bridged: set[bytes] = set()
        self.flood: dict[bytes, bool] = {}
        self.defaults: list[bytes] = []
        self._layout = layout
        self._datagrams = self._dump(requests)

    def _dump(self, requests: NetlinkRequests) -> Iterator[bytes]:
        for device in sorted(self._layout.devices):
            yield from requests.dump(dump_request(device))

    def advance(self, datagrams: int) -> bool:
        """Read some more; True at the end.

        :raises DataplaneError: if the kernel refuses, as when the device is gone.
        """
        for _ in range(datagrams):
            data = next(self._datagrams, None)
            if data is None:
                return True
            for entry in parse_entries(data):
                self._take(entry)
        return False

    def _take(self, entry: Entry) -> None:
        layout = self._layout
        if entry.master is not None:
            # The port's own address is a permanent entry; ours are static.
            if entry.static and entry.ifindex == layout.device and layout.bridge:
                self.bridged.add(entry.mac)
        elif entry.mac == layout.flood_mac and entry.ifindex == layout.flood_device:
            # All of a plane of ours is ours; on a device made by hand, what has our mark.
            self.flood[entry.nbma] = bool(layout.bridge) or entry.ours
        elif entry.ifindex == layout.device:
            if not any(entry.mac):
                self.defaults.append(entry.nbma)
            elif entry.ours and is_station_mac(entry.mac):
                self.own[entry.mac] = entry

    def state(self, mac: bytes) -> State:
        """What stands for a MAC, as far as it is ours."""
        entry = self.own.get(mac)
        bridged = mac in self.bridged
        return State(b"", None, bridged) if entry is None else State(entry.nbma, entry.vni, bridged)


class EntryTable:
    """Holds, shortcuts and the flood entry of one VPN.

    :param requests: must belong to the namespace of the devices.
    :param counter: finds a counter by its name.
    :param schedule: called when there is something to flush.
    """

    log = Logger()

    def __init__(
        self,
        requests: NetlinkRequests,
        layout: Layout,
        listener: ISpokeListener,
        counter: Callable[[str], Counter],
        schedule: Callable[[], None],
    ) -> None:
        self.layout = layout
        self.wanted: dict[bytes, VTEP | None] = {}
        self.holds: dict[bytes, None] = {}
        """The MACs of ``wanted`` that are held, oldest first."""
        self.ages: dict[bytes, float] = {}
        self._requests = requests
        self._listener = listener
        self._schedule = schedule
        self._refused_counter = counter("fdb_refused")
        self._repaired_counter = counter("fdb_repairs")
        self._evicted_counter = counter("fdb_holds_evicted")
        self._believed: dict[bytes, State] = {}
        self._dirty: dict[bytes, None] = {}
        # Where frames without an entry go; None: nobody has said, leave it as it is.
        self._flood: tuple[bytes, ...] | None = None
        self._flood_believed: dict[bytes, bool] = {}
        # What changed since a reading began, so that the reading says nothing about it.
        self._outdated: set[bytes] = set()
        # What listeners are told when the batch is through.
        self._reports: list[Callable[[], None]] = []

    # --- what should be --------------------------------------------------------------------

    def hold(self, mac: bytes) -> None:
        """Have a MAC's frames go by the hub without a miss."""
        if mac in self.holds:
            return
        if len(self.holds) >= MAX_HOLDS:
            self._evicted_counter.inc()
            self.withdraw(next(iter(self.holds)))
        self.wanted[mac] = None
        self.holds[mac] = None
        self._changed(mac)

    def install(self, mac: bytes, vtep: VTEP) -> None:
        """Have a MAC's frames go to a VTEP."""
        if self.wanted.get(mac) != vtep:
            self.holds.pop(mac, None)
            self.wanted[mac] = vtep
            self._changed(mac)

    def withdraw(self, mac: bytes) -> None:
        """Have nothing about a MAC."""
        if mac in self.wanted:
            del self.wanted[mac]
            self.holds.pop(mac, None)
            self.ages.pop(mac, None)
            self._changed(mac)

    def set_flood(self, flood: tuple[bytes, ...]) -> None:
        """Have frames without an entry go to these addresses."""
        if flood == self._flood:
            return
        self._flood = flood
        if not self.layout.bridge and flood and flood[0] != self.layout.hold:
            # Without a hub plane, holds lead to the hub themselves.
            self.layout = replace(self.layout, hold=flood[0])
            self._dirty.update(self.holds)
        self._schedule()

    def entries(self) -> Iterator[FDBEntry]:
        """The flood entry's destinations, then holds and shortcuts."""
        for nbma in self._flood_believed:
            yield FDBEntry(self.layout.flood_mac, VTEP(nbma, self.layout.vni), "flood", None)
        for mac, vtep in list(self.wanted.items()):
            yield FDBEntry(mac, vtep, "hold" if vtep is None else "shortcut", self.ages.get(mac))

    def _changed(self, mac: bytes) -> None:
        self._dirty[mac] = None
        self._outdated.add(mac)
        self._schedule()

    def _target(self, mac: bytes) -> State:
        return self.layout.state(self.wanted[mac]) if mac in self.wanted else NOTHING

    # --- what is ---------------------------------------------------------------------------

    def begin_reading(self, requests: NetlinkRequests) -> Reading:
        """Start to read; hand the reading to :meth:`apply` when it is through."""
        self._outdated.clear()
        return Reading(requests, self.layout)

    def adopt(self, reading: Reading) -> list[tuple[bytes, VTEP | None]]:
        """Take over what an earlier run left; what cannot be kept is removed."""
        for mac, entry in reading.own.items():
            vtep = self.layout.vtep(State(entry.nbma, entry.vni, False))
            if vtep is not None:
                self.wanted[mac] = vtep
            elif len(self.holds) < MAX_HOLDS:
                self.wanted[mac] = self.holds[mac] = None
        self._believe_reading(reading)
        return list(self.wanted.items())

    def apply(self, reading: Reading) -> int:
        """Correct the belief and have the differences repaired; how many there were."""
        repairs = self._believe_reading(reading)
        self._repaired_counter.inc(repairs)
        return repairs

    def attach(self, layout: Layout) -> None:
        """The devices are others than before: everything is to be found out anew."""
        self.layout = replace(layout, hold=self.layout.hold)
        self._believed.clear()
        self._flood_believed.clear()
        self._dirty.update(dict.fromkeys(self.wanted))

    def _believe_reading(self, reading: Reading) -> int:
        repairs = 0
        for mac in {*reading.own, *reading.bridged, *self._believed, *self.wanted}:
            if mac in self._outdated:
                continue
            state = reading.state(mac)
            self._believe(mac, state)
            if mac in reading.own:
                self.ages[mac] = reading.own[mac].used_ago
            if state != self._target(mac):
                repairs += 1
                self._dirty[mac] = None
        for mac in [mac for mac in self.ages if mac not in self.wanted]:
            del self.ages[mac]
        self._flood_believed = reading.flood
        if repairs or self._flood_differs():
            self._schedule()
        return repairs

    def _believe(self, mac: bytes, state: State) -> None:
        if state == NOTHING:
            self._believed.pop(mac, None)
        else:
            self._believed[mac] = state

    def removed(self, entry: Entry) -> bool:
        """Whether a notification says that something which should stand was removed."""
        if entry.mac == self.layout.flood_mac and entry.master is None:
            return bool(self._flood and entry.nbma in self._flood)
        if entry.ifindex != self.layout.device or entry.mac not in self.wanted:
            return False
        return entry.master is None or self._target(entry.mac).bridged

    def moved(self, entry: Entry) -> bool:
        """Whether a notification says that the bridge has moved a MAC of ours to another port.

        Then a remote station came home. The bridge moves the entry but leaves it static, so it is
        removed, to be learnt anew; nothing about the MAC is wanted any more.
        """
        state = self._believed.get(entry.mac)
        if state is None or not state.bridged or entry.ifindex == self.layout.device:
            return False
        self._requests.batch([bridge_delete(entry.ifindex, entry.mac, entry.vlan)])
        self._believe(entry.mac, state._replace(bridged=False))
        self.withdraw(entry.mac)
        self._changed(entry.mac)
        return True

    # --- the way there ----------------------------------------------------------------------

    def flush(self) -> bool:
        """Write what differs, up to a bound; True if there is more.

        :raises DataplaneError: if it is unknown what was done: read the tables then.
        """
        steps: list[Step] = []
        for mac in list(islice(self._dirty, FLUSH_MACS)):
            del self._dirty[mac]
            old, new = self._believed.get(mac, NOTHING), self._target(mac)
            if old != new:
                steps += self.layout.steps(mac, old, new)
                self._believe(mac, new)
                self._outdated.add(mac)
        for index, code in self._requests.batch([step.message for step in steps]):
            self._refused(steps[index], code)
        self._write_flood()
        reports, self._reports = self._reports, []
        for report in reports:
            report()
        return bool(self._dirty)

    def _refused(self, step: Step, code: int) -> None:
        """Correct the belief after an error, and choose what should be instead."""
        mac = step.mac
        if code == errno.ENODEV:
            return  # The device is gone; what should be stays noted for its successor.
        if step.action is Action.ADD_TO_BRIDGE:
            self._not_bridged(mac, code)
        elif step.action is Action.SET:
            self._not_set(mac, code)
        elif step.action is Action.REMOVE_BOTH:
            # The bridge did not have it behind this port (any more); the device may.
            self._believe_found(mac, bridged=False)
        # Else it was to be removed, and is gone already.

    def _not_bridged(self, mac: bytes, code: int) -> None:
        if code == errno.EEXIST and self._bridge_port(mac) == self.layout.device:
            return
        self._believe(mac, self._believed.get(mac, NOTHING)._replace(bridged=False))
        vtep = self.wanted.get(mac)
        if vtep is None:
            return
        self._refused_counter.inc()
        self.hold(mac)
        if code == errno.EEXIST:
            # It was learnt at a local port in the meantime.
            self._reports.append(lambda: self._listener.mac_local(mac))
        else:
            self._report(mac, DataplaneError(code, f"shortcut to {vtep}"))

    def _not_set(self, mac: bytes, code: int) -> None:
        bridged = self._believed.get(mac, NOTHING).bridged
        if self._believe_found(mac, bridged=bridged) and code == errno.EEXIST:
            return  # Ours, of which we knew nothing: it is replaced in the next turn.
        self._refused_counter.inc()
        vtep = self.wanted.get(mac)
        if vtep is None or code == errno.EEXIST:
            self.withdraw(mac)
        else:
            self.hold(mac)
        if vtep is not None:
            self._report(mac, DataplaneError(code, f"shortcut to {vtep}"))

    def _believe_found(self, mac: bytes, *, bridged: bool) -> bool:
        """Ask the device itself about a MAC; whether it has an entry of ours."""
        data = self._requests.get(self_get(self.layout.device, mac))
        entry = next(parse_entries(data), None) if data is not None else None
        ours = entry is not None and entry.ours
        if entry is not None and ours:
            self._believe(mac, State(entry.nbma, entry.vni, bridged))
        else:
            self._believe(mac, State(b"", None, bridged))
        if self._believed.get(mac, NOTHING) != self._target(mac):
            self._dirty[mac] = None
        return ours

    def _bridge_port(self, mac: bytes) -> int:
        """The port that the bridge has a MAC behind, by index; 0 if it does not know it."""
        data = self._requests.get(bridge_get(self.layout.device, mac))
        entry = next(parse_entries(data), None) if data is not None else None
        return entry.ifindex if entry is not None else 0

    def _report(self, mac: bytes, error: DataplaneError) -> None:
        self._reports.append(lambda: self._listener.install_failed(mac, error))

    # --- flood entry -------------------------------------------------------------------------

    def _flood_differs(self) -> bool:
        if self._flood is None or not all(self._flood_believed.values()):
            return False  # Nobody has said, or the operator has.
        return set(self._flood) != set(self._flood_believed)

    def _write_flood(self) -> None:
        if self._flood is None or not self._flood_differs():
            return
        device, mac = self.layout.flood_device, self.layout.flood_mac
        # The kernel replaces no entry that may have several destinations: add first, then remove.
        added = [nbma for nbma in self._flood if nbma not in self._flood_believed]
        surplus = [nbma for nbma in self._flood_believed if nbma not in self._flood]
        messages = [flood_append(device, mac, nbma) for nbma in added]
        messages += [self_delete(device, mac, nbma) for nbma in surplus]
        failed = self._requests.batch(messages)
        for _, code in failed:
            self.log.error(
                "cannot flood to {nbma}: {reason}",
                nbma=", ".join(map(format_address, self._flood)) or "nobody",
                reason=str(DataplaneError(code, "flood entry")),
            )
        self._flood_believed = dict.fromkeys(self._flood, True)

    # --- end ---------------------------------------------------------------------------------

    def remove_all(self) -> None:
        """Remove every entry of ours at once; what is gone already is as it should be.

        :raises DataplaneError: if it is unknown what was done.
        """
        layout = self.layout
        messages = [
            step.message
            for mac, state in self._believed.items()
            for step in layout.steps(mac, state, NOTHING)
        ]
        messages += [
            self_delete(layout.flood_device, layout.flood_mac, nbma)
            for nbma, ours in self._flood_believed.items()
            if ours
        ]
        self._requests.batch(messages)
