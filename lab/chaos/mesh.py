"""Numbered frames between all stations of a VPN, all the time, in one thread."""

from __future__ import annotations

import contextlib
import select
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lab.chaos.stage import Station
from lab.traffic import (
    BROADCAST,
    ETH_P_FLOW,
    ETHERNET,
    Capture,
    mac_octets,
    packet_socket,
)

__all__ = ["Crossings", "Mesh", "Stream"]

#: Frames a second of each stream.
RATE = 20
#: Seconds that a frame may be under way before it counts as lost.
UNDER_WAY = 0.3
#: Behind the Ethernet header: VPN, sender, receiver (255: all), number.
COUNTED = struct.Struct("!BBBxI")
TO_ALL = 255


class Stream:
    """The frames of one station to another, or to all.

    :ivar sent: when each frame was sent, by its number.
    """

    def __init__(self, sender: Station, receivers: list[Station], *, to_all: bool) -> None:
        self.sender = sender
        self.receivers = receivers
        self.to_all = to_all
        self.sent: list[float] = []
        # What an Ethernet gives back to its sender is one too many.
        self.arrived = {station.number: bytearray() for station in (sender, *receivers)}
        destination = BROADCAST if to_all else receivers[0].vm.mac
        self._header = ETHERNET.pack(mac_octets(destination), mac_octets(sender.vm.mac), ETH_P_FLOW)
        self._to = TO_ALL if to_all else receivers[0].number

    def __str__(self) -> str:
        to = "all" if self.to_all else str(self.receivers[0])
        return f"{self.sender} to {to}"

    def next_frame(self) -> bytes:
        """Count one more frame as sent, and return it."""
        count = len(self.sent)
        for number, row in self.arrived.items():
            row.append(number == self.sender.number)
        self.sent.append(time.monotonic())
        payload = COUNTED.pack(self.sender.vpn, self.sender.number, self._to, count)
        return (self._header + payload).ljust(60, b"\0")

    def between(self, begin: float, end: float) -> range:
        """The numbers of the frames that were sent in a time."""
        return range(bisect_left(self.sent, begin), bisect_left(self.sent, end))


@dataclass
class _Crossed:
    numbers: list[int]
    first: str


class Crossings:
    """Frames that arrived in another VPN than they were sent in."""

    def __init__(self) -> None:
        self._found: dict[tuple[Stream, Station], _Crossed] = {}

    def note(self, stream: Stream, station: Station, number: int, frame: bytes) -> None:
        """A frame of a stream is where it should never be."""
        crossed = self._found.get((stream, station))
        if crossed is None:
            words = f"sent at {stream.sent[number]:.3f} s, octets {frame.hex()}"
            crossed = self._found[stream, station] = _Crossed([], words)
        crossed.numbers.append(number)

    def take(self) -> list[str]:
        """What there was since the last call, in words: how many frames of which stream where,
        their numbers, and the first of them."""
        found, self._found = self._found, {}
        return [
            f"{len(each.numbers)} frames of {stream} in VPN {stream.sender.vpn} at {station} in "
            f"VPN {station.vpn}, numbers {min(each.numbers)} to {max(each.numbers)}, the first "
            f"{each.first}"
            for (stream, station), each in found.items()
        ]


class Mesh:
    """All streams among stations. A context manager: it sends from its start to its end.

    :ivar crossings: frames that arrived in another VPN.
    """

    def __init__(self, stations: list[Station]) -> None:
        self.crossings = Crossings()
        self._stations = stations
        self._by_key = {(station.vpn, station.number): station for station in stations}
        self._streams: dict[tuple[int, int, int], Stream] = {}
        for one in stations:
            others = [each for each in stations if each.vpn == one.vpn and each is not one]
            for other in others:
                stream = Stream(one, [other], to_all=False)
                self._streams[one.vpn, one.number, other.number] = stream
            self._streams[one.vpn, one.number, TO_ALL] = Stream(one, others, to_all=True)
        self._captures = {
            station: Capture(station.vm.namespace, ethertype=ETH_P_FLOW) for station in stations
        }
        self._senders = {
            station: packet_socket(station.vm.namespace, "eth0", 0) for station in stations
        }
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        for capture in self._captures.values():
            capture.close()
        for sock in self._senders.values():
            sock.close()

    def _run(self) -> None:
        poll = select.epoll()
        stations = {}
        for station, capture in self._captures.items():
            poll.register(capture.fileno(), select.EPOLLIN)
            stations[capture.fileno()] = station
        streams = list(self._streams.values())
        # Spread over the interval, so that no burst of ours is what gets lost.
        step = 1 / RATE / len(streams)
        due, turn = time.monotonic(), 0
        while not self._ending.is_set():
            now = time.monotonic()
            while due <= now:
                self._send(streams[turn])
                turn = (turn + 1) % len(streams)
                due += step
            for number, _ in poll.poll(max(0.002, due - time.monotonic())):
                self._receive(stations[number])
            # After a pause of the whole machine there is no use in making up for it.
            due = max(due, time.monotonic() - 0.2)
        poll.close()

    def _send(self, stream: Stream) -> None:
        frame = stream.next_frame()
        # Unplugged or without carrier: the frame counts as lost.
        with contextlib.suppress(OSError):
            self._senders[stream.sender].send(frame)

    def _receive(self, station: Station) -> None:
        try:
            frames = self._captures[station].frames()
        except OSError:
            return  # Its device went down, which a socket is told once.
        for frame in frames:
            vpn, sender, to, number = COUNTED.unpack_from(frame, ETHERNET.size)
            if vpn != station.vpn:
                self.crossings.note(self._streams[vpn, sender, to], station, number, frame)
            elif to in (station.number, TO_ALL):
                stream = self._streams[vpn, sender, to]
                row = stream.arrived[station.number]
                row[number] = min(row[number] + 1, 255)

    # --- what became of the frames ---------------------------------------------------------------

    def streams(self) -> Iterator[Stream]:
        """All of them."""
        return iter(self._streams.values())

    def lost(self, begin: float, end: float) -> dict[tuple[Stream, Station], list[float]]:
        """When the frames were sent that did not arrive, of those sent in a time, by stream and
        receiver; only those that lost any."""
        found = {}
        for stream in self._streams.values():
            numbers = stream.between(begin, min(end, time.monotonic() - UNDER_WAY))
            for station in stream.receivers:
                row = stream.arrived[station.number]
                times = [stream.sent[number] for number in numbers if not row[number]]
                if times:
                    found[stream, station] = times
        return found

    def doubled(self, begin: float, end: float) -> dict[tuple[Stream, Station], list[float]]:
        """When the frames were sent that arrived twice or more, or came back to their sender, of
        those sent in a time, by stream and receiver; one entry for each arrival too many."""
        found = {}
        for stream in self._streams.values():
            numbers = stream.between(begin, end)
            for station in (stream.sender, *stream.receivers):
                row = stream.arrived[station.number]
                times = [
                    stream.sent[number]
                    for number in numbers
                    if row[number] > 1
                    for _ in range(row[number] - 1)
                ]
                if times:
                    found[stream, station] = times
        return found

    def sent(self, begin: float, end: float) -> int:
        """How many arrivals are wanted of what was sent in a time."""
        return sum(
            len(stream.between(begin, end)) * len(stream.receivers)
            for stream in self._streams.values()
        )
