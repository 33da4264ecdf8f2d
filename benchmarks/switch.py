"""What a frame costs in the hub's switch: the program's own time, as the kernel counts it.

The same frames with and without another hub among the members, in turns, so that the ratios hold
on a machine that does other work as well.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import Progress, Report
from dmevpn.addresses import VTEP
from dmevpn.dataplane.ebpf import libbpf
from tests.contracts.hub_dataplane import BROADCAST, HUB_2, A, B, frame, ipv4, mac
from tests.dataplane.hub_lab import HubLab, KernelWorld, pinned_to_one_cpu

__all__ = ["run"]

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
#: Sites that a frame is flooded to.
SITES = [VTEP(ipv4(number), 200 + number) for number in range(5, 14)]
#: Repetitions, and frames of each.
ROUNDS, FRAMES = 7, 3000
#: run_time_ns and run_cnt in ``struct bpf_prog_info`` (linux/bpf.h).
_INFO, _RUNS = 232, struct.Struct("<192x2Q")


def run(report: Report, progress: Progress) -> None:
    """Known unicast and floods, between sites, to a hub, and from one."""
    section = "Switch: the program's time for a frame"
    known, flood = frame(mac(2), mac(1)), frame(BROADCAST, mac(1))
    with pinned_to_one_cpu(), _laboratory() as world:
        cases = {
            "known unicast": (A, known, FRAMES),
            "known unicast to a hub": (A, frame(mac(3), mac(1)), FRAMES),
            "known unicast from a hub": (HUB_2, frame(mac(2), mac(3)), FRAMES),
            "flood to ten sites": (A, flood, FRAMES // 10),
            "flood to nine sites and a hub": (A, flood, FRAMES // 10),
            "flood from a hub to ten sites": (HUB_2, frame(BROADCAST, mac(3)), FRAMES // 10),
        }
        figures: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(ROUNDS):
            progress.say(f"switch: round {number + 1} of {ROUNDS}")
            for name, (sender, octets, count) in cases.items():
                world.dataplane.remove_member(1, HUB_2)
                world.dataplane.remove_member(1, SITES[0])
                if name == "flood to ten sites":
                    world.join(1, SITES[0])
                if "hub" in name:
                    world.join_as(HUB_2, hub=True)
                    world.learn(HUB_2, mac(3))
                world.learn(B, mac(2))
                world.learn(A, mac(1))
                figures[name].append(_time(world, sender, octets, count))
    for name, values in figures.items():
        value = report.add(section, name, values, "ns")
        print(f"  {name}: {value:.0f} ns", flush=True)


@contextmanager
def _laboratory() -> Iterator[KernelWorld]:
    """A hub with sites whose program's time is counted."""
    lab, before = HubLab(), STATS.read_text()
    try:
        lab.up()
        STATS.write_text("1")
        world = KernelWorld(lab)
        world.join(1, A, B, *SITES[1:])
        yield world
        world.dataplane.stop()
    finally:
        STATS.write_text(before)
        lab.down()


def _time(world: KernelWorld, sender: VTEP, octets: bytes, count: int) -> float:
    """Nanoseconds of one frame, the markers among them left out as far as they are few."""
    time, runs = _counted(world)
    for number in range(count):
        world.send(sender, octets)
        if number % 100 == 99:
            world.deliveries()
    later, more = _counted(world)
    return (later - time) / (more - runs)


def _counted(world: KernelWorld) -> tuple[int, int]:
    """The time that the program has run so far, in nanoseconds, and how often."""
    info = ctypes.create_string_buffer(_INFO)
    length = ctypes.c_uint32(_INFO)
    fd = world.dataplane._programs["hub_switch"].fd
    result = libbpf.shared_library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length))
    assert result == 0
    time, runs = _RUNS.unpack_from(info.raw)
    return time, runs
