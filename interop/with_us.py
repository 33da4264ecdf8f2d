"""Our hub with our spokes, where Purge Requests are understood."""

from __future__ import annotations

from functools import partial

from dmevpn.nhrp.packet import ResolutionReply, TrafficIndication
from interop.report import Report
from interop.stage import HUB, Stage, lan, nbma, protocol
from interop.steps import HOLDING_TIME, bindings, count, go_direct, is_bound, take_detour

__all__ = ["all_ours"]

#: Seconds that a purge may take: one that waits for holding times to end takes longer.
AT_ONCE = 10.0


def all_ours(stage: Stage, report: Report) -> None:
    """Our hub with our spokes"""
    times = f"holding-time {HOLDING_TIME}"
    hub = stage.add_ours(HUB, times, "redirect", device=True)
    sites = {}
    for number in (2, 3):
        server = f"map {protocol(HUB)} {nbma(HUB)} register"
        target = f"shortcut-target {lan(number)}"
        sites[number] = stage.add_ours(number, server, times, target, "shortcut", device=True)
        stage.route(number, "192.168.0.0/16", HUB)
        stage.route(HUB, lan(number), number)
        report.wait(f"our hub has our site {number}", partial(is_bound, hub, number))
    take_detour(stage, report)
    count(stage, report, "our hub reported the detour", TrafficIndication, HUB)

    def has_way() -> bool:
        return nbma(3) in bindings(sites[2], "cached").values()

    report.wait("our site 2 has the way to site 3", has_way)
    count(stage, report, "resolutions that site 3 answered", ResolutionReply, 3)
    go_direct(stage, report)
    sites[3].stop()
    report.wait(
        "our hub forgot site 3, which stopped and purged",
        lambda: not is_bound(hub, 3),
        timeout=AT_ONCE,
    )
    report.wait("so did our site 2", lambda: not has_way(), timeout=AT_ONCE)
