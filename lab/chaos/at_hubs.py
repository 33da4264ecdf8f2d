"""What may befall a hub."""

from __future__ import annotations

from typing import ClassVar

from lab.chaos.fault import Fault
from lab.chaos.stage import Hub, Station
from lab.topology import unpin

__all__ = ["HUB_FAULTS"]


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
    contained = True

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


HUB_FAULTS = (SwitchRemoved, PowerLost, Drained)
