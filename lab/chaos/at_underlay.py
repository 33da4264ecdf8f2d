"""What may befall the underlay."""

from __future__ import annotations

from typing import ClassVar

from lab.chaos.fault import Fault, at
from lab.chaos.stage import Hub, Station
from lab.chaos.underlay import Late

__all__ = ["UNDERLAY_FAULTS"]


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
        return at(self.node, one, other)


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
    """30 % of the NHRP packets are lost. Shortcuts go on. Hubs seem to be away to sites, and sites
    to hubs, so what goes by hubs may be lost until they have found each other again."""

    kind = "30 % loss of NHRP"
    contained = True
    what: ClassVar[str] = "NHRP"
    longest = 6.0

    def choose(self) -> None:
        self.targets = frozenset(["underlay"])

    def begin(self) -> None:
        self.stage.underlay.lose(self, self.what, 30)

    def end(self) -> None:
        self.stage.underlay.heal(self)

    def disturbs(self, one: Station, other: Station, *, to_all: bool) -> bool:
        return to_all


class LossOfFrames(LossOfNHRP):
    """30 % of the frames are lost."""

    kind = "30 % loss of VXLAN"
    contained = False
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


UNDERLAY_FAULTS = (LinkDown, Partition, LossOfNHRP, LossOfFrames, LossOfAll, Disorder)
