"""Makes, changes and removes network devices, by pyroute2. Layer: edge.

This is slow control: a dozen requests of about 1 ms each at the start, the stop and the repair of
a VPN. What an event or a frame asks for goes by :mod:`dmevpn.dataplane.netlink`, whose sockets
answer some twenty times as fast.

The library's synchronous calls run an asyncio event loop for as long as they take. Ours is a
private one that all users share, so that each of them costs one file descriptor, and so that what
was made can be removed when the process has no descriptor left.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dmevpn.addresses import format_address
from dmevpn.dataplane.links import Link, PortSettings, VXLANParameters
from dmevpn.errors import DataplaneError

__all__ = ["LinkChanges"]

_SOL_NETLINK = 270
_EXT_ACK = 11
_ADDR_GEN_MODE_NONE = 1
# linux/if_bridge.h: MDB_RTR_TYPE_TEMP_QUERY, as of a new port, and MDB_RTR_TYPE_PERM.
_ROUTER_FOUND = 1
_ROUTER_PERMANENT = 2


class _SharedLoop:
    """An event loop that is there while somebody needs it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0

    def acquire(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
        self._users += 1
        return self._loop

    def release(self) -> None:
        self._users -= 1
        if self._loop is not None and not self._users:
            self._loop.close()
            self._loop = None


_shared_loop = _SharedLoop()


@contextmanager
def _runnable() -> Iterator[None]:
    """Let another event loop run inside a reactor that is one itself (``--reactor=asyncio``)."""
    outer = _get_running_loop()
    _set_running_loop(None)
    try:
        yield
    finally:
        _set_running_loop(outer)


class LinkChanges:
    """Requests that make, change and remove devices.

    They concern the network namespace that the thread was in when this was made, whoever uses it
    later. A refusal is a :class:`DataplaneError` with the kernel's error number and, if it gave
    one, its reason.
    """

    def __init__(self) -> None:
        """:raises OSError: if there is no socket to be had."""
        # The library would make the socket itself, but not close it if that is as far as it gets.
        # asyncio takes datagram sockets only; to netlink it is all the same.
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        try:
            self._sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
            self._loop = _shared_loop.acquire()
        except BaseException:
            self._sock.close()
            raise
        try:
            with _runnable():
                # pyroute2 has no type annotations.
                self._route: Any = IPRoute(use_socket=self._sock, use_event_loop=self._loop)
        except BaseException:
            _shared_loop.release()
            self._sock.close()
            raise

    def close(self) -> None:
        """Close the socket; again is harmless."""
        if self._sock.fileno() >= 0:
            with _runnable():
                self._route.close()
                # asyncio lets go of the socket in the turn after.
                self._loop.run_until_complete(asyncio.sleep(0))
            self._sock.close()
            _shared_loop.release()

    def create_bridge(self, name: str) -> None:
        """Make a bridge, down, that floods multicast like any other frame."""
        self._ask(f"making {name}", "add", ifname=name, kind="bridge", br_mcast_snooping=0)

    def create_vxlan(self, name: str, parameters: VXLANParameters, mtu: int) -> None:
        """Make a vxlan device, down."""
        settings: dict[str, Any] = {
            "vxlan_port": parameters.port,
            "vxlan_learning": int(parameters.learning),
        }
        if parameters.external:
            settings["vxlan_collect_metadata"] = 1
        else:
            settings["vxlan_id"] = parameters.vni
        if parameters.l2miss:
            settings["vxlan_l2miss"] = 1
        for key, address in (
            ("vxlan_local", parameters.local),
            ("vxlan_group", parameters.remote),
        ):
            if address:
                settings[key if len(address) == 4 else f"{key}6"] = format_address(address)
        self._ask(f"making {name}", "add", ifname=name, kind="vxlan", mtu=mtu, **settings)

    def set_alias(self, ifindex: int, alias: str) -> None:
        """Have ``ip -d link show`` say something about a device."""
        self._ask("marking it as ours", "set", index=ifindex, ifalias=alias)

    def set_mtu(self, ifindex: int, mtu: int) -> None:
        """Set the largest payload of a device's frames, in octets."""
        self._ask(f"setting MTU {mtu}", "set", index=ifindex, mtu=mtu)

    def set_up(self, ifindex: int, operation: str) -> None:
        """Have a device send and receive.

        :param operation: what is asked, for the error text.
        """
        self._ask(operation, "set", index=ifindex, state="up")

    def add_to_bridge(self, ifindex: int, bridge: int, name: str) -> None:
        """Make a device a port of a bridge, given by its index.

        :param name: that of the bridge, for the error text.
        """
        self._ask(f"adding it to {name}", "set", index=ifindex, master=bridge)

    def set_name(self, ifindex: int, name: str) -> None:
        """Rename a device."""
        self._ask(f"renaming it to {name}", "set", index=ifindex, ifname=name)

    def set_bridge_port(self, ifindex: int, settings: PortSettings) -> None:
        """Change how a bridge treats one of its ports."""
        self._ask(
            "setting its bridge port",
            "set",
            index=ifindex,
            # The library passes over a name that it does not know: these have no prefix.
            kind="bridge_slave",
            learning=int(settings.learning),
            unicast_flood=int(settings.flood),
            mcast_flood=int(settings.group_flood),
            bcast_flood=int(settings.group_flood),
            isolated=int(settings.isolated),
            multicast_router=_ROUTER_PERMANENT if settings.all_groups else _ROUTER_FOUND,
        )

    def stop_addresses(self, ifindex: int) -> None:
        """Have a device get no IPv6 link-local address of its own."""
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]}
        self._ask("IPv6 off", "set", index=ifindex, af_spec={"attrs": [("AF_INET6", mode)]})

    def put_back(self, link: Link) -> None:
        """Have a device be what it was: its MTU, its bridge, how that treats it, its state."""
        self._ask(
            "putting it back",
            "set",
            index=link.ifindex,
            mtu=link.mtu,
            master=link.master,
            state="up" if link.up else "down",
        )
        if link.port is not None:
            self.set_bridge_port(link.ifindex, link.port)

    def delete(self, ifindex: int, operation: str) -> None:
        """Remove a device.

        :param operation: what is asked, for the error text.
        """
        self._ask(operation, "del", index=ifindex)

    def _ask(self, operation: str, command: str, **settings: Any) -> None:
        try:
            with _runnable():
                self._route.link(command, **settings)
        except NetlinkError as error:
            # Without a reason from the kernel the library puts in the meaning of the number.
            reason = str(error.args[1])
            if reason != os.strerror(error.code):
                operation += f" ({reason})"
            raise DataplaneError(error.code, operation) from None
        except OSError as error:
            raise DataplaneError(error.errno or errno.EIO, operation) from None
