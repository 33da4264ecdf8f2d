"""A network of FRR's daemons and ours: who is on it, and what their tunnels look like.

Machine N has the underlay address 10.0.0.N and the protocol address 10.255.255.N; behind it is the
network 192.168.N.0/24, whose address .1 is its own. The hub is machine 1.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from dmevpn.nhrp.constants import ProtocolType
from dmevpn.nhrp.packet import TrafficIndication
from dmevpn.transport import gre
from interop.frr import FRR
from interop.wiretap import Wiretap
from lab.daemons import Daemon
from lab.topology import Lab, Machine
from lab.traffic import ping

__all__ = ["HUB", "Passage", "Stage", "host", "lan", "nbma", "protocol"]

PREFIX = "dmio"
DEVICE = "gre1"
KEY = 1234
HUB = 1
PINGS = 20


def nbma(number: int) -> str:
    """The underlay address of a machine."""
    return f"10.0.0.{number}"


def protocol(number: int) -> str:
    """The protocol address of a machine."""
    return f"10.255.255.{number}"


def lan(number: int) -> str:
    """The network behind a machine."""
    return f"192.168.{number}.0/24"


def host(number: int) -> str:
    """The machine's own address in the network behind it."""
    return f"192.168.{number}.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What became of some pings."""

    sent: int
    answered: int
    direct: int
    """GRE packets between the two machines, of both directions."""
    detoured: int
    """GRE packets from or to others, that is the hub."""

    def __str__(self) -> str:
        return (
            f"{self.answered} of {self.sent} answered,"
            f" {self.direct} packets direct, {self.detoured} by the hub"
        )


class Stage:
    """One network. A context manager: the daemons stop, and our logs must be sound.

    :param capture: the file that keeps what passes on the underlay.
    :ivar wiretap: what has passed.
    """

    def __init__(self, capture: Path) -> None:
        self._lab = Lab(PREFIX)
        self._capture = capture
        self._stack = contextlib.ExitStack()
        self._frr: list[FRR] = []
        self._ours: list[Daemon] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lab)
            self.wiretap = Wiretap(self._lab.underlay, KEY)
            stack.callback(self.wiretap.close)
            stack.callback(lambda: self.wiretap.save(self._capture))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    # --- who is on it -------------------------------------------------------------------------

    def add_frr(self, number: int, *lines: str, options: str = "") -> FRR:
        """Start FRR on a new machine.

        :param lines: what nhrpd is told about its GRE device.
        :param options: what it is told besides.
        """
        machine = self._add_machine(number)
        # nhrpd makes host routes and wants no network on the device (its manual).
        self._add_device(machine, f"{protocol(number)}/32")
        text = "".join(f" {line}\n" for line in ("ip nhrp network-id 1", *lines))
        frr = FRR(machine.namespace, f"{options}debug nhrp all\ninterface {DEVICE}\n{text}")
        self._frr.append(frr)
        self._stack.callback(frr.stop)
        frr.start()
        return frr

    def add_ours(self, number: int, *lines: str, device: bool) -> Daemon:
        """Start a daemon of ours on a new machine.

        :param lines: of its control interface.
        :param device: whether it drives a kernel GRE device or a socket of its own.
        """
        machine = self._add_machine(number)
        address = f"{protocol(number)}/24"
        if device:
            self._add_device(machine, address)
            words = ["transport device"]
        else:
            words = ["transport raw", f"gre-key {KEY}", f"protocol-address {address}"]
        text = "".join(f"    {line}\n" for line in (*words, *lines))
        daemon = Daemon(
            machine.namespace, self._lab.directory, machine.name, f"interface {DEVICE}\n{text}"
        )
        self._ours.append(daemon)
        self._stack.callback(daemon.assert_sound)
        self._stack.callback(daemon.stop)
        daemon.start(timeout=60)
        return daemon

    def machine(self, number: int) -> Machine:
        """The machine of a number."""
        return self._lab.machines[_name(number)]

    def _add_machine(self, number: int) -> Machine:
        machine = self._lab.add_machine(_name(number), number)
        namespace = machine.namespace
        namespace.set_option("ipv4/ip_forward", 1)
        # ICMP's redirects would tell of the same detours as NHRP's.
        for scope in ("all", "default"):
            namespace.set_option(f"ipv4/conf/{scope}/send_redirects", 0)
        namespace.ip("link", "add", "lan0", "type", "dummy")
        namespace.ip("address", "add", f"{host(number)}/24", "dev", "lan0")
        namespace.ip("link", "set", "lan0", "up")
        return machine

    def _add_device(self, machine: Machine, address: str) -> None:
        machine.namespace.ip(
            *("link", "add", DEVICE, "type", "gre", "local", machine.address),
            *("key", str(KEY), "ttl", "64", "dev", "ul0"),
        )
        machine.namespace.ip("address", "add", address, "dev", DEVICE)
        machine.namespace.ip("link", "set", DEVICE, "up")

    # --- what they are told and asked -----------------------------------------------------------

    def route(self, number: int, network: str, gateway: int) -> None:
        """Give a machine a route by way of another, through its GRE device."""
        self.machine(number).namespace.ip(
            *("route", "replace", network, "via", protocol(gateway), "dev", DEVICE, "onlink")
        )

    def report_detours(self, number: int) -> None:
        """Show FRR the packets that leave its machine as they came: its manual's firewall rule."""
        self.machine(number).namespace.run(
            *("iptables-legacy", "-A", "FORWARD", "-i", DEVICE, "-o", DEVICE),
            *("-j", "NFLOG", "--nflog-group", "1", "--nflog-size", "128"),
        )

    def indicate(self, sender: int, receiver: int, target: str) -> None:
        """Send a Traffic Indication, as a hub does through which packets take a detour.

        Our daemons send none with `transport raw`, where no packets pass through them.
        """
        station = IPv4Address(protocol(receiver)).packed
        # The beginning of the packet in question, as far as the addresses: an IPv4 header.
        contents = bytes((0x45,)) + bytes(11) + station + IPv4Address(target).packed
        packet = TrafficIndication(
            source_nbma=IPv4Address(nbma(sender)).packed,
            source_protocol=IPv4Address(protocol(sender)).packed,
            destination_protocol=station,
            protocol_type=ProtocolType.IPV4,
            contents=contents,
        )
        with self.machine(sender).namespace.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE
        ) as sock:
            sock.sendto(gre.encode(packet.encode(), KEY), (nbma(receiver), 0))

    def ping(self, number: int, target: int, address: str) -> Passage:
        """Ping an address of another machine, and see which way the packets take."""
        self.wiretap.read()
        before = self.wiretap.data.copy()
        report = ping(self.machine(number).namespace, address, count=PINGS)
        self.wiretap.read()
        data = self.wiretap.data - before
        direct = {(nbma(number), nbma(target)), (nbma(target), nbma(number))}
        return Passage(
            sent=PINGS,
            answered=report.received,
            direct=sum(count for pair, count in data.items() if pair in direct),
            detoured=sum(count for pair, count in data.items() if pair not in direct),
        )

    # --- what went wrong ------------------------------------------------------------------------

    def logs(self) -> dict[str, str]:
        """What each daemon has said, by name."""
        said = {frr.name: frr.log for frr in self._frr}
        return said | {daemon.name: daemon.log for daemon in self._ours}


def _name(number: int) -> str:
    return "hub" if number == HUB else f"site{number}"
