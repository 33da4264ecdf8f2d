"""The vxlan devices of a spoke: made by us, or by hand and checked. Layer: edge."""

from __future__ import annotations

from typing import NamedTuple

from dmevpn.addresses import format_address
from dmevpn.config.model import SpokePlan
from dmevpn.dataplane.adoption import differences, is_ours
from dmevpn.dataplane.links import Link, LinkTable, PortSettings, VXLANParameters
from dmevpn.dataplane.neighbours import BROADCAST, ZERO_MAC
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.provision import (
    HUB_PORT,
    SHORTCUT_PORT,
    Planes,
    Provisioner,
    shortcut_plane,
    spoke_parameters,
)
from dmevpn.dataplane.spoke_layout import Layout
from dmevpn.dataplane.traffic import device_traffic
from dmevpn.dataplane.underlay import Underlay, find_underlay
from dmevpn.errors import StartError
from dmevpn.interfaces import PlaneCounters
from dmevpn.log import Logger

__all__ = ["DeviceState", "SpokeDevices", "hub_address"]


class DeviceState(NamedTuple):
    """How the devices are now."""

    layout: Layout | None
    """None: a device is missing, or not where it belongs."""
    up: bool
    mtu: int
    faults: tuple[str, ...] = ()
    """What somebody has changed, in words."""
    down: tuple[str, ...] = ()
    """Devices that somebody has set down: that may be meant."""


def hub_address(plan: SpokePlan) -> bytes:
    """The hub whose address family the devices have: the first that frames may go to.

    :raises StartError: if no server has an address.
    """
    known = [server for server in plan.servers if server.address]
    for server in [*(server for server in known if server.flood), *known]:
        if server.address:
            return server.address
    raise StartError(f"interface {plan.interface}: no hub with a known address")


class SpokeDevices:
    """Finds or makes the devices, and looks at them again when something happened to them.

    :param hub: underlay address of the hub, whose address family the devices have.
    :param nbma_address: our underlay address as configured, or None.
    """

    log = Logger()

    def __init__(
        self, requests: NetlinkRequests, plan: SpokePlan, hub: bytes, nbma_address: bytes | None
    ) -> None:
        self.provisioned = plan.bridge is not None
        self.local = b""
        """Our underlay address; valid after open."""
        self._requests = requests
        self._plan = plan
        self._nbma_address = nbma_address
        self._links = LinkTable(requests)
        # None: closed, or not opened yet.
        self._provisioner: Provisioner | None = None
        self._hub = hub
        self._underlay = Underlay(b"", 0)
        # Indices of our devices when they were last seen by their names.
        self._known: dict[str, int] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names of the devices that matter."""
        plan = self._plan
        if plan.bridge is None:
            return frozenset((plan.interface,))
        return frozenset((plan.interface, shortcut_plane(plan.interface), plan.bridge))

    def concerns(self, ifindex: int, name: str) -> bool:
        """Whether a change of a device may concern us: it is one of ours, or of the underlay."""
        return (
            name in self.names
            or ifindex in self._known.values()
            or ifindex == self._underlay.ifindex
        )

    def open(self) -> DeviceState:
        """Make the devices, or check the one that was made by hand.

        :raises StartError: if they cannot be used; abandon is to be called then.
        :raises OSError: if there is no socket to be had.
        """
        plan = self._plan
        provisioner = self._require_net_admin()
        if provisioner is None:
            self._check(self._links.named(plan.interface))
        else:
            self._underlay = find_underlay(
                self._links, plan.interface, self._hub, self._nbma_address
            )
            self.local = self._underlay.local
            provisioner.make_spoke(plan, self._hub, self._underlay)
        return self.look()

    def find(self) -> DeviceState:
        """Look for what was left for us, to remove it; nothing is made.

        :raises StartError: if we may not.
        :raises DataplaneError: if the kernel does not say.
        :raises OSError: if there is no socket to be had.
        """
        self._require_net_admin()
        return self.look()

    def _require_net_admin(self) -> Provisioner | None:
        """Make sure that we may change devices; who makes ours, None if there are none."""
        self._provisioner = Provisioner(self._requests, self._plan.interface)
        self._provisioner.require_net_admin()
        if not self.provisioned:
            self._close()
        return self._provisioner

    def restore(self) -> None:
        """Make our devices what they should be, and again what vanished of them.

        :raises StartError: if they cannot be had now.
        :raises DataplaneError: if the kernel does not say what there is.
        """
        assert self._provisioner is not None, "not provisioned"
        for name, ifindex in self._known.items():
            link = self._links.numbered(ifindex)
            if link is not None and link.name != name:
                self._provisioner.rename(link, name)
        self._provisioner.make_spoke(self._plan, self._hub, self._underlay)

    def abandon(self) -> None:
        """Remove what open has made."""
        if self._provisioner is not None:
            self._provisioner.undo()
            self._close()

    def stay(self) -> bool:
        """Whether a plane stays when we stop, because somebody else has made it.

        :raises DataplaneError: if the kernel does not say.
        """
        planes = (link for link in self.links() if link.name != self._plan.bridge)
        return not self.provisioned or any(not is_ours(link) for link in planes)

    def remove(self) -> None:
        """Remove our devices.

        :raises DataplaneError: if the kernel refuses.
        """
        if self._provisioner is not None:
            try:
                self._provisioner.remove_spoke(self._plan)
            finally:
                self._close()

    def hand_over(self) -> None:
        """Leave our devices as they are to a successor."""
        self._close()

    def _close(self) -> None:
        if self._provisioner is not None:
            self._provisioner.close()
            self._provisioner = None

    def name_of(self, ifindex: int) -> str:
        """The name of a device; its number if it has gone."""
        link = self._links.numbered(ifindex)
        return f"device {ifindex}" if link is None else link.name

    def links(self) -> list[Link]:
        """Those of our devices that are there: hub plane (or both), shortcut plane, bridge."""
        plan = self._plan
        names = [plan.interface]
        if plan.bridge is not None:
            names += [shortcut_plane(plan.interface), plan.bridge]
        found = [self._links.named(name) for name in names]
        return [link for link in found if link is not None]

    def local_ports(self, bridge: int) -> list[Link]:
        """The ports of a bridge that are not ours."""
        return [port for port in self._links.ports(bridge) if port.name not in self.names]

    def underlay(self) -> Underlay:
        """The way to the hub as it is now.

        :raises StartError: if there is none.
        """
        return find_underlay(self._links, self._plan.interface, self._hub, self.local or None)

    def readdressed(self) -> bool:
        """Whether the address that we took is this machine's no more, and there is another.

        One that was configured is for the operator to change.

        :raises DataplaneError: if the kernel does not say.
        """
        if not self.provisioned or self._nbma_address is not None:
            return False
        if self._links.owner(self.local) is not None:
            return False
        try:
            found = find_underlay(self._links, self._plan.interface, self._hub, None)
        except StartError:
            return False
        return found.local != self.local

    def traffic(self) -> dict[str, PlaneCounters]:
        """What each plane has carried."""
        name = self._plan.interface
        planes = {"hub": name, "shortcut": shortcut_plane(name)}
        if not self.provisioned:
            planes = {"both": name}
        found = {plane: device_traffic(self._requests, planes[plane]) for plane in planes}
        return {plane: counters for plane, counters in found.items() if counters is not None}

    def look(self) -> DeviceState:
        """How the devices are now.

        :raises DataplaneError: if the kernel does not say.
        """
        plan, faults = self._plan, list[str]()
        device = self._find(plan.interface, faults)
        if plan.bridge is None:
            if device is None or device.vxlan is None or device.vxlan.vni != plan.vni:
                faults = faults or [f"{plan.interface} is another device than before"]
                return DeviceState(None, False, 0, tuple(faults))
            self._known = {plan.interface: device.ifindex}
            down: tuple[str, ...] = () if device.up else (device.name,)
            return DeviceState(self._single(device), device.up, device.mtu, tuple(faults), down)
        shortcut = self._find(shortcut_plane(plan.interface), faults)
        bridge = self._find(plan.bridge, faults)
        if device is None or shortcut is None or bridge is None:
            return DeviceState(None, False, 0, tuple(faults))
        self._follow_underlay()
        wanted = spoke_parameters(plan, self._hub, self.local)
        faults += self._differences(device, wanted[plan.interface], bridge, HUB_PORT)
        faults += self._differences(
            shortcut, wanted[shortcut_plane(plan.interface)], bridge, SHORTCUT_PORT
        )
        layout = None
        if device.master == shortcut.master == bridge.ifindex:
            layout = self._two_planes(Planes(bridge, device, shortcut))
            names = (plan.interface, shortcut_plane(plan.interface), plan.bridge)
            links = (device, shortcut, bridge)
            self._known = {name: link.ifindex for name, link in zip(names, links, strict=True)}
        down = tuple(link.name for link in (device, shortcut, bridge) if not link.up)
        up = layout is not None and not down
        return DeviceState(layout, up, device.mtu, tuple(faults), down)

    def _find(self, name: str, faults: list[str]) -> Link | None:
        """A device by its name, or under the one that somebody has given it since."""
        link = self._links.named(name)
        if link is None and name in self._known:
            link = self._links.numbered(self._known[name])
            if link is not None:
                faults.append(f"{name} is called {link.name} now")
        if link is None:
            faults.append(f"{name} is gone")
        return link

    def _follow_underlay(self) -> None:
        """Take over the MTU of the device that leads to the hub; without it, nothing changes."""
        device = self._links.numbered(self._underlay.ifindex) if self._underlay.ifindex else None
        if device is not None:
            self._underlay = self._underlay._replace(mtu=min(device.mtu, self._underlay.limit))

    def _differences(
        self, plane: Link, wanted: VXLANParameters, bridge: Link, settings: PortSettings
    ) -> list[str]:
        """What somebody has changed of a plane."""
        changed = differences(plane, wanted, remote=False)
        found = [f"{plane.name} is another device: {each}" for each in changed]
        if plane.master != bridge.ifindex:
            found.append(f"{plane.name} is no port of {bridge.name}")
        elif plane.port != settings:
            found.append(f"{plane.name} has other settings as a port of {bridge.name}")
        mtu = self._underlay.overlay_mtu
        if plane.mtu != mtu:
            found.append(f"{plane.name} has MTU {plane.mtu}, the underlay leaves {mtu}")
        return found

    # --- layouts --------------------------------------------------------------------------

    def _two_planes(self, planes: Planes) -> Layout:
        return Layout(
            device=planes.shortcut.ifindex,
            flood_device=planes.hub.ifindex,
            flood_mac=ZERO_MAC,
            bridge=planes.bridge.ifindex,
            hold=bytes(len(self._hub)),
            port=self._plan.port,
            vni=self._plan.vni,
        )

    def _single(self, device: Link) -> Layout:
        return Layout(
            device=device.ifindex,
            flood_device=device.ifindex,
            flood_mac=BROADCAST,
            bridge=0,
            hold=self._hub,
            port=None,
            vni=self._plan.vni,
        )

    # --- made by hand ------------------------------------------------------------------------

    def _check(self, device: Link | None) -> None:
        plan, name = self._plan, self._plan.interface
        if device is None:
            raise StartError(
                f"interface {name}: no such device; make it, or have it made with"
                " `provision BRIDGE`"
            )
        if device.vxlan is None:
            raise StartError(
                f"interface {name}: a vxlan device is needed, this is"
                f" {device.kind or 'another kind of device'}"
            )
        if device.vxlan.external:
            raise StartError(
                f"interface {name}: an external vxlan device is a hub's (`l2learnonly`);"
                f" a spoke needs one with `id {plan.vni}`"
            )
        if device.vxlan.vni != plan.vni:
            raise StartError(
                f"interface {name}: the device has VNI {device.vxlan.vni}, the configuration"
                f" {plan.vni}"
            )
        self.local = device.vxlan.local
        if not self.local:
            self.local = find_underlay(self._links, name, self._hub, self._nbma_address).local
        if len(self.local) != len(self._hub):
            raise StartError(
                f"interface {name}: the device's local address {format_address(self.local)} and"
                f" hub {format_address(self._hub)} are of different address families"
            )
        if self._nbma_address not in (None, self.local):
            self.log.warn(
                "{ifname}: frames come from {nbma}, the device's own address",
                ifname=name,
                nbma=format_address(self.local),
            )
        if not device.vxlan.l2miss:
            self.log.warn(
                "{ifname}: the device reports no misses, so no shortcut is ever asked for;"
                " make it anew: {command}",
                ifname=name,
                command=f"ip link del {name}; ip link add {name} type vxlan id {plan.vni}"
                f" local {format_address(self.local)} dstport {device.vxlan.port}"
                " l2miss nolearning",
            )
        if device.vxlan.learning:
            self.log.warn(
                "{ifname}: a device that learns drops what the hub relays; {command}",
                ifname=name,
                command=f"ip link set dev {name} type vxlan id {plan.vni} nolearning",
            )
