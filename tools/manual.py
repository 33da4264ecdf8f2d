"""Parts of the manual pages, in the language of man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from textwrap import wrap

from dmevpn.admin.commands import COMMANDS, Command
from dmevpn.admin.help import examples, usage
from dmevpn.config.grammar import KEYWORDS, Context, Option, Reload
from dmevpn.tap import Options

#: Words that the reader types stand between these in help texts.
_CODE = re.compile(r"`([^`]*)`")


def escaped(text: str) -> str:
    """Text that is to be read as it is."""
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")


def lines(text: str) -> str:
    """Running text; what is between backticks is bold."""
    parts = _CODE.split(text.replace("\\", r"\e").replace("'", r"\(aq"))
    parts[1::2] = [rf"\fB{code}\fP".replace("-", r"\-") for code in parts[1::2]]
    wrapped = wrap("".join(parts), 78, break_long_words=False, break_on_hyphens=False)
    # A line that begins with a dot would be a request.
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in wrapped)


def syntax(words: str) -> str:
    """A keyword or command with its arguments: bold is typed, italics stand for something."""
    shown = []
    for number, word in enumerate(words.split(" ")):
        bare = word.removeprefix("[")
        if bare.count("]") > bare.count("["):
            bare = bare.removesuffix("]")
        font = "I" if number and bare.isupper() else "B"
        shown.append(escaped(word).replace(escaped(bare), rf"\f{font}{escaped(bare)}\fP"))
    return " ".join(shown)


def paragraphs(entries: Iterable[tuple[str, str]]) -> str:
    """Terms with what they mean."""
    return "\n".join(f".TP\n{term}\n{lines(text)}" for term, text in entries)


def rows(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms and meanings within a paragraph."""
    yield ".RS"
    for term, meaning in pairs:
        yield f".TP 14\n{term}\n{lines(meaning)}"
    yield ".RE"


# --- dmevpn(8) ---


def daemon_options() -> str:
    """What may stand behind `twistd dmevpn`."""
    entries = []
    for name, short, _, text in Options.optParameters:
        term = rf"\fB\-{short}\fP, \fB{escaped(f'--{name}')}\fP"
        entries.append((rf"{term} \fI{'FILE' if name == 'config' else 'DIR'}\fP", text))
    for name, _, text in Options.optFlags:
        entries.append((rf"\fB{escaped(f'--{name}')}\fP", text))
    return paragraphs(entries)


# --- dmevpn.conf(5) ---


def keywords(context: Context) -> str:
    """The keywords of a context that have an effect."""
    entries = []
    for row in KEYWORDS.values():
        if context in row.contexts and not row.no_effect:
            text = row.help
            if row.repeatable and row.name != "interface":
                text += " Repeatable."
            if row.reload is not Reload.NOTHING:
                text += f" On reload, a change {row.reload.value}."
            options = tuple(option for option in row.options if not option.no_effect)
            entries.append((syntax(replace(row, options=options).usage), text))
    return paragraphs(entries)


def keyword_options() -> str:
    """Words that follow the arguments of keywords."""
    found: dict[Option, list[str]] = {}
    for row in KEYWORDS.values():
        for option in row.options:
            if not option.no_effect and not row.no_effect:
                found.setdefault(option, []).append(row.name)
    return paragraphs(
        (
            syntax(" ".join([option.name, *(argument.name for argument in option.arguments)])),
            f"{option.help} After `{'`, `'.join(names)}`.",
        )
        for option, names in found.items()
    )


def idle_keywords() -> str:
    """Keywords that are accepted and do nothing."""
    idle = [row for row in KEYWORDS.values() if row.no_effect]
    return paragraphs((syntax(row.usage), f"{row.help} Idle: {row.no_effect}.") for row in idle)


# --- dmevpnctl(8) ---


def commands() -> str:
    """Every command of dmevpnctl."""
    return "\n".join(_command(command) for command in COMMANDS.values())


def _command(command: Command) -> str:
    parts = [f".SS {command.name}", syntax(usage(command)), ".PP", lines(f"{command.summary}.")]
    if command.parameters:
        parts += [".PP", "It takes:"]
        parts += rows((syntax(f"{p.name} {p.metavar}"), p.meaning) for p in command.parameters)
    parts += [".PP", "Fields of a row:"]
    parts += rows((rf"\fB{column.name}\fP", column.about) for column in command.columns)
    parts += [".PP", "For example:", ".PP", ".nf", ".RS"]
    parts += [escaped(f"dmevpnctl {line}") for line in examples(command)]
    return "\n".join([*parts, ".RE", ".fi"])
