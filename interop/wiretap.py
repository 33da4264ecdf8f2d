"""What passes on the underlay: NHRP as our own codec reads it, and which way data take in GRE."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.packet import Packet, decode_payload
from dmevpn.transport import gre
from lab.netns import Namespace
from lab.traffic import Capture, write_pcap

__all__ = ["Message", "Wiretap"]

ETHERNET_SIZE = 14
GRE = 47
IPV4 = 0x0800


@dataclass(frozen=True, slots=True)
class Message:
    """An NHRP packet and who sent it to whom, by underlay address."""

    source: str
    destination: str
    packet: Packet


@dataclass
class Wiretap:
    """All GRE packets that the underlay's bridge has carried so far.

    :ivar messages: NHRP packets, in order.
    :ivar unreadable: why our codec refused an NHRP packet, with its sender.
    :ivar data: GRE packets with IPv4 inside, by outer source and destination.
    """

    underlay: Namespace
    key: int
    messages: list[Message] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    data: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # A bridge hands up what it forwards only while its own device is promiscuous.
        self.underlay.ip("link", "set", "br0", "promisc", "on")
        self._capture = Capture(self.underlay, "br0", ethertype=IPV4)
        self._frames: list[bytes] = []

    def read(self) -> None:
        """Take in what has come since the last call."""
        for frame in self._capture.frames():
            if frame[ETHERNET_SIZE + 9] == GRE:
                self._frames.append(frame)
                self._take(frame[ETHERNET_SIZE:])

    def _take(self, ip: bytes) -> None:
        (length,) = struct.unpack_from("!H", ip, 2)
        source, destination = (str(IPv4Address(ip[at : at + 4])) for at in (12, 16))
        content = ip[(ip[0] & 0xF) * 4 : length]
        (protocol,) = struct.unpack_from("!H", content, 2)
        if protocol == IPV4:
            self.data[source, destination] += 1
        if protocol != gre.NHRP_PROTOCOL:
            return
        try:
            payload, _ = gre.decode(content, {self.key})
            _, packet = decode_payload(payload)
        except MalformedPacket as error:
            self.unreadable.append((source, str(error)))
        else:
            self.messages.append(Message(source, destination, packet))

    def of(self, packet_class: type[Packet], source: str) -> list[Message]:
        """The messages of a type that a machine has sent, forwarded ones included."""
        self.read()
        return [
            message
            for message in self.messages
            if message.source == source and type(message.packet) is packet_class
        ]

    def summary(self) -> str:
        """How many NHRP packets there were, for people.

        :raises AssertionError: our codec refused one.
        """
        self.read()
        assert not self.unreadable, f"unreadable, by sender: {self.unreadable}"
        types = Counter(type(message.packet).__name__ for message in self.messages)
        listed = ", ".join(f"{count} {name}" for name, count in types.most_common())
        return f"{len(self.messages)}: {listed}"

    def save(self, path: Path) -> None:
        """Keep all GRE packets as a capture file."""
        self.read()
        write_pcap(path, self._frames)

    def close(self) -> None:
        """Hear no more."""
        self._capture.close()
