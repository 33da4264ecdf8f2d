"""A hub in a process of its own, which tells its CPU time when asked on standard input.

Started by :mod:`benchmarks.hub` in the hub's namespace. It is the whole of a hub's daemon but its
admin interface: node, speaker, raw GRE sockets, next hop servers, and one of the two switches.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet import threads
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from benchmarks.load import VPNS, authentication, client
from dmevpn.addresses import VTEP, parse_ip
from dmevpn.config.model import HubPlan, Plan, SpeakerPlan
from dmevpn.dataplane.hub_ebpf import EBPFSwitch
from dmevpn.dataplane.memory_hub import MemoryHubDataplane, MemorySwitch
from dmevpn.garbage import GarbageCollection
from dmevpn.interfaces import IHubDataplane
from dmevpn.metrics import Metrics
from dmevpn.nhrp.request_ids import TimeRequestIDStore
from dmevpn.roles.configfile import ConfigFile
from dmevpn.roles.controller import Controller
from dmevpn.roles.node import Drivers, Node
from dmevpn.statefile import open_state
from dmevpn.transport.rawgre import RawGREPort

reactor: Any = installed_reactor

#: Seconds from one look at the reactor to the next.
TICK = 0.001


class Stalls:
    """How long the reactor is kept from its next turn, by a call that is always due.

    :ivar latest: seconds that the call was late at worst, waits for a processor included.
    :ivar longest: the longest CPU time from one of its turns to the next, in seconds.
    """

    def __init__(self) -> None:
        self.latest = self.longest = 0.0
        self._turn = self._spent = 0.0
        self._call: Any = None

    def start(self) -> None:
        """Begin, or forget what was and begin again."""
        self.latest = self.longest = 0.0
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory, too
        self._turn, self._spent = time.monotonic(), time.process_time()
        if self._call is None:
            self._call = reactor.callLater(0, self._next)

    def _next(self) -> None:
        turn, spent = time.monotonic(), time.process_time()
        self.latest = max(self.latest, turn - self._turn - TICK)
        self.longest = max(self.longest, spent - self._spent)
        self._turn, self._spent = turn, spent
        self._call = reactor.callLater(TICK, self._next)


def memory(word: str) -> int:
    """Kilobytes that /proc tells of us: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{word}:"):
            return int(line.split()[1])
    raise ValueError(word)


class Questions(LineReceiver):
    """One word a line; the answer is one line of JSON."""

    delimiter = b"\n"

    def __init__(self, node: Node, metrics: Metrics, switch: MemorySwitch) -> None:
        self._node = node
        self._metrics = metrics
        self._switch = switch
        self._stalls = Stalls()

    def connectionMade(self) -> None:
        """The node runs."""
        self._answer({"ready": True})

    def lineReceived(self, line: bytes) -> None:
        """Answer ``usage`` or obey ``learn FIRST END`` (the switch in memory only).

        ``serve DIRECTORY`` lets operators in; ``watch`` begins to look for stalls, and ``stalls``
        tells of the worst since.
        """
        word, *arguments = line.decode().split()
        if word == "usage":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self._answer(
                {
                    "cpu": usage.ru_utime + usage.ru_stime,
                    "kilobytes": usage.ru_maxrss,
                    "overruns": sum(
                        sample.value
                        for sample in self._metrics.snapshot()
                        if sample.name == "dmevpn_datagram_overruns"
                    ),
                }
            )
        elif word == "serve":
            self._serve(arguments[0])
            self._answer({"serving": True})
        elif word == "watch":
            self._stalls.start()
            self._answer({"kilobytes": memory("VmRSS")})
        elif word == "stalls":
            self._answer(
                {
                    "latest": self._stalls.latest,
                    "longest": self._stalls.longest,
                    "kilobytes": memory("VmHWM"),
                }
            )
        elif word == "learn":
            first, end = map(int, arguments)
            for number in range(first, end):
                who = client(number)
                frame = client(number % VPNS).vm + who.vm + bytes(48)
                self._switch.receive(VTEP(who.nbma, who.vni), frame)
            self._answer({"learned": end - first})

    def _serve(self, directory: str) -> None:
        """As a daemon does, by dmevpnctl, by the status page and by scrapes."""
        from dmevpn.admin.pb import AdminService
        from dmevpn.admin.scraping import MetricsService
        from dmevpn.admin.statuspage import StatusService

        controller = Controller(self._node, ConfigFile("none.conf"), reload=Deferred)
        for service in (
            AdminService(reactor, f"unix:{directory}/admin", controller, metrics=self._metrics),
            StatusService(reactor, f"unix:{directory}/status", controller, self._metrics, "hub"),
            MetricsService(reactor, f"unix:{directory}/metrics", controller, self._metrics),
        ):
            service.privilegedStartService()
            service.startService()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever asked is gone, or has had enough: stop in order."""
        done: Deferred[Any] = self._node.stopService()
        done.addBoth(lambda _: reactor.stop())

    def _answer(self, answer: dict[str, Any]) -> None:
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--switch", choices=("memory", "ebpf"), required=True)
    parser.add_argument("--secret", required=True, help="empty: packets are not signed")
    parser.add_argument("--log", type=argparse.FileType("w"), required=True)
    parser.add_argument("--state", required=True, help="directory for what a successor is to know")
    options = parser.parse_args()
    # The log is written as twistd writes it, since that is part of what a registration costs.
    globalLogBeginner.beginLoggingTo([textFileLogObserver(options.log)], redirectStandardIO=False)
    reactor.seconds = time.monotonic
    metrics = Metrics()
    plan = Plan(
        speakers=(
            SpeakerPlan(
                interface="nhrp",
                nbma_address=parse_ip(options.address),
                authentication=authentication(options.secret),
            ),
        ),
        hubs=(
            HubPlan(
                interface=options.interface,
                controller="nhrp",
                vpns=((1, VPNS),),
            ),
        ),
    )
    switch = MemorySwitch(reactor, transmit=lambda *_: None)
    dataplane: IHubDataplane = (
        EBPFSwitch(reactor, metrics, options.interface)
        if options.switch == "ebpf"
        else MemoryHubDataplane(reactor, switch)
    )

    def no_spokes(*_: Any) -> Any:
        raise AssertionError("this plan has no spoke")

    def aside(work: Callable[[], str], done: Callable[[str], None]) -> None:
        threads.deferToThread(work).addCallback(done)

    node = Node(
        plan=plan,
        clock=reactor,
        drivers=Drivers(
            control_device=lambda speaker: None,
            transport=lambda speaker, device: RawGREPort(
                reactor, metrics, speaker.nbma_address, speaker.gre_key
            ),
            spoke_dataplane=no_spokes,
            take_down=no_spokes,
            hub_dataplane=lambda *_: dataplane,
            layer3_dataplane=no_spokes,
            resolve_host=no_spokes,
            request_ids=TimeRequestIDStore(time.time),
            jitter=random.random,
            machine_id=b"benchmark",
            wall_clock=time.time,
            state=open_state(options.state, metrics, aside),
        ),
        metrics=metrics,
    )
    node.privilegedStartService()
    node.startService()
    GarbageCollection(reactor, metrics).start()
    StandardIO(Questions(node, metrics, switch))  # type: ignore[no-untyped-call]
    reactor.run()


if __name__ == "__main__":
    main()
