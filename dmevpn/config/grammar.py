"""The keyword table: everything that a configuration file may say. Layer: core.

One row per keyword. The parser reads arguments by it, ``resolve`` finds misplaced and idle
keywords by it, and ``docs/configuration.md`` is made from it. The keywords of OpenNHRP and of the
original dmevpn keep their names and order of arguments, so that their files parse.

The rows stand in ``dmevpn.config.keywords``.
"""

from __future__ import annotations

import difflib

from dmevpn.config.keyword import Argument, Context, Keyword, Option, Reload
from dmevpn.config.keywords.control import CONTROL_KEYWORDS
from dmevpn.config.keywords.data import DATA_KEYWORDS
from dmevpn.config.keywords.idle import IDLE_KEYWORDS
from dmevpn.config.keywords.shared import PEERS
from dmevpn.config.keywords.top import TOP_KEYWORDS

__all__ = [
    "KEYWORDS",
    "OPTIONS",
    "PEERS",
    "RESERVED",
    "Argument",
    "Context",
    "Keyword",
    "Option",
    "Reload",
    "nearest",
]

_ROWS = (*TOP_KEYWORDS, *CONTROL_KEYWORDS, *DATA_KEYWORDS, *IDLE_KEYWORDS)

#: Every keyword by name, in the order of the documentation.
KEYWORDS = {row.name: row for row in _ROWS}
#: Every option by name, with the keywords it may follow.
OPTIONS = {
    option.name: tuple(row.name for row in _ROWS if option.name in [o.name for o in row.options])
    for row in _ROWS
    for option in row.options
}
#: Words that are never taken for an argument (but see :attr:`Argument.free`).
RESERVED = frozenset(KEYWORDS) | frozenset(OPTIONS)

#: Longest word that is compared with every keyword; comparing is quadratic.
_COMPARED = 32


def nearest(word: str) -> str | None:
    """The keyword or option that a mistyped word was probably meant to be."""
    if len(word) > _COMPARED:
        return None
    lower = word.lower()
    close = difflib.get_close_matches(lower, sorted(RESERVED), 1, 0.75)
    return close[0] if close else None
