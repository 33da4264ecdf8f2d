"""Rtnetlink on sockets of our own: requests answered at once, and notifications as a reader.

Layer: edge. The kernel works on a request while it is being sent, so the answer of a
:class:`NetlinkRequests` is there when the call returns, and a batch of hundreds of changes costs
one send and one receive. A socket stays in the network namespace where it was made, whoever
uses it later. Sources: RFC 3549, Linux ``uapi/linux/netlink.h``, ``net/netlink/af_netlink.c``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dmevpn.errors import DataplaneError
from dmevpn.log import Logger
from dmevpn.sockfilter import Instruction, attach

__all__ = [
    "BATCH_MESSAGES",
    "NLM_F_APPEND",
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "Message",
    "NetlinkReader",
    "NetlinkRequests",
    "attribute",
    "nested",
    "parse_attributes",
]

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_DROP_MEMBERSHIP = 2
_CAP_ACK = 10
_EXT_ACK = 11
_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33

_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

#: Messages in one send: 24 kB of neighbour messages, well inside the default send buffer.
BATCH_MESSAGES = 500
#: Datagrams taken per wake-up of a reader, so that transport and admin sockets get their turn.
READS_PER_TURN = 256
#: A dump's datagrams hold up to 32 kB; a notification is far smaller.
_BUFFER = 65536
#: Receive buffer of a request socket: room for an error report for each message of a batch
#: (about 800 octets of accounting each).
_REQUEST_BUFFER = 1 << 20

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


class Message(NamedTuple):
    """One rtnetlink request, without the header that sending it gives it."""

    type: int
    flags: int
    body: bytes


def attribute(type_: int, value: bytes) -> bytes:
    """One attribute (``struct nlattr``), padded to four octets."""
    return _ATTRIBUTE.pack(4 + len(value), type_) + value + bytes(-len(value) % 4)


def nested(type_: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(type_ | _NLA_F_NESTED, b"".join(attributes))


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from an offset on, by type; the last one wins, as in the kernel."""
    found = {}
    while offset + 4 <= len(data):
        size, type_ = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[type_ & _NLA_TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def _set_buffer(sock: socket.socket, size: int) -> None:
    """Ask for a receive buffer beyond net.core.rmem_max, or for what is allowed.

    The first needs CAP_NET_ADMIN in the initial user namespace, which a container lacks.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _open() -> socket.socket:
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)


class NetlinkRequests:
    """Sends requests and returns their answers; made in the namespace that it is to change."""

    def __init__(self) -> None:
        self._sock = _open()
        _set_buffer(self._sock, _REQUEST_BUFFER)
        # Answers carry the kernel's explanation but not the request; dumps heed their filter.
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            self._sock.setsockopt(_SOL_NETLINK, option, 1)
        self._sock.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self._sock.close()

    def request(self, message: Message, operation: str) -> None:
        """Have one thing done.

        :param operation: what is asked, for the error text.
        :raises DataplaneError: with the kernel's error number and, if it gave one, its reason.
        """
        sequence = self._send([message], NLM_F_ACK)
        for data in self._receive():
            for type_, flags, number, body in _messages(data):
                if number == sequence and type_ == _NLMSG_ERROR:
                    _check(flags, body, operation)
                    return
        raise DataplaneError(errno.ENOBUFS, operation)

    def get(self, message: Message) -> bytes | None:
        """The datagram that answers a request for one object; None if there is no such object.

        :raises DataplaneError: if the kernel refuses for another reason.
        """
        sequence = self._send([message], 0)
        for data in self._receive():
            for type_, flags, number, body in _messages(data):
                if number != sequence:
                    continue
                if type_ != _NLMSG_ERROR:
                    return data
                code = -_ERROR.unpack_from(body)[0]
                if code in (errno.ENOENT, errno.ENODEV):
                    return None
                _check(flags, body, "reading from the kernel")
        raise DataplaneError(errno.ENOBUFS, "reading from the kernel")

    def batch(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Have many things done, in order; one that fails does not stop the others.

        :returns: index and error number of each message that failed.
        :raises DataplaneError: ``ENOBUFS`` if answers were lost, so that it is unknown which.
        """
        failed: list[tuple[int, int]] = []
        for first in range(0, len(messages), BATCH_MESSAGES):
            part = messages[first : first + BATCH_MESSAGES]
            last = self._send(part, NLM_F_ACK)
            failed += self._failures(first, last - len(part) + 1, last)
        return failed

    def _failures(self, first: int, first_sequence: int, last: int) -> Iterator[tuple[int, int]]:
        """An error is reported for any message; success only for the last, which asked for it."""
        lost = False
        for data in self._receive():
            if not data:
                lost = True
                continue
            for type_, _, number, body in _messages(data):
                index = (number - first_sequence) & 0xFFFFFFFF
                if type_ != _NLMSG_ERROR or index > (last - first_sequence) & 0xFFFFFFFF:
                    continue
                code = -_ERROR.unpack_from(body)[0]
                if code:
                    yield first + index, code
                if number == last:
                    if lost:
                        raise DataplaneError(errno.ENOBUFS, "reading the kernel's answers")
                    return
        raise DataplaneError(errno.ENOBUFS, "reading the kernel's answers")

    def dump(self, message: Message) -> Iterator[bytes]:
        """The datagrams of a dump; each step has the kernel produce the next.

        Run it to its end before the socket is used for anything else.

        :raises DataplaneError: if the kernel refuses.
        """
        sequence = self._send([message], NLM_F_DUMP)
        for data in self._receive():
            for type_, flags, number, body in _messages(data):
                if number == sequence and type_ in (_NLMSG_DONE, _NLMSG_ERROR):
                    _check(flags, body, "reading from the kernel")
                    # Objects may stand before the end in one datagram, some kinds' always do.
                    yield data
                    return
            yield data
        raise DataplaneError(errno.ENOBUFS, "reading from the kernel")

    def _send(self, messages: Iterable[Message], last_flags: int) -> int:
        """Send; returns the sequence number of the last message."""
        parts: list[bytes] = []
        packed = list(messages)
        sequence = self._sequence
        for message in packed:
            sequence = (sequence + 1) & 0xFFFFFFFF
            flags = message.flags | NLM_F_REQUEST
            if len(parts) == len(packed) - 1:
                flags |= last_flags
            body = message.body
            parts.append(
                _HEADER.pack(16 + len(body), message.type, flags, sequence, 0)
                + body
                + bytes(-len(body) % 4)
            )
        self._sequence = sequence
        try:
            self._sock.send(b"".join(parts))
        except OSError as error:
            raise DataplaneError(error.errno or errno.EIO, "asking the kernel") from None
        return sequence

    def _receive(self) -> Iterator[bytes]:
        """Datagrams that are there; an empty one stands for answers that were lost."""
        while True:
            try:
                yield self._sock.recv(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise DataplaneError(error.errno or errno.EIO, "netlink") from None
                yield b""


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message of a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, type_, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield type_, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _check(flags: int, body: bytes, operation: str) -> None:
    """Raise what an acknowledgement or the end of a dump reports."""
    code = -_ERROR.unpack_from(body)[0]
    if code <= 0:
        return
    if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED:
        # Behind the code stands the header of the request, then the explanation.
        reason = parse_attributes(body, 20).get(_NLMSGERR_ATTR_MSG)
        if reason:
            operation += f" ({reason.rstrip(bytes(1)).decode(errors='replace')})"
    raise DataplaneError(code, operation)


@implementer(IReadDescriptor)
class NetlinkReader:
    """Notifications of some multicast groups that pass a filter, read by a reactor.

    :param groups: ``RTNLGRP_`` numbers.
    :param program: what to keep; see :meth:`set_filter`.
    :param received: called with each datagram.
    :param drained: called when a wake-up's reading ends.
    :param overrun: called when the kernel had to drop notifications.
    :param buffer: receive buffer in octets; a queued notification takes about 800.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        *,
        groups: Sequence[int],
        program: Sequence[Instruction],
        received: Callable[[bytes], None],
        drained: Callable[[], None],
        overrun: Callable[[], None],
        buffer: int,
    ) -> None:
        self._reactor = reactor
        self._received = received
        self._drained = drained
        self._overrun = overrun
        self._groups = tuple(groups)
        self._sock = _open()
        try:
            _set_buffer(self._sock, buffer)
            attach(self._sock, program)
            self._sock.bind((0, 0))
            self._set_membership(_ADD_MEMBERSHIP)
        except OSError:
            self._sock.close()
            raise
        reactor.addReader(self)

    def _set_membership(self, option: int) -> None:
        for group in self._groups:
            self._sock.setsockopt(_SOL_NETLINK, option, group)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing meanwhile: what we do ourselves, of which the kernel tells everybody while
        it does it. Costs 2 µs."""
        self._set_membership(_DROP_MEMBERSHIP)
        try:
            yield
        finally:
            if self._sock.fileno() >= 0:
                self._set_membership(_ADD_MEMBERSHIP)

    def set_filter(self, program: Sequence[Instruction]) -> None:
        """Keep something else from now on; what is queued stays."""
        attach(self._sock, program)

    def close(self) -> None:
        """Stop reading; again is harmless."""
        if self._sock.fileno() >= 0:
            self._reactor.removeReader(self)
            self._sock.close()

    def fileno(self) -> int:
        """The socket's descriptor, for the reactor."""
        return self._sock.fileno()

    def logPrefix(self) -> str:
        """Name in the reactor's log lines."""
        return "netlink"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of us."""
        self.close()

    def doRead(self) -> None:
        """Take what is queued, up to a bound, and hand it on. Never raises: the reactor would let
        go of us, and nobody would hear of anything any more."""
        for _ in range(READS_PER_TURN):
            try:
                data = self._sock.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    # Reported once, before what is still queued.
                    self._tell(self._overrun)
                    continue
                self.log.error("netlink: {reason}", reason=os.strerror(error.errno or errno.EIO))
                break
            self._tell(self._received, data)
            if self._sock.fileno() < 0:
                return
        self._tell(self._drained)

    def _tell(self, listener: Callable[..., None], *words: bytes) -> None:
        try:
            listener(*words)
        except Exception:
            self.log.failure("cannot handle a notification")
