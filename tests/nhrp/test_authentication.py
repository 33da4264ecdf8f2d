"""Authentication by Cisco's cleartext secret."""

from __future__ import annotations

from dataclasses import replace

import pytest
from zope.interface.verify import verifyObject

from dmevpn.addresses import Path
from dmevpn.errors import AuthenticationFailure
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.authentication import LONGEST_SECRET, CiscoAuthentication
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    Unknown,
)
from dmevpn.nhrp.packet import ErrorIndication, Packet, RegistrationRequest, decode
from tests.vectors import VECTORS

SECRET = Authentication(1, b"secret")
OTHER = Authentication(1, b"other")
CISCO = CiscoAuthentication(b"secret")

REQUEST = RegistrationRequest(
    source_nbma=bytes(4), source_protocol=bytes(6), destination_protocol=bytes(6)
)
PATH = Path(bytes([192, 0, 2, 10]), bytes([192, 0, 2, 1]))
ERROR = ErrorIndication(
    source_nbma=bytes(4), source_protocol=bytes(6), destination_protocol=bytes(6)
)


def verify(packet: Packet, authenticator: IAuthenticator = CISCO) -> None:
    """Verify a packet that came in plain form."""
    authenticator.verify(packet, Encapsulation(Form.PLAIN, None, 0), PATH)


def test_interface() -> None:
    """It is an authenticator like any other."""
    assert verifyObject(IAuthenticator, CISCO)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (SECRET,)),
        ((ResponderAddress(),), (ResponderAddress(), SECRET)),
        ((ResponderAddress(), NATAddress()), (ResponderAddress(), SECRET, NATAddress())),
        (
            (DeviceCapabilities(1, 0), NATAddress()),
            (SECRET, DeviceCapabilities(1, 0), NATAddress()),
        ),
        ((Unknown(9, False, b"igp."),), (SECRET, Unknown(9, False, b"igp."))),
        ((OTHER, ForwardTransitRecord()), (SECRET, ForwardTransitRecord())),
        ((NATAddress(), OTHER), (NATAddress(), SECRET)),
        ((NATAddress(), SECRET), (NATAddress(), SECRET)),
    ],
    ids=str,
)
def test_sign(before: tuple[Extension, ...], after: tuple[Extension, ...]) -> None:
    """The secret keeps its place; where it had none it goes before type 9 and End."""
    packet = replace(REQUEST, extensions=before)
    signed = decode(CISCO.sign(packet, Form.PLAIN, None, PATH, b""))
    assert signed.extensions == after
    assert packet.extensions == before
    verify(signed)


def test_error_indications_are_not_signed() -> None:
    """RFC 2332 allows no extensions there, and what we send keeps to it."""
    assert CISCO.sign(ERROR, Form.PLAIN, None, PATH, b"") == ERROR.encode()


def test_error_indications_may_come_without() -> None:
    """An Error Indication is read without a secret, but not with a wrong one."""
    verify(ERROR)
    with pytest.raises(AuthenticationFailure):
        verify(replace(ERROR, extensions=(OTHER,)))


@pytest.mark.parametrize(("name", "secret"), [("V05", b"dmevpn42"), ("V14", b"secret")])
def test_accepted_vectors(name: str, secret: bytes) -> None:
    """What Cisco's secret looks like on the wire is accepted."""
    verify(decode(VECTORS[name].octets), CiscoAuthentication(secret))


@pytest.mark.parametrize("name", ["M22", "M23"])
def test_refused_vectors(name: str) -> None:
    """A wrong secret, or none, is answered with the place of the fault."""
    vector = VECTORS[name]
    packet = decode(vector.octets)
    with pytest.raises(AuthenticationFailure) as caught:
        verify(packet, CiscoAuthentication(b"dmevpn42"))
    error = caught.value
    assert (error.counter, error.code, error.offset) == (vector.counter, vector.code, vector.offset)
    assert error.packet is packet


@pytest.mark.parametrize(
    "extension",
    [
        Authentication(1, b""),
        Authentication(1, b"secre"),
        Authentication(1, b"secret\0"),
        Authentication(1, b"Secret"),
        Authentication(2, b"secret"),
        Authentication.of_octets(bytes.fromhex("80070000")),
    ],
    ids=["empty", "shorter", "longer", "case", "another index", "no value"],
)
def test_refused(extension: Authentication) -> None:
    """Nothing but the very secret will do."""
    with pytest.raises(AuthenticationFailure):
        verify(replace(REQUEST, extensions=(extension,)))


def test_reserved_octets_are_ignored() -> None:
    """A neighbour may come to use what is reserved today."""
    octets = b"\x80\x07\x00\x0a\xff\xff\x00\x01secret"
    verify(replace(REQUEST, extensions=(Authentication.of_octets(octets),)))


@pytest.mark.parametrize("length", [0, LONGEST_SECRET + 1])
def test_length_of_a_secret(length: int) -> None:
    """A secret is there, and leaves room for the packet."""
    CiscoAuthentication(bytes(LONGEST_SECRET))
    with pytest.raises(ValueError, match="1 to 64"):
        CiscoAuthentication(bytes(length))
