"""What the codec remembers to be faster: bounded, and never wrong."""

from __future__ import annotations

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.nhrp import encapsulation, extensions
from dmevpn.nhrp.encapsulation import Form, decapsulate, header
from dmevpn.nhrp.extensions import VendorPrivate, decode_extensions
from tests.world import World


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


def test_counted() -> None:
    """A daemon shows how often that has happened."""
    metrics = World().add_site("10.0.0.2", 100).machine.metrics
    for memory, module in (("extensions", extensions), ("headers", encapsulation)):
        shown = metrics.value("codec_memories_emptied", memory=memory)
        assert shown == module.forgotten.value
