"""What a reload touches, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmevpn.config.diff import Changes, Difference, diff
from dmevpn.config.grammar import KEYWORDS, Reload
from dmevpn.config.model import Plan
from tests.config.files import plan

BOTH = """interface n1 gre-key 1
interface n2 gre-key 2
interface vx1 controller n1 vpn-id 1 default-vni 100 10.0.0.1 register
interface vx2 controller n2 vpn-id 2 default-vni 200 10.0.0.1 register
interface hub1 controller n1 vpn-id 1 l2learnonly
interface hub2 controller n2 vpn-id 2 l2learnonly
"""


def names(difference):
    """Interfaces that stop, restart and start; none changes otherwise."""
    assert not difference.changed
    return (
        [part.interface for part in difference.stopped],
        [new.interface for _, new in difference.restarted],
        [part.interface for part in difference.started],
    )


def change(old, new):
    """What happens to speakers, spokes and hubs between two texts."""
    changes = diff(plan(old), plan(new))
    return names(changes.speakers), names(changes.spokes), names(changes.hubs)


NONE: tuple[list[str], list[str], list[str]] = ([], [], [])


def test_no_change():
    """The same file, written in another way, touches nothing."""
    changes = diff(plan(BOTH), plan("# comment\n" + BOTH.replace("\n", "\n\n")))
    assert changes == Changes()
    assert not changes


def test_start_and_stop():
    """Start and stop are the differences to an empty plan."""
    started = diff(Plan(), plan(BOTH))
    assert names(started.speakers) == ([], [], ["n1", "n2"])
    assert names(started.spokes) == ([], [], ["vx1", "vx2"])
    assert names(started.hubs) == ([], [], ["hub1", "hub2"])
    stopped = diff(plan(BOTH), Plan())
    assert names(stopped.hubs) == (["hub1", "hub2"], [], [])
    assert stopped.spokes.to_stop == plan(BOTH).spokes
    assert stopped.spokes.to_start == ()


def test_one_vpn_changes():
    """A change of one VPN restarts that one only."""
    assert change(BOTH, BOTH.replace("100", "101")) == (NONE, ([], ["vx1"], []), NONE)
    added = BOTH + "interface vx3 controller n1 vpn-id 3 default-vni 300 10.0.0.1 register\n"
    assert change(BOTH, added) == (NONE, ([], [], ["vx3"]), NONE)
    assert change(added, BOTH) == (NONE, (["vx3"], [], []), NONE)


def test_other_vpn_on_the_same_device():
    """A device that changes its VPN is one VPN less and one more."""
    changes = diff(
        plan(BOTH), plan(BOTH.replace("vx2 controller n2 vpn-id 2", "vx2 vpn-id 7 controller n2"))
    )
    assert names(changes.spokes) == (["vx2"], [], ["vx2"])
    assert [part.vpn.index for part in changes.spokes.to_stop] == [2]
    assert [part.vpn.index for part in changes.spokes.to_start] == [7]


def test_speaker_changes():
    """A change of a control interface restarts it and all that it carries, nothing else."""
    assert change(BOTH, BOTH.replace("gre-key 2", "gre-key 3")) == (
        ([], ["n2"], []),
        ([], ["vx2"], []),
        ([], ["hub2"], []),
    )


def test_oui_changes():
    """Another OUI is in every packet."""
    assert change(BOTH, "vpn-oui 02-00-01 " + BOTH) == (
        ([], ["n1", "n2"], []),
        ([], ["vx1", "vx2"], []),
        ([], ["hub1", "hub2"], []),
    )


def test_restarted_parts_stop_and_start():
    """A part that restarts stops in its old form and starts in its new one."""
    changes = diff(plan(BOTH), plan(BOTH.replace("100", "101")))
    assert [part.vni for part in changes.spokes.to_stop] == [100]
    assert [part.vni for part in changes.spokes.to_start] == [101]


def test_layer_3():
    """IPv4 and IPv6 of a VPN restart alone, or with their control interface."""
    text = BOTH + "interface n3 gre-key 3 protocol-address 1.0.0.1/24 vpn-id 3\n"
    text += "protocol-address 1.0.3.1/24\n"
    changes = diff(plan(text), plan(text.replace("1.0.3.1", "1.0.3.2")))
    assert [new.vpn.index for _, new in changes.layer3.restarted] == [3]
    assert not (changes.speakers or changes.spokes or changes.hubs)
    changes = diff(plan(text), plan(text.replace("gre-key 3", "gre-key 4")))
    assert names(changes.layer3) == ([], ["n3", "n3"], [])
    assert names(diff(plan(BOTH), plan(text)).layer3) == ([], [], ["n3", "n3"])


@pytest.mark.parametrize(
    ("field", "value", "keyword"),
    [
        ("admin", ("tcp:1",), "admin"),
        ("metrics", "tcp:2", "metrics"),
        ("opennhrp_script", "/s", "opennhrp-script"),
        ("opennhrp_socket", "/s", "opennhrp-socket"),
        ("status", "tcp:2", "status"),
        ("state_dir", "/x", "state-dir"),
        ("log_format", "json", "log-format"),
    ],
)
def test_postponed(field, value, keyword):
    """What only a new start can change is named, and nothing restarts."""
    changes = diff(plan(BOTH), replace(plan(BOTH), **{field: value}))
    assert changes == Changes(postponed=(keyword,))
    assert changes


def test_empty_difference():
    """Nothing stopped, restarted or started is falsy."""
    assert not Difference()
    assert Difference(started=("a",))
    assert Difference(restarted=(("a", "b"),))


# --- the table ---

BASE = """vpn-oui 02-00-00 admin tcp:1 metrics tcp:3 status tcp:5 state-dir /a log-format text
opennhrp-script /b opennhrp-socket /c leave-forwarding yes
interface n1 transport raw vpn-id 1 map 1.0.0.1 10.0.0.9 map-vni 100 1.0.0.1 register
interface n3 gre-key 3 protocol-address 1.0.0.3/24 dynamic-map 1.0.0.0/24 hub.example
shortcut-target 192.168.0.0/24 route-table 7
interface vx1 controller n1 vpn-id 1 default-vni 100 10.0.0.1 provision br1
interface hub1 controller n1 vpn-id 1 l2learnonly provision vxlan-port 5000
"""
#: For each keyword, what is written instead of what.
EDITS = {
    "admin": ("tcp:1", "tcp:2"),
    "admin-allow": ("admin tcp:1", "admin-allow full user root admin tcp:1"),
    "metrics": ("tcp:3", "tcp:4"),
    "opennhrp-script": ("opennhrp-script /b", "opennhrp-script /d"),
    "opennhrp-socket": ("opennhrp-socket /c", "opennhrp-socket /d"),
    "status": ("tcp:5", "tcp:6"),
    "state-dir": ("/a", "/b"),
    "log-format": ("log-format text", "log-format json"),
    "leave-forwarding": ("leave-forwarding yes", "leave-forwarding no"),
    "vpn-oui": ("02-00-00", "02-00-01"),
    "transport": ("transport raw", "transport auto"),
    "nbma-address": ("n1 transport", "n1 nbma-address 10.0.0.2 transport"),
    "protocol-address": ("1.0.0.3/24", "1.0.0.2/24"),
    "dynamic-map": ("hub.example", "hub2.example"),
    "shortcut-target": ("192.168.0.0/24", "192.168.0.0/25"),
    "shortcut": ("route-table 7", "route-table 7 shortcut"),
    "redirect": ("route-table 7", "route-table 7 redirect"),
    "permit-protocol": ("route-table 7", "route-table 7 permit-protocol 1.0.0.0/24 any"),
    "non-caching": ("route-table 7", "route-table 7 non-caching"),
    "route-table": ("route-table 7", "route-table 8"),
    "gre-key": ("n1 transport", "n1 gre-key 5 transport"),
    "cisco-authentication": ("n1 transport", "n1 cisco-authentication x transport"),
    "authentication-key": (
        "n1 transport",
        "n1 authentication-key 2 hmac-md5 0123456789abcdef transport",
    ),
    "replay-protection": ("n1 transport", "n1 replay-protection no transport"),
    "holding-time": ("n1 transport", "n1 holding-time 60 transport"),
    "keepalive": ("n1 transport", "n1 keepalive 600 transport"),
    "multi-binding": ("n1 transport", "n1 multi-binding yes transport"),
    "nat-extension": ("n1 transport", "n1 nat-extension yes transport"),
    "nat-detection": ("n1 transport", "n1 nat-detection no transport"),
    "vpn-errors": ("n1 transport", "n1 vpn-errors no transport"),
    "request-rate": ("n1 transport", "n1 request-rate 5 transport"),
    "map": ("10.0.0.9", "10.0.0.8"),
    "implied-vpn": ("n1 transport", "n1 implied-vpn 7 transport"),
    "legacy-detection": ("n1 transport", "n1 legacy-detection no transport"),
    "map-vni": ("map-vni 100 1.0.0.1", "map-vni 100 1.0.0.1 02:00:00:00:00:01"),
    "vpn-id": ("n1 vpn-id 1 l2", "n1 vpn-id 2 l2"),
    "controller": ("hub1 controller n1", "n2 gre-key 9 interface hub1 controller n2"),
    "default-vni": ("10.0.0.1", "10.0.0.2"),
    "permit": ("l2learnonly", "l2learnonly permit any any"),
    "members-only": ("l2learnonly", "l2learnonly members-only yes"),
    "other-hub": ("l2learnonly", "l2learnonly other-hub 10.0.0.2"),
    "mac-limit": ("l2learnonly", "l2learnonly mac-limit any 1000"),
    "flood-rate": ("l2learnonly", "l2learnonly flood-rate 100"),
    "duplicate-mac": ("l2learnonly", "l2learnonly duplicate-mac 0"),
    "sticky": ("l2learnonly", "l2learnonly sticky any any"),
    "loop-probe": ("l2learnonly", "l2learnonly loop-probe no"),
    "l2learnonly": ("l2learnonly", "default-vni 5 10.0.0.1"),
    "provision": ("br1", "br2"),
    "vxlan-port": ("5000", "6000"),
}
#: Edits that have another effect, for keywords whose effect depends.
OTHER_EDITS = {
    "map": ("10.0.0.9", "10.0.0.8 interface n1 protocol-address 1.0.0.7/24"),
    "map-vni": ("1.0.0.1 register", "1.0.0.1 register interface n1 map-vni 100 10.0.0.7 register"),
    "default-vni": ("default-vni 100 10", "default-vni 101 10"),
    "vpn-id": ("vx1 controller n1 vpn-id 1", "vx1 controller n1 vpn-id 2"),
}
DEPENDS = {
    Reload.MAP: {Reload.AT_ONCE, Reload.LAYER_3},
    Reload.SERVER: {Reload.AT_ONCE, Reload.ROLE},
    Reload.VPN: {Reload.AT_ONCE, Reload.ROLE},
}
#: Edits that make or remove a part instead of changing one.
OTHERWISE = {"l2learnonly", "interface"}


def test_every_keyword_has_its_edit():
    """The table below misses no keyword."""
    effective = {name for name, row in KEYWORDS.items() if not row.no_effect}
    assert effective - OTHERWISE == set(EDITS) - OTHERWISE


def happens(edit):
    """What an edit of the file does."""
    changes = diff(plan(BASE), plan(BASE.replace(*edit, 1)))
    if changes.postponed:
        return Reload.DAEMON
    if changes.speakers.restarted:
        return Reload.SPEAKER
    if changes.spokes.to_stop or changes.hubs.to_stop:
        return Reload.ROLE
    if changes.layer3:
        return Reload.LAYER_3
    return Reload.AT_ONCE if changes else Reload.NOTHING


@pytest.mark.parametrize("name", sorted(set(EDITS) - OTHERWISE))
def test_reload_as_documented(name):
    """A change of a keyword does what the documentation of the keyword says."""
    edits = [table[name] for table in (EDITS, OTHER_EDITS) if name in table]
    documented = KEYWORDS[name].reload
    assert {happens(edit) for edit in edits} == DEPENDS.get(documented, {documented})
