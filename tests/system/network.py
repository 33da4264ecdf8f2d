"""A hub and sites with real daemons: what the system tests stand on.

Site N has the underlay addresses 10.0.0.N and fd00:10::N, the hub is number 1. A virtual machine at
site N in VPN V has the MAC 02:00:00:0V:00:0N and the addresses 11.0.V.N and fd00:11:V::N.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from lab.daemons import Daemon
from lab.topology import VM, Lab, Machine
from lab.traffic import gratuitous_arp, ping, send_frame
from lab.wait import eventually

__all__ = ["PREFIX", "Network", "Site", "arrive", "flush", "shortcut", "wait_for_shortcut"]

#: Begins the names of namespaces. Runs beside each other, from several checkouts, need one each, as
#: do the workers of one run.
PREFIX = os.environ.get("DMEVPN_TEST_PREFIX", "dmtest") + os.environ.get("PYTEST_XDIST_WORKER", "")


@dataclass
class Site:
    """A spoke, its daemon and the virtual machines behind it, by VPN."""

    machine: Machine
    daemon: Daemon
    family: int
    vnis: dict[int, int]
    vms: dict[int, VM] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where other sites send frames for it."""
        return self.machine.address if self.family == 4 else self.machine.address6

    @property
    def vm(self) -> VM:
        """Its virtual machine in VPN 1."""
        return self.vms[1]


class Network:
    """A hub and sites. A context manager: its daemons stop, and their logs must be sound.

    :param family: 4 or 6, of the underlay.
    :param ipv6: whether the virtual machines have IPv6; without it they are silent.
    :param options: what every configuration begins with.
    """

    def __init__(self, *, family: int = 4, ipv6: bool = False, options: str = "") -> None:
        self.lab = Lab(PREFIX)
        self.family = family
        self.daemons: dict[str, Daemon] = {}
        self.sites: list[Site] = []
        self._ipv6 = ipv6
        self._options = options

    def __enter__(self) -> Self:
        self.lab.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self.lab)
            for daemon in self.daemons.values():
                stack.callback(daemon.assert_sound)
                stack.callback(daemon.stop)

    @property
    def hub(self) -> Daemon:
        """The hub's daemon."""
        return self.daemons["hub"]

    @property
    def hub_address(self) -> str:
        """Where the sites find the hub."""
        machine = self.lab.machines["hub"]
        return machine.address if self.family == 4 else machine.address6

    def add_daemon(self, name: str, number: int, config: str) -> Daemon:
        """Put a machine on the underlay and start a daemon on it."""
        machine = self.lab.machines.get(name) or self.lab.add_machine(name, number)
        daemon = Daemon(machine.namespace, self.lab.directory, name, self._options + config)
        self.daemons[name] = daemon
        daemon.start()
        return daemon

    def add_hub(self, *vpns: int) -> Daemon:
        """Start the hub of these VPNs."""
        lines = ["interface nhrp", "interface vx0", "    controller nhrp"]
        lines += [f"    vpn-id {vpn}" for vpn in vpns]
        lines += ["    l2learnonly", "    provision"]
        return self.add_daemon("hub", 1, "\n".join(lines) + "\n")

    def spoke_config(self, vnis: dict[int, int]) -> str:
        """The configuration of a site that knows each VPN by its VNI."""
        lines = ["interface nhrp"]
        for vpn, vni in vnis.items():
            lines += [
                f"interface vx{vpn}",
                "    controller nhrp",
                f"    vpn-id {vpn}",
                f"    default-vni {vni} {self.hub_address} register",
                f"    provision br{vpn}",
            ]
        return "\n".join(lines) + "\n"

    def add_site(self, number: int, vnis: dict[int, int]) -> Site:
        """Start a site, with a virtual machine in each of its VPNs.

        :param vnis: the VNI that the site knows a VPN by, for each of its VPNs.
        """
        name = f"site{number}"
        daemon = self.add_daemon(name, number, self.spoke_config(vnis))
        site = Site(self.lab.machines[name], daemon, self.family, vnis)
        for vpn in vnis:
            vm = site.vms[vpn] = self.lab.add_vm(
                f"vm{vpn}s{number}",
                f"02:00:00:{vpn:02x}:00:{number:02x}",
                f"11.0.{vpn}.{number}/24",
                f"fd00:11:{vpn}::{number:x}/64" if self._ipv6 else None,
            )
            vm.plug(site.machine, f"br{vpn}")
        self.sites.append(site)
        return site

    def await_members(self) -> None:
        """Wait until every site is registered in all of its VPNs."""
        wanted = {(vpn, site.address, vni) for site in self.sites for vpn, vni in site.vnis.items()}

        def registered() -> bool:
            rows = self.hub.ctl.rows("member", "show")
            return wanted <= {(row["vpn"], row["nbma"], row["vni"]) for row in rows}

        eventually("registration of every site", registered)

    def await_departure(self, site: Site, gone: Site) -> None:
        """Wait until the hub and another site have forgotten a site."""

        def members() -> set[str]:
            return {row["nbma"] for row in self.hub.ctl.rows("member", "show")}

        eventually(f"departure of {gone.daemon.name}", lambda: gone.address not in members())
        eventually("withdrawal of the shortcut to it", lambda: shortcut(site, gone.vm) is None)

    def traffic(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Frames that the hub took from each member and gave to it, by VPN and address."""
        return {
            (row["vpn"], row["nbma"]): (row["rx_packets"], row["tx_packets"])
            for row in self.hub.ctl.rows("member", "show")
        }

    def metric(self, daemon: Daemon, name: str, **labels: Any) -> float:
        """The sum of a daemon's counter over all label sets that have these labels."""
        return sum(
            float(row["value"])
            for row in daemon.ctl.rows("metrics", "show")
            if row["name"] == name and labels.items() <= row["labels"].items()
        )


def shortcut(site: Site, vm: VM, vpn: int = 1) -> str | None:
    """The underlay address to which a site's kernel sends frames for a virtual machine directly."""
    for row in site.machine.namespace.fdb(f"vx{vpn}-s"):
        if row["mac"] == vm.mac and row.get("dst") not in (None, "0.0.0.0", "::"):
            return str(row["dst"])
    return None


def wait_for_shortcut(site: Site, other: Site, vpn: int = 1) -> None:
    """Wait until frames from a site go to the other's virtual machine directly."""
    vm = other.vms[vpn]
    eventually(
        f"shortcut to {vm.name} at {site.daemon.name}",
        lambda: shortcut(site, vm, vpn) == other.address,
    )


def flush(site: Site) -> None:
    """Have a site forget what it has resolved, as an operator does: its shortcuts are withdrawn."""
    done = site.daemon.ctl.run("cache", "flush")
    assert done.returncode in (0, 1), done.stderr  # 1: there was nothing to forget


def arrive(vm: VM) -> None:
    """Have a virtual machine say where it is, as it does after a migration."""
    assert vm.address is not None
    send_frame(vm.namespace, gratuitous_arp(vm.mac, vm.address))


def reaches(vm: VM, other: VM, *, ipv6: bool = False) -> bool:
    """Whether a ping from one virtual machine to another is answered without any loss."""
    address = other.address6 if ipv6 else other.address
    assert address is not None
    return ping(vm.namespace, address, count=3, interval=0.05).lost == 0
