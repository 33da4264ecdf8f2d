"""The network that chaos befalls: two hubs, four sites, two VPNs, and who is where in truth."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.chaos.underlay import Underlay
from lab.daemons import Daemon
from lab.topology import VM, Lab, Machine
from lab.traffic import gratuitous_arp, send_frame
from lab.wallclock import WallClock, build_library

__all__ = ["HOLDING_TIME", "VPNS", "Hub", "Node", "Site", "Stage", "Station"]

#: Seconds that registrations last: long enough to outlive every single fault, and short enough
#: that registrations and answers are renewed while faults are there.
HOLDING_TIME = 60
#: Milliseconds between two keepalives of a site to its hubs: one that is silent is left within 1 s.
KEEPALIVE = 450
#: Octets of each machine's disk, where its log and its state are.
DISK = 4 << 20

#: VNIs by site and VPN. Each site has its own, and 101 and 102 are used in both VPNs.
VNIS = {
    "site3": {1: 100, 2: 101},
    "site4": {1: 101, 2: 102},
    "site5": {1: 102, 2: 200},
    "site6": {1: 103, 2: 101},
}
#: A VPN that comes and goes, and has no stations.
GUEST_VPN = 3
#: Those with stations.
VPNS = (1, 2)


@dataclass(eq=False)
class Node:
    """A machine with its daemon."""

    name: str
    machine: Machine
    daemon: Daemon
    disk: Path
    clock: WallClock
    """Of its daemon."""
    holding_time: int = HOLDING_TIME
    vpns: list[int] = field(default_factory=lambda: list(VPNS))
    """What its configuration has."""
    leaves: bool = False
    """Whether a stop in order leaves its forwarding as it is."""
    hubs: tuple[str, ...] = ()
    """Addresses of a site's hubs, the preferred one first; of a hub's other hubs."""

    @property
    def address(self) -> str:
        """On the underlay."""
        return self.machine.address

    def config(self) -> str:
        """The text of its configuration, as its fields have it."""
        lines = [f"leave-forwarding {'yes' if self.leaves else 'no'}"]
        lines += [f"interface nhrp holding-time {self.holding_time}", *self._data_interfaces()]
        return "\n".join(lines) + "\n"

    def _data_interfaces(self) -> list[str]:
        raise NotImplementedError

    def reload(self) -> None:
        """Have the daemon read it."""
        self.daemon.reload(self.config())

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False)
class Hub(Node):
    """A next hop server, and a switch."""

    def _data_interfaces(self) -> list[str]:
        lines = ["interface vx0", "    controller nhrp", "    l2learnonly", "    provision"]
        lines += [f"    vpn-id {vpn}" for vpn in self.vpns]
        return lines + [f"    other-hub {hub}" for hub in self.hubs]


@dataclass(eq=False)
class Site(Node):
    """A spoke, with a bridge for each VPN that was made by hand."""

    vnis: dict[int, int] = field(default_factory=dict)

    def _data_interfaces(self) -> list[str]:
        lines = [f"    keepalive {KEEPALIVE}"]
        for vpn in self.vpns:
            lines += [f"interface vx{vpn}", "    controller nhrp", f"    vpn-id {vpn}"]
            lines += [f"    default-vni {self.vnis[vpn]} {hub} register" for hub in self.hubs]
            lines += [f"    provision br{vpn}"]
        return lines


@dataclass(eq=False)
class Station:
    """A virtual machine, and where it truly is."""

    vpn: int
    number: int
    vm: VM
    home: Site

    def move(self, site: Site) -> None:
        """Be at another site, and say so as a hypervisor does."""
        self.vm.migrate(site.machine, f"br{self.vpn}")
        self.home = site
        self.speak()

    def speak(self) -> None:
        """Say where it is."""
        assert self.vm.address is not None
        send_frame(self.vm.namespace, gratuitous_arp(self.vm.mac, self.vm.address))

    def __str__(self) -> str:
        return self.vm.name


class Stage:
    """All of it. A context manager: what it made is gone at the end.

    :param prefix: begins the names of the namespaces.
    """

    def __init__(self, prefix: str) -> None:
        self.lab = Lab(prefix)
        self.hubs: list[Hub] = []
        self.sites: list[Site] = []
        self.stations: list[Station] = []
        self.held: set[Station] = set()
        """Whose MACs hubs may hold where they are, after something that made them flip."""

    def __enter__(self) -> Self:
        self.lab.__enter__()
        self.underlay = Underlay(self.lab)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for node in self.nodes:
                # One that is stopped by SIGKILL has nothing to say; the lab removes what it made.
                node.daemon.kill()
        finally:
            self.lab.__exit__(kind, error, traceback)

    @property
    def nodes(self) -> list[Node]:
        """Hubs and sites."""
        return [*self.hubs, *self.sites]

    def build(self) -> None:
        """Machines, daemons and stations, all started."""
        clocks = self.lab.add_disk("clocks", DISK)
        self._library, self._clocks = build_library(clocks), clocks
        for number in (1, 2):
            name = f"hub{number}"
            self.hubs.append(Hub(name, *self._machine(name, number)))
        addresses = tuple(hub.address for hub in self.hubs)
        for hub in self.hubs:
            hub.hubs = tuple(each for each in addresses if each != hub.address)
        for number, (name, vnis) in enumerate(VNIS.items(), start=3):
            # Every other one prefers the second hub, so that both carry floods at any time.
            order = addresses if number % 2 else addresses[::-1]
            site = Site(name, *self._machine(name, number), hubs=order, vnis=vnis)
            self.sites.append(site)
            for vpn in vnis:
                site.machine.add_bridge(f"br{vpn}")
        for node in self.nodes:
            node.daemon.configure(node.config())
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.daemon.start(), self.nodes))
        for site in self.sites:
            for vpn in site.vnis:
                self.stations.append(self._station(site, vpn))

    def _machine(self, name: str, number: int) -> tuple[Machine, Daemon, Path, WallClock]:
        machine = self.lab.add_machine(name, number)
        disk = self.lab.add_disk(name, DISK)
        clock = WallClock(self._library, self._clocks / name)
        daemon = Daemon(
            machine.namespace,
            self.lab.directory,
            name,
            "",
            disk=disk,
            environment=clock.environment,
        )
        return machine, daemon, disk, clock

    def _station(self, site: Site, vpn: int) -> Station:
        # The same MAC addresses in both VPNs: a frame that crosses would find somebody.
        number = int(site.name.removeprefix("site"))
        mac = f"02:00:00:00:00:{number:02x}"
        vm = self.lab.add_vm(f"vm{vpn}s{number}", mac, f"11.0.{vpn}.{number}/24")
        vm.plug(site.machine, f"br{vpn}")
        return Station(vpn, number, vm, site)

    def add_twin(self, station: Station) -> VM:
        """A virtual machine with the MAC of a station, not plugged in; there is one at a time."""
        twin = self.lab.vms.get("twin") or self.lab.add_vm("twin", station.vm.mac)
        twin.mac = station.vm.mac
        return twin

    def release(self) -> None:
        """Have hubs hold nobody any longer, as an operator does who has removed the cause: a hold
        may last for minutes, and would be part of each fault that comes meanwhile."""
        for vpn in {station.vpn for station in self.held}:
            held = {station for station in self.held if station.vpn == vpn}
            words: list[tuple[str, ...]]
            words = [("vpn", str(vpn), "mac", station.vm.mac) for station in held]
            if held.issuperset(each for each in self.stations if each.vpn == vpn):
                words = [("vpn", str(vpn))]
            for hub in self.hubs:
                for each in words:
                    # 1: there was nothing to forget.
                    done = hub.daemon.ctl.run("cache", "flush", *each)
                    assert done.returncode in (0, 1), f"cache flush: {done.stderr.strip()}"
        self.held.clear()

    def loops(self) -> list[str]:
        """What hubs say of sites that are connected behind their back."""
        return [
            f"{hub}: {row['finding']}"
            for hub in self.hubs
            for row in hub.daemon.ctl.findings()
            if row["check"] == "loop"
        ]

    # --- what is in the kernel -------------------------------------------------------------------

    def stale(self) -> list[str]:
        """Shortcuts in the kernel that lead to where their station is not."""
        found = []
        for site in self.sites:
            for vpn in site.vpns:
                found += self._stale(site, vpn)
        return found

    def _stale(self, site: Site, vpn: int) -> list[str]:
        found = []
        for mac, home, there in self._shortcuts(site, vpn):
            if home is site or there != (home.address, home.vnis[vpn]):
                found.append(
                    f"{site} sends frames of VPN {vpn} for {mac} to {there[0]} VNI {there[1]}, "
                    f"it is at {home.address} VNI {home.vnis[vpn]}"
                )
        return found

    def _shortcuts(self, site: Site, vpn: int) -> Iterator[tuple[str, Site, tuple[str, int]]]:
        """The stations that a site has shortcuts to: MAC, where it is, and where its frames go."""
        truth = {each.vm.mac: each.home for each in self.stations if each.vpn == vpn}
        for row in site.machine.namespace.fdb(f"vx{vpn}-s"):
            home, destination = truth.get(row["mac"]), row.get("dst")
            if home is not None and destination not in (None, "0.0.0.0"):
                # The VNI is not shown if it is the device's own.
                yield row["mac"], home, (str(destination), row.get("vni", site.vnis[vpn]))

    def direct(self) -> bool:
        """Whether every site has a shortcut to every station that is elsewhere."""
        for site in self.sites:
            for vpn in VPNS:
                away = [each for each in self.stations if each.vpn == vpn and each.home is not site]
                if len(list(self._shortcuts(site, vpn))) < len(away):
                    return False
        return True

    def entries(self, site: Site) -> int:
        """How many forwarding entries a site's tables have, those of its own devices left out."""
        rows = [row for device in self._devices(site) for row in site.machine.namespace.fdb(device)]
        return sum(row.get("state") != "permanent" for row in rows)

    def _devices(self, site: Site) -> list[str]:
        return [f"vx{vpn}{plane}" for vpn in site.vpns for plane in ("", "-s")]
