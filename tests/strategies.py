"""Hypothesis strategies of valid values: addresses, CIEs, extensions, packets."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dmevpn.addresses import VNI_MAX, VPNID
from dmevpn.nhrp.constants import ExtensionType, ProtocolType
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.extensions import (
    Authentication,
    DeviceCapabilities,
    Extension,
    ForwardTransitRecord,
    NATAddress,
    ResponderAddress,
    ReverseTransitRecord,
    Unknown,
    VendorPrivate,
)
from dmevpn.nhrp.packet import (
    ErrorIndication,
    Packet,
    PurgeReply,
    PurgeRequest,
    RegistrationReply,
    RegistrationRequest,
    RequestOrReply,
    ResolutionReply,
    ResolutionRequest,
    TrafficIndication,
)
from dmevpn.nhrp.records import CIE

__all__ = [
    "cies",
    "encapsulations",
    "extension_lists",
    "ipv4s",
    "ipv6s",
    "macs",
    "octets_of",
    "packets",
    "station_macs",
    "vnis",
    "vpn_ids",
]

macs = st.binary(min_size=6, max_size=6)
ipv4s = st.binary(min_size=4, max_size=4)
ipv6s = st.binary(min_size=16, max_size=16)

#: MACs that can name one station.
station_macs = macs.map(lambda mac: bytes([mac[0] & 0xFE]) + mac[1:]).filter(any)

vnis = st.integers(1, VNI_MAX)
vpn_ids = st.builds(
    VPNID, st.binary(min_size=3, max_size=3), st.integers(min_value=1, max_value=0xFFFFFFFF)
)

_octet = st.integers(0, 0xFF)
_word = st.integers(0, 0xFFFF)
_long = st.integers(0, 0xFFFFFFFF)

_WIDTHS = {
    ProtocolType.IPV4: 4,
    ProtocolType.IPV6: 16,
    ProtocolType.MAC: 6,
    ProtocolType.BRIDGED: 6,
}

_KNOWN_EXTENSIONS = {int(each) for each in ExtensionType}


def octets_of(*lengths: int) -> st.SearchStrategy[bytes]:
    """Octet strings of one of these lengths."""
    return st.one_of([st.binary(min_size=length, max_size=length) for length in lengths])


def cies(nbma_length: int, protocol_length: int) -> st.SearchStrategy[CIE]:
    """CIEs for packets with addresses of these lengths."""
    return st.builds(
        CIE,
        code=_octet,
        prefix_length=_octet,
        unused=_word,
        mtu=_word,
        holding_time=_word,
        nbma=octets_of(0, nbma_length),
        subaddress=st.binary(max_size=8),
        protocol=octets_of(0, protocol_length),
        preference=_octet,
    )


@st.composite
def extension_lists(draw: st.DrawFn, nbma_length: int) -> tuple[Extension, ...]:
    """Extensions that may stand in one packet, in any order."""
    # Any length of protocol address is good in an extension.
    records = st.lists(cies(nbma_length, draw(st.integers(0, 20))), max_size=3)
    drawn: list[Extension] = [
        draw(each)
        for each in (
            st.builds(ResponderAddress, records),
            st.builds(ForwardTransitRecord, records),
            st.builds(ReverseTransitRecord, records),
            st.builds(NATAddress, records),
            st.builds(DeviceCapabilities, _long, _long),
            st.builds(Authentication, _word, st.binary(max_size=32)),
            st.builds(Unknown, st.just(9), st.booleans(), octets_of(4)),
            st.builds(Unknown, st.just(9), st.booleans(), octets_of(1, 2, 7, 11)),
        )
        if draw(st.booleans())
    ]
    numbers = st.integers(1, 0x3FFF).filter(lambda number: number not in _KNOWN_EXTENSIONS)
    for number in draw(st.sets(numbers, max_size=3)):
        drawn.append(Unknown(number, draw(st.booleans()), draw(st.binary(max_size=20))))
    vendor = st.builds(VendorPrivate, octets_of(3), st.binary(max_size=20))
    drawn += draw(st.lists(vendor, max_size=3))
    return tuple(draw(st.permutations(drawn)))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Packets of every type over either underlay about every kind of address."""
    packet_class: Any = draw(
        st.sampled_from(
            [
                ResolutionRequest,
                ResolutionReply,
                RegistrationRequest,
                RegistrationReply,
                PurgeRequest,
                PurgeReply,
                ErrorIndication,
                TrafficIndication,
            ]
        )
    )
    protocol_type = draw(st.sampled_from(sorted(_WIDTHS)))
    width = _WIDTHS[ProtocolType(protocol_type)]
    nbma = draw(octets_of(4, 16))
    protocols = octets_of(0, width) if packet_class is ErrorIndication else octets_of(width)
    fields: dict[str, Any] = {
        "source_nbma": nbma,
        "source_subaddress": draw(st.binary(max_size=8)),
        "source_protocol": draw(protocols),
        "destination_protocol": draw(protocols),
        "protocol_type": int(protocol_type),
        "snap": draw(octets_of(5)),
        "hop_count": draw(_octet),
        "extensions": draw(extension_lists(len(nbma))),
    }
    if not fields["extensions"]:
        fields["bare_end"] = draw(st.booleans())
    if issubclass(packet_class, RequestOrReply):
        records = draw(st.lists(cies(len(nbma), width), max_size=4))
        fields.update(flags=draw(_word), request_id=draw(_long), cies=tuple(records))
    elif packet_class is ErrorIndication:
        fields.update(code=draw(_word), offset=draw(_word), unused=draw(_word))
        fields.update(contents=draw(st.binary(max_size=100)))
    else:
        fields.update(code=draw(_word), unused=(draw(_word), draw(_word)))
        fields.update(contents=draw(st.binary(max_size=100)))
    packet: Packet = packet_class(**fields)
    return packet


@st.composite
def encapsulations(draw: st.DrawFn) -> tuple[Form, VPNID | None]:
    """A form and what VPN it names."""
    form = draw(st.sampled_from(Form))
    return form, None if form is Form.PLAIN else draw(vpn_ids)
