"""What the keepalives of a thousand sites cost their hub.

They come one by one, at the recommended rate: each wakes the hub's process by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.hub import Hub, hubs, register_all
from benchmarks.load import client
from benchmarks.report import Progress, Report
from dmevpn.nhrp.constants import PacketType
from dmevpn.nhrp.packet import RequestOrReply
from lab.requests import Requester

__all__ = ["INTERVAL", "SITES", "run"]

SITES = 1_000
#: Seconds between the keepalives of a site: `keepalive 600`, as docs/servers.md recommends.
INTERVAL = 0.6
#: Seconds of a repetition.
SECONDS = 2.0
REPETITIONS = 5


def run(report: Report, progress: Progress) -> None:
    """With and without a keyed hash."""
    section = f"Keepalives of {SITES:,} sites, {INTERVAL * 1000:.0f} ms apart"
    rate = SITES / INTERVAL
    with hubs("memory", ["", "thirty-two octets of a fixed key"]) as (plain, keyed):
        for hub in (plain, keyed):
            register_all(hub, SITES, lambda text: progress.say(f"{section}: {text}"))
        for hub, word in ((plain, "not signed"), (keyed, "signed")):
            costs = []
            for repetition in range(REPETITIONS + 1):
                progress.say(f"{section}: {word}, {repetition} of {REPETITIONS}")
                costs.append(measure(hub, rate, repetition))
            report.add(section, f"CPU time of a keepalive, {word}", costs[1:], "us")
            shares = [each * rate / 1e6 * 100 for each in costs[1:]]
            limit = 10.0 if hub is plain else 12.0
            report.add(section, f"share of one CPU, {word}", shares, "%", at_most=limit)
        progress.say(f"{section}: registrations, to compare")
        renewals = [
            measure(plain, rate, repetition, Requester.registration, PacketType.REGISTRATION_REPLY)
            for repetition in range(REPETITIONS + 1, 2 * REPETITIONS + 1)
        ]
        report.add(section, "CPU time of a registration at that rate", renewals, "us")


def measure(
    hub: Hub,
    rate: float,
    repetition: int,
    make: Callable[[Requester, int], RequestOrReply] = Requester.keepalive,
    reply_type: PacketType = PacketType.PURGE_REPLY,
) -> float:
    """CPU microseconds that each request costs."""
    count = round(rate * SECONDS)
    packets = []
    for number in range(count):
        who = client(number % SITES)
        packets.append(hub.load.packet(who, make(who.requester, repetition * count + number + 2)))
    before = hub.ask("usage")["cpu"]
    done = hub.load.pace(packets, reply_type, rate)
    spent = hub.ask("usage")["cpu"] - before
    if done.refused or done.lost > count // 100:
        raise AssertionError(f"the hub did not answer properly: {done}")
    return float(spent) / count * 1e6
