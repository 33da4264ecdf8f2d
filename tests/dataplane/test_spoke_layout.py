"""Every way from one state of a MAC to another, walked on a model of the kernel's tables."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from dmevpn.addresses import VTEP
from dmevpn.dataplane.neighbours import NTF_MASTER, RTM_NEWNEIGH, parse_entries
from dmevpn.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL
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
    made = step.message.type == RTM_NEWNEIGH
    exclusive = bool(step.message.flags & NLM_F_EXCL)
    creates = bool(step.message.flags & NLM_F_CREATE)
    if entry.flags & NTF_MASTER:
        assert layout.bridge, "nothing is written to the bridge in this layout"
        assert entry.ifindex in layout.devices
        assert not entry.ours, "the kernel ignores EXCL with that flag"
        if not made:
            assert entry.ifindex == state.port
            return state._replace(port=0)
        assert creates is exclusive is not bool(state.port)
        assert entry.ifindex != state.port
        return state._replace(port=entry.ifindex)
    assert entry.ifindex == layout.device
    if not made:
        assert state.nbma
        return state._replace(nbma=b"", vni=None)
    assert exclusive is not bool(state.nbma)
    assert creates
    assert entry.ours
    assert entry.port == layout.port
    return state._replace(nbma=entry.nbma, vni=entry.vni)


def ways(layout: Layout, state: State) -> set[object]:
    """Where one frame goes: to the hub, to a site, both, or nowhere."""
    sites: set[object] = {(state.nbma, state.vni)} if any(state.nbma) else set()
    if not layout.bridge:
        return sites or {"miss"}
    if state.port == layout.device:
        return sites
    return {"hub"} if state.port else {"hub", *sites}


def walk(layout: Layout, old: State, new: State) -> list[State]:
    """The states on the way, by what the kernel makes of the requests."""
    states = [old]
    while states[-1] != new:
        step = layout.step(station(1), states[-1], new)
        assert step.old == states[-1]
        states.append(apply(layout, states[-1], step))
        assert step.new == states[-1]
        assert len(states) < 10, "it leads in circles"
    return states


ENDS = [None, NEAR, FAR]


@pytest.mark.parametrize("layout", [PLANES, SINGLE], ids=["planes", "single"])
def test_every_transition(layout: Layout) -> None:
    """A frame goes one way at each moment, and the way changes once at most."""
    states = [NOTHING, *(layout.state(vtep) for vtep in ENDS)]
    for old, new in product(states, states):
        path = walk(layout, old, new)
        seen = [ways(layout, state) for state in path]
        assert all(len(way) == 1 for way in seen)
        assert sum(a != b for a, b in pairwise(seen)) == (seen[0] != seen[-1])
        for a, b in pairwise(path):
            # A destination comes and goes while no frame comes by, but for a change of site.
            comes_or_goes = any(a.nbma) is not any(b.nbma)
            if layout.bridge and comes_or_goes:
                assert a.port == b.port == layout.flood_device
        for state in path:
            assert state.port != PLANES.flood_device or state.nbma, "who would know it as ours?"


def test_from_anywhere() -> None:
    """Whatever was left behind or taken away by others, there is a way out of it."""
    layout = PLANES
    selves: list[tuple[bytes, int | None]] = [(b"", None)]
    selves += [layout.state(vtep)[:2] for vtep in ENDS]
    states = [State(*entry, port) for entry, port in product(selves, (0, 4, 5))]
    for old, new in product(states, [NOTHING, *(layout.state(vtep) for vtep in ENDS)]):
        good = [len(ways(layout, state)) == 1 for state in walk(layout, old, new)]
        assert good == sorted(good), "what was right is wrong again"
        assert good[-1]


def test_frames_by_a_shortcut_may_end() -> None:
    """On the way back there is a moment at which frames by the shortcut still need its entry."""
    layout = PLANES
    hold, shortcut = layout.state(None), layout.state(NEAR)
    assert [layout.drains(state) for state in walk(layout, shortcut, hold)] == [
        *(False, True, False, False)
    ]
    single = SINGLE.state(NEAR)
    assert not any(SINGLE.drains(state) for state in walk(SINGLE, single, NOTHING))


@pytest.mark.parametrize("layout", [PLANES, SINGLE], ids=["planes", "single"])
@pytest.mark.parametrize("vtep", [None, NEAR, FAR])
def test_state_and_vtep(layout: Layout, vtep: VTEP | None) -> None:
    """What was written for a VTEP or a hold is read back as that."""
    assert layout.vtep(layout.state(vtep)) == vtep
