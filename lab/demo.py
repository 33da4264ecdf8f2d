"""``make demo``: two sites with different VNIs become one LAN, told as it happens.

Everything runs in network namespaces of this machine and is gone at the end, unless it is told to
stay. The last line begins with ``demo: ok``, or the exit status is 1 and the last line says why.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.daemons import ROOT, Daemon
from lab.fdbwatch import FDBWatch
from lab.interrupt import interruptible
from lab.netns import namespaces
from lab.topology import VM, Lab
from lab.traffic import Ping, PingReport, ping
from lab.wait import eventually

__all__ = ["main"]

PREFIX = "dmdemo"
PINGS = 1000
INTERVAL = 0.005
#: Further ones where the machine is too busy to look at the shortcut before those are over.
MORE_PINGS = 200

#: What ends the story: something is not as it should be, or the machine refuses.
FAILURES = (AssertionError, OSError, subprocess.SubprocessError)

PICTURE = """
     vm1 11.0.0.10                                       vm2 11.0.0.11
          |                                                   |
     [br1] site 1                 hub                    [br1] site 2
     VPN 1 = VNI 100          learning switch            VPN 1 = VNI 101
     spoke1 10.0.0.2          hub 10.0.0.1               spoke2 10.0.0.3
          |                       |                           |
     =====+=======================+===========================+=====
                      underlay 10.0.0.0/24
"""


@dataclass
class Site:
    """One of the two sites of the story."""

    daemon: Daemon
    vm: VM
    address: str
    """Of its spoke, on the underlay."""
    vni: int


class Story:
    """What is printed, with the time since the beginning."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """Begin the next part."""
        self._chapter += 1
        passed = time.monotonic() - self._begin
        print(f"\n[{passed:5.1f} s] {self._chapter}. {title}", flush=True)

    def say(self, text: str) -> None:
        """A line or some of the present part."""
        for line in text.rstrip().splitlines():
            print(f"          {line}".rstrip(), flush=True)

    def show(self, daemon: Daemon, *command: str) -> None:
        """What an operator sees who asks a daemon."""
        self.say(f"\n{daemon.name}$ dmevpnctl {' '.join(command)}")
        self.say(daemon.ctl.text(*command))


def _member_frames(hub: Daemon) -> dict[str, tuple[int, int]]:
    """Frames that the hub took from each site and gave to it."""
    rows = hub.ctl.rows("member", "show")
    return {row["nbma"]: (row["rx_packets"], row["tx_packets"]) for row in rows}


def _await_registration(spoke: Daemon) -> None:
    def registered() -> bool:
        rows = spoke.ctl.rows("registration", "show")
        return [row["state"] for row in rows] == ["registered"]

    eventually(f"registration of {spoke.name}", registered)


def _shortcut(site: Site, other: Site) -> list[dict[str, Any]]:
    """The kernel's entries at a site that send the other's virtual machine straight there."""
    return [
        row
        for row in site.daemon.namespace.fdb("vx1-s")
        if row["mac"] == other.vm.mac and row.get("dst") == other.address
    ]


class Demo:
    """The parts of the story, in order."""

    def __init__(self, lab: Lab, story: Story) -> None:
        self.lab = lab
        self.story = story
        self.daemons: list[Daemon] = []

    def tell(self, *, keep: bool) -> str:
        """All of it; returns the figures."""
        self.build()
        self.start()
        figures = self.ping()
        self.look()
        if keep:
            self.say_how_to_look()
        else:
            self.stop()
        return figures

    def build(self) -> None:
        """The underlay, three machines on it, and a virtual machine at each site."""
        self.story.chapter("Build two sites and a hub, each in its own network namespace")
        for line in PICTURE.strip("\n").splitlines():
            self.story.say(line)
        for number, name in enumerate(("hub", "spoke1", "spoke2"), start=1):
            self.lab.add_machine(name, number)

    def start(self) -> None:
        """Three daemons, as systemd would run them, and their registrations."""
        self.story.chapter("Start three daemons")
        for name, machine in self.lab.machines.items():
            source = ROOT / "etc" / "demo" / f"{name}.conf"
            config = source.read_text()
            daemon = Daemon(machine.namespace, self.lab.directory, name, config)
            self.daemons.append(daemon)
            daemon.start()
            self.story.say(f"{name}: twistd dmevpn --config etc/demo/{source.name}")
        self.hub, spoke1, spoke2 = self.daemons
        vm1 = self.lab.add_vm("vm1", "02:00:00:00:00:10", "11.0.0.10/24")
        vm2 = self.lab.add_vm("vm2", "02:00:00:00:00:11", "11.0.0.11/24")
        self.site1 = Site(spoke1, vm1, "10.0.0.2", 100)
        self.site2 = Site(spoke2, vm2, "10.0.0.3", 101)
        for site in (self.site1, self.site2):
            site.vm.plug(self.lab.machines[site.daemon.name], "br1")
            _await_registration(site.daemon)
        self.story.show(spoke1, "registration", "show")
        self.story.show(self.hub, "member", "show")

    def ping(self) -> str:
        """A cold start, and the change of path under traffic; returns the figures."""
        self.story.chapter(
            f"Ping from vm1 to vm2, {PINGS} times at {INTERVAL * 1000:g} ms, from a cold start"
        )
        self.story.say("Nobody knows a MAC address yet: the first frame is an ARP broadcast.")
        one, two = self.site1, self.site2
        before = _member_frames(self.hub)
        with FDBWatch(one.daemon.namespace, "vx1-s") as watch:
            pings = Ping(one.vm.namespace, "11.0.0.11", count=PINGS, interval=INTERVAL)
            eventually(
                "shortcut at both sites", lambda: _shortcut(one, two) and _shortcut(two, one)
            )
            by_hub = _member_frames(self.hub)
            self._tell_change(watch, before, by_hub)
            in_time = pings.running
            report = pings.finish()
            if not in_time:
                self._ping_on()
            latency = self._latency(watch)
        after = _member_frames(self.hub)
        self.story.say(f"\nping: {report}")
        self._tell_standstill(by_hub, after)
        self._judge(report, by_hub, after)
        return f"{report}; shortcut {latency:.1f} ms after the first miss"

    def _ping_on(self) -> None:
        """On a machine that is busy the shortcut is looked at when the pings are over."""
        self.story.say("(The pings were over by then, so there are some more.)")
        more = ping(self.site1.vm.namespace, "11.0.0.11", count=MORE_PINGS, interval=INTERVAL)
        assert more.lost == 0, f"{more.lost} of {MORE_PINGS} more pings were lost"

    def _latency(self, watch: FDBWatch) -> float:
        """Milliseconds from the kernel's first report of a miss to the shortcut in its place."""
        mac = self.site2.vm.mac
        miss = watch.first("miss", mac)
        shortcut = watch.first("new", mac, self.site2.address)
        assert miss and shortcut, "the kernel reported no miss, or no shortcut"
        return (shortcut.at - miss.at) * 1000

    def _tell_change(
        self,
        watch: FDBWatch,
        before: dict[str, tuple[int, int]],
        by_hub: dict[str, tuple[int, int]],
    ) -> None:
        origin = watch.first("miss", self.site2.vm.mac)
        if origin is not None:
            self.story.say("At spoke1, what the kernel said about vm2's MAC on the shortcut plane:")
            last = None
            for event in watch.events:
                if event.mac == self.site2.vm.mac and (event.kind, event.destination) != last:
                    last = event.kind, event.destination
                    self.story.say(f"  {(event.at - origin.at) * 1000:7.2f} ms  {_words(event)}")
        self.story.say("The first frames went by the hub, which counted them:")
        for address, (received, sent) in by_hub.items():
            old_received, old_sent = before[address]
            self.story.say(
                f"  {address}: {received - old_received} frames from it, {sent - old_sent} to it"
            )

    def _tell_standstill(
        self, by_hub: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
    ) -> None:
        self.story.say("While the rest of the pings ran by the shortcut, the hub saw")
        for address, (received, sent) in after.items():
            old_received, old_sent = by_hub[address]
            self.story.say(
                f"  {address}: {received - old_received} more from it, {sent - old_sent} more to it"
            )

    @staticmethod
    def _judge(
        report: PingReport,
        by_hub: dict[str, tuple[int, int]],
        after: dict[str, tuple[int, int]],
    ) -> None:
        assert report.sent == PINGS, f"only {report.sent} of {PINGS} pings were sent"
        assert report.lost == 0, f"{report.lost} of {PINGS} pings were lost"
        assert report.duplicated <= 1, f"{report.duplicated} pings were answered twice"
        assert after == by_hub, "frames still went by the hub after the shortcut was in place"

    def look(self) -> None:
        """What an operator would look at."""
        self.story.chapter("What an operator looks at")
        spoke1 = self.site1.daemon
        self.story.show(self.hub, "member", "show")
        self.story.show(self.hub, "fdb", "show")
        self.story.show(spoke1, "cache", "show")
        self.story.show(spoke1, "fdb", "show")
        self.story.say("\nspoke1$ bridge fdb show dev vx1-s")
        self.story.say(spoke1.namespace.run("bridge", "fdb", "show", "dev", "vx1-s").stdout)

    def say_how_to_look(self) -> None:
        """Say how to look round and how to end it."""
        ctl = shlex.quote(os.path.relpath(Path(sys.executable).with_name("dmevpnctl")))
        vm = self.site1.vm.namespace
        self.story.chapter("It stays up: look round")
        self.story.say(shlex.join(vm.command("ping", "11.0.0.11")))
        for daemon in self.daemons:
            words = daemon.ctl.words("member" if daemon is self.hub else "registration", "show")
            self.story.say(f"{ctl} {shlex.join(words[1:])}")
        spoke = self.site1.daemon.namespace
        self.story.say(f"{ctl} {shlex.join(self.site1.daemon.ctl.words('fdb', 'show')[1:])}")
        self.story.say(shlex.join(spoke.command("bridge", "fdb", "show", "dev", "vx1-s")))
        self.story.say(f"less {self.site1.daemon.log_path}")
        self.story.say("\nRemove it all: make demo-down")

    def stop(self) -> None:
        """Stop the daemons, and show that nothing of theirs remains."""
        self.story.chapter("Stop the daemons: nothing of theirs remains")
        for daemon in self.daemons:
            daemon.stop()
            daemon.assert_sound()
            left = daemon.namespace.devices() - {"ul0", "vm1", "vm2"}
            assert not left, f"{daemon.name} left devices behind: {', '.join(sorted(left))}"
            assert not daemon.socket_path.exists(), f"{daemon.socket_path} was left behind"
            running = daemon.namespace.processes()
            assert not running, f"{daemon.name} left processes behind: {running}"
            self.story.say(f"{daemon.name}: no device, no socket, no process")


def _words(event: Any) -> str:
    if event.kind == "miss":
        return "miss: a frame for it, and no entry"
    if event.kind == "gone":
        return "withdrawn"
    if event.destination in ("0.0.0.0", "::"):
        return "hold: asked the hub, whose plane carries the frames meanwhile"
    if event.destination is None:
        return "the bridge sends it to the shortcut plane"
    return f"shortcut: straight to {event.destination}"


def _show_logs(demo: Demo) -> None:
    for daemon in demo.daemons:
        tail = daemon.log.splitlines()[-15:]
        if tail:
            print(f"\n--- the end of {daemon.name}'s log", *tail, sep="\n", file=sys.stderr)


def run(*, keep: bool) -> int:
    """Tell the story; returns the exit status."""
    try:
        with interruptible(), Lab(PREFIX) as lab:
            demo = Demo(lab, Story())
            try:
                figures = demo.tell(keep=keep)
            except FAILURES:
                _show_logs(demo)
                raise
            if keep:
                lab.keep()
                print(f"\ndemo: ok: {figures}; it is still up", flush=True)
                return 0
        left = [namespace.name for namespace in namespaces(PREFIX)]
        assert not left, f"left behind: {', '.join(left)}"
    except KeyboardInterrupt:
        print("demo: interrupted, and removed", file=sys.stderr)
        return 1
    except FAILURES as error:
        reason = str(error).strip() or type(error).__name__
        print(f"demo: failed: {reason.splitlines()[0]}", file=sys.stderr, flush=True)
        return 1
    print(f"\ndemo: ok: {figures}; nothing is left behind", flush=True)
    return 0


def down() -> int:
    """Remove what a kept or interrupted demo has left."""
    found = Lab.remove_leftovers(PREFIX)
    print(f"demo-down: removed {', '.join(found)}" if found else "demo-down: nothing to remove")
    return 0


def main() -> int:
    """The command line: ``python -m lab.demo [--keep | --down]``."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything up")
    parser.add_argument("--down", action="store_true", help="remove what --keep left up")
    arguments = parser.parse_args()
    return down() if arguments.down else run(keep=arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
