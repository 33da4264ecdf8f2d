"""What two parts of a plan cannot share is found before the kernel is asked."""

from __future__ import annotations

import pytest

from tests.config.files import errors, plan

CONTROL = "interface nhrp\n"


def spoke(name, vpn, vni, rest="", controller="nhrp"):
    """A block of a spoke."""
    words = f"controller {controller} vpn-id {vpn} default-vni {vni} 10.0.0.1 register"
    return f"interface {name} {words} {rest}\n"


def hub(name, vpns, rest="provision", controller="nhrp"):
    """A block of a hub."""
    return f"interface {name} controller {controller} vpn-id {vpns} l2learnonly {rest}\n"


CONFLICTS = [
    (
        spoke("a", 1, 100) + spoke("b", 1, 200),
        "3: a is the spoke of VPN 1 already near '1'",
    ),
    (
        hub("a", "1-3", "") + hub("b", "3-5", ""),
        "3: a is the hub of one of these VPNs already near '3-5'",
    ),
    (
        spoke("a", 1, 100, "provision br1") + spoke("b", 2, 100, "provision br2"),
        "3: a has VNI 100 on port 4789 already: two VPNs need different VNIs or ports two apart"
        " (a spoke takes the port below as well) near '100'",
    ),
    (
        spoke("a", 1, 100, "provision br1") + spoke("b", 2, 100, "provision br2 vxlan-port 4788"),
        "3: a has VNI 100 on port 4789 already: two VPNs need different VNIs or ports two apart"
        " (a spoke takes the port below as well) near '4788'",
    ),
    (
        spoke("a", 1, 100, "provision br1 vxlan-port 1"),
        "2: a spoke takes the port below as well: 2 is the lowest possible near '1'",
    ),
    (
        hub("a", "1") + hub("b", "2"),
        "3: UDP port 4789 belongs to a: choose another vxlan-port near 'b'",
    ),
    (
        hub("a", "1") + spoke("b", 1, 100, "provision br1"),
        "3: UDP port 4789 belongs to the hub's a, and a spoke takes its own and the port below:"
        " choose another vxlan-port near 'b'",
    ),
    (
        hub("a", "1", "provision vxlan-port 4788") + spoke("b", 1, 100, "provision br1"),
        "3: UDP port 4788 belongs to the hub's a, and a spoke takes its own and the port below:"
        " choose another vxlan-port near 'b'",
    ),
    (
        spoke("abcdefghijklmn", 1, 100, "provision br1"),
        "2: the name is too long: the shortcut plane is abcdefghijklmn-s, and a device's name has"
        " at most 15 octets near 'abcdefghijklmn'",
    ),
    (
        spoke("a", 1, 100, "provision br1") + "interface a-s\n",
        "3: a makes a device a-s, which is declared as well near 'a-s'",
    ),
    (
        spoke("a", 1, 100, "provision a"),
        "2: the bridge a cannot be a control or data interface as well near 'a'",
    ),
    (
        spoke("a", 1, 100, "provision nhrp"),
        "2: the bridge nhrp cannot be a control or data interface as well near 'nhrp'",
    ),
    (
        spoke("a", 1, 100, "provision br1") + spoke("b", 2, 200, "provision a-s"),
        "3: a-s is the name of a shortcut plane: choose another bridge near 'a-s'",
    ),
    (
        "interface n2\n" + hub("a", "1", "") + hub("b", "2", "", "n2"),
        "2: every packet would reach nhrp as well: give each control interface its own gre-key or"
        " nbma-address, or `transport device` near 'n2'",
    ),
    (
        "interface n2 nbma-address 10.0.0.9\n" + hub("a", "1", "") + hub("b", "2", "", "n2"),
        "2: every packet would reach nhrp as well: give each control interface its own gre-key or"
        " nbma-address, or `transport device` near '10.0.0.9'",
    ),
]


@pytest.mark.parametrize(("text", "message"), CONFLICTS)
def test_conflicts(text, message):
    """A conflict is an error at the later of the two, and names the earlier."""
    assert errors(CONTROL + text) == [message]


NO_CONFLICTS = [
    # made by hand: the kernel knows their ports, we do not
    spoke("a", 1, 100) + spoke("b", 2, 100),
    hub("a", "1-3", "") + hub("b", "4-5", "") + hub("c", "7", ""),
    # provisioned
    spoke("a", 1, 100, "provision br1") + spoke("b", 2, 101, "provision br2"),
    spoke("a", 1, 100, "provision br1") + spoke("b", 2, 100, "provision br2 vxlan-port 4787"),
    spoke("a", 1, 100, "provision br1") + hub("b", "1", "provision vxlan-port 4790"),
    hub("a", "1") + hub("b", "2", "provision vxlan-port 4790"),
    spoke("abcdefghijklm", 1, 100, "provision br1"),
    spoke("abcdefghijklmno", 1, 100),
    spoke("a", 1, 100, "provision br-test") + "interface br-test vpn-id 1\n",
    "interface n2 transport device\n" + hub("a", "1", "") + hub("b", "2", "", "n2"),
    "gre-key 1 interface n2 gre-key 2\n" + hub("a", "1", "") + hub("b", "2", "", "n2"),
    "nbma-address 10.0.0.1 interface n2 nbma-address 10.0.0.2\n"
    + hub("a", "1", "")
    + hub("b", "2", "", "n2"),
]


@pytest.mark.parametrize("text", NO_CONFLICTS)
def test_no_conflicts(text):
    """What can stand beside each other may."""
    assert plan(CONTROL + text)
