"""Whether a device that is not ours is what we would have made: on values alone."""

from __future__ import annotations

import pytest

from dmevpn.addresses import parse_ip
from dmevpn.dataplane.adoption import HUB_ALIAS, Difference, differences, is_ours, refusal
from dmevpn.dataplane.links import Link, VXLANParameters

LOCAL, HUB, OTHER = (parse_ip(f"10.0.0.{number}") for number in (2, 1, 9))
PLANE = VXLANParameters(100, LOCAL, HUB, 4789, False, False, False)
SWITCH = VXLANParameters(0, b"", b"", 4789, False, False, True)


def device(vxlan: VXLANParameters | None, kind: str = "vxlan", alias: str = "") -> Link:
    """Somebody's device."""
    return Link(7, "vx1", True, 1500, 0, kind, alias, b"\x02\0\0\0\0\x01", vxlan)


def test_what_is_right() -> None:
    """The same parameters, whatever name, state, MTU and alias the device has."""
    assert differences(device(PLANE, alias="uplink of the office"), PLANE) == []
    assert differences(device(SWITCH), SWITCH) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vni": 200}, "id is 200, not 100"),
        ({"local": OTHER}, "local is 10.0.0.9, not 10.0.0.2"),
        ({"local": b""}, "local is none, not 10.0.0.2"),
        ({"remote": OTHER}, "remote is 10.0.0.9, not 10.0.0.1"),
        ({"port": 8472}, "dstport is 8472, not 4789"),
        ({"learning": True}, "learning is on, not off"),
        ({"l2miss": True}, "l2miss is on, not off"),
        ({"external": True}, "external is on, not off"),
        ({"extras": frozenset({"proxy"})}, "proxy is on, not off"),
    ],
)
def test_each_parameter_counts(changes: dict[str, object], said: str) -> None:
    """One that differs is named, with what it is and what it should be."""
    (found,) = differences(device(PLANE._replace(**changes)), PLANE)
    assert str(found) == said


def test_all_are_told() -> None:
    """In the order of `ip link`, several at once."""
    found = differences(device(PLANE._replace(vni=7, port=1, extras=frozenset({"gpe"}))), PLANE)
    assert [each.parameter for each in found] == ["id", "dstport", "gpe"]


def test_default_destination() -> None:
    """While we run it is an entry, which changes with the hub."""
    assert differences(device(PLANE._replace(remote=OTHER)), PLANE, remote=False) == []


def test_addresses_of_an_external_device() -> None:
    """Each packet brings its own, so the device's do not matter."""
    assert differences(device(SWITCH._replace(vni=5, local=LOCAL)), SWITCH) == []


@pytest.mark.parametrize(("kind", "said"), [("bridge", "bridge"), ("", "hardware")])
def test_another_kind(kind: str, said: str) -> None:
    """Nothing else can be compared then."""
    assert differences(device(None, kind), PLANE) == [Difference("kind", said, "vxlan")]


def test_ours() -> None:
    """By the mark, and not by a text that begins like it."""
    assert is_ours(device(SWITCH, alias=HUB_ALIAS))
    assert not is_ours(device(SWITCH, alias=HUB_ALIAS + "s"))
    assert not is_ours(device(SWITCH))


@pytest.mark.parametrize(
    ("vxlan", "master", "cure"),
    [
        (PLANE._replace(port=1), None, "remove it (`ip link delete vx1`) to have it made"),
        (PLANE._replace(learning=True), None, "`ip link set vx1 type vxlan id 100 nolearning`"),
        (PLANE, Difference("master", "br9", "br1"), "`ip link set vx1 nomaster`"),
        (
            PLANE._replace(learning=True),
            Difference("master", "br9", "br1"),
            "remove it (`ip link delete vx1`) to have it made",
        ),
    ],
)
def test_cures(vxlan: VXLANParameters, master: Difference | None, cure: str) -> None:
    """The least that helps, in one line."""
    link = device(vxlan)
    text = refusal(link, differences(link, PLANE), master)
    assert text.startswith("interface vx1: a device of that name exists and is not ours: ")
    assert text.endswith(f"; {cure}, or configure it without `provision`")
    assert "\n" not in text
