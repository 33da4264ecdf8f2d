"""Classic BPF programs that keep foreign packets out of a socket. Layer: base.

The kernel runs the program on every packet before it is queued (Linux
``Documentation/networking/filter.rst``), so what we do not want costs no wake-up and no room in
the receive buffer. Used for raw GRE sockets and for netlink multicast groups.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "ACCEPT",
    "DROP",
    "MAX_INSTRUCTIONS",
    "Instruction",
    "attach",
    "gre_protocol",
    "neighbour_messages",
    "received_packets",
]

# linux/bpf_common.h and linux/filter.h: a load's class is or-ed with its size and its mode.
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: A = the 32 bits at k
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS: A = the 16 bits at k
_LOAD_HALF_X = 0x48  # BPF_LD | BPF_H | BPF_IND: A = the 16 bits at X + k
_LOAD_X_HEADER = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: X = 4 * (the octet at k & 15)
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K: skip jt instructions if A == k, else jf
_RETURN = 0x06  # BPF_RET | BPF_K: keep the first k octets, 0 drops

#: asm-generic/socket.h; the socket module of CPython does not name them.
_SO_ATTACH_FILTER = 26

# linux/filter.h: what a load at this offset reads is about the packet, not in it.
_ANCILLARY = 0xFFFFF000  # SKF_AD_OFF
_PACKET_TYPE = 4  # SKF_AD_PKTTYPE
# The same: a load there reads from the beginning of the network header.
_NETWORK = 0xFFF00000  # SKF_NET_OFF
_PACKET_HOST = 0  # linux/if_packet.h

#: BPF_MAXINSNS: longer programs are refused by the kernel.
MAX_INSTRUCTIONS = 4096


class Instruction(NamedTuple):
    """One ``struct sock_filter``."""

    code: int
    """Operation, 16 bits."""
    jt: int
    """Instructions to skip when a comparison holds, 0 to 255."""
    jf: int
    """Instructions to skip when it does not."""
    k: int
    """Operand, 32 bits."""


#: Keeps the whole packet.
ACCEPT = Instruction(_RETURN, 0, 0, 0xFFFFFFFF)
#: Discards the packet before it is queued.
DROP = Instruction(_RETURN, 0, 0, 0)


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Filter what a socket receives from now on; replaces an earlier filter.

    Call it before ``bind``: what arrives between the two would not have been filtered.

    :raises ValueError: if the program is empty or longer than the kernel takes.
    :raises OSError: if the kernel refuses the program or the socket is closed.
    """
    if not 0 < len(program) <= MAX_INSTRUCTIONS:
        raise ValueError(f"a filter has 1 to {MAX_INSTRUCTIONS} instructions, not {len(program)}")
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    # struct sock_fprog holds the address of the instructions, which the kernel copies.
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def gre_protocol(
    protocol: int, *, ipv4_header: bool, refused: Iterable[bytes] = ()
) -> list[Instruction]:
    """A filter for raw protocol-47 sockets that keeps one GRE protocol type (RFC 2784 §2.4).

    :param ipv4_header: True for AF_INET sockets, whose packets begin with the IPv4 header of
        variable length; False for AF_INET6 sockets, whose packets begin with the GRE header.
    :param refused: sources whose packets are dropped, addresses of the socket's family.
    """
    load = (
        [Instruction(_LOAD_X_HEADER, 0, 0, 0), Instruction(_LOAD_HALF_X, 0, 0, 2)]
        if ipv4_header
        else [Instruction(_LOAD_HALF, 0, 0, 2)]
    )
    # A load past the end of the packet drops it, so a truncated header never reaches us.
    program = [*load, Instruction(_JUMP_EQUAL, 1, 0, protocol), DROP]
    for source in refused:
        words = [source[at : at + 4] for at in range(0, len(source), 4)]
        offset = 12 if ipv4_header else _NETWORK + 8
        for number, word in enumerate(words):
            # The first word that differs leads past the rest, and past DROP.
            rest = 2 * (len(words) - number - 1) + 1
            program.append(Instruction(_LOAD_WORD, 0, 0, offset + 4 * number))
            program.append(Instruction(_JUMP_EQUAL, 0, rest, int.from_bytes(word, "big")))
        program.append(DROP)
    return [*program, ACCEPT]


def received_packets(octets: int) -> list[Instruction]:
    """A filter for packet sockets that keeps the beginning of what came in for this host's own
    link-layer address: not what it sends, nor what goes to a group.

    :param octets: how much of each packet is kept.
    """
    return [
        Instruction(_LOAD_WORD, 0, 0, _ANCILLARY + _PACKET_TYPE),
        Instruction(_JUMP_EQUAL, 0, 1, _PACKET_HOST),
        Instruction(_RETURN, 0, 0, octets),
        DROP,
    ]


def neighbour_messages(message_type: int, ifindexes: Iterable[int]) -> list[Instruction]:
    """A filter for rtnetlink sockets that keeps one type of neighbour message of some devices.

    It sees every message of the socket, acknowledgements included: use it on sockets that only
    listen. Only the first message of a buffer is looked at, and the kernel sends notifications
    one by one.

    :param message_type: ``RTM_NEWNEIGH`` and so on.
    :param ifindexes: the devices; none of them drops everything.
    :raises ValueError: if there are more devices than a filter can name.
    """
    # struct nlmsghdr: type at 4. struct ndmsg behind it: ifindex at 16 + 4.
    program = [
        Instruction(_LOAD_HALF, 0, 0, 4),
        Instruction(_JUMP_EQUAL, 1, 0, _swapped(message_type, 2)),
        DROP,
        Instruction(_LOAD_WORD, 0, 0, 20),
    ]
    for ifindex in sorted(set(ifindexes)):
        program += [Instruction(_JUMP_EQUAL, 0, 1, _swapped(ifindex, 4)), ACCEPT]
    program.append(DROP)
    if len(program) > MAX_INSTRUCTIONS:
        raise ValueError(f"too many devices for one filter: {(len(program) - 5) // 2}")
    return program


def _swapped(value: int, size: int) -> int:
    """A number of the host's byte order as a load, which assumes network order, will see it."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder), "big")
