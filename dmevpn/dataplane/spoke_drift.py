"""Entries of a spoke that somebody else has changed in place. Layer: edge.

The kernel tells everybody of every entry that is made or changed, and does not say by whom. What
we write ourselves is not listened to (:meth:`~dmevpn.dataplane.netlink.NetlinkReader.deaf`), so
what is heard is somebody else's. A notification tells what was then and not what is now; so it
makes a MAC suspect, and a moment later the kernel is asked about that MAC alone.

An entry of ours that somebody replaces stays ours, with our mark or without it: it is put right.
One that somebody made after he had removed ours is his own, and is not touched.
"""

from __future__ import annotations

from typing import Final

from dmevpn.addresses import is_station_mac
from dmevpn.dataplane.neighbours import RTM_DELNEIGH, Entry
from dmevpn.dataplane.spoke_table import EntryTable
from dmevpn.metrics import Counter

__all__ = ["LOOK_DELAY", "SUSPECTS", "Drift"]

#: Seconds between a notification and the look at what it is about: changes that belong together
#: cost one look, and somebody who fights with us costs ten a second.
LOOK_DELAY: Final = 0.1
#: MACs that are looked at one by one, some 40 µs each; for more the tables are read whole.
SUSPECTS: Final = 200


class Drift:
    """Finds which entries differ from what we believe, by what the kernel tells.

    :param table: what should be, and what is believed.
    :param too_many: counts the times that there were too many to look at one by one.
    """

    def __init__(self, table: EntryTable, too_many: Counter) -> None:
        self._table = table
        self._too_many = too_many
        self._suspects: dict[bytes, None] = {}
        self._unmarked: set[bytes] = set()
        """Of them, those that have an entry without our mark."""
        self._removed: set[bytes] = set()
        """Of them, those that had none for a while."""
        self.overflown = False
        """Whether there are too many to look at one by one."""

    def __bool__(self) -> bool:
        return bool(self._suspects) or self.overflown

    def notice(self, entry: Entry) -> None:
        """Take what the kernel tells about a device of ours."""
        table = self._table
        layout = table.layout
        if entry.master is None:
            if entry.mac == layout.flood_mac and entry.ifindex == layout.flood_device:
                ours = entry.ours or bool(layout.bridge)
                if ours and table.floods_to(entry.nbma) is (entry.type == RTM_DELNEIGH):
                    self.overflown = True
                return
            if entry.ifindex == layout.device and is_station_mac(entry.mac):
                self._notice_own(entry)
            return
        if entry.master != layout.bridge:
            return
        believed = table.believed(entry.mac).port
        port = 0 if entry.type == RTM_DELNEIGH else entry.ifindex
        altered = port != believed or (port and not entry.static)
        if altered and (believed or entry.ifindex == layout.device):
            self._suspect(entry.mac)

    def _notice_own(self, entry: Entry) -> None:
        mac, table = entry.mac, self._table
        believed = table.believed(mac)
        if entry.type == RTM_DELNEIGH:
            if believed.nbma:
                self._removed.add(mac)
                self._suspect(mac)
        elif not entry.ours:
            # Where we have nothing, it is an operator's own.
            if believed.nbma:
                self._unmarked.add(mac)
                self._suspect(mac)
        elif table.layout.found(entry, believed.port) != believed:
            self._suspect(mac)

    def _suspect(self, mac: bytes) -> None:
        if len(self._suspects) < SUSPECTS:
            self._suspects[mac] = None
        elif not self.overflown and mac not in self._suspects:
            self.overflown = True
            self._too_many.inc()

    def clear(self) -> None:
        """The tables were read whole."""
        self._suspects.clear()
        self._unmarked.clear()
        self._removed.clear()
        self.overflown = False

    def look(self) -> int:
        """Ask the kernel about the suspects, and have the next flush put right what differs.

        :returns: how many differ.
        :raises DataplaneError: if the kernel does not say.
        """
        table, differing = self._table, 0
        layout = table.layout
        suspects = list(self._suspects)
        unmarked = self._unmarked - self._removed
        self.clear()
        for mac in suspects:
            if table.is_draining(mac):
                self._suspects[mac] = None  # its entry is ours to keep, and goes by itself
                continue
            believed = table.believed(mac)
            bridged, found = table.find(mac)
            entry = next((each for each in found if each.ifindex == layout.device), None)
            if entry is not None and not entry.ours:
                if mac in unmarked:
                    table.take_back(mac)
                entry = None
            port = 0
            if bridged is not None and bridged.ifindex in layout.devices:
                if bridged.static and (believed.port or bridged.ifindex == layout.device):
                    port = bridged.ifindex
                elif believed.port:
                    # As if it were behind the other plane: moving it makes it static again.
                    port = layout.flood_device
            differing += table.correct(mac, layout.found(entry, port))
        return differing
