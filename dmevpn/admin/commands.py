"""The command table: every admin command, what it takes and what it returns. Layer: admin.

PB dispatch, ``dmevpnctl`` with its help, text columns, JSON fields and docs/admin.md all come
from :data:`COMMANDS`. ``dmevpnctl`` imports this module before it needs a reactor, so nothing
of Twisted is imported at its top.
"""

from __future__ import annotations

from collections.abc import Sequence

from dmevpn.addresses import format_address
from dmevpn.admin.columns import Column
from dmevpn.admin.command import Answer, Command, Context, Match, Row
from dmevpn.admin.insight import INSIGHT
from dmevpn.admin.listings import LISTINGS
from dmevpn.admin.maintenance import MAINTENANCE
from dmevpn.admin.parameters import UsageError, near_match
from dmevpn.admin.upkeep import UPKEEP

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


COMMANDS: dict[str, Command] = {
    command.name: command for command in (*LISTINGS, *MAINTENANCE, *UPKEEP, *INSIGHT)
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
