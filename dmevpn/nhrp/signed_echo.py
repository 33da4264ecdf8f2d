"""Keepalives with a keyed hash, like one that was answered before. Layer: core.

One of a client differs from the next in request ID, checksum, hash and the number of its proof
(:mod:`dmevpn.nhrp.replay`). These are checked as in every packet, and the same is made anew for the
reply. All else is as it was when the first one was read.
"""

from __future__ import annotations

import hmac
from typing import Final

from dmevpn.addresses import Path
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.encapsulation import (
    CHECKSUM_BEGIN,
    CHECKSUM_END,
    REQUEST_ID_BEGIN,
    REQUEST_ID_END,
    RFC_LENGTH,
    Form,
    header,
)
from dmevpn.nhrp.extensions import END
from dmevpn.nhrp.header import CHECKSUM, EXTENSIONS_OFFSET, REQUEST_ID
from dmevpn.nhrp.keyed import AUTHENTICATION_LENGTH, Key, KeyedAuthentication
from dmevpn.nhrp.link import VPNLink
from dmevpn.nhrp.packet import RequestOrReply
from dmevpn.nhrp.replay import FIELDS, NUMBER_LENGTH, PROOF_LENGTH, Standing
from dmevpn.nhrp.wire import checksum, checksum_holds

__all__ = ["SignedEcho", "signed_echo"]

_BEHIND_CHECKSUM: Final = CHECKSUM + 2


class SignedEcho:
    """A keepalive that was accepted, and its reply. Both end with proof, Authentication and End.

    It is true as long as the VPN has the same stations.

    :ivar authenticator: who has accepted it.
    :param request: the payload, in RFC form.
    :param reply: the packet of the answer, with zeros for checksum, request ID, number and hash.
    :param key: of the request.
    :param width: octets of a protocol address.
    :param standing: between the neighbour and us; None: there are no proofs.
    """

    __slots__ = (
        "_back", "_before", "_behind", "_changes", "_counters", "_front", "_hash", "_header",
        "_key", "_length", "_link", "_number", "_numbered", "_reply_hash", "_request", "_signed",
        "_signer", "_standing", "authenticator",
    )  # fmt: skip

    def __init__(
        self,
        request: bytes,
        reply: bytes,
        link: VPNLink,
        authenticator: KeyedAuthentication,
        key: Key,
        width: int,
        standing: Standing | None,
    ) -> None:
        self.authenticator = authenticator
        self._link = link
        self._changes = link.changes
        self._counters = link.received[PacketType.PURGE_REQUEST], link.sent[PacketType.PURGE_REPLY]
        self._key = key
        self._signer = signer = authenticator.signer
        self._standing = standing
        # Of the number there is nothing without proofs.
        digits = 0 if standing is None else NUMBER_LENGTH
        self._length = len(request)
        self._signed = self._length - len(END)
        self._hash = self._signed - key.size
        self._numbered = self._hash - AUTHENTICATION_LENGTH - width
        self._number = self._numbered - digits
        self._header = request[:RFC_LENGTH]
        self._request = self._constant(request)
        self._front = request[RFC_LENGTH:CHECKSUM_BEGIN] + b"\0\0"
        self._back = key.blank + END
        self._reply_hash = len(reply) - len(END) - signer.size
        number = self._reply_hash - AUTHENTICATION_LENGTH - width - digits
        self._before = reply[:REQUEST_ID]
        self._behind = reply[REQUEST_ID + 4 : number], reply[number + digits :]

    def _constant(self, payload: bytes) -> bytes:
        """What is the same in every keepalive of the client."""
        return b"".join(
            (
                payload[:CHECKSUM_BEGIN],
                payload[CHECKSUM_END:REQUEST_ID_BEGIN],
                payload[REQUEST_ID_END : self._number],
                payload[self._numbered : self._hash],
                payload[self._signed :],
            )
        )

    def matches(self, payload: bytes) -> bool:
        """Whether a payload is the request again, whatever its ID, checksum, number and hash."""
        return len(payload) == self._length and self._constant(payload) == self._request

    def answer(self, payload: bytes, path: Path) -> bytes | None:
        """The reply to a payload that matches, counted like the request.

        :param path: which does not matter.
        :return: None if anything is wrong with it, or the reply may not be true any more: nothing
            has changed then.
        """
        if self._link.changes != self._changes or not checksum_holds(payload[RFC_LENGTH:]):
            return None
        covered = b"".join((self._front, payload[CHECKSUM_END : self._hash], self._back))
        if not hmac.compare_digest(payload[self._hash : self._signed], self._key.hash(covered)):
            return None
        number = b""
        if self._standing is not None:
            if not self._standing.take(payload[self._number : self._numbered]):
                return None
            number = self._standing.next_number()
        received, sent = self._counters
        received.inc()
        sent.inc()
        behind_id, behind_number = self._behind
        plain = b"".join(
            (
                self._before,
                payload[REQUEST_ID_BEGIN:REQUEST_ID_END],
                behind_id,
                number,
                behind_number,
            )
        )
        octets = plain[: self._reply_hash] + self._signer.hash(plain) + END
        total = checksum(octets).to_bytes(2, "big")
        return b"".join((self._header, octets[:CHECKSUM], total, octets[_BEHIND_CHECKSUM:]))


def signed_echo(
    request: RequestOrReply,
    reply: RequestOrReply,
    link: VPNLink,
    path: Path,
    authenticator: KeyedAuthentication,
) -> SignedEcho | None:
    """What is remembered of a request that came in RFC form, and was accepted and answered.

    :param reply: as it was before it was signed.
    :return: None if the one or the other is not as our own clients and servers have it.
    """
    raw, key, width = request.raw, authenticator.key(request.spi), len(request.source_protocol)
    station = next((each.station for each in link.stations if len(each.station) == width), None)
    if key is None or station is None or reply.extensions:
        return None
    guard, signer = authenticator.guard, authenticator.signer
    extensions = int.from_bytes(raw[EXTENSIONS_OFFSET : EXTENSIONS_OFFSET + 2], "big")
    signed = extensions if guard is None else extensions + PROOF_LENGTH
    proof, source = raw[extensions:signed], raw[signed + AUTHENTICATION_LENGTH :][:width]
    if raw[signed:][: -key.size - len(END)] != key.header(width) + source or raw[-4:] != END:
        return None
    standing = None
    if guard is not None:
        standing = guard.standing(path.peer, proof)
        if standing is None:
            return None
        # From us to them now.
        vpn, their_run, our_run = (proof[each] for each in FIELDS)
        proof = b"".join((proof[: FIELDS[0].start], vpn, our_run, their_run, bytes(NUMBER_LENGTH)))
    octets = b"".join((proof, signer.header(width), station, signer.blank, END))
    _, fixed, variable = reply.write(Form.RFC, link.vpn_id, octets)
    return SignedEcho(
        header(Form.RFC, link.vpn_id) + raw,
        fixed[:REQUEST_ID] + bytes(4) + fixed[REQUEST_ID + 4 :] + variable,
        link,
        authenticator,
        key,
        width,
        standing,
    )
