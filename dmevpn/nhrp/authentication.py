"""Authentication between neighbours (RFC 2332 §5.3.4): where it stands, and the cleartext way.

Layer: core. It is checked on receipt and made anew for the next hop. The other way, a keyed hash,
is in :mod:`~dmevpn.nhrp.keyed`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from zope.interface import implementer

from dmevpn.addresses import VPNID, Path
from dmevpn.errors import AuthenticationFailure
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.constants import ErrorCode, ExtensionType
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.extensions import CLEARTEXT_SPI, Authentication, Extension
from dmevpn.nhrp.packet import ErrorIndication, Packet

__all__ = [
    "LONGEST_SECRET",
    "CiscoAuthentication",
    "failure",
]

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

    def sign(
        self, packet: Packet, form: Form, vpn_id: VPNID | None, path: Path, station: bytes
    ) -> bytes:
        """The payload with our secret instead of another one, or before type 9 and End.

        Error Indications stay as they are, RFC 2332 §5.2.7 allows no extensions there.
        """
        present = packet.extension(Authentication)
        if present != self._extension and not isinstance(packet, ErrorIndication):
            extensions = _with_authentication(packet.extensions, self._extension)
            packet = replace(packet, extensions=tuple(extensions))
        return packet.encode(form, vpn_id)

    def verify(self, packet: Packet, encapsulation: Encapsulation, path: Path) -> None:
        """Accept the packet if it has our secret.

        An Error Indication may lack it: it means something only to who has an unanswered request
        that it names, and RFC 2332 forbids its sender to add one.

        :raises AuthenticationFailure: if the secret is absent or another.
        """
        present = packet.extension(Authentication)
        if present is None and isinstance(packet, ErrorIndication):
            return
        # The two reserved octets before the SPI are not compared.
        if present is None or not hmac.compare_digest(present[6:], self._extension[6:]):
            raise failure(packet, present)
        packet.spi = CLEARTEXT_SPI


def _with_authentication(
    extensions: Iterable[Extension], authentication: Authentication
) -> list[Extension]:
    """Extensions with another Authentication in the place of the one among them.

    If there is none among them, it comes before those of type 9, or last.
    """
    changed = list(extensions)
    for index, extension in enumerate(changed):
        if type(extension) is Authentication:
            changed[index] = authentication
            return changed
    for index, extension in enumerate(changed):
        if extension.type == ExtensionType.NAT_ADDRESS:
            changed.insert(index, authentication)
            return changed
    changed.append(authentication)
    return changed


def failure(
    packet: Packet, at: Extension | None, counter: str = "authentication_failure"
) -> AuthenticationFailure:
    """What to raise about a packet; the Error Indication points at an extension of it, if any."""
    return AuthenticationFailure(
        counter,
        code=ErrorCode.AUTHENTICATION_FAILURE,
        offset=0 if at is None else packet.extension_offset(at),
        packet=packet,
    )
