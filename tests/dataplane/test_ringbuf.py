"""The reader of a ring buffer, on memory that looks like one, and on a real one by the contract."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from dmevpn.dataplane.ebpf.ringbuf import RECORDS_PER_WAKEUP, RingBuffer

SIZE = 4096
PAGE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Producer:
    """The kernel's side (kernel/bpf/ringbuf.c) over a file: the data once more behind itself."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ringbuf")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = 0

    @property
    def consumed(self) -> int:
        """How far the reader has come."""
        position: int = struct.unpack_from("=Q", self.memory)[0]
        return position

    def put(self, record: bytes, flags: int = 0) -> int:
        """Write a record; where its header is."""
        at = self.position
        octets = struct.pack("=II", len(record) | flags, 0) + record
        for index, octet in enumerate(octets):
            offset = 2 * PAGE + (at + index) % SIZE
            self.memory[offset] = self.memory[offset + SIZE] = octet
        self.position += (len(octets) + 7) & ~7
        struct.pack_into("=Q", self.memory, PAGE, self.position)
        return at

    def submit(self, at: int, length: int) -> None:
        """Take the busy flag from a record."""
        for copy in (0, SIZE):
            struct.pack_into("=I", self.memory, 2 * PAGE + at % SIZE + copy, length)

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def producer() -> Iterator[Producer]:
    producer = Producer()
    yield producer
    producer.close()


@pytest.fixture
def received() -> list[bytes]:
    return []


@pytest.fixture
def ring(producer: Producer, received: list[bytes]) -> Iterator[RingBuffer]:
    ring = RingBuffer(producer.fd, SIZE, received.append)
    yield ring
    ring.connectionLost()


def test_interface(ring: RingBuffer, producer: Producer) -> None:
    """A reactor can read it."""
    assert verifyObject(IReadDescriptor, ring)
    assert ring.fileno() == producer.fd
    assert ring.logPrefix()


def test_records_in_order(ring: RingBuffer, producer: Producer, received: list[bytes]) -> None:
    """Events arrive in the order in which they happened, whatever their lengths."""
    records = [bytes([length]) * length for length in (1, 7, 8, 9, 44)]
    for record in records:
        producer.put(record)
    ring.doRead()
    assert received == records
    assert producer.consumed == producer.position
    ring.doRead()
    assert received == records


def test_wrapping(ring: RingBuffer, producer: Producer, received: list[bytes]) -> None:
    """No event is cut where the buffer ends."""
    records = [bytes([number % 256]) * 44 for number in range(500)]
    for record in records:
        producer.put(record)
        ring.doRead()
    assert received == records
    assert producer.position > 5 * SIZE


def test_waits_for_what_is_being_written(
    ring: RingBuffer, producer: Producer, received: list[bytes]
) -> None:
    """An event that another CPU is still writing holds up those behind it."""
    producer.put(b"first")
    at = producer.put(b"second", BUSY)
    producer.put(b"third")
    ring.doRead()
    assert received == [b"first"]
    producer.submit(at, len(b"second"))
    ring.doRead()
    assert received == [b"first", b"second", b"third"]


def test_skips_what_was_discarded(
    ring: RingBuffer, producer: Producer, received: list[bytes]
) -> None:
    """An event that was taken back is not reported."""
    producer.put(b"first")
    producer.put(b"second", DISCARDED)
    producer.put(b"third")
    ring.doRead()
    assert received == [b"first", b"third"]
    assert producer.consumed == producer.position


def test_bounded_work(producer: Producer, received: list[bytes]) -> None:
    """A storm of events leaves time for everything else."""
    ring = RingBuffer(producer.fd, SIZE, received.append)
    for number in range(SIZE // 16):
        producer.put(struct.pack("=Q", number))
    assert len(ring.take(10)) == 10
    assert producer.consumed == 160
    ring.doRead()
    assert len(received) == min(RECORDS_PER_WAKEUP, SIZE // 16 - 10)
    assert received[0] == struct.pack("=Q", 10)
    ring.connectionLost()


def test_fault_in_an_event(producer: Producer, logged_failures: list[LogEvent]) -> None:
    """A fault of ours over one event does not end the reading of all that follow."""
    received: list[bytes] = []

    def receive(record: bytes) -> None:
        if record == b"bad":
            raise ValueError("a fault")
        received.append(record)

    ring = RingBuffer(producer.fd, SIZE, receive)
    for record in (b"one", b"bad", b"two"):
        producer.put(record)
    ring.doRead()
    ring.connectionLost()
    assert received == [b"one", b"two"]
    assert [str(event["log_failure"].value) for event in logged_failures] == ["a fault"]
    logged_failures.clear()


def test_what_cannot_be_mapped() -> None:
    """A descriptor that is no ring buffer is refused."""
    read, write = os.pipe()
    with pytest.raises(OSError):
        RingBuffer(read, SIZE, print)
    os.close(read)
    os.close(write)
