"""Loop probes of a hub, by which it finds sites that are connected behind its back. Layer: edge."""

from __future__ import annotations

import os

from dmevpn.dataplane.ebpf import layout
from dmevpn.dataplane.ebpf.libbpf import Map, Program

__all__ = ["Prober"]


class Prober:
    """Sends probes, and has the program know them again.

    :param program: sends a frame that it is given.
    :param probing: the map that says by which device, and how our probes are known.
    """

    def __init__(self, program: Program, probing: Map) -> None:
        self._program = program
        self._map = probing
        #: By which the program knows probes of this daemon again; nobody else knows it.
        self._secret = os.urandom(8)
        self._ifindex = 0

    def leave_by(self, ifindex: int) -> None:
        """Have probes leave by a device from now on.

        :raises DataplaneError: if the kernel refuses.
        """
        self._ifindex = ifindex
        self._map.update(layout.NUMBER.pack(0), self.pack())

    def pack(self) -> bytes:
        """What the map has to say."""
        return layout.PROBING.pack(self._secret, self._ifindex)

    def send(self, member: int, station: bytes) -> None:
        """Send one into the site of a member.

        :param member: its number.
        :param station: the MAC of the device.
        :raises DataplaneError: if the kernel refuses.
        """
        probe = layout.PROBE.pack(layout.PROBE_MAGIC, member, self._secret, layout.PROBE_HOPS)
        # The device would not take a frame back that came from its own MAC.
        source = bytes([*station[:5], station[5] ^ 1])
        header = b"\xff" * 6 + source + layout.PROBE_TYPE.to_bytes(2, "big")
        self._program.run((header + probe).ljust(60, b"\0"))
