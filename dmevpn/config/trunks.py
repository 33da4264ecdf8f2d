"""The other hubs of a hub's VPNs: ``other-hub``. Layer: core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from dmevpn.addresses import VNI_MAX, format_address
from dmevpn.config.arguments import ANY_VPN
from dmevpn.config.model import InterfaceConfig, Statement, TrunkPlan
from dmevpn.config.statements import Findings, every

__all__ = ["MAX_HUBS", "trunks"]

#: Other hubs of one interface. Each frame that is flooded costs a copy for every one of them, and
#: the switch has room for twice as many, so that a reload may exchange all.
MAX_HUBS: Final = 32


def trunks(
    found: Findings, block: InterfaceConfig, served: Sequence[tuple[int, int]]
) -> tuple[TrunkPlan, ...]:
    """What the block of a hub's data interface says about other hubs.

    :param served: the VPNs of the hub.
    """
    plans: list[TrunkPlan] = []
    for statement in every(block.statements, "other-hub"):
        plan = _trunk(statement)
        problem = _problem(plan, served) or next(filter(None, (_clash(plan, p) for p in plans)), "")
        if problem:
            found.error(statement, statement.words[1], problem)
            continue
        if plan.vpns is not None and not any(_meet(plan.vpns, each) for each in served):
            message = "this hub serves no such VPN: the line has no effect"
            found.warn(statement, statement.words[1], message)
        plans.append(plan)
        if len({each.address for each in plans}) > MAX_HUBS:
            found.error(statement, statement.words[1], f"more than {MAX_HUBS} other hubs")
            break
    return tuple(plans)


def _trunk(statement: Statement) -> TrunkPlan:
    (address,) = cast("tuple[bytes]", statement.arguments)
    said = {option.keyword: option.arguments[0] for option in statement.options}
    return TrunkPlan(
        address=address,
        vpns=cast("tuple[int, int] | None", said.get("vpn")),
        vni=cast("int | None", said.get("vni")),
    )


def _problem(plan: TrunkPlan, served: Sequence[tuple[int, int]]) -> str:
    """What is wrong with a line alone; empty if nothing is."""
    ranges = served if plan.vpns is None else [plan.vpns]
    if plan.vni is None:
        if plan.vpns is not None and plan.vpns[0] > VNI_MAX:
            return "say `vni`: the VPN's index is larger than a VNI can be"
        return ""
    if len(ranges) != 1 or ranges[0] == ANY_VPN:
        return "say `vpn`: the VNI is that of the first VPN, and the others' follow"
    first, last = ranges[0]
    if plan.vni + last - first > VNI_MAX:
        return "there are not as many VNIs from there on as there are VPNs"
    return ""


def _clash(plan: TrunkPlan, other: TrunkPlan) -> str:
    """What two lines about one hub disagree about; empty if nothing."""
    if plan.address != other.address:
        return ""
    hub = format_address(plan.address)
    if plan.vpns is None or other.vpns is None or _meet(plan.vpns, other.vpns):
        return f"{hub} is a hub of one of these VPNs already"
    if _meet(_vnis(plan), _vnis(other)):
        return f"{hub} has one of these VNIs in another VPN already"
    return ""


def _vnis(plan: TrunkPlan) -> tuple[int, int]:
    assert plan.vpns is not None
    first, last = plan.vpns
    begin = first if plan.vni is None else plan.vni
    return begin, begin + last - first


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges have a number in common."""
    return one[0] <= other[1] and other[0] <= one[1]
