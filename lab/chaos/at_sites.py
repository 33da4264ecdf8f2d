"""What somebody may do at a site."""

from __future__ import annotations

from lab.chaos.fault import Fault, at
from lab.chaos.stage import VPNS, Site, Station
from lab.netns import Namespace

__all__ = ["SITE_FAULTS"]


class AtSite(Fault):
    """Something at one site, in one VPN."""

    contained = True

    def choose(self) -> None:
        node = self._choose_node(self.stage.sites)
        assert isinstance(node, Site)
        self.site = node
        self.vpn = self.chance.choice(VPNS)

    @property
    def where(self) -> str:
        return f"{super().where}, VPN {self.vpn}"

    @property
    def namespace(self) -> Namespace:
        return self.site.machine.namespace

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return one.vpn == self.vpn and at(self.site, one, other)


class DeviceDown(AtSite):
    """A plane of a site, its bridge, or a station's port is set down and up again."""

    kind = "device down"

    def choose(self) -> None:
        super().choose()
        here = [
            each.vm.name
            for each in self.stage.stations
            if each.home is self.site and each.vpn == self.vpn
        ]
        vx = f"vx{self.vpn}"
        self.device = self.chance.choice([vx, f"{vx}-s", f"br{self.vpn}", *here])

    @property
    def where(self) -> str:
        return f"{self.site}, {self.device}"

    def begin(self) -> None:
        self.namespace.ip("link", "set", self.device, "down")

    def end(self) -> None:
        self.namespace.ip("link", "set", self.device, "up")


class DeviceLost(AtSite):
    """Somebody deletes a plane, or takes it out of its bridge; nobody puts it back but us."""

    kind = "plane deleted or unplugged"
    longest = 0.5

    def choose(self) -> None:
        super().choose()
        self.device = f"vx{self.vpn}" + self.chance.choice(["", "-s"])
        self.deleted = self.chance.random() < 0.5

    @property
    def where(self) -> str:
        return f"{self.site}, {self.device} {'deleted' if self.deleted else 'unplugged'}"

    def begin(self) -> None:
        words = ("delete", self.device) if self.deleted else ("set", self.device, "nomaster")
        self.namespace.ip("link", *words)

    def end(self) -> None:
        """It is for the daemon to mend."""


class EntriesFlushed(AtSite):
    """Somebody deletes forwarding entries of ours, one kind of them or all."""

    kind = "entries flushed"
    longest = 0.5

    def choose(self) -> None:
        super().choose()
        self.tables = self.chance.choice([("self",), ("master",), ("self", "master")])

    @property
    def where(self) -> str:
        return f"{super().where}, {' and '.join(self.tables)}"

    def begin(self) -> None:
        for device in (f"vx{self.vpn}-s", f"vx{self.vpn}"):
            for row in self.namespace.fdb(device):
                table = "master" if "master" in row else "self"
                ours = device.endswith("-s") or table == "master"
                if table not in self.tables or not ours or row.get("state") == "permanent":
                    continue
                words = ("fdb", "del", row["mac"], "dev", device, table)
                # It may have changed since it was read.
                self.namespace.run("bridge", *words, check=False)

    def end(self) -> None:
        """It is for the daemon to mend."""


class Moved(Fault):
    """A station moves to another site."""

    kind = "station moved"
    contained = True
    longest = 0.5

    def choose(self) -> None:
        self.station = self.chance.choice(self.stage.stations)
        others = [site for site in self.stage.sites if site is not self.station.home]
        self.site = self.chance.choice(others)
        self.targets = frozenset([str(self.station)])

    @property
    def where(self) -> str:
        return f"{self.station} to {self.site}"

    def begin(self) -> None:
        self.station.move(self.site)

    def end(self) -> None:
        """It stays there."""

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return self.station in (one, other)


SITE_FAULTS = (DeviceDown, DeviceLost, EntriesFlushed, Moved)
