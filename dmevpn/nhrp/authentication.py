"""Authentication between neighbours (RFC 2332 §5.3.4). Layer: core.

Checked on receipt and made anew for the next hop; one secret per control interface.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Final

from zope.interface import implementer

from dmevpn.errors import AuthenticationFailure
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.constants import ErrorCode, ExtensionType
from dmevpn.nhrp.extensions import Authentication, Extension
from dmevpn.nhrp.packet import ErrorIndication, Packet

__all__ = ["CLEARTEXT_SPI", "LONGEST_SECRET", "CiscoAuthentication"]

#: Cisco's layout has no source address; read as RFC 2332 has it, its constant 1 is the SPI.
CLEARTEXT_SPI: Final = 1

#: Octets of a cleartext secret. Other daemons take eight; more is for our own among themselves,
#: and a bound keeps room in the packet.
LONGEST_SECRET: Final = 64


@implementer(IAuthenticator)
class CiscoAuthentication:
    """The secret itself in every packet, as Cisco, OpenNHRP and FRR have it.

    It guards against mistakes, not against attackers, who can read it on the wire.

    :param secret: 1 to 64 octets.
    :raises ValueError: if it has another length.
    """

    def __init__(self, secret: bytes) -> None:
        if not 1 <= len(secret) <= LONGEST_SECRET:
            raise ValueError(f"a secret has 1 to {LONGEST_SECRET} octets")
        self._extension = Authentication(CLEARTEXT_SPI, secret)

    def sign(self, packet: Packet) -> Packet:
        """The packet with our secret instead of another one, or before type 9 and End.

        Error Indications stay as they are, RFC 2332 §5.2.7 allows no extensions there.
        """
        if isinstance(packet, ErrorIndication):
            return packet
        present = packet.extension(Authentication)
        if present == self._extension:
            return packet
        extensions = list(packet.extensions)
        if present is not None:
            extensions[extensions.index(present)] = self._extension
        else:
            extensions.insert(_place(extensions), self._extension)
        return replace(packet, extensions=tuple(extensions))

    def verify(self, packet: Packet) -> None:
        """Accept the packet if it has our secret.

        An Error Indication may lack it: it means something only to who has an unanswered request
        that it names, and RFC 2332 forbids its sender to add one.

        :raises AuthenticationFailure: if the secret is absent or another.
        """
        present = packet.extension(Authentication)
        if present is None:
            if isinstance(packet, ErrorIndication):
                return
            offset = 0
        else:
            # The two reserved octets before the SPI are not compared.
            if hmac.compare_digest(present.octets[6:], self._extension.octets[6:]):
                return
            offset = packet.extension_offset(present)
        raise AuthenticationFailure(
            "authentication_failure",
            code=ErrorCode.AUTHENTICATION_FAILURE,
            offset=offset,
            packet=packet,
        )


def _place(extensions: list[Extension]) -> int:
    """Where an Authentication extension goes that has no place yet."""
    for index, extension in enumerate(extensions):
        if extension.type == ExtensionType.NAT_ADDRESS:
            return index
    return len(extensions)
