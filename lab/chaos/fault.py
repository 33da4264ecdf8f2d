"""What a fault is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from random import Random
from typing import ClassVar

from lab.chaos.stage import Node, Stage, Station

__all__ = ["Fault", "at"]


class Fault(ABC):
    """Something that befalls the network for a while.

    :param stage: the network.
    :param chance: decides where and for how long; nothing else does.
    :ivar where: what it befalls, in words.
    :ivar targets: names of what it befalls; no two faults at once have one in common.
    :ivar seconds: how long.
    :ivar seen: what was measured of it, in words.
    """

    kind: ClassVar[str]
    contained: ClassVar[bool] = False
    """Whether no frames may be lost on its account but those that :meth:`disturbs` tells. By what
    befalls daemons alone those are none."""
    shortest: ClassVar[float] = 0.3
    longest: ClassVar[float] = 3.0

    def __init__(self, stage: Stage, chance: Random) -> None:
        self.stage = stage
        self.chance = chance
        self.targets: frozenset[str] = frozenset()
        self.seen = ""
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


def at(site: Node, one: Station, other: Station) -> bool:
    return site in (one.home, other.home)
