"""What the tests of the configuration share."""

from __future__ import annotations

from dmevpn.config.model import Plan
from dmevpn.config.resolve import Resolution, check

__all__ = ["HUB", "SPOKE", "checked", "errors", "plan", "warnings"]

#: The smallest hub, and the smallest spoke.
HUB = """interface nhrp
interface vx0
    controller nhrp
    vpn-id 1-3
    l2learnonly
    provision
"""
SPOKE = """interface nhrp
interface vx1
    controller nhrp
    vpn-id 1
    default-vni 100 10.0.0.1 register
    provision br1
"""


def checked(text: str) -> Resolution:
    """Check a text as the file ``x.conf``."""
    return check(text, "x.conf", "x")


def plan(text: str) -> Plan:
    """The plan of a text without errors."""
    resolution = checked(text)
    assert resolution.plan is not None, resolution.messages
    return resolution.plan


def errors(text: str) -> list[str]:
    """The errors of a text, without the name of the file."""
    resolution = checked(text)
    assert (resolution.plan is None) == bool(resolution.errors)
    return [str(error).removeprefix("x.conf:") for error in resolution.errors]


def warnings(text: str) -> list[str]:
    """The warnings of a text, without the name of the file."""
    return [str(warning).removeprefix("x.conf:") for warning in checked(text).warnings]
