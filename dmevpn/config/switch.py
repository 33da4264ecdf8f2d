"""What a hub's switch lets sites do: `mac-limit`, `flood-rate`, `sticky`... Layer: core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from dmevpn.config.model import (
    DEFAULT_LOOP_PROBE,
    InterfaceConfig,
    MACLimitPlan,
    Statement,
    StickyPlan,
    SwitchPlan,
)
from dmevpn.config.statements import Findings, every, last, value
from dmevpn.interfaces import Sticky, VPNRules

__all__ = ["STICKY_LINES", "rules", "switch"]

#: Lines of ``sticky`` that one VPN may have: the switch has room for as many in 4,096 VPNs.
STICKY_LINES: Final = 16
_DEFAULT: Final = VPNRules()


def switch(
    found: Findings, block: InterfaceConfig, served: Sequence[tuple[int, int]]
) -> SwitchPlan:
    """What the block of a hub's data interface says about it.

    :param served: the VPNs of the hub.
    """
    said = block.statements
    for statement in (*every(said, "mac-limit"), *every(said, "sticky")):
        low, high = cast("tuple[int, int]", statement.arguments[0])
        if not any(first <= high and low <= final for first, final in served):
            message = "this hub serves no such VPN: the line says nothing"
            found.warn(statement, statement.words[1], message)
    flood, moves = last(said, "flood-rate"), last(said, "duplicate-mac")
    rate, burst = (
        (_DEFAULT.flood_rate, _DEFAULT.flood_burst) if flood is None else _flood_rate(flood)
    )
    most, seconds = (_DEFAULT.moves, None) if moves is None else moves.arguments
    return SwitchPlan(
        mac_limits=tuple(_limit(found, each) for each in every(said, "mac-limit")),
        flood_rate=rate,
        flood_burst=burst,
        moves=cast(int, most),
        moves_seconds=cast("int | None", seconds) or _DEFAULT.moves_seconds,
        sticky=_sticky(found, every(said, "sticky")),
        loop_probe=value(said, "loop-probe", DEFAULT_LOOP_PROBE),
    )


def rules(plan: SwitchPlan, vpn: int) -> VPNRules:
    """What holds in a VPN."""
    limit = next((each for each in reversed(plan.mac_limits) if _names(each, vpn)), None)
    macs, per_site = _DEFAULT.mac_limit, _DEFAULT.site_limit
    if limit is not None:
        macs = limit.macs
        per_site = max(macs // 2, 1) if limit.per_site is None else limit.per_site
    return VPNRules(
        mac_limit=macs,
        site_limit=per_site,
        flood_rate=plan.flood_rate,
        flood_burst=plan.flood_burst,
        moves=plan.moves,
        moves_seconds=plan.moves_seconds,
        sticky=tuple(
            Sticky(each.mac, each.prefix_length, each.nbma)
            for each in plan.sticky
            if _names(each, vpn)
        ),
    )


def _names(plan: MACLimitPlan | StickyPlan, vpn: int) -> bool:
    return plan.vpns[0] <= vpn <= plan.vpns[1]


def _flood_rate(statement: Statement) -> tuple[int, int]:
    rate, burst = cast("tuple[int, int | None]", statement.arguments)
    return rate, 2 * rate if burst is None else burst


def _limit(found: Findings, statement: Statement) -> MACLimitPlan:
    vpns, macs, per_site = cast("tuple[tuple[int, int], int, int | None]", statement.arguments)
    if per_site is not None and per_site > macs:
        message = f"one site cannot have more than all of them: at most {macs}"
        found.error(statement, str(per_site), message)
    return MACLimitPlan(vpns=vpns, macs=macs, per_site=per_site)


def _sticky(found: Findings, statements: Sequence[Statement]) -> tuple[StickyPlan, ...]:
    plans: list[StickyPlan] = []
    for statement in statements:
        vpns, (mac, bits), nbma = cast(
            "tuple[tuple[int, int], tuple[bytes, int], bytes | None]", statement.arguments
        )
        overlapping = [p for p in plans if p.vpns[0] <= vpns[1] and vpns[0] <= p.vpns[1]]
        if len(overlapping) >= STICKY_LINES:
            message = f"a VPN has at most {STICKY_LINES} such lines"
            found.error(statement, statement.words[0], message)
        elif any((mac, bits) == (p.mac, p.prefix_length) for p in overlapping):
            message = "an earlier line is about the same MACs and VPN"
            found.error(statement, statement.words[2], message)
        else:
            plans.append(StickyPlan(vpns=vpns, mac=mac, prefix_length=bits, nbma=nbma or b""))
    return tuple(plans)
