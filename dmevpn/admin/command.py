"""What a command is: the row type of the command table. Layer: admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dmevpn.admin.columns import Column
from dmevpn.admin.parameters import Parameter, check_arguments, read_arguments

__all__ = ["ANSWERED_WITHIN", "Answer", "Column", "Command", "Context", "Match", "Row"]

#: Seconds in which the answer to a command begins, if its row does not say otherwise; a resolution
#: asks several times.
ANSWERED_WITHIN: Final = 40.0

Row = dict[str, Any]
Match = dict[str, Any]


class Context(NamedTuple):
    """What a command works on."""

    controller: Any
    """An IController."""
    log_levels: Any
    """The LogLevelFilterPredicate of the daemon's log, or None if that is fixed."""


class Answer(NamedTuple):
    """What a command returns."""

    rows: Iterable[Row]
    """Plain values by column name. They may be fetched over many reactor turns."""
    refused: str = ""
    """Why it did not do what was asked, for a command that has rows to show all the same."""


class Command(NamedTuple):
    """One row of the table."""

    name: str
    """One or two words."""
    summary: str
    """Begins with a verb in the imperative."""
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    function: Callable[[Context, Match], Answer | Awaitable[Answer]]
    nothing: str = ""
    """What text output says instead of an empty table."""
    text: str | Callable[[Row], str] = ""
    """For rows that make no table: a line for each, whose format fields are columns; or what makes
    such text of a row, which is wrapped and indented where it is too long."""
    verbatim: bool = False
    """Whether such lines are shown as they are, however long."""
    bare: Parameter | None = None
    """The parameter whose value may stand without its name."""
    required: tuple[Parameter, ...] = ()
    changes: bool = False
    """Whether it changes anything; if so, its use is logged."""
    patience: float = ANSWERED_WITHIN
    """Seconds in which its answer begins."""
    streams: bool = False
    """Whether rows come one by one, without end."""
    follow: Callable[[Context, Callable[[Row], None]], Callable[[], None]] | None = None
    """For rows that go on coming: has a listener called with each, and returns how to end that."""

    def read(self, words: Sequence[str]) -> dict[str, str]:
        """Arguments from the words behind the command; raises UsageError."""
        return read_arguments(self.name, self.parameters, self.bare, words)

    def check(self, arguments: Mapping[str, str]) -> Match:
        """Values from arguments; raises UsageError."""
        return check_arguments(self.name, self.parameters, self.required, arguments)
