"""What several stories have in common: looking at our daemons, and pings from site to site."""

from __future__ import annotations

from typing import Any

from dmevpn.nhrp.packet import Packet
from interop.report import Report
from interop.stage import Passage, Stage, host, nbma, protocol
from lab.daemons import Daemon
from lab.wait import eventually

__all__ = ["HOLDING_TIME", "bindings", "count", "go_direct", "is_bound", "take_detour"]

#: Seconds; short, so that a run sees renewals and an end. FRR renews at a third, as we do.
HOLDING_TIME = 30


def bindings(daemon: Daemon, kind: str) -> dict[str, str]:
    """The underlay addresses of our bindings of a kind, by protocol address."""
    rows: list[dict[str, Any]] = daemon.ctl.rows("cache", "show", "type", kind)
    return {row["protocol"]: row["nbma"] for row in rows}


def is_bound(hub: Daemon, number: int) -> bool:
    """Whether a site is registered with our hub, from where it is."""
    return bindings(hub, "dynamic").get(protocol(number)) == nbma(number)


def take_detour(stage: Stage, report: Report) -> None:
    """Let site 2 speak to site 3 by way of the hub, which is to report that."""
    passage = stage.ping(2, 3, host(3))
    assert passage.answered and passage.detoured, f"no way by the hub: {passage}"
    report.show("the first pings from site 2 to site 3", passage)


def go_direct(stage: Stage, report: Report) -> None:
    """Let site 2 speak to site 3 by shortcuts.

    :raises lab.wait.Timeout: some packets still take the detour, or are lost.
    """

    def direct() -> Passage | None:
        passage = stage.ping(2, 3, host(3))
        return None if passage.detoured or passage.answered < passage.sent else passage

    report.show("pings by the shortcuts", eventually("direct way", direct, interval=0.5))


def count(stage: Stage, report: Report, what: str, packet_class: type[Packet], number: int) -> None:
    """Show how many messages of a type a machine has sent; none is a failure."""
    messages = stage.wiretap.of(packet_class, nbma(number))
    assert messages, f"machine {number} sent no {packet_class.__name__}"
    report.show(what, f"{len(messages)} times")
