"""Frames and pings between virtual machines, counted one by one."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.netns import Namespace

__all__ = [
    "BROADCAST",
    "Capture",
    "Flow",
    "FlowReport",
    "Ping",
    "PingReport",
    "ethernet",
    "gratuitous_arp",
    "mac_octets",
    "packet_socket",
    "ping",
    "send_frame",
    "write_pcap",
]

BROADCAST = "ff:ff:ff:ff:ff:ff"

ETH_P_ALL = 0x0003
ETH_P_ARP = 0x0806
#: EtherType of our counted frames: IEEE 802, local experimental 1.
ETH_P_FLOW = 0x88B5
SOL_PACKET = 263
#: Linux 4.20: keep from a packet socket what the machine itself sends.
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
#: Room for a whole flow: nothing need read while it runs and take time from what is tested.
RECEIVE_BUFFER = 64 << 20

#: Behind the Ethernet header of a counted frame: which flow, and its number in it.
FLOW = struct.Struct("!II")
ETHERNET = struct.Struct("!6s6sH")


def mac_octets(mac: str) -> bytes:
    """The octets of a MAC address in its usual notation."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    """An Ethernet frame, padded to the least size without its check sum."""
    header = ETHERNET.pack(mac_octets(destination), mac_octets(source), ethertype)
    return (header + payload).ljust(60, b"\0")


def gratuitous_arp(mac: str, address: str) -> bytes:
    """The broadcast with which a machine says that it is (now) here (RFC 5227 §3)."""
    octets = socket.inet_aton(address)
    payload = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    payload += mac_octets(mac) + octets + bytes(6) + octets
    return ethernet(BROADCAST, mac, ETH_P_ARP, payload)


def packet_socket(namespace: Namespace, device: str, ethertype: int) -> socket.socket:
    """A packet socket on a device; with EtherType 0 it only sends."""
    with namespace.entered():
        # Bound before it listens to anything: protocol 0 hears nothing.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            sock.bind((device, ethertype))
        except OSError:
            sock.close()
            raise
    return sock


def send_frame(namespace: Namespace, frame: bytes, device: str = "eth0") -> None:
    """Send one frame out of a device."""
    with packet_socket(namespace, device, 0) as sock:
        sock.send(frame)


class Capture:
    """Everything that arrives at a device, from the start until it is closed. A context manager.

    :param ethertype: of the frames; any by default.
    :param outgoing: also what the machine itself sends, which the kernel shows only to those who
        ask for any EtherType.
    """

    def __init__(
        self,
        namespace: Namespace,
        device: str = "eth0",
        *,
        ethertype: int = ETH_P_ALL,
        outgoing: bool = False,
    ) -> None:
        self.socket = packet_socket(namespace, device, 0)
        if not outgoing:
            self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.bind((device, ethertype))
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """For whoever waits for frames."""
        return self.socket.fileno()

    def frames(self) -> list[bytes]:
        """The frames that came since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(65535))
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Hear no more."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowReport:
    """What became of a flow at one receiver."""

    sent: int
    received: int
    """Different frames that arrived."""
    duplicated: int
    """Arrivals beyond the first of a frame."""
    reordered: int
    """First arrivals behind a frame that was sent later."""
    lost: tuple[int, ...] = field(repr=False)
    """Numbers of the frames that never came."""

    @property
    def untouched(self) -> bool:
        """Whether all came, in order, with at most one of them twice."""
        return not self.lost and not self.reordered and self.duplicated <= 1

    def __str__(self) -> str:
        return (
            f"{self.sent} sent, {len(self.lost)} lost, "
            f"{self.duplicated} duplicated, {self.reordered} reordered"
        )


class Flow:
    """Numbered frames at an even pace from one namespace, counted as they arrive at others.

    :param sender: where it starts, out of ``eth0``.
    :param receivers: where it is counted, at ``eth0``.
    :param rate: frames per second.
    :param count: how many; the flow also ends at :meth:`stop`.
    :param size: octets of a frame, Ethernet header included.
    """

    _identity = 0

    def __init__(
        self,
        sender: Namespace,
        receivers: Iterable[Namespace],
        *,
        source: str,
        destination: str,
        rate: float,
        count: int,
        size: int = 128,
    ) -> None:
        Flow._identity += 1
        self._identity = Flow._identity
        self._rate = rate
        self._count = count
        self._header = ETHERNET.pack(mac_octets(destination), mac_octets(source), ETH_P_FLOW)
        self._padding = bytes(size - len(self._header) - FLOW.size)
        self._captures = [Capture(receiver, ethertype=ETH_P_FLOW) for receiver in receivers]
        self._sock = packet_socket(sender, "eth0", 0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, name=f"flow {self._identity}")
        self._error: OSError | None = None
        self.sent = 0
        """Frames sent so far."""

    def add_receiver(self, receiver: Namespace) -> None:
        """Count it at one more namespace, from now on."""
        self._captures.append(Capture(receiver, ethertype=ETH_P_FLOW))

    def start(self) -> Self:
        """Begin to send, in a thread; the receivers listen already."""
        self._thread.start()
        return self

    def _send(self) -> None:
        # On one CPU: each has a queue of its own for what a veth delivers, so who moves to another
        # one between two frames may overtake himself.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        begin = time.perf_counter()
        try:
            for number in range(self._count):
                ahead = begin + number / self._rate - time.perf_counter()
                if ahead > 0:
                    time.sleep(ahead)
                if self._stopped.is_set():
                    return
                self._sock.send(self._header + FLOW.pack(self._identity, number) + self._padding)
                self.sent = number + 1
        except OSError as error:
            self._error = error

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()
        self._thread.join()

    def finish(self, *, linger: float = 0.2) -> list[FlowReport]:
        """Wait until all is sent and has had time to arrive; one report per receiver.

        :param linger: seconds that the last frames may take.
        """
        self._thread.join()
        self._sock.close()
        if self._error is not None:
            raise self._error
        time.sleep(linger)
        reports = [self._report(capture.frames()) for capture in self._captures]
        for capture in self._captures:
            capture.close()
        return reports

    def _report(self, frames: Iterable[bytes]) -> FlowReport:
        seen: set[int] = set()
        newest = -1
        duplicated = reordered = 0
        for frame in frames:
            identity, number = FLOW.unpack_from(frame, ETHERNET.size)
            if identity != self._identity:
                continue
            if number in seen:
                duplicated += 1
                continue
            seen.add(number)
            reordered += number < newest
            newest = max(newest, number)
        return FlowReport(
            sent=self.sent,
            received=len(seen),
            duplicated=duplicated,
            reordered=reordered,
            lost=tuple(number for number in range(self.sent) if number not in seen),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReport:
    """What ``ping`` counted."""

    sent: int
    received: int
    duplicated: int

    @property
    def lost(self) -> int:
        """Requests that got no answer."""
        return self.sent - self.received

    def __str__(self) -> str:
        return f"{self.sent} sent, {self.lost} lost, {self.duplicated} duplicated"


class Ping:
    """A running ``ping``.

    :param count: requests at most; it also ends at :meth:`stop`.
    :param interval: seconds between two requests.
    :param patience: seconds that the last answers may take.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        *,
        count: int,
        interval: float,
        patience: float = 1,
    ) -> None:
        self._deadline = count * interval + patience + 30
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by finish
        self._stopped = False
        self._process = subprocess.Popen(
            namespace.command(
                *("ping", "-n", "-c", str(count), "-i", str(interval)),
                *("-W", str(patience), address),
            ),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    @property
    def running(self) -> bool:
        """Whether requests are still being sent or answers awaited."""
        return self._process.poll() is None

    @property
    def answered(self) -> int:
        """The last request that has had an answer, counted from 1; 0: none has."""
        return max(self._answers(), default=0)

    def _answers(self) -> Counter[int]:
        """How many answers each request has had."""
        return Counter(map(int, re.findall(r"icmp_seq=(\d+) (?:ttl|hop)", self._text())))

    def _text(self) -> str:
        descriptor = self._said.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def stop(self) -> None:
        """Send no more. What was not answered by then behind the last answer does not count: it may
        be under way."""
        self._stopped = True
        self._process.send_signal(signal.SIGINT)

    def finish(self) -> PingReport:
        """Wait for its end and read its summary.

        :raises AssertionError: there is none.
        """
        try:
            self._process.wait(self._deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        text, answers = self._text(), self._answers()
        self._said.close()
        if self._stopped:
            return PingReport(
                sent=max(answers, default=0),
                received=len(answers),
                duplicated=answers.total() - len(answers),
            )
        counts = re.search(r"(\d+) packets transmitted, (\d+) received(?:, \+(\d+) dup)?", text)
        assert counts, f"ping says: {text.strip()}"
        sent, received, duplicated = (int(number or 0) for number in counts.groups())
        return PingReport(sent=sent, received=received, duplicated=duplicated)


def ping(
    namespace: Namespace,
    address: str,
    *,
    count: int = 3,
    interval: float = 0.05,
    patience: float = 1,
) -> PingReport:
    """Ping and wait for the result."""
    return Ping(namespace, address, count=count, interval=interval, patience=patience).finish()


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    """Write Ethernet frames as a capture file that tshark reads (without times)."""
    with path.open("wb") as stream:
        stream.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            stream.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)
