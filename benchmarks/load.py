"""Many clients in one process: packets made beforehand, sent as fast as they are answered."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from twisted.internet.task import Clock

from dmevpn import sockfilter
from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.config.model import AuthenticationPlan, KeyPlan
from dmevpn.metrics import Metrics
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.roles.authentication import make_authenticator
from dmevpn.transport import gre
from lab.requests import Requester

__all__ = [
    "CLIENT_NETWORK",
    "VPNS",
    "Client",
    "Load",
    "Run",
    "authentication",
    "client",
]

#: Every client has an address of its own, out of these eight million.
CLIENT_NETWORK = "10.128.0.0/9"
_FIRST_ADDRESS = 0x0A800001
#: VPNs that the clients are spread over: 100,000 of them make 4,000 sites in each.
VPNS = 25

#: Requests under way: a hub is never idle, and its queue never full.
WINDOW = 1024
#: Seconds between two looks for replies, in which a hub answers a small part of the window.
PAUSE = 0.002
#: Seconds of silence after which requests under way are given up as lost.
PATIENCE = 1.0

IPPROTO_GRE = 47
_IPV4 = struct.Struct("!BBHHHBBH4s4s")

# Where a reply has its type and the code of its first CIE: behind IPv4, GRE and VPN headers, and
# for the latter behind fixed header, IPv4 address, VNI and two MAC addresses.
_NHRP = 20 + 4 + 24
_TYPE = _NHRP + 17
_CODE = _NHRP + 28 + 4 + 4 + 6 + 6


class Client(NamedTuple):
    """A site as a next hop client."""

    vpn_id: VPNID
    nbma: bytes
    vni: int
    station: bytes

    @property
    def requester(self) -> Requester:
        """Who makes its requests."""
        return Requester(self.nbma, self.vni, self.station)

    @property
    def vm(self) -> bytes:
        """The MAC address of a machine at the site."""
        return b"\x52\x54" + self.station[2:]


def authentication(secret: str) -> AuthenticationPlan:
    """Of hub and clients: a keyed hash in every packet, or nothing at all."""
    if not secret:
        return AuthenticationPlan()
    key = KeyPlan(spi=256, algorithm="hmac-sha-256", secret=secret.encode())
    return AuthenticationPlan(keys=(key,), replay_protection=False)


def client(number: int) -> Client:
    """The client of a number from 0; numbers that are equal modulo VPNS share a VPN."""
    return Client(
        VPNID(DEFAULT_OUI, 1 + number % VPNS),
        (_FIRST_ADDRESS + number).to_bytes(4, "big"),
        1 + number // VPNS,
        b"\x06\x00" + number.to_bytes(4, "big"),
    )


class Run(NamedTuple):
    """How a load was answered."""

    answered: int
    refused: int
    """Replies with a CIE code other than 0, and Error Indications."""
    lost: int
    seconds: float


class Load:
    """Sends as every client at once; made in the namespace that owns the clients' addresses.

    :param hub: the hub's underlay address.
    :param secret: what the packets are signed with; empty: they are not.
    """

    def __init__(self, hub: str, secret: str = "") -> None:
        self._hub = hub
        self._authenticator = make_authenticator(
            authentication(secret), ReplayGuard(Clock(), Metrics())
        )
        self._to = socket.inet_aton(hub)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._receiver = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, IPPROTO_GRE
        )
        # Replies of this hub only: load the source address, go on if it is the hub's.
        program = [
            sockfilter.Instruction(0x20, 0, 0, 12),
            sockfilter.Instruction(0x15, 1, 0, int.from_bytes(self._to, "big")),
            sockfilter.DROP,
            *sockfilter.gre_protocol(gre.NHRP_PROTOCOL, ipv4_header=True),
        ]
        sockfilter.attach(self._receiver, program)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE

    def close(self) -> None:
        """Close the sockets."""
        self._sender.close()
        self._receiver.close()

    def packet(self, who: Client, request: RequestOrReply) -> bytes:
        """A request as an IPv4 packet of that client."""
        if self._authenticator is None:
            data = request.encode(Form.RFC, who.vpn_id)
        else:
            path = Path(self._to, who.nbma)
            data = self._authenticator.sign(request, Form.RFC, who.vpn_id, path, who.station)
        return self._header(who, IPPROTO_GRE) + gre.encode(data, None)

    def send(self, who: Client, protocol: int, data: bytes) -> None:
        """Send anything else as that client."""
        self._sender.sendto(self._header(who, protocol) + data, (self._hub, 0))

    def _header(self, who: Client, protocol: int) -> bytes:
        """The IPv4 header; the kernel fills in length, identification and checksum."""
        return _IPV4.pack(0x45, 0xC0, 0, 0, 0, 255, protocol, 0, who.nbma, self._to)

    def run(self, packets: Sequence[bytes], reply_type: int, window: int = WINDOW) -> Run:
        """Send all packets, a window of them under way at any time; collect the replies.

        It looks for replies now and then instead of waiting for them: waking us up for each
        would be work of the hub's process, on a virtual cable.
        """
        target = (self._hub, 0)
        queue = iter(packets)
        under_way = answered = refused = lost = 0
        more = True
        begin = latest = time.perf_counter()
        while more or under_way:
            while more and under_way < window:
                packet = next(queue, None)
                if packet is None:
                    more = False
                else:
                    self._sender.sendto(packet, target)
                    under_way += 1
            time.sleep(PAUSE)
            came = 0
            for reply in self._replies():
                came += 1
                if len(reply) > _CODE and reply[_TYPE] == reply_type and reply[_CODE] == 0:
                    answered += 1
                else:
                    refused += 1
            now = time.perf_counter()
            if came:
                # One that was given up may come all the same.
                under_way, latest = max(0, under_way - came), now
            elif now - latest > PATIENCE:
                lost, under_way, latest = lost + under_way, 0, now
        return Run(answered, refused, lost, time.perf_counter() - begin)

    def pace(self, packets: Sequence[bytes], reply_type: int, rate: float) -> Run:
        """Send all packets one by one, so many a second, as clients do that know nothing of each
        other; count the replies, whatever is in them."""
        answered = refused = 0
        begin = time.perf_counter()
        for number, packet in enumerate(packets):
            ahead = begin + number / rate - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            self._sender.sendto(packet, (self._hub, 0))
            for reply in self._replies():
                answered += reply[_TYPE] == reply_type
                refused += reply[_TYPE] != reply_type
        seconds = time.perf_counter() - begin
        latest = time.perf_counter()
        while answered + refused < len(packets) and time.perf_counter() - latest < PATIENCE:
            time.sleep(PAUSE)
            for reply in self._replies():
                latest = time.perf_counter()
                answered += reply[_TYPE] == reply_type
                refused += reply[_TYPE] != reply_type
        return Run(answered, refused, len(packets) - answered - refused, seconds)

    def send_all(self, packets: Iterable[bytes]) -> None:
        """Send packets, as fast as it goes."""
        for packet in packets:
            self._sender.sendto(packet, (self._hub, 0))

    def answered(self) -> Iterator[int]:
        """The request identifiers of the replies that have come."""
        for reply in self._replies():
            if len(reply) > _CODE and reply[_CODE] == 0:
                yield int.from_bytes(reply[_NHRP + 24 : _NHRP + 28], "big")

    def _replies(self) -> Iterable[bytes]:
        while True:
            try:
                yield self._receiver.recv(2048)
            except BlockingIOError:
                return
