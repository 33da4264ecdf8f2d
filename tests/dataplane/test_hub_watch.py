"""What others do to the device of a hub's switch is said, counted and put right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from twisted.logger import LogLevel

from dmevpn.config.model import HubPlan
from dmevpn.dataplane.hub_provision import provision_hub
from tests.contracts.hub_dataplane import BROADCAST, HUB_IPV4, HUB_IPV6, A, B, frame, mac
from tests.dataplane.hub_lab import DEVICE, PIN_ROOT, HubLab, KernelWorld
from tests.dataplane.test_provision import texts_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

#: A program of an operator's.
FOREIGN = ("protocol", "all", "handle", "1", "bpf", "bytecode", "1,6 0 0 0", "flowid", "1:1")


@pytest.fixture
def lab(laboratory: HubLab) -> Iterator[HubLab]:
    """The same, with the device made by hand at the end as at the beginning."""
    yield laboratory
    if DEVICE in laboratory.hub.devices():
        laboratory.hub.ip("link", "del", DEVICE)
    laboratory.add_device()


def started(lab: HubLab, provisioned: bool, nbma_address: bytes | None = None) -> KernelWorld:
    """A switch with two sites, on the device made by hand or on one of its own."""
    if provisioned:
        lab.hub.ip("link", "del", DEVICE)
    plan = HubPlan(interface=DEVICE, controller="nhrp", vpns=((1, 1),), provision=True)
    provision = partial(provision_hub, plan, nbma_address) if provisioned else None
    world = KernelWorld(lab, provision=provision)
    world.join(1, A, B)
    assert floods(world)
    return world


def floods(world: KernelWorld) -> bool:
    """Whether a broadcast of one site arrives at the other."""
    return world.sent(A, frame(BROADCAST, mac(1))) == [B]


def notice(world: KernelWorld, seconds: float = 0.0) -> None:
    """Let a daemon in the hub's namespace see to what has happened to its device."""
    with world.lab.hub.entered():
        world.read_events()
        world.reactor.pump([0, seconds, 0])


@pytest.mark.parametrize("provisioned", [False, True])
def test_device_that_is_made_anew(lab: HubLab, provisioned: bool) -> None:
    """The switch goes on with its members on the device that takes the place of a lost one:
    ours comes back by itself, the operator's when it is made again."""
    world = started(lab, provisioned)
    for change in (("del", DEVICE), ("set", DEVICE, "name", "lost")):
        lab.hub.ip("link", *change)
        notice(world)
        if provisioned:
            notice(world, 0.25)
        elif change[0] == "del":
            lab.add_device()
        else:
            lab.hub.ip("link", "set", "lost", "name", DEVICE)
        notice(world)
        assert floods(world)
    assert world.count("device_faults") == 2
    assert world.count("device_repairs") == (2 if provisioned else 0)
    lab.hub.ip("link", "set", DEVICE, "down")
    notice(world)
    assert world.count("device_faults") == 3
    world.dataplane.stop()
    assert [name for _, _, names in os.walk(PIN_ROOT) for name in names] == []


@pytest.mark.parametrize(
    "command",
    [
        ("filter", "del", "dev", DEVICE, "ingress", "pref", "4789"),
        ("filter", "del", "dev", DEVICE, "ingress"),
        ("qdisc", "del", "dev", DEVICE, "clsact"),
    ],
    ids=["filter", "filters", "qdisc"],
)
@pytest.mark.parametrize("provisioned", [False, True])
def test_switch_taken_off(lab: HubLab, command: tuple[str, ...], provisioned: bool) -> None:
    """The program is put back at its place within a second, whosever the device is, and the
    qdisc goes at the stop as if nothing had happened."""
    world = started(lab, provisioned)
    lab.hub.run("tc", *command)
    notice(world)
    assert world.count("device_faults") == 1
    notice(world, 0.25)
    assert floods(world)
    notice(world)
    assert world.count("device_repairs") == 1
    world.dataplane.stop()
    assert provisioned or "clsact" not in lab.qdiscs()


def test_another_fault_before_one_is_put_right(lab: HubLab) -> None:
    """What would have mended the first is not done to the device that there is by then."""
    world = started(lab, provisioned=False)
    taken_off = ("filter", "del", "dev", DEVICE, "ingress", "pref", "4789")
    lab.hub.run("tc", *taken_off)
    notice(world)
    lab.hub.ip("link", "del", DEVICE)
    notice(world)
    lab.add_device()
    notice(world)
    assert floods(world)
    with texts_of(LogLevel.error) as said:
        notice(world, 0.25)
        notice(world, 5)
    assert said == []
    lab.hub.run("tc", *taken_off)
    notice(world)
    notice(world, 0.25)
    assert floods(world)
    world.dataplane.stop()


def test_somebody_takes_our_place(lab: HubLab) -> None:
    """A foreign program at our place is not pushed aside; when it goes, ours comes back."""
    world = started(lab, provisioned=False)
    place = ("dev", DEVICE, "ingress", "pref", "4789")
    lab.hub.run("tc", "filter", "del", *place)
    lab.hub.run("tc", "filter", "add", *place, *FOREIGN)
    notice(world)
    with texts_of(LogLevel.error) as texts:
        notice(world, 0.25)
    assert len(texts) == 1
    assert "another program is at priority 4789" in texts[0]
    assert "bytecode" in lab.hub.run("tc", "filter", "show", "dev", DEVICE, "ingress").stdout
    assert world.count("device_repairs") == 0
    lab.hub.run("tc", "filter", "del", *place)
    notice(world, 5.0)
    notice(world)
    assert floods(world)
    assert world.count("device_repairs") == 1
    world.dataplane.stop()


def test_device_of_ours_is_changed(lab: HubLab) -> None:
    """Its MTU is what it was; a device of somebody else's that does not fit is refused with
    what differs, and the switch goes on when it is gone."""
    world = started(lab, provisioned=True)
    lab.hub.ip("link", "set", DEVICE, "mtu", "1300")
    notice(world)
    notice(world, 0.25)
    assert lab.hub.ip_json("link", "show", "dev", DEVICE)[0]["mtu"] == 1550
    notice(world)
    assert world.count("device_repairs") == 1
    lab.hub.ip("link", "del", DEVICE)
    lab.hub.ip("link", "add", DEVICE, "type", "vxlan", "external", "dstport", "4790")
    notice(world)
    with texts_of(LogLevel.error) as texts:
        notice(world, 0.25)
    assert len(texts) == 1
    assert "is not ours: dstport is 4790, not 4789; remove it" in texts[0]
    lab.hub.ip("link", "del", DEVICE)
    notice(world, 5.0)
    notice(world)
    assert floods(world)
    world.dataplane.stop()
    assert DEVICE not in lab.hub.devices()


@pytest.fixture
def underlay(lab: HubLab) -> Iterator[Callable[..., None]]:
    """Runs ``ip`` in the hub's namespace, whose underlay is as it was at the end."""
    yield lab.hub.ip
    lab.hub.ip("link", "set", "ul0", "mtu", "1600")
    if "other0" in lab.hub.devices():
        lab.hub.ip("link", "del", "other0")


@pytest.mark.parametrize(
    ("nbma_address", "overhead"), [(None, 50), (HUB_IPV4, 50), (HUB_IPV6, 70)], ids=["", "4", "6"]
)
def test_the_underlay_gets_another_mtu(
    lab: HubLab, underlay: Callable[..., None], nbma_address: bytes | None, overhead: int
) -> None:
    """Our device follows within a second, which is counted; what befalls
    devices by which no frame of ours leaves is nothing to us."""
    world = started(lab, True, nbma_address)

    def mtu() -> int:
        found: int = lab.hub.ip_json("link", "show", "dev", DEVICE)[0]["mtu"]
        return found

    def settled() -> int:
        notice(world)
        notice(world, 0.25)
        notice(world)
        return mtu()

    assert mtu() == 1600 - overhead
    for changed in (1500, 1590):
        underlay("link", "set", "ul0", "mtu", str(changed))
        assert settled() == changed - overhead
        assert world.dataplane.mtu == changed - overhead
    assert world.count("device_faults") == world.count("device_repairs") == 2
    underlay("link", "add", "other0", "mtu", "9000", "type", "veth")
    assert settled() == 1590 - overhead
    underlay("link", "set", "other0", "up")
    assert settled() == (9000 if nbma_address is None else 1590) - overhead
    underlay("link", "del", "other0")
    assert settled() == 1590 - overhead
    world.dataplane.stop()
