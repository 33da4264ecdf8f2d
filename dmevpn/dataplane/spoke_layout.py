"""What stands in the kernel's tables for a MAC of a spoke, and the steps from one state to another.

Layer: edge; nothing here does I/O. There are two layouts, told apart by values alone:

*Two planes* (made by ``provision``). A hold is a black hole on the shortcut plane: the bridge
goes on flooding, so the hub plane carries the frames. A shortcut is an entry of the shortcut
plane and one of the bridge that leads there. Where one becomes the other, the bridge leads to
the hub plane in between, so that the destination on the shortcut plane changes while no frame
goes there, and the path of the frames changes at once: by the bridge's exchange of a port.

*One device* (made by hand). It has no default, so a hold is an entry to the hub; nothing is
written to the bridge, and no entry names a port.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from dmevpn.addresses import VTEP
from dmevpn.dataplane.neighbours import (
    Entry,
    bridge_add,
    bridge_delete,
    bridge_move,
    self_delete,
    self_set,
)
from dmevpn.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message

__all__ = ["ALTERED", "NOTHING", "Action", "Layout", "State", "Step"]

#: In place of the VNI of a :class:`State`: the entry differs in what states do not hold, such as
#: its UDP port, and is to be written again.
ALTERED: Final = -1


class Action(Enum):
    """What a step does, which decides what a refusal means."""

    SET = auto()
    """Make or change an entry of the device."""
    REMOVE = auto()
    """Remove an entry of the device."""
    ADD_TO_BRIDGE = auto()
    """Put a MAC that the bridge does not know behind a plane."""
    MOVE = auto()
    """Put it behind the other plane."""
    REMOVE_FROM_BRIDGE = auto()


class State(NamedTuple):
    """What stands for one MAC."""

    nbma: bytes
    """Destination on the vxlan device; empty: no entry there."""
    vni: int | None
    """None: the device's own."""
    port: int
    """Index of the plane that the bridge has the MAC behind; 0: it floods the frames."""


#: The state of a MAC that we have nothing about.
NOTHING = State(b"", None, 0)


class Step(NamedTuple):
    """One request to the kernel, and what stands before and after it."""

    mac: bytes
    action: Action
    message: Message
    old: State
    new: State


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
            return State(self.hold, None, 0)
        port = self.device if self.bridge else 0
        return State(vtep.nbma, None if vtep.vni == self.vni else vtep.vni, port)

    def found(self, entry: Entry | None, port: int) -> State:
        """What stands for a MAC.

        :param entry: of the device, with our mark; None: there is none.
        :param port: the plane that the bridge has the MAC behind.
        """
        if entry is None:
            return State(b"", None, port)
        return State(entry.nbma, entry.vni if entry.port == self.port else ALTERED, port)

    def vtep(self, state: State) -> VTEP | None:
        """The VTEP that an entry leads to; None for a hold."""
        if state.nbma == self.hold and state.vni is None:
            return None
        return VTEP(state.nbma, self.vni if state.vni is None else state.vni)

    def drains(self, state: State) -> bool:
        """Whether frames that the bridge sent by the shortcut plane may still be on their way.

        The entry that they will look for must stay until they are through.
        """
        return bool(self.bridge) and state.port == self.flood_device and any(state.nbma)

    def step(self, mac: bytes, old: State, new: State) -> Step:
        """The next request on the way from one state to another that differs from it.

        One at a time, so that what was refused is the last thing that was done. Every state on
        the way forwards frames, each by one path; and while the bridge leads to the hub plane,
        our mark stands on the shortcut plane, which tells our entries from an operator's.

        :param new: what :meth:`state` returns, or NOTHING.
        """
        if not self.bridge:
            return self._set(mac, old, new) if new.nbma else self._remove(mac, old)
        if new.port:
            return self._step_to_shortcut(mac, old, new)
        if old.port == self.device and any(old.nbma):
            return self._move(mac, old, self.flood_device)
        if self.drains(old):
            return self._set(mac, old, State(self.hold, None, old.port))
        if old.port:
            message = bridge_delete(old.port, mac)
            return Step(mac, Action.REMOVE_FROM_BRIDGE, message, old, old._replace(port=0))
        return self._set(mac, old, new) if new.nbma else self._remove(mac, old)

    def _step_to_shortcut(self, mac: bytes, old: State, new: State) -> Step:
        if (old.nbma, old.vni) == (new.nbma, new.vni):
            return self._move(mac, old, self.device) if old.port else self._add(mac, old, new.port)
        if old.port or any(old.nbma):
            # In place where frames go that way already; else none does.
            return self._set(mac, old, new._replace(port=old.port))
        if old.nbma:
            return self._add(mac, old, self.flood_device)
        return self._set(mac, old, State(self.hold, None, 0))

    def _set(self, mac: bytes, old: State, new: State) -> Step:
        # EXCL where we believe to have nothing: what is there then is somebody else's.
        message = self_set(
            self.device,
            mac,
            new.nbma,
            vni=new.vni,
            port=self.port,
            nlm_flags=NLM_F_CREATE | (NLM_F_REPLACE if old.nbma else NLM_F_EXCL),
        )
        return Step(mac, Action.SET, message, old, new)

    def _remove(self, mac: bytes, old: State) -> Step:
        return Step(mac, Action.REMOVE, self_delete(self.device, mac), old, NOTHING)

    def _add(self, mac: bytes, old: State, port: int) -> Step:
        message = bridge_add(port, mac)
        return Step(mac, Action.ADD_TO_BRIDGE, message, old, old._replace(port=port))

    def _move(self, mac: bytes, old: State, port: int) -> Step:
        return Step(mac, Action.MOVE, bridge_move(port, mac), old, old._replace(port=port))
