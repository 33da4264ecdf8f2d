"""The device that a hub's switch runs on: what it must be, and the switch's place on it.

Layer: edge. Sources: Linux ``uapi/linux/rtnetlink.h`` (``struct tcmsg``), ``net/sched/cls_api.c``,
``net/sched/cls_bpf.c``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from dmevpn.dataplane.ebpf.libbpf import Program
from dmevpn.dataplane.links import Link, LinkTable
from dmevpn.dataplane.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkRequests,
    attribute,
    nested,
    parse_attributes,
)
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import Finding

__all__ = ["HANDLE", "PRIORITY", "Attachment", "find_device"]

#: The switch's place among the filters of the device's ingress: after those of lower priority,
#: which an operator may have added. The number is that of VXLAN's port, easy to recognise.
PRIORITY = 4789
HANDLE = 1

_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_RTM_NEWTFILTER = 44
_RTM_DELTFILTER = 45
_RTM_GETTFILTER = 46
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT = 0xFFFFFFF1  # TC_H_CLSACT
_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_EGRESS = 0xFFFFFFF3
_ETH_P_ALL = 3
# struct tcmsg: family, index, handle, parent, info.
_TCMSG = struct.Struct("=B3xiIII")
_HEADER = struct.Struct("=IHHII")

_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_TCA_BPF_ID = 11
#: What the kernel says where there is no such filter, qdisc or device.
_GONE = (errno.ENODEV, errno.ENOENT, errno.EINVAL)
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT: the program's return value is the verdict


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
    """The switch's program on the ingress of its device.

    Made in the network namespace of the device, and from then on usable in any.
    """

    def __init__(self, interface: str, ifindex: int, *, made_clsact: bool) -> None:
        """Open a socket; nothing is changed yet.

        :param made_clsact: whether an earlier run of ours made the clsact qdisc.
        """
        self.made_clsact = made_clsact
        self._interface = interface
        self._ifindex = ifindex
        self._requests = NetlinkRequests()

    def close(self) -> None:
        """Close the socket and leave things as they are."""
        self._requests.close()

    def prepare(self, ours: Collection[int]) -> None:
        """See to the clsact qdisc, and that our place is free.

        :param ours: numbers of the programs of earlier runs.
        :raises StartError: if somebody else's program is there.
        :raises DataplaneError: if the kernel refuses.
        """
        qdisc = self._tcmsg(_CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
        try:
            self._requests.request(
                Message(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, qdisc), "making the clsact qdisc"
            )
            self.made_clsact = True
        except DataplaneError as error:
            if error.errno != errno.EEXIST:
                raise
        present = self._present()
        if present is not None and present not in ours:
            raise StartError(
                f"interface {self._interface}: another program is at priority {PRIORITY}:"
                f" tc filter del dev {self._interface} ingress pref {PRIORITY}"
            )

    def attach(self, program: Program) -> None:
        """Put the program in place, instead of an earlier one without a gap.

        :raises DataplaneError: if the kernel refuses.
        """
        body = self._place()
        body += attribute(_TCA_KIND, b"bpf\0")
        body += nested(
            _TCA_OPTIONS,
            attribute(_TCA_BPF_FD, struct.pack("=I", program.fd)),
            attribute(_TCA_BPF_NAME, program.name.encode() + b"\0"),
            attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION)),
        )
        # Without NLM_F_EXCL the kernel replaces the program that is there.
        self._requests.request(
            Message(_RTM_NEWTFILTER, NLM_F_CREATE, body), f"attaching {program.name}"
        )

    def attached(self, ours: Collection[int]) -> bool:
        """Whether one of these programs is at our place.

        :raises DataplaneError: if the kernel does not say.
        """
        return self._present() in ours

    def belongs_to(self, ifindex: int) -> bool:
        """Whether it is that device's."""
        return self._ifindex == ifindex

    def examine(self, ours: Collection[int]) -> list[Finding]:
        """What is wrong with the device, and with the program on it.

        :param ours: numbers of the programs that may be there.
        """
        name = self._interface
        try:
            link = LinkTable(self._requests).named(name)
            present = self._present()
        except DataplaneError as error:
            return [Finding("kernel", name, str(error), "see the daemon's log")]
        again = "make it again; with `provision` that is done within seconds, or the log says why"
        if link is None or link.ifindex != self._ifindex:
            return [Finding("device", name, f"{name} is gone: somebody removed it", again)]
        findings = []
        if not link.up:
            findings.append(Finding("device", name, f"{name} is down", f"ip link set {name} up"))
        if present not in ours:
            problem = f"the switch is not attached to {name}: nothing is forwarded"
            cure = "it is put back within seconds, or the log says why; find who runs `tc` there"
            findings.append(Finding("kernel", name, problem, cure))
        return findings

    def remove(self, ours: Collection[int]) -> None:
        """Take our program away; the qdisc too if it is ours and nobody else uses it.

        A device that is gone has taken both along.

        :raises DataplaneError: if the kernel refuses.
        """
        try:
            if self._present() in ours:
                self._requests.request(
                    Message(_RTM_DELTFILTER, 0, self._place() + attribute(_TCA_KIND, b"bpf\0")),
                    "detaching the switch",
                )
                self.release()
        except DataplaneError as error:
            if error.errno not in _GONE:
                raise

    def release(self) -> None:
        """Remove the clsact qdisc if it is ours and nobody uses it."""
        if self.made_clsact and not self._in_use():
            self._requests.request(
                Message(_RTM_DELQDISC, 0, self._tcmsg(_CLSACT_HANDLE, _CLSACT, 0)),
                "removing the clsact qdisc",
            )

    def _tcmsg(self, handle: int, parent: int, info: int) -> bytes:
        return _TCMSG.pack(0, self._ifindex, handle, parent, info)

    def _place(self) -> bytes:
        return self._tcmsg(HANDLE, _INGRESS, PRIORITY << 16 | socket.htons(_ETH_P_ALL))

    def _present(self) -> int | None:
        """The number of the program that is at our place; 0 for a filter of another kind."""
        try:
            body = self._place() + attribute(_TCA_KIND, b"bpf\0")
            data = self._requests.get(Message(_RTM_GETTFILTER, 0, body))
        except DataplaneError as error:
            if error.errno in _GONE:
                return None  # no such filter, or no qdisc any more
            raise
        if data is None:
            return None
        options = parse_attributes(
            parse_attributes(data, _HEADER.size + _TCMSG.size).get(_TCA_OPTIONS, b"")
        )
        number = options.get(_TCA_BPF_ID, bytes(4))
        return int(struct.unpack("=I", number)[0])

    def _in_use(self) -> bool:
        for parent in (_INGRESS, _EGRESS):
            dump = self._requests.dump(Message(_RTM_GETTFILTER, 0, self._tcmsg(0, parent, 0)))
            # To its end: the socket has to be free for the next request.
            if any([_HEADER.unpack_from(data)[1] == _RTM_NEWTFILTER for data in dump]):
                return True
        return False
