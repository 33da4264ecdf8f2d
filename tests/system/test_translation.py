"""A site behind a router that translates its address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.daemons import Daemon
from lab.netns import Namespace
from lab.wait import eventually
from tests.system.network import Network

pytestmark = pytest.mark.system

INSIDE, ROUTER_INSIDE = "192.168.9.2", "192.168.9.1"


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        network.add_hub(1)
        yield network


def hide_behind(network: Network, number: int) -> tuple[Namespace, str]:
    """A machine in a network of its own, and the underlay address of the router before it."""
    router = network.lab.add_machine("router", number)
    inside = Namespace(f"{network.lab.prefix}-inside")
    inside.create()
    inside.ip(
        *("link", "add", "ul0", "type", "veth", "peer", "name", "in0"),
        *("netns", router.namespace.name),
    )
    for namespace, device, address in (
        (inside, "ul0", INSIDE),
        (router.namespace, "in0", ROUTER_INSIDE),
    ):
        namespace.ip("address", "add", f"{address}/24", "dev", device)
        namespace.ip("link", "set", device, "up")
    inside.ip("route", "add", "default", "via", ROUTER_INSIDE)
    router.namespace.set_option("ipv4/ip_forward", 1)
    rules = "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; };"
    rules += " add rule ip nat post oifname ul0 masquerade"
    router.namespace.run("nft", rules)
    return inside, router.address


def test_a_site_is_registered_where_it_is_seen(network: Network) -> None:
    """Its NHRP passes the router, and the hub sends frames for it to the router's address."""
    inside, outside = hide_behind(network, 5)
    config = f"""interface nhrp
    nbma-address {INSIDE}
    nat-extension yes
interface vx1
    controller nhrp
    vpn-id 1
    default-vni 100 {network.hub_address} register
    provision br1
"""
    daemon = Daemon(inside, network.lab.directory, "inside", config)
    network.daemons["inside"] = daemon
    daemon.start()
    eventually(
        "registration through the router",
        lambda: (
            [row["nbma"] for row in network.hub.ctl.rows("member", "show") if row["vni"] == 100]
            == [outside]
        ),
    )
    (row,) = network.hub.ctl.rows("cache", "show", "type", "dynamic")
    assert (row["nbma"], "nat" in row["flags"]) == (outside, True)
    eventually(
        "the reply, back through the router",
        lambda: [row["state"] for row in daemon.ctl.rows("registration", "show")] == ["registered"],
    )
    eventually("how the hub sees it", lambda: f"sees {INSIDE} as {outside}" in daemon.log)
