"""How long a site waits for its answers while another one floods the hub, with packets or frames.

A real daemon with its eBPF switch; one site registers and asks every 50 ms, another sends 100,000
packets a second, or as many as the machine gives. Nobody may be kept waiting beyond 100 ms. What
makes most work for each packet comes at more than a peer's budget, no further: the kernel drops the
rest at the same cost.

And what the limits cost where nobody floods: sites of 1,000 VPNs each start at the same moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load import Client, Load
from benchmarks.report import Progress, Report
from dmevpn.addresses import DEFAULT_OUI, VPNID, parse_ip
from lab.daemons import Daemon
from lab.flood import FRAMES, KINDS, MEMBERS, VNI, Delays, Flooder, Probe
from lab.topology import Lab, Machine

__all__ = ["run"]

PREFIX = "dmflood"
SECRET = "benchmark"
#: Rounds of a measurement, 50 ms each.
ROUNDS = 100
#: Packets a second of a flood.
RATE = 100_000
#: The same of packets that each make much work: half as many again as a peer may send.
MEMBER_RATE = 1_500
#: Sites that start at once, and the VPNs of each.
SITES, VPNS = 8, 1000
SECTION = "Flood: milliseconds until another site has its answer"


@contextmanager
def _hub(
    lab: Lab, machine: Machine, secret: str, rate: str, vpns: str, permit: str = ""
) -> Iterator[Daemon]:
    """A hub that keeps to the limits, or to none, and admits who has the secret, or some only."""
    lines = ["interface nhrp", rate, f"cisco-authentication {secret}" if secret else ""]
    lines += [
        "interface vx0",
        "controller nhrp",
        f"vpn-id {vpns}",
        permit,
        "l2learnonly",
        "provision",
    ]
    daemon = Daemon(machine.namespace, lab.directory, "hub", "\n".join(lines) + "\n")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
    daemon.assert_sound()


def run(report: Report, progress: Progress) -> None:
    """Each kind of flood, from a stranger and from a site that is registered itself."""
    with Lab(PREFIX) as lab:
        hub = lab.add_machine("hub", 1)
        victim, flooder = lab.add_machine("victim", 2), lab.add_machine("flooder", 3)
        place = (victim.namespace, victim.address, hub.address)
        own = (flooder.namespace, flooder.address, hub.address)
        with _hub(lab, hub, SECRET, "", "1"), Probe(*place, secret=SECRET) as probe:
            probe.register()
            _add(report, "without a flood", probe.measure(ROUNDS))
            for registered in (False, True):
                who = "a member" if registered else "a stranger"
                if registered:
                    with Probe(*own, vni=VNI, secret=SECRET) as site:
                        site.register()
                for kind in (*KINDS, *FRAMES, *MEMBERS) if registered else KINDS:
                    progress.say(f"flood: {kind} of {who}")
                    _measure(report, probe, flooder, hub, kind, who)
        with (
            _hub(lab, hub, SECRET, "", "1", f"permit 1 {victim.address}"),
            Probe(*place, secret=SECRET) as probe,
        ):
            probe.register()
            _measure(report, probe, flooder, hub, "forged", "a stranger who is not permitted")
        with _hub(lab, hub, SECRET, "request-rate 0", "1"), Probe(*place, secret=SECRET) as probe:
            probe.register()
            _measure(report, probe, flooder, hub, "registrations", "a stranger, no limits")
        sites = [f"10.0.0.{101 + number}" for number in range(SITES)]
        for site_address in sites:
            flooder.namespace.ip("address", "add", f"{site_address}/24", "dev", "ul0")
        for rate, name in (("", "with the limits"), ("request-rate 0", "without")):
            progress.say(f"flood: {SITES} sites of {VPNS} VPNs start, {name}")
            with _hub(lab, hub, "", rate, f"1-{VPNS}"):
                seconds, sent = _start(flooder, hub, sites)
            print(f"  {SITES} sites of {VPNS} VPNs start, {name}: {seconds:.2f} s, {sent} sent")
            what = f"{SITES} sites of {VPNS} VPNs start, {name}"
            report.add("Flood: a start of many sites", what, [seconds], "s")


def _measure(
    report: Report, probe: Probe, flooder: Machine, hub: Machine, kind: str, who: str
) -> None:
    flood = Flooder(
        hub,
        kind,
        flooder.address,
        seconds=ROUNDS * 0.05 + 0.5,
        rate=MEMBER_RATE if kind in MEMBERS else RATE,
        secret=SECRET,
    )
    delays = probe.measure(ROUNDS)
    _add(report, f"{kind} of {who}, {flood.finish().arrived:,}/s", delays)


def _start(machine: Machine, hub: Machine, sites: list[str]) -> tuple[float, int]:
    """Register all sites in all VPNs at once, and again each second what has no answer; seconds
    until all have one, and packets sent."""
    with machine.namespace.entered():
        load = Load(hub.address)
    pending: dict[int, bytes] = {}
    for site, address in enumerate(sites):
        for vpn in range(1, VPNS + 1):
            number = site * VPNS + vpn
            station = b"\x06\x01" + number.to_bytes(4, "big")
            who = Client(VPNID(DEFAULT_OUI, vpn), parse_ip(address), 10_000 + number, station)
            pending[number] = load.packet(who, who.requester.registration(number))
    begin, sent = time.perf_counter(), 0
    while pending:
        sent += len(pending)
        load.send_all(pending.values())
        again = time.perf_counter() + 1
        while pending and time.perf_counter() < again:
            for number in load.answered():
                pending.pop(number, None)
            time.sleep(0.002)
        assert time.perf_counter() < begin + 120, f"{len(pending)} have no answer"
    load.close()
    return time.perf_counter() - begin, sent


def _add(report: Report, name: str, delays: Delays) -> None:
    print(f"  {name}: {delays}", flush=True)
    for what, value in (("p50", delays.p50), ("p99", delays.p99), ("max", delays.worst)):
        report.add(SECTION, f"{name}: {what}", [value], "ms")
    if delays.lost:
        report.notes.append(f"{name}: {delays.lost} of {delays.sent} requests were lost")
