"""FRR's nhrpd with itself, with our hub, and with our spoke."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dmevpn.nhrp.packet import PurgeReply, PurgeRequest, ResolutionReply, TrafficIndication
from interop.frr import FRR
from interop.report import Report
from interop.stage import HUB, Stage, host, lan, nbma, protocol
from interop.steps import HOLDING_TIME, bindings, count, go_direct, is_bound, take_detour

__all__ = ["frr_alone", "frr_hub", "our_hub"]

SPOKE = (
    f"ip nhrp nhs dynamic nbma {nbma(HUB)}",
    "ip nhrp registration no-unique",
    f"ip nhrp holdtime {HOLDING_TIME}",
    "ip nhrp shortcut",
)


def frr_alone(stage: Stage, report: Report) -> None:
    """FRR with FRR, which shows that the guest is sound"""
    hub = _add_frr_hub(stage)
    sites = [_add_frr_site(stage, number) for number in (2, 3)]
    for number in (2, 3):
        stage.route(HUB, lan(number), number)
    _await_registrations(report, hub, (2, 3))
    take_detour(stage, report)
    _await_shortcuts(report, sites, (lan(3), f"{protocol(2)}/32"))
    go_direct(stage, report)


def our_hub(stage: Stage, report: Report, *, device: bool) -> None:
    """Our hub with FRR's spokes"""
    words = [f"holding-time {HOLDING_TIME}", *(["redirect"] if device else [])]
    hub = stage.add_ours(HUB, *words, device=device)
    sites = [_add_frr_site(stage, number) for number in (2, 3)]
    for number, site in zip((2, 3), sites, strict=True):
        report.wait(
            f"our hub has FRR's site {number}",
            partial(is_bound, hub, number),
        )
        report.wait(
            f"FRR's site {number} has our hub for its NHS",
            partial(site.binding, protocol(HUB), "nhs"),
        )
    if device:
        for number in (2, 3):
            stage.route(HUB, lan(number), number)
        take_detour(stage, report)
        count(stage, report, "our hub reported the detour", TrafficIndication, HUB)
        _await_shortcuts(report, sites, (lan(3), f"{protocol(2)}/32"))
        go_direct(stage, report)
    else:
        stage.indicate(HUB, 2, protocol(3))
        stage.indicate(HUB, 3, protocol(2))
        _await_shortcuts(report, sites, (f"{protocol(3)}/32", f"{protocol(2)}/32"))
        report.show("pings between FRR's sites", stage.ping(2, 3, protocol(3)))
    count(
        stage,
        report,
        "Resolution Replies from our hub, of its own or passed on",
        ResolutionReply,
        HUB,
    )
    hub.ctl.text("cache", "purge", "nbma", nbma(2))
    report.wait("our hub has FRR's site 2 again", partial(is_bound, hub, 2))
    _leave_unanswered(stage, report, HUB, 2)
    sites[1].stop()
    report.wait(
        "our hub forgot FRR's site 3, which stopped without a word",
        lambda: not is_bound(hub, 3),
        timeout=2 * HOLDING_TIME,
    )


def frr_hub(stage: Stage, report: Report, *, device: bool) -> None:
    """FRR's hub with our spoke and one of FRR's"""
    hub = _add_frr_hub(stage)
    ours = stage.add_ours(
        2,
        f"map {protocol(HUB)} {nbma(HUB)} register",
        f"holding-time {HOLDING_TIME}",
        f"shortcut-target {lan(2)}",
        "shortcut",
        device=device,
    )
    theirs = _add_frr_site(stage, 3)
    for number in (2, 3):
        stage.route(HUB, lan(number), number)
    _await_registrations(report, hub, (2, 3))
    (registration,) = ours.ctl.rows("registration", "show")
    report.show("our state at FRR's hub", registration["state"])
    if device:
        stage.route(2, "192.168.0.0/16", HUB)
        take_detour(stage, report)
    else:
        ours.ctl.text("cache", "resolve", host(3))
    report.wait(
        "we have the way to FRR's site 3", lambda: nbma(3) in bindings(ours, "cached").values()
    )
    told = bindings(ours, "cached")
    report.show("what we were told", ", ".join(f"{each} at {told[each]}" for each in told))
    # FRR's hub reports to site 3 that its packets to us leave as they came.
    stage.ping(3, 2, host(2))
    _await_shortcuts(report, [theirs], [lan(2)])
    count(stage, report, "resolutions that we answered", ResolutionReply, 2)
    if device:
        go_direct(stage, report)
    ours.stop()
    _leave_unanswered(stage, report, 2, HUB)


# --- FRR ------------------------------------------------------------------------------------------


def _add_frr_hub(stage: Stage) -> FRR:
    words = ("ip nhrp redirect", f"ip nhrp holdtime {HOLDING_TIME}")
    hub = stage.add_frr(HUB, *words, options="nhrp nflog-group 1\n")
    stage.report_detours(HUB)
    return hub


def _add_frr_site(stage: Stage, number: int) -> FRR:
    site = stage.add_frr(number, *SPOKE)
    stage.route(number, "10.255.255.0/24", HUB)
    stage.route(number, "192.168.0.0/16", HUB)
    return site


def _await_registrations(report: Report, hub: FRR, numbers: Sequence[int]) -> None:
    for number in numbers:
        report.wait(
            f"FRR's hub has site {number}",
            partial(hub.binding, protocol(number), "dynamic"),
        )


def _await_shortcuts(report: Report, sites: Sequence[FRR], networks: Sequence[str]) -> None:
    for site, network in zip(sites, networks, strict=True):
        report.wait(f"FRR has a shortcut to {network}", partial(site.shortcut, network))


def _leave_unanswered(stage: Stage, report: Report, sender: int, receiver: int) -> None:
    """FRR has no handler for Purge Requests: we send them and live with silence."""
    requests = stage.wiretap.of(PurgeRequest, nbma(sender))
    replies = stage.wiretap.of(PurgeReply, nbma(receiver))
    assert requests and not replies, f"{len(requests)} Purge Requests, {len(replies)} replies"
    report.show("Purge Requests to FRR, which knows none", f"{len(requests)}, unanswered")
