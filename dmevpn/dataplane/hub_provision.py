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

    def fault(self, link: Link) -> str:
        """What somebody has changed of the device, in words; empty: nothing."""
        found = [str(each) for each in differences(link, hub_parameters(self._plan))]
        if link.mtu != self.link.mtu:
            found.append(f"mtu is {link.mtu}, not {self.link.mtu}")
        return f"{link.name} is not as it was: {', '.join(found)}" if found else ""

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
