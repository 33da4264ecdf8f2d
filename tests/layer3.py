"""Whole nodes with IPv4 and IPv6 protocol addresses, on one clock, with wire and kernels in
memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmevpn.addresses import parse_ip, parse_prefix
from dmevpn.config.model import Layer3Plan, Plan, SpeakerPlan
from dmevpn.config.resolve import check
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.dataplane.memory_layer3 import MemoryLayer3, MemoryTunnel
from dmevpn.interfaces import GREDevice, IControlDevice, IScripts
from dmevpn.nhrp.cache import Binding
from dmevpn.roles.l3_station import Layer3Station
from dmevpn.roles.node import Node
from tests.world import Machine, ProcessClock, World

__all__ = ["Layer3Machine", "Layer3World"]


@dataclass
class Layer3Machine(Machine):
    """A host with a control interface, and perhaps a GRE device of its kernel."""

    tunnel: MemoryTunnel | None = None

    def station(self, octets: int = 4, vpn: int | None = None) -> Layer3Station:
        """Its station of one family."""
        assert self.node is not None
        for (_, vpn_id), role in self.node.layer3.items():
            if (None if vpn_id is None else vpn_id.index) == vpn:
                return role.stations[octets]
        raise KeyError(vpn)

    def known(self, protocol: str, vpn: int | None = None) -> Binding | None:
        """What it knows of an address."""
        octets = parse_ip(protocol)
        return self.station(len(octets), vpn).cache.lookup(octets)


class Layer3World(World):
    """An underlay of machines that are configured by text."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.hosts: dict[str, Layer3Machine] = {}

    def add(
        self,
        address: str,
        text: str,
        *,
        device: tuple[str, ...] = (),
        scripts: IScripts | None = None,
    ) -> Layer3Machine:
        """Start a machine's daemon (again).

        :param text: of its control interface.
        :param scripts: what runs the operator's script there.
        :param device: protocol addresses of its kernel's GRE device; none: it has no device.
        """
        machine = self.hosts.get(address)
        if machine is None:
            octets = parse_ip(address)
            machine = self.hosts[address] = Layer3Machine(octets, ProcessClock(self.clock))
        if device:
            addresses = tuple(parse_prefix(each) for each in device)
            machine.tunnel = MemoryTunnel(self.clock, machine.address, addresses)
            self.devices[machine.address] = MemoryControlDevice(
                "gre1",
                GREDevice(
                    ifindex=7,
                    name="gre1",
                    up=True,
                    mtu=machine.tunnel.mtu,
                    key=None,
                    local=machine.address,
                    remote=b"",
                    addresses=addresses,
                ),
            )
        machine.scripts = scripts
        self._start(machine, self.plan(text, device=bool(device)))
        return machine

    def plan(self, text: str, *, device: bool = False) -> Plan:
        """The plan of a text about a control interface."""
        transport = "transport device" if device else "transport raw"
        found = check(f"interface gre1 {transport}\n{text}", "x.conf", "x")
        assert found.plan is not None, found.messages
        return found.plan

    def make_layer3(
        self,
        machine: Machine,
        plan: Layer3Plan,
        speaker: SpeakerPlan,
        device: IControlDevice | None,
    ) -> MemoryLayer3:
        """A GRE device is that of the default routing instance."""
        tunnel = machine.tunnel if isinstance(machine, Layer3Machine) and not plan.vpn else None
        return MemoryLayer3(machine.address, tunnel)

    def restart(self, machine: Layer3Machine, text: str) -> Node:
        """Make another configuration true by a reload."""
        assert machine.node is not None
        machine.node.apply(self.plan(text, device=machine.tunnel is not None))
        return machine.node
