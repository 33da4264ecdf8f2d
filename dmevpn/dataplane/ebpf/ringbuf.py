"""A BPF ring buffer as a Twisted reader. Layer: edge.

The kernel's side is ``kernel/bpf/ringbuf.c``: one page with the consumer's position, which we
write, one with the producer's, then the data, mapped twice in a row so that no record is split.
Each record has a header of eight octets whose first four are its length and two flags.

The mapping is read here, not by libbpf: its callbacks cost a call into Python per record and
have no limit before libbpf 1.5, while one wake-up must not starve the other sockets.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.log import Logger

__all__ = ["RECORDS_PER_WAKEUP", "RingBuffer"]

#: Records taken in one turn of the reactor: about a millisecond of work. The poll is
#: level-triggered, so what is left wakes us again.
RECORDS_PER_WAKEUP = 256

_POSITION = struct.Struct("=Q")
_HEADER = struct.Struct("=I")
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, not yet submitted
_DISCARDED = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
_HEADER_SIZE = 8


@implementer(IReadDescriptor)
class RingBuffer:
    """Reads the records of one ring buffer map, in order, a bounded number per wake-up."""

    log = Logger()

    def __init__(self, fd: int, size: int, receive: Callable[[bytes], None]) -> None:
        """Map it.

        :param fd: the map; stays the caller's.
        :param size: its ``max_entries``, in octets.
        :param receive: called with each record. What it raises is logged and goes no further.
        :raises OSError: if the kernel refuses the mapping.
        """
        page = mmap.PAGESIZE
        self._fd = fd
        self._mask = size - 1
        self._receive = receive
        self._ours = mmap.mmap(fd, page)
        try:
            self._theirs = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        except OSError:
            self._ours.close()
            raise
        self._data = page
        self._fence = threading.Lock()

    def fileno(self) -> int:
        """The map's descriptor: readable while records wait."""
        return self._fd

    def logPrefix(self) -> str:
        """Names us in Twisted's own messages."""
        return "ringbuf"

    def doRead(self) -> None:
        """Take what is there, up to the limit of one wake-up."""
        for record in self.take(RECORDS_PER_WAKEUP):
            try:
                self._receive(record)
            except Exception:
                # A fault of ours in one event must not end the reading of all others.
                self.log.failure("an event of the switch was not digested")

    def take(self, limit: int) -> list[bytes]:
        """Remove up to ``limit`` records from the buffer; their octets."""
        position: int = _POSITION.unpack_from(self._ours)[0]
        produced: int = _POSITION.unpack_from(self._theirs)[0]
        self._barrier()
        spans: list[tuple[int, int]] = []
        while position < produced and len(spans) < limit:
            at = self._data + (position & self._mask)
            length: int = _HEADER.unpack_from(self._theirs, at)[0]
            if length & _BUSY:
                break
            size = length & ~_DISCARDED
            if size == length:
                spans.append((at + _HEADER_SIZE, at + _HEADER_SIZE + size))
            position += (_HEADER_SIZE + size + 7) & ~7
        self._barrier()
        records = [self._theirs[start:end] for start, end in spans]
        self._barrier()
        _POSITION.pack_into(self._ours, 0, position)
        return records

    def _barrier(self) -> None:
        """Order our reads and writes of the mapping as the kernel's counterpart expects.

        Processors other than x86 may reorder them; taking and leaving a lock keeps them apart.
        """
        with self._fence:
            pass
        with self._fence:
            pass

    def connectionLost(self, reason: Failure | Any = None) -> None:
        """Unmap; the reactor calls it when it drops the reader, the owner when it is done."""
        self._ours.close()
        self._theirs.close()
