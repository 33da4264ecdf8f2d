"""Every way from one state of a MAC to another, walked on a model of the kernel's tables."""

from __future__ import annotations

from itertools import product

import pytest

from dmevpn.addresses import VTEP
from dmevpn.dataplane.neighbours import NTF_MASTER, NTF_SELF, RTM_NEWNEIGH, parse_entries
from dmevpn.dataplane.netlink import NLM_F_EXCL
from dmevpn.dataplane.spoke_layout import NOTHING, Layout, State, Step
from tests.contracts.spoke_dataplane import station
from tests.dataplane.test_netlink import message

PLANES = Layout(
    device=5, flood_device=4, flood_mac=bytes(6), bridge=3, hold=bytes(4), port=4789, vni=100
)
SINGLE = Layout(
    device=5,
    flood_device=5,
    flood_mac=b"\xff" * 6,
    bridge=0,
    hold=bytes([10, 0, 0, 254]),
    port=None,
    vni=100,
)
NEAR, FAR = VTEP(bytes([10, 0, 0, 2]), 101), VTEP(bytes([10, 0, 0, 3]), 100)


def apply(layout: Layout, state: State, step: Step) -> State:
    """What the kernel's tables have after a request that succeeds."""
    (entry,) = parse_entries(message(step.message.type, step.message.body))
    assert entry.mac == step.mac
    assert entry.ifindex == layout.device
    made = step.message.type == RTM_NEWNEIGH
    if entry.flags & NTF_MASTER:
        assert layout.bridge, "nothing is written to the bridge in this layout"
        assert state.bridged is not made
        state = state._replace(bridged=made)
    if entry.flags & NTF_SELF:
        exclusive = bool(step.message.flags & NLM_F_EXCL)
        assert not made or exclusive is not bool(state.nbma)
        assert not made or entry.ours
        assert not made or entry.port == layout.port
        state = State(entry.nbma, entry.vni, state.bridged)
    return state


@pytest.mark.parametrize("layout", [PLANES, SINGLE], ids=["planes", "single"])
def test_every_transition(layout: Layout) -> None:
    """Each arrives, and the bridge never leads to a device that would drop the frame."""
    states = [NOTHING, *(layout.state(vtep) for vtep in (None, NEAR, FAR))]
    half_way = [state._replace(bridged=True) for state in states[:2]] if layout.bridge else []
    half_way += [layout.state(NEAR)._replace(bridged=False)]
    for old, new in product(states + half_way, states):
        state = old
        for step in layout.steps(station(1), old, new):
            state = apply(layout, state, step)
            if not old.bridged or old.nbma not in (b"", layout.hold):
                assert not state.bridged or state.nbma not in (b"", bytes(4))
        assert state == new
        assert layout.steps(station(1), new, new) == []


@pytest.mark.parametrize("layout", [PLANES, SINGLE], ids=["planes", "single"])
@pytest.mark.parametrize("vtep", [None, NEAR, FAR])
def test_state_and_vtep(layout: Layout, vtep: VTEP | None) -> None:
    """What was written for a VTEP or a hold is read back as that."""
    assert layout.vtep(layout.state(vtep)) == vtep
