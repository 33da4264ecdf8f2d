"""What every layer 3 data plane does: the tests of all providers of ILayer3Dataplane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from zope.interface import implementer

from dmevpn.addresses import parse_ip, parse_prefix
from dmevpn.interfaces import ILayer3Dataplane, ILayer3Listener

__all__ = ["ADDRESSES", "ELSEWHERE", "EventLog", "Layer3Contract", "Layer3Kernel"]

#: What the device has, and a network that the kernel reaches by another one.
ADDRESSES = ("10.255.255.2/24", "2001:db8:255::2/64")
ELSEWHERE = ("192.0.2.0/24", "2001:db8:e::/64")

#: For both families: a neighbour, another one, a network behind the first, one of somebody else.
FAMILIES = [
    ("10.255.255.3", "10.255.255.4", "192.168.3.0/24", "192.168.9.0/24"),
    ("2001:db8:255::3", "2001:db8:255::4", "2001:db8:3::/48", "2001:db8:9::/48"),
]


@implementer(ILayer3Listener)
class EventLog:
    """Notes what is reported."""

    def __init__(self) -> None:
        self.missed: list[bytes] = []
        self.detours: list[tuple[bytes, bytes]] = []
        self.changes = 0

    def neighbour_missed(self, protocol: bytes) -> None:
        """Packets wait for a next hop."""
        self.missed.append(protocol)

    def detour_seen(self, packet: bytes, sender: bytes) -> None:
        """A packet went out where it came in."""
        self.detours.append((packet, sender))

    def addresses_changed(self) -> None:
        """The device has other addresses."""
        self.changes += 1


class Layer3Kernel:
    """A kernel with a GRE device that has ADDRESSES, and its daemon's data plane."""

    dataplane: ILayer3Dataplane
    log: EventLog

    def link(self, number: int) -> bytes:
        """An underlay address."""
        raise NotImplementedError

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        """Wait until a check is true."""
        raise NotImplementedError

    def neighbours(self) -> dict[bytes, bytes]:
        """The next hops that packets can be sent to."""
        raise NotImplementedError

    def routes(self) -> dict[tuple[bytes, int], bytes]:
        """The routes over the device, other than to its own networks; the next hop of each."""
        raise NotImplementedError

    def add_route(self, network: str, next_hop: str) -> None:
        """Somebody else adds a route over the device."""
        raise NotImplementedError

    def send(self, protocol: str) -> None:
        """A packet for an address is sent by the device."""
        raise NotImplementedError

    def make_again(self) -> None:
        """The device is removed and made again, with the addresses that it had."""
        raise NotImplementedError

    def restart(self, *, kill: bool) -> None:
        """The daemon ends, in order or without a word, and starts again."""
        raise NotImplementedError


class Layer3Contract:
    """Subclasses have a fixture ``kernel``, whose data plane is started."""

    @pytest.fixture
    def kernel(self) -> Iterator[Layer3Kernel]:
        raise NotImplementedError

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_neighbours(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """A next hop is made, moved and removed; others stay."""
        one, two = parse_ip(near), parse_ip(other)
        kernel.dataplane.set_neighbour(one, kernel.link(3))
        kernel.dataplane.set_neighbour(two, kernel.link(4))
        kernel.until(
            "neighbours", lambda: kernel.neighbours() == {one: kernel.link(3), two: kernel.link(4)}
        )
        kernel.dataplane.set_neighbour(one, kernel.link(5))
        kernel.dataplane.remove_neighbour(two)
        kernel.until("move", lambda: kernel.neighbours() == {one: kernel.link(5)})

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_routes(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """A route is made, moved and removed; its packets go to its next hop."""
        one, two, behind = parse_ip(near), parse_ip(other), parse_prefix(network)
        kernel.dataplane.set_route(*behind, one)
        kernel.until("route", lambda: kernel.routes() == {behind: one})
        inside = behind[0][:-1] + b"\7"
        assert kernel.dataplane.next_hop(inside) == one
        kernel.dataplane.set_route(*behind, two)
        kernel.until("move", lambda: kernel.routes() == {behind: two})
        kernel.dataplane.remove_route(*behind)
        kernel.until("removal", lambda: kernel.routes() == {})

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_a_host_that_is_not_on_the_network(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """It is its own next hop."""
        address = parse_prefix(network)[0][:-1] + b"\1"
        kernel.dataplane.set_route(address, 8 * len(address), address)
        kernel.dataplane.set_neighbour(address, kernel.link(3))
        kernel.until("route", lambda: kernel.dataplane.next_hop(address) == address)
        kernel.until("neighbour", lambda: kernel.neighbours() == {address: kernel.link(3)})

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_routes_of_others(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """They are neither replaced nor removed, in use or by a stop."""
        theirs = parse_prefix(foreign)
        kernel.add_route(foreign, near)
        kernel.dataplane.set_route(*parse_prefix(network), parse_ip(near))
        kernel.until("our route", lambda: len(kernel.routes()) == 2)
        kernel.dataplane.remove_route(*theirs)
        kernel.restart(kill=False)
        assert kernel.routes() == {theirs: parse_ip(near)}

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_next_hops(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """What is on the device's network is its own; what goes elsewhere has none here."""
        assert kernel.dataplane.next_hop(parse_ip(near)) == parse_ip(near)
        elsewhere = parse_prefix(ELSEWHERE[0 if "." in near else 1])[0][:-1] + b"\7"
        assert kernel.dataplane.next_hop(elsewhere) is None
        kernel.add_route(foreign, other)
        assert kernel.dataplane.next_hop(parse_prefix(foreign)[0][:-1] + b"\7") == parse_ip(other)

    @pytest.mark.parametrize(("near", "other", "network", "foreign"), FAMILIES)
    def test_misses(
        self, kernel: Layer3Kernel, near: str, other: str, network: str, foreign: str
    ) -> None:
        """A packet for a next hop that nobody knows is reported, and the answer is used."""
        kernel.send(near)
        kernel.until("miss", lambda: parse_ip(near) in kernel.log.missed)
        kernel.dataplane.set_neighbour(parse_ip(near), kernel.link(3))
        kernel.until("answer", lambda: kernel.neighbours() == {parse_ip(near): kernel.link(3)})
        assert kernel.dataplane.idle_times()[parse_ip(near)] < 5

    @pytest.mark.parametrize("kill", [False, True])
    def test_a_restart_begins_anew(self, kernel: Layer3Kernel, kill: bool) -> None:
        """Nothing of an earlier run is left, whether it could clean up or not."""
        near = parse_ip("10.255.255.3")
        kernel.dataplane.set_neighbour(near, kernel.link(3))
        kernel.dataplane.set_route(*parse_prefix("192.168.3.0/24"), near)
        kernel.until("entries", lambda: kernel.neighbours() and kernel.routes())
        kernel.restart(kill=kill)
        assert kernel.routes() == {}
        assert kernel.neighbours() == {}

    def test_a_device_that_is_made_again(self, kernel: Layer3Kernel) -> None:
        """Its entries are put back, and its addresses are looked at again."""
        near = parse_ip("10.255.255.3")
        network = parse_prefix("192.168.3.0/24")
        kernel.dataplane.set_neighbour(near, kernel.link(3))
        kernel.dataplane.set_route(*network, near)
        kernel.until("entries", lambda: kernel.neighbours() and kernel.routes())
        kernel.make_again()
        kernel.until("neighbours", lambda: kernel.neighbours() == {near: kernel.link(3)})
        kernel.until("routes", lambda: kernel.routes() == {network: near})
        assert kernel.log.changes
        assert [each[0] for each in kernel.dataplane.addresses()] == [
            parse_prefix(each)[0] for each in ADDRESSES
        ]
