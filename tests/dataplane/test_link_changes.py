"""Devices that are made, changed and removed through pyroute2."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dmevpn.dataplane.link_changes import LinkChanges
from dmevpn.dataplane.links import Link, LinkTable, PortSettings, VXLANParameters
from dmevpn.dataplane.netlink import NetlinkRequests
from dmevpn.errors import DataplaneError
from tests.dataplane.site import HUB4, HUB6, SITE4, SITE6, UNDERLAY, Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

PLAIN = VXLANParameters(100, SITE4, HUB4, 4789, False, False, False)


@pytest.fixture
def links(site: Site) -> Iterator[LinkTable]:
    """The devices of the namespace."""
    with site.namespace.entered():
        requests = NetlinkRequests()
    with closing(requests):
        yield LinkTable(requests)


@pytest.fixture
def changes(site: Site) -> Iterator[LinkChanges]:
    """Made in the namespace, and used from another."""
    with site.namespace.entered():
        changes = LinkChanges()
    with closing(changes):
        yield changes


def named(links: LinkTable, name: str) -> Link:
    """A device that is there."""
    link = links.named(name)
    assert link is not None
    return link


@pytest.mark.parametrize(
    "parameters",
    [
        PLAIN,
        PLAIN._replace(local=b"", remote=b"", l2miss=True, learning=True),
        PLAIN._replace(local=SITE6, remote=HUB6, port=8472),
        VXLANParameters(0, b"", b"", 4789, False, False, True),
    ],
)
def test_vxlan(changes: LinkChanges, links: LinkTable, parameters: VXLANParameters) -> None:
    """A device reads as it was asked for, and nobody else's namespace gets one."""
    changes.create_vxlan("vx7", parameters, 1400)
    link = named(links, "vx7")
    assert link.vxlan == parameters
    assert (link.kind, link.mtu, link.up, link.alias) == ("vxlan", 1400, False, "")
    assert not os.path.exists("/sys/class/net/vx7")


def test_changes(site: Site, changes: LinkChanges, links: LinkTable) -> None:
    """Each change is made, and changes nothing else."""
    changes.create_bridge("br7")
    changes.create_vxlan("vx7", PLAIN, 1400)
    link, bridge = named(links, "vx7"), named(links, "br7")
    changes.set_alias(link.ifindex, "ours")
    changes.set_mtu(link.ifindex, 1300)
    changes.stop_addresses(link.ifindex)
    changes.add_to_bridge(link.ifindex, bridge.ifindex, "br7")
    changes.set_up(link.ifindex, "setting it up")
    changes.set_name(link.ifindex, "vx8")
    expected = link._replace(alias="ours", mtu=1300, master=bridge.ifindex, up=True, name="vx8")
    assert named(links, "vx8")._replace(port=None) == expected
    changes.set_name(link.ifindex, "vx7")
    row = shown(site, "vx7")
    assert row["inet6_addr_gen_mode"] == "none"
    changes.delete(link.ifindex, "removing it")
    changes.delete(bridge.ifindex, "removing it")
    assert site.namespace.devices() == UNDERLAY


@pytest.mark.parametrize("setting", PortSettings._fields)
@pytest.mark.parametrize("value", [False, True])
def test_bridge_port(
    site: Site, changes: LinkChanges, links: LinkTable, setting: str, value: bool
) -> None:
    """Every setting of a port arrives, each for itself, and is read as it is."""
    changes.create_bridge("br7")
    changes.create_vxlan("vx7", PLAIN, 1400)
    port = named(links, "vx7").ifindex
    assert named(links, "vx7").port is None
    changes.add_to_bridge(port, named(links, "br7").ifindex, "br7")
    wanted = PortSettings(*5 * [not value])._replace(**{setting: value})
    changes.set_bridge_port(port, wanted)
    settings = shown(site, "vx7")["linkinfo"]["info_slave_data"]
    assert settings["mcast_flood"] is settings["bcast_flood"] is wanted.group_flood
    assert settings["multicast_router"] == (2 if wanted.all_groups else 1)
    for name in ("learning", "isolated", "flood"):
        assert settings[name] is getattr(wanted, name)
    assert named(links, "vx7").port == wanted


def shown(site: Site, name: str) -> dict[str, Any]:
    """What `ip -details link show` says about a device."""
    (row,) = site.namespace.ip_json("link", "show", "dev", name)
    return row


def test_refusals(changes: LinkChanges) -> None:
    """A refusal has the kernel's number, and its reason where it gives one."""
    changes.create_bridge("br7")
    with pytest.raises(DataplaneError) as caught:
        changes.create_bridge("br7")
    assert (caught.value.errno, str(caught.value)) == (errno.EEXIST, "making br7: File exists")
    with pytest.raises(DataplaneError) as caught:
        changes.create_vxlan("vx7", PLAIN._replace(remote=HUB6), 1400)
    assert str(caught.value) == (
        "making vx7 (Local and remote address must be from the same family): Invalid argument"
    )
    with pytest.raises(DataplaneError) as caught:
        changes.set_up(999_999, "setting it up")
    assert (caught.value.errno, str(caught.value)) == (
        errno.ENODEV,
        "setting it up: No such device",
    )


def test_file_descriptors(site: Site) -> None:
    """Each user has one, all together three more, and nothing is left."""
    gc.collect()  # what earlier tests have left to it may hold some
    before = os.listdir("/proc/self/fd")
    users = [LinkChanges() for _ in range(4)]
    assert len(os.listdir("/proc/self/fd")) == len(before) + 4 + 3
    for user in users:
        user.close()
        user.close()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(DataplaneError) as caught:
        users[0].create_bridge("br7")
    assert caught.value.errno == errno.EBADF


INSIDE_A_REACTOR = """
import asyncio, sys, warnings
warnings.simplefilter("error")
from twisted.internet import asyncioreactor
asyncioreactor.install(asyncio.SelectorEventLoop())
from twisted.internet import reactor, task
from dmevpn.dataplane.link_changes import LinkChanges
def change(reactor):
    loop = asyncio.get_running_loop()
    changes = LinkChanges()
    changes.create_bridge("br7")
    changes.close()
    assert asyncio.get_running_loop() is loop
task.react(lambda reactor: task.deferLater(reactor, 0, change, reactor))
"""


def test_inside_a_reactor_of_asyncio(site: Site) -> None:
    """`twistd --reactor=asyncio`, whose loop is running when a device is to be repaired."""
    with site.namespace.entered():
        subprocess.run(
            [sys.executable, "-c", INSIDE_A_REACTOR], check=True, timeout=20, cwd=os.getcwd()
        )
    assert "br7" in site.namespace.devices()
