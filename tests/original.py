"""The original dmevpn daemon, as far as others meet it on the wire (protocol chapters 3, 4, 7).

What it sends is what captures of it show, and it takes only what its decoder takes. Own octets on
purpose: our codec must not be asked whether our codec is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack, unpack_from

from zope.interface import implementer

from dmevpn.addresses import Path, parse_ip
from dmevpn.interfaces import IDatagramReceiver
from dmevpn.metrics import Metrics
from dmevpn.transport.memory import MemoryNetwork, MemoryTransport

__all__ = ["Message", "Original"]

_SNAP = bytes.fromhex("aaaa03 00005e 0008")
_EMPTY_EXTENSIONS = bytes.fromhex("80040000 80050000 80030000")
_END = bytes.fromhex("80000000")
_REPLIES = {1: 2, 3: 4, 5: 6}


@dataclass
class Message:
    """A packet about MAC addresses."""

    type: int
    flags: int
    request_id: int
    nbma: bytes
    vni: int | None
    """That of the header, in the order of this host."""
    source: bytes
    destination: bytes
    rest: bytes = b""
    """Its CIEs."""
    vpn: int = 0


def checksum(octets: bytes) -> int:
    """What makes the sum right, as that daemon computes it: an odd octet is padded on the left."""
    if len(octets) % 2:
        octets = octets[:-1] + b"\0" + octets[-1:]
    total = sum(unpack_from(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@implementer(IDatagramReceiver)
class Original:
    """A host that runs it, in one VPN or (0) without VPN headers.

    :param little: the byte order of the host.
    :param key: of its GRE device.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        address: str,
        station: bytes,
        *,
        vpn: int,
        little: bool = True,
        key: int | None = None,
    ) -> None:
        self.address = parse_ip(address)
        self.station = station
        self.vpn = vpn
        self.received: list[Message] = []
        self.errors: list[int] = []
        self.refused: list[bytes] = []
        """What its decoder does not take."""
        self._order = "<" if little else ">"
        self._mark = pack(f"{self._order}H", 1)
        self._transport = MemoryTransport(network, Metrics(), [self.address], key)
        self._transport.start(self)

    # --- out --------------------------------------------------------------------------------

    def send(self, message: Message, to: bytes) -> None:
        """Send a packet with the extensions that it always has."""
        subaddress = b"" if message.vni is None else pack(f"{self._order}I", message.vni)
        addresses = message.nbma + subaddress + message.source + message.destination
        words = pack("!BBHI", 6, 6, message.flags, message.request_id)
        mandatory = words + addresses + message.rest
        extensions = _EMPTY_EXTENSIONS + _END
        front = self._front()
        fixed = bytearray(
            pack("!HH5xB", 1, 0x8100, 16)
            + pack("!HHH", len(front) + 20 + len(mandatory) + len(extensions), 0, 0)
            + pack("!BBBB", 1, message.type, 4, len(subaddress))
        )
        fixed[14:16] = pack("!H", len(front) + 20 + len(mandatory))
        fixed[12:14] = pack("!H", checksum(front + bytes(fixed) + mandatory + extensions))
        self._transport.send(front + bytes(fixed) + mandatory + extensions, Path(to, self.address))

    def register(self, to: bytes, vni: int, holding_time: int = 7200) -> None:
        """Register the station, by a CIE that leaves all addresses out."""
        cie = pack("!BBHHHBBBB", 0, 0xFF, 0, 0, holding_time, 0, 0, 0, 0)
        self.send(Message(3, 0x8002, 1, self.address, vni, self.station, self.station, cie), to)

    def resolve(self, to: bytes, target: bytes, request_id: int = 3) -> None:
        """Ask for a station; it announces a holding time without the S flag."""
        cie = pack("!BBHHHBBBB", 0, 0, 0, 0, 7200, 0, 0, 0, 0)
        self.send(Message(1, 0xC002, request_id, self.address, None, self.station, target, cie), to)

    def reply(self, request: Message, to: bytes, *, vni: int | None = None, rest: bytes) -> None:
        """Answer a request; the VNI of an answer replaces the one in the header."""
        own = request.vni if vni is None else vni
        flags = request.flags & 0x7FFF if request.type == 5 else request.flags
        self.send(
            Message(
                _REPLIES[request.type],
                flags,
                request.request_id,
                request.nbma,
                own,
                request.source,
                request.destination,
                rest,
            ),
            to,
        )

    def error(self, about: bytes, code: int, to: bytes) -> None:
        """An Error Indication: in plain form, with a transit record and what follows End."""
        mandatory = pack("!BBHHH", 6, 6, 0, code, 0) + self.address + self.station + bytes(6)
        mandatory += about
        extensions = bytes.fromhex("80040000") + _END + bytes(16)
        size = 20 + len(mandatory) + len(extensions)
        fixed = bytearray(pack("!HH5xBHHHBBBB", 1, 0x8100, 0, size, 0, 0, 1, 7, 4, 0))
        fixed[14:16] = pack("!H", 20 + len(mandatory))
        fixed[12:14] = pack("!H", checksum(bytes(fixed) + mandatory + extensions))
        self._transport.send(bytes(fixed) + mandatory + extensions, Path(to, self.address))

    def _front(self) -> bytes:
        if not self.vpn:
            return b""
        return _SNAP + b"\0\0" + self._mark + pack("!I", self.vpn) + _SNAP + bytes(8)

    # --- in ---------------------------------------------------------------------------------

    def datagrams_received(self, datagrams: Sequence[tuple[bytes, Path]]) -> None:
        """Take what its decoder takes."""
        for data, _ in datagrams:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        message = self._read(data)
        if message is None:
            self.refused.append(data)
        elif message.type == 7:
            self.errors.append(message.request_id >> 16)
        else:
            self.received.append(message)

    def _read(self, data: bytes) -> Message | None:
        vpn, start = 0, 0
        if data[:2] == b"\xaa\xaa":
            expected = self._front() or _SNAP
            if data[:12] != expected[:12] or data[16:32] != _SNAP + bytes(8):
                return None
            (vpn,) = unpack_from("!I", data, 12)
            start = 32
        size, _, extensions = unpack_from("!HHH", data, start + 10)
        if size != len(data) or checksum(data) != 0:
            return None
        if extensions and not self._takes(data[extensions:]):
            return None
        _, type_, nbma_length, sub_length = unpack_from("!BBBB", data, start + 16)
        source_length, destination_length, flags, number = unpack_from("!BBHI", data, start + 20)
        if nbma_length + sub_length > 8 or max(source_length, destination_length) > 8:
            return None
        at = start + 28
        parts = []
        for length in (nbma_length, sub_length, source_length, destination_length):
            parts.append(data[at : at + length])
            at += length
        nbma, subaddress, source, destination = parts
        vni = unpack_from(f"{self._order}I", subaddress)[0] if subaddress else None
        rest = data[at : extensions or len(data)]
        return Message(type_, flags, number, nbma, vni, source, destination, rest, vpn)

    @staticmethod
    def _takes(octets: bytes) -> bool:
        """Whether each extension has a place, and type 9 holds CIEs."""
        while True:
            kind, length = unpack_from("!HH", octets)
            kind &= 0x3FFF
            if not kind:
                return True
            if kind > 9 or (kind == 9 and 0 < length < 12):
                return False
            octets = octets[4 + length :]
