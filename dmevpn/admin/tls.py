"""Operators over TLS: both sides show a certificate, and check whose the other is. Layer: admin.

Endpoints are ``tls:PORT:key=FILE:certificate=FILE:ca=FILE`` for a daemon, with ``interface=ADDR``
if it is not to listen on all addresses, and ``tls:HOST:PORT:key=FILE:certificate=FILE:ca=FILE`` for
a client. ``ca`` has the certificates of who may sign those of the other side.

Twisted's own check of the name in a server's certificate takes one without subjectAltName for good:
its callback does not expect the exception that service-identity raises then. So names are checked
here when the handshake is complete, on both sides alike, and any exception is a no.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from dmevpn.errors import DmevpnError

__all__ = ["TLSDescription", "client_endpoint", "is_of", "read", "server_endpoint"]

_FILES: Final = ("key", "certificate", "ca")
#: Largest file that is read; chains of certificates are far shorter.
_MAX_SIZE: Final = 1 << 20


class TLSDescription(NamedTuple):
    """An endpoint, taken apart."""

    host: str
    """Where to connect to; of a server the address to listen on, empty for all."""
    port: int
    key: str
    certificate: str
    ca: str


def read(words: list[str], *, server: bool) -> TLSDescription:
    """Take an endpoint description apart.

    :param words: what stands between its colons.
    :raises ValueError: if it is none.
    """
    positional = [word for word in words[1:] if "=" not in word]
    named = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    if server:
        positional.insert(0, named.pop("interface", ""))
    if len(positional) != 2 or not positional[1].isdecimal() or int(positional[1]) > 65535:
        raise ValueError("a port is missing" if server else "host and port are missing")
    if set(named) != set(_FILES):
        raise ValueError(f"{', '.join(_FILES)} are needed, each with its file")
    return TLSDescription(positional[0], int(positional[1]), **named)


def is_of(certificate: Any, name: str) -> bool:
    """Whether a certificate is of a host: its subjectAltName has the DNS name or IP address.

    :param certificate: as pyOpenSSL has it; that it is signed by who may, OpenSSL has checked.
    """
    from service_identity.cryptography import (
        verify_certificate_hostname,
        verify_certificate_ip_address,
    )

    verify = verify_certificate_ip_address if _is_address(name) else verify_certificate_hostname
    try:
        verify(certificate.to_cryptography(), name)
    except Exception:  # whatever it cannot read or does not find: fail closed
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def server_endpoint(reactor: Any, description: TLSDescription) -> Any:
    """Where a daemon listens.

    :raises ValueError: if a file is not what it should be; OSError if it cannot be read.
    """
    from twisted.internet.endpoints import SSL4ServerEndpoint

    certificate, authorities = _load(description)
    return SSL4ServerEndpoint(  # type: ignore[no-untyped-call]
        reactor,
        description.port,
        certificate.options(*authorities),
        interface=description.host,
    )


def client_endpoint(reactor: Any, description: TLSDescription) -> Any:
    """How a client connects; its protocol has to ask :func:`is_of` when the handshake is complete.

    :raises ValueError: if a file is not what it should be; OSError if it cannot be read.
    """
    from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS

    certificate, authorities = _load(description)
    creator = _Creator(certificate.options(*authorities))
    return wrapClientTLS(creator, HostnameEndpoint(reactor, description.host, description.port))


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Makes connections on which OpenSSL checks who has signed, and nobody yet for whom."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        """The state of one connection."""
        from OpenSSL.SSL import Connection

        return Connection(self._options.getContext(), None)


def _load(description: TLSDescription) -> tuple[Any, list[Any]]:
    """Our certificate with its key, and those of the authorities."""
    try:
        from OpenSSL.crypto import Error
        from twisted.internet.ssl import Certificate, PrivateCertificate
    except ImportError:
        raise DmevpnError(
            "TLS needs pyOpenSSL and service-identity: pip install dmevpn[tls]"
        ) from None
    texts = [_read(path) for path in description[2:]]
    _check_private(description.key)
    try:
        own = PrivateCertificate.loadPEM(texts[1] + b"\n" + texts[0])  # type: ignore[no-untyped-call]
    except (Error, ValueError):
        raise ValueError("certificate or key is not PEM, or they do not fit") from None
    end = b"-----END CERTIFICATE-----"
    parts = [part + end for part in texts[2].split(end)[:-1]]
    try:
        authorities = [Certificate.loadPEM(part.lstrip()) for part in parts]
    except (Error, ValueError):
        authorities = []
    if not authorities:
        raise ValueError(f"{description.ca} has no certificate in PEM")
    return own, authorities


def _read(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(_MAX_SIZE)


def _check_private(path: str) -> None:
    mode = os.stat(path).st_mode
    if mode & stat.S_IRWXO:
        raise ValueError(
            f"everybody may use {path} (mode {stat.S_IMODE(mode):04o}): chmod o= {path}"
        )
