"""The readers of octets from outside, as functions of octets.

``run`` raises what it finds, and returns how many packets, messages or files it was. The nodes
live on for a while, since tables that fill up and timers that run are part of the matter; what
they were told so far is the input that shows a finding again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path as FilePath
from typing import ClassVar, Protocol

from dmevpn.addresses import DEFAULT_OUI, VPNID, parse_ip
from dmevpn.config.grammar import KEYWORDS
from dmevpn.config.parser import mask_secrets
from dmevpn.config.resolve import check
from dmevpn.dataplane.links import parse_links
from dmevpn.dataplane.neighbours import (
    bridge_add,
    bridge_delete,
    flood_append,
    parse_entries,
    parse_miss,
    self_set,
)
from dmevpn.dataplane.netlink import parse_attributes
from dmevpn.errors import MalformedPacket
from dmevpn.nhrp.encapsulation import Form
from dmevpn.nhrp.packet import decode_payload
from dmevpn.transport.rawgre import split_ipv4
from fuzz.findings import Finding, Log
from fuzz.steps import DELAYS, Act, Step, as_sent, join, split
from tests.vectors import NHRP, VECTORS
from tests.world import Machine, World, mac

__all__ = ["TARGETS", "Target"]

ROOT = FilePath(__file__).resolve().parent.parent

#: Inputs after which a node is made anew.
LIFE = 256
#: Packets that one datagram, and the time before it, may make a node send. A hub of this size
#: has two members and answers each once; the longest delay has a spoke ask some dozens of times.
MOST_SENT = 2000

#: Who sends: the hub, the spoke, and strangers of both families.
_PEERS = tuple(parse_ip(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.66", "fe80::66"))
_STATIONS = tuple(mac(number) for number in range(16))
#: Longer than the memory network takes from one end to the other, in seconds.
_TURN = 0.002


class Target(Protocol):
    """One reader of octets."""

    name: ClassVar[str]
    tokens: ClassVar[tuple[bytes, ...]]
    """Octets that mean something to it, for the fuzzer's dictionary."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with."""

    def run(self, data: bytes) -> int:
        """Read an input; how many packets it was.

        :raises Exception: what is found.
        """

    def history(self) -> bytes:
        """The input that has the same effect on a new target as all since this one was new."""

    def renew(self) -> None:
        """Forget the history."""


_WORDS = (
    b"\xaa\xaa\x03\x00\x00\x5e\x00\x08\x00\x02\x00\x00\x00\x00\x00\x01\xaa\xaa\x03\x00\x00\x5e\x00\x03",
    b"\xaa\xaa\x03\x00\x00\x5e\x00\x08\x00\x00\x01\x00\x00\x00\x00\x01\xaa\xaa\x03\x00\x00\x5e\x00\x08",
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


class _Node:
    """A hub and a spoke on one clock, and the packets that one of them gets."""

    name: ClassVar[str]
    tokens: ClassVar[tuple[bytes, ...]] = _WORDS

    def __init__(self) -> None:
        self._log = Log()
        self._log.begin()
        self.renew()

    def seeds(self) -> Iterator[bytes]:
        """Every vector as it is and in our VPN, alone and after a registration."""
        ours = VPNID(DEFAULT_OUI, 1)
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
            octets = packet.encode(Form.RFC, ours)
            yield join([Step(octets, 1, act=Act.ANSWER)])
            yield join([Step(b"\x12", act=Act.FRAME), Step(octets, 0, 2, Act.ANSWER)])
        yield join([Step(bytes([number]), delay=3, act=Act.FRAME) for number in range(8)])
        yield join([Step(b"", delay=delay, act=Act.LOSS) for delay in range(len(DELAYS))])

    def renew(self) -> None:
        """A new hub and a new spoke, which is registered."""
        self._steps: list[Step] = []
        self._latest = b""
        self._inputs = 0
        self._world = World(vpns=((1, 4),))
        self._world.start_hub()
        self._site = self._world.add_site("10.0.0.2", 100)
        self._world.run(0.1)
        self._prepare()
        self._machine = self._node()
        self._faults = [
            machine.metrics.dropped("internal_error") for machine in self._world.machines.values()
        ]

    def _prepare(self) -> None:
        """End the other node: the fuzzer speaks for everybody else."""
        raise NotImplementedError

    def _node(self) -> Machine:
        """Whom the packets go to."""
        raise NotImplementedError

    def history(self) -> bytes:
        """All steps of this node's life."""
        return join(self._steps)

    def run(self, data: bytes) -> int:
        """Let a node have an input."""
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
        latest = self._latest
        sent.clear()
        if step.delay:
            world.clock.advance(DELAYS[step.delay])
        if step.act is Act.FRAME:
            number = step.octets[0] if step.octets else 0
            world.speak(self._site, _STATIONS[number >> 4], _STATIONS[number & 0x0F])
        elif step.act is Act.LOSS:
            self._lose()
        packet = as_sent(step, latest)
        for transport in tuple(world.network._attached.get(address, ())):
            transport.packet_received(packet, _PEERS[step.peer], address)
        world.clock.advance(_TURN)
        for each in sent:
            if each.source == address:
                self._latest = each.payload()
        if self._log.tracebacks or any([counter.value for counter in self._faults]):
            raise Finding("a packet met a fault of ours:\n" + "\n".join(self._log.tracebacks))
        if len(sent) > MOST_SENT:
            raise Finding(f"one datagram made {len(sent)} of it")

    def _lose(self) -> None:
        """An overrun."""


class Hub(_Node):
    """A hub's daemon, from the GRE header on."""

    name = "hub"

    def _prepare(self) -> None:
        self._world.kill(self._site.machine)

    def _node(self) -> Machine:
        return self._world.hub

    def _lose(self) -> None:
        node = self._world.hub.node
        assert node is not None
        for hub in node.hubs.values():
            hub.events_lost()


class Spoke(_Node):
    """A spoke's daemon, from the GRE header on."""

    name = "spoke"

    def _prepare(self) -> None:
        self._world.kill(self._world.hub)

    def _node(self) -> Machine:
        return self._site.machine


class _Stateless:
    """A reader that keeps nothing: what shows a finding again is the input alone."""

    def __init__(self) -> None:
        self._latest = b""

    def history(self) -> bytes:
        """The latest input."""
        return self._latest

    def renew(self) -> None:
        """There is nothing to forget."""


class Config(_Stateless):
    """The reader of configuration files, up to the plan, and what masks secrets in them."""

    name: ClassVar[str] = "config"
    tokens: ClassVar[tuple[bytes, ...]] = tuple(word.encode() for word in sorted(KEYWORDS))

    def seeds(self) -> Iterator[bytes]:
        """Every example that we ship."""
        for path in sorted((ROOT / "etc").rglob("*.conf")):
            yield path.read_bytes()

    def run(self, data: bytes) -> int:
        """Read a text as a file; all its mistakes are messages."""
        self._latest = data
        text = data.decode("utf-8", "surrogateescape")
        found = check(text, "fuzz.conf", "fuzz")
        if (found.plan is None) != bool(found.errors):
            raise Finding("there is a plan although there are errors, or neither")
        for message in found.messages:
            if "\n" in message:
                raise Finding(f"a message of several lines: {message!r}")
        mask_secrets(text)
        return 1


class Netlink(_Stateless):
    """The readers of the kernel's messages: neighbours, links, attributes, raw IPv4 packets."""

    name: ClassVar[str] = "netlink"
    tokens: ClassVar[tuple[bytes, ...]] = tuple(
        each.to_bytes(2, "little") for each in (16, 17, 18, 20, 28, 29, 30, 7, 10)
    )

    def seeds(self) -> Iterator[bytes]:
        """Messages as we write them, which are also as the kernel writes them."""
        nbma, station = bytes([10, 0, 0, 2]), mac(1)
        for message in (
            self_set(7, station, nbma, vni=100, port=4789),
            flood_append(7, bytes(6), nbma),
            bridge_add(7, station),
            bridge_delete(7, station, 12),
        ):
            front = (16 + len(message.body)).to_bytes(4, "little")
            for kind in (message.type, 16, 20, 30):
                yield front + kind.to_bytes(2, "little") + bytes(10) + message.body
        yield VECTORS["G04"].octets

    def run(self, data: bytes) -> int:
        """Read octets as each of them would."""
        self._latest = data
        list(parse_entries(data))
        parse_miss(data)
        list(parse_links(data))
        parse_attributes(data)
        with suppress(MalformedPacket):
            split_ipv4(memoryview(data))
        return 1


TARGETS: dict[str, Callable[[], Target]] = {
    "hub": Hub,
    "spoke": Spoke,
    "config": Config,
    "netlink": Netlink,
}
