"""What may be found wrong with devices and tables. Layer: base."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHECKS", "Finding"]


#: What may be found wrong.
CHECKS = (
    "device",
    "mtu",
    "port",
    "kernel",
    "hub",
    "secret",
    "vni",
    "allowed",
    "entries",
    "mac",
    "clock",
    "room",
    "loop",
    "flood",
)


class Finding(NamedTuple):
    """Something that is wrong, or soon will be."""

    check: str
    """One of :data:`CHECKS`."""
    subject: str
    """The interface, address or VPN that it is about."""
    problem: str
    cure: str
