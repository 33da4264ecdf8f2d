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
from itertools import islice, takewhile

from twisted.internet.interfaces import IReactorTime

from dmevpn.addresses import VTEP
from dmevpn.dataplane.neighbours import (
    Entry,
    bridge_delete,
    bridge_get,
    parse_entries,
    self_delete,
    self_get,
)
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.spoke_flood import FloodEntry
from dmevpn.dataplane.spoke_layout import NOTHING, Action, Layout, State, Step
from dmevpn.dataplane.spoke_reading import Reading
from dmevpn.errors import DataplaneError
from dmevpn.interfaces import FDBEntry, ISpokeListener
from dmevpn.metrics import Counter

__all__ = ["MAX_HOLDS", "EntryTable"]

#: Hold entries per VPN. A site that sends to random MACs makes one for each; beyond this the
#: oldest goes. It is above the number of questions that a VPN may have open, and the kernel
#: finds an entry among so many as fast as among few.
MAX_HOLDS = 4096
#: MACs written in one turn of the reactor, about 20 ms of work; the rest follows in the next.
FLUSH_MACS = 500
#: Seconds between the bridge's turn from a shortcut to the hub and the end of the shortcut's entry.
#: A frame that the bridge has sent on looks for it a microsecond later, or as much later as a
#: hypervisor keeps the processor from us.
DRAIN_TIME = 0.02


class EntryTable:
    """Holds, shortcuts and the flood entry of one VPN.

    :param requests: must belong to the namespace of the devices.
    :param counter: finds a counter by its name.
    :param schedule: called when there is something to flush.
    """

    def __init__(
        self,
        clock: IReactorTime,
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
        self._clock = clock
        self._requests = requests
        self._listener = listener
        self._schedule = schedule
        self._refused_counter = counter("fdb_refused")
        self._repaired_counter = counter("fdb_repairs")
        self._evicted_counter = counter("fdb_holds_evicted")
        self._believed: dict[bytes, State] = {}
        self._dirty: dict[bytes, None] = {}
        # MACs that go by the hub again while frames by their shortcut may be on their way: when
        # that is over, first the first.
        self._draining: dict[bytes, float] = {}
        self._flood = FloodEntry(requests, self._refused_counter)
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
        if not self._flood.want(flood):
            return
        if not self.layout.bridge and flood and flood[0] != self.layout.hold:
            # Without a hub plane, holds lead to the hub themselves.
            self.layout = replace(self.layout, hold=flood[0])
            self._dirty.update(self.holds)
        self._schedule()

    def entries(self) -> Iterator[FDBEntry]:
        """The flood entry's destinations, then holds and shortcuts."""
        for nbma in self._flood.believed:
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

    def find(self, mac: bytes) -> tuple[Entry | None, list[Entry]]:
        """What the kernel says of a MAC now: the bridge's entry, and those of our devices."""
        bridged = self._bridge_entry(mac) if self.layout.bridge else None
        found = []
        for device in sorted({self.layout.flood_device, self.layout.device}):
            data = self._requests.get(self_get(device, mac))
            if data is not None:
                found += [entry for entry in parse_entries(data) if entry.master is None][:1]
        return bridged, found

    def believed(self, mac: bytes) -> State:
        """What we take to stand for a MAC, of ours."""
        return self._believed.get(mac, NOTHING)

    def is_hold(self, entry: Entry) -> bool:
        """Whether an entry of ours is there only to silence misses."""
        return self.layout.vtep(State(entry.nbma, entry.vni, 0)) is None

    def begin_reading(self, requests: NetlinkRequests) -> Reading:
        """Start to read; hand the reading to :meth:`apply` when it is through."""
        self._outdated.clear()
        return Reading(requests, self.layout)

    def adopt(self, reading: Reading) -> list[tuple[bytes, VTEP | None]]:
        """Take over what an earlier run left; what cannot be kept is removed.

        A MAC that the bridge has behind the hub plane and that has our mark on the shortcut plane
        was being installed or withdrawn. It becomes a hold, as its frames go by the hub now.
        """
        for mac, entry in reading.own.items():
            vtep = self.layout.vtep(State(entry.nbma, entry.vni, 0))
            if reading.bridged.get(mac) == self.layout.flood_device:
                self._believe(mac, State(entry.nbma, entry.vni, self.layout.flood_device))
                vtep = None
            if vtep is not None:
                self.wanted[mac] = vtep
            elif len(self.holds) < MAX_HOLDS:
                self.wanted[mac] = self.holds[mac] = None
        self._believe_reading(reading)
        return list(self.wanted.items())

    def apply(self, reading: Reading) -> int:
        """Correct the belief and have the differences repaired; how many there were."""
        was_right = not self._flood.differs()
        repairs = self._believe_reading(reading)
        if was_right and self._flood.differs():
            repairs += 1
        self._repaired_counter.inc(repairs)
        return repairs

    def correct(self, mac: bytes, state: State) -> bool:
        """Take what stands for a MAC for this; whether it differs from what should."""
        if state in (self.believed(mac), self._target(mac)):
            self._believe(mac, state)
            return False
        self._believe(mac, state)
        self._repaired_counter.inc()
        self._changed(mac)
        return True

    def take_back(self, mac: bytes) -> None:
        """Remove an entry of ours that somebody has replaced by one without our mark.

        The kernel does not let the mark be put on it again.
        """
        self._requests.batch([self_delete(self.layout.device, mac)])

    def is_draining(self, mac: bytes) -> bool:
        """Whether an entry stays for frames that are on their way, though it should go."""
        return mac in self._draining

    def floods_to(self, nbma: bytes) -> bool:
        """Whether frames without an entry should go to an address, if we have been told where."""
        return self._flood.leads_to(nbma)

    def attach(self, layout: Layout) -> None:
        """The devices are others than before: everything is to be found out anew."""
        self.layout = replace(layout, hold=self.layout.hold)
        # An entry behind the hub plane may have outlived our mark on the shortcut plane.
        kept = [mac for mac, state in self._believed.items() if state.port == layout.flood_device]
        self._believed = dict.fromkeys(kept, State(b"", None, layout.flood_device))
        self._draining.clear()
        self._flood.believed.clear()
        self._dirty.update(dict.fromkeys(self.wanted))

    def _believe_reading(self, reading: Reading) -> int:
        repairs = 0
        for mac in {*reading.own, *reading.bridged, *self._believed, *self.wanted}:
            if mac in self._outdated:
                continue
            believed = self._believed.get(mac, NOTHING)
            state = reading.state(mac, believed)
            self._believe(mac, state)
            if mac in reading.own:
                self.ages[mac] = reading.own[mac].used_ago
            if state != self._target(mac) and not (mac in self._draining and state == believed):
                repairs += 1
                self._dirty[mac] = None
        for mac in [mac for mac in self.ages if mac not in self.wanted]:
            del self.ages[mac]
        self._flood.believed = reading.flood
        if repairs or self._flood.differs():
            self._schedule()
        return repairs

    def _believe(self, mac: bytes, state: State) -> None:
        if state == NOTHING:
            self._believed.pop(mac, None)
        else:
            self._believed[mac] = state

    def moved(self, entry: Entry) -> bool:
        """Whether a notification says that the bridge has moved a MAC of ours to another port.

        Then a remote station came home. The bridge moves the entry but leaves it static, so it is
        removed, to be learnt anew; nothing about the MAC is wanted any more.
        """
        state = self._believed.get(entry.mac)
        if state is None or not state.port or entry.ifindex in self.layout.devices:
            return False
        # A change of ours may have followed the move, and have taken the MAC from there again.
        found = self._bridge_entry(entry.mac, entry.vlan)
        if found is None or found.static:
            port = entry.ifindex if found is None else found.ifindex
            self._requests.batch([bridge_delete(port, entry.mac, entry.vlan)])
        self._believe(entry.mac, state._replace(port=0))
        self._draining.pop(entry.mac, None)
        self.withdraw(entry.mac)
        self._changed(entry.mac)
        return True

    # --- the way there ----------------------------------------------------------------------

    def flush(self) -> float | None:
        """Write what differs, up to a bound.

        :returns: seconds until there is more to write; None if all is as it should be.
        :raises DataplaneError: if it is unknown what was done: read the tables then.
        """
        now = self._clock.seconds()
        # In order of time, as each waits equally long.
        for mac, _ in list(takewhile(lambda item: item[1] <= now, self._draining.items())):
            del self._draining[mac]
            self._dirty[mac] = None
        macs = list(islice(self._dirty, FLUSH_MACS))
        for mac in macs:
            del self._dirty[mac]
        while macs:
            macs = self._write(macs)
        waits = [end - now for end in islice(self._draining.values(), 1)]
        retry = self._flood.write(self.layout, now)
        if retry is not None:
            waits.append(retry)
        reports, self._reports = self._reports, []
        for report in reports:
            report()
        if self._dirty:
            return 0.0
        return min(waits, default=None)

    def _write(self, macs: list[bytes]) -> list[bytes]:
        """Take each MAC a step towards what should be; those that have more to go at once."""
        steps = []
        for mac in macs:
            old, new = self._believed.get(mac, NOTHING), self._target(mac)
            if old == new or (mac in self._draining and not new.port):
                continue
            self._draining.pop(mac, None)
            step = self.layout.step(mac, old, new)
            steps.append(step)
            self._believe(mac, step.new)
            self._outdated.add(mac)
        onward = []
        failed = dict(self._requests.batch([step.message for step in steps]))
        drained = self._clock.seconds() + DRAIN_TIME
        for index, step in enumerate(steps):
            if index in failed:
                self._refused(step, failed[index])
            elif step.action is Action.MOVE and self.layout.drains(step.new):
                self._draining[step.mac] = drained
            else:
                onward.append(step.mac)
        return onward

    def _refused(self, step: Step, code: int) -> None:
        """Correct the belief after an error, and choose what should be instead."""
        if code == errno.ENODEV:
            return  # The device is gone; what should be stays noted for its successor.
        if step.action is Action.SET:
            self._not_set(step, code)
        elif step.action is Action.ADD_TO_BRIDGE:
            self._not_added(step, code)
        elif step.action is Action.MOVE:
            self._not_moved(step, code)
        else:
            # It was to be removed, and is gone already.
            self._dirty[step.mac] = None
            if step.action is Action.REMOVE_FROM_BRIDGE:
                self._not_removed_from_bridge(step.mac)

    def _not_set(self, step: Step, code: int) -> None:
        mac = step.mac
        if self._believe_found(mac, step.old.port) and code == errno.EEXIST:
            return  # Ours, of which we knew nothing: it is replaced in the next turn.
        vtep = self.wanted.get(mac)
        if vtep is None or code == errno.EEXIST:
            self._refused_counter.inc()
            self.withdraw(mac)
            if vtep is not None:
                self._report(mac, code, vtep)
        else:
            self._give_up(mac, code, vtep)

    def _not_added(self, step: Step, code: int) -> None:
        mac = step.mac
        self._believe(mac, step.old)
        vtep = self.wanted.get(mac)
        assert vtep is not None, "a hold has no bridge entry"
        found = self._bridge_entry(mac) if code == errno.EEXIST else None
        port = found.ifindex if found is not None and found.static else 0
        if port == self.layout.device:
            # Ours, of which we knew nothing.
            self._believe(mac, step.old._replace(port=port))
            self._dirty[mac] = None
        elif code != errno.EEXIST or port == self.layout.flood_device:
            # No room, or an operator has put it behind the hub plane.
            self._give_up(mac, code, vtep)
        else:
            # It was learnt at a local port in the meantime.
            self._refused_counter.inc()
            self.hold(mac)
            self._reports.append(lambda: self._listener.mac_local(mac))

    def _not_moved(self, step: Step, code: int) -> None:
        mac = step.mac
        vtep = self.wanted.get(mac)
        if code == errno.ENOENT:
            self._believe(mac, step.old._replace(port=0))
            self._dirty[mac] = None
            return
        # A plane is not in the bridge: it is put back, and the tables are read then.
        self._believe(mac, step.old)
        if vtep is not None:
            self._give_up(mac, code, vtep)

    def _not_removed_from_bridge(self, mac: bytes) -> None:
        """If the bridge has moved a MAC home just before it was to be removed, have it learnt."""
        found = self._bridge_entry(mac)
        if found is not None and found.static and found.ifindex not in self.layout.devices:
            self._requests.batch([bridge_delete(found.ifindex, mac)])
            self._reports.append(lambda: self._listener.mac_local(mac))

    def _give_up(self, mac: bytes, code: int, vtep: VTEP) -> None:
        """Have the frames for a MAC go by the hub, as there can be no shortcut."""
        self._refused_counter.inc()
        self.hold(mac)
        self._report(mac, code, vtep)

    def _believe_found(self, mac: bytes, port: int) -> bool:
        """Ask the device itself about a MAC; whether it has an entry of ours."""
        data = self._requests.get(self_get(self.layout.device, mac))
        entry = next(parse_entries(data), None) if data is not None else None
        ours = entry is not None and entry.ours
        if entry is not None and ours:
            self._believe(mac, State(entry.nbma, entry.vni, port))
        else:
            self._believe(mac, State(b"", None, port))
        self._dirty[mac] = None
        return ours

    def _bridge_entry(self, mac: bytes, vlan: int | None = None) -> Entry | None:
        """What the bridge has about a MAC, whichever port it is behind; None if it cannot say."""
        try:
            data = self._requests.get(bridge_get(self.layout.device, mac, vlan))
        except DataplaneError:
            return None  # The plane was taken out of the bridge.
        return next(parse_entries(data), None) if data is not None else None

    def _report(self, mac: bytes, code: int, vtep: VTEP) -> None:
        error = DataplaneError(code, f"shortcut to {vtep}")
        self._reports.append(lambda: self._listener.install_failed(mac, error))

    # --- end ---------------------------------------------------------------------------------

    def remove_all(self) -> None:
        """Remove every entry of ours from devices that stay, at once.

        What is gone already is as it should be.

        :raises DataplaneError: if it is unknown what was done.
        """
        layout = self.layout
        messages = []
        for mac, state in self._believed.items():
            while state != NOTHING:
                step = layout.step(mac, state, NOTHING)
                messages.append(step.message)
                state = step.new
        self._requests.batch([*messages, *self._flood.removal(layout)])
