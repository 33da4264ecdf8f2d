"""Makes, adopts and removes the devices that ``provision`` asks for. Layer: edge.

A spoke has two vxlan devices in one bridge, because one alone cannot both forward unknown frames
to the hub and report them: a miss is reported only where there is no default, and the frame that
misses is dropped (Linux ``vxlan_xmit``). A hub has one ``external`` device.

What we make carries our mark (:mod:`dmevpn.dataplane.adoption`). So the successor of a killed
daemon takes the devices up as they stand, with their entries, and a clean stop removes what is ours
and nothing else. A device of the same name that somebody else made is taken up if it is what we
would have made, and refused otherwise, before anything is changed.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from dmevpn.config.model import HubPlan, SpokePlan
from dmevpn.dataplane.adoption import (
    BRIDGE_ALIAS,
    HUB_ALIAS,
    HUB_PLANE_ALIAS,
    SHORTCUT_PLANE_ALIAS,
    Difference,
    differences,
    is_ours,
    refusal,
)
from dmevpn.dataplane.link_changes import LinkChanges
from dmevpn.dataplane.links import (
    IFNAME_MAX,
    Link,
    LinkTable,
    PortSettings,
    VXLANParameters,
)
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.underlay import Underlay
from dmevpn.errors import DataplaneError, StartError
from dmevpn.log import Logger

__all__ = [
    "HUB_PORT",
    "SHORTCUT_PORT",
    "Planes",
    "Provisioner",
    "hub_parameters",
    "shortcut_plane",
    "spoke_parameters",
]

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


def spoke_parameters(plan: SpokePlan, hub: bytes, local: bytes) -> dict[str, VXLANParameters]:
    """What the planes of a spoke are made with, by name.

    :param local: our underlay address.
    """
    # The shortcut plane's port only tells the two apart: every entry on it names the wire's.
    return {
        plan.interface: VXLANParameters(plan.vni, local, hub, plan.port, False, False, False),
        shortcut_plane(plan.interface): VXLANParameters(
            plan.vni, local, b"", plan.port - 1, False, True, False
        ),
    }


def hub_parameters(plan: HubPlan) -> VXLANParameters:
    """What the device of a hub is made with."""
    return VXLANParameters(0, b"", b"", plan.port, False, False, True)


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
        # Devices of others that it took up, as they were before.
        self._adopted: list[Link] = []
        self._told: set[int] = set()

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
        wanted = spoke_parameters(plan, hub, underlay.local)
        self._refuse(plan.interface, HUB_PLANE_ALIAS, wanted[plan.interface], plan.bridge)
        self._refuse(second, SHORTCUT_PLANE_ALIAS, wanted[second], plan.bridge)
        hub_plane = self._vxlan(plan.interface, HUB_PLANE_ALIAS, wanted[plan.interface], mtu)
        shortcut = self._vxlan(second, SHORTCUT_PLANE_ALIAS, wanted[second], mtu)
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
        if not is_ours(link):
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
            is_ours(port) for port in self._links.ports(bridge.ifindex)
        ):
            self._remove(plan.bridge, BRIDGE_ALIAS)

    # --- hub ----------------------------------------------------------------------------

    def make_hub(self, plan: HubPlan, mtu: int) -> Link:
        """Make the external vxlan device of a hub, or take up that of an earlier run.

        :raises StartError: if it cannot be had; nothing is left behind.
        """

        def make() -> Link:
            wanted = hub_parameters(plan)
            self._refuse(plan.interface, HUB_ALIAS, wanted, None)
            device = self._vxlan(plan.interface, HUB_ALIAS, wanted, mtu)
            self._up(device, plan.port)
            return self._again(device)

        return self._all_or_nothing(make)

    def remove_hub(self, plan: HubPlan) -> None:
        """Remove a hub's device if it is ours."""
        self._remove(plan.interface, HUB_ALIAS)

    # --- steps --------------------------------------------------------------------------

    def _all_or_nothing(self, make: Callable[[], T]) -> T:
        self._made.clear()
        self._adopted.clear()
        try:
            made = make()
        except BaseException:
            self.undo()
            raise
        for link in self._adopted:
            self._quieten(link)
            if link.ifindex not in self._told:
                self._told.add(link.ifindex)
                self.log.info(
                    "{ifname}: {device} is what it should be; who made it removes it",
                    ifname=self._interface,
                    device=link.name,
                )
        return made

    def undo(self) -> None:
        """Remove what the last call made, not what it took up: that carries traffic.

        What others have made and it took up is as it was before.
        """
        for link in reversed(self._adopted):
            with contextlib.suppress(DataplaneError):
                self._changes.put_back(link)
        for ifindex in reversed(self._made):
            with contextlib.suppress(DataplaneError):
                self._changes.delete(ifindex, "removing a device")
        self._made.clear()
        self._adopted.clear()

    def _refuse(self, name: str, alias: str, wanted: VXLANParameters, bridge: str | None) -> None:
        """Have a device that is not ours, and not what we need either, end the start.

        :param bridge: the only bridge that it may be a port of.
        :raises StartError: with every parameter that differs, and the cure.
        """
        link = self._named(name)
        if link is None or link.alias == alias:
            return
        master = None
        if link.master:
            try:
                owner = self._links.numbered(link.master)
            except DataplaneError as error:
                raise StartError(f"interface {name}: {error}") from None
            if owner is not None and owner.name != bridge:
                master = Difference("master", owner.name, bridge or "none")
        found = differences(link, wanted)
        if found or master is not None:
            raise StartError(refusal(link, found, master))

    def _vxlan(self, name: str, alias: str, wanted: VXLANParameters, mtu: int) -> Link:
        """A device as it is wanted; one of others has passed :meth:`_refuse`."""
        link = self._named(name)
        # A different default destination is an entry, which set_flood puts right.
        if link is not None and link.alias == alias and differences(link, wanted, remote=False):
            with self._refused(name):
                self._changes.delete(link.ifindex, "removing the device of an earlier run")
            link = None
        if link is None:
            link = self._create(
                partial(self._changes.create_vxlan, name, wanted, mtu), name, wanted
            )
            with self._refused(name):
                self._changes.set_alias(link.ifindex, alias)
            self._quieten(link)
            return link
        if link.alias != alias:
            self._adopted.append(link)
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

    def _quieten(self, link: Link) -> None:
        """Have a device send nothing of its own.

        It is no host of the LAN: no addresses, no router solicitations. The kernel may have no
        IPv6 at all, and /proc/sys may be read-only: either way alone is enough.
        """
        with contextlib.suppress(DataplaneError):
            self._changes.stop_addresses(link.ifindex)
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", link.name, "disable_ipv6").write_text("1")

    def _bridge(self, name: str) -> Link:
        link = self._named(name)
        if link is None:
            if len(name.encode()) > IFNAME_MAX:
                raise StartError(
                    f"interface {self._interface}: bridge {name}: a device name has at most"
                    f" {IFNAME_MAX} characters"
                )
            link = self._create(partial(self._changes.create_bridge, name), name, None)
            with self._refused(name):
                self._changes.set_alias(link.ifindex, BRIDGE_ALIAS)
            self._quieten(link)
        elif link.kind != "bridge":
            raise StartError(
                f"interface {self._interface}: {name} exists and is no bridge: kind is"
                f" {link.kind or 'hardware'}, not bridge; name another one after `provision`"
            )
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
