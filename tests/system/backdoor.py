"""A cable between the bridges of two sites, behind their hubs' back, and what is sent then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations

from lab.traffic import ping
from lab.wait import eventually
from tests.system.network import Network, Site, arrive

__all__ = ["BOUND", "all_pairs", "broadcasts", "cable"]

#: Frames a second that the hub may get from two sites that are connected, each of whose stations
#: broadcasts ten times a second: a hundred from each in the name of held stations, and their own.
BOUND = 600


@contextmanager
def cable(one: Site, two: Site) -> Iterator[None]:
    """Connect the bridges of two sites."""
    end = one.machine.namespace
    far = two.machine.namespace
    end.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
    for namespace in (end, far):
        namespace.ip("link", "set", "cable", "master", "br1")
        namespace.ip("link", "set", "cable", "up")
    try:
        yield
    finally:
        end.ip("link", "del", "cable")


@contextmanager
def broadcasts(network: Network) -> Iterator[None]:
    """Let every station broadcast ten times a second."""
    over = threading.Event()

    def speak() -> None:
        while not over.wait(0.1):
            for site in network.sites:
                arrive(site.vm)

    speaking = threading.Thread(target=speak)
    speaking.start()
    try:
        yield
    finally:
        over.set()
        speaking.join()


def all_pairs(network: Network) -> None:
    """Every station reaches every other."""
    for one, two in permutations(network.sites, 2):
        assert two.vm.address is not None
        address = two.vm.address

        def reached(one: Site = one, address: str = address) -> bool:
            return ping(one.vm.namespace, address, count=3, interval=0.02).lost == 0

        eventually(f"{one.daemon.name} to {two.daemon.name}", reached)
