"""Whole nodes on one clock: hubs, spokes and their stations, with wire and kernels in memory.

Frames travel as they would: from a station to its site's tables, from there to a VTEP or the hub,
from the hub's switch to members, each hop in its own VNI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from dmevpn.addresses import DEFAULT_OUI, VPNID, VTEP, parse_ip, parse_mac
from dmevpn.config.model import (
    AuthenticationPlan,
    HubPlan,
    Layer3Plan,
    NHSPlan,
    Plan,
    RoutePlan,
    SpeakerPlan,
    SpokePlan,
    TrunkPlan,
)
from dmevpn.dataplane.memory_device import MemoryControlDevice
from dmevpn.dataplane.memory_hub import MemoryHubDataplane, MemorySwitch
from dmevpn.dataplane.memory_layer3 import MemoryLayer3
from dmevpn.dataplane.memory_spoke import MemorySite, MemorySpokeDataplane
from dmevpn.interfaces import IControlDevice, IScripts
from dmevpn.metrics import Metrics
from dmevpn.nhrp.request_ids import TimeRequestIDStore
from dmevpn.roles.node import Drivers, Node
from dmevpn.statefile import MemoryStateStore
from dmevpn.transport.memory import MemoryNetwork, MemoryTransport

__all__ = ["Machine", "Site", "World", "mac"]

BROADCAST = b"\xff" * 6
#: EtherType of the loop probes of hubs.
PROBE = b"\x88\xb6"


def mac(number: int) -> bytes:
    """A station's address, told by its last octet."""
    return parse_mac(f"02:00:00:00:00:{number:02x}")


@implementer(IReactorTime)
class ProcessClock:
    """The world's clock as one process uses it, whose timers die with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[IDelayedCall] = []

    def seconds(self) -> float:
        """The world's time."""
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> IDelayedCall:
        """A timer of this process."""
        self._calls = self.getDelayedCalls()
        call = self._clock.callLater(delay, callable, *args, **kw)
        self._calls.append(call)
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """The timers of this process that have not fired."""
        return [call for call in self._calls if call.active()]

    def kill(self) -> None:
        """The process ends without a word."""
        for call in self.getDelayedCalls():
            call.cancel()


@dataclass
class Machine:
    """A host of the underlay that may run a node."""

    address: bytes
    clock: ProcessClock
    node: Node | None = None
    metrics: Metrics = field(default_factory=Metrics)
    dataplanes: list[MemoryHubDataplane | MemorySpokeDataplane] = field(default_factory=list)
    scripts: IScripts | None = None
    others: list[bytes] = field(default_factory=list)
    """Further addresses that it has."""


@dataclass
class Site:
    """One VPN at one machine."""

    machine: Machine
    vtep: VTEP
    kernel: MemorySite
    hubs: tuple[bytes, ...]
    """Addresses of the hubs that it registers with, by preference."""
    stations: set[bytes] = field(default_factory=set)
    mtu: int = 1450
    """Of its vxlan devices."""
    received: list[bytes] = field(default_factory=list)
    """Frames that reached the stations of the site."""

    @property
    def hub(self) -> bytes:
        """The one of them that is preferred."""
        return self.hubs[0]


class World:
    """An underlay with one hub and any number of sites.

    :param vpns: ranges that the hub serves.
    :param authentication: of all nodes.
    :param jitter: decides what the underlay loses.
    """

    def __init__(
        self,
        *,
        vpns: tuple[tuple[int, int], ...] = ((1, 1),),
        hub: str = "10.0.0.1",
        holding_time: int = 7200,
        authentication: AuthenticationPlan | None = None,
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, jitter)
        self.sites: dict[VTEP, Site] = {}
        self.machines: dict[bytes, Machine] = {}
        self.speaker = SpeakerPlan(
            interface="nhrp",
            holding_time=holding_time,
            authentication=authentication or AuthenticationPlan(),
        )
        self.hub = Machine(parse_ip(hub), ProcessClock(self.clock))
        self.machines[self.hub.address] = self.hub
        self.switch = MemorySwitch(self.clock, self._from_hub)
        self.switches = {self.hub.address: self.switch}
        self.cables: dict[VTEP, Site] = {}
        self.looped = 0
        self.hub_plan = Plan(
            speakers=(self.speaker,),
            hubs=(HubPlan(interface="vx0", controller="nhrp", vpns=vpns),),
        )
        self.devices: dict[bytes, MemoryControlDevice] = {}
        """Control devices, by the address of their machine; the others have raw sockets."""
        self.wall = 1_700_000_000.0
        """What wall clocks say at the beginning of the world; change it to set them."""
        self.blocked: set[bytes] = set()
        """Machines whose VXLAN frames reach no hub."""
        self.unreachable: set[tuple[bytes, bytes]] = set()
        """Hubs and machines of sites between which no VXLAN frame passes."""
        self.names: dict[str, Callable[[], Deferred[Any]]] = {}
        self.jitter: Callable[[], float] = lambda: 0.5
        """What nodes leave to chance."""
        self.states: dict[bytes, MemoryStateStore] = {}
        """What daemons have written down, by the address of their machine."""

    # --- making it ------------------------------------------------------------------------

    def start_hub(self) -> Node:
        """Start the hub's daemon (again)."""
        return self._start(self.hub, self.hub_plan)

    def add_hub(
        self, address: str, *upstream: str, trunks: tuple[str, ...] = (), keep_trunks: bool = False
    ) -> Machine:
        """Add and start another hub, or start the first one (again).

        :param upstream: servers to ask about MACs that it does not know, the preferred one first.
        :param trunks: the other hubs of its VPNs; or as the plan of hubs says.
        """
        octets = parse_ip(address)
        machine = self.machines.setdefault(octets, Machine(octets, ProcessClock(self.clock)))
        self.switches.setdefault(octets, MemorySwitch(self.clock, self._from_hub))
        routes = tuple(
            RoutePlan(protocol=bytes(6), prefix_length=0, nhs=parse_ip(each)) for each in upstream
        )
        (hub,) = self.hub_plan.hubs
        hub = replace(
            hub,
            routes=routes,
            trunks=hub.trunks
            if keep_trunks
            else tuple(TrunkPlan(address=parse_ip(each)) for each in trunks),
        )
        self._start(machine, replace(self.hub_plan, hubs=(hub,)))
        return machine

    def add_site(
        self,
        address: str,
        vni: int,
        *,
        vpn: int = 1,
        register: bool = True,
        start: bool = True,
        hub: Machine | None = None,
        hubs: tuple[Machine, ...] = (),
    ) -> Site:
        """Add a machine with a spoke for one VPN, or another VPN to a machine that has no node.

        :param hub: the one that it registers with; or by preference, ``hubs``.
        """
        octets = parse_ip(address)
        machine = self.machines.setdefault(octets, Machine(octets, ProcessClock(self.clock)))
        vtep = VTEP(octets, vni)
        at = tuple(each.address for each in hubs or (hub or self.hub,))
        site = self.sites[vtep] = Site(machine, vtep, MemorySite(self.clock), at)
        if start:
            self.start_site(site, vpn=vpn, register=register)
        return site

    def start_site(self, site: Site, *, vpn: int = 1, register: bool = True) -> Node:
        """Start the daemon of a site's machine (again)."""
        return self._start(site.machine, self.spoke_plan(site, vpn=vpn, register=register))

    def spoke_plan(self, site: Site, *, vpn: int = 1, register: bool = True) -> Plan:
        """What a site's daemon is configured for."""
        servers = tuple(
            NHSPlan(host="hub", address=each, register=register, flood=True) for each in site.hubs
        )
        spoke = SpokePlan(
            interface=f"vx{vpn}",
            controller="nhrp",
            vpn=VPNID(DEFAULT_OUI, vpn),
            vni=site.vtep.vni or 0,
            servers=servers,
            bridge="br1",
        )
        return Plan(speakers=(self.speaker,), spokes=(spoke,))

    def make_node(self, machine: Machine, plan: Plan) -> Node:
        """A node that is not started."""
        machine.metrics = Metrics()
        machine.clock = ProcessClock(self.clock)
        machine.dataplanes.clear()

        def spoke_dataplane(spoke: SpokePlan, speaker: SpeakerPlan) -> MemorySpokeDataplane:
            vtep = VTEP(speaker.nbma_address or machine.address, spoke.vni)
            if vtep not in self.sites:
                vtep = VTEP(machine.address, spoke.vni)
            dataplane = MemorySpokeDataplane(
                machine.clock,
                machine.metrics,
                self.sites[vtep].kernel,
                local_vtep=vtep,
                mtu=self.sites[vtep].mtu,
            )
            machine.dataplanes.append(dataplane)
            return dataplane

        def take_down(spoke: SpokePlan) -> None:
            self.sites[VTEP(machine.address, spoke.vni)].kernel.take_down()

        def hub_dataplane(hub: HubPlan, speaker: SpeakerPlan) -> MemoryHubDataplane:
            dataplane = MemoryHubDataplane(
                machine.clock,
                self.switches[machine.address],
                station_mac=b"\x02\x00" + machine.address[-4:],
                address=machine.address,
            )
            machine.dataplanes.append(dataplane)
            return dataplane

        return Node(
            plan=plan,
            clock=machine.clock,
            metrics=machine.metrics,
            drivers=Drivers(
                control_device=lambda speaker: self.devices.get(machine.address),
                transport=lambda speaker, device: MemoryTransport(
                    self.network,
                    machine.metrics,
                    [machine.address, *machine.others],
                    speaker.gre_key,
                    [key for key, _ in speaker.vpn_of_key],
                    speaker.request_rate,
                ),
                spoke_dataplane=spoke_dataplane,
                take_down=take_down,
                hub_dataplane=hub_dataplane,
                layer3_dataplane=partial(self.make_layer3, machine),
                resolve_host=self._resolve,
                request_ids=TimeRequestIDStore(self.wall_clock),
                jitter=lambda: self.jitter(),
                machine_id=b"test",
                wall_clock=self.wall_clock,
                scripts=machine.scripts,
                state=self.states.setdefault(machine.address, MemoryStateStore()),
            ),
        )

    def make_layer3(
        self,
        machine: Machine,
        plan: Layer3Plan,
        speaker: SpeakerPlan,
        device: IControlDevice | None,
    ) -> MemoryLayer3:
        """The layer 3 data plane of a machine: it has no GRE device."""
        return MemoryLayer3(machine.address)

    def wall_clock(self) -> float:
        """Seconds since 1970, as all machines believe."""
        return self.wall + self.clock.seconds()

    def _resolve(self, name: str, family: int | None) -> Deferred[tuple[bytes, ...]]:
        """Names have one address or a tuple of them."""

        def of_family(found: Any) -> tuple[bytes, ...]:
            addresses = (found,) if isinstance(found, bytes) else found
            return tuple(each for each in addresses if family in (None, len(each)))

        found: Deferred[Any] = self.names[name]()
        return found.addCallback(of_family)

    def _start(self, machine: Machine, plan: Plan) -> Node:
        machine.node = self.make_node(machine, plan)
        machine.node.privilegedStartService()
        machine.node.startService()
        return machine.node

    def kill(self, machine: Machine) -> None:
        """Let a daemon vanish as ``kill -9`` does: kernels go on, timers and sockets are gone."""
        assert machine.node is not None
        for speaker in machine.node.speakers.values():
            speaker.stop()
        for dataplane in machine.dataplanes:
            dataplane.kill()
        machine.node = None
        machine.clock.kill()

    def lose_power(self, machine: Machine) -> None:
        """Let a machine lose what daemon and kernel know, but not what is on its disk."""
        if machine.node is not None:
            self.kill(machine)
        store = self.states.get(machine.address)
        if store is not None:
            store.boot += "'"
            store.journal.clear()
        switch = self.switches.get(machine.address)
        if switch is not None:
            switch.attached = False
            switch.vpns.clear()
            switch.members.clear()
            switch.events.clear()
        for site in self.sites.values():
            if site.machine is machine:
                site.kernel.rows.clear()
                site.kernel.flood = ()

    # --- living in it -----------------------------------------------------------------------

    def run(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def speak(self, site: Site, source: bytes, destination: bytes = BROADCAST) -> None:
        """A station of a site sends a frame."""
        site.stations.add(source)
        site.kernel.speak(source)
        frame = destination + source
        target = site.kernel.send(destination)
        if isinstance(target, VTEP):
            self._arrive(target, frame)
        elif (
            target in self.switches
            and site.machine.address not in self.blocked
            and (target, site.machine.address) not in self.unreachable
        ):
            self.switches[target].receive(site.vtep, frame)
            far = self.cables.get(site.vtep, site)
            if far is not site and frame[0] & 1:
                self.clock.callLater(0.001, self._flood, far, frame)

    def exchange(self, one: Site, a: bytes, other: Site, b: bytes) -> None:
        """Two stations speak as hosts do: a question to all, an answer, then more of both."""
        self.speak(one, a)
        self.speak(other, b, a)
        self.run(0.2)
        self.speak(one, a, b)
        self.run(0.2)
        self.speak(other, b, a)
        self.run(0.2)

    def path(self, site: Site, destination: bytes) -> VTEP | bytes | None:
        """Where a frame for a station would go now, without sending one."""
        row = site.kernel.rows.get(destination)
        return site.hub if row is None or row.vtep is None else row.vtep

    def connect(self, one: Site, other: Site) -> None:
        """Lay a cable between the bridges of two sites, behind the hubs' back: what one of them or
        a hub floods is flooded by the other. Once more takes it away."""
        for end, far in ((one, other), (other, one)):
            if self.cables.pop(end.vtep, None) is None:
                self.cables[end.vtep] = far

    def _flood(self, site: Site, frame: bytes) -> None:
        """A site's bridge floods what came by a cable."""
        for hub in site.kernel.flood:
            self.switches[hub].receive(site.vtep, frame)

    def _from_hub(self, local: bytes, vtep: VTEP, frame: bytes) -> None:
        is_probe = frame[12:14] == PROBE
        far = self.cables.get(vtep)
        if far is not None and (is_probe or frame[0] & 1):
            self.looped += 1
            self.clock.callLater(0.001, self._flood, far, frame)
        switch = self.switches.get(vtep.nbma)
        if switch is not None:
            if self.network.connected(local, vtep.nbma):
                switch.receive(VTEP(local, vtep.vni), frame)
        elif not is_probe and (local, vtep.nbma) not in self.unreachable:
            self._arrive(vtep, frame)

    def _arrive(self, vtep: VTEP, frame: bytes) -> None:
        site = self.sites.get(vtep)
        if site is not None:
            site.received.append(frame)
