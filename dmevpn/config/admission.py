"""Who may register with a hub and ask it: ``permit``, ``members-only``. Layer: core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dmevpn.config.model import AdmissionPlan, InterfaceConfig, PermitPlan, Statement
from dmevpn.config.statements import Findings, every, value

__all__ = ["admission"]


def admission(
    found: Findings, block: InterfaceConfig, served: Sequence[tuple[int, int]]
) -> AdmissionPlan:
    """What the block of a hub's data interface says about it.

    :param served: the VPNs of the hub.
    """
    permits = []
    for statement in every(block.statements, "permit"):
        permit = _permit(statement)
        low, high = permit.vpns
        if not any(first <= high and low <= last for first, last in served):
            message = "this hub serves no such VPN: the line permits nothing"
            found.warn(statement, statement.words[1], message)
        permits.append(permit)
    return AdmissionPlan(
        permits=tuple(permits),
        members_only=value(block.statements, "members-only", bool(permits)),
    )


def _permit(statement: Statement) -> PermitPlan:
    vpns, nbma = cast("tuple[tuple[int, int], tuple[bytes, int] | None]", statement.arguments)
    said = {option.keyword: option.arguments[0] for option in statement.options}
    return PermitPlan(
        vpns=vpns,
        nbma=nbma,
        vnis=cast("tuple[int, int] | None", said.get("vni")),
        spi=cast("int | None", said.get("spi")),
    )
