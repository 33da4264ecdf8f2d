"""The kernel GRE device of a control interface: found by its name, and followed. Layer: edge."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet
from zope.interface import implementer

from dmevpn.addresses import format_address
from dmevpn.dataplane.ip_messages import neighbour_get, parse_neighbours
from dmevpn.dataplane.links import (
    GRE_DEVICE_TYPES,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_LINK,
    Link,
    LinkTable,
    parse_links,
)
from dmevpn.dataplane.netlink import NetlinkReader, NetlinkRequests
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import GREDevice, IControlDevice, IControlDeviceListener
from dmevpn.log import Logger
from dmevpn.metrics import Metrics
from dmevpn.sockfilter import ACCEPT

__all__ = ["KernelGREDevice", "control_device", "interpret"]

log = Logger()

#: Octets of notifications that may wait; when they overflow the device is read again.
_BUFFER = 1 << 18
# struct nlmsghdr, then struct ifaddrmsg up to its index.
_ADDRESS_MESSAGE = struct.Struct("=IHHIIBBBBi")
_RTM_NEWADDR = 20
_RTM_DELADDR = 21


def interpret(link: Link, addresses: list[tuple[bytes, int]]) -> GREDevice:
    """What a device is to a control interface.

    :param addresses: its protocol addresses with their prefix lengths.
    :raises StartError: if it cannot carry NHRP, with the cure.
    """
    name = link.name
    parameters = link.gre
    cure = f"ip link add {name} type gre local ADDRESS key N"
    if parameters is None:
        kind = f"a {link.kind} device" if link.kind else "no GRE device"
        raise StartError(
            f"interface {name}: this is {kind}: write `transport raw`, which needs no device, or"
            f" replace it: {cure}"
        )
    if parameters.external or link.type not in GRE_DEVICE_TYPES:
        raise StartError(
            f"interface {name}: an external GRE device does not tell who sent a packet: write"
            f" `transport raw`, or replace it: {cure}"
        )
    # A group stands for all peers: each packet still names its own.
    group = bool(parameters.remote) and ipaddress.ip_address(parameters.remote).is_multicast
    remote = b"" if group else parameters.remote
    if link.kind == "ip6gre" and not remote:
        raise StartError(
            f"interface {name}: the kernel has no multipoint GRE over IPv6: give the device a"
            " `remote`, or write `transport raw`, which needs no device"
        )
    return GREDevice(
        ifindex=link.ifindex,
        name=name,
        up=link.up,
        mtu=link.mtu,
        key=parameters.key,
        local=parameters.local,
        remote=remote,
        addresses=tuple(addresses),
    )


@implementer(IControlDevice)
class KernelGREDevice:
    """Reads the device again after every notification that may concern it.

    :param interpret: tells what a device is to us; raises StartError for one that is of no use.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        metrics: Metrics,
        name: str,
        interpret: Callable[[Link, list[tuple[bytes, int]]], GREDevice] = interpret,
    ) -> None:
        self.name = name
        self.state: GREDevice | None = None
        self._reactor = reactor
        self._interpret = interpret
        self._listeners: list[IControlDeviceListener] = []
        self._requests: NetlinkRequests | None = None
        self._reader: NetlinkReader | None = None
        self._dirty = False
        self._changes = metrics.counter("control_device_changes", interface=name)
        self._overruns = metrics.counter("netlink_overruns", interface=name)

    def start(self) -> None:
        """Follow the device of the calling thread's network namespace."""
        try:
            # The reader first: no change can slip in between.
            self._reader = NetlinkReader(
                self._reactor,
                groups=[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR],
                program=[ACCEPT],
                received=self._received,
                drained=self._drained,
                overrun=self._overrun,
                buffer=_BUFFER,
            )
            self._requests = NetlinkRequests()
            state = self._read(LinkTable(self._requests))
            if state is None:
                raise StartError(
                    f"interface {self.name}: no such device: ip link add {self.name} type gre"
                    " local ADDRESS key N, or write `transport raw`, which needs none"
                )
        except BaseException as error:
            self.stop()
            if isinstance(error, DataplaneError | OSError):
                raise StartError(f"interface {self.name}: {error}") from None
            raise
        self.state = state
        log.info("{ifname}: transport device: {state}", ifname=self.name, state=_describe(state))
        if not state.up:
            log.warn("{ifname}: ip link set {ifname} up", ifname=self.name)

    def neighbour(self, protocol: bytes) -> bytes | None:
        """What ``ip neigh show to PROTOCOL dev NAME`` says: an operator's entry, or a daemon's."""
        if self._requests is None or self.state is None:
            return None
        data = self._requests.get(neighbour_get(self.state.ifindex, protocol))
        found = () if data is None else parse_neighbours(data)
        # One that is being asked for has no link-layer address yet.
        return next((each.link for each in found if each.link), None)

    def subscribe(self, listener: IControlDeviceListener) -> None:
        """Tell a listener of every change from now on."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: IControlDeviceListener) -> None:
        """Tell it no more; harmless if it was never told."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def stop(self) -> None:
        """Close the sockets; harmless if none is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        self.state = None

    # --- notifications --------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        self._dirty = self._dirty or self._concerns(data)

    def _overrun(self) -> None:
        self._overruns.inc()
        self._dirty = True

    def _concerns(self, data: bytes) -> bool:
        """Whether a notification may be about our device; the kernel sends them one by one."""
        own = self.state.ifindex if self.state is not None else 0
        if len(data) >= _ADDRESS_MESSAGE.size:
            message = _ADDRESS_MESSAGE.unpack_from(data)
            if message[1] in (_RTM_NEWADDR, _RTM_DELADDR):
                return bool(message[9] == own)
        return any(link.ifindex == own or link.name == self.name for _, link in parse_links(data))

    def _drained(self) -> None:
        if not self._dirty or self._requests is None:
            return
        self._dirty = False
        try:
            new = self._read(LinkTable(self._requests))
        except DataplaneError as error:
            log.error("{ifname}: {reason}", ifname=self.name, reason=str(error))
            self._dirty = True  # the next notification, about whatever, has it read again
            return
        except StartError as error:
            # Somebody has put another device in its place.
            log.error("{reason}", reason=str(error))
            new = None
        old, self.state = self.state, new
        if old == new:
            return
        self._changes.inc()
        log.info("{ifname}: now {state}", ifname=self.name, state=_describe(new))
        for listener in tuple(self._listeners):
            listener.device_changed(old, new)

    def _read(self, links: LinkTable) -> GREDevice | None:
        link = links.named(self.name)
        return None if link is None else self._interpret(link, links.addresses(link.ifindex))


def control_device(
    reactor: IReactorFDSet, metrics: Metrics, name: str, transport: str
) -> KernelGREDevice | None:
    """The kernel device of a control interface; None: NHRP goes by raw sockets.

    :param transport: ``device`` and ``raw`` as they say; ``auto``: the device, if there is a GRE
        device of that name now.
    :raises StartError: if the kernel does not say.
    """
    if transport == "auto":
        try:
            requests = NetlinkRequests()
            try:
                link = LinkTable(requests).named(name)
            finally:
                requests.close()
        except (DataplaneError, OSError) as error:
            raise StartError(f"interface {name}: {error}") from None
        if link is None or link.gre is None:
            log.info("{ifname}: transport raw: there is no GRE device of that name", ifname=name)
            return None
    return KernelGREDevice(reactor, metrics, name) if transport != "raw" else None


def _describe(state: GREDevice | None) -> str:
    """A device in words, for the log."""
    if state is None:
        return "gone"
    words = ["up" if state.up else "down", f"MTU {state.mtu}"]
    if state.key is not None:
        words.append(f"key {state.key}")
    words.append(f"local {format_address(state.local)}" if state.local else "no local address")
    words.append(f"remote {format_address(state.remote)}" if state.remote else "multipoint")
    return ", ".join(words)
