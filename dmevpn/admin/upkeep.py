"""Commands about the daemon itself: its file, its log, its numbers. Layer: admin.

``dmevpnctl`` imports it before it needs a reactor, so nothing of Twisted is imported at its top.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from dmevpn import __version__
from dmevpn.admin.columns import Column
from dmevpn.admin.command import Answer, Command, Context, Match
from dmevpn.admin.parameters import FILE, LEVEL, LOG_LEVELS
from dmevpn.errors import CommandError

__all__ = ["UPKEEP"]


def _config_show(context: Context, match: Match) -> Answer:
    lines = context.controller.config_show().splitlines()
    return Answer({"line": number, "text": text} for number, text in enumerate(lines, 1))


def _config_check(context: Context, match: Match) -> Answer:
    return _report(context.controller.config_check(match.get("file")), "the file has errors")


def _config_diff(context: Context, match: Match) -> Answer:
    return Answer(context.controller.config_diff(match.get("file")))


async def _config_reload(context: Context, match: Match) -> Answer:
    return _report(await context.controller.reload(), "not reloaded; what ran before still runs")


def _shutdown(context: Context, match: Match) -> Answer:
    context.controller.shutdown()
    return Answer([])


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


def _report(report: Mapping[str, Any], refused: str) -> Answer:
    rows = [{"message": message} for message in report["messages"]]
    return Answer(rows, "" if report["ok"] else refused)


UPKEEP = (
    Command(
        "config show",
        "Print the configuration file, secrets masked",
        (),
        (Column("line", "line number", "number"), Column("text", "the line", "text")),
        _config_show,
        nothing="the configuration is empty",
        text="{text}",
        verbatim=True,
    ),
    Command(
        "config check",
        "Check a configuration file without using it",
        (FILE,),
        (Column("message", "an error or a warning: FILE:LINE: what near 'word'", "text"),),
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
            Column(
                "change",
                "what happens to it",
                "text",
                values=("stop", "start", "restart", "change", "wait"),
            ),
            Column(
                "role",
                "what it is",
                "text",
                values=("control", "spoke", "hub", "layer3", "daemon"),
            ),
            Column("interface", "name of the interface", "text", "the daemon as a whole"),
            Column(
                "vpns",
                "index of its VPN, or the ranges that a hub serves",
                "text",
                "none in particular",
            ),
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
        (Column("message", "a warning, or what stands in the way", "text"),),
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
            Column("name", "begins with dmevpn_", "text"),
            Column("labels", "what it is about", "labels"),
            Column("kind", "what sort it is", "text", values=("counter", "gauge", "histogram")),
            Column("value", "what it stands at", "value"),
        ),
        _metrics_show,
        nothing="no metrics",
    ),
    Command(
        "log level",
        "Show or set how much the daemon logs",
        (LEVEL,),
        (Column("level", "the least severity that is logged", "text", values=LOG_LEVELS),),
        _log_level,
        text="{level}",
        bare=LEVEL,
        changes=True,
    ),
    Command(
        "shutdown",
        "End the daemon, and take down everything of it",
        (),
        (Column("message", "nothing is said", "text"),),
        _shutdown,
        nothing="shutting down",
        text="{message}",
        changes=True,
    ),
    Command(
        "version",
        "Print the version of the daemon and of what it runs on",
        (),
        (
            Column("version", "of dmevpn", "text"),
            Column("python", "version of Python", "text"),
            Column("twisted", "version of Twisted", "text"),
            Column("kernel", "release of the kernel", "text"),
            Column("pid", "process of the daemon", "number"),
        ),
        _version,
        text="dmevpn {version} (Python {python}, Twisted {twisted}, Linux {kernel}, pid {pid})",
    ),
)
