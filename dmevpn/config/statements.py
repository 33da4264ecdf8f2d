"""Looking up statements, and keeping what is found about them. Layer: core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

from dmevpn.config.model import (
    DEFAULT_HOLDING_TIME,
    HOLDING_TIME_MAX,
    HOLDING_TIME_MIN,
    ConfigWarning,
    InterfaceConfig,
    Statement,
)
from dmevpn.config.parser import shown
from dmevpn.errors import ConfigError

__all__ = ["Findings", "every", "has_option", "holding_time", "last", "single_vpn", "value"]

T = TypeVar("T")


def every(statements: Iterable[Statement], keyword: str) -> list[Statement]:
    """The statements of a keyword, in order."""
    return [statement for statement in statements if statement.keyword == keyword]


def last(statements: Iterable[Statement], keyword: str) -> Statement | None:
    """The statement that holds: a later one replaces an earlier."""
    found = every(statements, keyword)
    return found[-1] if found else None


def value(statements: Iterable[Statement], keyword: str, default: T) -> T:
    """The argument of a keyword that has one; the grammar's converter made it a T."""
    statement = last(statements, keyword)
    return default if statement is None else cast(T, statement.arguments[0])


def has_option(statement: Statement, name: str) -> bool:
    """Whether an option follows the arguments."""
    return any(option.keyword == name for option in statement.options)


def holding_time(found: Findings, statement: Statement | None) -> int:
    """The seconds of a ``holding-time``, brought into the range that can be kept (noted)."""
    if statement is None:
        return DEFAULT_HOLDING_TIME
    seconds = cast(int, statement.arguments[0])
    kept = min(max(seconds, HOLDING_TIME_MIN), HOLDING_TIME_MAX)
    if kept != seconds:
        reason = (
            f"packets have no room for more than {HOLDING_TIME_MAX}"
            if seconds > kept
            else "a lost packet could not be sent again in time"
        )
        found.warn(statement, statement.words[1], f"taken for {kept} seconds: {reason}")
    return kept


class Findings:
    """Errors and warnings about one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigWarning] = []

    def error(self, place: Statement | InterfaceConfig, word: str, message: str) -> None:
        """Note a mistake in the line of ``place``."""
        self.errors.append(ConfigError(self._path, place.line, shown(word), message))

    def warn(self, place: Statement | InterfaceConfig | None, word: str, message: str) -> None:
        """Note something idle or doubtful; without a place it is about the whole file."""
        line = 0 if place is None else place.line
        self.warnings.append(ConfigWarning(self._path, line, shown(word), message))


def single_vpn(found: Findings, statement: Statement, owner: str) -> int | None:
    """The VPN index of a ``vpn-id`` that must name one; None if it does not (noted)."""
    low, high = cast(tuple[int, int], statement.arguments[0])
    if low == high:
        return low
    message = f"{owner} has one VPN: a range is for a hub's data interface"
    found.error(statement, statement.words[1], message)
    return None
