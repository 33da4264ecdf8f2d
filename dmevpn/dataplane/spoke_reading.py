"""The kernel's entries of a spoke's devices, read step by step. Layer: edge."""

from __future__ import annotations

from collections.abc import Iterator

from dmevpn.addresses import is_station_mac
from dmevpn.dataplane.neighbours import Entry, dump_request, parse_entries
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.spoke_layout import Layout, State

__all__ = ["Reading"]

#: Entries made by hand that a reading keeps: enough to tell an operator what he has done.
MAX_FOREIGN = 20


class Reading:
    """The kernel's entries of a spoke's devices, read step by step.

    :ivar own: holds and shortcuts with our mark, by MAC.
    :ivar bridged: the plane that the bridge has a MAC behind, by index.
    :ivar altered: MACs that it has behind a plane by an entry that is not static.
    :ivar flood: destinations of the flood entry; True if it is for us to change them.
    :ivar by_hand: how many entries for stations were made by hand.
    :ivar foreign: some of them.
    :ivar defaults: destinations of an all-zeros entry on the device that should report misses.
    """

    def __init__(self, requests: NetlinkRequests, layout: Layout) -> None:
        self.own: dict[bytes, Entry] = {}
        self.bridged: dict[bytes, int] = {}
        self.altered: set[bytes] = set()
        self.flood: dict[bytes, bool] = {}
        self.defaults: list[bytes] = []
        self.by_hand = 0
        self.foreign: list[Entry] = []
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
            if entry.ifindex in layout.devices and layout.bridge:
                if entry.static:
                    self.bridged[entry.mac] = entry.ifindex
                else:
                    self.altered.add(entry.mac)
        elif entry.lasting and not entry.ours and is_station_mac(entry.mac):
            self.by_hand += 1
            if len(self.foreign) < MAX_FOREIGN:
                self.foreign.append(entry)
        elif entry.mac == layout.flood_mac and entry.ifindex == layout.flood_device:
            # All of a plane of ours is ours; on a device made by hand, what has our mark.
            self.flood[entry.nbma] = bool(layout.bridge) or entry.ours
        elif entry.ifindex == layout.device:
            if not any(entry.mac):
                self.defaults.append(entry.nbma)
            elif entry.ours and is_station_mac(entry.mac):
                self.own[entry.mac] = entry

    def state(self, mac: bytes, believed: State) -> State:
        """What stands for a MAC, as far as it is ours.

        The shortcut plane is ours alone, whereas an operator may have put a MAC behind the hub
        plane: that entry is ours only if we remember it.
        """
        port = self.bridged.get(mac, 0)
        if port == self._layout.flood_device and believed.port != port:
            port = 0
        if mac in self.altered and believed.port:
            # As if it were behind the other plane: moving it from there makes it static again.
            port = self._layout.flood_device
        return self._layout.found(self.own.get(mac), port)
