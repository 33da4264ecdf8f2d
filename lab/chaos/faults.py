"""What may befall the network. Each fault chooses its place by chance, begins, and ends."""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable
from random import Random
from typing import ClassVar

from lab.chaos.stage import GUEST_VPN, HOLDING_TIME, VPNS, Hub, Node, Site, Stage, Station
from lab.chaos.underlay import Late
from lab.netns import Namespace
from lab.topology import unpin

__all__ = ["FAULTS", "Fault"]


class Fault(ABC):
    """Something that befalls the network for a while.

    :param stage: the network.
    :param chance: decides where and for how long; nothing else does.
    :ivar where: what it befalls, in words.
    :ivar targets: names of what it befalls; no two faults at once have one in common.
    :ivar seconds: how long.
    """

    kind: ClassVar[str]
    control_only: ClassVar[bool] = False
    """Whether daemons alone are befallen, so that no frame may be lost on its account."""
    shortest: ClassVar[float] = 0.3
    longest: ClassVar[float] = 3.0

    def __init__(self, stage: Stage, chance: Random) -> None:
        self.stage = stage
        self.chance = chance
        self.targets: frozenset[str] = frozenset()
        self.choose()
        self.seconds = round(chance.uniform(self.shortest, self.longest), 2)

    @abstractmethod
    def choose(self) -> None:
        """Set :attr:`targets` and what else is needed, by chance."""

    @abstractmethod
    def begin(self) -> None:
        """Let it happen."""

    @abstractmethod
    def end(self) -> None:
        """Let it be over."""

    @property
    def where(self) -> str:
        """See the class."""
        return ", ".join(sorted(self.targets))

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        """Whether frames of one station to another may be lost meanwhile; ``to_all`` are those
        that always go by a hub."""
        return False

    def _choose_node(self, nodes: Iterable[Node]) -> Node:
        node = self.chance.choice(list(nodes))
        self.targets = frozenset([node.name])
        return node


def _at(site: Node, one: Station, other: Station) -> bool:
    return site in (one.home, other.home)


# --- daemons -------------------------------------------------------------------------------------


class Kill(Fault):
    """A daemon is killed with -9, and started again."""

    kind = "daemon killed"
    control_only = True

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)

    def begin(self) -> None:
        self.node.daemon.kill()

    def end(self) -> None:
        self.node.daemon.start()


class Restart(Kill):
    """A daemon is stopped in order, which takes its forwarding down, and started again."""

    kind = "daemon restarted"
    control_only = False

    def begin(self) -> None:
        self.node.daemon.stop()

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return isinstance(self.node, Hub) or _at(self.node, one, other)


class Upgrade(Kill):
    """A daemon is stopped in order, and leaves its forwarding to the next one."""

    kind = "daemon upgraded"

    def begin(self) -> None:
        self.node.leaves = True
        self.node.reload()
        self.node.daemon.stop()

    def end(self) -> None:
        self.node.leaves = False
        self.node.daemon.configure(self.node.config())
        super().end()


class Freeze(Kill):
    """A daemon's clock stands still: it is stopped by SIGSTOP, and goes on later."""

    kind = "daemon frozen"
    longest = 6.0

    def begin(self) -> None:
        self.node.daemon.signal(signal.SIGSTOP)

    def end(self) -> None:
        self.node.daemon.signal(signal.SIGCONT)


class Reload(Kill):
    """A daemon reads a configuration with another holding time, and then the old one."""

    kind = "reload"

    def begin(self) -> None:
        self.node.holding_time = HOLDING_TIME + self.chance.randrange(1, 30)
        self.node.reload()

    def end(self) -> None:
        self.node.holding_time = HOLDING_TIME
        self.node.reload()


class GuestVPN(Fault):
    """A VPN comes by a reload, and goes."""

    kind = "VPN added"
    control_only = True

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)

    def begin(self) -> None:
        self.node.vpns.append(GUEST_VPN)
        if isinstance(self.node, Site):
            self.node.vnis = {**self.node.vnis, GUEST_VPN: 300}
        self.node.reload()

    def end(self) -> None:
        self.node.vpns.remove(GUEST_VPN)
        self.node.reload()


class VPNRemoved(GuestVPN):
    """A VPN goes by a reload, and comes back."""

    kind = "VPN removed"
    control_only = False

    def choose(self) -> None:
        super().choose()
        self.vpn = self.chance.choice(VPNS)

    @property
    def where(self) -> str:
        return f"{super().where}, VPN {self.vpn}"

    def begin(self) -> None:
        self.node.vpns.remove(self.vpn)
        self.node.reload()

    def end(self) -> None:
        self.node.vpns = sorted([*self.node.vpns, self.vpn])
        self.node.reload()

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        at = isinstance(self.node, Hub) or _at(self.node, one, other)
        return one.vpn == self.vpn and at


class DiskFull(Kill):
    """A machine's disk is full, with log and state on it; the daemon is told to reload, so that
    it has something to write, and may be killed and started with the disk full."""

    kind = "disk full"

    def choose(self) -> None:
        super().choose()
        self.killed = self.chance.random() < 0.5

    def begin(self) -> None:
        filler = self.node.disk / "filler"
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        self.node.daemon.signal(signal.SIGHUP)
        if self.killed:
            self.node.daemon.kill()
            self.node.daemon.start()

    def end(self) -> None:
        (self.node.disk / "filler").unlink()


# --- the underlay --------------------------------------------------------------------------------


class LinkDown(Fault):
    """A machine's link to the underlay goes down, at its own end or at the other."""

    kind = "underlay link down"

    def choose(self) -> None:
        self.node = self._choose_node(self.stage.nodes)
        self.far = self.chance.random() < 0.5

    def _set(self, state: str) -> None:
        if self.far:
            self.stage.lab.underlay.ip("link", "set", f"to-{self.node.name}", state)
        else:
            self.node.machine.namespace.ip("link", "set", "ul0", state)

    def begin(self) -> None:
        self._set("down")

    def end(self) -> None:
        self._set("up")

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        if isinstance(self.node, Hub):
            return to_all
        return _at(self.node, one, other)


class Partition(Fault):
    """Some machines and the others do not hear each other."""

    kind = "partition"

    def choose(self) -> None:
        nodes = list(self.stage.nodes)
        self.chance.shuffle(nodes)
        self.ones = nodes[: self.chance.randint(1, 3)]
        self.others = [node for node in self.stage.nodes if node not in self.ones]
        self.targets = frozenset(node.name for node in self.ones)

    def begin(self) -> None:
        ones = [node.machine for node in self.ones]
        others = [node.machine for node in self.others]
        self.stage.underlay.separate(self, ones, others)

    def end(self) -> None:
        self.stage.underlay.heal(self)

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        parted = (one.home in self.ones) != (other.home in self.ones)
        return parted or to_all


class LossOfNHRP(Fault):
    """30 % of the NHRP packets are lost."""

    kind = "30 % loss of NHRP"
    control_only = True
    what: ClassVar[str] = "NHRP"
    longest = 6.0

    def choose(self) -> None:
        self.targets = frozenset(["underlay"])

    def begin(self) -> None:
        self.stage.underlay.lose(self, self.what, 30)

    def end(self) -> None:
        self.stage.underlay.heal(self)


class LossOfFrames(LossOfNHRP):
    """30 % of the frames are lost."""

    kind = "30 % loss of VXLAN"
    control_only = False
    what = "VXLAN"

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return True


class LossOfAll(LossOfFrames):
    """30 % of both are lost."""

    kind = "30 % loss of both"
    what = "both"


class Disorder(LossOfNHRP):
    """Half of the NHRP packets come twice, the second time late; the others come late only."""

    kind = "NHRP doubled and late"

    def begin(self) -> None:
        self.stage.underlay.lose(self, "NHRP", 50)
        self.late = Late(self.stage.lab, self.chance.randrange(2**32))
        self.late.start()

    def end(self) -> None:
        self.late.end()
        super().end()


# --- what somebody does to a machine -------------------------------------------------------------


class AtSite(Fault):
    """Something at one site, in one VPN."""

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
        return one.vpn == self.vpn and _at(self.site, one, other)


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


# --- hubs ----------------------------------------------------------------------------------------


class AtHub(Fault):
    """Something at one hub."""

    def choose(self) -> None:
        node = self._choose_node(self.stage.hubs)
        assert isinstance(node, Hub)
        self.hub = node

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return to_all


class SwitchRemoved(AtHub):
    """Somebody takes the switch off a hub's device, or the device away."""

    kind = "hub's switch removed"
    longest = 0.5
    WAYS: ClassVar[dict[str, tuple[str, ...]]] = {
        "qdisc": ("tc", "qdisc", "del", "dev", "vx0", "clsact"),
        "filter": ("tc", "filter", "del", "dev", "vx0", "ingress"),
        "device": ("ip", "link", "delete", "vx0"),
    }

    def choose(self) -> None:
        super().choose()
        self.way = self.chance.choice(list(self.WAYS))

    @property
    def where(self) -> str:
        return f"{super().where}, {self.way}"

    def begin(self) -> None:
        self.hub.machine.namespace.run(*self.WAYS[self.way])

    def end(self) -> None:
        """It is for the daemon to mend."""


class PowerLost(AtHub):
    """A hub loses its power: daemon, switch and device are gone; then it starts with nothing."""

    kind = "hub without power"

    def begin(self) -> None:
        namespace = self.hub.machine.namespace
        namespace.ip("link", "set", "ul0", "down")
        self.hub.daemon.kill()
        unpin(namespace)
        namespace.ip("link", "delete", "vx0")

    def end(self) -> None:
        self.hub.machine.namespace.ip("link", "set", "ul0", "up")
        self.hub.daemon.start()


class Drained(AtHub):
    """An operator drains a hub, stops it with all its devices, and starts it again."""

    kind = "hub drained and stopped"
    control_only = True

    def begin(self) -> None:
        # It fails if there are sites that have no other hub, after faults of before.
        self.drained = self.hub.daemon.ctl.run("hub", "drain").returncode == 0
        if self.drained:
            self.hub.daemon.stop()

    def end(self) -> None:
        if self.drained:
            self.hub.daemon.start()
        else:
            self.hub.daemon.ctl.rows("hub", "undrain")

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return False


#: All kinds of faults.
FAULTS: tuple[type[Fault], ...] = (
    Kill,
    Restart,
    Upgrade,
    Freeze,
    Reload,
    GuestVPN,
    VPNRemoved,
    DiskFull,
    LinkDown,
    Partition,
    LossOfNHRP,
    LossOfFrames,
    LossOfAll,
    Disorder,
    DeviceDown,
    DeviceLost,
    EntriesFlushed,
    Moved,
    SwitchRemoved,
    PowerLost,
    Drained,
)
