"""Clients come back neither too soon nor all at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.registration_pauses import Pauses


@pytest.mark.parametrize(
    ("pause", "shortest", "longest"),
    [
        (lambda pauses: pauses.before_renewal(7200), 2160, 2400),
        (lambda pauses: pauses.before_renewal(12), 9, 10),
        (lambda pauses: pauses.after_revocation(), 0, 2),
        (lambda pauses: pauses.after_leaving(), 0, 0.5),
        (lambda pauses: pauses.after_refusal(), 30, 90),
        (lambda pauses: pauses.after_error(ErrorCode.UNREACHABLE), 60, 180),
        (lambda pauses: pauses.after_error(ErrorCode.VPN_UNSUPPORTED), 600, 600),
    ],
    ids=["renewal", "short life", "revocation", "leaving", "refusal", "error", "no such VPN"],
)
def test_chance_has_its_bounds(
    pause: Callable[[Pauses], float], shortest: float, longest: float
) -> None:
    """The pauses that docs/state-machines.md promises, at one end and at the other."""
    ends = sorted(pause(Pauses(lambda end=end: end)) for end in (0.0, 1.0))  # type: ignore[misc]
    assert ends == [shortest, longest]


def test_a_vpn_that_was_served() -> None:
    """Whoever was served before asks soon, but ever more seldom until it is served again."""
    pauses = Pauses(lambda: 1.0)
    for _ in range(2):
        pauses.served()
        asked = [pauses.after_error(ErrorCode.VPN_UNSUPPORTED) for _ in range(8)]
        assert asked == pytest.approx([1.8, 3.6, 7.2, 14.4, 28.8, 57.6, 600, 600])
