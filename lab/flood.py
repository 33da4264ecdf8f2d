"""A peer that floods a hub with packets, and one that measures how long it is kept waiting.

:class:`Flooder` has :mod:`lab.blast` send what :mod:`lab.hostile` makes. :class:`Probe` registers
and asks at a steady pace, and takes the time of the answers from the kernel, so that what it waits
for a processor itself does not count.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from dmevpn.addresses import parse_ip
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.packet import RequestOrReply
from lab.hostile import FRAMES, KINDS, MEMBERS, VNI, Sender
from lab.netns import Namespace
from lab.topology import Machine

__all__ = ["FRAMES", "KINDS", "MEMBERS", "VNI", "Delays", "Flooder", "Probe", "Rates"]

IPPROTO_GRE = 47
SO_TIMESTAMPNS = 35
#: Where a reply has its type and its request identifier: behind IPv4, GRE and VPN headers.
_NHRP = 20 + 4 + 24


class Rates(NamedTuple):
    """Packets a second of a flood."""

    sent: int
    arrived: int
    """At the hub, as its kernel counts them, others' packets included."""


class Flooder:
    """A flood that goes on beside us, delivered at the hub's end of the cable.

    :param kind: of KINDS, MEMBERS or FRAMES.
    :param source: underlay address of the site that floods.
    :param rate: packets a second; 0: as many as the machine can.
    :param nice: how far it stands back behind other processes for a processor. What the kernel does
        with its packets stands back with it, see :mod:`lab.blast`.
    """

    def __init__(
        self,
        hub: Machine,
        kind: str,
        source: str,
        *,
        seconds: float,
        rate: int = 0,
        secret: str = "",
        nice: int = 0,
    ) -> None:
        self._hub = hub
        (link,) = hub.namespace.ip_json("link", "show", "dev", "ul0")
        self._process = subprocess.Popen(
            hub.namespace.command(
                *(sys.executable, "-m", "lab.blast", kind, source, hub.address),
                *("--mac", str(link["address"]), "--rate", str(rate), "--seconds", str(seconds)),
                *("--secret", secret, "--nice", str(nice)),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._begin, self._before = time.perf_counter(), self._received()

    def _received(self) -> int:
        """IPv4 packets that the hub's kernel has received."""
        with self._hub.namespace.entered():
            names, numbers = [
                line.split()
                for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                if line.startswith("Ip:")
            ]
        return int(numbers[names.index("InReceives")])

    def finish(self) -> Rates:
        """Wait for its end; how much it was."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        seconds = time.perf_counter() - self._begin
        arrived = self._received() - self._before
        self._process.communicate(timeout=60)
        return Rates(int(said), int(arrived / seconds))

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
        address = parse_ip(nbma)
        self._site = Sender(address, vni, b"\x06\x77\x00" + address[1:], secret)
        self._hub = parse_ip(hub)
        self._address = (hub, 0)
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
            self._send(self._site.requester.registration(self._number), sent)
            if resolve:
                question = self._site.requester.resolution(self._site.station, self._number)
                self._send(question, sent)
        end = time.time() + self.PATIENCE
        while len(took) < len(sent) and time.time() < end:
            self._receive(sent, took)
        times = sorted(1000 * each for each in took.values()) or [0.0]
        cuts = quantiles(times, n=100) if len(times) > 1 else times * 99
        return Delays(
            cuts[49], min(cuts[98], times[-1]), times[-1], len(sent) - len(took), len(sent)
        )

    def _send(self, request: RequestOrReply, sent: dict[int, float]) -> None:
        packet = self._site.packet(request, self._hub)
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
