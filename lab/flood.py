"""A peer that floods a hub with packets, and one that measures how long it is kept waiting.

``python -m lab.flood`` sends prepared packets, many with each system call, at a given rate; senders
may be forged. :class:`Probe` registers and asks at a steady pace, and takes the time of the answers
from the kernel, so that what it waits for a processor itself does not count.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import quantiles
from typing import Any, NamedTuple

from dmevpn.addresses import DEFAULT_OUI, VPNID, parse_ip
from dmevpn.nhrp.constants import (
    EXACT_PREFIX,
    VPN_AWARE,
    PacketType,
    ProtocolType,
    RegistrationFlag,
    ResolutionFlag,
)
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    ResponderAddress,
    ReverseTransitRecord,
)
from dmevpn.nhrp.packet import RegistrationRequest, RequestOrReply, ResolutionRequest
from dmevpn.nhrp.records import CIE, encode_vni
from dmevpn.transport import gre
from lab.netns import Namespace

__all__ = ["FRAMES", "KINDS", "VNI", "Delays", "Flooder", "Probe"]

#: What a flood of control packets may be made of.
KINDS = ("registrations", "resolutions", "garbage", "authentication", "forged")
#: And one of frames, which only a registered site can send: each from a MAC address of its own, to
#: one that nobody knows or to everybody.
FRAMES = ("unknown", "broadcast")
#: The VNI of the site that floods.
VNI = 900

IPPROTO_GRE = 47
SO_TIMESTAMPNS = 35
#: Packets of one system call, and packets that are prepared.
_BATCH = 64
_PREPARED = 16384
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
#: Where a reply has its type and its request identifier: behind IPv4, GRE and VPN headers.
_NHRP = 20 + 4 + 24
_VPN = VPNID(DEFAULT_OUI, 1)


def _secret(secret: str) -> tuple[Extension, ...]:
    return (Authentication(1, secret.encode()),) if secret else ()


def _registration(
    nbma: bytes, vni: int, station: bytes, number: int, secret: str
) -> RegistrationRequest:
    return RegistrationRequest(
        source_nbma=nbma,
        source_subaddress=encode_vni(vni),
        source_protocol=station,
        destination_protocol=station,
        protocol_type=ProtocolType.MAC,
        flags=RegistrationFlag.U,
        request_id=number,
        cies=(CIE(prefix_length=EXACT_PREFIX, mtu=1450, holding_time=7200),),
        extensions=(
            ResponderAddress(),
            ForwardTransitRecord(),
            ReverseTransitRecord(),
            *_secret(secret),
        ),
    )


def _resolution(
    nbma: bytes, vni: int, station: bytes, target: bytes, number: int, secret: str
) -> ResolutionRequest:
    return ResolutionRequest(
        source_nbma=nbma,
        source_subaddress=encode_vni(vni),
        source_protocol=station,
        destination_protocol=target,
        protocol_type=ProtocolType.MAC,
        flags=ResolutionFlag.Q | ResolutionFlag.A,
        request_id=number,
        cies=(CIE(prefix_length=EXACT_PREFIX, mtu=1450),),
        extensions=(
            ResponderAddress(),
            ForwardTransitRecord(),
            ReverseTransitRecord(),
            DeviceCapabilities(VPN_AWARE, 0),
            *_secret(secret),
        ),
    )


def _packet(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet; the kernel fills in length, identification and checksum."""
    header = _IPV4.pack(0x45, 0xC0, 0, 0, 0, 255, IPPROTO_GRE, 0, source, destination)
    return header + gre.encode(payload, None)


def _encapsulated(source: bytes, destination: bytes, frame: bytes) -> bytes:
    """A frame in VXLAN, UDP and IPv4, without checksums (RFC 7348 §5)."""
    header = _IPV4.pack(0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, source, destination)
    udp = struct.pack("!HHHH", 50000, 4789, 16 + len(frame), 0)
    return header + udp + struct.pack("!II", 0x08000000, VNI << 8) + frame


def _encoded(request: RequestOrReply) -> bytes:
    return request.encode(Form.RFC, _VPN)


def _flood(kind: str, source: bytes, hub: bytes, secret: str) -> Iterator[bytes]:
    """The packets of a flood."""
    chance = random.Random(1)
    for number in range(_PREPARED):
        if kind in FRAMES:
            to = b"\xff" * 6 if kind == "broadcast" else b"\x02" + chance.randbytes(5)
            frame = to + b"\x06" + chance.randbytes(5) + b"\x88\xb5" + bytes(46)
            yield _encapsulated(source, hub, frame)
            continue
        station = b"\x06\x66" + number.to_bytes(4, "big")
        if kind == "garbage":
            payload = chance.randbytes(chance.randrange(8, 200))
        elif kind == "resolutions":
            mac = b"\x02" + chance.randbytes(5)
            payload = _encoded(_resolution(source, VNI, b"\x06" * 6, mac, number, secret))
        elif kind == "authentication":
            wrong = "wrong-" + secret[:2]
            payload = _encoded(_registration(source, VNI, station, number, wrong))
        else:
            payload = _encoded(_registration(source, VNI, station, number, secret))
        if kind == "forged":
            source = bytes((10, 64 + chance.randrange(64))) + chance.randbytes(2)
        yield _packet(source, hub, payload)


class _Message(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("len", ctypes.c_uint32),
    )


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def main() -> None:
    """Send a flood; say in the end how many packets were sent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=(*KINDS, *FRAMES))
    parser.add_argument("source")
    parser.add_argument("hub")
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--secret", default="")
    options = parser.parse_args()
    source, hub = parse_ip(options.source), parse_ip(options.hub)
    packets = list(_flood(options.kind, source, hub, options.secret))
    buffers = [ctypes.create_string_buffer(packet, len(packet)) for packet in packets]
    address = ctypes.create_string_buffer(struct.pack("=HH4s8x", socket.AF_INET, 0, hub))
    vectors = (_Vector * _PREPARED)()
    messages = (_Message * _PREPARED)()
    for number, buffer in enumerate(buffers):
        vectors[number].base = ctypes.addressof(buffer)
        vectors[number].length = len(packets[number])
        messages[number].name = ctypes.addressof(address)
        messages[number].namelen = 16
        messages[number].iov = ctypes.addressof(vectors[number])
        messages[number].iovlen = 1
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    size = ctypes.sizeof(_Message)
    base, sent, at = ctypes.addressof(messages), 0, 0
    print("ready", flush=True)
    begin = time.perf_counter()
    end = begin + options.seconds
    while (now := time.perf_counter()) < end:
        ahead = sent - (now - begin) * options.rate
        if ahead > 0:
            time.sleep(ahead / options.rate)
            continue
        done = send(sock.fileno(), ctypes.c_void_p(base + at * size), _BATCH, 0)
        sent += max(done, 0)
        at = (at + _BATCH) % _PREPARED
    print(int(sent / (time.perf_counter() - begin)), flush=True)


class Flooder:
    """A flood that goes on beside us."""

    def __init__(
        self,
        namespace: Namespace,
        kind: str,
        source: str,
        hub: str,
        *,
        seconds: float,
        rate: int = 100_000,
        secret: str = "",
        cpu: int | None = None,
    ) -> None:
        command = [
            *(sys.executable, "-m", "lab.flood", kind, source, hub, "--rate", str(rate)),
            *("--seconds", str(seconds), "--secret", secret),
        ]
        if cpu is not None:
            command = ["taskset", "-c", str(cpu), *command]
        self._process = subprocess.Popen(
            namespace.command(*command), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def finish(self) -> int:
        """Wait for its end; packets a second that it has sent."""
        said, _ = self._process.communicate(timeout=60)
        return int(said)

    def stop(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.communicate()


class Delays(NamedTuple):
    """Milliseconds from a request to its answer."""

    p50: float
    p99: float
    worst: float
    lost: int
    """Requests that were not answered within a second."""
    sent: int

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.1f}, p99 {self.p99:.1f}, max {self.worst:.1f} ms,"
            f" {self.lost} of {self.sent} lost"
        )


class Probe:
    """A site that registers and asks, as its own next hop client."""

    PATIENCE = 1.0

    def __init__(
        self,
        namespace: Namespace,
        nbma: str,
        hub: str,
        *,
        vni: int = 901,
        secret: str = "",
    ) -> None:
        self._nbma, self._hub = parse_ip(nbma), parse_ip(hub)
        self._station = b"\x06\x77\x00" + self._nbma[1:]
        self._vni, self._secret, self._address = vni, secret, (hub, 0)
        self._number = 1
        with namespace.entered():
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_GRE)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._receiver.settimeout(0.001)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._receiver.close()

    def register(self) -> float:
        """Register once; seconds until the answer.

        :raises AssertionError: without one in time.
        """
        delays = self.measure(1, resolve=False)
        assert not delays.lost, "the hub did not answer"
        return delays.worst / 1000

    def measure(self, count: int, *, interval: float = 0.05, resolve: bool = True) -> Delays:
        """Register, and ask for an address, at a steady pace; how long each answer took."""
        sent: dict[int, float] = {}
        took: dict[int, float] = {}
        begin = time.time()
        for turn in range(count):
            due = begin + turn * interval
            while time.time() < due:
                self._receive(sent, took)
            self._send(self._registration(), sent)
            if resolve:
                self._send(self._resolution(), sent)
        end = time.time() + self.PATIENCE
        while len(took) < len(sent) and time.time() < end:
            self._receive(sent, took)
        times = sorted(1000 * each for each in took.values()) or [0.0]
        cuts = quantiles(times, n=100) if len(times) > 1 else times * 99
        return Delays(
            cuts[49], min(cuts[98], times[-1]), times[-1], len(sent) - len(took), len(sent)
        )

    def _registration(self) -> RequestOrReply:
        return _registration(self._nbma, self._vni, self._station, self._number, self._secret)

    def _resolution(self) -> RequestOrReply:
        target = self._station
        return _resolution(self._nbma, self._vni, self._station, target, self._number, self._secret)

    def _send(self, request: RequestOrReply, sent: dict[int, float]) -> None:
        packet = _packet(self._nbma, self._hub, _encoded(request))
        sent[self._number] = time.time()
        self._sender.sendto(packet, self._address)
        self._number += 1

    def _receive(self, sent: dict[int, float], took: dict[int, float]) -> None:
        try:
            data, ancillary, _, _ = self._receiver.recvmsg(2048, 128)
        except TimeoutError:
            return
        if len(data) < _NHRP + 28 or data[_NHRP + 17] not in (
            PacketType.REGISTRATION_REPLY,
            PacketType.RESOLUTION_REPLY,
        ):
            return
        number = int.from_bytes(data[_NHRP + 24 : _NHRP + 28], "big")
        seconds, nanoseconds = struct.unpack("=qq", _timestamp(ancillary))
        if number in sent and number not in took:
            took[number] = seconds + nanoseconds / 1e9 - sent[number]


def _timestamp(ancillary: list[Any]) -> bytes:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            stamp: bytes = data[:16]
            return stamp
    raise AssertionError("the kernel gave no time")


if __name__ == "__main__":
    main()
