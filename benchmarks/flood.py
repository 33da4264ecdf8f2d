"""How long a site waits for its answers while another one floods the hub, with packets or frames.

A real daemon with its eBPF switch; one site registers and asks every 50 ms, another sends as much
as the machine gives, up to 100,000 packets a second. Nobody may be kept waiting beyond 100 ms.
"""

from __future__ import annotations

from benchmarks.report import Progress, Report
from lab.daemons import Daemon
from lab.flood import FRAMES, KINDS, VNI, Delays, Flooder, Probe
from lab.topology import Lab

__all__ = ["run"]

PREFIX = "dmflood"
SECRET = "benchmark"
#: Rounds of a measurement, 50 ms each.
ROUNDS = 100
CONFIG = f"""interface nhrp
    cisco-authentication {SECRET}
interface vx0
    controller nhrp
    vpn-id 1
    l2learnonly
    provision
"""


def run(report: Report, progress: Progress) -> None:
    """Each kind of flood, from a stranger and from a site that is registered itself."""
    section = "Flood: milliseconds until another site has its answer"
    with Lab(PREFIX) as lab:
        hub = lab.add_machine("hub", 1)
        victim, flooder = lab.add_machine("victim", 2), lab.add_machine("flooder", 3)
        daemon = Daemon(hub.namespace, lab.directory, "hub", CONFIG)
        daemon.start()
        try:
            place = (victim.namespace, victim.address, hub.address)
            with Probe(*place, secret=SECRET) as probe:
                probe.register()
                _add(report, section, "without a flood", probe.measure(ROUNDS))
                for registered in (False, True):
                    if registered:
                        own = (flooder.namespace, flooder.address, hub.address)
                        with Probe(*own, vni=VNI, secret=SECRET) as site:
                            site.register()
                    for kind in (*KINDS, *FRAMES) if registered else KINDS:
                        who = "a member" if registered else "a stranger"
                        progress.say(f"flood: {kind} of {who}")
                        flood = Flooder(
                            flooder.namespace,
                            kind,
                            flooder.address,
                            hub.address,
                            seconds=ROUNDS * 0.05 + 0.5,
                            secret=SECRET,
                        )
                        delays = probe.measure(ROUNDS)
                        name = f"{kind} of {who}, {flood.finish():,}/s"
                        _add(report, section, name, delays)
        finally:
            daemon.stop()
        daemon.assert_sound()


def _add(report: Report, section: str, name: str, delays: Delays) -> None:
    print(f"  {name}: {delays}", flush=True)
    for what, value in (("p50", delays.p50), ("p99", delays.p99), ("max", delays.worst)):
        report.add(section, f"{name}: {what}", [value], "ms")
    if delays.lost:
        report.notes.append(f"{name}: {delays.lost} of {delays.sent} requests were lost")
