"""Who has a budget of its own at the transport."""

from __future__ import annotations

from dmevpn.nhrp.known import KnownPeers
from tests.nhrp.neighbours import Transport

A, B, C = b"aaaa", b"bbbb", b"cccc"


def test_reasons() -> None:
    """A peer is known as long as there is a reason, and the transport is told once."""
    transport = Transport()
    known = KnownPeers(transport)
    known.claim("one", (A, B))
    known.claim("two", (B, C, C))
    assert transport.known == {A, B, C}
    known.claim("one", (B,))
    assert transport.known == {B, C}
    known.claim("two", ())
    assert transport.known == {B}
    known.claim("one", ())
    known.claim("never", ())
    assert transport.known == set()
    assert len(known) == 0 and not known._claims
