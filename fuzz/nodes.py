"""Whole daemons that get packets, from the GRE header on.

A node lives on for a while, since tables that fill up and timers that run are part of the matter;
what it was sent so far is the input that shows a finding again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import ClassVar

from dmevpn.addresses import DEFAULT_OUI, VPNID, Path, parse_ip
from dmevpn.config.model import AuthenticationPlan, KeyPlan
from dmevpn.errors import Handshake, MalformedPacket, NHRPError
from dmevpn.metrics import Metrics
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.packet import decode_payload
from dmevpn.nhrp.replay import ReplayGuard
from dmevpn.roles.authentication import make_authenticator
from dmevpn.transport import gre
from fuzz.findings import Finding, Log
from fuzz.steps import DELAYS, Act, Step, as_sent, join, split
from tests.layer3 import Layer3World
from tests.vectors import NHRP, VECTORS
from tests.world import Machine, Site, World, mac

__all__ = ["Hub", "Keyed", "Layer3", "Node", "Spoke"]

#: Inputs after which a node is made anew.
LIFE = 256
#: Packets that one datagram, and the time before it, may make a node send. A hub of this size
#: has two members and answers each once; the longest delay has a spoke ask some dozens of times.
MOST_SENT = 2000

#: Who sends: the hub, the spoke, and strangers of both families.
_PEERS = tuple(parse_ip(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.66", "fe80::66"))
#: The same where the addresses of the vectors are at home.
_VECTOR_PEERS = tuple(
    parse_ip(text) for text in ("192.0.2.10", "192.0.2.20", "192.0.2.66", "fe80::66")
)
_STATIONS = tuple(mac(number) for number in range(16))
_VPN = VPNID(DEFAULT_OUI, 1)
#: Longer than the memory network takes from one end to the other, in seconds.
_TURN = 0.002


class Node:
    """One daemon in a world where the fuzzer speaks for everybody else."""

    name: ClassVar[str]
    tokens: ClassVar[tuple[bytes, ...]] = (
        b"\xaa\xaa\x03\x00\x00\x5e\x00\x08\x00\x02\x00\x00\x00\x00\x00\x01",
        b"\xaa\xaa\x03\x00\x00\x5e\x00\x08\x00\x00\x01\x00\x00\x00\x00\x01",
        b"\xaa\xaa\x03\x00\x00\x5e\x00\x03",
        b"\x80\x00\x00\x00",
        b"\x80\x03\x00\x00",
        b"\x80\x04\x00\x00",
        b"\x80\x05\x00\x00",
        b"\x80\x07\x00\x0a\x00\x00\x00\x01",
        b"\x00\x08\x00\x03",
        b"\x00\x09\x00\x00",
        b"\x00\x09\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00",
        b"\x00\x00\x00\x64",
        b"\x81\x00",
        b"\x65\x58",
        b"\x86\xdd",
        b"\x00\x80\x00\x00\x00\x08\x00",
        b"\x0a\x00\x00\x01",
        b"\x0a\x00\x00\x02",
        b"\x02\x00\x00\x00\x00\x01",
        b"\x02\x00\x00\x00\x00\x02",
    )
    peers: ClassVar[tuple[bytes, ...]] = _PEERS
    _world: World
    _site: Site

    def __init__(self) -> None:
        self._log = Log()
        self._log.begin()
        self.renew()

    def seeds(self) -> Iterator[bytes]:
        """Every vector as it is and in a VPN of ours, alone and after a frame."""
        for vector in VECTORS.values():
            if vector.layer != "nhrp":
                yield join([Step(vector.octets, raw=True)])
                continue
            yield join([Step(vector.octets, keep_size=True, keep_checksum=True)])
        for vector in NHRP:
            try:
                packet = decode_payload(vector.octets)[1]
            except MalformedPacket:
                continue
            octets = packet.encode(Form.RFC, _VPN)
            yield join([Step(octets, 1, act=Act.ANSWER)])
            yield join([Step(b"\x12", act=Act.FRAME), Step(octets, 0, 2, Act.ANSWER)])
        yield join([Step(bytes([number]), delay=3, act=Act.FRAME) for number in range(8)])
        yield join([Step(b"", delay=delay, act=Act.EVENT) for delay in range(len(DELAYS))])

    def renew(self) -> None:
        """A new node."""
        self._steps: list[Step] = []
        self._inputs = 0
        self._latest = b""
        self._machine = self._make()
        self._faults = [
            machine.metrics.dropped("internal_error") for machine in self._world.machines.values()
        ]

    def _make(self) -> Machine:
        """Make ``_world``, with the daemon that it returns as the only one."""
        raise NotImplementedError

    def history(self) -> bytes:
        """All steps of this node's life."""
        return join(self._steps)

    def run(self, data: bytes) -> int:
        """Let the node have an input."""
        if self._inputs >= LIFE:
            self.renew()
        self._inputs += 1
        packets = 0
        for step in split(data):
            self._steps.append(step)
            self._take(step)
            packets += 1
        return packets

    def _take(self, step: Step) -> None:
        world, address = self._world, self._machine.address
        sent = world.network.transmissions
        sent.clear()
        if step.delay:
            world.clock.advance(DELAYS[step.delay])
        if step.act is Act.FRAME:
            number = step.octets[0] if step.octets else 0
            self._frame(number >> 4, number & 0x0F)
        elif step.act is Act.EVENT:
            self._event(step.octets)
        self._send(as_sent(step, self._latest), step)
        world.clock.advance(_TURN)
        for each in sent:
            if each.source == address:
                self._latest = each.payload()
        if self._log.tracebacks or any([counter.value for counter in self._faults]):
            raise Finding("a packet met a fault of ours:\n" + "\n".join(self._log.tracebacks))
        if len(sent) > MOST_SENT:
            raise Finding(f"one datagram made {len(sent)} of it")

    def _send(self, packet: bytes, step: Step) -> None:
        """Deliver a GRE packet."""
        address = self._machine.address
        for transport in tuple(self._world.network._attached.get(address, ())):
            transport.packets_received(((packet, self.peers[step.peer], address),))

    def _frame(self, source: int, destination: int) -> None:
        """A station has something to say to another."""
        self._world.speak(self._site, _STATIONS[source], _STATIONS[destination])

    def _event(self, octets: bytes) -> None:
        """The data plane reports something."""


class Hub(Node):
    """A hub with one registered member, and another server upstream."""

    name = "hub"
    authentication: ClassVar[AuthenticationPlan | None] = None

    def _make(self) -> Machine:
        self._world = World(vpns=((1, 4),), authentication=self.authentication)
        hub = self._world.add_hub("10.0.0.1", "10.0.0.66")
        self._site = self._world.add_site("10.0.0.2", 100)
        self._world.run(0.1)
        self._world.kill(self._site.machine)
        return hub

    def _event(self, octets: bytes) -> None:
        assert self._machine.node is not None
        for hub in self._machine.node.hubs.values():
            hub.events_lost()


class Keyed(Hub):
    """The same with keys and protection against replay; its peers sign and take part in the
    handshake, unless a step says that its packet is sent as it is."""

    name = "keyed"
    authentication = AuthenticationPlan(
        keys=(KeyPlan(spi=256, algorithm="hmac-md5", secret=b"known to everybody"),)
    )

    def _make(self) -> Machine:
        machine = super()._make()
        assert self.authentication is not None
        self._mates = {
            peer: make_authenticator(self.authentication, ReplayGuard(self._world.clock, Metrics()))
            for peer in self.peers
        }
        return machine

    def _send(self, packet: bytes, step: Step) -> None:
        peer, address = self.peers[step.peer], self._machine.address
        mate = self._mates[peer]
        assert mate is not None
        path = Path(address, peer)
        if not (step.raw or step.keep_checksum):
            with suppress(MalformedPacket, ValueError):
                encapsulation, found = decode_payload(packet[4:])
                data = mate.sign(found, encapsulation.form, encapsulation.vpn_id, path, b"")
                packet = gre.encode(data, None)
        super()._send(packet, step)
        # An Error Indication about a protocol type that nobody knows is unreadable, too.
        for each in list(self._world.network.transmissions):
            if each.source != address or each.destination != peer:
                continue
            try:
                encapsulation, found = decode_payload(each.payload())
                mate.verify(found, encapsulation, path)
            except Handshake as handshake:
                for answer in handshake.answers:
                    again = mate.sign(*answer, b"")
                    super()._send(gre.encode(again, None), step)
            except NHRPError:
                continue


class Spoke(Node):
    """A spoke that is registered with a hub."""

    name = "spoke"

    def _make(self) -> Machine:
        self._world = World(vpns=((1, 4),))
        self._world.start_hub()
        self._site = self._world.add_site("10.0.0.2", 100)
        self._world.run(0.1)
        self._world.kill(self._world.hub)
        return self._site.machine


class Layer3(Node):
    """A router with IPv4 and IPv6 addresses on a GRE device: server of some, client of another."""

    name = "layer3"
    peers = _VECTOR_PEERS

    def _make(self) -> Machine:
        self._world = world = Layer3World()
        self._host = world.add(
            "192.0.2.1",
            """protocol-address 10.0.0.1/24 protocol-address 2001:db8:a::1/64
            map 10.0.0.20/24 192.0.2.20 register
            map 10.9.0.0/16 192.0.2.66
            shortcut-target 10.8.0.0/24
            shortcut redirect""",
            device=("10.0.0.1/24", "2001:db8:a::1/64"),
        )
        world.machines[self._host.address] = self._host
        world.run(0.1)
        return self._host

    def _frame(self, source: int, destination: int) -> None:
        assert self._host.tunnel is not None
        self._host.tunnel.send(bytes([10, source % 10, 0, destination]))

    def _event(self, octets: bytes) -> None:
        assert self._host.tunnel is not None
        self._host.tunnel.listener.detour_seen(octets, self.peers[0])
