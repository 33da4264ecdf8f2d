"""The parser: what is read, and how mistakes are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmevpn.config.grammar import KEYWORDS, OPTIONS, RESERVED, nearest
from dmevpn.config.parser import MAX_ERRORS, mask_secrets, parse, parse_all, shown, words
from dmevpn.errors import ConfigError
from tests.config.files import HUB, SPOKE, checked


def statements(text, interface="x"):
    """The statements of a correct block, as keyword and arguments."""
    config = parse(f"interface {interface} {text}", "x.conf")
    return [(each.keyword, each.arguments) for each in config.interfaces[0].statements]


def mistakes(text):
    """The errors of a text, without the name of the file."""
    _, errors = parse_all(text, "x.conf")
    return [str(error).removeprefix("x.conf:") for error in errors]


# --- words ---


def test_words_and_lines():
    """Words are numbered by line; comments begin at the start of a word only."""
    text = "a b#c\t#d e\r\n\n  #\n#x\nf"
    assert [(word.text, word.line) for word in words(text)] == [("a", 1), ("b#c", 1), ("f", 5)]


def test_byte_order_mark():
    """A byte order mark at the start of a file is not part of the first word."""
    assert parse("\ufeff" + HUB, "x.conf") == parse(HUB, "x.conf")


@pytest.mark.parametrize(
    "variant",
    [
        HUB.rstrip("\n"),
        HUB.replace("\n", "\r\n"),
        HUB.replace("\n", " "),
        HUB.replace(" ", "\n"),
        HUB.replace("\n", " # comment: default-vni 1 2\n"),
        "#\n" + HUB + "#",
    ],
)
def test_layout_does_not_matter(variant):
    """One line or many, CRLF, comments, a missing last newline: the file means the same."""
    assert checked(variant) == checked(HUB)
    assert checked(HUB).plan is not None


def test_bridge_on_the_next_line():
    """An optional argument may stand on a line of its own."""
    assert checked(SPOKE.replace(" ", "\n")) == checked(SPOKE)


@given(st.text(max_size=20))
def test_empty_files(text):
    """Any comment is a correct file."""
    assert parse("#" + text.replace("\n", " "), "x").interfaces == ()


def test_long_words():
    """A word may have any length; an error shows its beginning."""
    secret = "s" * 60
    assert statements(f"cisco-authentication {secret}") == [
        ("cisco-authentication", (secret.encode(),))
    ]
    (error,) = mistakes("x" * 100_000)
    assert error == f"1: unknown word near '{'x' * 37}...'"


@pytest.mark.parametrize(
    ("word", "display"),
    [("a", "a"), ("\u00e4", "\u00e4"), ("a\x1b[2J", "a\\x1b[2J"), ("\udcff", "\\xff")],
)
def test_shown(word, display):
    """Control characters and octets that are no UTF-8 are shown, not sent to the terminal."""
    assert shown(word) == display


def test_other_octets():
    """Octets that are no UTF-8 are harmless in comments, and an error with its line elsewhere."""
    text = b"# \xe4\ninterface a\n\xff\xfe 1\n".decode("utf-8", "surrogateescape")
    assert mistakes(text) == ["3: unknown word near '\\xff\\xfe'"]


# --- statements ---


@pytest.mark.parametrize("row", KEYWORDS.values(), ids=lambda row: row.name)
def test_every_keyword(row):
    """Every keyword of the table parses with its arguments and all of its options."""
    text = " ".join([row.name, *(argument.example for argument in row.arguments)])
    for option in row.options:
        text += " " + " ".join([option.name, *(each.example for each in option.arguments)])
    config = parse(f"interface a {text}", "x.conf")
    found = [*config.top, *(s for block in config.interfaces for s in block.statements)]
    if row.name != "interface":
        (statement,) = found
        assert statement.keyword == row.name
        assert len(statement.arguments) == len(row.arguments)
        assert [option.keyword for option in statement.options] == [o.name for o in row.options]


def test_keywords_of_the_predecessors():
    """A file with every keyword of OpenNHRP and the original dmevpn is accepted."""
    text = """
    interface gre1
        map 10.255.255.1/24 192.168.200.1 register no-unique cisco
        map 10.255.255.2 hub.example.org
            register
        dynamic-map 10.255.255.0/24 hub.example.org register
        shortcut-target 172.16.0.0/16 holding-time 3600
        holding-time 3600
        cisco-authentication secret
        route-table 42
        shortcut redirect non-caching
        multicast dynamic multicast nhs multicast 10.255.255.1
        vpn-id 1
        map-vni 100 10.255.255.1 2e:cd:9a:5c:ae:c7 register
        shortcut-vnid 100 holding-time 60
    interface eth1
        shortcut-destination
    interface vx
        default-vni 100 10.0.0.1 l2learnonly controller gre1 vpn-id 1
    """
    assert [len(block.statements) for block in parse(text, "x").interfaces] == [16, 1, 4]


def test_options_belong_to_their_keyword():
    """Options follow the arguments in any order, on any line."""
    (block,) = parse("interface a map 1.0.0.1 10.0.0.1\ncisco\nregister", "x").interfaces
    (statement,) = block.statements
    assert [(option.keyword, option.line) for option in statement.options] == [
        ("cisco", 2),
        ("register", 3),
    ]
    assert statement.words == ("map", "1.0.0.1", "10.0.0.1", "cisco", "register")


def test_optional_arguments():
    """A MAC and a bridge may be left out, whatever comes next."""
    assert statements("map-vni 5 hub register provision vpn-id 1") == [
        ("map-vni", (5, ("hub", None), None)),
        ("provision", (None,)),
        ("vpn-id", ((1, 1),)),
    ]
    assert statements("provision") == [("provision", (None,))]
    assert statements("map-vni 5 hub") == [("map-vni", (5, ("hub", None), None))]


def test_names_that_are_keywords():
    """An interface or a secret may be called like a keyword, on the line of its own keyword."""
    assert statements("cisco-authentication shortcut", "map") == [
        ("cisco-authentication", (b"shortcut",))
    ]
    assert mistakes("interface\nmap 1.0.0.1 10.0.0.1")[0].startswith("1: NAME is missing")


def test_blocks_go_on():
    """An interface that is named twice has one block, at its first line."""
    config = parse("interface a shortcut\ninterface b\ninterface a redirect", "x")
    assert [(b.name, b.line, len(b.statements)) for b in config.interfaces] == [
        ("a", 1, 2),
        ("b", 2, 0),
    ]


def test_top_keywords_anywhere():
    """Keywords about the file as a whole do not close a block."""
    config = parse("vpn-oui 02-00-01 interface a admin tcp:1 shortcut", "x")
    assert [s.keyword for s in config.top] == ["vpn-oui", "admin"]
    assert [s.keyword for s in config.interfaces[0].statements] == ["shortcut"]


# --- mistakes ---

MISTAKES = [
    ("interface a\nvpnid 1", "2: unknown word; did you mean vpn-id? near 'vpnid'"),
    ("interface a\nVPN-ID 1", "2: unknown word; did you mean vpn-id? near 'VPN-ID'"),
    ("interface a\nzebra 1 2 3", "2: unknown word near 'zebra'"),
    ("vpn-id 1", "1: belongs to an interface: write `interface NAME` before it near 'vpn-id'"),
    (
        "interface a\n\nmap-vni 16777216 10.0.0.1",
        "3: map-vni VNI: a VNI from 1 to 16777215 is expected near '16777216'",
    ),
    (
        "interface a default-vni 100\nprovision br1",
        "1: NBMA|HOST is missing, such as 10.0.0.1; write `default-vni VNI NBMA|HOST [register]"
        " [no-unique] [legacy] [legacy-big-endian] [opennhrp] [frr] [cisco]` near 'default-vni'",
    ),
    ("interface a\nvpn-id", "2: N|N-M|any is missing, such as 1; write `vpn-id N|N-M|any` near"),
    ("interface", "1: NAME is missing, such as nhrp; write `interface NAME` near 'interface'"),
    (
        "interface a\ndefault-vni 1\n10.0.0.300",
        "3: default-vni NBMA|HOST: an IPv4 or IPv6 address is expected near '10.0.0.300'",
    ),
    (
        "interface a map-vni 1 hub 2e:cd:9a:5c:ae register",
        "1: map-vni MAC: a MAC address such as 02:00:00:00:00:01 is expected near '2e:cd:9a:5c:ae'",
    ),
    ("interface a register", "1: belongs after the arguments of map or map-vni or dynamic-map"),
    ("interface a transport gre", "1: transport auto|raw|device: auto, raw or device is expected"),
    (
        "interface a shortcut-target 1.0.0.0/8 holding-time 5m",
        "1: holding-time S: a number of seconds from 0 to 4294967295 is expected near '5m'",
    ),
    (
        "interface abcdefghijklmnopq\nshortcut",
        "1: interface NAME: the name of a device has at most 15 octets near 'abcdefghijklmnopq'",
    ),
    ("interface a\nprovision\nvpn-di 1", "3: unknown word; did you mean vpn-id? near 'vpn-di'"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text, message):
    """A mistake is one line: where, what is wrong, what to write, and the word."""
    (found,) = mistakes(text)
    assert found.startswith(message)
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.conf")
    assert str(caught.value) == "x.conf:" + found


def test_all_mistakes_at_once():
    """After a mistake reading goes on; the rest of its line is not reported again."""
    text = """
    interface a
        foo 1 2 vpn-id 0
        map-vni
        vpn-id 1 bar
        baz
    """
    assert [error.partition(":")[0] for error in mistakes(text)] == ["3", "3", "4", "5", "6"]


def test_several_mistakes_in_a_statement():
    """Every wrong argument of a statement is reported."""
    assert len(mistakes("interface a map-vni 0 10.0.0.300 2e:cd:zz register")) == 3


def test_a_file_that_is_none():
    """Reading gives up on a file with no end of errors."""
    found = mistakes("zebra\n" * 100_000)
    assert len(found) == MAX_ERRORS + 1
    assert found[-1] == f"{MAX_ERRORS + 1}: too many errors; the rest was not read near 'zebra'"


def test_exactly_as_many_errors():
    """The bound itself is not an error."""
    assert len(mistakes("zebra\n" * MAX_ERRORS)) == MAX_ERRORS


def test_nearest():
    """Suggestions are keywords or options, and long words are not compared."""
    assert nearest("intreface") == "interface"
    assert nearest("registr") == "register"
    assert nearest("xyzzy") is None
    assert nearest("interface" * 10) is None


# --- secrets ---


def test_secrets_do_not_show():
    """No text made from a file shows its secret."""
    text = "interface a\ncisco-authentication hush"
    config = parse(text, "x")
    assert "hush" not in repr(config)
    assert config.interfaces[0].statements[0].words == ("cisco-authentication", "***")
    plan = checked(SPOKE + "interface nhrp cisco-authentication hush").plan
    assert plan is not None
    assert plan.speakers[0].authentication.secret == b"hush"
    assert "hush" not in repr(plan)


@pytest.mark.parametrize("word", ["hush" * 20, "hush hush"])
def test_errors_do_not_tell_secrets(word):
    """Nor does an error about a secret that is too long, or is two words."""
    (error,) = mistakes(f"interface a\ncisco-authentication {word}")
    assert error.startswith("2: ")
    assert "hush" not in error


def test_mask_secrets():
    """The text of a file is shown as it is, but for its secrets, also in comments."""
    text = (
        "interface a\r\n  cisco-authentication  hush # cisco-authentication hush\n"
        "#cisco-authentication hush\ncisco-authentication # why\n\thush\n"
        "cisco-authentication cisco-authentication redirect # cisco-authentication"
    )
    assert mask_secrets(text) == (
        "interface a\r\n  cisco-authentication  *** # cisco-authentication ***\n"
        "#cisco-authentication ***\ncisco-authentication # why\n\t***\n"
        "cisco-authentication *** redirect # cisco-authentication"
    )


@given(st.text())
def test_mask_changes_nothing_else(text):
    """A file without secrets is shown word for word."""
    if "cisco-authentication" not in text:
        assert mask_secrets(text) == text


# --- whatever comes ---

ARGUMENTS = ["1", "1-3", "0", "10.0.0.1", "hub", "br1", "any", "yes", "1.0.0.0/8", "a", "b", "\n"]
WORDS = st.one_of(
    st.sampled_from(sorted(RESERVED)),
    st.sampled_from(sorted({*ARGUMENTS, "02:00:00:00:00:01", "tcp:1", "#", "16777216"})),
    st.text(max_size=8),
)


@given(st.lists(WORDS, max_size=60).map(" ".join))
def test_random_words(text):
    """No sequence of words makes the check fail in any other way than by errors in lines."""
    resolution = checked(text)
    assert (resolution.plan is None) == bool(resolution.errors)
    for message in resolution.messages:
        assert message.startswith("x.conf:")
        assert "\n" not in message


@given(st.binary(max_size=200))
def test_random_octets(octets):
    """Nor does any file."""
    checked(octets.decode("utf-8", "surrogateescape"))
    checked(octets.decode("latin-1"))


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(sorted(KEYWORDS)),
        st.lists(st.sampled_from(ARGUMENTS), max_size=3),
        st.lists(st.sampled_from(sorted(OPTIONS)), max_size=1),
    ).map(lambda parts: " ".join([parts[0], *parts[1], *parts[2]])),
    max_size=12,
)


@given(BLOCKS, BLOCKS)
def test_random_statements(first, second):
    """Nor do statements in any place and order."""
    checked("\n".join(["interface a", *first, "interface b", "controller a", *second]))
