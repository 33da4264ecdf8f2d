"""A world that is treated badly: two hubs, two VPNs with the same stations, and what may befall
them. Everything follows from the moves that are made and one seed.

Frames know which VPN they were sent in, so that one which arrives in another is seen at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import (
    AuthenticationPlan,
    KeepalivePlan,
    KeyPlan,
    NHSPlan,
    Plan,
)
from dmevpn.dataplane.memory_switch import MemorySwitch
from dmevpn.interfaces import VPNRules
from dmevpn.nhrp.cache import Kind
from dmevpn.nhrp.registration import State
from dmevpn.roles.hub import HubRole
from dmevpn.roles.spoke import SpokeRole
from dmevpn.transport import gre
from tests.world import BROADCAST, Machine, Site, World, mac

__all__ = ["DAMAGES", "HOLDING_TIME", "KEEPALIVE", "Station", "TorturedWorld"]

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

#: How much higher the VNI of a site is in the second VPN: a VTEP is never in both.
_OTHER_VPN = 50

#: Where both ends have to prove that what they send is theirs, and new.
_KEYED = AuthenticationPlan(keys=(KeyPlan(spi=2, algorithm="hmac-sha-256", secret=bytes(16)),))

#: What can become of the file in which a daemon keeps what its successor should know.
DAMAGES = ("lost", "torn", "spoilt", "foreign", "old")

#: Octets of a packet that NHRP's checksum does not cover: headers of GRE and of the VPN.
_UNCOVERED = 4 + 24

#: Timers of all daemons and packets under way; more are a leak.
_MOST_TIMERS = 3000

#: A VPN and a MAC: the same MACs are in both.
Station = tuple[int, bytes]


class TorturedWorld(World):
    """Sites that register with two hubs, and stations that know where they are. Half of the worlds
    have keepalives, a quarter have keys and replay protection. In half of them the hubs have a
    trunk, and some sites know only one hub.

    :ivar trunked: whether they have.
    :ivar homes: the site that each station is at.
    :ivar vpn_of: the VPN of each VTEP that a site has or had.
    """

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        super().__init__(
            vpns=((1, 2),),
            hub=_HUBS[0],
            holding_time=HOLDING_TIME,
            authentication=_KEYED if self.chance.random() < 0.25 else None,
            jitter=self.chance.random,
        )
        if self.chance.random() < 0.5:
            self.speaker = replace(self.speaker, keepalive=KEEPALIVE)
        self.trunked = self.chance.random() < 0.5
        self._known: dict[bytes, tuple[str, ...]] = {}
        self._copies: dict[bytes, bytes | None] = {}
        self.homes: dict[Station, Site] = {}
        self.vpn_of: dict[VTEP, int] = {}
        self._speaking = 0
        self._clones: list[tuple[Site, Station]] = []
        self.hubs = [self._start_hub(address) for address in _HUBS]
        for address, vni, vpn, stations in _SITES:
            self.vpn_of[VTEP(parse_ip(address), vni)] = vpn
            known = self.chance.choice((_HUBS, _HUBS[:1], _HUBS[1:])) if self.trunked else _HUBS
            self._known[parse_ip(address)] = known
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
            for host in self._known[site.vtep.nbma]
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

    def stop(self, machine: Machine, *, leaving: bool = False) -> None:
        """Stop a daemon in order; at once nothing is left of it, or all that forwards.

        :param leaving: whether it leaves what forwards to its successor.
        """
        if machine.node is None:
            return
        machine.node.leaving = leaving
        before = self._forwarding(machine)
        stopped: list[object] = []
        machine.node.stopService().addBoth(stopped.append)
        after = self._forwarding(machine)
        assert after == before if leaving else not any(after)
        self.run(0.5)
        assert stopped == [None]
        assert machine.clock.getDelayedCalls() == []
        machine.node = None

    def _forwarding(self, machine: Machine) -> list[object]:
        """What stands in a machine's kernel on behalf of its daemon."""
        found: list[object] = []
        for site in self.places:
            if site.machine is machine:
                found += [dict(site.kernel.rows), site.kernel.flood]
        switch = self.switches.get(machine.address)
        if switch is not None:
            found.append(dict.fromkeys(switch.members))
        return found

    def reload(self, machine: Machine, plan: Plan) -> None:
        """Give a daemon another plan."""
        assert machine.node is not None
        done: list[object] = []
        machine.node.apply(plan).addBoth(done.append)
        self.run(0.1)
        assert done == [None] and machine.node.plan == plan

    def change_speaker(self, machine: Machine, **changes: object) -> None:
        """Give the control interface of a machine another plan, if its daemon runs."""
        if machine.node is not None:
            plan = machine.node.plan
            speakers = tuple(replace(each, **changes) for each in plan.speakers)  # type: ignore[arg-type]
            self.reload(machine, replace(plan, speakers=speakers))

    def serve(self, hub: Machine, vpns: tuple[tuple[int, int], ...]) -> None:
        """Have a hub serve these VPNs, if its daemon runs."""
        if hub.node is not None:
            hubs = tuple(replace(each, vpns=vpns) for each in hub.node.plan.hubs)
            self.reload(hub, replace(hub.node.plan, hubs=hubs))

    def empty(self, machine: Machine) -> None:
        """Take everything out of a daemon's file, and put it back."""
        if machine.node is not None:
            plan = machine.node.plan
            self.reload(machine, Plan())
            assert not any(self._forwarding(machine))
            # It looks at its wall clock, and writes down what it knows.
            assert len(machine.clock.getDelayedCalls()) <= 2
            self.reload(machine, plan)

    def damage(self, machine: Machine, how: str) -> None:
        """Let the file be lost, spoilt or replaced by an older one that a daemon keeps for its
        successor.

        :param how: one of DAMAGES.
        """
        store = self.states[machine.address]
        octets = store.octets
        if octets is None:
            return
        if how == "lost":
            store.octets = None
        elif how == "torn":
            store.octets = octets[: self.chance.randrange(len(octets))]
        elif how == "spoilt":
            at = self.chance.randrange(len(octets))
            store.octets = octets[:at] + bytes([octets[at] ^ 0x55]) + octets[at + 1 :]
        elif how == "foreign":
            store.octets = b"#!/bin/sh\n"
        else:
            store.octets = self._copies.get(machine.address, octets)
            self._copies[machine.address] = octets

    def pester(self, site: Site, hub: Machine, count: int) -> None:
        """Send a hub packets in the name of a site, all at once, each with one octet wrong or
        without its end.

        What is changed is under the checksum: whoever can forge a whole packet may do anything,
        where there are no keys.
        """
        sent = [each.packet for each in self.network.transmissions[-50:]]
        for _ in range(count):
            packet = bytearray(self.chance.choice(sent) if sent else gre.encode(bytes(60), None))
            at = self.chance.randrange(min(_UNCOVERED, len(packet) - 1), len(packet))
            if self.chance.random() < 0.5:
                packet[at] ^= 0x55
            else:
                del packet[at:]
            self.network.transmit(site.vtep.nbma, hub.address, bytes(packet))

    def know(self, site: Site) -> None:
        """Have a site register with other hubs, or prefer another one; or all sites, where hubs do
        not know each other: there, all have to prefer the same one."""
        if self.trunked:
            self._reorder(site, self.chance.sample(_HUBS, self.chance.choice((1, 2))))
            return
        for each in self.places:
            self._reorder(each, self._known[each.vtep.nbma][::-1])

    def _reorder(self, site: Site, known: Sequence[str]) -> None:
        self._known[site.vtep.nbma] = tuple(known)
        node = site.machine.node
        if node is not None:
            spokes = self.spoke_plan(site, vpn=self.vpn_of[site.vtep]).spokes
            self.reload(site.machine, replace(node.plan, spokes=spokes))

    def assign(self, site: Site) -> None:
        """Move a site that runs to the other VPN by its file; its stations move away before.

        It does nothing if the last two sites of the VPN would be one.
        """
        vpn, node = self.vpn_of[site.vtep], site.machine.node
        others = [each for each in self.sites_of(vpn) if each is not site]
        if node is None or len(others) < 2:
            return
        for station in [each for each, home in self.homes.items() if home is site]:
            self.move(station, self.chance.choice(others))
        self.run(0.1)
        old = site.vtep
        offset = _OTHER_VPN if vpn == 1 else -_OTHER_VPN
        new = site.vtep = VTEP(old.nbma, (old.vni or 0) + offset)
        del self.sites[old]
        self.sites[new] = site
        self.vpn_of[new] = 3 - vpn
        site.kernel.local.clear()
        spokes = self.spoke_plan(site, vpn=3 - vpn).spokes
        self.reload(site.machine, replace(node.plan, spokes=spokes))

    def duplicate(self, station: Station, site: Site, times: int) -> None:
        """Let somebody at another site have the MAC of a station: both speak in turn."""
        for _ in range(times):
            self._speaking = station[0]
            self.speak(site, station[1])
            self.run(0.2)
            self.say(station)
            self.run(0.2)
        self._clones.append((site, station))

    def drain(self, hub: Machine, *, over: bool) -> None:
        """Take a hub out of service, or end that."""
        for role in self.roles_of(hub):
            role.drain.end() if over else role.drain.begin()
        self.run(0.1)

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
        site = self.sites.get(vtep)
        if site is not None and site.kernel.up:
            super()._arrive(vtep, frame)

    def heal(self) -> None:
        """End all faults: everything runs, no packet is lost, and each MAC is there once."""
        self.network.heal()
        self.network.loss = self.network.duplication = self.network.delay_variation = 0.0
        for site in self.places:
            site.kernel.set_up(True)
        for site, station in self._clones:
            if self.homes[station] is not site:
                site.kernel.local.discard(station[1])
        self._clones.clear()
        for machine in self.machines.values():
            self.restart(machine)
            self.change_speaker(machine, request_rate=self.speaker.request_rate)
        for hub in self.hubs:
            self.serve(hub, ((1, 2),))
            self.drain(hub, over=True)

    def wait(self) -> None:
        """Let the time pass for which faults that are over have effects by design."""
        for _ in range(300):
            pauses = [*self._holds(), *self._refusals(), *self._departures()]
            if not pauses:
                return
            for station in self.homes:
                self.say(station)
            self.run(5, step=0.5)
            self.check()
        raise AssertionError(f"a pause does not end: {pauses}")

    def _holds(self) -> Iterator[str]:
        """MACs that are held at a place since they were at two."""
        for hub in self.hubs:
            for held in self.switches[hub.address].held():
                yield f"{held} at {hub.address.hex()}"

    def _refusals(self) -> Iterator[str]:
        """Sites that wait since a hub did not serve their VPN."""
        for site, role in self.roles():
            for client in role.registrations:
                if client.state is State.REFUSED and "vpn unsupported" in (client.last_error or ""):
                    yield f"{site.vtep} is refused by {client.nhs.hex()}"

    def _departures(self) -> Iterator[str]:
        """Sites that a hub had when it was drained, and that were told to leave it for good: it
        waits for them for a while."""
        for hub in self.hubs:
            for role in self.roles_of(hub):
                for vpn in [each for each in role.vpns.values() if each.lingering.open]:
                    for vtep in (*vpn.members, *(each.vtep for each in vpn.lingering)):
                        if vtep in self.sites and hub.address not in map(
                            parse_ip, self._known[vtep.nbma]
                        ):
                            yield f"{vtep} was expected to come back to {hub.address.hex()}"

    def is_settled(self, station: Station) -> bool:
        """Whether a station may move once more without being taken for a duplicate."""
        rules = VPNRules()
        now = self.clock.seconds()
        for hub in self.hubs:
            entry = self.switches[hub.address].vpns.get(station[0], {}).get(station[1])
            if (
                entry is not None
                and now - entry.mark <= rules.moves_seconds
                and entry.moves > rules.moves - 2
            ):
                return False
        return True

    @property
    def all_is_heard(self) -> bool:
        """Whether every hub that is asked for stations hears what the sites of their VPN flood:
        hubs have a trunk, or all sites of a VPN flood by the same one."""
        if self.trunked:
            return True
        carriers = {(self.vpn_of[site.vtep], site.kernel.flood) for site in self.places}
        return len(carriers) == len({vpn for vpn, _ in carriers})

    @property
    def all_know_both(self) -> bool:
        """Whether every site has another hub if one is lost."""
        return all(len(self._known[site.vtep.nbma]) == len(_HUBS) for site in self.places)

    def noticed_after(self) -> int:
        """Seconds within which all sites leave a hub that is silent: three keepalives, or three
        requests after a third of the holding time."""
        nodes = [site.machine.node for site in self.places]
        kept = all(
            speaker.keepalive
            for node in nodes
            if node is not None
            for speaker in node.plan.speakers
        )
        return 3 * KEEPALIVE.interval // 1000 + 1 if kept else HOLDING_TIME // 3 + 8

    # --- what must hold -----------------------------------------------------------------------

    def roles(self) -> Iterator[tuple[Site, SpokeRole]]:
        """The spokes that run."""
        for site in self.places:
            if site.machine.node is not None:
                for role in site.machine.node.spokes.values():
                    yield site, role

    def sites_of(self, vpn: int) -> list[Site]:
        """The sites of a VPN."""
        return [site for site in self.places if self.vpn_of[site.vtep] == vpn]

    def roles_of(self, hub: Machine) -> list[HubRole]:
        """The hub role of a machine, if its daemon runs."""
        return [] if hub.node is None else list(hub.node.hubs.values())

    def check(self) -> None:
        """What holds at any time, whatever has happened.

        Every shortcut has an answer behind it that has not run out, and names another site of the
        same VPN; a site floods to one of its hubs at most; a hub's switch lets nobody in but who is
        registered in a VPN that is served, and for no longer than that; timers do not pile up.
        """
        now = self.clock.seconds()
        assert len(self.clock.getDelayedCalls()) <= _MOST_TIMERS
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
            assert len(site.kernel.flood) <= 1
            assert {*site.kernel.flood} <= {parse_ip(host) for host in self._known[site.vtep.nbma]}
        for hub in self.hubs:
            for hub_role in self.roles_of(hub):
                self._check_hub(hub_role, self.switches[hub.address])

    def _check_hub(self, role: HubRole, switch: MemorySwitch) -> None:
        now = self.clock.seconds()
        admitted = {}
        for index, vpn in role.vpns.items():
            assert any(first <= index <= last for first, last in role.plan.vpns)
            registered = {
                binding.vtep: binding.expires or 0.0
                for binding in vpn.cache.bindings()
                if binding.kind is Kind.DYNAMIC
            }
            assert vpn.members.keys() == registered.keys()
            for vtep, end in registered.items():
                assert vtep is not None and now < end <= now + HOLDING_TIME
                assert self.vpn_of.get(vtep, index) == index
                admitted[vtep] = index
        # Those that have left a hub that is drained are still given what others flood.
        for vtep, member in switch.members.items():
            if vtep not in admitted and vtep in role.vpns[member.vpn].lingering:
                admitted[vtep] = member.vpn
        assert {vtep: member.vpn for vtep, member in switch.members.items()} == admitted

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
