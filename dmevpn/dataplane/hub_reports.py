"""What a hub's switch reports, from its ring buffer to who listens. Layer: edge."""

from __future__ import annotations

from dmevpn.addresses import VTEP
from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import Map
from dmevpn.dataplane.hub_members import MemberTable
from dmevpn.interfaces import IHubListener
from dmevpn.metrics import Counter

__all__ = ["Reports"]


class Reports:
    """Reads records of the switch.

    :param held: the map of MACs that are held.
    :param unlisted: counts those that are held, but for which that had no room.
    """

    def __init__(self, members: MemberTable, held: Map, unlisted: Counter) -> None:
        self._members = members
        self._held = held
        self._unlisted = unlisted

    def tell(self, record: bytes, listener: IHubListener) -> None:
        """Tell a listener what a record says, unless it is about who has gone since."""
        type_, vpn, number, previous, mac, holds, address, vni = layout.EVENT.unpack(record)
        if type_ == layout.Event.REFUSED:
            listener.sender_refused(VTEP(layout.unpack_address(address), vni))
            return
        if vpn not in self._members:
            return  # removed since
        member = self._members.by_number.get(number)
        if member is None:
            return  # it has left since
        other = self._members.by_number.get(previous)
        elsewhere = None if other is None else other.vtep
        match type_:
            case layout.Event.LEARNED:
                listener.mac_learned(vpn, mac, member.vtep)
            case layout.Event.MOVED:
                listener.mac_moved(vpn, mac, elsewhere, member.vtep)
            case layout.Event.LIMIT:
                listener.limit_reached(vpn, elsewhere)
            case layout.Event.HELD:
                seconds = layout.HOLD * 2**holds
                if not self._held.find(layout.MAC_KEY.pack(vpn, mac)):
                    self._unlisted.inc()
                listener.mac_held(vpn, mac, member.vtep, elsewhere, seconds)
            case layout.Event.STICKY:
                listener.move_refused(vpn, mac, elsewhere, member.vtep)
            case layout.Event.LOOP:
                listener.loop_seen(vpn, elsewhere, member.vtep)
            case layout.Event.FLOOD:
                listener.flood_limited(vpn, member.vtep)
