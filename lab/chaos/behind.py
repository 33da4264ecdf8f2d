"""What somebody may do behind the back of the hubs, at two sites at once."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from typing import ClassVar

from lab.chaos.fault import Fault
from lab.chaos.stage import VPNS, Hub, Node, Site, Station
from lab.topology import VM
from lab.traffic import BROADCAST, ethernet, packet_socket
from lab.wait import eventually

__all__ = ["FAULTS_BEHIND"]

#: Local experimental 2 of IEEE 802, which nobody counts.
ETH_P_TWIN = 0x88B6
#: Seconds after which a hub has named what is wrong: `loop-probe`, and an answer of a busy daemon.
PATIENCE = 31.0


class Behind(Fault):
    """Something that hubs have to find out and to say, while it is there.

    It takes both hubs, since who is struck by something else may say it late or to nobody.
    """

    contained = True
    shortest: ClassVar[float] = 2.0
    longest: ClassVar[float] = 6.0
    check: ClassVar[str]
    """What ``doctor`` calls it."""

    def take(self, *nodes: Node | Station) -> None:
        """Set what it befalls."""
        names = [str(each) for each in (*nodes, *self.stage.hubs)]
        self.targets = frozenset(names)

    @property
    @abstractmethod
    def subject(self) -> str:
        """What ``doctor`` names as struck."""

    @property
    @abstractmethod
    def places(self) -> list[tuple[Site, int]]:
        """The sites that must be named, and the VPN."""

    def await_name(self, began: float) -> None:
        """Wait until the hubs name it with both places."""
        left = max(0.0, began + PATIENCE - time.monotonic())
        eventually(f"name of {self.kind} at {self.where}", self._named, timeout=left)

    def _named(self) -> bool:
        said = " ".join(finding for hub in self.stage.hubs for finding in self._findings(hub))
        return all(f"{site.address} vni {site.vnis[vpn]}" in said for site, vpn in self.places)

    def _findings(self, hub: Hub) -> list[str]:
        return [
            row["finding"]
            for row in hub.daemon.ctl.findings()
            if (row["check"], row["subject"]) == (self.check, self.subject)
        ]


class Twin(Behind):
    """A second station at another site has a station's MAC, and both talk."""

    kind = "MAC at two sites"
    check = "mac"

    def choose(self) -> None:
        self.station = self.chance.choice(self.stage.stations)
        others = [site for site in self.stage.sites if site is not self.station.home]
        self.site = self.chance.choice(others)
        self.take(self.station, self.station.home, self.site)

    @property
    def where(self) -> str:
        return f"{self.station} also at {self.site}"

    @property
    def subject(self) -> str:
        return self.station.vm.mac

    @property
    def places(self) -> list[tuple[Site, int]]:
        return [(site, self.station.vpn) for site in (self.station.home, self.site)]

    def begin(self) -> None:
        self.vm = self.stage.add_twin(self.station)
        self.vm.plug(self.site.machine, f"br{self.station.vpn}")
        others = [each for each in self.stage.stations if each.vpn == self.station.vpn]
        others.remove(self.station)
        self.talk = Talk(self.vm, [BROADCAST, self.chance.choice(others).vm.mac])
        self.began = time.monotonic()
        self.talk.start()

    def end(self) -> None:
        self.await_name(self.began)
        self.talk.end()
        self.vm.unplug()
        self.stage.held.add(self.station)

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return self.station in (one, other)


class Talk(threading.Thread):
    """Sends a frame to each of some addresses again and again."""

    INTERVAL = 0.05

    def __init__(self, vm: VM, destinations: list[str]) -> None:
        super().__init__(name="talk")
        self._ending = threading.Event()
        self._frames = [ethernet(mac, vm.mac, ETH_P_TWIN, b"twin") for mac in destinations]
        self._socket = packet_socket(vm.namespace, "eth0", 0)

    def run(self) -> None:
        """Until :meth:`end`."""
        with self._socket:
            while not self._ending.wait(self.INTERVAL):
                for frame in self._frames:
                    self._socket.send(frame)

    def end(self) -> None:
        """Send no more."""
        self._ending.set()
        self.join()


class Cable(Behind):
    """Somebody connects the bridges of two sites, so that floods go round."""

    kind = "cable between sites"
    check = "loop"
    #: Frames a second that a site may get of hubs which has nothing to do with it. A hundred to
    #: each hub are in the name of held stations from either site, and some are what stations send.
    #: More go round between the two sites: a frame to a station of theirs does until its bridge
    #: hears that again, thousands of times a second.
    bound: ClassVar[int] = 1000

    def choose(self) -> None:
        self.sites = self.chance.sample(self.stage.sites, 2)
        self.vpn = self.chance.choice(VPNS)
        self.take(*self.sites)

    @property
    def where(self) -> str:
        return f"{super().where}, VPN {self.vpn}"

    @property
    def subject(self) -> str:
        return f"vpn {self.vpn}"

    @property
    def places(self) -> list[tuple[Site, int]]:
        return [(site, self.vpn) for site in self.sites]

    def begin(self) -> None:
        one, two = (site.machine.namespace for site in self.sites)
        self.began = time.monotonic()
        one.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two.name)
        for namespace in (one, two):
            namespace.ip("link", "set", "cable", "master", f"br{self.vpn}", "up")

    def end(self) -> None:
        self.await_name(self.began)
        around, aside = self._rates()
        if aside >= self.bound:
            # One of the two may flood by another hub since a moment, which has to find the loop.
            time.sleep(2)
            around, aside = self._rates()
        self.sites[0].machine.namespace.ip("link", "del", "cable")
        self.stage.held.update(each for each in self.stage.stations if each.vpn == self.vpn)
        assert aside < self.bound, (
            f"{aside:.0f} frames a second come to a site that is not connected by {self.where}"
        )
        self.seen = f", {around:.0f} frames/s, {aside:.0f} to others"

    def _rates(self) -> tuple[float, float]:
        """Frames a second that hubs get from both sites, and that the other site which gets most
        of them gets from hubs."""
        (start, before), since = self._counts(), time.monotonic()
        time.sleep(1)
        (end, after), time_passed = self._counts(), time.monotonic() - since
        aside = max(after[nbma] - before.get(nbma, 0) for nbma in after)
        return (end - start) / time_passed, aside / time_passed

    def _counts(self) -> tuple[int, dict[str, int]]:
        """Frames that hubs have had from both sites, and sent to each of the others."""
        addresses = [site.address for site in self.sites]
        others = [site.address for site in self.stage.sites if site not in self.sites]
        sent = dict.fromkeys(others, 0)
        received = 0
        for hub in self.stage.hubs:
            for row in hub.daemon.ctl.rows("member", "show"):
                if row["vpn"] != self.vpn:
                    continue
                if row["nbma"] in addresses:
                    received += row["rx_packets"]
                elif row["nbma"] in others:
                    sent[row["nbma"]] += row["tx_packets"]
        return received, sent

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        # Others, too: until their MACs are held, and for two seconds when their site changes its
        # hub meanwhile.
        return one.vpn == self.vpn


FAULTS_BEHIND = (Twin, Cable)
