"""A world that is treated badly: two hubs, two VPNs with the same stations, and what may befall
them. Everything follows from the moves that are made and one seed.

Frames know which VPN they were sent in, so that one which arrives in another is seen at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import KeepalivePlan, NHSPlan, Plan
from dmevpn.nhrp.cache import Kind
from dmevpn.roles.spoke import SpokeRole
from tests.world import BROADCAST, Machine, Site, World, mac

__all__ = ["HOLDING_TIME", "KEEPALIVE", "Station", "TorturedWorld"]

#: Seconds that registrations, and so the answers that name them, are good for.
HOLDING_TIME = 60

#: Of the sites of every second world; more often would only take longer.
KEEPALIVE = KeepalivePlan(interval=2000)

_HUBS = ("10.0.0.1", "10.0.1.1")
#: Address, VNI and VPN of each site, and how many stations it has. The VNIs are used twice.
_SITES = (
    ("10.0.0.2", 100, 1, 2),
    ("10.0.0.3", 101, 1, 1),
    ("10.0.0.4", 102, 1, 1),
    ("10.0.0.5", 100, 2, 1),
    ("10.0.0.6", 101, 2, 2),
)

#: A VPN and a MAC: the same MACs are in both.
Station = tuple[int, bytes]


class TorturedWorld(World):
    """Sites that register with two hubs, and stations that know where they are. Half of the worlds
    have keepalives. In half of them the hubs have a trunk, and some sites know only one hub.

    :ivar trunked: whether they have.
    :ivar homes: the site that each station is at.
    :ivar vpn_of: the VPN of each site.
    """

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        super().__init__(
            vpns=((1, 2),),
            hub=_HUBS[0],
            holding_time=HOLDING_TIME,
            jitter=self.chance.random,
        )
        if self.chance.random() < 0.5:
            self.speaker = replace(self.speaker, keepalive=KEEPALIVE)
        self.trunked = self.chance.random() < 0.5
        self._known: dict[VTEP, tuple[str, ...]] = {}
        self.homes: dict[Station, Site] = {}
        self.vpn_of: dict[VTEP, int] = {}
        self._speaking = 0
        self.hubs = [self._start_hub(address) for address in _HUBS]
        for address, vni, vpn, stations in _SITES:
            self.vpn_of[VTEP(parse_ip(address), vni)] = vpn
            known = self.chance.choice((_HUBS, _HUBS[:1], _HUBS[1:])) if self.trunked else _HUBS
            self._known[VTEP(parse_ip(address), vni)] = known
            site = self.add_site(address, vni, vpn=vpn)
            for _ in range(stations):
                number = sum(each == vpn for each, _ in self.homes) + 1
                self.homes[vpn, mac(number)] = site
        self.places = list(self.sites.values())
        self.run(1)

    def _start_hub(self, address: str) -> Machine:
        others = tuple(each for each in _HUBS if each != address)
        return self.add_hub(address, trunks=others if self.trunked else ())

    def spoke_plan(self, site: Site, *, vpn: int = 1, register: bool = True) -> Plan:
        """The hubs that the site knows are servers; the first is preferred."""
        plan = super().spoke_plan(site, vpn=vpn, register=register)
        servers = tuple(
            NHSPlan(host=host, address=parse_ip(host), register=register, flood=True)
            for host in self._known[site.vtep]
        )
        return replace(plan, spokes=tuple(replace(each, servers=servers) for each in plan.spokes))

    # --- what befalls it ----------------------------------------------------------------------

    def restart(self, machine: Machine) -> None:
        """Start the daemon of a machine, if it does not run."""
        if machine.node is not None:
            return
        if machine in self.hubs:
            self._start_hub(_HUBS[self.hubs.index(machine)])
            return
        for site in self.places:
            if site.machine is machine:
                self.start_site(site, vpn=self.vpn_of[site.vtep])

    def stop(self, machine: Machine) -> None:
        """Stop a daemon in order."""
        if machine.node is not None:
            machine.node.stopService()
            self.run(0.5)
            machine.node = None

    def move(self, station: Station, site: Site) -> None:
        """Let a station be at another site of its VPN, and say so as its hypervisor would."""
        self.homes[station].kernel.local.discard(station[1])
        self.homes[station] = site
        self.say(station)

    def say(self, station: Station, destination: bytes = BROADCAST) -> list[Site]:
        """Let a station send a frame; the sites where it arrived."""
        before = {site.vtep: len(site.received) for site in self.places}
        self._speaking = station[0]
        self.speak(self.homes[station], station[1], destination)
        return [site for site in self.places if len(site.received) > before[site.vtep]]

    def _arrive(self, vtep: VTEP, frame: bytes) -> None:
        assert self.vpn_of[vtep] == self._speaking, f"a frame of VPN {self._speaking} at {vtep}"
        if self.sites[vtep].kernel.up:
            super()._arrive(vtep, frame)

    def heal(self) -> None:
        """End all faults: everything runs, and no packet is lost."""
        self.network.heal()
        self.network.loss = self.network.duplication = self.network.delay_variation = 0.0
        for site in self.places:
            site.kernel.set_up(True)
        for machine in self.machines.values():
            self.restart(machine)

    # --- what must hold -----------------------------------------------------------------------

    def roles(self) -> Iterator[tuple[Site, SpokeRole]]:
        """The spokes that run."""
        for site in self.places:
            if site.machine.node is not None:
                for role in site.machine.node.spokes.values():
                    yield site, role

    def check(self) -> None:
        """What holds at any time, whatever has happened.

        Every shortcut has an answer behind it that has not run out, and names another site of the
        same VPN; a hub's switch lets nobody in but who is registered.
        """
        now = self.clock.seconds()
        for site, role in self.roles():
            bindings = {binding.protocol: binding for binding in role.cache.bindings()}
            for address, row in site.kernel.rows.items():
                binding = bindings.get(address)
                assert binding is not None, f"an entry of {site.vtep} without a reason"
                if row.vtep is None:
                    continue
                assert binding.kind is Kind.CACHED and binding.vtep == row.vtep
                assert binding.expires is not None and now < binding.expires <= now + HOLDING_TIME
                assert row.vtep != site.vtep
                assert self.vpn_of[row.vtep] == self.vpn_of[site.vtep]
        for hub in self.hubs:
            if hub.node is not None:
                members = {
                    vtep for vpn in hub.node.hubs["vx0"].vpns.values() for vtep in vpn.members
                }
                assert set(self.switches[hub.address].members) == members

    def wrong(self) -> list[str]:
        """Shortcuts that lead to where their station is not, pairs that cannot speak, and
        broadcasts that do not arrive exactly once at every other site."""
        found = []
        for station, home in self.homes.items():
            before = {site.vtep: len(site.received) for site in self.places}
            self.say(station)
            for site in self.places:
                times = len(site.received) - before[site.vtep]
                if times != (self.vpn_of[site.vtep] == station[0] and site is not home):
                    found.append(f"{site.vtep} hears {station[1].hex()} {times} times")
        for vpn, address in self.homes:
            home = self.homes[vpn, address]
            for site in self.places:
                row = site.kernel.rows.get(address)
                if self.vpn_of[site.vtep] == vpn and row and row.vtep not in (None, home.vtep):
                    found.append(f"{site.vtep} has {address.hex()} at {row.vtep}")
            for other in self.homes:
                away = self.homes[other]
                if other[0] == vpn and away is not home and home not in self.say(other, address):
                    found.append(f"{other[1].hex()} does not reach {address.hex()}")
        return found
