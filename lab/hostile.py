"""The packets that floods are made of, and those of a site that is measured meanwhile.

Every packet is whole, from its IPv4 header on, as :mod:`lab.blast` sends it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.nhrp.constants import EXACT_PREFIX
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import Authentication
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.transport import gre
from lab.requests import HOLDING_TIME, MTU, Requester

__all__ = [
    "FRAMES",
    "KINDS",
    "MEMBERS",
    "VNI",
    "Sender",
    "ipv4",
    "make",
]

#: The VNI of the site that floods.
VNI = 900
#: What a server takes of CIEs in one registration.
CIES = 64

IPPROTO_GRE, IPPROTO_UDP = 47, 17
VXLAN_PORT = 4789
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
#: Locally administered: the addresses of stations that register.
_STATION = b"\x06\x66"


class Sender(NamedTuple):
    """A site, or who claims to be one."""

    nbma: bytes
    vni: int
    station: bytes
    secret: str = ""
    vpn: int = 1

    @property
    def requester(self) -> Requester:
        """Who makes its requests."""
        secret = (Authentication(1, self.secret.encode()),) if self.secret else ()
        return Requester(self.nbma, self.vni, self.station, secret)

    def encode(self, request: RequestOrReply) -> bytes:
        """A request in its VPN."""
        return request.encode(Form.RFC, VPNID(DEFAULT_OUI, self.vpn))

    def packet(self, request: RequestOrReply, hub: bytes) -> bytes:
        """The packet that takes a request to the hub."""
        return ipv4(self.nbma, hub, IPPROTO_GRE, gre.encode(self.encode(request), None))


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet with a right checksum (RFC 791 §3.1)."""
    fields = (0x45, 0, 20 + len(payload), 0, 0, 64, protocol)
    words = struct.unpack("!10H", _IPV4.pack(*fields, 0, source, destination))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return _IPV4.pack(*fields, checksum, source, destination) + payload


# --- kinds of floods: each packet by its number ----------------------------------------------


class _Flood(NamedTuple):
    sender: Sender
    hub: bytes
    chance: random.Random

    def station(self, number: int) -> bytes:
        return _STATION + number.to_bytes(4, "big")

    def as_station(self, number: int) -> Sender:
        return self.sender._replace(station=self.station(number))


def _registrations(flood: _Flood, number: int) -> bytes:
    sender = flood.as_station(number)
    return sender.packet(sender.requester.registration(number), flood.hub)


def _forged(flood: _Flood, number: int) -> bytes:
    nbma = bytes((10, 64 + flood.chance.randrange(64))) + flood.chance.randbytes(2)
    sender = flood.as_station(number)._replace(nbma=nbma)
    return sender.packet(sender.requester.registration(number), flood.hub)


def _unauthentic(flood: _Flood, number: int) -> bytes:
    sender = flood.as_station(number)._replace(secret="wrong")
    return sender.packet(sender.requester.registration(number), flood.hub)


def _garbage(flood: _Flood, number: int) -> bytes:
    payload = flood.chance.randbytes(flood.chance.randrange(8, 200))
    return ipv4(flood.sender.nbma, flood.hub, IPPROTO_GRE, gre.encode(payload, None))


def _resolutions(flood: _Flood, number: int) -> bytes:
    target = b"\x02" + flood.chance.randbytes(5)
    return flood.sender.packet(flood.sender.requester.resolution(target, number), flood.hub)


def _gateway(flood: _Flood, number: int) -> bytes:
    """All want to know the same station, which is the site's own."""
    sender = flood.as_station(number)
    return sender.packet(sender.requester.resolution(flood.sender.station, number), flood.hub)


def _moves(flood: _Flood, number: int) -> bytes:
    """As many stations as fit into a packet, each at another VNI than it was at before."""
    cies = [
        CIE(
            prefix_length=EXACT_PREFIX,
            mtu=MTU,
            holding_time=HOLDING_TIME,
            nbma=flood.sender.nbma,
            subaddress=encode_vni(10_000 + (number * CIES + each) % 4000),
            protocol=flood.station(each),
        )
        for each in range(CIES)
    ]
    return flood.sender.packet(flood.sender.requester.registration(number, cies), flood.hub)


def _crowds(flood: _Flood, number: int) -> bytes:
    """Ever more stations, all that fit into each packet; now and then all of them are purged."""
    if number % 128 == 127:
        everything = CIE(prefix_length=1, protocol=bytes(6))
        return flood.sender.packet(flood.sender.requester.purge(number, [everything]), flood.hub)
    cies = [
        CIE(
            prefix_length=EXACT_PREFIX,
            mtu=MTU,
            holding_time=HOLDING_TIME,
            nbma=flood.sender.nbma,
            subaddress=encode_vni(20_000 + (number % 128 * CIES + each) % 4000),
            protocol=flood.station((number % 128) * CIES + each),
        )
        for each in range(CIES)
    ]
    return flood.sender.packet(flood.sender.requester.registration(number, cies), flood.hub)


def _purges(flood: _Flood, number: int) -> bytes:
    """Of sets of addresses, each of which is to be compared with all that is registered."""
    cies = [CIE(prefix_length=40, protocol=flood.chance.randbytes(6)) for _ in range(CIES)]
    return flood.sender.packet(flood.sender.requester.purge(number, cies), flood.hub)


def _vpns(flood: _Flood, number: int) -> bytes:
    """Of a hub that serves many: registrations that go on, and such that last a second."""
    vpn = 1 + number % 4096
    sender = flood.sender._replace(vpn=vpn, vni=30_000 + vpn)
    asked = sender.requester.registration(number, holding_time=1 + number % 3)
    return sender.packet(asked, flood.hub)


def _large(flood: _Flood, number: int) -> bytes:
    """Octets that nobody reads, as many as an underlay takes without fragments."""
    asked = flood.sender.requester.registration(number)
    padding = Authentication(1, bytes(1200))
    asked.extensions = (*asked.extensions, padding)
    return flood.sender.packet(asked, flood.hub)


def _frame(flood: _Flood, destination: bytes, source: bytes) -> bytes:
    """The shortest frame in VXLAN, UDP and IPv4, without checksums (RFC 7348 §5)."""
    frame = destination + source + b"\x88\xb5" + bytes(46)
    udp = struct.pack("!HHHH", 50000, VXLAN_PORT, 16 + len(frame), 0)
    vxlan = struct.pack("!II", 0x08000000, flood.sender.vni << 8)
    return ipv4(flood.sender.nbma, flood.hub, IPPROTO_UDP, udp + vxlan + frame)


def _mac(flood: _Flood) -> bytes:
    return b"\x06" + flood.chance.randbytes(5)


def _unknown(flood: _Flood, number: int) -> bytes:
    return _frame(flood, b"\x02" + flood.chance.randbytes(5), b"\x06" * 6)


def _broadcast(flood: _Flood, number: int) -> bytes:
    return _frame(flood, b"\xff" * 6, b"\x06" * 6)


def _sources(flood: _Flood, number: int) -> bytes:
    """Each from a MAC address of its own."""
    return _frame(flood, b"\x02" + flood.chance.randbytes(5), _mac(flood))


_Make = Callable[[_Flood, int], bytes]

#: What a flood of control packets may be made of, by anybody.
KINDS: dict[str, _Make] = {
    "registrations": _registrations,
    "resolutions": _resolutions,
    "garbage": _garbage,
    "authentication": _unauthentic,
    "forged": _forged,
}
#: By a site that is registered, and makes as much work as it can with each packet.
MEMBERS: dict[str, _Make] = {
    "moves": _moves,
    "crowds": _crowds,
    "purges": _purges,
    "gateway": _gateway,
    "vpns": _vpns,
    "large": _large,
}
#: Of frames, which only a registered site can send.
FRAMES: dict[str, _Make] = {
    "unknown": _unknown,
    "broadcast": _broadcast,
    "sources": _sources,
}


def make(kind: str, sender: Sender, hub: bytes, count: int) -> Iterator[bytes]:
    """The packets of a flood.

    :param kind: of KINDS, MEMBERS or FRAMES.
    :param count: how many.
    """
    build = {**KINDS, **MEMBERS, **FRAMES}[kind]
    flood = _Flood(sender, hub, random.Random(1))
    return (build(flood, number) for number in range(count))
