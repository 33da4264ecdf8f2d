"""What the codec remembers to be faster: bounded, and never wrong."""

from __future__ import annotations

import pytest

from dmevpn.addresses import DEFAULT_OUI, VPNID
from dmevpn.nhrp import encapsulation, extensions
from dmevpn.nhrp.encapsulation import Form, decapsulate, header
from dmevpn.nhrp.extensions import VendorPrivate, decode_extensions


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever peers send, so many are remembered; what is not, is read as well."""
    monkeypatch.setattr(extensions, "_known", {})
    monkeypatch.setattr(encapsulation, "_known", {})
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
