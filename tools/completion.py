"""The tables of the completion of bash, from the command table."""

from __future__ import annotations

from shlex import quote

from dmevpn.admin.commands import COMMANDS
from dmevpn.admin.ctl import FLAGS, RUNTIME_DIRECTORY
from dmevpn.admin.parameters import BINDING_TYPES, LOG_LEVELS


def tables() -> str:
    """Assignments that the function reads."""
    verbs: dict[str, list[str]] = {}
    for name in COMMANDS:
        group, _, verb = name.partition(" ")
        verbs.setdefault(group, []).extend([verb] if verb else [])
    takes = {name: [p.name for p in command.parameters] for name, command in COMMANDS.items()}
    bare = {name: [command.bare.name] for name, command in COMMANDS.items() if command.bare}
    values = {"type": BINDING_TYPES, "level": LOG_LEVELS}
    return "\n".join(
        [
            f"_dmevpnctl_directory={quote(RUNTIME_DIRECTORY)}",
            f"_dmevpnctl_options={quote(' '.join(FLAGS))}",
            _array("_dmevpnctl_verbs", verbs),
            _array("_dmevpnctl_takes", takes),
            _array("_dmevpnctl_bare", bare),
            _array("_dmevpnctl_values", values),
        ]
    )


def _array(name: str, entries: dict[str, list[str]] | dict[str, tuple[str, ...]]) -> str:
    rows = (f"    [{quote(key)}]={quote(' '.join(words))}" for key, words in entries.items())
    return "\n".join([f"declare -gA {name}=(", *rows, ")"])
