"""The device that a hub's switch runs on: what it must be, and the switch's place on it.

Layer: edge. Sources: Linux ``uapi/linux/rtnetlink.h`` (``struct tcmsg``), ``net/sched/cls_api.c``.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection

from dmevpn.dataplane.ebpf import libbpf
from dmevpn.dataplane.links import Link, LinkTable
from dmevpn.dataplane.netlink import Message, NetlinkRequests
from dmevpn.errors import DataplaneError, StartError

__all__ = ["HANDLE", "PRIORITY", "Attachment", "find_device"]

#: The switch's place among the filters of the device's ingress: after those of lower priority,
#: which an operator may have added. The number is that of VXLAN's port, easy to recognise.
PRIORITY = 4789
HANDLE = 1

_RTM_NEWTFILTER = 44
_RTM_GETTFILTER = 46
_CLSACT_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_CLSACT_EGRESS = 0xFFFFFFF3
# struct tcmsg: family, index, handle, parent, info.
_TCMSG = struct.Struct("=B3xiIII")
_MESSAGE_LENGTH_AND_TYPE = struct.Struct("=IH")


def find_device(interface: str) -> Link:
    """The vxlan device of that name, in the network namespace of the calling thread.

    :raises StartError: if there is none, or it is not what the switch needs.
    """
    cure = f"ip link add {interface} type vxlan external dstport 4789"
    requests = NetlinkRequests()
    try:
        link = LinkTable(requests).named(interface)
    except DataplaneError as error:
        raise StartError(f"interface {interface}: {error}") from None
    finally:
        requests.close()
    if link is None:
        raise StartError(f"interface {interface}: no such device: {cure}, or `provision`")
    if link.vxlan is None:
        raise StartError(
            f"interface {interface}: not a vxlan device: choose another name, or replace it: {cure}"
        )
    if not link.vxlan.external:
        raise StartError(
            f"interface {interface}: not an external vxlan device: ip link del {interface}; {cure}"
        )
    return link


class Attachment:
    """The switch's program on the ingress of its device."""

    def __init__(self, interface: str, ifindex: int, *, made_clsact: bool) -> None:
        """Name it; nothing is changed yet.

        :param made_clsact: whether an earlier run of ours made the clsact qdisc.
        """
        self.made_clsact = made_clsact
        self._interface = interface
        self._ifindex = ifindex

    def prepare(self, ours: Collection[int]) -> None:
        """See to the clsact qdisc, and that our place is free.

        :param ours: numbers of the programs of earlier runs.
        :raises StartError: if somebody else's program is there.
        """
        self.made_clsact = libbpf.make_clsact(self._ifindex) or self.made_clsact
        present = libbpf.query(self._ifindex, HANDLE, PRIORITY)
        if present is not None and present not in ours:
            raise StartError(
                f"interface {self._interface}: another program is at priority {PRIORITY}:"
                f" tc filter del dev {self._interface} ingress pref {PRIORITY}"
            )

    def attach(self, program: libbpf.Program) -> None:
        """Put the program in place, instead of an earlier one without a gap."""
        libbpf.attach(self._ifindex, program, HANDLE, PRIORITY)

    def remove(self, ours: Collection[int]) -> None:
        """Take our program away; the qdisc too if it is ours and nobody else uses it.

        A device that is gone has taken both along.

        :raises DataplaneError: if the kernel refuses.
        """
        try:
            if libbpf.query(self._ifindex, HANDLE, PRIORITY) in ours:
                libbpf.detach(self._ifindex, HANDLE, PRIORITY)
                self.release()
        except DataplaneError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
                raise

    def release(self) -> None:
        """Remove the clsact qdisc if it is ours and nobody uses it."""
        if self.made_clsact and not self._in_use():
            libbpf.remove_clsact(self._ifindex)

    def _in_use(self) -> bool:
        requests = NetlinkRequests()
        try:
            return any(
                _MESSAGE_LENGTH_AND_TYPE.unpack_from(data)[1] == _RTM_NEWTFILTER
                for parent in (_CLSACT_INGRESS, _CLSACT_EGRESS)
                for data in list(
                    requests.dump(
                        Message(_RTM_GETTFILTER, 0, _TCMSG.pack(0, self._ifindex, 0, parent, 0))
                    )
                )
            )
        finally:
            requests.close()
