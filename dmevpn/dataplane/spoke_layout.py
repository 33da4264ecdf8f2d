"""What stands in the kernel's tables for a MAC of a spoke, and the steps from one state to another.

Layer: edge; nothing here does I/O. There are two layouts, told apart by values alone:

*Two planes* (made by ``provision``). A hold is a black hole on the shortcut plane: the bridge
goes on flooding, so the hub plane carries the frames. A shortcut is an entry of the shortcut
plane and one of the bridge that leads there.

*One device* (made by hand). It has no default, so a hold is an entry to the hub; nothing is
written to the bridge, and no entry names a port.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from dmevpn.addresses import VTEP
from dmevpn.dataplane.neighbours import (
    bridge_add,
    bridge_delete,
    self_delete,
    self_set,
    whole_delete,
)
from dmevpn.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message

__all__ = ["NOTHING", "Action", "Layout", "State", "Step"]


class Action(Enum):
    """What a step does, which decides what a refusal means."""

    SET = auto()
    REMOVE = auto()
    ADD_TO_BRIDGE = auto()
    REMOVE_FROM_BRIDGE = auto()
    REMOVE_BOTH = auto()


class State(NamedTuple):
    """What stands for one MAC."""

    nbma: bytes
    """Destination on the vxlan device; empty: no entry there."""
    vni: int | None
    """None: the device's own."""
    bridged: bool
    """Whether the bridge sends frames for the MAC to the device, instead of flooding them."""


#: The state of a MAC that we have nothing about.
NOTHING = State(b"", None, False)


class Step(NamedTuple):
    """One request to the kernel."""

    mac: bytes
    action: Action
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where entries go and what they look like."""

    device: int
    """Index of the device that has holds and shortcuts."""
    flood_device: int
    """Index of the device whose default (or broadcast) entry leads to the hub."""
    flood_mac: bytes
    bridge: int
    """Index of the bridge; 0 if nothing is written to it."""
    hold: bytes
    """Destination of hold entries."""
    port: int | None
    """UDP port that every entry names; None: the device's own."""
    vni: int

    @property
    def devices(self) -> frozenset[int]:
        """The vxlan devices, by index."""
        return frozenset((self.device, self.flood_device))

    def state(self, vtep: VTEP | None) -> State:
        """What should stand for a MAC behind a VTEP, or held (None)."""
        if vtep is None:
            return State(self.hold, None, False)
        return State(vtep.nbma, None if vtep.vni == self.vni else vtep.vni, bool(self.bridge))

    def vtep(self, state: State) -> VTEP | None:
        """The VTEP that an entry leads to; None for a hold."""
        if state.nbma == self.hold and state.vni is None:
            return None
        return VTEP(state.nbma, self.vni if state.vni is None else state.vni)

    def steps(self, mac: bytes, old: State, new: State) -> list[Step]:
        """The requests that lead from one state to another, in an order that loses no frame.

        While the bridge leads to the device, the device has an entry with a destination; in
        between, a frame may take both ways, but never none.
        """
        steps = []
        if old.bridged and not new.bridged:
            if not new.nbma and old.nbma:
                return [Step(mac, Action.REMOVE_BOTH, whole_delete(self.device, mac))]
            steps.append(Step(mac, Action.REMOVE_FROM_BRIDGE, bridge_delete(self.device, mac)))
        if old.nbma and not new.nbma:
            steps.append(Step(mac, Action.REMOVE, self_delete(self.device, mac)))
        elif (old.nbma, old.vni) != (new.nbma, new.vni):
            # EXCL where we believe to have nothing: what is there then is somebody else's.
            message = self_set(
                self.device,
                mac,
                new.nbma,
                vni=new.vni,
                port=self.port,
                nlm_flags=NLM_F_CREATE | (NLM_F_REPLACE if old.nbma else NLM_F_EXCL),
            )
            steps.append(Step(mac, Action.SET, message))
        if new.bridged and not old.bridged:
            steps.append(Step(mac, Action.ADD_TO_BRIDGE, bridge_add(self.device, mac)))
        return steps
