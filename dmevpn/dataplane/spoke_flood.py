"""The way of a spoke's frames without an entry: to the hub. Layer: edge.

On two planes it is the default entry of the hub plane, which is ours whoever has made it; on a
device made by hand, a broadcast entry with our mark, unless the operator has one.
"""

from __future__ import annotations

import errno

from dmevpn.addresses import format_address
from dmevpn.dataplane.neighbours import flood_append, self_delete
from dmevpn.dataplane.netlink import Message, NetlinkRequests
from dmevpn.dataplane.spoke_layout import Layout
from dmevpn.errors import DataplaneError
from dmevpn.log import Logger
from dmevpn.metrics import Counter

__all__ = ["FLOOD_RETRY", "FloodEntry"]

#: Seconds until an entry that the kernel has refused is tried again.
FLOOD_RETRY = 1.0


class FloodEntry:
    """What should be, what is believed to be, and the way there.

    :param refused: counts what the kernel refuses.
    :ivar believed: the destinations that there are; True if it is for us to change them.
    """

    log = Logger()

    def __init__(self, requests: NetlinkRequests, refused: Counter) -> None:
        self.believed: dict[bytes, bool] = {}
        self._requests = requests
        self._refused_counter = refused
        # None: nobody has said, leave it as it is.
        self._wanted: tuple[bytes, ...] | None = None
        # Why the kernel refuses it, and when it is tried again.
        self._refusal = 0
        self._retry = 0.0

    def want(self, wanted: tuple[bytes, ...]) -> bool:
        """Have these destinations; whether they are others than before."""
        if wanted == self._wanted:
            return False
        self._wanted = wanted
        self._retry = 0.0
        return True

    def leads_to(self, nbma: bytes) -> bool:
        """Whether it should lead to an address, if we have been told where."""
        return self._wanted is None or nbma in self._wanted

    def differs(self) -> bool:
        """Whether there is something for us to write."""
        if self._wanted is None or not all(self.believed.values()):
            return False  # Nobody has said, or the operator has.
        return set(self._wanted) != set(self.believed)

    def write(self, layout: Layout, now: float) -> float | None:
        """Have it as it should be.

        :returns: seconds until the kernel is to be asked again for what it refuses.
        :raises DataplaneError: if it is unknown what was done.
        """
        if self._wanted is None or not self.differs():
            return None
        if now < self._retry:
            return self._retry - now
        # The kernel replaces no entry that may have several destinations: add first, then remove,
        # at once, as frames go both ways in between. While it refuses, what there was stays.
        added = [nbma for nbma in self._wanted if nbma not in self.believed]
        surplus = [nbma for nbma in self.believed if nbma not in self._wanted]
        failed = self._change(layout, added, [] if self._refusal else surplus)
        if errno.ENODEV in failed:
            return None  # The device is gone; what should be stays noted for its successor.
        if failed:
            self._change(layout, [nbma for nbma in surplus if nbma not in self.believed], [])
            return self._refused(failed, now)
        self._refusal = 0
        return self.write(layout, now)

    def _change(self, layout: Layout, added: list[bytes], removed: list[bytes]) -> list[int]:
        """Add and remove destinations; the error numbers of those that could not be added."""
        device, mac = layout.flood_device, layout.flood_mac
        messages = [flood_append(device, mac, nbma) for nbma in added]
        messages += [self_delete(device, mac, nbma) for nbma in removed]
        failed = dict(self._requests.batch(messages))
        self.believed |= {nbma: True for index, nbma in enumerate(added) if index not in failed}
        for nbma in removed:  # What cannot be removed is gone already.
            del self.believed[nbma]
        return [code for index, code in failed.items() if index < len(added)]

    def _refused(self, codes: list[int], now: float) -> float:
        self._refused_counter.inc(len(codes))
        if codes[0] != self._refusal:
            self._refusal = codes[0]
            self.log.error(
                "cannot flood to {nbma}: {reason}",
                nbma=", ".join(map(format_address, self._wanted or ())),
                reason=str(DataplaneError(self._refusal, "flood entry")),
            )
        self._retry = now + FLOOD_RETRY
        return FLOOD_RETRY

    def removal(self, layout: Layout) -> list[Message]:
        """What removes it from a device that stays; a plane of others keeps its way to the hub."""
        return [
            self_delete(layout.flood_device, layout.flood_mac, nbma)
            for nbma, ours in self.believed.items()
            if ours and not layout.bridge
        ]
