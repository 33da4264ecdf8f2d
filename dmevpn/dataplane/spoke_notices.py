"""What the kernel tells of the devices of a spoke, by a socket for each kind. Layer: edge.

Misses, edits and other changes come in numbers of their own, and each kind may be lost without the
others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from twisted.internet.interfaces import IReactorFDSet

from dmevpn.addresses import is_station_mac
from dmevpn.dataplane.links import RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK
from dmevpn.dataplane.neighbours import (
    RTM_GETNEIGH,
    RTNLGRP_NEIGH,
    change_filter,
    edit_filter,
    parse_miss,
)
from dmevpn.dataplane.netlink import NetlinkReader
from dmevpn.dataplane.spoke_layout import Layout
from dmevpn.metrics import Counter
from dmevpn.sockfilter import neighbour_messages

__all__ = ["Misses", "Notices"]

#: Receive buffers. 5,000 misses: those that find no room repeat with the next frame. 2,500
#: changes made by others: a reading makes up for lost ones.
MISS_BUFFER = 4 << 20
CHANGE_BUFFER = 2 << 20


class Misses:
    """Frames that went by the hub for want of an entry: the MACs that they were for.

    :param is_known: whether there is to be an entry for a MAC by now.
    :param report: called with a MAC, once in each wake-up of the reader.
    :param late: counts frames that were on their way before their entry stood.
    :ivar lost: counts how often some of the kernel's notifications found no room.
    """

    def __init__(
        self,
        *,
        is_known: Callable[[bytes], bool],
        report: Callable[[bytes], None],
        late: Counter,
        lost: Counter,
    ) -> None:
        self.lost = lost
        self._is_known = is_known
        self._report = report
        self._late = late
        self._reported: set[bytes] = set()

    def received(self, data: bytes) -> None:
        """Take the kernel's word of a frame."""
        mac = parse_miss(data)
        if mac is None or mac in self._reported or not is_station_mac(mac):
            return
        if self._is_known(mac):
            self._late.inc()
            return
        self._reported.add(mac)
        self._report(mac)

    def read(self) -> None:
        """All that were there are read: what comes now is news."""
        self._reported.clear()


class Notices:
    """Hears what happens at the devices of a layout; its sockets belong to the network namespace
    that it is made in.

    :param misses: who hears of frames without an entry.
    :param changed: called with each about links, addresses, MACs that moved and entries that went.
    :param edited: called with each about what others write into the tables of the devices.
    :param changes_lost: called when some of either found no room.
    :raises OSError: if the kernel has no sockets for us.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        layout: Layout,
        *,
        misses: Misses,
        changed: Callable[[bytes], None],
        edited: Callable[[bytes], None],
        changes_lost: Callable[[], None],
    ) -> None:
        with ExitStack() as opened:
            self._misses = NetlinkReader(
                reactor,
                groups=[RTNLGRP_NEIGH],
                program=neighbour_messages(RTM_GETNEIGH, [layout.device]),
                received=misses.received,
                drained=misses.read,
                overrun=misses.lost.inc,
                buffer=MISS_BUFFER,
            )
            opened.callback(misses.read)
            opened.callback(self._misses.close)
            self._changes = NetlinkReader(
                reactor,
                groups=[RTNLGRP_NEIGH, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR],
                program=change_filter(layout.devices),
                received=changed,
                drained=lambda: None,
                overrun=changes_lost,
                buffer=CHANGE_BUFFER,
            )
            opened.callback(self._changes.close)
            self._edits = NetlinkReader(
                reactor,
                groups=[RTNLGRP_NEIGH],
                program=edit_filter(layout.devices),
                received=edited,
                drained=lambda: None,
                overrun=changes_lost,
                buffer=CHANGE_BUFFER,
            )
            opened.callback(self._edits.close)
            self._opened = opened.pop_all()

    def attach(self, layout: Layout) -> None:
        """Turn to other devices; what is queued stays."""
        self._misses.set_filter(neighbour_messages(RTM_GETNEIGH, [layout.device]))
        self._changes.set_filter(change_filter(layout.devices))
        self._edits.set_filter(edit_filter(layout.devices))

    def deaf_to_edits(self) -> AbstractContextManager[None]:
        """Hear no edits meanwhile: those that are ours."""
        return self._edits.deaf()

    def close(self) -> None:
        """Hear no more; again is harmless."""
        self._opened.close()
