"""The command table: every admin command, what it takes and what it returns. Layer: admin.

PB dispatch, ``dmevpnctl`` with its help, text columns, JSON fields and docs/admin.md all come
from :data:`COMMANDS`. ``dmevpnctl`` imports this module before it needs a reactor, so nothing
of Twisted is imported at its top.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from dmevpn import __version__
from dmevpn.addresses import format_address, parse_protocol_address
from dmevpn.admin.command import Answer, Column, Command, Context, Match, Row
from dmevpn.admin.insight import INSIGHT
from dmevpn.admin.parameters import (
    BINDING_TYPES,
    FILE,
    INTERFACE,
    LEVEL,
    MAC,
    NBMA,
    PROTOCOL,
    TYPE,
    VNI,
    VPN,
    UsageError,
    near_match,
)
from dmevpn.errors import CommandError

__all__ = [
    "COMMANDS",
    "Answer",
    "Column",
    "Command",
    "Context",
    "find_command",
    "read_words",
    "selects",
]


# --- functions ----------------------------------------------------------------------------


def _vpn_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.vpns(match))


def _cache_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.bindings(match))


def _cache_watch(context: Context, match: Match) -> Answer:
    raise UsageError("`cache watch` never ends: call the remote method watch")


def _cache_flush(context: Context, match: Match) -> Answer:
    return _count("flushed", context.controller.flush(match), "no binding to flush")


def _cache_purge(context: Context, match: Match) -> Answer:
    return _count("purged", context.controller.purge(match), "no binding to purge")


async def _cache_resolve(context: Context, match: Match) -> Answer:
    return Answer([await context.controller.resolve(match)])


def _member_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.members(match))


def _shortcut_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.shortcuts(match))


def _registration_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.registrations(match))


def _registration_renew(context: Context, match: Match) -> Answer:
    return _count("renewed", context.controller.renew(match), "no registration to renew")


async def _fdb_show(context: Context, match: Match) -> Answer:
    return Answer(await context.controller.fdb(match))


def _interface_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.interfaces(match))


def _config_show(context: Context, match: Match) -> Answer:
    lines = context.controller.config_show().splitlines()
    return Answer({"line": number, "text": text} for number, text in enumerate(lines, 1))


def _config_check(context: Context, match: Match) -> Answer:
    return _report(context.controller.config_check(match.get("file")), "the file has errors")


def _config_diff(context: Context, match: Match) -> Answer:
    return Answer(context.controller.config_diff(match.get("file")))


async def _config_reload(context: Context, match: Match) -> Answer:
    return _report(await context.controller.reload(), "not reloaded; what ran before still runs")


def _metrics_show(context: Context, match: Match) -> Answer:
    return Answer(context.controller.metrics())


def _log_level(context: Context, match: Match) -> Answer:
    levels = context.log_levels
    if levels is None:
        raise CommandError("the log of this daemon has no level that can be changed")
    if "level" in match:
        from twisted.logger import LogLevel

        levels.setLogLevelForNamespace("dmevpn", LogLevel.levelWithName(match["level"]))
    return Answer([{"level": levels.logLevelForNamespace("dmevpn").name}])


def _version(context: Context, match: Match) -> Answer:
    from twisted import __version__ as twisted_version

    return Answer(
        [
            {
                "version": __version__,
                "python": platform.python_version(),
                "twisted": twisted_version,
                "kernel": platform.release(),
                "pid": os.getpid(),
            }
        ]
    )


def _count(done: str, number: int, nothing: str) -> Answer:
    if not number:
        raise CommandError(nothing)
    return Answer([{done: number}])


def _report(report: Mapping[str, Any], refused: str) -> Answer:
    rows = [{"message": message} for message in report["messages"]]
    return Answer(rows, "" if report["ok"] else refused)


# --- the table ----------------------------------------------------------------------------

_FILTERS = (VPN, MAC, PROTOCOL, NBMA, VNI, TYPE, INTERFACE)

_ASKED = MAC._replace(parse=parse_protocol_address, meaning="the MAC, IPv4 or IPv6 address")

_VPN = Column("vpn", "index of the VPN; null: packets that name no VPN", "number")
_NBMA = Column("nbma", "underlay address that frames for it are sent to", "address")
_VNI = Column("vni", "VXLAN network identifier at that address", "number")
_INTERFACE = Column("interface", "data interface of the VPN")

_BINDING = (
    _VPN,
    Column("protocol", "protocol address or network that is bound", "address"),
    Column("type", f"one of {' '.join(BINDING_TYPES)}"),
    _NBMA,
    _VNI,
    Column("expires_in", "seconds until it runs out; null: never", "seconds"),
    Column("flags", "any of unique, used, up, nat", "list"),
    _INTERFACE,
)


def _frames(name: str, meaning: str) -> Column:
    return Column(name, meaning, "amount")


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "vpn show",
            "List the VPNs that this daemon serves",
            (VPN,),
            (
                _VPN,
                Column("roles", "any of spoke, hub, layer3", "list"),
                Column("members", "registered VTEPs (hub) and addresses (layer3)", "number"),
                Column("macs", "MAC addresses that the switch has learned (hub)", "number"),
                Column("shortcuts", "addresses that are reached directly", "number"),
                Column("pending", "resolutions under way", "number"),
            ),
            _vpn_show,
            nothing="no VPNs",
        ),
        Command(
            "cache show",
            "List bindings: which protocol address lives where",
            _FILTERS,
            _BINDING,
            _cache_show,
            nothing="no bindings",
        ),
        Command(
            "cache watch",
            "Print changes of bindings as they happen, until interrupted",
            _FILTERS,
            (
                Column("event", "added, changed, or why it went: expired, purged, flushed, ..."),
                *_BINDING,
            ),
            _cache_watch,
            streams=True,
            follow=lambda context, listener: context.controller.subscribe(listener),
        ),
        Command(
            "cache flush",
            "Forget bindings that can be asked for again (cached, negative, learned)",
            _FILTERS,
            (Column("flushed", "how many", "number"),),
            _cache_flush,
            text="{flushed} flushed",
            changes=True,
        ),
        Command(
            "cache purge",
            "Withdraw bindings, at a hub registrations too, as if their source had",
            _FILTERS,
            (Column("purged", "how many", "number"),),
            _cache_purge,
            text="{purged} purged",
            changes=True,
        ),
        Command(
            "cache resolve",
            "Ask the hub where a MAC, IPv4 or IPv6 address lives, and show the answer",
            (_ASKED, VPN._replace(meaning="the VPN to ask in")),
            _BINDING,
            _cache_resolve,
            bare=_ASKED,
            required=(_ASKED,),
            changes=True,
        ),
        Command(
            "member show",
            "List the sites registered at this hub, with their traffic",
            (VPN, MAC._replace(meaning="this station MAC only"), NBMA, VNI),
            (
                _VPN,
                _NBMA,
                _VNI,
                Column("protocol", "station MAC that the site registered", "address"),
                Column("expires_in", "seconds until the registration runs out", "seconds"),
                _frames("rx_packets", "frames received from the site"),
                _frames("rx_bytes", "their octets"),
                _frames("tx_packets", "frames sent to the site"),
                _frames("tx_bytes", "their octets"),
                _frames("flooded", "received frames that went to all sites"),
                _frames("dropped", "received frames that were dropped"),
            ),
            _member_show,
            nothing="no members",
        ),
        Command(
            "shortcut show",
            "List what sites reach directly (at a hub: the answers that are still believed)",
            (VPN, MAC._replace(meaning="towards this MAC only"), NBMA, VNI),
            (
                _VPN,
                Column("nbma", "underlay address of the site that sends; null: ours", "address"),
                Column("vni", "VXLAN network identifier there", "number"),
                Column("protocol", "protocol address or network that it sends to", "address"),
                Column("peer_nbma", "underlay address of the site where that is", "address"),
                Column("peer_vni", "VXLAN network identifier there", "number"),
                Column("expires_in", "seconds until it must be asked for again", "seconds"),
            ),
            _shortcut_show,
            nothing="no shortcuts",
        ),
        Command(
            "registration show",
            "List the registrations of this spoke with its hubs",
            (VPN, NBMA._replace(meaning="the hub at this underlay address only")),
            (
                _VPN,
                Column("nhs", "underlay address of the hub", "address"),
                Column("state", "one of idle, registering, registered, refused, down"),
                Column("expires_in", "seconds until the hub forgets us", "seconds"),
                Column("renew_in", "seconds until we register again", "seconds"),
                Column("last_error", "why the last attempt failed; null: it did not"),
            ),
            _registration_show,
            nothing="no registrations",
        ),
        Command(
            "registration renew",
            "Register again now",
            (VPN, NBMA._replace(meaning="with the hub at this underlay address only")),
            (Column("renewed", "how many", "number"),),
            _registration_renew,
            text="{renewed} renewed",
            changes=True,
        ),
        Command(
            "fdb show",
            "List what the kernel forwards by: shortcuts of a spoke, the switch of a hub",
            (VPN, MAC, NBMA, VNI, INTERFACE),
            (
                _VPN,
                Column("mac", "MAC address that frames are for", "address"),
                _NBMA,
                _VNI,
                Column("state", "one of hold, shortcut, flood, learned, static"),
                Column("used_ago", "seconds since it last carried a frame", "seconds"),
                _INTERFACE,
            ),
            _fdb_show,
            nothing="no forwarding entries",
        ),
        Command(
            "interface show",
            "List control interfaces and data interfaces",
            (INTERFACE, NBMA, VNI),
            (
                Column("interface", "name of the interface"),
                Column("role", "one of control, spoke, hub"),
                Column("controller", "control interface of a data interface"),
                Column("vpns", "index of its VPN, or the ranges that a hub serves"),
                Column("nbma", "its own underlay address", "address"),
                Column("vni", "its own VXLAN network identifier", "number"),
                Column("mtu", "its MTU in octets", "number"),
            ),
            _interface_show,
            nothing="no interfaces",
        ),
        Command(
            "config show",
            "Print the configuration file, secrets masked",
            (),
            (Column("line", "line number", "number"), Column("text", "the line")),
            _config_show,
            nothing="the configuration is empty",
            text="{text}",
        ),
        Command(
            "config check",
            "Check a configuration file without using it",
            (FILE,),
            (Column("message", "an error or a warning: FILE:LINE: what near 'word'"),),
            _config_check,
            nothing="no errors and no warnings",
            text="{message}",
            bare=FILE,
        ),
        Command(
            "config diff",
            "Show what a reload with a configuration file would do, without doing it",
            (FILE,),
            (
                Column("change", "one of stop, start, restart, change, wait"),
                Column("role", "one of control, spoke, hub, layer3, daemon"),
                Column("interface", "name of the interface"),
                Column("vpns", "index of its VPN, or the ranges that a hub serves"),
                Column("keywords", "what differs; none: its control interface restarts", "list"),
            ),
            _config_diff,
            nothing="nothing would change",
            bare=FILE,
        ),
        Command(
            "config reload",
            "Read the configuration file again and make it so",
            (),
            (Column("message", "a warning, or what stands in the way"),),
            _config_reload,
            nothing="reloaded, no warnings",
            text="{message}",
            changes=True,
        ),
        Command(
            "metrics show",
            "List counters, gauges and histograms",
            (),
            (
                Column("name", "begins with dmevpn_"),
                Column("labels", "an object of strings", "labels"),
                Column("kind", "one of counter, gauge, histogram"),
                Column("value", "a number", "number"),
            ),
            _metrics_show,
            nothing="no metrics",
        ),
        Command(
            "log level",
            "Show or set how much the daemon logs",
            (LEVEL,),
            (Column("level", "the least severity that is logged"),),
            _log_level,
            text="{level}",
            bare=LEVEL,
            changes=True,
        ),
        Command(
            "version",
            "Print the version of the daemon and of what it runs on",
            (),
            (
                Column("version", "of dmevpn"),
                Column("python", "version of Python"),
                Column("twisted", "version of Twisted"),
                Column("kernel", "release of the kernel"),
                Column("pid", "process of the daemon", "number"),
            ),
            _version,
            text="dmevpn {version} (Python {python}, Twisted {twisted}, Linux {kernel}, pid {pid})",
        ),
        *INSIGHT,
    )
}


def find_command(name: str) -> Command:
    """The command of that name.

    :raises UsageError: if there is none, with the nearest if one is near.
    """
    command = COMMANDS.get(name)
    if command is not None:
        return command
    words = name.split()
    swapped = " ".join(reversed(words))
    if swapped in COMMANDS:
        raise UsageError(f"unknown command '{name}'; did you mean '{swapped}'?")
    verbs = [each.partition(" ")[2] for each in COMMANDS if each.split()[0] in words[:1]]
    if verbs and len(words) < 2:
        raise UsageError(f"`{name}` wants one of: {' '.join(verbs)}")
    if verbs:
        hint = near_match(words[1], verbs)
        raise UsageError(f"`{words[0]}` has no '{words[1]}', only: {' '.join(verbs)}{hint}")
    raise UsageError(f"unknown command '{name}'{near_match(name, list(COMMANDS))}")


def read_words(words: Sequence[str]) -> tuple[Command, dict[str, str]]:
    """Read a command line: a command and its arguments.

    :param words: at least one.
    :raises UsageError: with a sentence that teaches.
    """
    length = 1 if words[0] in COMMANDS else 2
    command = find_command(" ".join(words[:length]))
    return command, command.read(words[length:])


def selects(match: Match, row: Row) -> bool:
    """Whether a row of ``cache show`` passes the filters."""
    for name, wanted in match.items():
        column = "protocol" if name == "mac" else name
        if isinstance(wanted, bytes):
            wanted = format_address(wanted)
        if row.get(column) != wanted:
            return False
    return True
