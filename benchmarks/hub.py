"""What a hub does in a CPU second, by the number of its bindings.

Three hubs run side by side, with 100, 10,000 and 100,000 bindings, each in a namespace and a
process of its own. They are measured in turns, so that a slow spell of the machine meets all of
them. What counts is the CPU time of the hub's process, in user and kernel mode.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load import CLIENT_NETWORK, VPNS, Client, Load, Run, client
from benchmarks.report import Progress, Report
from dmevpn.nhrp.constants import PacketType
from lab.netns import Namespace
from lab.topology import Lab

__all__ = ["LEVELS", "ROOT", "Hub", "hubs", "learn_all", "register_all", "run", "run_keyed"]

#: Bindings of each hub.
LEVELS = (100, 10_000, 100_000)
#: Bindings of the hubs that compare packets with and without a keyed hash.
KEYED_LEVEL = 1_000
#: What is measured, and how it is answered.
REPLIES = {
    "registration": PacketType.REGISTRATION_REPLY,
    "resolution": PacketType.RESOLUTION_REPLY,
}
#: Requests of a repetition; one more is made first, to warm up.
REQUESTS = 6_000
#: First registrations at a time.
FILLING = 10_000
REPETITIONS = 5
#: Names of namespaces begin so.
PREFIX = "dmbench"

ROOT = Path(__file__).resolve().parent.parent
VXLAN_PORT = 4789


class Hub:
    """A hub's process, asked over a pipe.

    :param secret: of hub and clients, who sign every packet with it; empty: nobody signs.
    """

    def __init__(
        self, number: int, switch: str, clients: Namespace, directory: Path, secret: str = ""
    ) -> None:
        self.address = f"10.0.{number}.1"
        self.log = directory / f"{switch}-{number}.log"
        self._namespace = Namespace(f"{PREFIX}-hub{number}")
        self._namespace.create()
        self._connect(number, clients)
        device = f"bench{number}"
        self._namespace.ip(
            *("link", "add", device, "type", "vxlan", "external", "dstport", str(VXLAN_PORT))
        )
        self._namespace.ip("link", "set", device, "up")
        state = directory / f"state-{number}"
        state.mkdir()
        with clients.entered():
            self.load = Load(self.address, secret)
        self._process = subprocess.Popen(
            self._namespace.command(
                *(sys.executable, "-m", "benchmarks.hub_process", "--address", self.address),
                *("--interface", device, "--switch", switch, "--log", str(self.log)),
                *("--secret", secret, "--state", str(state)),
            ),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._answer()

    def _connect(self, number: int, clients: Namespace) -> None:
        """A cable to the clients, who all are one namespace."""
        name = f"to{number}"
        self._namespace.ip(
            *("link", "add", "ul0", "type", "veth"),
            *("peer", "name", name, "netns", clients.name),
        )
        self._namespace.ip("address", "add", f"{self.address}/24", "dev", "ul0")
        self._namespace.ip("link", "set", "ul0", "up")
        clients.ip("address", "add", f"10.0.{number}.2/24", "dev", name)
        clients.ip("link", "set", name, "up")
        self._namespace.ip("route", "add", "default", "via", f"10.0.{number}.2")

    def ask(self, question: str) -> dict[str, Any]:
        """Ask the process something."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            log = self.log.read_text()[-3000:] if self.log.exists() else ""
            raise AssertionError(f"the hub ended with status {self._process.wait()}\n{log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, packets: Sequence[bytes], reply_type: int) -> tuple[float, Run]:
        """CPU microseconds that each of these requests costs."""
        before = self.ask("usage")["cpu"]
        run = self.load.run(packets, reply_type)
        spent = self.ask("usage")["cpu"] - before
        if run.refused or run.lost > len(packets) // 100:
            log = self.log.read_text()[-3000:]
            raise AssertionError(f"the hub did not answer properly: {run}\n{log}")
        return spent / run.answered * 1e6, run

    def close(self) -> None:
        """Have it stop in order, and remove its namespace."""
        self.load.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._namespace.remove()


@contextmanager
def hubs(switch: str, secrets: Sequence[str]) -> Iterator[list[Hub]]:
    """A hub for each secret, with all that belongs to them; removed in the end."""
    Lab.remove_leftovers(PREFIX)
    with ExitStack() as stack:
        stack.callback(Lab.remove_leftovers, PREFIX)
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="dmevpn-bench-")))
        clients = Namespace(f"{PREFIX}-clients")
        clients.create()
        stack.callback(clients.remove)
        # Every address of the clients' network is an address of this one namespace.
        clients.ip("route", "add", "local", CLIENT_NETWORK, "dev", "lo")
        made: list[Hub] = []
        for number, secret in enumerate(secrets, 1):
            made.append(Hub(number, switch, clients, directory, secret))
            stack.callback(made[-1].close)
        # Frames that a switch sends on end here, unanswered.
        sink = stack.enter_context(clients.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        sink.bind(("", VXLAN_PORT))
        yield made


def run(report: Report, progress: Progress, switch: str) -> None:
    """Registrations and resolutions with one of the two switches."""
    section = f"Hub, {'eBPF switch' if switch == 'ebpf' else 'switch in memory'}"
    with hubs(switch, [""] * len(LEVELS)) as processes:
        made = dict(zip(LEVELS, processes, strict=True))
        for level, hub in made.items():
            first = register_all(hub, level, lambda text: progress.say(f"{section}: {text}"))
            if level == LEVELS[-1]:
                report.add(section, f"first registration, filling up to {level:,}", [first], "us")
            progress.say(f"{section}: {level:,} MAC addresses are learned")
            learn_all(hub, level, switch)
        for kind in ("registration", "resolution"):
            measure_all(report, progress, section, kind, made)
        usage = made[LEVELS[-1]].ask("usage")
        report.add(
            section,
            f"memory of the process with {LEVELS[-1]:,} bindings",
            [usage["kilobytes"] / 1024],
            "MiB",
        )
        lost = sum(hub.ask("usage")["overruns"] for hub in made.values())
        if lost:
            report.notes.append(f"{section}: {lost:.0f} requests overran a receive buffer")


def run_keyed(report: Report, progress: Progress) -> None:
    """The same work with and without a keyed hash, over the wire."""
    section = "Hub, keyed hash (hmac-sha-256, without replay protection)"
    with hubs("memory", ["", "thirty-two octets of a fixed key"]) as (plain, keyed):
        for hub in (plain, keyed):
            register_all(hub, KEYED_LEVEL, lambda text: progress.say(f"{section}: {text}"))
            learn_all(hub, KEYED_LEVEL, "memory")
        for kind, reply in REPLIES.items():
            costs: dict[Hub, list[float]] = {plain: [], keyed: []}
            chance = random.Random(1)
            for repetition in range(REPETITIONS + 1):
                progress.say(f"{section}: {kind}s, {repetition} of {REPETITIONS}")
                for hub in costs:
                    packets = requests(hub, kind, KEYED_LEVEL, repetition, chance)
                    cost, _ = hub.measure(packets, reply)
                    if repetition:
                        costs[hub].append(cost)
            report.add(section, f"CPU time of a {kind}, not signed", costs[plain], "us")
            report.add(section, f"CPU time of a {kind}, signed", costs[keyed], "us")
            ratios = [one / other for one, other in zip(costs[keyed], costs[plain], strict=True)]
            report.add(section, f"cost of a {kind}: signed by not signed", ratios, "", at_most=1.5)


def register_all(hub: Hub, level: int, say: Callable[[str], None]) -> float:
    """Every client registers for the first time; CPU microseconds that each has cost."""
    total = 0.0
    # The first of each VPN by themselves: they speak before there is anybody to flood to.
    bounds = [0, VPNS, *range(FILLING, level, FILLING), level]
    for first, end in pairwise(bounds):
        batch = [client(number) for number in range(first, end)]
        packets = [hub.load.packet(who, who.requester.registration(1)) for who in batch]
        cost, _ = hub.measure(packets, PacketType.REGISTRATION_REPLY)
        total += cost * len(batch)
        if not first:
            send_frames(hub, batch, b"\xff" * 6)
        say(f"{end:,} of {level:,} sites have registered")
    return total / level


def learn_all(hub: Hub, level: int, switch: str) -> None:
    """Have the switch learn a MAC at every client."""
    for begin in range(0, level, 1000):
        numbers = range(begin, min(begin + 1000, level))
        if switch == "memory":
            hub.ask(f"learn {numbers.start} {numbers.stop}")
            continue
        for number in numbers:
            send_frames(hub, [client(number)], client(number % VPNS).vm)
        hub.ask("usage")  # once it answers, it has kept up


def send_frames(hub: Hub, senders: Sequence[Client], destination: bytes) -> None:
    """A VXLAN packet from each of some clients' machines (RFC 7348 §5)."""
    for who in senders:
        frame = (destination + who.vm + b"\x88\xb5").ljust(60, b"\0")
        vxlan = struct.pack("!II", 0x08000000, who.vni << 8) + frame
        udp = struct.pack("!HHHH", 49152, VXLAN_PORT, 8 + len(vxlan), 0) + vxlan
        hub.load.send(who, socket.IPPROTO_UDP, udp)


def measure_all(
    report: Report, progress: Progress, section: str, kind: str, made: dict[int, Hub]
) -> None:
    """Repetitions in turns, then one line for each level and the ratio of the outermost."""
    costs: dict[int, list[float]] = {level: [] for level in made}
    rates: dict[int, list[float]] = {level: [] for level in made}
    chance = random.Random(1)
    for repetition in range(REPETITIONS + 1):
        turn = f"{repetition} of {REPETITIONS}" if repetition else "warming up"
        progress.say(f"{section}: {kind}s, {turn}")
        for level, hub in made.items():
            packets = requests(hub, kind, level, repetition, chance)
            cost, run = hub.measure(packets, REPLIES[kind])
            if repetition:
                costs[level].append(cost)
                rates[level].append(run.answered / run.seconds)
    goal = {"registration": 10_000, "resolution": 15_000}[kind]
    for level in made:
        report.add(section, f"CPU time of a {kind}, {level:,} bindings", costs[level], "us")
    for level in made:
        per_second = [1e6 / cost for cost in costs[level]]
        name = f"{kind}s per CPU second, {level:,} bindings"
        report.add(section, name, per_second, "1/s", at_least=goal)
    smallest, largest = min(made), max(made)
    ratios = [big / small for big, small in zip(costs[largest], costs[smallest], strict=True)]
    name = f"cost of a {kind}: {largest:,} bindings by {smallest:,}"
    report.add(section, name, ratios, "", at_most=1.2)
    report.add(section, f"{kind}s per second, {largest:,} bindings", rates[largest], "1/s")


def requests(
    hub: Hub, kind: str, level: int, repetition: int, chance: random.Random
) -> list[bytes]:
    """Renewals, or questions for a MAC at another site, of sites drawn by lot."""
    packets = []
    for index in range(REQUESTS):
        request_id = 2 + repetition * REQUESTS + index
        number = chance.randrange(level)
        who = client(number)
        if kind == "registration":
            packets.append(hub.load.packet(who, who.requester.registration(request_id)))
            continue
        # Another site of the same VPN.
        sites = level // VPNS
        other = (number + VPNS * chance.randrange(1, sites)) % level
        packets.append(hub.load.packet(who, who.requester.resolution(client(other).vm, request_id)))
    return packets
