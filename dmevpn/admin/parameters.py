"""What may stand behind a command: filters and values, as words and as checked arguments.
Layer: admin.

The same rules read the words of a command line (:func:`read_arguments`) and check what comes
over the wire (:func:`check_arguments`), so both teach with the same sentences.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dmevpn.addresses import parse_ip, parse_mac, parse_protocol_address, parse_vni
from dmevpn.errors import CommandError
from dmevpn.journal import EVENTS

__all__ = [
    "BINDING_TYPES",
    "EVENT",
    "FILE",
    "INTERFACE",
    "LEVEL",
    "LOG_LEVELS",
    "MAC",
    "NBMA",
    "TYPE",
    "VNI",
    "VPN",
    "WAIT",
    "Parameter",
    "UsageError",
    "check_arguments",
    "near_match",
    "read_arguments",
]

#: Kinds of binding, strongest first.
BINDING_TYPES = ("static", "local", "dynamic", "learned", "cached", "negative", "incomplete")

#: Least severity that the daemon logs, from chatty to quiet (names of twisted.logger).
LOG_LEVELS = ("debug", "info", "warn", "error", "critical")

#: Longest device name that Linux knows (IFNAMSIZ less its end).
_INTERFACE_LENGTH = 15


class UsageError(CommandError):
    """A command that is not one, or that is given what it does not take."""


class Parameter(NamedTuple):
    """A word that a command takes, with the value behind it."""

    name: str
    """The word, and the key of the argument."""
    metavar: str
    """The value's place in help texts."""
    parse: Callable[[str], Any]
    """Value from text; raises ValueError with a sentence."""
    meaning: str
    example: str


def near_match(word: str, candidates: Sequence[str]) -> str:
    """A question after the word that was probably meant, or nothing; to be appended."""
    # Only a mistake pays for this import: it costs a tenth of dmevpnctl's start.
    from difflib import get_close_matches

    close = get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _vpn(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 0xFFFFFFFF:
        raise ValueError(f"{text!r} is not a VPN index from 1 to 4294967295")
    return int(text)


def _nbma(text: str) -> bytes:
    try:
        return parse_ip(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def _choice(text: str, choices: Sequence[str], what: str) -> str:
    if text not in choices:
        hint = near_match(text, choices)
        raise ValueError(f"{text!r} is not a {what}: {' '.join(choices)}{hint}")
    return text


def _type(text: str) -> str:
    return _choice(text, BINDING_TYPES, "type of binding")


def _event(text: str) -> str:
    return _choice(text, tuple(EVENTS), "event")


def _level(text: str) -> str:
    return _choice(text, LOG_LEVELS, "log level")


def _interface(text: str) -> str:
    if not 1 <= len(text) <= _INTERFACE_LENGTH or "/" in text or any(map(str.isspace, text)):
        raise ValueError(f"{text!r} is not the name of an interface")
    return text


def _file(text: str) -> str:
    # The daemon has a working directory of its own, so only a whole path means one file.
    if not os.path.isabs(text) or "\0" in text:
        raise ValueError(f"{text!r} is not a path from the root directory")
    return text


def _wait(text: str) -> int:
    # Less than a client waits for an answer.
    if not (text.isascii() and text.isdigit()) or len(text) > 2 or not 0 <= int(text) <= 30:
        raise ValueError(f"{text!r} is not a number of seconds from 0 to 30")
    return int(text)


VPN = Parameter("vpn", "N", _vpn, "this VPN index only", "1")
MAC = Parameter("mac", "M", parse_mac, "this MAC address only", "52:54:00:12:34:56")
PROTOCOL = Parameter(
    "protocol",
    "A",
    parse_protocol_address,
    "this protocol address only (MAC, IPv4 or IPv6)",
    "10.255.255.1",
)
NBMA = Parameter("nbma", "A", _nbma, "this underlay address only (IPv4 or IPv6)", "192.0.2.1")
VNI = Parameter("vni", "N", parse_vni, "this VXLAN network identifier only", "100")
TYPE = Parameter("type", "T", _type, f"this type only: {' '.join(BINDING_TYPES)}", "cached")
INTERFACE = Parameter("interface", "I", _interface, "this interface only", "vx1")
EVENT = Parameter("event", "E", _event, "this event only, such as refused", "refused")
FILE = Parameter("file", "FILE", _file, "the file; without it the daemon's own", "hub.conf")
WAIT = Parameter("wait", "S", _wait, "seconds to wait at most, up to 30; else 10", "30")
LEVEL = Parameter("level", "LEVEL", _level, f"one of {' '.join(LOG_LEVELS)}", "debug")


def _takes(command: str, parameters: Sequence[Parameter]) -> str:
    if not parameters:
        return f"`{command}` takes no arguments"
    return f"`{command}` takes {', '.join(f'{p.name} {p.metavar}' for p in parameters)}"


def read_arguments(
    command: str, parameters: Sequence[Parameter], bare: Parameter | None, words: Sequence[str]
) -> dict[str, str]:
    """Read the words behind a command as pairs of a parameter and its value.

    :param command: its name, for error messages.
    :param bare: the parameter whose value may stand alone, without its name.
    :raises UsageError: for a word that the command does not take, or one without a value.
    """
    names = [parameter.name for parameter in parameters]
    arguments: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in names:
            name = word
            value = next(rest, None)
            if value is None:
                example = next(p.example for p in parameters if p.name == name)
                raise UsageError(f"`{name}` wants a value, as in `{command} {name} {example}`")
        elif bare is not None and bare.name not in arguments:
            name, value = bare.name, word
        else:
            hint = near_match(word, names)
            raise UsageError(f"unknown word '{word}': {_takes(command, parameters)}{hint}")
        if name in arguments:
            raise UsageError(f"`{name}` is given twice")
        arguments[name] = value
    return arguments


def check_arguments(
    command: str,
    parameters: Sequence[Parameter],
    required: Sequence[Parameter],
    arguments: Mapping[str, str],
) -> dict[str, Any]:
    """Turn arguments from text into values.

    :param arguments: from a command line or a client; nothing about them is taken for granted.
    :raises UsageError: if one is unknown, wrong, or missing.
    """
    if not isinstance(arguments, dict):
        raise UsageError("arguments must be a dictionary of strings")
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {}
    for name, text in arguments.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise UsageError("arguments must be a dictionary of strings")
        if name not in known:
            raise UsageError(f"unknown argument '{name}': {_takes(command, parameters)}")
        try:
            values[name] = known[name].parse(text)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    for parameter in required:
        if parameter.name not in values:
            raise UsageError(
                f"`{command}` wants {parameter.name} {parameter.metavar},"
                f" as in `{command} {parameter.name} {parameter.example}`"
            )
    return values
