"""Where a spoke registers and floods to."""

from __future__ import annotations

import pytest

from dmevpn.config.model import NHSPlan
from tests.config.files import errors, plan, warnings

DATA = "interface vx1 controller nhrp vpn-id 1 default-vni 100 {} provision br1\n"


def servers(control, default="10.0.0.1"):
    """The servers of VPN 1, VNI 100, and the warnings."""
    text = f"interface nhrp\n{control}\n{DATA.format(default)}"
    return plan(text).spokes[0].servers, warnings(text)


def nhs(host, *, register=False, flood=False, peer="rfc"):
    """A server; ``10.0.0.N`` is written as N."""
    if isinstance(host, str):
        return NHSPlan(host=host, address=None, register=register, flood=flood, peer=peer)
    address = bytes((10, 0, 0, host))
    name = f"10.0.0.{host}"
    return NHSPlan(host=name, address=address, register=register, flood=flood, peer=peer)


def test_merged():
    """The hub of default-vni and map-vni is one server."""
    found, warned = servers("vpn-id 1 map-vni 100 10.0.0.1 register")
    assert found == (nhs(1, register=True, flood=True),)
    assert warned == []


def test_order_of_preference():
    """Hubs stand in the order of the file; registration-only servers follow."""
    found, _ = servers(
        "vpn-id 1 map-vni 100 10.0.0.3 register map-vni 100 10.0.0.1 register",
        "10.0.0.2 default-vni 100 10.0.0.1 register default-vni 100 hub.example",
    )
    assert found == (
        nhs(2, flood=True),
        nhs(1, register=True, flood=True),
        nhs("hub.example", flood=True),
        nhs(3, register=True),
    )


def test_host_names():
    """Names are kept for whoever looks them up, and compared without regard to case."""
    found, warned = servers("vpn-id 1 map-vni 100 HUB.example register", "hub.example")
    assert found == (nhs("hub.example", register=True, flood=True),)
    assert warned == []


def test_map_to_a_name():
    """A map may lead from a protocol address to a host name."""
    found, warned = servers(
        "map 1.0.0.1/24 hub.example vpn-id 1 map-vni 100 1.0.0.1 register", "hub.example"
    )
    assert found == (nhs("hub.example", register=True, flood=True),)
    assert warned == []


def test_nhs_that_the_kernel_knows():
    """On a kernel GRE device an NHS without map may be one of its neighbours; without a device it
    is an underlay address, and a warning says how it would not be."""
    control = "{} vpn-id 1 map-vni 100 1.0.0.1 register"
    neighbour = (nhs(1, flood=True), nhs("1.0.0.1", register=True))
    assert servers(control.format("transport device")) == (neighbour, [])
    doubt = (
        "2: warning: taken for an underlay address; if it is a protocol address, write"
        " `map 1.0.0.1 NBMA`"
    )
    device = ", or `transport device` if the kernel knows it as a neighbour"
    assert servers(control.format("")) == (neighbour, [f"{doubt}{device} near '1.0.0.1'"])
    found, warned = servers(control.format("transport raw"))
    assert found[1] == NHSPlan(host="1.0.0.1", address=b"\1\0\0\1", register=True)
    assert warned == [f"{doubt} near '1.0.0.1'"]


def test_peer_words():
    """What a peer is comes from whichever line says so, map-vni before map."""
    found, _ = servers("map 1.0.0.1 10.0.0.1 cisco vpn-id 1 map-vni 100 1.0.0.1 register")
    assert found == (nhs(1, register=True, flood=True, peer="cisco"),)
    found, _ = servers("map 1.0.0.1 10.0.0.1 cisco vpn-id 1 map-vni 100 1.0.0.1 register frr")
    assert found[0].peer == "frr"
    found, _ = servers("vpn-id 1 map-vni 100 10.0.0.1 register", "10.0.0.1 legacy")
    assert found[0].peer == "legacy"


def test_default_twice():
    """A hub that is named twice is one, with a warning."""
    found, warned = servers("", "10.0.0.1 default-vni 100 10.0.0.1 register")
    assert found == (nhs(1, register=True, flood=True),)
    assert warned == [
        "3: warning: an earlier default-vni of this interface named this near '10.0.0.1'"
    ]


def test_registered_nowhere():
    """A VPN that registers nowhere draws a warning: the hub serves no strangers."""
    _, warned = servers("")
    assert warned == [
        "3: warning: VPN 1 registers nowhere, so nothing reaches it: add register to default-vni"
        " near 'default-vni'"
    ]


def test_station_mac():
    """The first MAC that map-vni gives is the station; another one is refused with a warning."""
    control = "vpn-id 1 map-vni 100 10.0.0.1 register map-vni 100 10.0.0.2 {} register"
    text = "interface nhrp " + control + "\n" + DATA.format("10.0.0.1")
    mac = "02:00:00:00:00:01"
    assert plan(text.format(mac)).spokes[0].station == b"\x02\0\0\0\0\x01"
    twice = text.replace("10.0.0.1 register", f"10.0.0.1 {mac} register", 1)
    assert not any("station" in message for message in warnings(twice.format(mac)))
    assert plan(twice.format("02:00:00:00:00:02")).spokes[0].station == b"\x02\0\0\0\0\x01"
    assert (
        "1: warning: the station MAC of VPN 1 stays 02:00:00:00:00:01 near '02:00:00:00:00:02'"
    ) in warnings(twice.format("02:00:00:00:00:02"))


# --- which VPN ---

TWO = DATA.format("10.0.0.1") + (
    "interface vx2 controller nhrp vpn-id 2 default-vni 200 10.0.0.1 provision br2\n"
)


def registered(control):
    """Which VPNs register, and the warnings but for those that do not."""
    text = f"interface nhrp {control}\n{TWO}"
    spokes = [spoke.vpn.index for spoke in plan(text).spokes if spoke.servers[0].register]
    return spokes, [message for message in warnings(text) if "nowhere" not in message]


def test_vpn_id_governs_what_follows():
    """Each vpn-id is for the map-vni lines up to the next."""
    control = "vpn-id 1 map-vni 100 10.0.0.1 register vpn-id 2 map-vni 200 10.0.0.1 register"
    assert registered(control) == ([1, 2], [])


def test_single_vpn_id_governs_all():
    """A single vpn-id may follow."""
    assert registered("map-vni 200 10.0.0.1 register vpn-id 2") == ([2], [])


def test_map_vni_before_several_vpn_ids():
    """With several, one must come first."""
    text = f"interface nhrp map-vni 100 10.0.0.1 register vpn-id 1 vpn-id 2\n{TWO}"
    assert errors(text) == [
        "1: of several vpn-id on an interface, one must stand before map-vni near 'map-vni'"
    ]


def test_range_on_a_control_interface():
    """A registration is for one VPN."""
    text = f"interface nhrp vpn-id 1-2 map-vni 100 10.0.0.1 register\n{TWO}"
    assert errors(text) == [
        "1: a map-vni has one VPN: a range is for a hub's data interface near '1-2'"
    ]


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (
            "map-vni 100 10.0.0.1 register",
            "map-vni has no effect without vpn-id: write `vpn-id N` before it near 'map-vni'",
        ),
        (
            "vpn-id 1 map-vni 100 10.0.0.1",
            "map-vni has no effect without register near 'map-vni'",
        ),
        (
            "vpn-id 1 map-vni 101 10.0.0.1 register",
            "map-vni has no effect: vx1 has VNI 100 in VPN 1 near '101'",
        ),
        (
            "vpn-id 3 map-vni 100 10.0.0.1 register",
            "map-vni has no effect: no data interface with VPN 3 and VNI 100 near 'map-vni'",
        ),
        (
            "vpn-id 3",
            "vpn-id has no effect: on a control interface it is for map-vni and protocol-address"
            " near '3'",
        ),
        (
            "transport raw map 1.0.0.1 10.0.0.1",
            "map has no effect: no map-vni of this interface names its address near '1.0.0.1'",
        ),
    ],
)
def test_no_effect(control, message):
    """A line that leads nowhere says so."""
    assert registered(control) == ([], [f"1: warning: {message}"])


def test_no_misleading_warning():
    """When the data interface has an error, its map-vni is not said to lead nowhere."""
    text = (
        "interface nhrp vpn-id 1 map-vni 100 10.0.0.1 register\n"
        "interface vx1 controller nhrp vpn-id 1 default-vni 100 10.0.0.1 provision\n"
    )
    assert len(errors(text)) == 1
    assert warnings(text) == []


def test_other_controllers_spoke():
    """A map-vni registers for the data interfaces of its own control interface only."""
    text = (
        "interface nhrp gre-key 1\n"
        "interface other gre-key 2 vpn-id 1 map-vni 100 10.0.0.1 register\n"
        "interface vx2 controller other vpn-id 2 default-vni 200 10.0.0.1 register\n"
    )
    text += DATA.format("10.0.0.1 register")
    assert warnings(text) == [
        "2: warning: map-vni has no effect: no data interface with VPN 1 and VNI 100 near 'map-vni'"
    ]


# --- address families ---


def test_servers_of_two_families():
    """The planes of a VPN are IPv4 or IPv6."""
    text = "interface nhrp\n" + DATA.format("10.0.0.1 default-vni 100 2001:db8::1 register")
    assert errors(text) == [
        "2: the servers of a VPN are all IPv4 or all IPv6, unlike 10.0.0.1 and 2001:db8::1"
        " near 'default-vni'"
    ]


def test_own_address_of_another_family():
    """Our own address must reach the server."""
    text = "interface nhrp nbma-address 10.0.0.2\n" + DATA.format("2001:db8::1 register")
    assert errors(text) == [
        "1: not of the address family of the server 2001:db8::1 near '10.0.0.2'"
    ]


@pytest.mark.parametrize("host", ["2001:db8::1", "hub.example"])
def test_matching_families(host):
    """IPv6 all through is fine, and a name may be anything."""
    text = "interface nhrp nbma-address 2001:db8::2\n" + DATA.format(f"{host} register")
    assert plan(text).speakers[0].nbma_address == bytes.fromhex("20010db8" + "0" * 23 + "2")
    assert warnings(text) == []
