"""What the fuzzer makes of octets: datagrams with a little stage direction each.

An input is a sequence of steps, so that the fuzzer can bring a node into a state before it sends
the packet that upsets it. Any octets are some sequence of steps, and sequences can be joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct, pack_into
from typing import NamedTuple

from dmevpn.addresses import DEFAULT_OUI
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.encapsulation import LEGACY_LENGTH, decapsulate
from dmevpn.nhrp.wire import checksum
from dmevpn.transport import gre

__all__ = ["Act", "Step", "as_sent", "join", "split"]

#: Seconds that pass before a step; holding times and retransmissions are among them.
DELAYS = (0.0, 0.01, 1.0, 3.0, 20.0, 200.0, 2500.0, 7300.0)

#: Stage directions, then the length of the datagram.
_FRONT = Struct("!BBH")
_PEERS = 0x03
_GRE_AS_IT_IS = 0x04
_SIZE_AS_IT_IS = 0x08
_CHECKSUM_AS_IT_IS = 0x10
_DELAY_SHIFT = 5
#: Octets before the source NBMA address, from the fixed header's address lengths on.
_LENGTHS, _REQUEST_ID, _ADDRESSES = 18, 24, 28


class Act(IntEnum):
    """What happens beside the datagram."""

    NOTHING = 0
    ANSWER = 1
    """The datagram gets request ID and source addresses of the node's latest packet."""
    FRAME = 2
    """A station sends a frame first; the datagram's first octet tells whose and whereto."""
    EVENT = 3
    """The data plane reports something: events that were lost, a detour that a packet took."""


class Step(NamedTuple):
    """One datagram and how it comes."""

    octets: bytes
    """From the NHRP payload on; with ``raw`` from the GRE header on."""
    peer: int = 0
    """Which of the four peers sends it."""
    delay: int = 0
    """Index in :data:`DELAYS`."""
    act: Act = Act.NOTHING
    raw: bool = False
    keep_size: bool = False
    """Leave ar$pktsz as it is; otherwise it is put right, as most packets in the field are."""
    keep_checksum: bool = False

    def encode(self) -> bytes:
        """Its octets in an input."""
        direction = self.peer | self.delay << _DELAY_SHIFT
        direction |= _GRE_AS_IT_IS * self.raw | _SIZE_AS_IT_IS * self.keep_size
        direction |= _CHECKSUM_AS_IT_IS * self.keep_checksum
        return _FRONT.pack(direction, self.act, len(self.octets)) + self.octets


def split(data: bytes) -> Iterator[Step]:
    """The steps that an input stands for; the last one takes what is left."""
    at = 0
    while at + _FRONT.size <= len(data):
        direction, act, length = _FRONT.unpack_from(data, at)
        at += _FRONT.size
        octets = data[at : at + length]
        at += length
        yield Step(
            octets,
            direction & _PEERS,
            direction >> _DELAY_SHIFT,
            Act(act % len(Act)),
            bool(direction & _GRE_AS_IT_IS),
            bool(direction & _SIZE_AS_IT_IS),
            bool(direction & _CHECKSUM_AS_IT_IS),
        )


def join(steps: Iterable[Step]) -> bytes:
    """The input that stands for these steps."""
    return b"".join([step.encode() for step in steps])


def as_sent(step: Step, latest: bytes) -> bytes:
    """The GRE packet of a step.

    :param latest: the payload that the node sent last, for :attr:`Act.ANSWER`.
    """
    if step.raw:
        return step.octets
    octets = bytearray(step.octets)
    start = _start(step.octets)
    if start is not None and len(octets) >= start + _ADDRESSES:
        counted = start if start == LEGACY_LENGTH else 0
        if step.act is Act.ANSWER:
            _copy_addresses(octets, start, latest)
        if not step.keep_size:
            pack_into("!H", octets, start + 10, min(len(octets) - start + counted, 0xFFFF))
        if not step.keep_checksum:
            end = start - counted + int.from_bytes(octets[start + 10 : start + 12], "big")
            pack_into("!H", octets, start + 12, 0)
            total = checksum(bytes(octets[start - counted : end]))
            pack_into("!H", octets, start + 12, total)
    return gre.encode(bytes(octets), None)


def _start(octets: bytes) -> int | None:
    try:
        return decapsulate(octets, DEFAULT_OUI).offset
    except MalformedPacket:
        return None


def _copy_addresses(octets: bytearray, start: int, latest: bytes) -> None:
    """Make a datagram one about the node's own request."""
    theirs = _start(latest)
    if theirs is None or len(latest) < theirs + _ADDRESSES:
        return
    lengths = latest[theirs + _LENGTHS : theirs + _LENGTHS + 3]
    size = sum(lengths)
    if octets[start + _LENGTHS : start + _LENGTHS + 3] != lengths:
        return
    octets[start + _REQUEST_ID : start + _ADDRESSES + size] = latest[
        theirs + _REQUEST_ID : theirs + _ADDRESSES + size
    ]
