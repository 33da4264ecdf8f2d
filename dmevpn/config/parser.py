"""From text to :class:`~dmevpn.config.model.Config`, word by word. Layer: core.

Words are separated by white space, line ends included; ``#`` at the start of a word begins a
comment. The caller reads the file, and decodes it so that any octets pass
(``errors="surrogateescape"``). Every error names file, line and word; after one the parser goes
on with the next keyword, so that one run shows them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dmevpn.config.grammar import (
    KEYWORDS,
    OPTIONS,
    RESERVED,
    Argument,
    Context,
    Keyword,
    Option,
    nearest,
)
from dmevpn.config.model import Config, InterfaceConfig, Statement
from dmevpn.errors import ConfigError

__all__ = ["MASK", "Word", "mask_secrets", "parse", "parse_all", "shown", "words"]

#: What stands in the place of a secret wherever text is shown.
MASK = "***"
#: Errors reported for one file: more help nobody, and a file that is no configuration has
#: millions.
MAX_ERRORS = 100
#: Characters of a word that an error repeats.
SHOWN_MAX = 40

_TOKEN = re.compile(r"#[^\n]*|\S+")
#: Whatever follows a keyword with a secret in a comment, where nobody checks what is what.
_SECRET_IN_COMMENT = re.compile(r"(cisco-authentication\s+)\S+|(authentication-key\s+)\S.*")


class Word(NamedTuple):
    """A word and its place."""

    text: str
    line: int
    """From 1."""
    start: int
    """Characters before it in the file."""
    comment: bool = False


def tokens(text: str) -> Iterator[Word]:
    """The words and the comments of a text, in order."""
    line, counted = 1, 0
    # Editors of another system begin a file with a byte order mark: not a word, not white space.
    start = 1 if text.startswith("\ufeff") else 0
    for match in _TOKEN.finditer(text, start):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        yield Word(match.group(), line, match.start(), match.group().startswith("#"))


def words(text: str) -> list[Word]:
    """The words of a text without its comments."""
    return [token for token in tokens(text) if not token.comment]


def shown(word: str) -> str:
    """A word as an error or warning may show it: one line, printable, not too long."""
    short = word if len(word) <= SHOWN_MAX else word[: SHOWN_MAX - 3] + "..."
    return "".join(c if c.isprintable() else _escaped(c) for c in short)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # an octet that is no UTF-8, kept by surrogateescape
        code -= 0xDC00
    return f"\\x{code:02x}"


def mask_secrets(text: str) -> str:
    """The text of a configuration file with every secret replaced by ``***``, for showing it.

    Secrets in comments count: a line that was commented out still tells.
    """
    pieces, done, line = [], 0, 0
    follow: list[Argument] = []
    for token in tokens(text):
        shown_as = token.text
        if token.comment:
            shown_as = _SECRET_IN_COMMENT.sub(rf"\1\2{MASK}", token.text)
        elif follow and (token.line == line or token.text not in RESERVED):
            shown_as = _masked(token.text, follow.pop(0))
        else:
            row = KEYWORDS.get(token.text)
            follow = list(row.arguments) if row is not None and _has_secret(row) else []
            line = token.line
        pieces += [text[done : token.start], shown_as]
        done = token.start + len(token.text)
    return "".join(pieces) + text[done:]


def _masked(word: str, argument: Argument) -> str:
    """A word after a keyword with a secret, as it may be shown.

    What is not what it should be may be the secret in the wrong place.
    """
    if argument.secret:
        return MASK
    try:
        argument.convert(word)
    except ValueError:
        return MASK
    return word


def _has_secret(row: Keyword) -> bool:
    return any(argument.secret for argument in row.arguments)


def parse(text: str, path: str) -> Config:
    """Read a configuration.

    :param text: contents of the file.
    :param path: its name, for errors.
    :raises ConfigError: at the first mistake.
    """
    config, errors = parse_all(text, path)
    if errors:
        raise errors[0]
    return config


def parse_all(text: str, path: str) -> tuple[Config, list[ConfigError]]:
    """Read a configuration, going on after mistakes.

    :returns: what could be read, and the mistakes by line; with any, the former is incomplete.
    """
    parser = _Parser(words(text), path)
    parser.run()
    return parser.config(), parser.errors


class _Parser:
    """The state of one reading: where we are, what was found."""

    def __init__(self, words: list[Word], path: str) -> None:
        self._words = words
        self._position = 0
        self._path = path
        self._top: list[Statement] = []
        self._blocks: dict[str, tuple[int, list[Statement]]] = {}
        self._block: list[Statement] | None = None
        self.errors: list[ConfigError] = []

    def config(self) -> Config:
        return Config(
            path=self._path,
            top=tuple(self._top),
            interfaces=tuple(
                InterfaceConfig(name=name, line=line, statements=tuple(statements))
                for name, (line, statements) in self._blocks.items()
            ),
        )

    def run(self) -> None:
        previous: Word | None = None
        while word := self._next():
            if len(self.errors) >= MAX_ERRORS:
                self._error(word, "too many errors; the rest was not read")
                return
            row = KEYWORDS.get(word.text)
            if row is None:
                self._unknown(word, previous)
                continue
            previous = word
            statement = self._statement(row, word)
            if row.name == "interface":
                self._open(statement)
            elif statement is not None:
                self._keep(row, statement)

    # --- words ---

    def _peek(self) -> Word | None:
        return self._words[self._position] if self._position < len(self._words) else None

    def _next(self) -> Word | None:
        word = self._peek()
        self._position += word is not None
        return word

    def _error(self, word: Word, message: str, show: str | None = None) -> None:
        near = shown(word.text) if show is None else show
        self.errors.append(ConfigError(self._path, word.line, near, message))

    # --- statements ---

    def _open(self, statement: Statement | None) -> None:
        if statement is None:
            # Without a usable name its statements are still read for their own mistakes.
            self._block = []
            return
        name = str(statement.arguments[0])
        self._block = self._blocks.setdefault(name, (statement.line, []))[1]

    def _keep(self, row: Keyword, statement: Statement) -> None:
        if Context.TOP in row.contexts:
            self._top.append(statement)
        elif self._block is not None:
            self._block.append(statement)
        else:
            message = "belongs to an interface: write `interface NAME` before it"
            self.errors.append(ConfigError(self._path, statement.line, row.name, message))

    def _statement(self, row: Keyword, keyword: Word) -> Statement | None:
        """Read arguments and options; None if any was wrong (and reported)."""
        before = len(self.errors)
        texts = [keyword.text]
        arguments = self._arguments(row, keyword, row.arguments, texts)
        options = []
        by_name = {option.name: option for option in row.options}
        while (word := self._peek()) and word.text in by_name:
            self._position += 1
            option = self._option(row, by_name[word.text], word)
            options.append(option)
            if option.arguments:
                # `holding-time` after that of a target is the interface's.
                del by_name[word.text]
            texts += option.words
        if len(self.errors) > before:
            return None
        return Statement(
            keyword=row.name,
            line=keyword.line,
            arguments=arguments,
            words=tuple(texts),
            options=tuple(options),
        )

    def _option(self, row: Keyword, option: Option, word: Word) -> Statement:
        texts = [word.text]
        arguments = self._arguments(row, word, option.arguments, texts)
        return Statement(
            keyword=option.name, line=word.line, arguments=arguments, words=tuple(texts)
        )

    def _arguments(
        self, row: Keyword, keyword: Word, arguments: tuple[Argument, ...], texts: list[str]
    ) -> tuple[object, ...]:
        """Read arguments, and add their words to ``texts``; mistakes are reported.

        :returns: a value for each; None for an absent optional one.
        """
        values: list[object] = []
        for argument in arguments:
            word = self._peek()
            if word is None or not self._meant(word, keyword, argument):
                if argument.wanted is None:
                    missing = f"{argument.name} is missing, such as {argument.example}"
                    self._error(keyword, f"{missing}; write `{row.usage}`")
                    break
                values.append(None)
                continue
            self._position += 1
            display = _masked(word.text, argument) if _has_secret(row) else word.text
            texts.append(display)
            try:
                values.append(argument.convert(word.text))
            except ValueError as error:
                self._error(word, f"{keyword.text} {argument.name}: {error}", shown(display))
        return tuple(values)

    @staticmethod
    def _meant(word: Word, keyword: Word, argument: Argument) -> bool:
        """Whether a word is this argument, and not the next keyword."""
        same_line = word.line == keyword.line
        if argument.free and same_line:
            return True
        if word.text in RESERVED:
            return False
        if argument.wanted is None:
            return True
        # On a line of its own, a mistyped keyword is likelier than an optional argument.
        return argument.wanted(word.text) and (same_line or nearest(word.text) is None)

    def _unknown(self, word: Word, previous: Word | None) -> None:
        """Report a word that is no keyword, and skip its arguments: the rest of the line."""
        if (
            previous is not None
            and previous.line == word.line
            and _has_secret(KEYWORDS[previous.text])
        ):
            self._error(previous, "a secret is one word")
        elif word.text in OPTIONS:
            self._error(word, f"belongs after the arguments of {' or '.join(OPTIONS[word.text])}")
        else:
            close = nearest(word.text)
            self._error(word, "unknown word" + (f"; did you mean {close}?" if close else ""))
        while (following := self._peek()) and following.line == word.line:
            if following.text in KEYWORDS:
                return
            self._position += 1
