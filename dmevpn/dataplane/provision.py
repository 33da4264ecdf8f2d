"""Makes, adopts and removes the devices that ``provision`` asks for. Layer: edge.

A spoke has two vxlan devices in one bridge, because one alone cannot both forward unknown frames
to the hub and report them: a miss is reported only where there is no default, and the frame that
misses is dropped (Linux ``vxlan_xmit``). A hub has one ``external`` device.

What we make carries our mark in its alias (``ip -d link show``). So the successor of a killed
daemon takes the devices up as they stand, with their entries, a clean stop removes what is ours
and nothing else, and a device of the same name that somebody else made is refused.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from dmevpn.addresses import format_address
from dmevpn.config.model import HubPlan, SpokePlan
from dmevpn.dataplane.link_changes import LinkChanges
from dmevpn.dataplane.links import (
    IFNAME_MAX,
    Link,
    LinkTable,
    PortSettings,
    VXLANParameters,
)
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.underlay import OVERHEAD_IPV4, OVERHEAD_IPV6, Underlay, overlay_mtu
from dmevpn.errors import DataplaneError, StartError
from dmevpn.log import Logger

__all__ = [
    "HUB_PORT",
    "SHORTCUT_PORT",
    "HubDevice",
    "Planes",
    "Provisioner",
    "provision_hub",
    "shortcut_plane",
]

#: Aliases of what we make.
BRIDGE_ALIAS = "dmevpn bridge"
HUB_PLANE_ALIAS = "dmevpn hub plane"
SHORTCUT_PLANE_ALIAS = "dmevpn shortcut plane"
HUB_ALIAS = "dmevpn hub"
_ALIASES = (BRIDGE_ALIAS, HUB_PLANE_ALIAS, SHORTCUT_PLANE_ALIAS, HUB_ALIAS)

#: How the bridge treats the planes. Learning would pin a MAC to the plane it was last heard on.
#: Where the bridge snoops, groups whose members are at other sites still have to go to the hub.
HUB_PORT = PortSettings(
    learning=False, isolated=True, flood=True, group_flood=True, all_groups=True
)
SHORTCUT_PORT = HUB_PORT._replace(group_flood=False, all_groups=False)

_CAPABILITY = "CAP_NET_ADMIN is missing: run as root, or grant it (systemd: AmbientCapabilities=)"

T = TypeVar("T")


class Planes(NamedTuple):
    """The devices of a spoke."""

    bridge: Link
    hub: Link
    """Carries what has no shortcut, and everything that comes in."""
    shortcut: Link
    """Carries frames straight to other sites; its misses are ours to resolve."""


def shortcut_plane(interface: str) -> str:
    """Name of the shortcut plane beside a hub plane."""
    return f"{interface}-s"


class Provisioner:
    """Makes devices, and takes them back if not all of them can be had.

    It is to be made in the network namespace of ``requests``, and works from any.

    :param requests: for reading what there is.
    :param interface: the data interface as the configuration names it, for error texts.
    """

    log = Logger()

    def __init__(self, requests: NetlinkRequests, interface: str) -> None:
        """:raises OSError: if there is no socket to be had."""
        self._changes = LinkChanges()
        self._links = LinkTable(requests)
        self._interface = interface
        # Devices that the last call made, by index: a name may change hands.
        self._made: list[int] = []

    def close(self) -> None:
        """Close the socket and leave the devices as they are; again is harmless."""
        self._changes.close()

    def require_net_admin(self) -> None:
        """Check by a request that changes nothing that the kernel lets us change anything.

        :raises StartError: naming the capability that is missing.
        """
        # Removing no device: EPERM comes before the look at what is asked.
        try:
            self._changes.delete(0, "asking for nothing")
        except DataplaneError as error:
            if error.errno == errno.EPERM:
                raise StartError(f"interface {self._interface}: {_CAPABILITY}") from None

    # --- spoke --------------------------------------------------------------------------

    def make_spoke(self, plan: SpokePlan, hub: bytes, underlay: Underlay) -> Planes:
        """Make the bridge and both planes, or take up those of an earlier run.

        :raises StartError: if they cannot be had; what this call made is gone again.
        """
        return self._all_or_nothing(lambda: self._make_spoke(plan, hub, underlay))

    def _make_spoke(self, plan: SpokePlan, hub: bytes, underlay: Underlay) -> Planes:
        assert plan.bridge is not None
        second = shortcut_plane(plan.interface)
        if len(second.encode()) > IFNAME_MAX:
            raise StartError(
                f"interface {plan.interface}: `provision` needs a name of at most"
                f" {IFNAME_MAX - 2} characters, for {second} beside it"
            )
        mtu = underlay.overlay_mtu
        hub_plane = self._vxlan(
            plan.interface,
            HUB_PLANE_ALIAS,
            VXLANParameters(plan.vni, underlay.local, hub, plan.port, False, False, False),
            mtu,
        )
        shortcut = self._vxlan(
            second,
            SHORTCUT_PLANE_ALIAS,
            # Its own port only tells the two apart: every entry on it names the wire's.
            VXLANParameters(plan.vni, underlay.local, b"", plan.port - 1, False, True, False),
            mtu,
        )
        bridge = self._bridge(plan.bridge)
        for plane, settings in ((hub_plane, HUB_PORT), (shortcut, SHORTCUT_PORT)):
            with self._refused(self._interface):
                self._changes.add_to_bridge(plane.ifindex, bridge.ifindex, bridge.name)
                self._changes.set_bridge_port(plane.ifindex, settings)
        self._up(hub_plane, plan.port)
        self._up(shortcut, plan.port - 1)
        return Planes(*map(self._again, (bridge, hub_plane, shortcut)))

    def rename(self, link: Link, name: str) -> None:
        """Give a device of ours its name back.

        :raises StartError: if it is not ours, or cannot be renamed.
        """
        if link.alias not in _ALIASES:
            raise StartError(
                f"interface {self._interface}: {name} is called {link.name} now: rename it back"
                f" (`ip link set {link.name} name {name}`), or change the configuration"
            )
        with self._refused(name):
            self._changes.set_name(link.ifindex, name)

    def remove_spoke(self, plan: SpokePlan) -> None:
        """Remove the planes and the bridge, those of them that are ours.

        :raises DataplaneError: if the kernel refuses.
        """
        assert plan.bridge is not None
        for name, alias in (
            (shortcut_plane(plan.interface), SHORTCUT_PLANE_ALIAS),
            (plan.interface, HUB_PLANE_ALIAS),
        ):
            self._remove(name, alias)
        bridge = self._links.named(plan.bridge)
        if bridge is not None and not any(
            port.alias in _ALIASES for port in self._links.ports(bridge.ifindex)
        ):
            self._remove(plan.bridge, BRIDGE_ALIAS)

    # --- hub ----------------------------------------------------------------------------

    def make_hub(self, plan: HubPlan, mtu: int) -> Link:
        """Make the external vxlan device of a hub, or take up that of an earlier run.

        :raises StartError: if it cannot be had; nothing is left behind.
        """

        def make() -> Link:
            device = self._vxlan(
                plan.interface,
                HUB_ALIAS,
                VXLANParameters(0, b"", b"", plan.port, False, False, True),
                mtu,
            )
            self._up(device, plan.port)
            return self._again(device)

        return self._all_or_nothing(make)

    def remove_hub(self, plan: HubPlan) -> None:
        """Remove a hub's device if it is ours."""
        self._remove(plan.interface, HUB_ALIAS)

    # --- steps --------------------------------------------------------------------------

    def _all_or_nothing(self, make: Callable[[], T]) -> T:
        self._made.clear()
        try:
            return make()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Remove what the last call made, not what it took up: that carries traffic."""
        for ifindex in reversed(self._made):
            with contextlib.suppress(DataplaneError):
                self._changes.delete(ifindex, "removing a device")
        self._made.clear()

    def _vxlan(self, name: str, alias: str, wanted: VXLANParameters, mtu: int) -> Link:
        link = self._named(name)
        if link is not None:
            if link.alias != alias or link.vxlan is None:
                raise StartError(
                    f"interface {name}: a device of that name exists and was not made by dmevpn;"
                    f" remove it (`ip link delete {name}`) or configure it without `provision`"
                )
            # A different default destination is an entry, which set_flood puts right.
            if link.vxlan._replace(remote=wanted.remote) != wanted:
                with self._refused(name):
                    self._changes.delete(link.ifindex, "removing the device of an earlier run")
                link = None
        if link is None:
            link = self._create(
                partial(self._changes.create_vxlan, name, wanted, mtu), name, wanted
            )
            self._mark(link, alias)
        else:
            with self._refused(name):
                self._changes.set_mtu(link.ifindex, mtu)
        return link

    def _create(
        self, create: Callable[[], None], name: str, wanted: VXLANParameters | None
    ) -> Link:
        try:
            create()
        except DataplaneError as error:
            cure = str(error)
            if error.errno == errno.EPERM:
                cure = _CAPABILITY
            elif error.errno == errno.EEXIST and wanted is not None:
                cure = (
                    f"another vxlan device has VNI {wanted.vni} on UDP port {wanted.port}:"
                    " remove it, or choose another port with `vxlan-port`"
                )
            elif error.errno == errno.EOPNOTSUPP:
                kind = "bridge" if wanted is None else "vxlan"
                cure = f"the kernel has no {kind} devices (`modprobe {kind}`)"
            raise StartError(f"interface {self._interface}: cannot make {name}: {cure}") from None
        link = self._named(name)
        if link is None:
            raise StartError(f"interface {name}: removed by somebody while it was being made")
        self._made.append(link.ifindex)
        return link

    def _mark(self, link: Link, alias: str) -> None:
        name = link.name
        with self._refused(name):
            self._changes.set_alias(link.ifindex, alias)
        # The planes are no hosts of the LAN: no addresses, no router solicitations. The kernel
        # may have no IPv6 at all, and /proc/sys may be read-only: either way alone is enough.
        with contextlib.suppress(DataplaneError):
            self._changes.stop_addresses(link.ifindex)
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6").write_text("1")

    def _bridge(self, name: str) -> Link:
        link = self._named(name)
        if link is None:
            if len(name.encode()) > IFNAME_MAX:
                raise StartError(
                    f"interface {self._interface}: bridge {name}: a device name has at most"
                    f" {IFNAME_MAX} characters"
                )
            link = self._create(partial(self._changes.create_bridge, name), name, None)
            self._mark(link, BRIDGE_ALIAS)
        elif link.kind != "bridge":
            raise StartError(f"interface {self._interface}: {name} exists and is no bridge")
        if link.alias == BRIDGE_ALIAS or link.ifindex in self._made:
            with self._refused(name):
                self._changes.set_up(link.ifindex, "setting it up")
        elif not link.up:
            self.log.warn(
                "{ifname}: bridge {bridge} is down; `ip link set {bridge} up`",
                ifname=self._interface,
                bridge=name,
            )
        return link

    def _up(self, link: Link, port: int) -> None:
        try:
            self._changes.set_up(link.ifindex, f"setting {link.name} up")
        except DataplaneError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"interface {self._interface}: {error}") from None
            raise StartError(
                f"interface {self._interface}: UDP port {port} is in use by another vxlan device"
                f" or socket (`ss -lunp sport = {port}`): stop it, or choose another port with"
                " `vxlan-port`, the same at all sites of the hub"
            ) from None

    def _again(self, link: Link) -> Link:
        """The device as it is now."""
        found = self._named(link.name)
        if found is None:
            raise StartError(f"interface {link.name}: removed by somebody while it was being made")
        return found

    def _named(self, name: str) -> Link | None:
        try:
            return self._links.named(name)
        except DataplaneError as error:
            raise StartError(f"interface {name}: {error}") from None

    @contextlib.contextmanager
    def _refused(self, name: str) -> Iterator[None]:
        """Have what the kernel refuses end the start, with the name of the device."""
        try:
            yield
        except DataplaneError as error:
            reason = _CAPABILITY if error.errno == errno.EPERM else str(error)
            raise StartError(f"interface {name}: {reason}") from None

    def _remove(self, name: str, alias: str) -> None:
        link = self._links.named(name)
        if link is None or link.alias != alias:
            return
        try:
            self._changes.delete(link.ifindex, f"removing {name}")
        except DataplaneError as error:
            if error.errno != errno.ENODEV:
                raise


class HubDevice:
    """The external vxlan device of a hub, and the way to remove it again."""

    def __init__(self, plan: HubPlan) -> None:
        """Open the sockets, in the network namespace of the calling thread.

        :raises OSError: if there is none to be had.
        """
        self.link: Link
        """Valid after open."""
        self._plan = plan
        self._nbma_address: bytes | None = None
        self._requests = NetlinkRequests()
        self._links = LinkTable(self._requests)
        try:
            self._provisioner = Provisioner(self._requests, plan.interface)
        except BaseException:
            self._requests.close()
            raise

    def open(self, nbma_address: bytes | None) -> None:
        """Make the device, or take up that of an earlier run.

        :raises StartError: if it cannot be had; nothing is left behind.
        :raises DataplaneError: if the kernel does not say what there is.
        """
        self._nbma_address = nbma_address
        self._provisioner.require_net_admin()
        self._make()

    def restore(self) -> None:
        """Make the device what it should be, and again if somebody has removed it.

        :raises StartError: if it cannot be had now.
        :raises DataplaneError: if the kernel does not say what there is.
        """
        renamed = self._links.numbered(self.link.ifindex)
        if renamed is not None and renamed.name != self._plan.interface:
            self._provisioner.rename(renamed, self._plan.interface)
        self._make()

    def _make(self) -> None:
        self.link = self._provisioner.make_hub(self._plan, self._mtu(self._nbma_address))

    def _mtu(self, nbma_address: bytes | None) -> int:
        owner = self._links.owner(nbma_address) if nbma_address is not None else None
        if nbma_address is not None and owner is None:
            raise StartError(
                f"interface {self._plan.interface}: nbma-address {format_address(nbma_address)} is"
                " no address of this machine"
            )
        underlay = (
            [owner]
            if owner is not None
            else [
                link
                for link in self._links.all()
                if link.up and link.kind not in ("vxlan", "bridge") and link.name != "lo"
            ]
        )
        overhead = OVERHEAD_IPV6 if nbma_address and len(nbma_address) == 16 else OVERHEAD_IPV4
        return overlay_mtu(max((link.mtu for link in underlay), default=1500), overhead)

    def remove(self) -> None:
        """Remove the device if it is still ours; works from any network namespace.

        :raises DataplaneError: if the kernel refuses.
        """
        try:
            self._provisioner.remove_hub(self._plan)
        finally:
            self.close()

    def close(self) -> None:
        """Leave the device as it is, for a successor to take up."""
        self._provisioner.close()
        self._requests.close()


def provision_hub(plan: HubPlan, nbma_address: bytes | None = None) -> HubDevice:
    """Make a hub's device in the network namespace of the calling thread.

    Its MTU fits the device that has ``nbma_address``, else the largest of the underlay's devices:
    what is too large for one of them is fragmented there, what is too large for the switch's own
    device would be lost.

    :raises StartError: if the device cannot be had; nothing is left behind.
    """
    try:
        device = HubDevice(plan)
    except OSError as error:
        raise StartError(f"interface {plan.interface}: netlink: {error.strerror}") from None
    try:
        device.open(nbma_address)
    except BaseException as error:
        device.close()
        if isinstance(error, DataplaneError):
            raise StartError(f"interface {plan.interface}: {error}") from None
        raise
    return device
