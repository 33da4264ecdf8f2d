"""How fast a spoke makes shortcuts: real daemons, a real switch, frames of virtual machines."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.report import Progress, Report, percentile
from dmevpn.addresses import parse_ip
from dmevpn.dataplane.neighbours import parse_entries
from lab.daemons import Daemon
from lab.netns import Namespace
from lab.topology import Lab
from lab.traffic import BROADCAST, ETH_P_FLOW, ethernet
from lab.wait import eventually

__all__ = ["run"]

SECTION = "Spoke (daemons in namespaces)"
#: Destinations one by one, for the time that each takes.
SINGLE = 300
#: Destinations at once, for what a CPU second yields; so many misses are under way at a time.
BURST = 3000
WINDOW = 64
REPETITIONS = 3
#: Seconds that one shortcut may take before the benchmark gives up.
PATIENCE = 10.0

RTNLGRP_NEIGH = 3

HUB = """
interface nhrp
    nbma-address {hub}
interface vx0
    controller nhrp
    l2learnonly
    mac-limit any 16384 16384
    provision
    vpn-id 1
"""
SPOKE = """
interface nhrp
    nbma-address {address}
interface vx1
    controller nhrp
    vpn-id 1
    default-vni {vni} {hub} register
    provision br1
"""


def mac(number: int) -> str:
    """The MAC address of a station at the far site."""
    return bytes.hex(b"\x02\x54" + number.to_bytes(4, "big"), ":")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user and kernel mode."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ShortcutMonitor:
    """Sees the kernel report every shortcut to a site the moment it is installed."""

    def __init__(self, namespace: Namespace, nbma: bytes) -> None:
        self._nbma = nbma
        self._sock = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._sock.bind((0, 0))
        self._sock.setsockopt(270, 1, RTNLGRP_NEIGH)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP

    def installed(self, timeout: float) -> Iterator[bytes]:
        """The MACs of the shortcuts reported since the last call; waits for the first."""
        if not select.select([self._sock], [], [], timeout)[0]:
            raise AssertionError("a shortcut was not installed in time")
        for entry in parse_entries(self._sock.recv(65536)):
            if entry.nbma == self._nbma:
                yield entry.mac

    def close(self) -> None:
        """Hear no more."""
        self._sock.close()


class Sender:
    """Frames of the virtual machine at the near site."""

    def __init__(self, namespace: Namespace, source: str) -> None:
        self._source = source
        self._sock = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._sock.bind(("eth0", 0))

    def send(self, destination: str, source: str | None = None) -> None:
        """Send one short frame."""
        self._sock.send(ethernet(destination, source or self._source, ETH_P_FLOW, b""))

    def close(self) -> None:
        """Send no more."""
        self._sock.close()


def run(report: Report, progress: Progress) -> None:
    """A hub and two sites; every station of the far site is met for the first time."""
    with Lab("dmbench") as lab, ExitStack() as stack:
        progress.say("spoke: a hub and two sites")
        hub = lab.add_machine("hub", 1)
        sites = [lab.add_machine(f"spoke{number}", 1 + number) for number in (1, 2)]
        vms = [lab.add_vm(f"vm{number}", f"02:00:00:00:00:{number:02x}") for number in (1, 2)]
        daemons = [Daemon(hub.namespace, lab.directory, "hub", HUB.format(hub=hub.address))]
        for number, site in enumerate(sites, 1):
            text = SPOKE.format(hub=hub.address, address=site.address, vni=100 * number)
            daemons.append(Daemon(site.namespace, lab.directory, site.name, text))
        for daemon in daemons:
            daemon.start()
            stack.callback(daemon.stop)
        for vm, site in zip(vms, sites, strict=True):
            vm.plug(site, "br1")
        for daemon in daemons[1:]:
            eventually(
                "registration",
                lambda daemon=daemon: [  # type: ignore[misc]
                    row
                    for row in daemon.ctl.rows("registration", "show")
                    if row["state"] == "registered"
                ],
            )
        near, far = (Sender(vm.namespace, vm.mac) for vm in vms)
        monitor = ShortcutMonitor(sites[0].namespace, parse_ip(sites[1].address))
        for each in (near, far, monitor):
            stack.callback(each.close)
        total = SINGLE + REPETITIONS * BURST
        progress.say(f"spoke: {total} stations speak up at the far site")
        announce(far, range(total))
        eventually(
            "learned stations",
            lambda: len(daemons[0].ctl.rows("fdb", "show")) >= total,
            timeout=30,
            interval=0.5,
        )
        first_contact(report, progress, near, monitor)
        bursts(report, progress, near, monitor, daemons[1])
        for daemon in daemons:
            daemon.assert_sound()


def announce(far: Sender, numbers: Sequence[int]) -> None:
    """Have the hub's switch learn stations, no faster than anybody's queues can take."""
    for number in numbers:
        far.send(BROADCAST, mac(number))
        if number % 50 == 49:
            time.sleep(0.01)


def first_contact(
    report: Report, progress: Progress, near: Sender, monitor: ShortcutMonitor
) -> None:
    """The time from the first frame for a station to its shortcut, one station at a time."""
    progress.say(f"spoke: first frames to {SINGLE} stations, one after the other")
    milliseconds = []
    for number in range(SINGLE):
        wanted = bytes.fromhex(mac(number).replace(":", ""))
        begin = time.perf_counter()
        near.send(mac(number))
        while wanted not in monitor.installed(PATIENCE):
            pass
        milliseconds.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.005)  # a station at a time is what is asked about
    report.add(
        SECTION,
        "first frame to installed shortcut, p50",
        [percentile(milliseconds, 0.5)],
        "ms",
        at_most=3,
    )
    report.add(
        SECTION, "first frame to installed shortcut, p99", [percentile(milliseconds, 0.99)], "ms"
    )


def bursts(
    report: Report, progress: Progress, near: Sender, monitor: ShortcutMonitor, daemon: Daemon
) -> None:
    """What a spoke digests: misses for different stations, as fast as shortcuts are made."""
    per_cpu_second, per_second, microseconds = [], [], []
    for repetition in range(REPETITIONS):
        progress.say(f"spoke: burst of {BURST} misses, {repetition + 1} of {REPETITIONS}")
        first = SINGLE + repetition * BURST
        queue = iter(range(first, first + BURST))
        waiting: set[bytes] = set()
        cpu, begin = cpu_seconds(daemon.pid), time.perf_counter()
        done = 0
        while done < BURST:
            while len(waiting) < WINDOW and (number := next(queue, None)) is not None:
                waiting.add(bytes.fromhex(mac(number).replace(":", "")))
                near.send(mac(number))
            for installed in monitor.installed(PATIENCE):
                if installed in waiting:
                    waiting.discard(installed)
                    done += 1
        spent = cpu_seconds(daemon.pid) - cpu
        per_second.append(BURST / (time.perf_counter() - begin))
        per_cpu_second.append(BURST / spent)
        microseconds.append(spent / BURST * 1e6)
    report.add(SECTION, "misses turned into shortcuts per CPU second", per_cpu_second, "1/s")
    report.add(SECTION, "CPU time of a miss until its shortcut", microseconds, "us")
    report.add(SECTION, "misses turned into shortcuts per second", per_second, "1/s")
