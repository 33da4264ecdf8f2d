"""Help texts of ``dmevpnctl`` and docs/admin.md, made from the command table. Layer: admin."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from dmevpn.admin.columns import column_type
from dmevpn.admin.commands import COMMANDS, Command
from dmevpn.admin.parameters import Parameter
from dmevpn.admin.render import WIDTH
from dmevpn.journal import EVENTS

__all__ = ["command_help", "examples", "group_help", "overview", "reference", "usage"]

_EXAMPLES = {
    "vpn show": ("vpn show",),
    "cache show": (
        "cache show",
        "cache show vpn 1 type cached",
        "--json cache show nbma 192.0.2.1",
    ),
    "cache watch": ("cache watch vpn 1", "--json cache watch"),
    "cache flush": ("cache flush type negative",),
    "cache purge": ("cache purge vpn 1 mac 52:54:00:12:34:56",),
    "cache resolve": ("cache resolve 52:54:00:12:34:56 vpn 1",),
    "member show": ("member show", "--json member show vpn 1"),
    "shortcut show": ("shortcut show", "shortcut show vpn 1 nbma 192.0.2.1"),
    "registration show": ("registration show",),
    "registration renew": ("registration renew", "registration renew vpn 1"),
    "fdb show": ("fdb show vpn 1",),
    "interface show": ("interface show",),
    "hub show": ("hub show", "--json hub show"),
    "hub drain": ("hub drain", "hub drain wait 30"),
    "hub undrain": ("hub undrain",),
    "config show": ("config show",),
    "config check": ("config check", "config check hub.conf.new"),
    "config diff": ("config diff", "config diff hub.conf.new"),
    "config reload": ("config reload",),
    "metrics show": ("metrics show",),
    "log level": ("log level", "log level debug"),
    "shutdown": ("shutdown",),
    "version": ("version",),
    "events": (
        "events",
        "events vpn 1 mac 52:54:00:12:34:56",
        "events event refused",
        "events --follow --json",
    ),
    "explain": ("explain 52:54:00:12:34:56", "explain 52:54:00:12:34:56 vpn 1"),
    "doctor": ("doctor", "--json doctor"),
}

_OPTIONS = """\
options, before or behind the command:
  --endpoint ENDPOINT  the daemon at a Twisted client endpoint, such as unix:/run/dmevpn/hub.sock
  --name NAME          the daemon at /run/dmevpn/NAME.sock; needless if there is only one
  --follow             with events: go on printing them as they happen, until interrupted
  --json               print JSON: {"attr": {"entriesCount": N}, "table": [ROW, ...]}
  --help               print this, or with a command what it takes and shows
  --version            print the version of dmevpnctl
"""

_STATUS = """\
exit status: 0 done, 1 refused or nothing to do, 2 wrong usage, 3 no daemon
"""


def usage(command: Command) -> str:
    """A command with what it takes, in one line."""
    words = [command.name]
    for parameter in command.parameters:
        pair = f"{parameter.name} {parameter.metavar}"
        if command.bare is not None and parameter.name == command.bare.name:
            pair = parameter.metavar
        required = any(parameter.name == each.name for each in command.required)
        words.append(pair if required else f"[{pair}]")
    return " ".join(words)


def _list(commands: list[Command]) -> Iterator[str]:
    width = max(len(command.name) for command in commands)
    for command in commands:
        yield f"  {command.name:<{width}}  {command.summary}\n"


def overview() -> str:
    """All commands at a glance."""
    examples = ("cache show vpn 1 type cached", "registration show", "--json member show")
    return "".join(
        [
            "usage: dmevpnctl [OPTION ...] COMMAND [FILTER VALUE ...]\n\n",
            "Look into a running dmevpn daemon, and tell it what to do.\n\ncommands:\n",
            *_list(list(COMMANDS.values())),
            "\n`dmevpnctl COMMAND --help` tells what a command takes and shows.\n\nexamples:\n",
            *(f"  dmevpnctl {example}\n" for example in examples),
            f"\n{_OPTIONS}\n{_STATUS}",
        ]
    )


def group_help(word: str) -> str:
    """The commands that begin with a word; empty if there are none."""
    commands = [command for name, command in COMMANDS.items() if name.split()[0] == word]
    if not commands:
        return ""
    if len(commands) == 1:
        return command_help(commands[0])
    return "".join(
        [
            f"usage: dmevpnctl {word} COMMAND [FILTER VALUE ...]\n\ncommands:\n",
            *_list(commands),
            f"\nexamples:\n{_example_lines(*commands)}",
        ]
    )


def command_help(command: Command) -> str:
    """What one command takes and shows."""
    parts = [f"usage: dmevpnctl {usage(command)}\n\n{command.summary}.\n"]
    if command.parameters:
        parts.append("\nfilters and values, in any order:\n")
        parts.extend(_pairs([(_pair(p), p.meaning) for p in command.parameters]))
    parts.append("\nfields of a row:\n")
    parts.extend(_pairs([(column.name, column.about) for column in command.columns]))
    parts.append(f"\nexamples:\n{_example_lines(command)}")
    return "".join(parts)


def _pair(parameter: Parameter) -> str:
    return f"{parameter.name} {parameter.metavar}"


def _pairs(pairs: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(left) for left, _ in pairs)
    for left, right in pairs:
        lines = wrap(right, WIDTH - width - 4, break_on_hyphens=False) or [""]
        yield f"  {left:<{width}}  {lines[0]}\n"
        yield from (f"{'':<{width + 4}}{line}\n" for line in lines[1:])


def examples(command: Command) -> tuple[str, ...]:
    """Command lines that show what it is good for."""
    return _EXAMPLES[command.name]


def _example_lines(*commands: Command) -> str:
    lines = [example for command in commands for example in examples(command)]
    return "".join(f"  dmevpnctl {line}\n" for line in lines)


# --- docs/admin.md ------------------------------------------------------------------------

_INTRODUCTION = """\
# Operating a daemon: dmevpnctl and the admin interface

<!-- Generated from the command table: `python -m dmevpn.admin.help > docs/admin.md` -->

`dmevpnctl` talks to a running daemon over the socket that `admin` in its configuration names,
by default `/run/dmevpn/NAME.sock`, which only its owner may use.

    dmevpnctl [--endpoint CLIENT-ENDPOINT | --name NAME] [--json] COMMAND [FILTER VALUE ...]

Without `--endpoint` and `--name` it takes the only socket in `/run/dmevpn`; if there are several it
lists them and exits with 2.

| exit status | meaning |
|---|---|
| 0 | done; an empty table is done, too |
| 1 | the daemon refused, or found nothing to do |
| 2 | wrong usage |
| 3 | no daemon, or it went away |

Errors are one line on standard error. `--json` prints one object,
`{"attr": {"entriesCount": N}, "table": [ROW, ...]}`; a row has exactly the fields below, in that
order, absent ones `null`. Addresses are strings, times whole seconds. `cache watch` and
`events --follow` print one row object a line, and errors are an object, too:
`{"error": TEXT, "status": EXIT-STATUS}`. [docs/schema](schema) has a JSON schema (2020-12) of each
command's output, named after it, such as `cache-show.json`; of errors (`error.json`); of the lines
of `events --follow` (`events-line.json`); and of what the status page is fed with (`page-*.json`).
The whole of an answer is there before any of it is printed. Text is for people: sorted, at most 100
columns, and free to change.

Filters follow a command as pairs of words and narrow it: `cache show vpn 1 type cached`.
"""

_PROTOCOL = """\
## Other clients

The interface is Twisted's Perspective Broker. The root object has three remote methods:

- `commands()` returns the table of this page: dictionaries with `name`, `summary`, `parameters`,
  `columns` and `streams`.
- `run(name, arguments)` runs a command; `arguments` is a dictionary of strings by parameter name.
  It returns a dictionary: `page` is `(row count, JSON array as bytes, more)`; while `more` is true,
  the remote method `next()` of `listing` returns the next page; `refused` is empty, or why the
  command did not do what was asked. A page has at most 1,000 rows and 256 KiB.
- `watch(observer, arguments, name)` calls the remote method `events(rows)` of `observer` with JSON
  arrays of rows of `cache watch`, or of `events` if that is the `name`, and `closed(reason)` when
  there will be no more. It ends with the connection. A client with more than 10,000 events waiting
  is dropped.

Errors arrive as `dmevpn.admin.pb.WrongUsage` or `dmevpn.admin.pb.CommandRefused`, with a text for
the operator. At most 32 clients are served at once. A client may send calls ahead of its
answers: at most 8 are worked on at once, none while it does not read, and the others wait.
"""


def reference() -> str:
    """The text of docs/admin.md."""
    parts = [_INTRODUCTION, "\n## Commands\n"]
    for command in COMMANDS.values():
        parts.append(f"\n### {command.name}\n\n{command.summary}.\n\n    {usage(command)}\n\n")
        if command.parameters:
            parts.append("| takes | meaning |\n|---|---|\n")
            parts.extend(f"| `{_pair(p)}` | {p.meaning} |\n" for p in command.parameters)
            parts.append("\n")
        parts.append("| field | type | meaning |\n|---|---|---|\n")
        parts.extend(
            f"| `{column.name}` | {column_type(column)} | {column.about} |\n"
            for column in command.columns
        )
        parts.append(f"\n{''.join(_indented(command))}")
    parts.append("\n## Events\n\n| event | meaning |\n|---|---|\n")
    parts.extend(f"| `{event}` | {meaning} |\n" for event, meaning in EVENTS.items())
    parts.append(f"\n{_PROTOCOL}")
    return "".join(parts)


def _indented(command: Command) -> Iterator[str]:
    for example in examples(command):
        yield f"    dmevpnctl {example}\n"


if __name__ == "__main__":
    print(reference(), end="")
