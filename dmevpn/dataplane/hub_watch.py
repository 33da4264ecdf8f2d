"""Follows the device of a hub's switch: what others do to it is said, and put right. Layer: edge.

A device that was made anew has neither the qdisc nor the program of the one before, whoever made
it. And either may be taken off a device that stays.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from dmevpn.dataplane.links import RTNLGRP_LINK, Link, LinkTable, parse_links
from dmevpn.dataplane.netlink import NetlinkReader, NetlinkRequests
from dmevpn.dataplane.pending import PendingCalls
from dmevpn.errors import DmevpnError
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.sockfilter import ACCEPT

__all__ = ["HubDeviceWatch", "ProvisionedDevice"]

#: Seconds until a device of ours that somebody changed is put right, and between attempts.
RESTORE_DELAY = 0.25
RESTORE_RETRY = 5.0
#: Receive buffer in octets, for some hundred changes of links.
_BUFFER = 1 << 18

_RTNLGRP_TC = 4
# Queueing disciplines, classes and filters: RTM_NEWQDISC and what follows it.
_TRAFFIC_CONTROL = range(36, 47)
_HEADER = struct.Struct("=IHHII")
# The beginning of struct tcmsg: family, index.
_TCMSG = struct.Struct("=B3xi")


class ProvisionedDevice(Protocol):
    """A device that was made for the switch."""

    def restore(self) -> None:
        """Make it what it should be, and again if it is gone.

        :raises StartError: if it cannot be had now.
        """

    def concerns(self, link: Link, *, present: bool) -> bool:
        """Whether what has become of another device may be a reason for a fault of this one."""

    def fault(self, link: Link) -> str:
        """What somebody has changed of it, in words; empty: nothing.

        :raises DataplaneError: if the kernel does not say what there is.
        """

    def remove(self) -> None:
        """Remove it again."""

    def close(self) -> None:
        """Leave it as it is."""


class _Fault(NamedTuple):
    """What is wrong."""

    text: str
    """Empty: nothing."""
    mend: Callable[[], None] | None = None
    """What puts it right; None: what somebody did may be meant, or is not ours to undo."""


class HubDeviceWatch:
    """Looks at the device after each change of it.

    It belongs to the network namespace of the thread that makes it.

    :param link: the device as it is.
    :param device: ours, to be put right; None: the operator's, whose changes are only said.
    :param attached: whether the switch is at its place on the device; raises DmevpnError.
    :param attach: puts the switch on a device that has none; raises DmevpnError.
    :param mtu_changed: called with the MTU of the device when it is another.
    :param repaired: called with what was wrong when it is right again by our doing.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        link: Link,
        device: ProvisionedDevice | None,
        attached: Callable[[], bool],
        attach: Callable[[Link], None],
        mtu_changed: Callable[[int], None],
        repaired: Callable[[str], None],
    ) -> None:
        """:raises OSError: if there is no socket to be had."""
        self._name, self._ifindex = link.name, link.ifindex
        self._device = device
        self._attached = attached
        self._attach = attach
        self._mtu, self._mtu_changed = link.mtu, mtu_changed
        self._repaired = repaired
        self._fault = _Fault("")
        self._refusal = ""
        self._repairing = ""
        self._calls = PendingCalls(reactor)
        self._faults = metrics.counter("device_faults", interface=link.name)
        self._repairs = metrics.counter("device_repairs", interface=link.name)
        self._requests = NetlinkRequests()
        self._links = LinkTable(self._requests)
        try:
            self._reader = NetlinkReader(
                reactor,
                groups=[RTNLGRP_LINK, _RTNLGRP_TC],
                program=[ACCEPT],
                received=self._received,
                drained=lambda: None,
                overrun=lambda: self._calls.later("look", 0, self._look),
                buffer=_BUFFER,
            )
        except BaseException:
            self._requests.close()
            raise
        # Reports a device that is down already.
        self._calls.later("look", 0, self._look)

    def close(self) -> None:
        """Follow it no more."""
        self._calls.cancel()
        self._reader.close()
        self._requests.close()

    def _received(self, data: bytes) -> None:
        links = parse_links(data)
        if any(self._concerns(*each) for each in links) or self._ifindex in _filtered(data):
            self._calls.later("look", 0, self._look)

    def _concerns(self, present: bool, link: Link) -> bool:
        if self._name == link.name or self._ifindex == link.ifindex:
            return True
        return self._device is not None and self._device.concerns(link, present=present)

    def _look(self) -> None:
        try:
            fault = self._state()
        except DmevpnError as error:
            fault = _Fault(str(error), self._restore_device)
        new, self._fault = fault.text != self._fault.text, fault
        if fault.text and new:
            self._faults.inc()
            self.log.warn("{ifname}: {reason}", ifname=self._name, reason=fault.text)
        if not fault.text:
            if self._repairing:
                self._repairs.inc()
                self._repaired(self._repairing)
            if new:
                self.log.info("{ifname}: as it should be again", ifname=self._name)
            self._repairing = self._refusal = ""
        elif fault.mend is not None:
            delay = RESTORE_DELAY if new else RESTORE_RETRY
            self._calls.later("restore", delay, self._restore)

    def _state(self) -> _Fault:
        """What is wrong with the device.

        :raises DmevpnError: if the kernel does not say, or the switch cannot be put there.
        """
        name, device = self._name, self._device
        ours = None if device is None else self._restore_device
        link = self._links.named(name)
        if link is None:
            renamed = self._links.numbered(self._ifindex)
            return _Fault(f"{name} is {f'called {renamed.name} now' if renamed else 'gone'}", ours)
        if link.vxlan is None or not link.vxlan.external:
            return _Fault(f"{name} is another device than before", ours)
        if changed := device.fault(link) if device is not None else "":
            return _Fault(changed, ours)
        if link.ifindex != self._ifindex:
            self._attach(link)
            self._ifindex = link.ifindex
        elif not self._attached():
            return _Fault(f"somebody took the switch off {name}", partial(self._attach, link))
        if link.mtu != self._mtu:
            self._mtu = link.mtu
            self._mtu_changed(link.mtu)
        return _Fault("" if link.up else f"{name} is down")

    def _restore_device(self) -> None:
        if self._device is not None:
            self._device.restore()

    def _restore(self) -> None:
        """Put right what is wrong by now."""
        fault = self._fault
        if fault.mend is None:
            return
        try:
            fault.mend()
            self._repairing = fault.text
            self._calls.later("look", 0, self._look)
        except DmevpnError as error:
            if self._refusal != str(error):
                self._refusal = str(error)
                self.log.error("{ifname}: {reason}", ifname=self._name, reason=self._refusal)
            self._calls.later("restore", RESTORE_RETRY, self._restore)


def _filtered(data: bytes) -> Iterator[int]:
    """Indices of the devices whose queueing disciplines and filters messages are about."""
    offset = 0
    while offset + _HEADER.size + _TCMSG.size <= len(data):
        length, type_, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size + _TCMSG.size:
            return
        if type_ in _TRAFFIC_CONTROL:
            yield _TCMSG.unpack_from(data, offset + _HEADER.size)[1]
        offset += (length + 3) & ~3
