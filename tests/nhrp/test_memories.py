"""What the codec remembers to be faster: bounded, and never wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path
from dmevpn.metrics import Metrics
from dmevpn.nhrp import encapsulation, extensions, keyed, multihoming, packet, replies
from dmevpn.nhrp.cache import Cache
from dmevpn.nhrp.encapsulation import Form, decapsulate, header
from dmevpn.nhrp.extensions import (
    Authentication,
    Extensions,
    ResponderAddress,
    VendorPrivate,
    decode_extensions,
)
from dmevpn.nhrp.identity import Identity
from dmevpn.nhrp.memories import FORGOTTEN
from dmevpn.nhrp.packet import RegistrationRequest, decode_payload
from dmevpn.nhrp.records import CIE
from dmevpn.nhrp.replies import Replies
from tests.world import World

VPN = VPNID(DEFAULT_OUI, 1)
HOST = bytes.fromhex("020000000001")


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever peers send, so many are remembered; what is not, is read as well."""
    monkeypatch.setattr(extensions, "_known", {})
    monkeypatch.setattr(encapsulation, "_known", {})
    before = extensions.forgotten.value, encapsulation.forgotten.value
    for number in range(2 * extensions._KNOWN_PARTS):
        data = number.to_bytes(4, "big")
        part = b"\x00\x08\x00\x07\x02\x00\x00" + data + b"\x80\x00\x00\x00"
        (found,) = decode_extensions(part, 0, 4)
        assert isinstance(found, VendorPrivate) and bytes(found).endswith(data)
    assert len(extensions._known) <= extensions._KNOWN_PARTS
    for index in range(2 * encapsulation._KNOWN_HEADERS):
        vpn = VPNID(DEFAULT_OUI, index)
        assert decapsulate(header(Form.RFC, vpn) + b"packet", DEFAULT_OUI).vpn_id == vpn
    assert len(encapsulation._known) <= encapsulation._KNOWN_HEADERS
    assert extensions.forgotten.value == before[0] + 1
    assert encapsulation.forgotten.value == before[1] + 1


def request(**parts: Any) -> RegistrationRequest:
    return RegistrationRequest(
        source_nbma=bytes(4), source_protocol=HOST, destination_protocol=HOST, **parts
    )


def test_ends_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that ends each request otherwise is read, and does not fill the memory."""
    monkeypatch.setattr(packet, "_tails", {})
    before = FORGOTTEN["requests"]()
    for number in range(packet._MOST_TAILS + 1):
        sent = request(cies=(CIE(holding_time=number),))
        _, found = decode_payload(sent.encode(Form.RFC, VPN))
        assert isinstance(found, RegistrationRequest)
        assert found.cies[0].holding_time == number
    assert len(packet._tails) == 1
    assert FORGOTTEN["requests"]() == before + 1


def test_signed_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is signed is never the same again, and pushes nothing out."""
    monkeypatch.setattr(packet, "_tails", {})
    monkeypatch.setattr(extensions, "_known", {})
    for part in (Authentication(256, bytes(20)), ResponderAddress()):
        sent = request(cies=(CIE(),), extensions=(part,))
        _, found = decode_payload(sent.encode(Form.RFC, VPN))
        assert found == sent
    assert [found for _, found in packet._tails.values()] == [(ResponderAddress(),)]
    assert list(extensions._known.values()) == [(ResponderAddress(),)]


def test_extensions_of_replies() -> None:
    """Nor is whoever wants ever other extensions back remembered for ever."""
    cache = Cache(Clock(), Metrics())
    answers = Replies(Identity(HOST, mtu=1400), cache)
    before = FORGOTTEN["replies"]()
    for number in range(replies._FILLED + 1):
        own = VendorPrivate.of_octets(number.to_bytes(8, "big"))
        asked = request(extensions=Extensions((own,)))
        assert answers.extensions(asked, Path(bytes(4), bytes(4))) == (own,)
    assert len(answers._filled) == 1
    assert FORGOTTEN["replies"]() == before + 1
    cache.close()


def test_what_is_used_longest_ago() -> None:
    """What is kept of signatures and of lists of hubs makes room one by one."""
    memories: dict[str, tuple[Callable[[bytes], object], int]] = {
        "signatures": (
            lambda octets: keyed._around((VendorPrivate.of_octets(octets),)),
            keyed._KNOWN,
        ),
        "hubs": (multihoming._read, multihoming._KNOWN),
    }
    for memory, (function, most) in memories.items():
        for number in range(2 * most):
            function(number.to_bytes(12, "big"))
        before = FORGOTTEN[memory]()
        function((2 * most).to_bytes(12, "big"))
        assert FORGOTTEN[memory]() == before + 1


def test_counted() -> None:
    """A daemon shows how often that has happened."""
    metrics = World().add_site("10.0.0.2", 100).machine.metrics
    name = "dmevpn_codec_memories_emptied_total"
    shown = {
        dict(each.labels)["memory"]: each.value for each in metrics.snapshot() if each.name == name
    }
    assert shown == {memory: read() for memory, read in FORGOTTEN.items()}
