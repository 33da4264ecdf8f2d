"""Follows the device of a hub's switch: what others do to it is said, and put right. Layer: edge.

A device that was made anew has neither the qdisc nor the program of the one before, whoever made
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from dmevpn.dataplane.links import RTNLGRP_LINK, Link, LinkTable, parse_links
from dmevpn.dataplane.netlink import NetlinkReader, NetlinkRequests
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


class ProvisionedDevice(Protocol):
    """A device that was made for the switch."""

    def restore(self) -> None:
        """Make it what it should be, and again if it is gone.

        :raises StartError: if it cannot be had now.
        """

    def remove(self) -> None:
        """Remove it again."""

    def close(self) -> None:
        """Leave it as it is."""


class HubDeviceWatch:
    """Looks at the device after each change of it.

    It belongs to the network namespace of the thread that makes it.

    :param link: the device as it is.
    :param device: ours, to be put right; None: the operator's, whose changes are only said.
    :param attach: puts the switch on a device that was made anew; raises DmevpnError.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        link: Link,
        device: ProvisionedDevice | None,
        attach: Callable[[Link], None],
    ) -> None:
        """:raises OSError: if there is no socket to be had."""
        self._clock = reactor
        self._name, self._ifindex = link.name, link.ifindex
        self._device = device
        self._attach = attach
        self._fault = ""
        self._refusal = ""
        self._repairing = False
        self._calls: dict[str, Any] = {}
        self._faults = metrics.counter("device_faults", interface=link.name)
        self._repairs = metrics.counter("device_repairs", interface=link.name)
        self._requests = NetlinkRequests()
        self._links = LinkTable(self._requests)
        try:
            self._reader = NetlinkReader(
                reactor,
                groups=[RTNLGRP_LINK],
                program=[ACCEPT],
                received=self._received,
                drained=lambda: None,
                overrun=lambda: self._later("look", 0, self._look),
                buffer=_BUFFER,
            )
        except BaseException:
            self._requests.close()
            raise
        # Reports a device that is down already.
        self._later("look", 0, self._look)

    def close(self) -> None:
        """Follow it no more."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._reader.close()
        self._requests.close()

    def _later(self, name: str, delay: float, function: Callable[[], None]) -> None:
        def call() -> None:
            del self._calls[name]
            function()

        if name not in self._calls:
            self._calls[name] = self._clock.callLater(delay, call)

    def _received(self, data: bytes) -> None:
        if any(self._name == x.name or self._ifindex == x.ifindex for _, x in parse_links(data)):
            self._later("look", 0, self._look)

    def _look(self) -> None:
        try:
            fault = self._state()
        except DmevpnError as error:
            fault = str(error)
        new, self._fault = fault != self._fault, fault
        if fault and new:
            self._faults.inc()
            self.log.warn("{ifname}: {reason}", ifname=self._name, reason=fault)
        if not fault:
            if self._repairing:
                self._repairs.inc()
            if new:
                self.log.info("{ifname}: as it should be again", ifname=self._name)
            self._repairing, self._refusal = False, ""
        elif self._device is not None and not fault.endswith(" is down"):
            self._later("restore", RESTORE_DELAY if new else RESTORE_RETRY, self._restore)

    def _state(self) -> str:
        """What is wrong with the device; empty: nothing.

        :raises DmevpnError: if the kernel does not say, or the switch cannot be put there.
        """
        link = self._links.named(self._name)
        if link is None:
            renamed = self._links.numbered(self._ifindex)
            return f"{self._name} is {f'called {renamed.name} now' if renamed else 'gone'}"
        if link.vxlan is None or not link.vxlan.external:
            return f"{self._name} is another device than before"
        if link.ifindex != self._ifindex:
            self._attach(link)
            self._ifindex = link.ifindex
        return "" if link.up else f"{self._name} is down"

    def _restore(self) -> None:
        assert self._device is not None, "not ours"
        try:
            self._device.restore()
            self._repairing = True
            self._later("look", 0, self._look)
        except DmevpnError as error:
            if self._refusal != str(error):
                self._refusal = str(error)
                self.log.error("{ifname}: {reason}", ifname=self._name, reason=self._refusal)
            self._later("restore", RESTORE_RETRY, self._restore)
