"""Socket filters, tried on sockets that need no privilege."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from dmevpn.sockfilter import (
    ACCEPT,
    DROP,
    MAX_INSTRUCTIONS,
    Instruction,
    attach,
    gre_protocol,
    neighbour_messages,
)

RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender and a filtered receiver of datagrams; the filter sees exactly what is sent."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    with sender, receiver:
        yield sender, receiver


def passes(
    pair: tuple[socket.socket, socket.socket], program: Sequence[Instruction], data: bytes
) -> bool:
    """Whether a datagram gets through the filter."""
    sender, receiver = pair
    attach(receiver, program)
    try:
        sender.send(data)
    except OSError as error:  # AF_UNIX tells the sender that the filter dropped it
        assert error.errno == errno.EPERM
        return False
    try:
        return receiver.recv(65536) == data
    except BlockingIOError:
        return False


def neighbour(message_type: int, ifindex: int) -> bytes:
    """A netlink neighbour message without attributes, in the host's byte order."""
    return struct.pack("=IHHIIBxxxiHBB", 28, message_type, 0, 0, 0, 2, ifindex, 4, 0, 1)


def test_whole_packets_pass(pair: tuple[socket.socket, socket.socket]) -> None:
    """An accepting filter cuts nothing off, a dropping one lets nothing through."""
    assert passes(pair, [ACCEPT], bytes(2000))
    assert not passes(pair, [DROP], b"x")


@pytest.mark.parametrize("options", [0, 1, 10])
def test_gre_behind_ipv4(pair: tuple[socket.socket, socket.socket], options: int) -> None:
    """NHRP passes whatever the length of the IPv4 header, other GRE traffic does not."""
    header = bytes([0x45 + options]) + bytes(19 + 4 * options)
    program = gre_protocol(0x2001, ipv4_header=True)
    assert passes(pair, program, header + b"\x00\x00\x20\x01nhrp")
    assert passes(pair, program, header + b"\x20\x00\x20\x01\x00\x00\x03\xe8nhrp")
    assert not passes(pair, program, header + b"\x00\x00\x08\x00ipv4")
    assert not passes(pair, program, header + b"\x00\x00\x20")
    assert not passes(pair, program, header)


def test_gre_without_ip_header(pair: tuple[socket.socket, socket.socket]) -> None:
    """IPv6 raw sockets deliver the GRE header first."""
    program = gre_protocol(0x2001, ipv4_header=False)
    assert passes(pair, program, b"\x00\x00\x20\x01nhrp")
    assert not passes(pair, program, b"\x00\x00\x86\xddipv6")
    assert not passes(pair, program, b"\x00\x00\x20")


def test_neighbour_messages(pair: tuple[socket.socket, socket.socket]) -> None:
    """Only misses of the named devices wake us."""
    program = neighbour_messages(RTM_GETNEIGH, [7, 1000, 7])
    assert passes(pair, program, neighbour(RTM_GETNEIGH, 7))
    assert passes(pair, program, neighbour(RTM_GETNEIGH, 1000))
    assert not passes(pair, program, neighbour(RTM_GETNEIGH, 8))
    assert not passes(pair, program, neighbour(RTM_NEWNEIGH, 7))


def test_neighbour_messages_of_no_device(pair: tuple[socket.socket, socket.socket]) -> None:
    """Without a device nothing is of interest."""
    assert not passes(pair, neighbour_messages(RTM_GETNEIGH, []), neighbour(RTM_GETNEIGH, 7))


def test_many_devices(pair: tuple[socket.socket, socket.socket]) -> None:
    """The filter names as many devices as the kernel takes instructions, and says when not."""
    most = (MAX_INSTRUCTIONS - 5) // 2
    program = neighbour_messages(RTM_GETNEIGH, range(1, most + 1))
    assert passes(pair, program, neighbour(RTM_GETNEIGH, most))
    with pytest.raises(ValueError, match=f"too many devices for one filter: {most + 1}"):
        neighbour_messages(RTM_GETNEIGH, range(1, most + 2))


@pytest.mark.parametrize("program", [[], [ACCEPT] * (MAX_INSTRUCTIONS + 1)])
def test_impossible_lengths(
    pair: tuple[socket.socket, socket.socket], program: list[Instruction]
) -> None:
    """A program that no kernel takes is our mistake."""
    with pytest.raises(ValueError, match="a filter has 1 to 4096 instructions"):
        attach(pair[1], program)


def test_refused_program(pair: tuple[socket.socket, socket.socket]) -> None:
    """A program that does not end in a return is refused by the kernel, not run."""
    with pytest.raises(OSError, match="Invalid argument"):
        attach(pair[1], [Instruction(0x28, 0, 0, 0)])


def test_replaced(pair: tuple[socket.socket, socket.socket]) -> None:
    """A second filter takes the place of the first."""
    assert not passes(pair, [DROP], b"x")
    assert passes(pair, [ACCEPT], b"x")
