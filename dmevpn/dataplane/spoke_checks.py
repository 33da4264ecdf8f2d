"""What is, and what is wrong, with the devices and tables of a spoke, for operators. Layer: edge.

Nothing here changes anything; it is read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from dmevpn.addresses import VTEP, format_address, is_station_mac
from dmevpn.config.model import SpokePlan
from dmevpn.dataplane.links import Link
from dmevpn.dataplane.neighbours import Entry, dump_request, parse_entries
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.provision import shortcut_plane
from dmevpn.dataplane.spoke_devices import SpokeDevices
from dmevpn.dataplane.spoke_reading import Reading
from dmevpn.dataplane.spoke_table import EntryTable
from dmevpn.dataplane.underlay import OVERHEAD_IPV4, OVERHEAD_IPV6
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import Finding, Placement, PlaneCounters
from dmevpn.log import Logger

__all__ = ["Inspection"]

#: MACs of this site that somebody may ask the hub for.
_SOME = 3


class Inspection:
    """What operators ask about the data plane of one VPN. Where the kernel does not say, the log
    does, and there is nothing to tell."""

    log = Logger()

    def __init__(self, plan: SpokePlan, devices: SpokeDevices, table: EntryTable) -> None:
        self._plan = plan
        self._devices = devices
        self._table = table

    def traffic(self) -> dict[str, PlaneCounters]:
        """What each plane has carried."""
        try:
            return self._devices.traffic()
        except DataplaneError as error:
            self._say(error)
            return {}

    def placements(self, mac: bytes) -> list[Placement]:
        """What the bridge and our devices say of a MAC."""
        try:
            bridged, entries = self._table.find(mac)
            return list(self._placements(mac, bridged, entries))
        except DataplaneError as error:
            self._say(error)
            return []

    def local_macs(self) -> Iterator[bytes | None]:
        """A few MACs that the bridge has learned at ports that are not ours; None after each piece
        of its table."""
        bridge = self._table.layout.bridge
        if bridge:
            try:
                yield from self._learned_at(bridge)
            except DataplaneError as error:
                self._say(error)

    def findings(self, reading: Reading | None) -> list[Finding]:
        """What is wrong with devices, MTU, and entries that somebody else made.

        :param reading: the latest of the tables.
        """
        devices = self._devices
        try:
            links = devices.links()
            return [
                *_devices(self._plan, links),
                *_underlay(devices, links),
                *_by_hand(self._plan, devices, self._table, reading),
            ]
        except DataplaneError as error:
            return [Finding("kernel", self._plan.interface, str(error), "see the daemon's log")]

    def _say(self, error: DataplaneError) -> None:
        self.log.warn("{ifname}: {reason}", ifname=self._plan.interface, reason=str(error))

    def _placements(
        self, mac: bytes, bridged: Entry | None, entries: list[Entry]
    ) -> Iterator[Placement]:
        devices, table, layout = self._devices, self._table, self._table.layout
        if bridged is not None:
            origin = "learned"
            if bridged.lasting:
                ours = bridged.ifindex in layout.devices and mac in table.wanted
                origin = "ours" if ours else "by hand"
            yield Placement("bridge", devices.name_of(bridged.ifindex), None, origin)
        for entry in entries:
            name = "device"
            if layout.bridge:
                name = "shortcut plane" if entry.ifindex == layout.device else "hub plane"
            origin = "ours" if entry.ours else "by hand" if entry.lasting else "learned"
            vni = layout.vni if entry.vni is None else entry.vni
            held = entry.ours and table.is_hold(entry) and layout.bridge
            vtep = None if held or not entry.nbma else VTEP(entry.nbma, vni)
            yield Placement(name, devices.name_of(entry.ifindex), vtep, origin)

    def _learned_at(self, bridge: int) -> Iterator[bytes | None]:
        found = 0
        for port in self._devices.local_ports(bridge):
            # On a socket of its own, which may be closed before the end of the table.
            with closing(NetlinkRequests()) as requests:
                for data in requests.dump(dump_request(port.ifindex)):
                    for entry in parse_entries(data):
                        own = entry.lasting or not is_station_mac(entry.mac)
                        if entry.master == bridge and not own:
                            yield entry.mac
                            found += 1
                            if found == _SOME:
                                return
                    yield None


def _devices(plan: SpokePlan, links: list[Link]) -> Iterator[Finding]:
    names = [plan.interface]
    if plan.bridge is not None:
        names += [shortcut_plane(plan.interface), plan.bridge]
    present = {link.name: link for link in links}
    for name in names:
        if name not in present:
            cure = "make it again" if plan.bridge is None else "it is made again within seconds"
            yield Finding("device", name, f"{name} is not there: somebody removed it", cure)
        elif not present[name].up:
            yield Finding("device", name, f"{name} is down", f"ip link set {name} up")
    bridge = present.get(plan.bridge or "")
    for link in links:
        if bridge is not None and link is not bridge and link.master != bridge.ifindex:
            problem = f"{link.name} is no port of {bridge.name}"
            cure = f"ip link set {link.name} master {bridge.name}"
            yield Finding("device", link.name, problem, cure)
    device = present.get(plan.interface)
    if device is None or device.vxlan is None or plan.bridge is not None:
        return
    if device.vxlan.vni != plan.vni:
        problem = f"{device.name} has VNI {device.vxlan.vni}, the configuration {plan.vni}"
        cure = f"change `default-vni`, or make the device with `id {plan.vni}`"
        yield Finding("vni", device.name, problem, cure)
    if not device.vxlan.l2miss:
        problem = f"{device.name} reports no misses, so no shortcut is ever asked for"
        yield Finding("kernel", device.name, problem, "make it anew with `l2miss nolearning`")
    if device.vxlan.learning:
        problem = f"{device.name} learns, and drops what the hub relays"
        cure = f"ip link set dev {device.name} type vxlan id {plan.vni} nolearning"
        yield Finding("kernel", device.name, problem, cure)


def _underlay(devices: SpokeDevices, links: list[Link]) -> Iterator[Finding]:
    """The way to the hub, and whether our frames fit."""
    if not links:
        return
    try:
        underlay = devices.underlay()
    except StartError as error:
        yield Finding("hub", links[0].name, str(error), "mend the underlay's addresses and routes")
        return
    overhead = OVERHEAD_IPV4 if len(underlay.local) == 4 else OVERHEAD_IPV6
    room = underlay.mtu - overhead
    for link in links:
        if link.vxlan is not None and link.mtu > room:
            yield Finding(
                "mtu",
                link.name,
                f"frames of MTU {link.mtu} do not fit the underlay's {underlay.mtu}:"
                f" VXLAN takes {overhead}",
                f"ip link set {link.name} mtu {room}, or an underlay MTU of {link.mtu + overhead}",
            )
    planes = [link.mtu for link in links if link.vxlan is not None]
    for link in links:
        if link.vxlan is None and planes and link.mtu > min(planes):
            yield Finding(
                "mtu",
                link.name,
                f"the bridge takes frames of MTU {link.mtu}, its planes only {min(planes)}",
                f"ip link set {link.name} mtu {min(planes)}",
            )


def _by_hand(
    plan: SpokePlan, devices: SpokeDevices, table: EntryTable, reading: Reading | None
) -> Iterator[Finding]:
    if reading is None:
        return
    for nbma in reading.defaults:
        yield Finding(
            "entries",
            plan.interface,
            "an all-zeros entry keeps the device from reporting misses",
            f"bridge fdb del 00:00:00:00:00:00 dev {plan.interface} dst {format_address(nbma)}",
        )
    for entry in reading.foreign:
        name, mac = devices.name_of(entry.ifindex), format_address(entry.mac)
        yield Finding("entries", mac, _said(entry, name), f"bridge fdb del {mac} dev {name} self")
    if unnamed := reading.by_hand - len(reading.foreign):
        problem = f"{unnamed} more entries were made by hand"
        yield Finding("entries", plan.interface, problem, "bridge fdb shows them")
    layout = table.layout
    for held, port in reading.bridged.items():
        if port == layout.flood_device and reading.state(held, table.believed(held)).port == 0:
            name, text = devices.name_of(port), format_address(held)
            problem = f"an entry made by hand keeps {text} behind {name}, by way of the hub"
            yield Finding("entries", text, problem, f"bridge fdb del {text} dev {name} master")


def _said(entry: Entry, name: str) -> str:
    where = format_address(entry.nbma) if entry.nbma else "nowhere"
    mac = format_address(entry.mac)
    return f"an entry made by hand on {name} sends frames for {mac} to {where}"
