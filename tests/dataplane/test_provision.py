"""Devices that are made, taken up, refused and removed."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from constantly import NamedConstant
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher

from dmevpn.addresses import parse_ip
from dmevpn.config.model import HubPlan, SpokePlan
from dmevpn.dataplane.hub_provision import HubDevice, provision_hub
from dmevpn.dataplane.links import LinkTable
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.dataplane.provision import Planes, Provisioner
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.dataplane.underlay import find_underlay
from dmevpn.errors import StartError
from dmevpn.interfaces import SpokeListener
from dmevpn.metrics import Metrics
from tests.dataplane.site import HUB4, HUB6, UNDERLAY, Site, spoke_plan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def requests(site: Site) -> Iterator[NetlinkRequests]:
    """A request socket in the namespace."""
    with site.namespace.entered():
        requests = NetlinkRequests()
    yield requests
    requests.close()


def start(site: Site, plan: SpokePlan, nbma_address: bytes | None = None) -> VXLANFDB:
    """A data plane that was started in the namespace."""
    dataplane = VXLANFDB(MemoryReactorClock(), Metrics(), plan, nbma_address)
    with site.namespace.entered():
        dataplane.start(SpokeListener())
    return dataplane


def refusal(site: Site, plan: SpokePlan, nbma_address: bytes | None = None) -> str:
    """The one line with which a start is refused; nothing of it is left behind."""
    before = site.namespace.devices()
    with pytest.raises(StartError) as caught:
        start(site, plan, nbma_address)
    assert site.namespace.devices() == before
    text = str(caught.value)
    assert "\n" not in text
    return text


def planes_left(site: Site, requests: NetlinkRequests, hub: bytes = HUB4) -> Planes:
    """The devices of a spoke that was killed as soon as it had them."""
    with site.namespace.entered():
        underlay = find_underlay(LinkTable(requests), "vx1", hub, None)
        with closing(Provisioner(requests, "vx1")) as provisioner:
            return provisioner.make_spoke(spoke_plan(), hub, underlay)


def shown(site: Site, name: str) -> dict[str, Any]:
    """What `ip -details link show` says about a device."""
    (row,) = site.namespace.ip_json("link", "show", "dev", name)
    return row


# --- spoke ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("hub", "mtu"), [(HUB4, 1500), (HUB6, 1480)])
def test_planes(site: Site, hub: bytes, mtu: int) -> None:
    """Bridge and planes are as documented, and gone after the stop."""
    dataplane = start(site, spoke_plan(hub))
    assert dataplane.mtu == mtu
    hub_plane, shortcut, bridge = (shown(site, name) for name in ("vx1", "vx1-s", "br1"))
    for plane, port, learns_misses in ((hub_plane, 4789, False), (shortcut, 4788, True)):
        data = plane["linkinfo"]["info_data"]
        assert data["id"] == 100
        assert data["port"] == port
        assert data["learning"] is False
        assert bool(data.get("l2miss")) is learns_misses
        assert parse_ip(data.get("local", data.get("local6"))) == parse_ip(
            "10.0.0.1" if len(hub) == 4 else "fd00::1"
        )
        assert plane["mtu"] == mtu
        assert plane["master"] == "br1"
        assert "UP" in plane["flags"]
        settings = plane["linkinfo"]["info_slave_data"]
        assert (settings["learning"], settings["isolated"], settings["flood"]) == (
            False,
            True,
            True,
        )
        assert settings["mcast_flood"] is settings["bcast_flood"] is (not learns_misses)
        assert plane["ifalias"].startswith("dmevpn ")
        assert plane["inet6_addr_gen_mode"] == "none"
    remote = hub_plane["linkinfo"]["info_data"]
    assert parse_ip(remote.get("remote", remote.get("remote6"))) == hub
    assert bridge["linkinfo"]["info_data"]["mcast_snooping"] == 0
    assert "UP" in bridge["flags"]
    for name in ("vx1", "vx1-s", "br1"):
        addresses = site.namespace.ip_json("address", "show", "dev", name)
        assert addresses[0]["addr_info"] == []
    dataplane.stop()
    assert site.namespace.devices() == UNDERLAY


def test_bridge_of_the_operator(site: Site) -> None:
    """A bridge that is there already is used, and stays."""
    site.namespace.ip("link", "add", "br1", "type", "bridge")
    dataplane = start(site, spoke_plan())
    assert shown(site, "vx1")["master"] == "br1"
    assert "UP" not in shown(site, "br1")["flags"]
    dataplane.stop()
    assert site.namespace.devices() == {*UNDERLAY, "br1"}


def test_bridge_of_two_vpns(site: Site) -> None:
    """A bridge of ours is removed with the last planes in it."""
    first = start(site, spoke_plan())
    second = start(site, replace(spoke_plan(), interface="vx2", vni=200))
    first.stop()
    assert site.namespace.devices() == {*UNDERLAY, "br1", "vx2", "vx2-s"}
    second.stop()
    assert site.namespace.devices() == UNDERLAY


def test_taken_up(site: Site, requests: NetlinkRequests) -> None:
    """What a killed daemon left is taken up as it stands, default entry and bridge included."""
    first = planes_left(site, requests)
    site.namespace.bridge("fdb", "append", "02:00:00:00:00:09", "dev", "vx1-s", "dst", "10.0.0.9")
    again = planes_left(site, requests, parse_ip("10.0.0.253"))
    assert [link.ifindex for link in again] == [link.ifindex for link in first]
    assert site.destinations("vx1-s", "02:00:00:00:00:09") == {parse_ip("10.0.0.9")}
    assert site.destinations("vx1", "00:00:00:00:00:00") == {HUB4}


@pytest.mark.parametrize("change", [{"vni": 101}, {"port": 8472}])
def test_made_anew(site: Site, requests: NetlinkRequests, change: dict[str, Any]) -> None:
    """Left-over devices that no longer fit the configuration are made anew."""
    first = planes_left(site, requests)
    dataplane = start(site, replace(spoke_plan(), **change))
    data = shown(site, "vx1")["linkinfo"]["info_data"]
    assert data["id"] == change.get("vni", 100)
    assert data["port"] == change.get("port", 4789)
    assert shown(site, "vx1")["ifindex"] != first.hub.ifindex
    assert shown(site, "br1")["ifindex"] == first.bridge.ifindex
    dataplane.stop()


@pytest.mark.parametrize("name", ["vx1", "vx1-s"])
def test_name_taken(site: Site, name: str) -> None:
    """A device of the name that is no vxlan device is refused by name, with the cure."""
    site.namespace.ip("link", "add", name, "type", "bridge")
    assert refusal(site, spoke_plan()) == (
        f"interface {name}: a device of that name exists and is not ours: kind is bridge, not"
        f" vxlan; remove it (`ip link delete {name}`) to have it made, or configure it without"
        " `provision`"
    )


#: What the planes are made with by hand.
PLANES = {
    "vx1": "id 100 local 10.0.0.1 dstport 4789 nolearning remote 10.0.0.254",
    "vx1-s": "id 100 local 10.0.0.1 dstport 4788 nolearning l2miss",
}


def make_by_hand(site: Site, name: str, parameters: str) -> None:
    """A vxlan device of an operator's."""
    site.namespace.ip("link", "add", name, "type", "vxlan", *parameters.split())


def test_adopted(site: Site) -> None:
    """Devices of others that are right are used, set as ours are, and stay."""
    for name, parameters in PLANES.items():
        make_by_hand(site, name, parameters)
    before = {name: shown(site, name)["ifindex"] for name in PLANES}
    with texts_of(LogLevel.info) as texts:
        dataplane = start(site, spoke_plan())
    assert [text for text in texts if "who made it removes it" in text] == [
        f"vx1: {name} is what it should be; who made it removes it" for name in PLANES
    ]
    for name, ifindex in before.items():
        row = shown(site, name)
        assert row["ifindex"] == ifindex
        assert row["master"] == "br1"
        assert row["mtu"] == 1500
        assert row["inet6_addr_gen_mode"] == "none"
        assert "ifalias" not in row
        assert "UP" in row["flags"]
        assert row["linkinfo"]["info_slave_data"]["isolated"] is True
    dataplane.stop()
    assert site.namespace.devices() == {*UNDERLAY, *PLANES}
    assert site.destinations("vx1", "00:00:00:00:00:00") == {HUB4}
    again = start(site, spoke_plan())
    assert {name: shown(site, name)["ifindex"] for name in PLANES} == before
    again.stop()


@pytest.mark.parametrize(
    ("name", "was", "wants", "said"),
    [
        ("vx1", "id 100", "id 200", "id is 200, not 100"),
        ("vx1", "local 10.0.0.1", "", "local is none, not 10.0.0.1"),
        ("vx1", "10.0.0.254", "10.0.0.9", "remote is 10.0.0.9, not 10.0.0.254"),
        ("vx1", "4789", "8472", "dstport is 8472, not 4789"),
        ("vx1", "nolearning", "learning", "learning is on, not off"),
        ("vx1", "nolearning", "nolearning proxy", "proxy is on, not off"),
        ("vx1", "nolearning", "nolearning gbp", "gbp is on, not off"),
        ("vx1", "nolearning", "nolearning maxaddress 5", "maxaddress is on, not off"),
        ("vx1-s", "l2miss", "", "l2miss is off, not on"),
        ("vx1-s", "l2miss", "l2miss l3miss", "l3miss is on, not off"),
        ("vx1-s", "l2miss", "l2miss remote 10.0.0.9", "remote is 10.0.0.9, not none"),
        ("vx1-s", PLANES["vx1-s"], "external dstport 4788", "external is on, not off"),
        ("vx1", "id 100 local 10.0.0.1", "id 7", "id is 7, not 100, local is none, not 10.0.0.1"),
    ],
)
def test_not_adopted(site: Site, name: str, was: str, wants: str, said: str) -> None:
    """One of others that is not right is refused with every difference, and nothing is changed."""
    for each, parameters in PLANES.items():
        changed = parameters.replace(was, wants) if each == name else parameters
        make_by_hand(site, each, changed)
    before = {each: shown(site, each) for each in PLANES}
    text = refusal(site, spoke_plan())
    assert text.startswith(
        f"interface {name}: a device of that name exists and is not ours: {said}; "
    )
    assert {each: shown(site, each) for each in PLANES} == before
    if said == "learning is on, not off":
        cure = text.partition("`")[2].partition("`")[0]
        site.namespace.run(*cure.split())
        start(site, spoke_plan()).stop()


def test_port_of_another_bridge(site: Site) -> None:
    """A plane of somebody else's is not taken out of their bridge; the cure names the command."""
    make_by_hand(site, "vx1", PLANES["vx1"])
    site.namespace.ip("link", "add", "br9", "type", "bridge")
    site.namespace.ip("link", "set", "vx1", "master", "br9")
    text = refusal(site, spoke_plan())
    assert "is not ours: master is br9, not br1; `ip link set vx1 nomaster`, or" in text
    site.namespace.ip("link", "set", "vx1", "nomaster")
    start(site, spoke_plan()).stop()
    assert site.namespace.devices() == {*UNDERLAY, "br9", "vx1"}


def test_failed_start_puts_back(site: Site) -> None:
    """What a start has changed of a device of others is as before when it fails later on."""
    make_by_hand(site, "vx1", PLANES["vx1"])
    before = shown(site, "vx1")
    with site.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4788))
        assert "UDP port 4788 is in use" in refusal(site, spoke_plan())
    after = shown(site, "vx1")
    # A device that has been up keeps the queueing that it got then.
    assert {**after, "qdisc": ""} == {**before, "qdisc": ""}


def test_device_of_a_hub_is_left_alone(site: Site) -> None:
    """What we made for something else is refused like a device of others."""
    hub = make_hub(site, hub_plan())
    plan = replace(spoke_plan(), interface="vx0", port=4799)
    assert "interface vx0: a device of that name exists" in refusal(site, plan)
    hub.remove()


def test_bridge_that_is_none(site: Site) -> None:
    """`provision` names a device that is no bridge."""
    assert refusal(site, replace(spoke_plan(), bridge="ul0")) == (
        "interface vx1: ul0 exists and is no bridge: kind is veth, not bridge; name another one"
        " after `provision`"
    )


def test_names_too_long(site: Site) -> None:
    """Names that the kernel cannot have are named before anything is made."""
    assert "13 characters" in refusal(site, replace(spoke_plan(), interface="vxlan-of-site1"))
    assert "15 characters" in refusal(site, replace(spoke_plan(), bridge="a-bridge-too-far"))


def test_port_in_use_by_a_socket(site: Site) -> None:
    """A program that has the UDP port is the reason, and the port is named."""
    with site.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4788))
        text = refusal(site, spoke_plan())
    assert text.startswith("interface vx1: UDP port 4788 is in use")
    assert "vxlan-port" in text


def test_port_in_use_by_a_hub(site: Site) -> None:
    """A hub's device on the same port is refused like any other owner of it."""
    with site.namespace.entered():
        hub = provision_hub(HubPlan(interface="vx0", controller="nhrp", vpns=((1, 1),)))
    assert "UDP port 4789 is in use" in refusal(site, spoke_plan())
    hub.remove()


def test_vni_in_use(site: Site) -> None:
    """Another vxlan device with the VNI on the port is the reason, and both are named."""
    site.namespace.ip("link", "add", "vx7", "type", "vxlan", "id", "100", "dstport", "4788")
    text = refusal(site, spoke_plan())
    assert "another vxlan device has VNI 100 on UDP port 4788" in text


def test_nbma_address(site: Site) -> None:
    """The configured address is used, and refused if it is not ours or cannot reach the hub."""
    site.namespace.ip("address", "add", "10.0.0.11/24", "dev", "ul0")
    dataplane = start(site, spoke_plan(), parse_ip("10.0.0.11"))
    assert dataplane.local_vtep.nbma == parse_ip("10.0.0.11")
    dataplane.stop()
    site.namespace.ip("address", "del", "10.0.0.11/24", "dev", "ul0")
    text = refusal(site, spoke_plan(), parse_ip("10.0.0.11"))
    assert text == "interface vx1: nbma-address 10.0.0.11 is no address of this machine"
    assert "different address families" in refusal(site, spoke_plan(), parse_ip("fd00::1"))


def test_no_way_to_the_hub(site: Site) -> None:
    """Without a route to the hub the start says so."""
    text = refusal(site, spoke_plan(parse_ip("192.0.2.1")))
    assert text.startswith("interface vx1: no way to hub 192.0.2.1: Network is unreachable")


def test_hub_without_address(site: Site) -> None:
    """A plan whose hubs are unknown cannot start."""
    plan = replace(spoke_plan(), servers=(replace(spoke_plan().servers[0], address=None),))
    assert "no hub" in refusal(site, plan)


# --- made by hand ---------------------------------------------------------------------------


def hand_made(hub: bytes = HUB4) -> SpokePlan:
    """The plan for a device without `provision`."""
    return spoke_plan(hub, bridge=None)


def test_no_device(site: Site) -> None:
    """A missing device is named, and both ways to get one."""
    assert refusal(site, hand_made()) == (
        "interface vx1: no such device; make it, or have it made with `provision BRIDGE`"
    )


def test_wrong_devices(site: Site) -> None:
    """A device that cannot serve is refused with the reason."""
    site.namespace.ip("link", "add", "vx1", "type", "bridge")
    assert "a vxlan device is needed, this is bridge" in refusal(site, hand_made())
    site.namespace.ip("link", "del", "vx1")
    site.namespace.ip("link", "add", "vx1", "type", "vxlan", "external", "dstport", "4789")
    assert "an external vxlan device is a hub's" in refusal(site, hand_made())
    site.namespace.ip("link", "del", "vx1")
    site.add_single()
    text = refusal(site, replace(hand_made(), vni=200))
    assert text == "interface vx1: the device has VNI 100, the configuration 200"
    assert "different address families" in refusal(site, hand_made(HUB6))


def test_local_address(site: Site) -> None:
    """A device without `local` has the kernel's choice towards the hub."""
    site.namespace.ip("link", "add", "vx1", "type", "vxlan", "id", "100", "dstport", "8472")
    dataplane = start(site, hand_made())
    assert dataplane.local_vtep.nbma == parse_ip("10.0.0.1")
    dataplane.stop()


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            ("nolearning",),
            "ip link del vx1; ip link add vx1 type vxlan id 100 local 10.0.0.1 dstport 8472",
        ),
        (("l2miss",), "ip link set dev vx1 type vxlan id 100 nolearning"),
        (
            ("l2miss", "nolearning", "remote", "10.0.0.254"),
            "bridge fdb del 00:00:00:00:00:00 dev vx1 dst 10.0.0.254",
        ),
    ],
)
def test_advice(site: Site, options: tuple[str, ...], warning: str) -> None:
    """A device that would never get a shortcut draws a warning whose command cures it."""
    site.add_single(*options)
    dataplane = VXLANFDB(MemoryReactorClock(), Metrics(), hand_made())
    with site.namespace.entered(), texts_of() as texts:
        dataplane.start(SpokeListener())
    dataplane.stop()
    assert [text for text in texts if warning in text] == texts
    assert len(texts) == 1
    for command in texts[0][texts[0].index(warning) :].split(";"):
        site.namespace.run(*command.split())


@contextmanager
def texts_of(level: NamedConstant = LogLevel.warn) -> Iterator[list[str]]:
    """What is logged at a level inside a ``with``."""
    texts: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_level") is level:
            texts.append(formatEvent(event))

    observer = cast("ILogObserver", observe)
    globalLogPublisher.addObserver(observer)
    try:
        yield texts
    finally:
        globalLogPublisher.removeObserver(observer)


# --- privileges -----------------------------------------------------------------------------

UNPRIVILEGED = """
import sys
from twisted.internet.testing import MemoryReactorClock
from dmevpn.dataplane.spoke_fdb import VXLANFDB
from dmevpn.dataplane.hub_provision import provision_hub
from dmevpn.config.model import HubPlan
from dmevpn.errors import StartError
from dmevpn.interfaces import SpokeListener
from dmevpn.metrics import Metrics
from tests.dataplane.site import spoke_plan
for bridge in ("br1", None):
    try:
        VXLANFDB(MemoryReactorClock(), Metrics(), spoke_plan(bridge=bridge)).start(SpokeListener())
    except StartError as error:
        print(error)
try:
    provision_hub(HubPlan(interface="vx0", controller="nhrp", vpns=((1, 1),)))
except StartError as error:
    print(error)
"""


def test_no_privileges(site: Site) -> None:
    """Without CAP_NET_ADMIN each start is one line that names it, and nothing is made."""
    site.add_single()
    done = site.namespace.run(
        "setpriv", "--bounding-set=-net_admin", sys.executable, "-c", UNPRIVILEGED
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "interface vx1",
        "interface vx1",
        "interface vx0",
    ]
    assert all("CAP_NET_ADMIN is missing" in line for line in lines)
    assert site.namespace.devices() == {*UNDERLAY, "vx1"}


# --- hub ------------------------------------------------------------------------------------


def hub_plan(**changes: Any) -> HubPlan:
    """A hub on vx0."""
    return HubPlan(interface="vx0", controller="nhrp", vpns=((1, 3),), provision=True, **changes)


def make_hub(site: Site, plan: HubPlan, nbma_address: bytes | None = None) -> HubDevice:
    """A hub's device in the namespace."""
    with site.namespace.entered():
        return provision_hub(plan, nbma_address)


@pytest.mark.parametrize(("address", "mtu"), [(None, 1500), ("10.0.0.1", 1500), ("fd00::1", 1480)])
def test_hub(site: Site, address: str | None, mtu: int) -> None:
    """A hub's device is external, fits the underlay, and is gone after the stop."""
    device = make_hub(site, hub_plan(), parse_ip(address) if address else None)
    row = shown(site, "vx0")
    assert row["linkinfo"]["info_data"]["external"] is True
    assert row["linkinfo"]["info_data"]["port"] == 4789
    assert row["mtu"] == device.link.mtu == mtu
    assert "UP" in row["flags"]
    assert row["ifalias"] == "dmevpn hub"
    assert device.link.up
    device.remove()
    assert site.namespace.devices() == UNDERLAY


@pytest.mark.parametrize("address", [None, "10.0.0.1"])
def test_hub_without_underlay(site: Site, address: str | None) -> None:
    """While no device leads anywhere, or none has the address, the MTU of a hub's stays."""
    device = make_hub(site, hub_plan(), parse_ip(address) if address else None)
    site.namespace.ip("address", "flush", "dev", "ul0")
    for name in UNDERLAY:
        site.namespace.ip("link", "set", name, "mtu", "1400", "down")
    try:
        assert device.fault(device.link) == ""
        device.restore()
        assert shown(site, "vx0")["mtu"] == 1500
    finally:
        site.readdress()
    device.remove()


def test_hub_taken_up(site: Site) -> None:
    """The switch of a killed daemon goes on, on the same device; another port makes it anew."""
    first = make_hub(site, hub_plan())
    first.close()
    second = make_hub(site, hub_plan())
    assert second.link.ifindex == first.link.ifindex
    second.close()
    third = make_hub(site, hub_plan(port=8472))
    assert third.link.ifindex != first.link.ifindex
    third.remove()


def test_hub_refused(site: Site) -> None:
    """A foreign device of the name, a taken port and a foreign address are named."""
    site.namespace.ip("link", "add", "vx0", "type", "bridge")
    with pytest.raises(StartError, match="interface vx0: a device of that name exists"):
        make_hub(site, hub_plan())
    site.namespace.ip("link", "del", "vx0")
    with site.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 4789))
        with pytest.raises(StartError, match="UDP port 4789 is in use"):
            make_hub(site, hub_plan())
    with pytest.raises(StartError, match=r"nbma-address 10\.9\.9\.9 is no address"):
        make_hub(site, hub_plan(), parse_ip("10.9.9.9"))
    assert site.namespace.devices() == UNDERLAY


def test_hub_adopted(site: Site) -> None:
    """A device made by hand as documented is used, and stays."""
    make_by_hand(site, "vx0", "external dstport 4789")
    before = shown(site, "vx0")["ifindex"]
    device = make_hub(site, hub_plan())
    row = shown(site, "vx0")
    assert row["ifindex"] == before
    assert row["mtu"] == 1500
    assert "UP" in row["flags"]
    assert device.fault(device.link) == ""
    device.remove()
    assert "vx0" in site.namespace.devices()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("external dstport 8472", "dstport is 8472, not 4789"),
        ("external dstport 4789 learning", "learning is on, not off"),
        ("external dstport 4789 vnifilter", "vnifilter is on, not off"),
        ("id 5 dstport 4789", "external is off, not on"),
    ],
)
def test_hub_not_adopted(site: Site, made: str, said: str) -> None:
    """One that is not right is refused with what differs, and not changed."""
    make_by_hand(site, "vx0", made)
    before = shown(site, "vx0")
    with pytest.raises(StartError, match=f"is not ours: {said}; ") as caught:
        make_hub(site, hub_plan())
    assert shown(site, "vx0") == before
    assert "`ip link delete vx0`" in str(caught.value)


def test_hub_device_changed_hands(site: Site) -> None:
    """A device that somebody put in the place of ours is not removed."""
    device = make_hub(site, hub_plan())
    site.namespace.ip("link", "del", "vx0")
    site.namespace.ip("link", "add", "vx0", "type", "vxlan", "external", "dstport", "4789")
    device.remove()
    assert "vx0" in site.namespace.devices()
