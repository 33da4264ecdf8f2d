"""The device of a hub, made or taken up by ``provision``. Layer: edge."""

from __future__ import annotations

from dmevpn.addresses import format_address
from dmevpn.config.model import HubPlan
from dmevpn.dataplane.adoption import differences
from dmevpn.dataplane.links import Link, LinkTable
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.provision import Provisioner, hub_parameters
from dmevpn.dataplane.underlay import OVERHEAD_IPV4, OVERHEAD_IPV6, overlay_mtu
from dmevpn.errors import DataplaneError, StartError

__all__ = ["HubDevice", "provision_hub"]

#: MTU of the underlay as long as there is none.
_ETHERNET_MTU = 1500


def _leads_out(link: Link) -> bool:
    """Whether frames may leave this machine by a device."""
    return link.up and link.kind not in ("vxlan", "bridge") and link.name != "lo"


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
        self._underlay: dict[int, int] = {}
        """MTU of each device that frames may leave by, by its index."""
        self._mtu = overlay_mtu(_ETHERNET_MTU, OVERHEAD_IPV4)
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
        self._follow_underlay()
        if nbma_address is not None and not self._underlay:
            raise StartError(
                f"interface {self._plan.interface}: nbma-address {format_address(nbma_address)} is"
                " no address of this machine"
            )
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

    def concerns(self, link: Link, *, present: bool) -> bool:
        """Whether what has become of another device may mean another MTU for ours."""
        known = self._underlay.get(link.ifindex)
        if self._nbma_address is not None and self._underlay and known is None:
            return False
        return known != (link.mtu if present and _leads_out(link) else None)

    def fault(self, link: Link) -> str:
        """What somebody has changed of the device, in words; empty: nothing.

        :raises DataplaneError: if the kernel does not say what there is.
        """
        self._follow_underlay()
        found = [str(each) for each in differences(link, hub_parameters(self._plan))]
        if link.mtu != self._mtu:
            found.append(f"mtu is {link.mtu}, the underlay leaves {self._mtu}")
        return f"{link.name} is not as it should be: {', '.join(found)}" if found else ""

    def _make(self) -> None:
        self.link = self._provisioner.make_hub(self._plan, self._mtu)

    def _follow_underlay(self) -> None:
        """See what frames may leave by; where nothing is left of it, the MTU stays as it is."""
        if self._nbma_address is None:
            devices = [link for link in self._links.all() if _leads_out(link)]
        else:
            owner = self._links.owner(self._nbma_address)
            devices = [] if owner is None else [owner]
        self._underlay = {link.ifindex: link.mtu for link in devices}
        if devices:
            ipv6 = self._nbma_address is not None and len(self._nbma_address) == 16
            overhead = OVERHEAD_IPV6 if ipv6 else OVERHEAD_IPV4
            self._mtu = overlay_mtu(max(self._underlay.values()), overhead)

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

    Its MTU fits the device that has ``nbma_address``, else the largest of the underlay's devices,
    and follows it: what is too large for one of them is fragmented there, what is too large for the
    switch's own device would be lost.

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
