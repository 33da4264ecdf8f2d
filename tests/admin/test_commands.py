"""The command table and the words that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from dmevpn.addresses import parse_ip
from dmevpn.admin.commands import COMMANDS, find_command, read_words, selects
from dmevpn.admin.help import _EXAMPLES, command_help, group_help, overview, reference
from dmevpn.admin.parameters import UsageError
from dmevpn.interfaces import IController
from tests.admin.fakes import FakeController, binding

DOCUMENT = Path(__file__).parents[2] / "docs" / "admin.md"

FIELDS = {
    "cache show": "vpn protocol type nbma vni expires_in flags interface",
    "member show": "vpn nbma vni protocol expires_in rx_packets rx_bytes tx_packets tx_bytes"
    " flooded dropped",
    "shortcut show": "vpn nbma vni protocol peer_nbma peer_vni expires_in",
    "registration show": "vpn nhs state expires_in renew_in last_error",
    "fdb show": "vpn mac nbma vni state used_ago interface",
    "vpn show": "vpn roles members macs shortcuts pending",
    "hub show": "interface state members left since",
    "hub drain": "interface state members left since",
    "hub undrain": "interface state members left since",
    "explain": "vpn about text nbma vni interface since by",
    "doctor": "check subject finding cure",
    "events": "serial time event vpn protocol nbma vni interface detail",
}


def test_fake_controller_is_one() -> None:
    """The controller of these tests has the methods that the node's has."""
    assert verifyObject(IController, FakeController())


@pytest.mark.parametrize(("name", "fields"), FIELDS.items())
def test_fields_are_the_promised_ones(name: str, fields: str) -> None:
    """Scripts find the documented fields, in the documented order."""
    assert [column.name for column in COMMANDS[name].columns] == fields.split()


@pytest.mark.parametrize(
    ("line", "name", "values"),
    [
        ("version", "version", {}),
        ("cache show", "cache show", {}),
        ("cache show vpn 1 type cached", "cache show", {"vpn": 1, "type": "cached"}),
        ("cache flush nbma 2001:db8::1", "cache flush", {"nbma": parse_ip("2001:db8::1")}),
        ("fdb show mac 52-54-00-00-00-01 vni 16777215", "fdb show",
         {"mac": b"\x52\x54\0\0\0\1", "vni": 16777215}),
        ("cache show interface vx1", "cache show", {"interface": "vx1"}),
        ("cache resolve 52:54:00:00:00:01", "cache resolve", {"mac": b"\x52\x54\0\0\0\1"}),
        ("cache resolve mac 52:54:00:00:00:01 vpn 4294967295", "cache resolve",
         {"mac": b"\x52\x54\0\0\0\1", "vpn": 4294967295}),
        ("cache resolve vpn 2 52:54:00:00:00:01", "cache resolve",
         {"mac": b"\x52\x54\0\0\0\1", "vpn": 2}),
        ("config check /etc/dmevpn/hub.conf", "config check", {"file": "/etc/dmevpn/hub.conf"}),
        ("log level debug", "log level", {"level": "debug"}),
    ],
)  # fmt: skip
def test_words_are_understood(line: str, name: str, values: dict[str, Any]) -> None:
    """Filters follow a command as pairs of words, in any order."""
    command, arguments = read_words(line.split())
    assert (command.name, command.check(arguments)) == (name, values)


@pytest.mark.parametrize(
    ("line", "lesson"),
    [
        ("cache", "`cache` wants one of: show watch flush purge resolve"),
        ("cach show", "did you mean 'cache show'?"),
        ("show cache", "did you mean 'cache show'?"),
        ("cache shwo", "did you mean 'show'?"),
        ("divine 52:54:00:00:00:01", "unknown command"),
        ("cache show vpn", "as in `cache show vpn 1`"),
        ("cache show vnp 1", "did you mean 'vpn'?"),
        ("cache show vpn 1 vpn 2", "`vpn` is given twice"),
        ("cache show vpn 0", "1 to 4294967295"),
        ("cache show vpn \N{ARABIC-INDIC DIGIT ONE}", "1 to 4294967295"),
        ("cache show vni 16777216", "1 to 16777215"),
        ("cache show mac 52:54", "is not a MAC address"),
        ("cache show nbma hub.example", "is not an IPv4 or IPv6 address"),
        ("cache show type cashed", "did you mean 'cached'?"),
        ("cache show interface sixteen-letters-", "is not the name of an interface"),
        ("member show type cached", "`member show` takes vpn N, mac M, nbma A, vni N"),
        ("version vpn 1", "`version` takes no arguments"),
        ("cache resolve", "as in `cache resolve mac 52:54:00:12:34:56`"),
        ("cache resolve 52:54:00:00:00:01 52:54:00:00:00:02", "unknown word"),
        ("config check hub.conf", "is not a path from the root directory"),
        ("log level loud", "debug info warn error critical"),
    ],
)
def test_mistakes_are_taught(line: str, lesson: str) -> None:
    """A mistake is answered by one line that says what would be right."""
    with pytest.raises(UsageError) as raised:
        command, arguments = read_words(line.split())
        command.check(arguments)
    assert lesson in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arguments", [None, [], {"vpn": 1}, {1: "1"}, {b"vpn": "1"}, {"x": "1"}])
def test_arguments_of_a_client_are_not_trusted(arguments: Any) -> None:
    """Whatever a client sends for arguments is answered, not stumbled over."""
    with pytest.raises(UsageError):
        find_command("cache show").check(arguments)


def test_events_pass_the_filters() -> None:
    """A watch with filters shows the bindings that cache show would show with them."""
    row = binding(1, nbma="2001:db8::1")
    line = "cache watch vpn 1 mac 52:54:00:00:00:01 nbma 2001:db8:0::1"
    command, arguments = read_words(line.split())
    assert selects(command.check(arguments), row)
    assert not selects({"vpn": 2}, row)
    assert not selects({"interface": "vx2"}, row)


def test_every_example_works() -> None:
    """Examples of the help can be typed as they stand."""
    assert list(_EXAMPLES) == list(COMMANDS)
    for name, lines in _EXAMPLES.items():
        for line in lines:
            command, _ = read_words([word for word in line.split() if not word.startswith("--")])
            assert command.name == name


def test_help_fits() -> None:
    """No line of the help is wrapped by a terminal of 100 columns."""
    texts = [overview(), *(group_help(name.split()[0]) for name in COMMANDS)]
    texts += [command_help(command) for command in COMMANDS.values()]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 100


def test_document_is_current() -> None:
    """docs/admin.md tells of the commands as they are."""
    assert DOCUMENT.read_text() == reference(), "run: python -m dmevpn.admin.help > docs/admin.md"
