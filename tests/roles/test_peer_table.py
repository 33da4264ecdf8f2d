"""What users of OpenNHRP's control program see of a node, and what it does there."""

from __future__ import annotations

import pytest
from twisted.internet.defer import succeed
from zope.interface.verify import verifyObject

from dmevpn.addresses import parse_ip
from dmevpn.admin.opennhrp import answer
from dmevpn.interfaces import IPeerTable
from dmevpn.roles.peer_table import PeerTable
from dmevpn.roles.server_gate import RESTART
from tests.layer3 import Layer3Machine, Layer3World
from tests.roles.scripts import Script
from tests.roles.test_layer3 import (
    HUB,
    data_packet,
    device_hub,
    device_spoke,
    routed,
    tunnel,
)


@pytest.fixture
def world() -> Layer3World:
    return Layer3World()


def table(machine: Layer3Machine) -> PeerTable:
    """Its peers."""
    assert machine.node is not None
    return PeerTable(machine.node)


def control(machine: Layer3Machine, command: str) -> str:
    """The answer to a command."""
    return "".join(answer(table(machine), command))


def entries(machine: Layer3Machine, command: str = "show") -> list[str]:
    """The entries of an answer, one line each."""
    status, *found = control(machine, command).split("\n\n")
    assert status == "Status: ok"
    return [", ".join(each.splitlines()) for each in found if each]


def affected(machine: Layer3Machine, command: str) -> int:
    """How many entries a command was about."""
    status, count = control(machine, command).splitlines()
    assert status == "Status: ok"
    return int(count.removeprefix("Entries-Affected: "))


def test_interface(world: Layer3World) -> None:
    """It says what it promises."""
    assert verifyObject(IPeerTable, table(device_hub(world)))


def test_a_server(world: Layer3World) -> None:
    """Clients, and what is local."""
    centre = world.add(HUB, "redirect shortcut-target 172.16.0.0/12", device=("10.255.255.1/24",))
    device_spoke(world, 2, "holding-time 600")
    world.run(60, step=0.5)
    assert entries(centre) == [
        "Interface: gre1, Type: local, Protocol-Address: 10.255.255.1/32, Flags: up",
        "Interface: gre1, Type: local, Protocol-Address: 172.16.0.0/12, Flags: up",
        "Interface: gre1, Type: dynamic, Protocol-Address: 10.255.255.2/32,"
        " NBMA-Address: 10.0.0.2, Flags: unique up, Expires-In: 9:00",
    ]


def test_a_client(world: Layer3World) -> None:
    """Its server and a shortcut to a network, with the station that leads there."""
    _, two, _ = routed(world)
    two.station().resolution.resolve(parse_ip("192.168.3.7"))
    world.run(1)
    assert entries(two, "cache show protocol 0.0.0.0/0") == [
        "Interface: gre1, Type: static, Protocol-Address: 10.255.255.1/24,"
        " NBMA-Address: 10.0.0.1, Flags: up",
        "Interface: gre1, Type: local, Protocol-Address: 10.255.255.2/32, Flags: up",
        "Interface: gre1, Type: local, Protocol-Address: 192.168.2.0/24, Flags: up",
        "Interface: gre1, Type: shortcut-route, Protocol-Address: 192.168.3.0/24,"
        " Next-hop-Address: 10.255.255.3, Flags: up, Expires-In: 119:59",
        "Interface: gre1, Type: cached, Protocol-Address: 10.255.255.3/32,"
        " NBMA-Address: 10.0.0.3, Flags: up, Expires-In: 119:59",
    ]


def test_names_and_vpns(world: Layer3World) -> None:
    """A dynamic-map, its servers, a name that is not known yet, and another VPN."""
    device_hub(world)
    world.names["hubs.example"] = lambda: succeed((parse_ip(HUB),))
    world.names["late.example"] = lambda: succeed(())
    text = f"""dynamic-map 10.255.255.0/24 hubs.example map 10.255.255.9 late.example register
        vpn-id 7 protocol-address 10.7.0.2/24 map 10.7.0.1 {HUB} register"""
    two = world.add("10.0.0.2", text, device=("10.255.255.2/24",))
    assert [each.split(", ")[1:] for each in entries(two, "show hostname hubs.example")] == [
        ["Type: dynamic-map", "Protocol-Address: 10.255.255.0/24", "Hostname: hubs.example"],
        [
            "Type: dynamic-nhs",
            "Protocol-Address: 10.255.255.0/24",
            "NBMA-Address: 10.0.0.1",
            "Hostname: hubs.example",
            "Flags: lower-up",
        ],
    ]
    world.run(1)
    (nhs,) = entries(two, "show type dynamic-nhs")
    assert "Protocol-Address: 10.255.255.1/24" in nhs and nhs.endswith("Flags: up")
    assert entries(two, "show host late.example") == [
        "Interface: gre1, Type: static, Protocol-Address: 10.255.255.9/32, Hostname: late.example"
    ]
    (seven,) = entries(two, "show protocol 10.7.0.1")
    assert seven.startswith("Interface: gre1, VPN: 7, Type: static, Protocol-Address: 10.7.0.1/32")


def test_interfaces(world: Layer3World) -> None:
    """What the file and the device say."""
    device_hub(world)
    two = device_spoke(world, 2, "route-table 9 holding-time 600")
    raw = world.add("10.0.0.4", "gre-key 5 nbma-address 10.0.0.4 protocol-address 10.255.255.4/24")
    assert entries(two, "interface show") == [
        "Interface: gre1, Index: 7, Protocol-Address: 10.255.255.2/24,"
        " Protocol-Address: 2001:db8::2/64, Flags: shortcut configured, Holding-Time: 600,"
        f" Route-Table: 9, GRE-Key: 0, MTU: {tunnel(two).mtu}, NBMA-Address: 10.0.0.2"
    ]
    assert entries(raw, "interface show") == [
        "Interface: gre1, Index: 0, Protocol-Address: 10.255.255.4/24, Flags: configured,"
        " Holding-Time: 7200, Route-Table: 254, GRE-Key: 5, MTU: 0, NBMA-Address: 10.0.0.4"
    ]


def test_flush(world: Layer3World) -> None:
    """What was learnt goes, what is configured stays."""
    centre, two, _ = routed(world)
    two.station().resolution.resolve(parse_ip("192.168.3.7"))
    tunnel(two).send(parse_ip("10.255.255.77"))
    world.run(1)
    assert len(entries(two, "show type negative")) == 1
    assert tunnel(two).routes
    assert affected(two, "flush protocol 10.255.255.3") == 1, "the route goes with who leads there"
    assert tunnel(two).routes == {}
    assert affected(two, "flush protocol 10.0.0.0/8") == 1
    assert affected(two, "flush protocol 10.0.0.0/8") == 0
    assert entries(two, "show type static protocol 10.255.255.1") != []
    assert affected(centre, "cache flush nbma 10.0.0.3 protocol 0.0.0.0/0") == 1
    assert centre.known("10.255.255.3") is None and centre.known("10.255.255.2") is not None


def test_purge(world: Layer3World) -> None:
    """Configured peers are counted, and their registrations sent again."""
    centre, two, _ = routed(world)
    centre.station().cache.remove(parse_ip("10.255.255.2"), "lost")
    assert affected(two, "purge protocol 10.255.255.1") == 1
    world.run(1)
    assert centre.known("10.255.255.2") is not None


def test_a_purge_and_the_script(world: Layer3World) -> None:
    """The server goes down, and a little later up again."""
    device_hub(world)
    script = Script(world.clock)
    text = f"map 10.255.255.1/24 {HUB} register"
    two = world.add("10.0.0.2", text, device=("10.255.255.2/24",), scripts=script)
    world.run(1)
    script.heard()
    assert affected(two, "lowerdown nbma 10.0.0.1") == 1
    assert script.heard() == ["nhs-down 10.255.255.1", "peer-down 10.255.255.1"]
    assert script.seen[1].environment["NHRP_PEER_DOWN_REASON"] == "lower-down"
    (server,) = entries(two, "show nbma 10.0.0.1")
    assert "Flags" not in server
    assert affected(two, "cache lowerdown nbma 10.0.0.1") == 1, "that is down already"
    world.run(RESTART + 1)
    assert script.heard() == ["peer-up 10.255.255.1", "nhs-up 10.255.255.1"]


def test_redirects(world: Layer3World) -> None:
    """Detours that were told often enough are told again."""
    centre, two, _ = routed(world)
    packets = [data_packet("10.255.255.2", "10.255.255.3"), data_packet("10.255.255.2", "8.8.8.8")]
    for packet in packets:
        tunnel(centre).listener.detour_seen(packet, two.address)
    assert centre.metrics.value("traffic_indications_sent") == 2
    assert affected(centre, "redirect purge 2001:db8::/32") == 0
    assert affected(centre, "redirect purge 10.255.0.0/16") == 1
    for packet in packets:
        tunnel(centre).listener.detour_seen(packet, two.address)
    assert centre.metrics.value("traffic_indications_sent") == 3
    assert affected(centre, "redirect purge") == 2


def test_the_name_of_a_server(world: Layer3World) -> None:
    """The operator tells what a server that does not answer cannot."""
    world.names["hubs.example"] = lambda: succeed((parse_ip(HUB),))
    text = "dynamic-map 10.255.255.0/24 hubs.example"
    two = world.add("10.0.0.2", text, device=("10.255.255.2/24",))
    world.run(1)
    assert affected(two, f"update nbma {HUB} 10.9.9.9") == 0, "not of its network"
    assert affected(two, "update nbma 10.0.0.77 10.255.255.1") == 0
    assert two.known("10.255.255.1") is None
    assert affected(two, f"update nbma {HUB} 10.255.255.1") == 1
    found = two.known("10.255.255.1")
    assert found is not None and found.vtep is not None and found.vtep.nbma == parse_ip(HUB)
    (nhs,) = entries(two, "show type dynamic-nhs")
    assert "Protocol-Address: 10.255.255.1/24" in nhs


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("", 4),
        ("protocol 10.255.255.1", 1),
        ("protocol 10.255.255.0/24", 2),
        ("protocol 10.255.255.0/25", 1),
        ("protocol 192.168.2.0/24", 1),
        ("protocol 192.168.0.0/16", 1),
        ("protocol 192.168.2.0/25", 0),
        ("protocol 2001:db8::/32", 1),
        ("nbma 10.0.0.1", 1),
        ("interface gre1", 4),
        ("iface gre1 nbma 10.0.0.1", 1),
        ("dev gre1 protocol 10.255.255.2", 1),
        ("local-protocol 10.255.255.2", 4),
        ("local-nbma 10.0.0.2 type local", 3),
        ("type nothing", 0),
    ],
)
def test_selectors(world: Layer3World, selector: str, count: int) -> None:
    """They may be combined; a network has what lies in it, an address also who has its prefix."""
    two = world.add(
        "10.0.0.2",
        f"map 10.255.255.1/24 {HUB} shortcut-target 192.168.2.0/24",
        device=("10.255.255.2/24", "2001:db8::2/64"),
    )
    two.station().cache.remove(parse_ip("10.255.255.1"), "not of interest")
    assert len(entries(two, f"show {selector}")) == count


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("show protocol", "failed|Reason: missing-argument|Near-Keyword: 'protocol'"),
        ("show protocol 1.2.3", "failed|Reason: invalid-address|Near-Keyword: 'protocol'"),
        ("show nmba 1.2.3.4", "failed|Reason: syntax-error|Near-Keyword: 'nmba'"),
        (
            "purge nbma 1.2.3.4 nbma 1.2.3.5",
            "failed|Reason: conflicting-keyword|Near-Keyword: 'nbma'",
        ),
        (
            "flush dev gre1 local-protocol 10.255.255.1",
            "failed|Reason: conflicting-keyword|Near-Keyword: 'local-protocol'",
        ),
        (
            "show iface gre9",
            "failed|Reason: interface-not-found|Near-Keyword: 'iface'|Argument: 'gre9'",
        ),
        (
            "show local-nbma 9.9.9.9",
            "failed|Reason: interface-not-found|Near-Keyword: 'local-nbma'|Argument: '9.9.9.9'",
        ),
        ("redirect purge x", "failed|Reason: invalid-address|Near-Keyword: 'x'"),
        ("update nbma 10.0.0.1", "failed|Reason: syntax-error|Near-Keyword: '10.0.0.1'"),
        ("update nbma 10.0.0.1 x", "failed|Reason: syntax-error|Near-Keyword: 'x'"),
        ("update nbma", "failed|Reason: syntax-error|Near-Keyword: ''"),
        ("route show", "failed|Reason: not-supported|Near-Keyword: 'route'"),
        ("schedule", "error|Reason: unrecognized command"),
        ("", "error|Reason: unrecognized command"),
        ("FLUSH", "ok|Entries-Affected: 0"),
        ("showprotocol 1.2.3", "failed|Reason: invalid-address|Near-Keyword: 'protocol'"),
    ],
)
def test_replies(world: Layer3World, command: str, reply: str) -> None:
    """Scripts read them word by word."""
    assert control(device_hub(world), command) == f"Status: {reply}\n".replace("|", "\n")
